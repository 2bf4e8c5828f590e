"""Histogram standardisation by landmarks (Nyul)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject import BRAIN, LoadedSubject
from msseg_lightning.core.volume import Volume
from msseg_lightning.preprocess.intensity import Region, region_of
from msseg_lightning.preprocess.step import image_names


@dataclasses.dataclass(frozen=True)
class Nyul:
    """Piecewise linear map of each image's percentiles to landmarks learned from training images.

    Learning: percentiles of each training image are mapped linearly so that the outer two become 0
    and ``top``; the landmarks are their means. Applying: the image's own percentiles go to the
    landmarks, what lies between linearly, what lies outside with the slope of the outer pieces.
    Zeros outside the region stay 0 where ``region`` is not the volume.

    Args:
        percentiles: rising, at least two.
        landmarks: one per percentile; empty until fitted.
        top: value of the last landmark.
        region: where percentiles are taken.
        mask: its name, for ``mask``.

    Reference:
        Nyul, Udupa and Zhang 2000, https://doi.org/10.1109/42.836373; deciles as recommended by
        Shah et al. 2011.
    """

    percentiles: tuple[float, ...] = (1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99)
    landmarks: tuple[float, ...] = ()
    top: float = 100.0
    region: Region = "nonzero"
    mask: str = BRAIN

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "percentiles", tuple(self.percentiles))
        object.__setattr__(self, "landmarks", tuple(self.landmarks))
        if len(self.percentiles) < 2 or np.any(np.diff(self.percentiles) <= 0):
            raise ValueError("percentiles must be two or more, in ascending order")

    @property
    def fitted(self) -> bool:
        """Whether the landmarks are known."""
        return bool(self.landmarks)

    def fit(self, subjects: Iterable[LoadedSubject]) -> Nyul:
        """The same operator with landmarks from all images of these subjects."""
        curves = []
        for subject in subjects:
            for name in image_names(subject):
                points = self._points(subject, name)
                if points is not None:
                    curves.append((points - points[0]) / (points[-1] - points[0]) * self.top)
        if not curves:
            raise self._problem("no training image has two different values in the region")
        landmarks = tuple(float(value) for value in np.mean(curves, axis=0))
        return dataclasses.replace(self, landmarks=landmarks)

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        if not self.landmarks:
            raise self._problem("the landmarks have not been fitted")
        goal = np.array(self.landmarks)
        volumes, notes = dict(subject.volumes), []
        for name in image_names(subject):
            points = self._points(subject, name)
            if points is None:
                notes.append(f"{name} has one value: not standardised")
                continue
            data = np.asarray(subject.volumes[name].data, np.float32)
            mapped = _extrapolated(data, points, goal)
            if self.region != "volume":
                mapped[data == 0] = 0
            volumes[name] = Volume(mapped, subject.volumes[name].affine)
        return subject.replace(*notes, volumes=volumes)

    def _points(self, subject: LoadedSubject, name: str) -> NDArray[np.float64] | None:
        inside = region_of(subject, name, self.region, self.mask, self)
        values = np.asarray(subject.volumes[name].data, np.float32)[inside]
        if not values.size:
            return None
        points = np.percentile(values, self.percentiles)
        return np.asarray(points) if points[-1] > points[0] else None

    @staticmethod
    def _problem(message: str) -> MssegError:
        return MssegError(
            Problem(
                "preprocess.nyul",
                message,
                field="landmarks",
                remedy="give landmarks=[...] as a setting of the step, from Nyul.fit on training "
                "subjects that have two values or more in the region",
                exit_code=ExitCode.CONFIG,
            )
        )


def _extrapolated(
    data: NDArray[np.float32], points: NDArray[np.float64], goal: NDArray[np.float64]
) -> NDArray[np.float32]:
    keep = np.r_[True, np.diff(points) > 0]  # ties would make a step of infinite slope
    points, goal = points[keep], goal[keep]
    mapped = np.interp(data, points, goal)
    below, above = data < points[0], data > points[-1]
    first = (goal[1] - goal[0]) / (points[1] - points[0])
    last = (goal[-1] - goal[-2]) / (points[-1] - points[-2])
    mapped[below] = goal[0] + (data[below] - points[0]) * first
    mapped[above] = goal[-1] + (data[above] - points[-1]) * last
    return mapped.astype(np.float32)
