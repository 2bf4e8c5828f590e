"""Training patches: ours against nnU-Net's loader, MONAI's CacheDataset and TorchIO's Queue.

TorchIO's transforms on our patches (``augment.torchio_transform``) are one more contender.

All contenders make samples of two visits and a mask by one recipe, half of them centred on a
lesion: affine (15 degrees, scale 0.9 to 1.1 per axis) always, flips, then blur, noise, gamma and
bias field with probability one half each (nnU-Net has no bias field; its brightness gradient
stands in). They run in turn (A B C A B C ...) in one thread. Reported are medians of CPU
milliseconds per sample, their spread and ratios; then how the cost grows with the volume, what a
second thread gives, what opening costs and how the resident set grows with the number of subjects.
Peers that are not installed are reported absent.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.harness import given_back
from msseg_lightning.augment.fused import FusedAugment
from msseg_lightning.augment.recipe import Affine, BiasField, Blur, Flip, Gamma, Noise, Recipe
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.subject import (
    BASELINE,
    BRAIN,
    FOLLOWUP,
    TARGET,
    LoadedSubject,
    LongitudinalSubject,
    Native,
)
from msseg_lightning.core.volume import Volume
from msseg_lightning.sample.loader import PatchLoader
from msseg_lightning.sample.ratio import RatioSampler

log = logging.getLogger(__name__)

OURS = "ours"
NNUNET, MONAI, TORCHIO = "nnU-Net loader", "MONAI CacheDataset", "TorchIO Queue, 8 per volume"
ADAPTED = "TorchIO transforms on our patches"
LIMITS = {NNUNET: 7, MONAI: 8, TORCHIO: 40}
NATIVE_LIMIT = 12
"""Asked of an optional compiled kernel; there is none, the portable engine has to reach it."""
PER_CALL, PER_VOLUME, BATCHES = 4, 8, 24
CALLS, PEER_CALLS, VOLUMES = 16, 4, 4
"""In each round, ours and the peers'; volumes that TorchIO transforms. Few samples are cheap or
dear, as their draws fall."""
RECIPE = Recipe(
    affine=Affine(1.0, (15, 15, 15), (0.9, 1.1)),
    flip=Flip(0.5),
    blur=Blur(0.5, (0.5, 1.0), per_visit=False),
    noise=Noise(0.5, (0.0, 0.1), per_visit=False),
    gamma=Gamma(0.5, (0.7, 1.5), per_visit=False),
    bias_field=BiasField(0.5, (-0.3, 0.3), per_visit=False),
)
Pair = tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.uint8]]


def patch_size(tiny: bool) -> int:
    return 32 if tiny else 96


def volume_shape(tiny: bool) -> tuple[int, int, int]:
    return (64, 72, 80) if tiny else (200, 256, 256)


def growth_shapes(tiny: bool) -> list[tuple[int, int, int]]:
    if tiny:
        return [(48, 48, 48), (64, 72, 80), (96, 96, 96)]
    return [(128, 160, 160), (182, 218, 182), (256, 320, 320)]


def synthetic(shape: tuple[int, int, int], seed: int) -> Pair:
    """Two skull-stripped noisy volumes (2, X, Y, Z), lesion mask and brain."""
    generator = keyed_generator("benchmark patches", seed)
    axes = np.ogrid[tuple(slice(0, length) for length in shape)]
    brain = (
        sum(
            ((axis - (length - 1) / 2) / (0.36 * length)) ** 2
            for axis, length in zip(axes, shape, strict=True)
        )
        <= 1
    )
    lesions = np.zeros(shape, np.uint8)
    places = np.argwhere(brain[8:-8, 8:-8, 8:-8]) + 8
    for x, y, z in places[generator.integers(len(places), size=30)]:
        rx, ry, rz = generator.integers(1, 5, 3)
        lesions[x - rx : x + rx + 1, y - ry : y + ry + 1, z - rz : z + rz + 1] = 1
    coarse = generator.standard_normal([max(4, length // 8) for length in shape], np.float32)
    tissue = ndimage.zoom(coarse, np.divide(shape, coarse.shape), order=1)
    images = np.stack(
        [
            (tissue + 0.25 * generator.standard_normal(shape, np.float32) + visit * 2 * lesions)
            for visit in range(2)
        ]
    )
    return np.where(brain, images, 0).astype(np.float32), lesions, brain.astype(np.uint8)


def prepare(pair: Pair, folder: Path) -> PreparedSubject:
    images, lesions, brain = pair
    affine = np.eye(4)
    volumes = {
        BASELINE: Volume(images[0], affine),
        FOLLOWUP: Volume(images[1], affine),
        TARGET: Volume(lesions, affine, "mask"),
        BRAIN: Volume(brain, affine, "mask"),
    }
    subject = LongitudinalSubject(folder.name, folder.name, {})
    native = Native(volumes[BASELINE].grid, b"")
    return PreparedSubject.write(LoadedSubject(subject, volumes, native), folder)


def ours(subjects: Sequence[PreparedSubject], size: int, threads: int = 1) -> PatchLoader:
    sampler = RatioSampler(size, 0.5)
    return PatchLoader(
        subjects, sampler, FusedAugment(RECIPE), batch_size=PER_CALL, threads=threads
    )


def monai_data(pairs: Sequence[Pair], size: int) -> Any:
    import monai.transforms as mt
    from monai.data import CacheDataset, set_track_meta

    set_track_meta(False)
    both, margin, angle = ["image", "label"], initial_patch(size), np.pi / 12
    steps = [
        mt.EnsureTyped(both),
        mt.FgBgToIndicesd("label", image_key="brain", image_threshold=0.5),
        mt.DeleteItemsd("brain"),
        mt.RandCropByPosNegLabeld(
            both,
            "label",
            [margin] * 3,
            pos=1,
            neg=1,
            num_samples=1,
            allow_smaller=True,
            fg_indices_key="label_fg_indices",
            bg_indices_key="label_bg_indices",
        ),
        mt.RandAffined(
            both,
            prob=1.0,
            rotate_range=(angle,) * 3,
            scale_range=(0.1,) * 3,
            spatial_size=[size] * 3,
            mode=("bilinear", "nearest"),
            padding_mode="zeros",
        ),
        *(mt.RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in range(3)),
        mt.RandGaussianSmoothd("image", (0.5, 1.0), (0.5, 1.0), (0.5, 1.0), prob=0.5),
        mt.RandGaussianNoised("image", prob=0.5, mean=0.0, std=0.1),
        mt.RandAdjustContrastd("image", prob=0.5, gamma=(0.7, 1.5)),
        mt.RandBiasFieldd("image", degree=3, coeff_range=(-0.3, 0.3), prob=0.5),
    ]
    items = [
        {"image": images, "label": lesions[None].astype(np.float32), "brain": brain[None]}
        for images, lesions, brain in pairs
    ]
    return CacheDataset(items, mt.Compose(steps), cache_rate=1.0, num_workers=1, progress=False)


def monai(pairs: Sequence[Pair], size: int) -> Callable[[], None]:
    data = monai_data(pairs, size)
    generator = keyed_generator("benchmark patches", "monai")

    def make() -> None:
        for _ in range(PER_CALL):
            sample = data[int(generator.integers(len(data)))][0]
            assert tuple(sample["image"].shape) == (2, size, size, size)

    return make


def torchio_steps() -> dict[str, Any]:
    """``RECIPE`` in TorchIO's transforms."""
    import torchio as tio

    return {
        "affine": tio.RandomAffine(scales=0.1, degrees=15, p=1.0),
        "flip": tio.RandomFlip(axes=(0, 1, 2), flip_probability=0.5),
        "blur": tio.RandomBlur((0.5, 1.0), p=0.5),
        "noise": tio.RandomNoise(std=(0, 0.1), p=0.5),
        "gamma": tio.RandomGamma((-0.35, 0.4), p=0.5),
        "bias_field": tio.RandomBiasField(0.3, order=3, p=0.5),
    }


