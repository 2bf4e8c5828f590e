"""Reading: whole scans through the gate against nibabel, patches against nnU-Net's blosc2 store.

A whole scan, ``.nii.gz``, is 182 x 218 x 182 with scanner noise everywhere or skull-stripped, as
uint16 and as float32, packed as scanners' converters do (level 6); or 200 x 256 x 256 with noise as
int16, packed as nibabel does (level 1), the kind on which the limit was set; or every unprocessed
FLAIR of six patients of open_ms (``data/open_ms`` below the folder ``MSSEG_SHARED``). The gate also
checks header, checksum, length and values, which nibabel does not; both end with a float32 array.
Each reader has its process, ours with freed memory kept, as in every ``msseg`` command. A
patch is two visits of 96^3 as float32, page cache warm: ours from the prepared store's memory map.
"""

from __future__ import annotations

import functools
import gzip
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import harness
from benchmarks.harness import Row
from benchmarks.speed.patches import prepare, synthetic
from msseg_lightning.core.memory import keep_freed_memory
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.subject import BASELINE, FOLLOWUP
from msseg_lightning.read.nifti import read_volume

PATCHES = 8
"""Places read by one call."""
FILES = 12
"""Files read by one call."""
REAL = (
    Path(os.environ.get("MSSEG_SHARED", harness.ROOT.parent / "shared"))
    / "data/open_ms/longitudinal/raw"
)


def scans(folder: Path, image: NDArray[np.float32], larger: NDArray[np.float32]) -> dict[str, Path]:
    """Synthetic scans in several forms."""
    head, brain = counts(image)
    whole, _ = counts(larger)
    return {
        "whole head, uint16": save(folder / "head.nii.gz", head.astype(np.uint16)),
        "whole head, float32": save(folder / "real.nii.gz", (head * 0.37).astype(np.float32)),
        "brain only, uint16": save(folder / "brain.nii.gz", brain.astype(np.uint16)),
        "whole head, int16 by nibabel": save(folder / "whole.nii.gz", whole.astype(np.int16), 1),
    }


