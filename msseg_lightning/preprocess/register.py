"""Rigid and affine registration of two scans."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from msseg_lightning.core.problem import MssegError, Problem
from msseg_lightning.core.subject import (
    BASELINE,
    BASELINE_LESIONS,
    FOLLOWUP,
    LoadedSubject,
)
from msseg_lightning.core.volume import Affine, Grid, Volume
from msseg_lightning.preprocess.fast_rigid import FAILURE_LOSS, fast_rigid
from msseg_lightning.preprocess.mask import BASELINE_BRAIN
from msseg_lightning.preprocess.space import (
    MaskRule,
    covering_grid,
    inverse,
    resample_array,
    resample_volume,
)

if TYPE_CHECKING:
    import SimpleITK as sitk  # noqa: N813

OF_BASELINE = (BASELINE, BASELINE_LESIONS, BASELINE_BRAIN)
log = logging.getLogger(__name__)

SEED = 20210927  # of the metric's random sample; any fixed number makes results repeatable


@contextlib.contextmanager
def single_thread() -> Iterator[None]:
    """Run ITK in one thread, since results depend on the number of threads.

    Set for the whole process, since the parts of a registration start threads of their own.
    """
    import SimpleITK as sitk  # noqa: N813

    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def coarse(volume: Volume, spacing_mm: float) -> Volume:
    """Resample a volume to an axis-aligned isotropic grid, smoothed against aliasing."""
    data = np.asarray(volume.data, np.float32)
    sigma = [0.4 * np.sqrt(max(0.0, spacing_mm**2 - edge**2)) / edge for edge in volume.spacing_mm]
    smooth = ndimage.gaussian_filter(data, sigma, truncate=3.0)
    grid = covering_grid(volume.grid, (spacing_mm,) * 3)
    return Volume(resample_array(smooth, volume.affine, grid), grid.affine)


def to_itk(volume: Volume) -> sitk.Image:
    """An axis-aligned volume as an ITK image whose physical space is the RAS world."""
    import SimpleITK as sitk  # noqa: N813

    image = sitk.GetImageFromArray(np.asarray(volume.data, np.float32).transpose(2, 1, 0))
    image.SetSpacing(volume.spacing_mm)
    image.SetOrigin(volume.affine[:3, 3].tolist())
    return image


def matrix_of(transform: Any) -> Affine:
    """(4, 4) matrix of an ITK transform that is linear."""
    corners = [transform.TransformPoint(point) for point in ([0.0] * 3, *np.eye(3).tolist())]
    matrix = np.eye(4)
    matrix[:3, 3] = corners[0]
    for axis in range(3):
        matrix[:3, axis] = np.subtract(corners[axis + 1], corners[0])
    return matrix


def centre_of_mass_mm(volume: Volume) -> NDArray[np.float64]:
    """World position of the centre of mass; the middle of a volume that is 0 everywhere."""
    data = np.clip(np.asarray(volume.data, np.float64), 0, None)
    middle = (np.array(data.shape) - 1) / 2
    index = np.array(ndimage.center_of_mass(data)) if data.any() else middle
    return np.asarray(volume.affine[:3, :3] @ index + volume.affine[:3, 3])


def shift_between(fixed: Volume, moving: Volume) -> Affine:
    """(4, 4) shift, fixed world -> moving world, that aligns the centres of mass."""
    guess = np.eye(4)
    guess[:3, 3] = centre_of_mass_mm(moving) - centre_of_mass_mm(fixed)
    return guess


@dataclasses.dataclass(frozen=True, eq=False)
class Fixed:
    """The fixed image of registrations; what they need of it is computed once and kept.

    Args:
        volume: the image, whose world the results start from.
        inside: mask of it where the metric is taken; its whole field of view where None.
    """

    volume: Volume
    inside: Volume | None = None
    _levels: dict[float, tuple[Volume, Volume | None]] = dataclasses.field(
        default_factory=dict, init=False, repr=False
    )

    @functools.cached_property
    def centre(self) -> NDArray[np.float64]:
        """World position of the image's centre of mass."""
        return centre_of_mass_mm(self.volume)

    @functools.cached_property
    def has_one_value(self) -> bool:
        """Whether there is nothing to register to."""
        return has_one_value(self.volume)

    def at(self, spacing_mm: float) -> tuple[Volume, Volume | None]:
        """Image and mask on an isotropic grid of this spacing; the mask is soft."""
        if spacing_mm not in self._levels:
            part = None
            if self.inside is not None:
                part = coarse(dataclasses.replace(self.inside, kind="image"), spacing_mm)
            self._levels[spacing_mm] = coarse(self.volume, spacing_mm), part
        return self._levels[spacing_mm]