def adapted(subjects: Sequence[PreparedSubject], size: int) -> Callable[[], Any]:
    """TorchIO's transforms on patches that our engine has cut."""
    from msseg_lightning.augment.torchio_transform import TorchioTransform

    augment = TorchioTransform(torchio_steps(), per_visit=False)
    loader = PatchLoader(subjects, RatioSampler(size, 0.5), augment, batch_size=PER_CALL)
    steps = iter(range(1_000_000))
    return lambda: loader.batch(next(steps))


def torchio(pairs: Sequence[Pair], size: int) -> Callable[[], None]:
    import torchio as tio

    transform = tio.Compose(torchio_steps())
    subjects = [
        tio.Subject(
            flair=tio.ScalarImage(tensor=torch.from_numpy(images)),
            mask=tio.LabelMap(tensor=torch.from_numpy(lesions[None].astype(np.int16))),
        )
        for images, lesions, _ in pairs
    ]
    queue = tio.Queue(
        tio.SubjectsDataset(subjects, transform=transform),
        max_length=PER_VOLUME,
        samples_per_volume=PER_VOLUME,
        sampler=tio.LabelSampler(size, "mask", {0: 1, 1: 1}),
        num_workers=0,
    )

    def make() -> None:
        for _ in range(VOLUMES * PER_VOLUME):
            assert queue[0]["flair"][tio.DATA].shape[-1] == size

    return make


