"""Leaderboard of systems: measures of both groups of pairs, lesions, sizes, rules and words."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy import stats

from msseg_lightning.compare.activity import Activity, activity_of
from msseg_lightning.compare.froc import FrocCurve, froc_curves
from msseg_lightning.compare.lesion_groups import LesionGroup, lesion_groups
from msseg_lightning.compare.lesion_rules import RULES
from msseg_lightning.compare.raters import Raters, read_raters
from msseg_lightning.compare.statistics import (
    LEVEL,
    POWER,
    SAMPLES,
    SIGN_CHANGES,
    Comparison,
    Measurement,
    PairResult,
    SystemResult,
    compare_systems,
)
from msseg_lightning.compare.systems import Cost, System
from msseg_lightning.core.wording import counted
from msseg_lightning.evaluate.case_score import CaseScore, ScoreOptions
from msseg_lightning.read.reference import WITHOUT

Value = Callable[[CaseScore], float | None]

_RULE_DRAWS = (1000, 100)
"""Bootstrap samples and sign changes of other lesion rules, of which only means are shown."""
TOLD = 6
"""Pairs of systems that are named in words; the table has all."""


@dataclasses.dataclass(frozen=True)
class Measure:
    """One measure of one group of pairs.

    Args:
        title: as shown.
        with_lesions: whether it is of pairs with new lesions, or of those without.
        official: its name in ``CaseScore.official``.
        form: of its numbers.
        larger_is_better: direction.
    """

    title: str
    with_lesions: bool
    official: str
    form: str = ".3f"
    larger_is_better: bool = True

    def value(self, score: CaseScore) -> float | None:
        """The measure of a pair; None where it is undefined."""
        return score.official.get(self.official)


MEASURES: Mapping[str, Measure] = {
    "f1": Measure("Lesion F1", True, "F1_score"),
    "dice": Measure("Dice", True, "Dice"),
    "sensitivity": Measure("Lesion sensitivity", True, "SensL"),
    "precision": Measure("Lesion precision", True, "PPVL"),
    "false_lesions": Measure("False lesions per patient", False, "NbTestedLesions", ".2f", False),
}
"""Name -> measure; systems are ranked by one of the first four."""


@dataclasses.dataclass(frozen=True)
class Line:
    """What the leaderboard tells of one system besides its measures.

    Args:
        system: name.
        seeds: number of seeds.
        true: lesions of the pairs with new lesions.
        found: of them, mean over seeds.
        false: predicted lesions of these pairs that are no match, mean over seeds.
        clean: patients without new lesions and without a false lesion by any seed.
        clean_interval: exact interval of their share; None without such patients.
        groups: ``size``, ``contrast`` or ``region`` -> lesions by it.
        activity: patients with new lesions told from those without; None without both.
        cost: of its runs.
        reported: measure -> figure of the paper, where the card has one.
    """

    system: str
    seeds: int
    true: int
    found: float
    false: float
    clean: int
    clean_interval: tuple[float, float] | None
    groups: Mapping[str, tuple[LesionGroup, ...]]
    activity: Activity | None
    cost: Cost
    reported: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Leaderboard:
    """Result of ``compare``.

    Args:
        measure: name of the measure by which the systems are ranked.
        comparisons: name of a measure -> comparison; those without patients are missing.
        lines: system -> line.
        rules: lesion rule -> comparison by its F1.
        scored_by: protocol and options.
        patients: number with new lesions, number without; a patient may be in both.
        left_out: pairs that not every system scored.
        unknown_training: systems of which it is not recorded what they were trained on.
        reference: version of the references.
        raters: each against the majority of the others.
        froc: system -> free-response curve, of those with probability maps; empty unless asked for.
        points: system -> operating point in words, of those that have one.
    """

    measure: str
    comparisons: Mapping[str, Comparison]
    lines: Mapping[str, Line]
    rules: Mapping[str, Comparison]
    scored_by: str
    patients: tuple[int, int]
    left_out: tuple[str, ...]
    unknown_training: tuple[str, ...]
    reference: str
    raters: Raters
    froc: Mapping[str, FrocCurve] = dataclasses.field(default_factory=dict)
    points: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def order(self) -> list[str]:
        """Systems, best first."""
        ranked = self.comparisons.get(self.measure) or next(iter(self.comparisons.values()))
        return [one.system for one in ranked.systems]

    def result(self, measure: str, system: str) -> SystemResult | None:
        """Result of a system; None without patients."""
        found = self.comparisons.get(measure)
        return None if found is None else found.of(system)


def make_leaderboard(
    systems: Sequence[System], measure: str = "f1", seed: int = 0, froc: bool = False
) -> Leaderboard:
    """Compare systems that were scored on the same pairs.

    Args:
        systems: from ``read_systems``.
        measure: by which they are ranked; of pairs with new lesions.
        seed: of the random draws.
        froc: read probability maps for free-response curves.
    """
    comparisons = {
        name: found
        for name, one in MEASURES.items()
        if (found := _compare(systems, one.value, one.larger_is_better, seed)) is not None
    }
    rules = {
        name: found
        for name, value in RULES.items()
        if (found := _compare(systems, value, True, seed, *_RULE_DRAWS)) is not None
    }
    first = systems[0]
    groups = [
        {first.patients[pair] for pair in first.pairs if _score(first, pair).has_new_lesions is one}
        for one in (True, False)
    ]
    rules_of = json.loads(first.rules)
    return Leaderboard(
        measure=measure,
        comparisons=comparisons,
        lines={one.name: _line(one, len(groups[1]), seed) for one in systems},
        rules=rules,
        scored_by=str(rules_of["protocol"]),
        patients=(len(groups[0]), len(groups[1])),
        left_out=tuple(sorted({pair for one in systems for pair in one.left_out})),
        unknown_training=tuple(one.name for one in systems if not one.known_training),
        reference=str(rules_of["options"]["reference"]),
        raters=read_raters(
            systems, {name: (one.official, one.larger_is_better) for name, one in MEASURES.items()}
        ),
        froc=froc_curves(systems, ScoreOptions(**rules_of["options"]), seed) if froc else {},
        points={one.name: _point(one) for one in systems if one.operating_point},
    )


def _point(system: System) -> str:
    """The operating point of a system; patients it was chosen on are no test of it."""
    patients = {system.patients[pair] for pair in system.chosen_on & system.pairs}
    warning = (
        f"; threshold chosen on {len(patients)} of these patients, whose scores are no test"
        if patients
        else ""
    )
    return f"{system.operating_point}{warning}"


def _score(system: System, pair: str) -> CaseScore:
    return next(iter(system.seeds.values()))[pair]


def _compare(
    systems: Sequence[System],
    value: Value,
    larger_is_better: bool,
    seed: int,
    samples: int = SAMPLES,
    sign_changes: int = SIGN_CHANGES,
) -> Comparison | None:
    """Compare one measure on the pairs where it is defined; None where there are none.

    Whether a measure is defined depends on the reference only, which is the same for all systems.
    """
    rows = [
        Measurement(one.name, one.patients[pair], number, found)
        for one in systems
        for number, cases in one.seeds.items()
        for pair, score in cases.items()
        if (found := value(score)) is not None
    ]
    if not rows:
        return None
    return compare_systems(rows, larger_is_better, seed, samples, sign_changes)


def _line(system: System, without: int, seed: int) -> Line:
    seeds = list(system.seeds.values())
    detection = [
        score.detection for cases in seeds for score in cases.values() if score.has_new_lesions
    ]
    true, found, predicted, right = (
        sum(float(one[name] or 0) for one in detection) / len(seeds)
        for name in ("n_ref", "tp_ref", "n_test", "tp_test")
    )
    unclean = {
        system.patients[pair]
        for cases in seeds
        for pair, score in cases.items()
        if score.official.get("NbTestedLesions")
    }
    clean = without - len(unclean)
    interval = None
    if without:
        ends = stats.binomtest(clean, without).proportion_ci(1 - LEVEL, "exact")
        interval = float(ends.low), float(ends.high)
    return Line(
        system=system.name,
        seeds=len(seeds),
        true=round(true),
        found=found,
        false=predicted - right,
        clean=clean,
        clean_interval=interval,
        groups=lesion_groups(system, seed),
        activity=activity_of(system),
        cost=system.cost,
        reported=system.reported,
    )


def rank_agreement(board: Leaderboard, rule: str) -> float | None:
    """Kendall's tau between the rankings by the official and by another rule; None if undefined."""
    official, other = board.rules["official"], board.rules[rule]
    names = [one.system for one in official.systems]
    tau = stats.kendalltau(
        [official.of(name).mean for name in names], [other.of(name).mean for name in names]
    ).statistic
    return None if np.isnan(tau) else float(tau)