def has_one_value(volume: Volume) -> bool:
    """Whether all voxels are equal."""
    data = np.asarray(volume.data)
    return bool(data.min() == data.max())


@single_thread()
def linear_registration(
    fixed: Volume | Fixed,
    moving: Volume,
    model: Literal["rigid", "affine"],
    guesses: list[Affine],
    levels_mm: tuple[float, ...] = (6.0, 3.0, 2.0),
    sampling: float = 0.25,
    bins: int = 40,
    iterations: int = 200,
    gradient_tolerance: float = 1e-8,
) -> Affine:
    """Find the linear transform that maximises Mattes mutual information, coarse to fine.

    Every guess is refined at the coarsest level, the best goes on. One thread and a seeded sample:
    the same input gives the same matrix.

    Args:
        fixed: image whose world the result starts from; a ``Fixed`` where many are registered to
            it, or where the metric is taken in a part of it.
        moving: the other.
        model: six or twelve parameters.
        guesses: (4, 4) each, fixed world -> moving world.
        levels_mm: isotropic working spacing, coarse to fine.
        sampling: share of voxels in the metric at the finest level; all at coarser ones.
        bins: of the joint histogram.
        iterations: most steps per level.
        gradient_tolerance: slope of the metric at which a level ends. The default goes on to a
            fraction of a voxel; 1e-4 is several times faster and good to a voxel of the level.

    Returns:
        (4, 4), fixed world -> moving world.

    Raises:
        MssegError: a scan has one value everywhere, or the optimiser found no overlap.
    """
    import SimpleITK as sitk  # noqa: N813

    fixed = fixed if isinstance(fixed, Fixed) else Fixed(fixed)
    for what, empty in (("fixed", fixed.has_one_value), ("moving", has_one_value(moving))):
        if empty:
            raise MssegError(_unregistered(f"the {what} scan has one value everywhere"))
    best = [np.asarray(guess, float) for guess in guesses]
    for level, spacing in enumerate(levels_mm):
        image, part = fixed.at(spacing)
        still, moved = to_itk(image), to_itk(coarse(moving, spacing))
        mask = None if part is None else sitk.Cast(to_itk(part) > 0.5, sitk.sitkUInt8)
        last = level == len(levels_mm) - 1
        found = []
        for start in best:
            method = sitk.ImageRegistrationMethod()
            method.SetMetricAsMattesMutualInformation(bins)
            if mask is not None:
                method.SetMetricFixedMask(mask)
            if last and sampling < 1:
                method.SetMetricSamplingStrategy(method.RANDOM)
                method.SetMetricSamplingPercentage(sampling, SEED)
            method.SetInterpolator(sitk.sitkLinear)
            method.SetOptimizerAsRegularStepGradientDescent(
                spacing,
                1e-4 * spacing,
                iterations,
                relaxationFactor=0.7,
                gradientMagnitudeTolerance=gradient_tolerance,
            )
            method.SetOptimizerScalesFromPhysicalShift()
            method.SetInitialTransform(_transform(start, model, fixed.centre), inPlace=False)
            try:
                result = method.Execute(still, moved)
            except RuntimeError as error:  # every sample fell outside the moving scan
                log.warning("a start of the registration failed: %s", str(error).split("\n")[-1])
                continue
            found.append((method.GetMetricValue(), matrix_of(result)))
        if not found:
            raise MssegError(_unregistered("no start of the registration led to an overlap"))
        best = [min(found, key=lambda pair: pair[0])[1]]
    return best[0]