def initial_patch(size: int) -> int:
    """nnU-Net's rule for what must be cut so that the rotated patch lies inside."""
    return int(size * (np.cos(np.pi / 12) + np.sin(np.pi / 12)) / 0.9)


def nnunet(pairs: Sequence[Pair], size: int, folder: Path) -> Callable[[], None]:
    from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
    from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
    from batchgeneratorsv2.transforms.local.brightness_gradient import (
        BrightnessGradientAdditiveTransform,
    )
    from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
    from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
    from batchgeneratorsv2.transforms.utils.random import RandomTransform
    from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
    from nnunetv2.training.dataloading.nnunet_dataset import (
        comp_blosc2_params,
        nnUNetDatasetBlosc2,
    )

    for number, (images, lesions, _) in enumerate(pairs):
        blocks, chunks = comp_blosc2_params(images.shape, (size,) * 3)
        nnUNetDatasetBlosc2.save_case(
            images,
            lesions[None].astype(np.int8),
            {"class_locations": {1: np.argwhere(lesions[None])[:10000]}},
            str(folder / f"case{number}"),
            chunks=chunks,
            blocks=blocks,
            chunks_seg=chunks,
            blocks_seg=blocks,
        )
    angle = np.pi / 12
    transform = ComposeTransforms(
        [
            SpatialTransform(
                (size,) * 3,
                0,
                False,
                p_rotation=1.0,
                rotation=(-angle, angle),
                p_scaling=1.0,
                scaling=(0.9, 1.1),
                p_synchronize_scaling_across_axes=0,
                border_mode_seg="constant",
                padding_value_seg=-1,
            ),
            RandomTransform(
                GaussianBlurTransform((0.5, 1.0), False, False, 1.0, benchmark=True), 0.5
            ),
            RandomTransform(GaussianNoiseTransform((0, 0.1), 1, True), 0.5),
            RandomTransform(GammaTransform((0.7, 1.5), 0, False, 1, 0), 0.5),
            RandomTransform(
                BrightnessGradientAdditiveTransform(
                    scale=(10, 60),
                    loc=(-0.5, 1.5),
                    max_strength=(-0.5, 0.5),
                    same_for_all_channels=True,
                ),
                0.5,
            ),
            MirrorTransform((0, 1, 2)),
        ]
    )
    labels = SimpleNamespace(all_labels=[0, 1], has_ignore_label=False)
    data = nnUNetDatasetBlosc2(str(folder))
    margin = [initial_patch(size)] * 3
    loader = nnUNetDataLoader(
        data, PER_CALL, margin, [size] * 3, labels, 0.5, None, None, True, transform
    )

    def make() -> None:
        assert tuple(loader.generate_train_batch()["data"].shape) == (PER_CALL, 2, *[size] * 3)

    return make


