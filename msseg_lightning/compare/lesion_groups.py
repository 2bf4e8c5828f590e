"""Lesion F1 by size, contrast and region, of the lesions of all patients together."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.compare.statistics import LEVEL
from msseg_lightning.compare.systems import System
from msseg_lightning.core.random import keyed_generator
from msseg_lightning.evaluate.case_score import Lesion
from msseg_lightning.evaluate.lesion_regions import REGIONS
from msseg_lightning.evaluate.summary import SIZE_EDGES_MM3, lesion_shares

SAMPLES = 2000
"""Bootstrap samples."""
CONTRAST_EDGES = (0.0, 1.15, 1.3, 1.5, float("inf"))
"""Edges of the groups by contrast."""


@dataclasses.dataclass(frozen=True)
class LesionGroup:
    """Lesions of one group, pooled over patients and seeds.

    Args:
        name: as shown.
        true: lesions of the references.
        f1: None without true lesions.
        interval: bootstrap over patients.
    """

    name: str
    true: int
    f1: float | None
    interval: tuple[float, float] | None


def lesion_groups(system: System, seed: int) -> dict[str, tuple[LesionGroup, ...]]:
    """``size``, ``contrast`` and ``region`` -> groups; a lesion of either mask has its own.

    A trait is empty where it is not recorded for a lesion of a patient with new lesions: what is
    known of some patients only says nothing about a system.
    """
    patients = sorted(set(system.patients[pair] for pair in system.pairs))
    place = {patient: index for index, patient in enumerate(patients)}
    tables = {name: np.zeros((len(patients), len(names), 4)) for name, (names, _) in TRAITS.items()}
    for cases in system.seeds.values():
        for pair, score in cases.items():
            if not score.has_new_lesions:
                continue
            row = place[system.patients[pair]]
            for column, lesions in ((0, score.reference_lesions), (2, score.predicted_lesions)):
                for lesion in lesions:
                    if not lesion.counted:
                        continue
                    for name in list(tables):
                        group = TRAITS[name][1](lesion)
                        if group is None:
                            del tables[name]
                            continue
                        tables[name][row, group, column] += 1
                        tables[name][row, group, column + 1] += lesion.found
    return {
        name: _groups(TRAITS[name][0], tables[name], len(system.seeds), seed)
        if name in tables
        else ()
        for name in TRAITS
    }


def _groups(
    names: Sequence[str], table: NDArray[np.float64], seeds: int, seed: int
) -> tuple[LesionGroup, ...]:
    """Groups from (patients, groups, 4) counts."""
    table = table[table.any((1, 2))]
    if not len(table):
        return ()
    count = len(table)
    drawn = keyed_generator(seed, "compare.sizes").multinomial(
        count, np.full(count, 1 / count), size=SAMPLES
    )
    samples = np.tensordot(drawn.astype(float), table, axes=1)
    total = table.sum(0)
    f1, sampled = lesion_shares(total)[2], lesion_shares(samples)[2]
    return tuple(
        LesionGroup(
            name=name,
            true=round(total[index, 0] / seeds),
            f1=None if np.isnan(f1[index]) else float(f1[index]),
            interval=_percentiles(sampled[:, index]) if count > 1 else None,
        )
        for index, name in enumerate(names)
    )


def _percentiles(values: NDArray[np.float64]) -> tuple[float, float] | None:
    defined = values[~np.isnan(values)]
    if not defined.size:
        return None
    low, high = np.percentile(defined, (100 * LEVEL / 2, 100 - 100 * LEVEL / 2))
    return float(low), float(high)


def _names(edges: Sequence[float], unit: str) -> tuple[str, ...]:
    names = []
    for low, high in itertools.pairwise(edges):
        if np.isinf(high):
            names.append(f"above {low:g}{unit}")
        else:
            names.append(f"{low:g} to {high:g}{unit}" if low else f"up to {high:g}{unit}")
    return tuple(names)


def _size(lesion: Lesion) -> int:
    return int(np.searchsorted(SIZE_EDGES_MM3[1:-1], lesion.volume_mm3))


def _contrast(lesion: Lesion) -> int | None:
    if lesion.contrast is None:
        return None
    return int(np.searchsorted(CONTRAST_EDGES[1:-1], lesion.contrast))


def _region(lesion: Lesion) -> int | None:
    return None if lesion.region is None else REGIONS.index(lesion.region)


TRAITS: Mapping[str, tuple[tuple[str, ...], Callable[[Lesion], int | None]]] = {
    "size": (_names(SIZE_EDGES_MM3, " mm\u00b3"), _size),
    "contrast": (_names(CONTRAST_EDGES, ""), _contrast),
    "region": (REGIONS, _region),
}
"""Trait -> names of its groups, and the group of a lesion; None where it is not recorded."""
