"""Statistics of several systems on the same patients.

The unit is the patient: its value is the mean over its pairs, then over the seeds of the system.

* **Intervals**: bias-corrected and accelerated bootstrap over patients. A patient is drawn with all
  its pairs and seeds and for all systems at once. The levels are those of Student's t with a
  variance over n - 1, because plain bootstrap intervals of few patients are too short.
* **Tests**: every pair of systems by random sign changes of the paired differences; all sign
  changes where there are few. Holm's method controls the chance of any false difference.
* **Ranks**: of the means in every bootstrap sample.
* **Groups**: systems that share a letter cannot be told apart.
* **Smallest difference**: what a paired t test of as many patients shows with the stated power.

References:
    Efron 1987, https://doi.org/10.1080/01621459.1987.10478410; Hesterberg 2015,
    https://doi.org/10.1080/00031305.2015.1089789 (levels of few samples); Davison and Hinkley 1997,
    section 3.8 (whole clusters are drawn); Holm 1979, https://www.jstor.org/stable/4615733; Piepho
    2004, https://doi.org/10.1198/1061860043515 (letters); Wiesenfarth et al. 2021,
    https://doi.org/10.1038/s41598-021-82017-6 (stability of ranks).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from msseg_lightning.core.random import keyed_generator

Values = NDArray[np.float64]

LEVEL = 0.05
"""Of all tests together; intervals hold with one minus this."""
POWER = 0.8
"""With which the smallest difference is shown."""
SAMPLES = 5000
"""Bootstrap samples."""
SIGN_CHANGES = 100_000
"""Of a test; the smallest possible p value times the pairs of 40 systems stays below 0.01."""
_ALL_SIGN_CHANGES = 16
"""Patients up to which all sign changes are tried."""
_BLOCK = 4_000_000
"""Numbers that are held at once while sign changes are counted."""


class Measurement(NamedTuple):
    """One row of a table of scores."""

    system: str
    patient: str
    seed: int
    value: float


@dataclasses.dataclass(frozen=True)
class SystemResult:
    """One system among others.

    Args:
        system: name.
        mean: over patients.
        interval: of the mean; None of a single patient, or if all have one value.
        seeds: number of seeds.
        seed_sd: standard deviation of the means of its seeds; None of a single seed.
        rank: by mean, 1 is best; equal means share the better rank.
        rank_interval: range that holds the rank in 95 % of the bootstrap samples.
        ranks: share of the bootstrap samples with rank 1, 2, ...; equal means share theirs.
        letters: systems that share one cannot be told apart.
    """

    system: str
    mean: float
    interval: tuple[float, float] | None
    seeds: int
    seed_sd: float | None
    rank: int
    rank_interval: tuple[int, int]
    ranks: tuple[float, ...]
    letters: str

    @property
    def first(self) -> float:
        """Share of the bootstrap samples in which it is first."""
        return self.ranks[0]


@dataclasses.dataclass(frozen=True)
class PairResult:
    """Two systems on the same patients.

    Args:
        better: system with the better mean.
        worse: the other.
        difference: mean of ``better`` minus mean of ``worse``.
        interval: of the difference, of this pair alone; None as above.
        p: of this pair alone.
        p_holm: corrected for all pairs.
        sd: standard deviation of the differences of the patients.
    """

    better: str
    worse: str
    difference: float
    interval: tuple[float, float] | None
    p: float
    p_holm: float
    sd: float

    @property
    def told_apart(self) -> bool:
        """Whether the difference is shown."""
        return self.p_holm < LEVEL


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Result of ``compare_systems``.

    Args:
        patients: in order.
        systems: best first.
        pairs: all pairs of systems, in the order of the systems.
        smallest_difference: that two chosen systems can show with ``POWER``; the median over all
            pairs. None with fewer than two systems or three patients.
        smallest_of_all: the same after the correction for all pairs.
    """

    patients: tuple[str, ...]
    systems: tuple[SystemResult, ...]
    pairs: tuple[PairResult, ...]
    smallest_difference: float | None
    smallest_of_all: float | None

    @property
    def too_few_patients(self) -> bool:
        """Whether no difference of any size could be shown between all pairs of systems."""
        return len(self.pairs) * 2.0 ** (1 - len(self.patients)) >= LEVEL

    def of(self, system: str) -> SystemResult:
        """The result of one system."""
        return next(one for one in self.systems if one.system == system)