def resident_mib(field: str = "VmRSS") -> float:
    """A line of this process's memory status (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


def anonymous_after(store: Path, count: int, tiny: bool) -> float:
    """MiB of memory of its own (page cache apart) that ``count`` subjects add, after 8 batches."""
    warm = ours([PreparedSubject.open(store)], patch_size(tiny))
    warm.batch(0)
    given_back()
    before = resident_mib("RssAnon")
    loader = ours([PreparedSubject.open(store) for _ in range(count)], patch_size(tiny))
    for step in range(8):
        loader.batch(step)
    given_back()
    return resident_mib("RssAnon") - before


def memory(store: Path, count: int, tiny: bool) -> float:
    """``anonymous_after`` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.speed.patches", "--resident", str(count)]
    command += ["--store", str(store), *(["--tiny"] if tiny else [])]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(answer.stdout.strip().splitlines()[-1])


def two_threads(subjects: Sequence[PreparedSubject], size: int, rounds: int) -> tuple[float, float]:
    """Speed of two threads over one by the clock (needs two idle cores), and by CPU cost."""
    wall: dict[int, list[float]] = {1: [], 2: []}
    cpu: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for threads in wall:
            loader = ours(subjects, size, threads)
            start, used = time.perf_counter(), time.process_time()
            for _batch in loader.iterate(0, BATCHES):
                pass
            wall[threads].append(time.perf_counter() - start)
            cpu[threads].append(time.process_time() - used)
    return min(wall[1]) / min(wall[2]), statistics.median(cpu[2]) / statistics.median(cpu[1])


def exactness(subject: PreparedSubject, size: int) -> float:
    """Largest error of a rotated patch against scipy on the whole volume, in grey values."""
    recipe = Recipe(affine=RECIPE.affine)
    centre = (np.array(subject.grid.shape) - 1) / 2
    images = np.empty((1, *[size] * 3), np.float32)
    labels = np.empty((0, *[size] * 3), np.float32)
    drawn = FusedAugment(recipe).fill(
        subject, centre, [FOLLOWUP], [], keyed_generator(0), images, labels
    )
    origin = drawn.origin(centre, [size] * 3)
    plain = ndimage.affine_transform(
        subject.image(FOLLOWUP), drawn.matrix, origin, [size] * 3, order=1
    )
    return float(np.abs(plain - images[0]).max())


def run(rounds: int = 5, tiny: bool = False) -> dict[str, Any]:
    """Measure all contenders.

    Args:
        rounds: how often each runs, in turn.
        tiny: sizes of seconds.

    Returns:
        JSON-ready: ``rows`` by contender, ``ratios`` by the limits they belong to, growth with
        volume, threads and subjects, and the machine.
    """
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    size = patch_size(tiny)
    pairs = [synthetic(volume_shape(tiny), seed) for seed in range(3)]
    with tempfile.TemporaryDirectory(prefix="patches-") as name:
        folder = Path(name)
        subjects = [prepare(pair, folder / f"case{i}") for i, pair in enumerate(pairs)]
        loader = ours(subjects, size)
        steps = iter(range(1_000_000))
        contenders = {OURS: several(lambda: loader.batch(next(steps)), CALLS)}
        if importlib.util.find_spec("nnunetv2") is not None:
            (folder / "nnunet").mkdir()
            contenders[NNUNET] = several(nnunet(pairs, size, folder / "nnunet"), PEER_CALLS)
        contenders[MONAI] = several(monai(pairs, size), PEER_CALLS)
        contenders[TORCHIO] = torchio(pairs, size), VOLUMES * PER_VOLUME
        contenders[ADAPTED] = several(adapted(subjects, size), PEER_CALLS)
        rows = alternate(contenders, rounds)
        growth = volume_growth(folder, size, rounds, tiny)
        opening = [timed_open(subjects[0].folder) for _ in range(20)]
        store = subjects[0].folder
        resident = {count: memory(store, count, tiny) for count in (2, 8, 32)}
        speed, cost = two_threads(subjects, size, rounds)
        error = exactness(subjects[0], size)
        packed = (store / "pair.npy").stat().st_size / np.prod(subjects[0].grid.shape)
    absent = [peer for peer in LIMITS if peer not in rows]
    return {
        "benchmark": "patches",
        "sizes": {"volume": volume_shape(tiny), "patch": size, "subjects": len(pairs)},
        "rounds": rounds,
        "rows": rows,
        "absent": absent,
        "ratios": {
            f"{peer} (limit {limit})": (
                rows[peer]["cpu_ms"] / rows[OURS]["cpu_ms"] if peer in rows else None
            )
            for peer, limit in LIMITS.items()
        }
        | {
            ADAPTED: rows[ADAPTED]["cpu_ms"] / rows[OURS]["cpu_ms"],
            f"{NNUNET}, as a native kernel should (limit {NATIVE_LIMIT})": (
                rows[NNUNET]["cpu_ms"] / rows[OURS]["cpu_ms"] if NNUNET in rows else None
            ),
            "memory of its own, 32 subjects over 2 (limit 1.15 at most)": resident[32]
            / resident[2],
            "largest over smallest volume (limit 1.15 at most)": growth[-1][1] / growth[0][1],
            "two threads over one, by the clock (limit 1.8)": speed,
            "two threads over one, CPU per sample": cost,
        },
        "growth_cpu_ms": {"x".join(map(str, shape)): cost for shape, cost in growth},
        "opening_cpu_ms": statistics.median(opening),
        "added_mib_by_subjects": resident,
        "bytes_per_voxel": float(packed),
        "largest_error": error,
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "torch": torch.__version__,
            "threads": 1,
            "load": os.getloadavg()[0],
        },
    }


