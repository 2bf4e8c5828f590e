"""Simulation of the scanner: point spread, ghosts, receive field, noise and gain."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.volume import Grid
from msseg_lightning.simulate.scanner import Scanner

Image = NDArray[np.float32]


def voxel_points(
    spacing_mm: tuple[float, float, float], slice_axis: int, finest_mm: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions at which a voxel is sampled, and their weights.

    In plane the points are spread evenly over the voxel; along the slice they reach over 1.2 voxels
    with a trapezoid's weights, because slices overlap and their profile is not a box.

    Args:
        spacing_mm: voxel edges.
        slice_axis: which axis is the slice's.
        finest_mm: points are no nearer than this; two or three lie on each axis, up to six
            along a thick slice.

    Returns:
        (n, 3) positions in voxels from the centre, and (n,) weights of sum 1.
    """
    axes, weights = [], []
    for axis in range(3):
        most = 6 if axis == slice_axis and spacing_mm[axis] > 2 * min(spacing_mm) else 3
        count = int(np.clip(round(spacing_mm[axis] / finest_mm), 2, most))
        place = (np.arange(count) + 0.5) / count - 0.5
        weight = np.ones(count)
        if axis == slice_axis:
            place = place * 1.2
            weight = np.clip((0.7 - np.abs(place)) / 0.3, 0.2, 1)
        axes.append(place)
        weights.append(weight / weight.sum())
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    product = np.einsum("i,j,k->ijk", *weights).ravel()
    # the first two points lie on opposite sides of the centre: outside the brain they suffice
    order = np.argsort(-np.abs(points @ np.array([1.0, 1.01, 1.02])), kind="stable")
    order = np.concatenate([order[:2], np.sort(order[2:])])
    return points[order], product[order]


def point_spread(image: Image, scanner: Scanner) -> Image:
    """Apply the point spread function: the spectrum is multiplied by a Gaussian and truncated.

    The cut keeps 80 to 100 % of k-space along each axis that is encoded; its sharpness is the
    scanner's ``ringing``, between a Gaussian fall and a step.
    """
    from scipy import fft

    spectrum = fft.rfftn(image, overwrite_x=True)
    for axis in range(3):
        if scanner.thick_slices and axis == scanner.slice_axis:
            continue  # the slice profile has done it
        size = image.shape[axis]
        frequency = np.abs(fft.rfftfreq(size) if axis == 2 else fft.fftfreq(size)) * 2  # 1 Nyquist
        gauss = np.exp(-0.5 * (np.pi * frequency * scanner.blur_voxels) ** 2)
        cut = 1 / (1 + np.exp((frequency - 0.88) / 0.02))
        window = gauss * (1 - scanner.ringing + scanner.ringing * cut)
        shape = [1, 1, 1]
        shape[axis] = -1
        spectrum *= window.reshape(shape).astype(np.float32)
    return np.asarray(fft.irfftn(spectrum, s=image.shape, overwrite_x=True), np.float32)


def smooth_field(
    shape: tuple[int, int, int], generator: np.random.Generator, waves: int = 4
) -> Image:
    """A random sum of a few cosines, with largest absolute value 1."""
    field = generator.standard_normal((waves,) * 3)
    field *= 1 / (1 + sum(np.indices((waves,) * 3)) ** 1.5)
    field[0, 0, 0] = 0
    for size in shape:
        angle = np.pi * (np.arange(size) + 0.5)[:, None] * np.arange(waves)[None] / size
        # contract the leading axis, append the new one: after three turns the order is X, Y, Z
        field = np.tensordot(field.astype(np.float32), np.cos(angle).astype(np.float32), (0, 1))
    return np.asarray(field / np.abs(field).max(), np.float32)


def add_ghosts(image: Image, axis: int, strength: float, shift: int) -> Image:
    """Add motion ghosts: weak copies of the image, shifted along the phase axis."""
    ghost = np.roll(image, shift, axis) - 0.6 * np.roll(image, -shift, axis)
    return np.asarray(np.abs(image + strength * ghost), np.float32)


def acquire(
    signal: Image,
    scanner: Scanner,
    generator: np.random.Generator,
    noise: float = 1.0,
    ghosting: float = 0.0,
) -> Image:
    """Simulate the stored values of a scan from its signal (white matter is 1).

    Noise is added to both channels before the magnitude is taken (Rician), and is up to 60 %
    stronger in the middle of the head, as parallel imaging makes it.
    """
    image = point_spread(signal, scanner)
    if ghosting > 0:
        axis = (scanner.slice_axis + 1) % 3
        image = add_ghosts(
            image, axis, ghosting, image.shape[axis] // int(generator.integers(3, 8))
        )
    image *= np.exp(scanner.bias * smooth_field(signal.shape, generator))
    depth = 1.0 - sum(
        ((np.arange(size) - size / 2) / (size / 2)).reshape(
            [-1 if a == axis else 1 for a in range(3)]
        )
        ** 2
        for axis, size in enumerate(signal.shape)
    )
    sigma = (
        scanner.noise * noise * (1 + 0.6 * np.clip(depth, 0, 1) * (scanner.bias > 0.2))
    ).astype(np.float32)
    image += sigma * generator.standard_normal(image.shape, dtype=np.float32)
    other = sigma * generator.standard_normal(image.shape, dtype=np.float32)
    np.hypot(image, other, out=image)
    image *= scanner.gain * float(np.exp(generator.normal(0, 0.1)))
    return image


def centred_grid(
    spacing_mm: tuple[float, float, float],
    field_of_view_mm: tuple[float, float, float],
    centre_mm: tuple[float, float, float],
) -> Grid:
    """A RAS grid of whole voxels around a centre, with an even number of them on each axis."""
    shape = tuple(
        2 * round(extent / spacing / 2)
        for extent, spacing in zip(field_of_view_mm, spacing_mm, strict=True)
    )
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = np.array(centre_mm) - 0.5 * (np.array(shape) - 1) * np.array(spacing_mm)
    x, y, z = shape
    return Grid((x, y, z), affine)


def resample(image: Image, to_source: NDArray[np.float64], shape: tuple[int, int, int]) -> Image:
    """Resample an image linearly; ``to_source`` maps target voxels to source voxels."""
    from scipy import ndimage

    return np.asarray(
        ndimage.affine_transform(
            image, to_source[:3, :3], to_source[:3, 3], output_shape=shape, order=1
        ),
        np.float32,
    )