def paragraphs(board: Leaderboard) -> list[str]:
    """What the leaderboard says, in words: what can be told apart, and what cannot."""
    texts = [_about(board)]
    for name in (board.measure, "false_lesions"):
        if name in board.comparisons:
            texts += _told(MEASURES[name], board.comparisons[name])
    texts += [_raters(board), *_seeds(board)]
    if board.unknown_training:
        texts.append(
            f"Of {', '.join(board.unknown_training)} it is not recorded what it was trained on: "
            "that it never saw these patients is for you to know."
        )
    if board.points:
        told = ". ".join(f"{name}: {point}" for name, point in board.points.items())
        texts.append(f"Operating points; other systems use their own rules. {told}.")
    if board.left_out:
        texts.append(
            f"{counted(len(board.left_out), 'pair')} that not every system scored "
            f"{'is' if len(board.left_out) == 1 else 'are'} left out: {', '.join(board.left_out)}."
        )
    return texts


def _about(board: Leaderboard) -> str:
    present, absent = board.patients
    return (
        f"{counted(len(board.lines), 'system')} on the same patients and references: "
        f"{present} with new lesions, {absent} without. Scored by {board.scored_by} against "
        f"{reference_in_words(board.reference)}; ranked by {_in_text(MEASURES[board.measure])} of "
        "patients with new lesions."
    )