def alternate(
    contenders: dict[str, tuple[Callable[[], Any], int]], rounds: int
) -> dict[str, dict[str, float]]:
    """CPU milliseconds per sample of each, after one call to warm up."""
    cost: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, (make, samples) in contenders.items():
            gc.collect()
            start = time.process_time()
            make()
            if turn:
                cost[name].append((time.process_time() - start) / samples * 1e3)
    return {
        name: {
            "cpu_ms": statistics.median(times),
            "spread": (max(times) - min(times)) / statistics.median(times),
        }
        for name, times in cost.items()
    }


def several(make: Callable[[], Any], calls: int) -> tuple[Callable[[], Any], int]:
    """Several calls as one, and the number of their samples."""

    def run() -> None:
        for _ in range(calls):
            make()

    return run, calls * PER_CALL


def volume_growth(
    folder: Path, size: int, rounds: int, tiny: bool
) -> list[tuple[tuple[int, int, int], float]]:
    """CPU milliseconds per sample by shape of the volume, in turn."""
    shapes = growth_shapes(tiny)
    makers: dict[str, tuple[Callable[[], Any], int]] = {}
    for number, shape in enumerate(shapes):
        subject = prepare(synthetic(shape, 0), folder / f"growth{number}")
        loader, steps = ours([subject], size), iter(range(1_000_000))
        makers[str(number)] = several(
            lambda loader=loader, steps=steps: loader.batch(next(steps)), CALLS // 2
        )
    rows = alternate(makers, rounds)
    return [(shape, rows[str(number)]["cpu_ms"]) for number, shape in enumerate(shapes)]


def timed_open(folder: Path) -> float:
    start = time.process_time()
    PreparedSubject.open(folder).array("pair.npy")
    return (time.process_time() - start) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="sizes of seconds")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--resident", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.resident:
        torch.set_num_threads(1)
        added = anonymous_after(arguments.store, arguments.resident, arguments.tiny)
        sys.stdout.write(f"{added}\n")
        return
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    result = run(arguments.rounds, arguments.tiny)
    log.info("%-34s %10s %7s", "", "CPU ms", "spread")
    for name, row in result["rows"].items():
        log.info("%-34s %10.1f %6.0f%%", name, row["cpu_ms"], 100 * row["spread"])
    for name in result["absent"]:
        log.info("%-34s not installed", name)
    for name, value in result["ratios"].items():
        log.info("%-50s %s", name, "absent" if value is None else f"{value:.2f}x")
    for key in ("growth_cpu_ms", "added_mib_by_subjects"):
        log.info("%s: %s", key, {name: round(value, 1) for name, value in result[key].items()})
    log.info(
        "opening %.2f CPU ms, %.2f bytes per voxel, largest error %.1e",
        result["opening_cpu_ms"],
        result["bytes_per_voxel"],
        result["largest_error"],
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
