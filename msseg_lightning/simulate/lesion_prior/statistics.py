"""Statistics of places and sizes of lesions, derived from real masks."""

from __future__ import annotations

import dataclasses
import functools
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.files import atomic_write
from msseg_lightning.core.lesion import label_lesions
from msseg_lightning.core.problem import MssegError, Problem

PRIOR_SPACING_MM = 4.0
PRIOR_ORIGIN_MM = (-90.0, -126.0, -72.0)
PRIOR_SHAPE = (46, 55, 46)
SMOOTHING_MM = 5.0
SMALLEST_MM3 = 3.0
QUANTILES = np.linspace(0, 1, 101)


@dataclasses.dataclass(frozen=True)
class LesionStatistics:
    """Statistics of real lesion masks.

    Args:
        prior: (46, 55, 46) float32, smoothed share of patients with a lesion at a place of MNI
            space, 4 mm cells, left and right averaged, sum 1.
        small_prior: the same for lesions below 100 mm3, which avoid the ventricles' walls more.
        counts: 101 quantiles of the number of lesions of a patient (components > 3 mm3).
        volumes_mm3: 101 quantiles of the volume of one lesion.
        changed_volumes_mm3: 101 quantiles of the volume of one changed lesion.
        elongations: 101 quantiles of longest over middle axis.
        flatnesses: 101 quantiles of middle over shortest axis.
    """

    prior: NDArray[np.float32]
    small_prior: NDArray[np.float32]
    counts: NDArray[np.float32]
    volumes_mm3: NDArray[np.float32]
    changed_volumes_mm3: NDArray[np.float32]
    elongations: NDArray[np.float32]
    flatnesses: NDArray[np.float32]

    @functools.cached_property
    def cumulative(self) -> NDArray[np.float64]:
        """Cumulative sum of the prior, for drawing places."""
        return np.cumsum(self.prior.ravel(), dtype=np.float64)

    @functools.cached_property
    def small_cumulative(self) -> NDArray[np.float64]:
        """Cumulative sum of the prior of small lesions."""
        return np.cumsum(self.small_prior.ravel(), dtype=np.float64)

    def write(self, path: Path) -> None:
        """Write as npz: quantiles as float32, priors as bytes on a square-root scale."""
        arrays = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name in ("prior", "small_prior"):
            scaled = np.sqrt(arrays[name] / arrays[name].max())
            arrays[name] = np.round(scaled * 255).astype(np.uint8)
        with atomic_write(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, **arrays)

    @classmethod
    def read(cls, path: Path) -> LesionStatistics:
        """Read what ``write`` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        for name in ("prior", "small_prior"):
            density = (arrays[name].astype(np.float32) / 255) ** 2
            arrays[name] = density / density.sum()
        return cls(**arrays)


@functools.cache
def shipped_statistics() -> LesionStatistics:
    """The statistics that come with the package; see the README beside the file."""
    stored = resources.files("msseg_lightning.simulate.lesion_prior") / "open_ms.npz"
    with resources.as_file(stored) as path:
        return LesionStatistics.read(path)


def axis_ratios(mask: NDArray[np.bool_], spacing_mm: NDArray[np.float64]) -> tuple[float, float]:
    """Longest over middle and middle over shortest axis of the ellipsoid with equal moments.

    A voxel's own extent is added (variance 1/12 of its edge squared), so one voxel gives (1, 1).
    """
    points = np.argwhere(mask) * spacing_mm
    moments = np.cov(points.T, bias=True) if len(points) > 1 else np.zeros((3, 3))
    moments = moments + np.diag(spacing_mm**2 / 12)
    short, middle, long = np.sqrt(np.linalg.eigvalsh(moments))
    return float(long / middle), float(middle / short)


def derive_statistics(root: Path) -> LesionStatistics:
    """Compute the statistics from the public open_ms collection.

    Reads ``cross_sectional/MNI/*/GOLD_STANDARD*`` (all lesions, MNI space) and
    ``longitudinal/coregistered/*/gt.nii.gz`` (changed lesions).

    Raises:
        MssegError: one of the two kinds of mask is absent.
    """
    import nibabel
    from scipy import ndimage

    consensus = sorted(root.glob("cross_sectional/MNI/*/GOLD_STANDARD*.nii.gz"))
    changes = sorted(root.glob("longitudinal/coregistered/*/gt.nii.gz"))
    if not consensus or not changes:
        raise MssegError(
            Problem(
                "simulate.lesion_prior",
                "The open_ms collection is not here.",
                file=root,
                expected="cross_sectional/MNI/*/GOLD_STANDARD*.nii.gz and "
                "longitudinal/coregistered/*/gt.nii.gz",
            )
        )
    density = {name: np.zeros(PRIOR_SHAPE, np.float64) for name in ("prior", "small_prior")}
    counts, volumes, changed, elongations, flatnesses = [], [], [], [], []
    for path in consensus:
        image = nibabel.nifti1.Nifti1Image.from_filename(path)
        mask = np.asarray(image.dataobj) > 0.5
        spacing = np.sqrt((image.affine[:3, :3] ** 2).sum(0))
        labels, number = label_lesions(mask)
        sizes = np.bincount(labels.ravel(), minlength=number + 1) * float(spacing.prod())
        keep = [k for k in range(1, number + 1) if sizes[k] > SMALLEST_MM3]
        counts.append(len(keep))
        boxes = ndimage.find_objects(labels.astype(np.int32))
        for k in keep:
            volumes.append(sizes[k])
            if sizes[k] > 10:
                long, flat = axis_ratios(labels[boxes[k - 1]] == k, spacing)
                elongations.append(long)
                flatnesses.append(flat)
        for name, largest in (("prior", np.inf), ("small_prior", 100.0)):
            chosen = np.isin(labels, [k for k in keep if sizes[k] < largest])
            cells = np.zeros(PRIOR_SHAPE, np.float64)
            world = np.argwhere(chosen) @ image.affine[:3, :3].T + image.affine[:3, 3]
            index = np.floor((world - PRIOR_ORIGIN_MM) / PRIOR_SPACING_MM).astype(int)
            index = np.clip(index, 0, np.array(PRIOR_SHAPE) - 1)
            np.add.at(cells, tuple(index.T), 1.0)
            density[name] += np.minimum(cells / 8, 1)  # one patient counts once, however confluent
    for path in changes:
        image = nibabel.nifti1.Nifti1Image.from_filename(path)
        labels, number = label_lesions(np.asarray(image.dataobj) > 0.5)
        voxel = float(abs(np.linalg.det(image.affine[:3, :3])))
        sizes = np.bincount(labels.ravel(), minlength=number + 1)[1:] * voxel
        changed += [size for size in sizes if size > SMALLEST_MM3]
    smooth = {}
    for name, cells in density.items():
        cells = ndimage.gaussian_filter(cells, SMOOTHING_MM / PRIOR_SPACING_MM)
        # left-right average about x = 0: the grid starts at -90 and ends at +94
        mirrored = np.zeros_like(cells)
        mirrored[:45] = cells[:45][::-1]
        cells = 0.5 * (cells + mirrored)
        smooth[name] = (cells / cells.sum()).astype(np.float32)

    def quantiles(values: list[float] | list[int]) -> NDArray[np.float32]:
        return np.quantile(np.asarray(values, float), QUANTILES).astype(np.float32)

    return LesionStatistics(
        prior=smooth["prior"],
        small_prior=smooth["small_prior"],
        counts=quantiles(counts),
        volumes_mm3=quantiles(volumes),
        changed_volumes_mm3=quantiles(changed),
        elongations=quantiles(elongations),
        flatnesses=quantiles(flatnesses),
    )