def _unregistered(message: str) -> Problem:
    return Problem(
        "preprocess.registration",
        message,
        remedy="look at both scans: are they of one head, and is either of them empty?",
    )


def _transform(start: Affine, model: str, centre: NDArray[np.float64]) -> Any:
    import SimpleITK as sitk  # noqa: N813

    shift = start[:3, :3] @ centre + start[:3, 3] - centre
    transform: Any
    if model == "affine":
        transform = sitk.AffineTransform(3)
        transform.SetMatrix(start[:3, :3].ravel().tolist())
    else:
        transform = sitk.VersorRigid3DTransform()
        left, _, right = np.linalg.svd(start[:3, :3])  # the nearest rotation
        transform.SetMatrix((left @ right).ravel().tolist(), 1e-6)
    transform.SetCenter(centre.tolist())
    transform.SetTranslation(shift.tolist())
    return transform


def half_transform(rigid: Affine) -> Affine:
    """(4, 4) principal square root of a rigid motion."""
    from scipy.linalg import sqrtm

    return np.asarray(np.real(sqrtm(rigid)), float)


@dataclasses.dataclass(frozen=True)
class HalfwayRegistration:
    """Move both visits to the space halfway between them, each by half of a rigid transform.

    The preparation of the challenge's own data: neither visit is favoured, both are interpolated
    once and alike. A pair that shares a grid is left alone, since moving it again would blur it
    twice. The working grid is axis-aligned RAS+ and covers the native scan. Lesion and brain masks
    of the baseline move with it, all other masks with the follow-up. A visit alone stays as it is.

    Args:
        spacing_mm: of the working grid; None takes the finer of the two visits along each axis.
            Give the spacing a later ``Resample`` would, and that one has nothing left to do.
        levels_mm: working spacing of the registration by information, coarse to fine.
        mask_rule: how masks are resampled.
        by: ``difference`` (``fast_rigid``: two scans of one sequence) or ``information`` (any two
            scans). If the loss of the first stays large, the second is used.

    Reference:
        SimpleITK's Mattes mutual information; the half by the matrix square root.
    """

    spacing_mm: float | tuple[float, float, float] | None = None
    levels_mm: tuple[float, ...] = (6.0, 3.0, 2.0)
    mask_rule: MaskRule = "linear_threshold"
    by: Literal["difference", "information"] = "difference"

    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if self.by not in ("difference", "information"):
            raise ValueError(f"by {self.by!r} is not difference or information")
        object.__setattr__(self, "levels_mm", tuple(self.levels_mm))
        if not (self.spacing_mm is None or isinstance(self.spacing_mm, int | float)):
            object.__setattr__(self, "spacing_mm", tuple(self.spacing_mm))

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        if BASELINE not in subject.volumes:  # a visit alone
            return subject
        baseline, followup = subject.volumes[BASELINE], subject.volumes[FOLLOWUP]
        if baseline.grid.same_as(followup.grid):
            return subject
        transform = self._rigid_transform(baseline, followup)
        half = half_transform(transform)  # halfway world -> follow-up world
        back = inverse(half)  # halfway world -> baseline world
        by_baseline = _is_of(subject, BASELINE, FOLLOWUP)
        to_native = subject.to_native @ (back if by_baseline else half)
        native = baseline if by_baseline else followup
        grid = covering_grid(
            native.grid, self._spacing(baseline.grid, followup.grid), half if by_baseline else back
        )
        volumes = {
            name: resample_volume(
                volume, grid, back if name in OF_BASELINE else half, self.mask_rule
            )
            for name, volume in subject.volumes.items()
        }
        self._check(subject, volumes)
        angle, distance = motion_size(transform, centre_of_mass_mm(baseline))
        return subject.replace(
            f"visits registered rigidly: {angle:.1f} degrees, {distance:.1f} mm apart",
            volumes=volumes,
            to_native=to_native,
        )

    def _rigid_transform(self, baseline: Volume, followup: Volume) -> Affine:
        """(4, 4) rigid, baseline world -> follow-up world."""
        guesses = [np.eye(4), shift_between(baseline, followup)]
        if self.by == "difference":
            transform, loss = fast_rigid(baseline, followup, guesses)
            if loss <= FAILURE_LOSS:
                return transform
            log.warning(
                "the visits differ strongly (loss %.2f of 1): registered by mutual information; "
                "are they of one head and one sequence?",
                loss,
            )
        return linear_registration(baseline, followup, "rigid", guesses, self.levels_mm)

    def _spacing(self, first: Grid, second: Grid) -> tuple[float, float, float]:
        if isinstance(self.spacing_mm, tuple):
            return self.spacing_mm
        if self.spacing_mm is not None:
            return (self.spacing_mm,) * 3
        finest = np.minimum(_world_spacing(first), _world_spacing(second))
        return float(finest[0]), float(finest[1]), float(finest[2])

    def _check(self, subject: LoadedSubject, volumes: dict[str, Volume]) -> None:
        """Refuse a registration that left no common field of view."""
        both = (np.asarray(volumes[BASELINE].data) != 0) & (np.asarray(volumes[FOLLOWUP].data) != 0)
        if not both.any():
            raise MssegError(
                Problem(
                    "preprocess.registration",
                    f"the visits of {subject.subject.id} do not overlap after registration",
                    field=f"{BASELINE}, {FOLLOWUP}",
                    remedy="look at both scans; give a registered pair if they are of one head",
                )
            )


