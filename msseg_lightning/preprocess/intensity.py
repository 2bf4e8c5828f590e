"""Intensity normalisation of each volume."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.subject import BRAIN, LoadedSubject
from msseg_lightning.core.volume import Volume
from msseg_lightning.preprocess.step import image_names, map_images, mask_of

Region = Literal["volume", "nonzero", "mask"]
"""Region in which statistics are computed: all voxels, non-zero voxels, or a mask."""


def region_of(
    subject: LoadedSubject, name: str, region: Region, mask: str, step: object
) -> NDArray[np.bool_]:
    """(X, Y, Z) voxels of one image that a region names."""
    data = np.asarray(subject.volumes[name].data)
    if region == "volume":
        return np.ones(data.shape, bool)
    return np.asarray(data != 0) if region == "nonzero" else mask_of(subject, mask, step)


@dataclasses.dataclass(frozen=True)
class ZScore:
    """Standardise each image to mean 0 and standard deviation 1 within a region.

    Args:
        region: ``volume`` (S05, S14, S17, S21), ``nonzero`` (S12, S19) or ``mask`` (S25).
        mask: its name, for ``mask``.
        outside: ``zero`` sets what lies outside the region to 0, the mean of the region;
            ``scale`` shifts and scales it like the rest.

    A region that is empty or of one value leaves the image 0 inside, with a note.
    """

    region: Region = "nonzero"
    mask: str = BRAIN
    outside: Literal["zero", "scale"] = "zero"

    version: ClassVar[int] = 1

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        volumes, notes = dict(subject.volumes), []
        for name in image_names(subject):
            inside = region_of(subject, name, self.region, self.mask, self)
            data = np.asarray(subject.volumes[name].data, np.float32)
            values = data[inside].astype(np.float64)
            mean = values.mean() if values.size else 0.0
            deviation = values.std() if values.size else 0.0
            if deviation <= 1e-8 * max(1.0, abs(mean)):
                notes.append(f"{name} has one value in its {self.region}: z-scores are 0")
                deviation = np.inf
            scaled = ((data - mean) / deviation).astype(np.float32)
            if self.outside == "zero":
                scaled[~inside] = 0
            volumes[name] = Volume(scaled, subject.volumes[name].affine)
        return subject.replace(*notes, volumes=volumes)


@dataclasses.dataclass(frozen=True)
class Percentile:
    """Clip each image to two percentiles and map these linearly to a range (S13).

    Args:
        low: lower percentile, 0-100.
        high: upper percentile, 0-100.
        out_low: value of the lower percentile.
        out_high: value of the upper one.
        region: where percentiles are taken; every voxel is mapped.
        mask: its name, for ``mask``.

    An image of one value becomes ``out_low``.
    """

    low: float = 0.05
    high: float = 99.5
    out_low: float = -1.0
    out_high: float = 1.0
    region: Region = "volume"
    mask: str = BRAIN

    version: ClassVar[int] = 1

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        volumes = dict(subject.volumes)
        for name in image_names(subject):
            inside = region_of(subject, name, self.region, self.mask, self)
            data = np.asarray(subject.volumes[name].data, np.float32)
            values = data[inside]
            low, high = np.percentile(values, [self.low, self.high]) if values.size else (0.0, 0.0)
            width = (high - low) or np.inf
            unit = np.clip((data - low) / width, 0, 1)
            mapped = self.out_low + (self.out_high - self.out_low) * unit
            volumes[name] = Volume(mapped.astype(np.float32), subject.volumes[name].affine)
        return subject.replace(volumes=volumes)


@dataclasses.dataclass(frozen=True)
class MinMax:
    """Map the smallest value of each image to 0 and the largest to 1 (S06, S07, S11, S26).

    An image of one value becomes 0.
    """

    version: ClassVar[int] = 1

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        return Percentile(low=0.0, high=100.0, out_low=0.0, out_high=1.0)(subject)


@dataclasses.dataclass(frozen=True)
class AtLeast:
    """Raise every lower value of each image to a minimum (S05).

    Args:
        minimum: in units of the image at this place of the chain.
    """

    minimum: float = 0.0

    version: ClassVar[int] = 1

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        return map_images(subject, lambda data: np.maximum(data, np.float32(self.minimum)))


@dataclasses.dataclass(frozen=True)
class SliceZScore:
    """Standardise every slice to mean 0 and standard deviation 1, background included (S24).

    A slice is divided by its largest value first and then standardised, with a small number added
    to both divisors, which shrinks the values of slices of little contrast. Slices that are 0
    everywhere stay 0.

    Args:
        axis: that slices are cut across, 2 for axial ones after ``Reorient``.
        epsilon: added to the largest value and to the standard deviation.
    """

    axis: int = 2
    epsilon: float = 1e-5

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.axis not in (0, 1, 2):
            raise ValueError(f"axis {self.axis} is not 0, 1 or 2")

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        return map_images(subject, self._standardise)

    def _standardise(self, data: NDArray[np.float32]) -> NDArray[np.float32]:
        plane = tuple(axis for axis in range(3) if axis != self.axis)
        top = np.maximum(data.max(plane, keepdims=True), 0)  # a cubic spline may leave none above 0
        scaled = data / (top + np.float32(self.epsilon))
        mean = scaled.mean(plane, keepdims=True, dtype=np.float64)
        deviation = scaled.std(plane, keepdims=True, dtype=np.float64)
        values = (scaled - mean) / (deviation + self.epsilon)
        return np.where(data.any(plane, keepdims=True), values, 0).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class HistogramMode:
    """Divide each image by the mode of its histogram, so that the main tissue is 1 (S15).

    The density of the values that are not 0, up to their 99th percentile, is estimated with a
    Gaussian kernel of an eightieth of that percentile; its highest peak is the divisor. Background
    stays exactly 0.

    Args:
        kernel: standard deviation of the kernel, as a share of the 99th percentile.

    An image without positive values is left as it is, with a note.

    Reference:
        The normalisation of FLEXCONN, Roy et al. 2018, https://arxiv.org/abs/1803.09172
    """

    kernel: float = 1 / 80

    version: ClassVar[int] = 1

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        volumes, notes = dict(subject.volumes), []
        for name in image_names(subject):
            data = np.asarray(subject.volumes[name].data, np.float32)
            mode = histogram_mode(data[data != 0], self.kernel)
            if mode <= 0:
                notes.append(f"{name} has no main tissue: not scaled")
                continue
            volumes[name] = Volume(data / np.float32(mode), subject.volumes[name].affine)
        return subject.replace(*notes, volumes=volumes)


def histogram_mode(values: NDArray[np.floating], kernel: float = 1 / 80) -> float:
    """The highest peak of a kernel density of the values below their 99th percentile; 0 if none.

    Binned ten times finer than the kernel, which moves the peak by less than a twentieth of it.
    """
    from scipy import ndimage

    top = float(np.percentile(values, 99)) if values.size else 0.0
    if top <= 0:
        return 0.0
    values = values[values <= top]
    width = kernel * top / 10
    low = float(values.min()) - 30 * width  # the density goes on beyond the values
    bins = int(np.ceil((top - low) / width)) + 30
    counts, edges = np.histogram(values, bins, (low, low + bins * width))
    density = ndimage.gaussian_filter1d(counts.astype(float), 10, mode="constant")
    peak = int(density.argmax())
    return float(edges[peak] + edges[peak + 1]) / 2
