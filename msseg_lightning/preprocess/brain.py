"""Brain extraction by registration of an atlas."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP, LoadedSubject
from msseg_lightning.core.volume import Affine, Volume
from msseg_lightning.preprocess.atlas import affine_from_atlas, mni152
from msseg_lightning.preprocess.mask import BASELINE_BRAIN, FOLLOWUP_BRAIN
from msseg_lightning.preprocess.register import coarse, to_itk
from msseg_lightning.preprocess.space import covering_grid, inverse, resample_array

LITRES = (0.8, 2.4)
"""Plausible range of the intracranial volume of adults, in litres."""

FIELD_MM = 3.0
"""Spacing of the dense registration, in mm."""

ITERATIONS = 40
"""Of the dense registration."""
RIM_MM = 8.0
"""Margin around the brain in which the metric is computed, so that it includes the dark skull."""


def atlas_brain_mask(scan: Volume, smoothness_mm: float | None = 6.0) -> NDArray[np.bool_]:
    """(X, Y, Z) brain mask of one FLAIR scan, with or without its head, from MNI152.

    Rigid, then affine, then dense registration of the template, whose mask is carried over: the
    recipe of the challenge's organisers. Departures: the dense transform is diffeomorphic demons
    (theirs is a stationary velocity field from block matching), and the mask is carried linearly
    and cut at one half, which leaves no steps.

    Args:
        scan: FLAIR.
        smoothness_mm: standard deviation of the Gaussian that keeps the dense field smooth; None
            stops after the affine.
    """
    atlas = mni152()
    transform = affine_from_atlas(scan)  # MNI world -> scan world
    back = inverse(transform)
    if smoothness_mm is None:
        return np.asarray(resample_array(atlas.brain, atlas.affine, scan.grid, "mask", back)) != 0
    import SimpleITK as sitk  # noqa: N813

    field = _dense_field(scan, back, smoothness_mm)
    deform = sitk.CompositeTransform(3)  # applied last to first: deform, then to the atlas
    to_atlas = sitk.AffineTransform(3)
    to_atlas.SetMatrix(back[:3, :3].ravel().tolist())
    to_atlas.SetTranslation(back[:3, 3].tolist())
    deform.AddTransform(to_atlas)
    deform.AddTransform(sitk.DisplacementFieldTransform(field))
    middle = covering_grid(scan.grid, (1.5, 1.5, 1.5))
    part = sitk.Resample(
        to_itk(Volume(atlas.brain, atlas.affine)),
        list(middle.shape),
        deform,
        sitk.sitkLinear,
        middle.affine[:3, 3].tolist(),
        [1.5] * 3,
        np.eye(3).ravel().tolist(),
        0.0,
        sitk.sitkFloat32,
    )
    data = sitk.GetArrayFromImage(part).transpose(2, 1, 0)
    return np.asarray(resample_array(data, middle.affine, scan.grid)) >= 0.5


@functools.cache
def _coarse_maps() -> tuple[Volume, ...]:
    """Grey matter, white matter and brain of the template at the spacing of the dense field."""
    atlas = mni152()
    maps = (atlas.grey, atlas.white, atlas.brain)
    return tuple(coarse(Volume(data, atlas.affine), FIELD_MM) for data in maps)


def _dense_field(scan: Volume, back: Affine, smoothness_mm: float) -> Any:
    """Displacement field in mm (ITK image, 3 mm grid) from the scan to the registered template.

    Demons compare intensities, so the template is first given the scan's: each tissue map gets the
    brightness that a least-squares fit of the scan within the rim assigns to it.
    """
    import SimpleITK as sitk  # noqa: N813

    fixed = coarse(scan, FIELD_MM)
    grey, white, brain = (
        np.asarray(resample_array(part.data, part.affine, fixed.grid, "image", back), np.float32)
        for part in _coarse_maps()
    )
    rim = ndimage.binary_dilation(brain > 0.5, iterations=round(RIM_MM / FIELD_MM))
    maps = np.stack([grey, white, np.clip(brain - grey - white, 0, 1), 1 - brain], axis=-1)
    values = np.asarray(fixed.data)
    values = np.clip(values, 0, np.percentile(values[rim], 99))  # the scalp that reaches in
    weights, *_ = np.linalg.lstsq(maps[rim], values[rim], rcond=None)
    template = np.where(rim, maps @ weights, 0)
    demons = sitk.DiffeomorphicDemonsRegistrationFilter()
    demons.SetNumberOfThreads(1)
    demons.SetNumberOfIterations(ITERATIONS)
    demons.SetStandardDeviations(smoothness_mm / FIELD_MM)  # it counts in voxels
    demons.SetSmoothDisplacementField(True)
    return demons.Execute(
        to_itk(Volume(np.where(rim, values, 0), fixed.affine)),
        to_itk(Volume(template, fixed.affine)),
    )


@dataclasses.dataclass(frozen=True)
class AtlasBrainExtraction:
    """Add brain masks of the visits from an atlas, as ``baseline_brain`` and ``followup_brain``.

    ``CombineMasks`` makes the one ``brain`` of them. Data that come with a brain mask keep it.

    Args:
        smoothness_mm: see ``atlas_brain_mask``; None stops after the affine.
        overwrite: extract even where a ``brain`` mask came with the data.
        visits: the scans that a mask is made of; one is enough where both lie on one grid.
    """

    smoothness_mm: float | None = 6.0
    overwrite: bool = False
    visits: tuple[str, ...] = (BASELINE, FOLLOWUP)

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "visits", tuple(self.visits))

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        if BRAIN in subject.volumes and not self.overwrite:
            return subject.replace("brain mask taken from the data")
        volumes = {name: v for name, v in subject.volumes.items() if name != BRAIN}
        notes = []
        for image, mask in ((BASELINE, BASELINE_BRAIN), (FOLLOWUP, FOLLOWUP_BRAIN)):
            if image not in subject.volumes or image not in self.visits:
                continue
            scan = subject.volumes[image]
            brain = atlas_brain_mask(scan, self.smoothness_mm)
            litres = brain.sum() * scan.grid.voxel_volume_mm3 / 1e6
            if not LITRES[0] <= litres <= LITRES[1]:
                notes.append(f"{mask} holds {litres:.2f} litres: brain extraction may have failed")
            volumes[mask] = Volume(brain, scan.affine, "mask")
        return subject.replace(*notes, volumes=volumes)