def _is_of(subject: LoadedSubject, name: str, other: str) -> bool:
    """Whether predictions are returned on the grid of ``name`` rather than ``other``.

    Judged by the field of view, which survives a change of axis order.
    """
    native = np.sort(np.abs(subject.native.grid.corners_mm()).round(2), axis=0)
    corners = {
        key: np.sort(np.abs(subject.volumes[key].grid.corners_mm()).round(2), axis=0)
        for key in (name, other)
    }
    return bool(np.abs(corners[name] - native).max() < 0.1 <= np.abs(corners[other] - native).max())


def _world_spacing(grid: Grid) -> NDArray[np.float64]:
    """Spacing of the array axes that point nearest to right, anterior and superior."""
    from msseg_lightning.preprocess.reorient import canonical_grid

    return np.array(canonical_grid(grid).spacing_mm)


def motion_size(transform: Affine, centre: NDArray[np.float64]) -> tuple[float, float]:
    """Angle of a rigid motion in degrees and displacement of a point in mm."""
    turn = np.clip((np.trace(transform[:3, :3]) - 1) / 2, -1, 1)
    moved = transform[:3, :3] @ centre + transform[:3, 3] - centre
    return float(np.degrees(np.arccos(turn))), float(np.linalg.norm(moved))


def pitched(guess: Affine, centre: NDArray[np.float64], degrees: tuple[float, ...]) -> list[Affine]:
    """Variants of a guess, rotated about the left-right axis through a point of the fixed world."""
    variants = []
    for angle in np.radians(degrees):
        turn = np.eye(4)
        turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        turn[:3, 3] = centre - turn[:3, :3] @ centre
        variants.append(guess @ turn)
    return variants


def shifted(guesses: list[Affine], offsets_mm: tuple[float, ...]) -> list[Affine]:
    """Variants of guesses, moved along the superior axis of the moving world."""
    variants = []
    for guess, offset in itertools.product(guesses, offsets_mm):
        moved = guess.copy()
        moved[2, 3] += offset
        variants.append(moved)
    return variants