def compare_systems(
    rows: Iterable[Measurement],
    larger_is_better: bool = True,
    seed: int = 0,
    samples: int = SAMPLES,
    sign_changes: int = SIGN_CHANGES,
) -> Comparison:
    """Compare systems on the patients that all of them were measured on.

    Args:
        rows: in any order; several of one system, patient and seed are pairs of that patient.
        larger_is_better: direction of the measure.
        seed: of the random draws; equal rows give equal results in any order.
        samples: of the bootstrap.
        sign_changes: of each test.

    Raises:
        ValueError: there are no rows, or a patient is missing for a system or seed.
    """
    names, patients, table, by_seed = _means(rows)
    sign = 1.0 if larger_is_better else -1.0
    order = np.lexsort((names, -sign * table.mean(0)))
    names, table = [names[index] for index in order], table[:, order]
    by_seed = [by_seed[index] for index in order]
    count = len(patients)
    drawn = keyed_generator(seed, "compare.bootstrap").multinomial(
        count, np.full(count, 1 / count), size=samples
    )
    means = (drawn / count) @ table  # (samples, systems)
    ranks = _rank_shares(sign * means)
    pairs = _compare_pairs(names, table, means, sign, seed, sign_changes)
    letters = group_letters(len(names), _told_apart(names, pairs))
    intervals = _intervals(table, means)
    mean = table.mean(0)
    placed = stats.rankdata(-sign * np.round(mean, 12), method="min")
    systems = tuple(
        SystemResult(
            system=name,
            mean=float(mean[index]),
            interval=intervals[index],
            seeds=len(by_seed[index]),
            seed_sd=float(np.std(by_seed[index], ddof=1)) if len(by_seed[index]) > 1 else None,
            rank=int(placed[index]),
            rank_interval=_rank_interval(ranks[index]),
            ranks=tuple(ranks[index].tolist()),
            letters=letters[index],
        )
        for index, name in enumerate(names)
    )
    spread = float(np.median([pair.sd for pair in pairs])) if pairs else 0.0
    able = bool(pairs) and count > 2
    return Comparison(
        patients=tuple(patients),
        systems=systems,
        pairs=pairs,
        smallest_difference=smallest_difference(spread, count) if able else None,
        smallest_of_all=smallest_difference(spread, count, LEVEL / len(pairs)) if able else None,
    )


def _means(
    rows: Iterable[Measurement],
) -> tuple[list[str], list[str], Values, list[list[float]]]:
    """Systems, patients, (patients, systems) means, and the mean of every seed of every system."""
    values: dict[tuple[str, int], dict[str, list[float]]] = {}
    for system, patient, seed, value in rows:
        values.setdefault((system, seed), {}).setdefault(patient, []).append(float(value))
    if not values:
        raise ValueError("no rows")
    patients = sorted(set().union(*values.values()))
    incomplete = sorted(key for key, found in values.items() if len(found) < len(patients))
    if incomplete:
        raise ValueError(f"not every patient has a value for {incomplete[0]}")
    columns: dict[str, list[Values]] = {}
    for (system, _), found in sorted(values.items()):
        column = np.array([np.mean(sorted(found[patient])) for patient in patients])
        columns.setdefault(system, []).append(column)
    names = sorted(columns)
    table = np.stack([np.mean(columns[name], axis=0) for name in names], axis=1)
    by_seed = [[float(column.mean()) for column in columns[name]] for name in names]
    return names, patients, table, by_seed


def _intervals(table: Values, means: Values) -> list[tuple[float, float] | None]:
    """Bootstrap interval of the mean of every column; None of equal values or a single patient.

    Args:
        table: (patients, columns).
        means: (samples, columns) means of the bootstrap samples.
    """
    count = len(table)
    if count < 2:
        return [None] * table.shape[1]
    mean = table.mean(0)
    away = table - mean
    spread = np.square(away).sum(0)
    constant = spread <= 1e-24 * np.maximum(1, np.square(mean))
    spread = np.where(constant, 1, spread)
    acceleration = np.power(away, 3).sum(0) / (6 * np.power(spread, 1.5))
    tolerance = 1e-12 * np.maximum(1, np.abs(mean))
    below = (means < mean - tolerance).mean(0)
    equal = (np.abs(means - mean) <= tolerance).mean(0)
    bias = stats.norm.ppf(np.clip(below + equal / 2, 1e-6, 1 - 1e-6))
    ordered = np.sort(means, axis=0)
    ends = []
    for level in (LEVEL / 2, 1 - LEVEL / 2):
        quantile = np.sqrt(count / (count - 1)) * stats.t.ppf(level, count - 1)
        shifted = bias + quantile
        place = stats.norm.cdf(bias + shifted / np.maximum(1 - acceleration * shifted, 0.1))
        ends.append(_quantile(ordered, place))
    found = zip(ends[0].tolist(), ends[1].tolist(), strict=True)
    return [None if same else end for same, end in zip(constant, found, strict=True)]


def _quantile(ordered: Values, place: Values) -> Values:
    """Quantile of every sorted column, each at its own level, interpolated linearly."""
    position = place * (len(ordered) - 1)
    low = np.floor(position).astype(int)
    high = np.minimum(low + 1, len(ordered) - 1)
    columns = np.arange(ordered.shape[1])
    part: Values = ordered[low, columns] + (position - low) * (
        ordered[high, columns] - ordered[low, columns]
    )
    return part


def _rank_shares(means: Values) -> Values:
    """(systems, ranks) share of the samples; larger means come first, equal ones share theirs."""
    rounded = np.round(means, 12)
    best = stats.rankdata(-rounded, axis=1, method="min").astype(int)
    worst = stats.rankdata(-rounded, axis=1, method="max").astype(int)
    samples, systems = means.shape
    places = np.arange(1, systems + 1)
    shares = np.zeros((systems, systems))
    for system in range(systems):
        inside = (places >= best[:, system, None]) & (places <= worst[:, system, None])
        shares[system] = (inside / inside.sum(1, keepdims=True)).sum(0) / samples
    return shares


