"""Edge-preserving smoothing."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.subject import LoadedSubject
from msseg_lightning.preprocess.step import map_images


@dataclasses.dataclass(frozen=True)
class AnisotropicDiffusion:
    """Smooth each image by anisotropic diffusion, which preserves edges (S24).

    SimpleITK's curvature diffusion on the lattice of voxels, whatever their size: the conductance
    is in units of the image's mean gradient, so the scale of intensities does not matter.

    Args:
        iterations: of the diffusion.
        time_step: of one iteration, at most 0.0625 in 3D.
        conductance: the higher, the less an edge stops the diffusion.

    Reference:
        Perona and Malik 1990, https://doi.org/10.1109/34.56205; Whitaker and Xue 2001 (curvature)
    """

    iterations: int = 5
    time_step: float = 0.0625
    conductance: float = 3.0

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.iterations < 0 or not 0 < self.time_step <= 0.0625 or self.conductance <= 0:
            raise ValueError(f"{self}: iterations from 0, time_step to 0.0625, conductance above 0")

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        return map_images(subject, self._diffuse)

    def _diffuse(self, data: NDArray[np.float32]) -> NDArray[np.float32]:
        import SimpleITK as sitk  # noqa: N813 - its documented short name; heavy, so imported late

        if not data.any():
            return data
        smooth = sitk.CurvatureAnisotropicDiffusion(
            sitk.GetImageFromArray(np.ascontiguousarray(data)),
            timeStep=self.time_step,
            conductanceParameter=self.conductance,
            numberOfIterations=self.iterations,
        )
        return np.asarray(sitk.GetArrayFromImage(smooth), np.float32)