def reference_in_words(version: str) -> str:
    """A version of references inside of a sentence."""
    if version.startswith(WITHOUT):
        return f"the majority of the raters other than {version.removeprefix(WITHOUT)}"
    return version if version.startswith("rater") else f"the {version} reference"


def _raters(board: Leaderboard) -> str:
    """Where the raters stand, or why there is no band."""
    raters, measure = board.raters, MEASURES[board.measure]
    band = raters.band(board.measure)
    if band is not None:
        where = [board.result(board.measure, name) for name in board.order]
        above = sum(1 for one in where if one is not None and one.mean > band.high)
        within = sum(1 for one in where if one is not None and band.low <= one.mean <= band.high)
        return (
            f"{counted(band.raters, 'rater')}, each against the majority of the others: "
            f"{_in_text(measure)} {band.low:{measure.form}} to {band.high:{measure.form}}, mean "
            f"{band.mean:{measure.form}}. Of the systems {above} lie above this band, {within} "
            f"inside it and {len(where) - above - within} below. Raters and systems are scored "
            "against different references, so this is a place and no test."
        )
    if raters.recorded:
        return (
            f"No band of the raters: their scores are recorded for {raters.recorded} of "
            f"{counted(raters.pairs, 'pair')}."
        )
    return "No band of the raters: their scores are not recorded for these pairs."


def _told(measure: Measure, found: Comparison) -> list[str]:
    """What can be told apart by one measure."""
    if len(found.systems) < 2:
        return []
    title, count = _in_text(measure), len(found.patients)
    apart = [pair for pair in found.pairs if pair.told_apart]
    best = found.systems[0]
    rivals = [
        pair.worse for pair in found.pairs if pair.better == best.system and not pair.told_apart
    ]
    group = "with" if measure.with_lesions else "without"
    if not apart:
        whom = f"no two of the {len(found.systems)}" if len(found.systems) > 2 else "the two"
        can = "can" if len(found.systems) > 2 else "cannot"
        text = (
            f"By {title}, {whom} systems {can} be told apart on {counted(count, 'patient')} "
            f"{group} new lesions: their order is noise."
        )
    elif not rivals:
        text = (
            f"By {title}, {best.system} is better than every other system "
            f"({counted(count, 'patient')} {group} new lesions)."
        )
    else:
        text = (
            f"By {title}, the first place is open: {best.system} leads, but cannot be told apart "
            f"from {_listed(rivals)}; it is first in {100 * best.first:.0f} % of the bootstrap "
            f"samples ({counted(count, 'patient')} {group} new lesions)."
        )
    if apart:
        named = "; ".join(_difference(measure, pair) for pair in _clearest(apart))
        more = f"; {len(apart) - TOLD} more in the table" if len(apart) > TOLD else ""
        text += (
            f" Of {counted(len(found.pairs), 'pair')} of systems {len(apart)} can be told apart, "
            f"{len(found.pairs) - len(apart)} cannot. The clearest: {named}{more}."
        )
    if found.too_few_patients:
        return [f"{text} So few patients could not show a difference of any size."]
    texts = [text]
    if found.smallest_difference is not None and found.smallest_difference > 0:
        several = (
            f"; if all {len(found.pairs)} pairs are compared, "
            f"{found.smallest_of_all:{measure.form}}"
            if len(found.pairs) > 1
            else ""
        )
        texts.append(
            f"The smallest difference in {title} that {counted(count, 'patient')} show with "
            f"{100 * POWER:.0f} % power is {found.smallest_difference:{measure.form}} for two "
            f"systems chosen beforehand{several}. Smaller true differences are mostly missed."
        )
    return texts


def _clearest(apart: Sequence[PairResult]) -> list[PairResult]:
    """Pairs with the smallest p values, of equal ones the largest differences."""
    return sorted(apart, key=lambda pair: (pair.p_holm, -abs(pair.difference)))[:TOLD]


def _difference(measure: Measure, pair: PairResult) -> str:
    return f"{pair.better} over {pair.worse} by {abs(pair.difference):{measure.form}}"


def _in_text(measure: Measure) -> str:
    """The title inside of a sentence."""
    title = measure.title
    return title if title == "Dice" else title[0].lower() + title[1:]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - TOLD} more" if len(names) > TOLD else ""
    return ", ".join(names[:TOLD]) + more


def _seeds(board: Leaderboard) -> list[str]:
    found = board.comparisons.get(board.measure)
    if found is None:
        return []
    single = [one.system for one in found.systems if one.seeds == 1]
    several = [one for one in found.systems if one.seed_sd is not None]
    texts = []
    if single:
        whose = f"These systems have one seed: {_listed(single)}." if several else "One seed each."
        texts.append(
            f"{whose} Intervals say what other patients would change, not what another training "
            "would."
        )
    if several:
        parts = "; ".join(f"{one.system} {one.seed_sd:.3f}" for one in several[:TOLD])
        texts.append(f"Standard deviation between the means of seeds: {parts}.")
    return texts
