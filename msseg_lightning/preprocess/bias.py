"""Correction of bias fields, and denoising."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP, LoadedSubject
from msseg_lightning.core.volume import Grid, Volume
from msseg_lightning.preprocess.fast_n4 import Sharpening, fast_log_field
from msseg_lightning.preprocess.space import resample_array
from msseg_lightning.preprocess.step import common_grid, image_names, mask_of

OTSU = "otsu"
NONZERO = "nonzero"
OTSU_BINS = 200
"""Histogram bins of the challenge's tool, which are ITK's default for N4."""


def itk_log_field(
    data: NDArray[np.float32],
    mask: NDArray[np.bool_],
    factors: tuple[int, int, int],
    iterations: tuple[int, ...],
    sharpening: Sharpening,
    convergence: float,
    control_points: int,
) -> NDArray[np.float32]:
    """(X, Y, Z) logarithm of the bias field, by SimpleITK; see ``fast_log_field``."""
    import SimpleITK as sitk  # noqa: N813

    image = sitk.GetImageFromArray(np.ascontiguousarray(data, np.float32))
    inside = sitk.GetImageFromArray((mask & (data > 0)).astype(np.uint8))
    thinning = list(factors[::-1])
    filter_ = sitk.N4BiasFieldCorrectionImageFilter()
    filter_.SetMaximumNumberOfIterations(list(iterations))
    filter_.SetBiasFieldFullWidthAtHalfMaximum(sharpening.fwhm)
    filter_.SetWienerFilterNoise(sharpening.noise)
    filter_.SetConvergenceThreshold(convergence)
    filter_.SetNumberOfHistogramBins(sharpening.bins)
    filter_.SetNumberOfControlPoints([control_points] * 3)
    filter_.SetMaskLabel(1)
    # float sums depend on how threads split the image; one thread makes the result reproducible
    filter_.SetNumberOfThreads(1)
    filter_.Execute(sitk.Shrink(image, thinning), sitk.Shrink(inside, thinning))
    field = filter_.GetLogBiasFieldAsImage(image)
    return np.asarray(sitk.GetArrayFromImage(field), np.float32)


@dataclasses.dataclass(frozen=True)
class N4:
    """Divide each image by its bias field, estimated by N4.

    Args:
        iterations: most iterations at each resolution of the field.
        shrink: thinning of the image on which the field is fitted. Thick slices are thinned out
            less: each axis by the factor that comes nearest to this many of the finest spacing.
        fwhm: full width at half maximum of the bias histogram's peak (a width in log intensity, no
            filter width in mm).
        wiener_noise: of the deconvolution.
        convergence: relative change of the field below which a resolution ends.
        bins: of the histogram.
        control_points: per axis at the coarsest resolution.
        mask: where the field is fitted: ``otsu`` (bright voxels, 200 bins), ``nonzero`` or the name
            of a mask, of which voxels that are not positive are left out (N4 takes logs). The whole
            image is divided.
        engine: ``fast`` is ``fast_n4``, ``itk`` SimpleITK's filter. On real scans they differ about
            as much as the second does from itself at another ``shrink`` (docs/performance.md).

    The challenge's tool on masked images is ``N4((50, 40, 30), fwhm=0.3, mask="otsu")``: its option
    ``-B 0.3`` is the FWHM, the rest its defaults. S25: ``(400, 400, 400)``; S01: ``(1000,)``,
    ``fwhm=0.05``.

    Reference:
        Tustison et al. 2010, https://doi.org/10.1109/TMI.2010.2046908
    """

    iterations: tuple[int, ...] = (50, 50, 50, 50)
    shrink: int = 4
    fwhm: float = 0.15
    wiener_noise: float = 0.01
    convergence: float = 1e-3
    bins: int = 200
    control_points: int = 4
    mask: str = BRAIN
    engine: Literal["fast", "itk"] = "fast"

    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "iterations", tuple(self.iterations))
        if self.engine not in ("fast", "itk"):
            raise ValueError(f"engine {self.engine!r} is not fast or itk")

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        volumes, notes = dict(subject.volumes), []
        for name in image_names(subject):
            volume = subject.volumes[name]
            data = np.asarray(volume.data, np.float32)
            inside = self._inside(subject, data)
            if np.count_nonzero(inside & (data > 0)) < 1000:
                notes.append(f"{name}: too few bright voxels to correct its bias field")
                continue
            finest = min(volume.spacing_mm)
            x, y, z = (
                max(1, min(round(self.shrink * finest / spacing), edge))
                for spacing, edge in zip(volume.spacing_mm, data.shape, strict=True)
            )
            field = (fast_log_field if self.engine == "fast" else itk_log_field)(
                data,
                inside,
                (x, y, z),
                self.iterations,
                Sharpening(self.bins, self.fwhm, self.wiener_noise),
                self.convergence,
                self.control_points,
            )
            volumes[name] = Volume(data / np.exp(field), volume.affine)
        return subject.replace(*notes, volumes=volumes)

    def _inside(self, subject: LoadedSubject, data: NDArray[np.float32]) -> NDArray[np.bool_]:
        if self.mask == OTSU:
            from skimage.filters import threshold_otsu

            return np.asarray(data > threshold_otsu(data, OTSU_BINS) if data.any() else data != 0)
        return np.asarray(data != 0) if self.mask == NONZERO else mask_of(subject, self.mask, self)


@dataclasses.dataclass(frozen=True)
class DifferentialBias:
    """Remove the smooth difference in brightness between the visits, half from each (S01).

    The field is ``exp(median filter(log followup - log baseline))``; baseline is multiplied and
    follow-up divided by its square root, so lesions smaller than the filter stay and both images
    end on a common scale.

    Args:
        radius: of the median filter's cube, in voxels. S01 uses its tool's default; 5 is ours.
        mask: outside it the log ratio is that of the nearest voxel inside.
    """

    radius: int = 5
    mask: str = BRAIN

    version: ClassVar[int] = 1

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        grid = common_grid(subject, self)
        first = np.asarray(subject.volumes[BASELINE].data, np.float32)
        second = np.asarray(subject.volumes[FOLLOWUP].data, np.float32)
        inside = mask_of(subject, self.mask, self) & (first > 0) & (second > 0)
        if not inside.any():
            return subject.replace("no voxel is bright in both visits: differential bias not taken")
        ratio = np.zeros(grid.shape, np.float32)
        ratio[inside] = np.log(second[inside]) - np.log(first[inside])
        half = np.exp(self._smooth(ratio, inside) / 2)
        return subject.replace(
            volumes={
                **subject.volumes,
                BASELINE: Volume(first * half, grid.affine),
                FOLLOWUP: Volume(second / half, grid.affine),
            }
        )

    def _smooth(self, ratio: NDArray[np.float32], inside: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Median filter of every second voxel."""
        import SimpleITK as sitk  # noqa: N813

        thin = 2 if self.radius > 2 and inside[::2, ::2, ::2].any() else 1
        some = (slice(None, None, thin),) * 3
        nearest = ndimage.distance_transform_edt(
            ~inside[some], return_distances=False, return_indices=True
        )
        small = sitk.GetImageFromArray(np.ascontiguousarray(ratio[some][tuple(nearest)]))
        median = sitk.GetArrayFromImage(sitk.Median(small, [round(self.radius / thin)] * 3))
        sparse = np.diag([thin, thin, thin, 1.0])
        edge = np.pad(median, ((0, 1),) * 3, mode="edge")  # even sizes end between two samples
        x, y, z = ratio.shape
        return np.asarray(resample_array(edge, sparse, Grid((x, y, z), np.eye(4))), np.float32)


@dataclasses.dataclass(frozen=True)
class Denoise:
    """Smooth each image by curvature anisotropic diffusion, which preserves edges.

    Stands for the denoising of S01, whose tool and settings are not published.

    Args:
        iterations: diffusion steps.
        conductance: edges stronger than this times the mean gradient stay sharp.
    """

    iterations: int = 3
    conductance: float = 1.0

    version: ClassVar[int] = 1

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        import SimpleITK as sitk  # noqa: N813

        volumes = dict(subject.volumes)
        for name in image_names(subject):
            volume = subject.volumes[name]
            image = sitk.GetImageFromArray(np.ascontiguousarray(volume.data, np.float32))
            edges = np.array(volume.spacing_mm) / min(volume.spacing_mm)
            image.SetSpacing(edges[::-1].tolist())
            smooth = sitk.CurvatureAnisotropicDiffusion(
                image,
                timeStep=0.0625,  # the stability limit in 3D for unit spacing
                conductanceParameter=self.conductance,
                numberOfIterations=self.iterations,
            )
            volumes[name] = Volume(sitk.GetArrayFromImage(smooth), volume.affine)
        return subject.replace(volumes=volumes)
