"""Deformable registration of the baseline to the follow-up: affine, then cubic B-splines."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from msseg_lightning.core.subject import BASELINE, FOLLOWUP, LoadedSubject
from msseg_lightning.core.volume import Affine, Volume
from msseg_lightning.preprocess.free_form import free_form
from msseg_lightning.preprocess.register import (
    OF_BASELINE,
    coarse,
    linear_registration,
    single_thread,
    to_itk,
)
from msseg_lightning.preprocess.space import covering_grid
from msseg_lightning.preprocess.step import common_grid

if TYPE_CHECKING:
    import SimpleITK as sitk  # noqa: N813

FIELD_MM = 1.5
"""Spacing of the displacement field in mm: between its voxels splines of 10 mm that bend by
2 mm are straight to 0.05 mm."""


@dataclasses.dataclass(frozen=True)
class FreeFormRegistration:
    """Register the baseline to the follow-up of a pair by a free-form deformation (S18).

    An affine, then cubic B-splines, both by mutual information (``free_form``). The follow-up,
    where predictions belong, stays as it is; lesion and brain masks of the baseline move with it.
    Stands for MIRTK, whose settings S18 does not publish. A visit alone stays as it is.

    A deformation can explain away a part of a new lesion that is as large as the distance of its
    control points.

    Args:
        control_mm: distance of control points, halved at every further level.
        levels: number of distances: two from 20 mm are 20 and 10 mm.
        spacing_mm: working spacing.
        iterations: most steps per level.
        bins: of the histograms.
    """

    control_mm: float = 20.0
    levels: int = 2
    spacing_mm: float = 3.0
    iterations: int = 20
    bins: int = 40

    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if self.levels < 1 or self.control_mm / 2 ** (self.levels - 1) < 2 * self.spacing_mm:
            raise ValueError(
                f"control points {self.control_mm} mm apart, halved over {self.levels} levels, "
                f"come closer than two voxels of {self.spacing_mm} mm"
            )

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        """Register a pair; volumes of the baseline are resampled once, on the same grid."""
        if BASELINE not in subject.volumes:
            return subject
        common_grid(subject, self)
        fixed, moving = subject.volumes[FOLLOWUP], subject.volumes[BASELINE]
        start = linear_registration(
            fixed, moving, "affine", [np.eye(4)], (5.0, 3.0), gradient_tolerance=1e-4
        )
        transform = self._bend(fixed, moving, start)
        volumes = {
            name: warp_volume(volume, transform) if name in OF_BASELINE else volume
            for name, volume in subject.volumes.items()
        }
        return subject.replace("baseline bent onto the follow-up", volumes=volumes)

    def _bend(self, fixed: Volume, moving: Volume, start: Affine) -> sitk.Transform:
        """Deformable transform from the world of ``fixed`` to that of ``moving``."""
        import SimpleITK as sitk  # noqa: N813

        still, moved = (coarse(volume, self.spacing_mm) for volume in (fixed, moving))
        controls = tuple(self.control_mm / 2**level for level in range(self.levels))
        fields = free_form(still, moved, start, controls, self.iterations, self.bins)
        grid = covering_grid(still.grid, (FIELD_MM,) * 3)
        bent = sum((field.on(grid) for field in fields), np.zeros((3, 1, 1, 1)))
        image = sitk.GetImageFromArray(bent.transpose(3, 2, 1, 0), isVector=True)
        image.SetSpacing(grid.spacing_mm)
        image.SetOrigin(grid.affine[:3, 3].tolist())
        linear = sitk.AffineTransform(3)
        linear.SetMatrix(start[:3, :3].ravel().tolist())
        linear.SetTranslation(start[:3, 3].tolist())
        # the last is applied first
        return sitk.CompositeTransform([linear, sitk.DisplacementFieldTransform(image)])


@single_thread()
def warp_volume(volume: Volume, transform: sitk.Transform, cubic: bool = False) -> Volume:
    """Resample a volume on its own grid through a transform; 0 outside its field of view.

    Images are linear, or ``cubic`` splines; masks linear and cut at one half.
    """
    import SimpleITK as sitk  # noqa: N813

    image = to_itk(volume)
    matrix = volume.affine[:3, :3] / np.array(volume.spacing_mm)
    image.SetDirection(matrix.ravel().tolist())
    rule = sitk.sitkBSpline if cubic else sitk.sitkLinear
    values = sitk.GetArrayFromImage(sitk.Resample(image, image, transform, rule, 0.0))
    data = values.transpose(2, 1, 0)
    return dataclasses.replace(volume, data=data >= 0.5 if volume.kind == "mask" else data)
