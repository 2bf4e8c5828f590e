"""What the training pairs were like, and whether another pair is like them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP

SLACK = 0.15
"""Share of the range by which a pair may lie outside of it on either side."""

FACTS = {
    "smallest voxel edge in mm": 0.1,
    "largest voxel edge in mm": 0.3,
    "brain volume in litres": 0.1,
    "grey matter less white matter in standard deviations": 0.1,
    "correlation of the visits in the brain": 0.02,
}
"""Name of each fact and the least slack."""


def facts_of(pair: PreparedSubject) -> dict[str, float]:
    """What a pair is like; nothing of a pair without a brain.

    The contrast is that of the visit with less of it, by the atlas where the pair has one: FLAIR
    shows grey matter brighter. The correlation of the visits falls where they are not registered.
    """
    edges = pair.native.grid.spacing_mm
    brain = pair.mask(BRAIN)
    visits = [pair.image(name) for name in (BASELINE, FOLLOWUP)]
    both = brain & (visits[0] != 0) & (visits[1] != 0)
    if both.sum() < 2:
        return {}
    litres = float(brain.sum()) * float(np.prod(pair.grid.spacing_mm)) / 1e6
    found = dict(zip(FACTS, (min(edges), max(edges), litres), strict=False))
    contrast, correlation = list(FACTS)[3:]
    if {"place_grey", "place_white"} <= set(pair.image_names):
        grey, white = (both & (pair.image(f"place_{one}") > 0.7) for one in ("grey", "white"))
        if grey.any() and white.any():
            found[contrast] = min(
                float((visit[grey].mean() - visit[white].mean()) / (visit[both].std() or 1.0))
                for visit in visits
            )
    values = [visit[both].astype(np.float64) for visit in visits]
    if all(value.std() > 0 for value in values):
        found[correlation] = float(np.corrcoef(*values)[0, 1])
    return {name: round(float(value), 4) for name, value in found.items()}


@dataclasses.dataclass(frozen=True)
class TrainingRange:
    """Lowest and highest value of each fact of the training pairs.

    Args:
        limits: fact -> lowest, highest.
    """

    limits: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, pairs: Sequence[PreparedSubject]) -> TrainingRange:
        """The range of some pairs."""
        found = [facts_of(pair) for pair in pairs]
        values = {name: [facts[name] for facts in found if name in facts] for name in FACTS}
        return cls({name: (min(each), max(each)) for name, each in values.items() if each})

    def warnings(self, pair: PreparedSubject) -> tuple[str, ...]:
        """A sentence for each fact of a pair that lies outside; higher correlation is no fault."""
        told = []
        for name, value in facts_of(pair).items():
            low, high = self.limits.get(name, (-np.inf, np.inf))
            slack = max(SLACK * (high - low), FACTS[name]) if np.isfinite(low) else 0.0
            above = value > high + slack and not name.startswith("correlation")
            if value < low - slack or above:
                told.append(
                    f"unlike the pairs this system was trained on: {name} is {value:.2f}, there "
                    f"{low:.2f} to {high:.2f}"
                )
        return tuple(told)
