"""Deformable registration of the baseline to the follow-up by local correlation (S17)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP, LoadedSubject
from msseg_lightning.core.volume import Volume
from msseg_lightning.preprocess.deform import warp_volume
from msseg_lightning.preprocess.fast_correlation import correlation_descent
from msseg_lightning.preprocess.register import OF_BASELINE, coarse, single_thread, to_itk
from msseg_lightning.preprocess.space import resample_array
from msseg_lightning.preprocess.step import common_grid, mask_of

if TYPE_CHECKING:
    import SimpleITK as sitk  # noqa: N813


@dataclasses.dataclass(frozen=True)
class CorrelationRegistration:
    """Deformable registration of the baseline to the follow-up on one grid (S17).

    A dense field of displacements rises the neighbourhood correlation of ANTs by gradient descent,
    coarse to fine; every update is smoothed. It stands for SyN, which moves both scans towards each
    other by invertible halves: here the baseline alone moves, so the follow-up, where predictions
    belong, is not interpolated. Images of the baseline are sampled anew by cubic B-splines, its
    masks linearly.

    Args:
        radius: of the neighbourhood, in voxels of the level.
        shrink: voxels of the level in voxels of the grid, coarse to fine.
        iterations: most steps at each level.
        smoothing: standard deviation of the images' smoothing at each level, in voxels of the grid,
            beside what keeps thinning from aliasing.
        step: largest displacement of one step, in voxels of the level.
        update_sigma: standard deviation of the smoothing of an update, in voxels of the level.
        mask: where the metric is taken.
    """

    radius: int = 4
    shrink: tuple[int, ...] = (8, 4, 2)
    iterations: tuple[int, ...] = (20, 10, 2)
    smoothing: tuple[float, ...] = (0.0, 0.0, 1.0)
    step: float = 0.5
    update_sigma: float = 3.0
    mask: str = BRAIN

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        for name in ("shrink", "iterations", "smoothing"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not len(self.shrink) == len(self.iterations) == len(self.smoothing) > 0:
            raise ValueError(f"{self}: one number per level in shrink, iterations and smoothing")

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        """Register a pair; volumes of the baseline are resampled once, on the same grid."""
        if BASELINE not in subject.volumes:
            return subject
        grid = common_grid(subject, self)
        inside = mask_of(subject, self.mask, self)
        if not inside.any():
            return subject.replace(f"{self.mask} is empty: baseline not bent")
        transform = self._bend(
            subject.volumes[FOLLOWUP],
            subject.volumes[BASELINE],
            Volume(inside.astype(np.float32), grid.affine),
        )
        volumes = {
            name: warp_volume(volume, transform, cubic=volume.kind == "image")
            if name in OF_BASELINE
            else volume
            for name, volume in subject.volumes.items()
        }
        return subject.replace("baseline bent onto the follow-up", volumes=volumes)

    @single_thread()
    def _bend(self, fixed: Volume, moving: Volume, inside: Volume) -> sitk.Transform:
        """Deformable transform from the world of ``fixed`` to that of ``moving``."""
        import SimpleITK as sitk  # noqa: N813

        finest = min(fixed.spacing_mm)
        field: sitk.Image | None = None
        for shrink, iterations, sigma in zip(
            self.shrink, self.iterations, self.smoothing, strict=True
        ):
            spacing = finest * shrink
            still, moved = (coarse(volume, spacing) for volume in (fixed, moving))
            part = np.asarray(resample_array(inside.data, inside.affine, still.grid), float) >= 0.5
            if not part.any() or min(still.grid.shape) <= 2 * self.radius:
                continue  # too coarse for a small volume
            images = [to_itk(volume) for volume in (still, moved)]
            if sigma:
                images = [
                    sitk.DiscreteGaussian(each, [(sigma * finest) ** 2] * 3) for each in images
                ]
            grid = images[0]
            if field is None:
                field = sitk.Image(grid.GetSize(), sitk.sitkVectorFloat64)
                field.CopyInformation(grid)
            else:
                field = sitk.Resample(field, grid, sitk.Transform(), sitk.sitkLinear, 0.0)
            first, second = (
                np.ascontiguousarray(sitk.GetArrayFromImage(each).transpose(2, 1, 0))
                for each in images
            )
            bent = spacing * correlation_descent(
                first,
                second,
                part,
                sitk.GetArrayFromImage(field).transpose(2, 1, 0, 3) / spacing,
                self.radius,
                iterations,
                self.step,
                self.update_sigma,
            )
            field = sitk.GetImageFromArray(bent.transpose(2, 1, 0, 3), isVector=True)
            field.CopyInformation(grid)
        if field is None:
            return sitk.Transform(3, sitk.sitkIdentity)
        return sitk.DisplacementFieldTransform(sitk.Image(field))