def _rank_interval(shares: Values) -> tuple[int, int]:
    """Ranks between the quantiles of a distribution of ranks."""
    total = np.cumsum(shares)
    low = int(np.searchsorted(total, LEVEL / 2 + 1e-9)) + 1
    high = int(np.searchsorted(total, 1 - LEVEL / 2 - 1e-9)) + 1
    return low, min(high, len(shares))


def _compare_pairs(
    names: Sequence[str],
    table: Values,
    means: Values,
    sign: float,
    seed: int,
    sign_changes: int,
) -> tuple[PairResult, ...]:
    """All pairs of systems, which are in the order of their means."""
    indices = list(itertools.combinations(range(len(names)), 2))
    if not indices:
        return ()
    first, second = (list(side) for side in zip(*indices, strict=True))
    differences = table[:, first] - table[:, second]
    p = sign_change_test(differences, seed, sign_changes)
    corrected = holm(p)
    several = len(table) > 1
    sd = differences.std(axis=0, ddof=1) if several else np.zeros(len(indices))
    intervals = _intervals(differences, means[:, first] - means[:, second])
    return tuple(
        PairResult(
            better=names[one],
            worse=names[other],
            difference=float(differences[:, index].mean()),
            interval=intervals[index],
            p=float(p[index]),
            p_holm=float(corrected[index]),
            sd=float(sd[index]),
        )
        for index, (one, other) in enumerate(indices)
    )


def sign_change_test(
    differences: Values, seed: int = 0, sign_changes: int = SIGN_CHANGES
) -> Values:
    """Two-sided p value of the mean of every column, by changes of sign.

    If two systems are equal, the difference of a patient has either sign with the same chance. The
    same changes are used for all columns.

    Args:
        differences: (patients, columns).
        seed: of the random changes.
        sign_changes: how many; all of them are tried for 16 patients or fewer.
    """
    count, columns = differences.shape
    observed = np.abs(differences.sum(0))
    limit = observed - 1e-12 * np.maximum(1, np.abs(differences).sum(0))
    exact = count <= _ALL_SIGN_CHANGES
    total = 2**count if exact else sign_changes
    generator = keyed_generator(seed, "compare.signs")
    reached = np.zeros(columns)
    step = max(1, _BLOCK // max(columns, count))
    for start in range(0, total, step):
        size = min(step, total - start)
        if exact:
            bits = (np.arange(start, start + size)[:, None] >> np.arange(count)) & 1
        else:
            bits = generator.integers(0, 2, size=(size, count), dtype=np.int8)
        sums = np.abs((2.0 * bits - 1.0) @ differences)
        reached += (sums >= limit).sum(0)
    p: Values = reached / total if exact else (reached + 1) / (total + 1)
    return p


def holm(p: Values) -> Values:
    """Holm's corrected p values."""
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(steps, 1.0)
    return corrected


def _told_apart(names: Sequence[str], pairs: Sequence[PairResult]) -> list[tuple[int, int]]:
    place = {name: index for index, name in enumerate(names)}
    return [(place[pair.better], place[pair.worse]) for pair in pairs if pair.told_apart]


def group_letters(number: int, told_apart: Iterable[tuple[int, int]]) -> list[str]:
    """Letters of systems: two share one exactly if they are not told apart.

    Groups are split at every difference, and those inside another are dropped (insert and absorb).

    Args:
        number: of systems, in order of their means; letters are given in this order.
        told_apart: pairs of places of systems that differ.

    >>> group_letters(3, [(0, 2)])
    ['a', 'ab', 'b']
    """
    groups = [frozenset(range(number))]
    for one, other in told_apart:
        split: set[frozenset[int]] = set()
        for group in groups:
            split |= {group - {one}, group - {other}} if {one, other} <= group else {group}
        groups = [group for group in split if not any(group < larger for larger in split)]
    groups = sorted((group for group in groups if group), key=sorted)
    found = [""] * number
    for index, group in enumerate(groups):
        for member in group:
            found[member] += letter(index)
    return found


def letter(index: int) -> str:
    """Letters ``a`` to ``z``, then ``A`` to ``Z``, then with numbers."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    turn, place = divmod(index, len(letters))
    return letters[place] + (str(turn) if turn else "")


def smallest_difference(
    sd: float, patients: int, level: float = LEVEL, power: float = POWER
) -> float:
    """Difference of means that a two-sided paired t test shows with a given power.

    Args:
        sd: of the differences of the patients.
        patients: how many, at least 2.
        level: of the test.
        power: chance that a difference of this size is shown.
    """
    freedom = patients - 1
    critical = stats.t.ppf(1 - level / 2, freedom)

    def short(effect: float) -> float:
        return float(stats.nct.sf(critical, freedom, effect * np.sqrt(patients)) - power)

    largest = float((critical + 10 * np.sqrt(critical + 1)) / np.sqrt(patients)) + 10
    return float(optimize.brentq(short, 0, largest)) * sd
