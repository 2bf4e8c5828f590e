"""Candidates from a subtraction whose threshold depends on the registration (S16)."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.candidates import Candidates, Proposal
from msseg_lightning.core.lesion import Connectivity
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP
from msseg_lightning.preprocess.tissue import CLASSES


def mutual_information(
    first: NDArray[np.floating], second: NDArray[np.floating], bins: int = 32
) -> float:
    """Mutual information of paired values in nats, from their joint histogram.

    Args:
        first: (n,) values; bins reach from its 0.5th to its 99.5th percentile, beyond which values
            count to the outermost bins.
        second: (n,) likewise.
        bins: along each axis.

    Returns:
        0 where either has one value only, or there are none.
    """
    if not len(first) or np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    ends = [np.percentile(values, (0.5, 99.5)) for values in (first, second)]
    clipped = [np.clip(v, *end) for v, end in zip((first, second), ends, strict=True)]
    counts, _, _ = np.histogram2d(clipped[0], clipped[1], bins=bins)
    joint = counts / counts.sum()
    alone = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / alone[seen])).sum())


@dataclasses.dataclass(frozen=True)
class QualityThreshold:
    """Proposer: where the follow-up is brighter by a threshold that a good registration lowers.

    The mutual information of the visits inside the brain measures the quality. Nothing is proposed
    where the visits are equal.

    Args:
        limits: of the mutual information in nats, ascending; they part poor, fair and good.
        thresholds: on follow-up minus baseline in z-scores, of good, fair and poor registrations.
        bins: of the joint histogram.
        connectivity: what is one candidate.
    """

    limits: tuple[float, float]
    thresholds: tuple[float, float, float]
    bins: int = 32
    connectivity: Connectivity = 26

    def __post_init__(self) -> None:
        limits, thresholds = tuple(self.limits), tuple(self.thresholds)
        object.__setattr__(self, "limits", limits)
        object.__setattr__(self, "thresholds", thresholds)
        if list(limits) != sorted(limits) or list(thresholds) != sorted(thresholds):
            raise ValueError(f"limits {limits} and thresholds {thresholds} must ascend")
        if len(thresholds) != len(limits) + 1:
            raise ValueError("there is one threshold more than limits")

    def threshold(self, information: float) -> float:
        """The threshold of a pair with this mutual information."""
        return self.thresholds[sum(information < limit for limit in self.limits)]

    def __call__(self, pair: PreparedSubject) -> Proposal:
        brain = pair.mask(BRAIN)
        baseline, followup = pair.image(BASELINE), pair.image(FOLLOWUP)
        information = mutual_information(baseline[brain], followup[brain], self.bins)
        difference = np.where(brain, followup - baseline, 0).astype(np.float32)
        risen = difference > self.threshold(information)
        candidates = Candidates.of(risen, pair.grid.spacing_mm, self.connectivity)
        maps: dict[str, NDArray[Any]] = {
            "tissue": tissue_map(pair, "baseline"),
            "difference": difference,
        }
        return Proposal(candidates, brain, maps)


@dataclasses.dataclass(frozen=True)
class LesionsOfVisit:
    """Proposer: all lesions that the tissue model found at one visit (S16x).

    Args:
        visit: ``followup`` or ``baseline``.
        connectivity: what is one candidate.
    """

    visit: str = "followup"
    connectivity: Connectivity = 26

    def __call__(self, pair: PreparedSubject) -> Proposal:
        found = pair.mask(f"{self.visit}_hyperintense") & pair.inside((BASELINE, FOLLOWUP))
        candidates = Candidates.of(found, pair.grid.spacing_mm, self.connectivity)
        maps = {f"{visit}_tissue": tissue_map(pair, visit) for visit in ("baseline", "followup")}
        return Proposal(candidates, pair.mask(BRAIN), maps)


def tissue_map(pair: PreparedSubject, visit: str) -> NDArray[np.float32]:
    """(X, Y, Z) float32: 1 white matter, 2 grey matter, 3 fluid, 4 lesions, 0 elsewhere."""
    found = np.zeros(pair.grid.shape, np.float32)
    for number, kind in enumerate(CLASSES, start=1):
        found[pair.mask(f"{visit}_{kind}")] = number
    return found