def counts(image: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A scan as a scanner counts it, with its noise around the brain and with nothing there."""
    noise = np.abs(keyed_generator("benchmark reading").normal(0, 12, image.shape))
    inside = image != 0
    values = np.clip(image * 200 + 1000, 1, 4000)
    return np.where(inside, values, noise), np.where(inside, values, 0)


def save(path: Path, data: NDArray[np.generic], level: int = 6) -> Path:
    """Write a scan, packed as ``gzip -level`` does."""
    import nibabel

    image = nibabel.Nifti1Image(data, np.eye(4))
    image.header.set_xyzt_units("mm")
    image.set_sform(np.eye(4), 1)
    image.set_qform(np.eye(4), 1)
    path.write_bytes(gzip.compress(image.to_bytes(), level))
    return path


def with_nibabel(path: Path) -> NDArray[np.float32]:
    import nibabel

    return np.asarray(nibabel.load(path).dataobj, dtype=np.float32)


def with_simpleitk(path: Path) -> NDArray[np.float32]:
    import SimpleITK

    image = SimpleITK.ReadImage(str(path), SimpleITK.sitkFloat32)
    return SimpleITK.GetArrayFromImage(image)


def gated(path: Path) -> NDArray[np.generic]:
    return read_volume(path).data


def reading(read: Callable[[Path], object], paths: list[Path]) -> Callable[[], None]:
    """A reader of all files, in its own process."""
    if read is gated:
        keep_freed_memory()

    def run() -> None:
        for path in paths * turns(paths):
            read(path)

    return run


def turns(paths: list[Path]) -> int:
    """Times that one round reads all files: of a single read the clock tells too little."""
    return max(1, FILES // len(paths))


def compare(form: str, paths: list[Path], rounds: int) -> tuple[Row, dict[str, harness.Timing]]:
    """The readers in turn, each reading all files of one form; CPU ms per file."""
    readers = {"ours": gated, "nibabel": with_nibabel, "SimpleITK": with_simpleitk}
    contenders = {
        label: harness.Apart(functools.partial(reading, read, paths))
        for label, read in readers.items()
    }
    for path in paths:
        expected = with_nibabel(path)
        assert np.array_equal(gated(path), expected), path.name
        assert np.array_equal(with_simpleitk(path).T, expected), path.name
    for contender in contenders.values():
        contender.ready()
    found = harness.alternate(contenders, rounds, units=len(paths) * turns(paths))
    ours, peer = found["ours"], found["nibabel"]
    other = found["SimpleITK"].cpu_s / ours.cpu_s
    note = f"nibabel; SimpleITK {other:.2f} x; spread {ours.spread:.0%}"
    name = f"read .nii.gz, {form}"
    return Row.faster(name, ours.cpu_s * 1e3, peer.cpu_s * 1e3, 2.5, note=note), found


PatchReader = Callable[[tuple[slice, ...]], NDArray[np.float32]]
"""``box -> patch``, (2, *box) float32."""


def store_blosc2(images: NDArray[np.float32], edge: int, folder: Path) -> int:
    """Write nnU-Net's store; returns its size in bytes."""
    import blosc2
    from nnunetv2.training.dataloading.nnunet_dataset import (
        comp_blosc2_params,
        nnUNetDatasetBlosc2,
    )

    blosc2.set_nthreads(1)
    folder.mkdir()
    blocks, chunks = comp_blosc2_params(images.shape, (edge,) * 3)
    mask = np.zeros((1, *images.shape[1:]), np.int8)
    nnUNetDatasetBlosc2.save_case(
        images, mask, {}, str(folder / "case"), chunks, blocks, chunks, blocks
    )
    return sum(file.stat().st_size for file in folder.iterdir())


def blosc2_reader(folder: Path) -> PatchReader:
    """Reader of nnU-Net's store."""
    import blosc2

    blosc2.set_nthreads(1)

    def read(box: tuple[slice, ...]) -> NDArray[np.float32]:
        stored = blosc2.open(
            urlpath=str(folder / "case.b2nd"), mode="r", dparams={"nthreads": 1}, mmap_mode="r"
        )
        return np.ascontiguousarray(stored[(slice(0, 2), *box)], np.float32)

    return read


def our_reader(folder: Path) -> PatchReader:
    """From the prepared store, in a process that keeps freed memory."""
    keep_freed_memory()
    subject = PreparedSubject.open(folder)
    return lambda box: subject.patch((BASELINE, FOLLOWUP), box)


def reading_patches(
    build: Callable[[Path], PatchReader], folder: Path, corners: NDArray[np.int64], edge: int
) -> Callable[[], None]:
    """A reader of all patches, in its own process."""
    read = build(folder)

    def run() -> None:
        for corner in corners:
            read(cube(corner, edge))

    return run


def cube(corner: NDArray[np.int64], edge: int) -> tuple[slice, ...]:
    """The box of a patch."""
    return tuple(slice(low, low + edge) for low in corner.tolist())


def run(rounds: int = 7, tiny: bool = False) -> dict[str, Any]:
    """Compare readers; see the module.

    Raises:
        AssertionError: readers disagree about a voxel.
    """
    shape, edge = ((64, 72, 64), 32) if tiny else ((182, 218, 182), 96)
    pair = synthetic(shape, 0)
    rows, timings, absent = [], {}, []
    with tempfile.TemporaryDirectory(prefix="reading-") as name:
        folder = Path(name)
        larger = synthetic(shape if tiny else (200, 256, 256), 1)[0][0]
        files = {name: [path] for name, path in scans(folder, pair[0][0], larger).items()}
        if real := sorted(REAL.glob("*/*_FLAIR.nii.gz"))[:12]:
            files["twelve FLAIR scans of open_ms"] = real[: 1 if tiny else None]
        else:
            reason = "set MSSEG_SHARED to the folder around data/"
            absent.append({"name": "open_ms", "reason": reason})
        for form, paths in files.items():
            row, found = compare(form, paths, rounds)
            rows.append(row)
            timings |= {f"{form}, {label}": timing for label, timing in found.items()}
        subject = prepare(pair, folder / "prepared")
        patches: dict[str, tuple[Callable[[Path], PatchReader], Path]] = {
            "ours": (our_reader, subject.folder)
        }
        try:
            disk = store_blosc2(pair[0], edge, folder / "blosc2")
            patches["nnU-Net blosc2"] = blosc2_reader, folder / "blosc2"
        except ImportError as error:
            absent.append({"name": "nnU-Net blosc2", "reason": str(error)})
            disk = None
        draw = keyed_generator("benchmark reading", "boxes")
        corners = draw.integers(0, np.subtract(shape, edge) + 1, (PATCHES, 3))
        contenders = {}
        for label, (build, place) in patches.items():
            box = cube(corners[0], edge)
            error = np.abs(build(place)(box) - pair[0][(slice(None), *box)]).max()
            assert error < 1e-3 * np.ptp(pair[0]), error  # ours is quantised to 16 and 15 bits
            contenders[label] = harness.Apart(
                functools.partial(reading_patches, build, place, corners, edge)
            )
        for contender in contenders.values():
            contender.ready()
        found = harness.alternate(contenders, rounds, units=PATCHES)
        timings |= {f"patch 2 x {edge}^3, {label}": timing for label, timing in found.items()}
        peer_timing = found.get("nnU-Net blosc2")
        rows.append(
            Row.faster(
                f"read a patch of 2 x {edge}^3",
                found["ours"].cpu_s * 1e3,
                None if peer_timing is None else peer_timing.cpu_s * 1e3,
                2.5,
                note=f"nnU-Net blosc2; spread {found['ours'].spread:.0%}",
            )
        )
        voxels = float(np.prod(shape))
        packed = (subject.folder / "pair.npy").stat().st_size / voxels
        whole = sum(file.stat().st_size for file in subject.folder.iterdir()) / voxels
        compressed = "" if disk is None else f"; nnU-Net's, compressed, {disk / voxels:.2f}"
        rows.append(
            Row.at_most(
                "two visits and mask on disk",
                packed,
                4.01,
                "bytes/voxel",
                note=f"with brain plane, candidate lists and record {whole:.2f}{compressed}",
            )
        )
    return {
        "benchmark": "reading",
        "sizes": {"volume": shape, "patch": edge},
        "rounds": rounds,
        "tiny": tiny,
        "timings": {name: vars(timing) for name, timing in timings.items()},
        "absent": absent,
        "rows": [vars(row) for row in rows],
    }


if __name__ == "__main__":
    harness.main(run, rounds=7)
