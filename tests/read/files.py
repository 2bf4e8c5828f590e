"""A small lopsided pair in the challenge's layout, written by nibabel, and ways to damage it."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

SHAPE = (40, 48, 36)
AFFINE = np.array(
    [[1.0, 0, 0, -19], [0, 1.0, 0, -24], [0, 0, 1.0, -18], [0, 0, 0, 1]]
)  # the middle of the grid lies at x = 0.5 mm: a mirrored header leaves a trace of 1 mm
BASELINE = "flair_time01_on_middle_space.nii.gz"
FOLLOWUP = "flair_time02_on_middle_space.nii.gz"
TARGET = "ground_truth.nii.gz"
BRAIN = "brain_mask.nii.gz"

DIM, DATATYPE, BITPIX, PIXDIM, OFFSET = 40, 70, 72, 76, 108
SLOPE, INTERCEPT, UNITS, DESCRIP, QCODE, SCODE = 112, 116, 123, 148, 252, 254
QOFFSET, SROW = 268, 280


def head() -> np.ndarray:
    """(X, Y, Z) bool ellipsoid."""
    axes = [np.linspace(-1, 1, size) for size in SHAPE]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    return (x / 0.8) ** 2 + (y / 0.85) ** 2 + (z / 0.85) ** 2 < 1


def scans() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Baseline, follow-up and mask of new lesions: structure on the left differs from the right."""
    rng = np.random.default_rng(7)
    inside = head()
    texture = ndimage.gaussian_filter(rng.normal(size=SHAPE), 2.0)
    anatomy = np.where(inside, 100 + 25 * texture / texture.std(), 0)
    anatomy[8:14, 20:28, 14:22] = 40  # a dark block on one side only
    mask = np.zeros(SHAPE, np.uint8)
    mask[24:28, 30:34, 18:22] = 1
    baseline = anatomy + inside * rng.normal(0, 3, SHAPE)
    followup = anatomy + inside * rng.normal(0, 3, SHAPE) + 60 * mask
    return (
        np.clip(baseline, 0, None).astype(np.float32),
        np.clip(followup, 0, None).astype(np.float32),
        mask,
    )


def save(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE, sform: int = 1) -> Path:
    image = nib.Nifti1Image(data, affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, sform)
    image.header.set_xyzt_units("mm")
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def good_pair(root: Path, name: str = "013", brain: bool = False) -> Path:
    """Folder of one sound patient."""
    folder = root / name
    baseline, followup, mask = scans()
    if name != "013":  # other patients, other voxels
        shift = sum(name.encode()) % 97
        baseline, followup = baseline + shift * head(), followup + shift * head()
    save(folder / BASELINE, baseline)
    save(folder / FOLLOWUP, followup)
    save(folder / TARGET, mask)
    if brain:
        save(folder / BRAIN, head().astype(np.uint8))
    return folder


def unpack(path: Path) -> bytearray:
    return bytearray(gzip.decompress(path.read_bytes()))


def pack(path: Path, content: bytes) -> None:
    path.write_bytes(gzip.compress(bytes(content), mtime=0))


def patch(path: Path, offset: int, form: str, *values: float) -> None:
    """Overwrite header fields of a little-endian file."""
    content = unpack(path)
    struct.pack_into("<" + form, content, offset, *values)
    pack(path, content)


def patch_sform(path: Path, matrix: np.ndarray) -> None:
    patch(path, SROW, "12f", *matrix[:3].ravel())


def zeros_behind_header(path: Path, header: bytes, size: int) -> None:
    """A gzip stream of ``header`` and ``size`` zero bytes, made without holding them."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = bytes(1 << 20)
    with path.open("wb") as stream:
        stream.write(packer.compress(header))
        for _ in range(size >> 20):
            stream.write(packer.compress(block))
        stream.write(packer.flush())
