"""Settings of a simulated cohort; the defaults are the ``challenge`` preset."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from msseg_lightning.core.problem import ExitCode, MssegError, Problem

Part = Literal["train", "test"]


@dataclasses.dataclass(frozen=True)
class AnatomyRecipe:
    """Settings of the anatomy of patients.

    Args:
        age_years: youngest and oldest.
        head_scale: standard deviation of the relative size of the head along each axis.
        large_warp_mm: root mean square of the velocity field that is smooth over 24 mm.
        small_warp_mm: of the field that is smooth over 9 mm and moves single gyri.
        ventricles_mm: how far the ventricles' walls stand outwards at the oldest age.
        sulci: how much wider sulci are at the oldest age, in levels of CSF.
    """

    age_years: tuple[float, float] = (20.0, 64.0)
    head_scale: float = 0.035
    large_warp_mm: float = 2.6
    small_warp_mm: float = 1.6
    ventricles_mm: float = 3.5
    sulci: float = 0.10


@dataclasses.dataclass(frozen=True)
class LesionRecipe:
    """Settings of old and new lesions.

    Args:
        old_scale: factor on the real number of old lesions (0 none).
        old_most: no more old lesions than this.
        without_new: share of patients without any new lesion; 11 of 40 in the challenge.
        with_one: share with exactly one; nine of 40 in the challenge.
        most_new: longest possible count.
        tail: exponent of the counts above one, larger is more skewed; 4.77 gives 7.2 on average.
        stratum: counts are stratified over this many consecutive patients, so that every stratum
            has the shares above as nearly as whole patients allow.
        new_median_mm3: median volume of a new lesion.
        new_log_sd: standard deviation of the logarithm of the volume.
        smallest_mm3: no lesion is drawn smaller.
        largest_new_mm3: no new lesion is drawn larger.
        contrast: faintest and brightest new lesion, as signal over white matter's at 3 T and
            before partial volume.
        old_contrast: the same for old lesions.
        touching: share of new lesions that touch an old one.
        halo: strength of the dirty white matter around a lesion, at most.
        core: share of old lesions with a dark core.
    """

    old_scale: float = 0.6
    old_most: int = 120
    without_new: float = 0.275
    with_one: float = 0.225
    most_new: int = 32
    tail: float = 4.77
    stratum: int = 40
    new_median_mm3: float = 62.0
    new_log_sd: float = 1.15
    smallest_mm3: float = 4.0
    largest_new_mm3: float = 3000.0
    contrast: tuple[float, float] = (1.22, 1.80)
    old_contrast: tuple[float, float] = (1.32, 1.68)
    touching: float = 0.08
    halo: float = 0.25
    core: float = 0.15


@dataclasses.dataclass(frozen=True)
class ChangeRecipe:
    """Settings of changes between the visits that are not new lesions.

    Args:
        interval_days: shortest and longest time between the visits.
        grow: share of old lesions that grow.
        shrink: share that shrink.
        vanish: share that are gone at the second visit.
        atrophy_mm_per_year: outward speed of the ventricles' walls.
        pose_mm: standard deviation of the head's place between the visits, each axis.
        pose_deg: of its rotation.
        misregistration_mm: residual shift after the halfway registration, standard deviation.
        misregistration_deg: residual rotation.
        warp_mm: root mean square of the smooth residual warp (gradient non-linearity, posture).
        same_scanner: share of patients with both visits on one scanner.
        ghosting: share of visits with motion ghosts.
        flow: mean strength of flow artefacts, in signals of free water.
        vessels: mean number of bright vessels at each visit.
    """

    interval_days: tuple[float, float] = (365.0, 1095.0)
    grow: float = 0.06
    shrink: float = 0.06
    vanish: float = 0.02
    atrophy_mm_per_year: float = 0.10
    pose_mm: float = 5.0
    pose_deg: float = 3.0
    misregistration_mm: float = 0.20
    misregistration_deg: float = 0.20
    warp_mm: float = 0.15
    same_scanner: float = 0.6
    ghosting: float = 0.15
    flow: float = 0.10
    vessels: float = 10.0


@dataclasses.dataclass(frozen=True)
class RaterRecipe:
    """Settings of the four raters.

    Args:
        sensitivity: chance that a rater marks an easy lesion (100 mm3, clear contrast), of each.
        boundary_mm: how far outside the true border each rater draws.
        boundary_noise_mm: standard deviation of that from lesion to lesion.
        false_marks: mean number of false marks of each rater in one patient.
        reviewer: chance that the fifth expert decides rightly on a lesion of one or two raters.
    """

    sensitivity: tuple[float, float, float, float] = (0.93, 0.90, 0.86, 0.82)
    boundary_mm: tuple[float, float, float, float] = (0.0, 0.25, -0.15, 0.40)
    boundary_noise_mm: float = 0.25
    false_marks: tuple[float, float, float, float] = (0.10, 0.15, 0.20, 0.35)
    reviewer: float = 1.0


@dataclasses.dataclass(frozen=True)
class CohortRecipe:
    """All settings of a cohort except its seed.

    Args:
        name: of the preset.
        train: number of training patients; they come first.
        test: number of test patients.
        spacing_floor_mm: no voxel edge is finer than this; 0 keeps each scanner's own voxel.
        sampling_mm: spacing of the points at which tissue is looked up inside a voxel (two or
            three along each axis, more along a thick slice).
        field_of_view_mm: edges of the scanned box along RAS axes.
        centre_mm: its centre, with the head's origin (anterior commissure) at 0.
        train_scanners: starts of names of the profiles of the training part.
        test_scanners: of the test part; the challenge's GE scanners are only here.
        orientations: store each scan in its scanner's axis order; False stores RAS.
        single_timepoint: write only the follow-up and its mask of all lesions.
        labels: write truth and raters (the ``unlabelled_pairs`` preset does not).
        raw: also write the unregistered pair.
        deformation: also write the true deformation between the visits.
        noise: factor on every scanner's noise.
        anatomy: see ``AnatomyRecipe``.
        lesions: see ``LesionRecipe``.
        change: see ``ChangeRecipe``.
        raters: see ``RaterRecipe``.
        vary: dotted field -> values; each field in turn takes each of its values for
            ``vary_patients`` patients while all others stay, the stress test.
        vary_patients: patients of each value.
    """

    name: str = "challenge"
    train: int = 40
    test: int = 60
    spacing_floor_mm: float = 1.0
    sampling_mm: float = 0.5
    field_of_view_mm: tuple[float, float, float] = (192.0, 240.0, 212.0)
    centre_mm: tuple[float, float, float] = (0.0, -12.0, -4.0)
    train_scanners: tuple[str, ...] = ("philips", "siemens")
    test_scanners: tuple[str, ...] = ("philips", "siemens", "ge")
    orientations: bool = True
    single_timepoint: bool = False
    labels: bool = True
    raw: bool = False
    deformation: bool = True
    noise: float = 1.0
    anatomy: AnatomyRecipe = AnatomyRecipe()
    lesions: LesionRecipe = LesionRecipe()
    change: ChangeRecipe = ChangeRecipe()
    raters: RaterRecipe = RaterRecipe()
    vary: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    vary_patients: int = 0

    @property
    def size(self) -> int:
        """Number of patients."""
        return self.train + self.test

    def part(self, index: int) -> Part:
        """Whether a patient (0-based) is for training or for testing."""
        return "train" if index < self.train else "test"

    def patient_name(self, index: int) -> str:
        """Folder of a patient, numbered from 1 as in the challenge."""
        return f"{index + 1:03d}"

    def condition(self, index: int) -> tuple[str, Any] | None:
        """The setting that is varied for this patient, and its value."""
        if not self.vary or self.vary_patients < 1:
            return None
        pairs = [(field, value) for field, values in self.vary.items() for value in values]
        return pairs[index // self.vary_patients % len(pairs)]

    def for_patient(self, index: int) -> CohortRecipe:
        """The recipe with this patient's condition applied."""
        condition = self.condition(index)
        return self if condition is None else replace_field(self, *condition)


def replace_field(recipe: Any, field: str, value: Any) -> Any:
    """A copy of nested dataclasses with one dotted field changed.

    Raises:
        MssegError: no such field.
    """
    name, _, rest = field.partition(".")
    if name not in {item.name for item in dataclasses.fields(recipe)}:
        raise MssegError(
            Problem(
                "simulate.field",
                "A recipe has no such field.",
                field=field,
                expected=", ".join(item.name for item in dataclasses.fields(recipe)),
                remedy="give one of these names",
                exit_code=ExitCode.CONFIG,
            )
        )
    if rest:
        value = replace_field(getattr(recipe, name), rest, value)
    elif isinstance(value, list):
        value = tuple(value)
    return dataclasses.replace(recipe, **{name: value})
