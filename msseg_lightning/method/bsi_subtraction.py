"""Detection of new lesions by subtraction and rules."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from msseg_lightning.core.candidates import Candidates, Proposal
from msseg_lightning.core.lesion import Connectivity, label_lesions
from msseg_lightning.core.prediction import Prediction
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP
from msseg_lightning.method.candidates import CandidateMethod, RuleChain
from msseg_lightning.preprocess.atlas import VENTRICLES
from msseg_lightning.preprocess.cache import PreparedCache
from msseg_lightning.preprocess.space import MaskRule


class Subtraction(NamedTuple):
    """Result of the first stage of S01 on the working grid.

    Attributes:
        baseline, followup: (X, Y, Z) float32.
        brain: where both visits were seen.
        inclusion: where candidates may lie.
        candidates: mask.
    """

    baseline: NDArray[np.float32]
    followup: NDArray[np.float32]
    brain: NDArray[np.bool_]
    inclusion: NDArray[np.bool_]
    candidates: NDArray[np.bool_]

    @property
    def maps(self) -> dict[str, NDArray[Any]]:
        """The maps before the candidates, for a report."""
        difference = np.where(self.brain, self.followup - self.baseline, 0).astype(np.float32)
        return {"difference": difference, "inclusion": self.inclusion.astype(np.uint8)}


@dataclasses.dataclass(frozen=True)
class BsiRule:
    """Settings and rules of the first stage of S01.

    With D = follow-up - baseline, candidates are the clusters of ``D > mean(D) + SD(D)`` within the
    brain (eroded once), outside the ventricles (eroded twice) and outside what was bright at
    baseline already (``> mean + SD`` of the brain); they have more than ``larger_than`` voxels and
    at least one voxel that survives an erosion.

    Args:
        brain_erosions: iterations, 6-neighbour element ``[R]``.
        ventricle_erosions: the same.
        bright_sd: standard deviations of the baseline above its mean in the brain.
        rise_sd: standard deviations of D above its mean.
        rise_region: where mean and deviation of D are taken ``[R]``: the brain or the part of it
            where candidates may lie.
        larger_than: voxels; a cluster of this size goes, one voxel more stays.
        survives: ``whole`` keeps a cluster of which one voxel survives the erosion ``[R]``;
            ``eroded`` keeps the surviving voxels only; ``off`` erodes nothing.
        connectivity: of clusters ``[R]``.

    Reference:
        MSSEG-2 proceedings 2021, boundary shift integral and gradient boosting (S01).
    """

    brain_erosions: int = 1
    ventricle_erosions: int = 2
    bright_sd: float = 1.0
    rise_sd: float = 1.0
    rise_region: Literal["brain", "inclusion"] = "brain"
    larger_than: int = 5
    survives: Literal["whole", "eroded", "off"] = "whole"
    connectivity: Connectivity = 6

    def __call__(self, pair: PreparedSubject) -> Proposal:
        """The candidates of a pair prepared in the template's space, with the maps before them."""
        stage = self.subtract(pair)
        found = Candidates.of(stage.candidates, pair.grid.spacing_mm, self.connectivity)
        return Proposal(found, stage.inclusion, stage.maps)

    def subtract(self, prepared: PreparedSubject) -> Subtraction:
        """Apply the rules to a pair prepared in the template's space."""
        baseline, followup = prepared.image(BASELINE), prepared.image(FOLLOWUP)
        # the template's brain may reach beyond a scan's field of view, where images are 0
        brain = prepared.mask(BRAIN) & (baseline != 0) & (followup != 0)
        inclusion = self.inclusion(baseline, brain, prepared.mask(VENTRICLES))
        found = self.candidates(baseline, followup, brain, inclusion)
        return Subtraction(baseline, followup, brain, inclusion, found)

    def inclusion(
        self,
        baseline: NDArray[np.float32],
        brain: NDArray[np.bool_],
        ventricles: NDArray[np.bool_],
    ) -> NDArray[np.bool_]:
        """(X, Y, Z) voxels that may belong to a new lesion."""
        inside = _eroded(brain, self.brain_erosions)
        inside &= ~_eroded(ventricles, self.ventricle_erosions)
        values = baseline[brain]
        if values.size:
            inside &= ~(baseline > values.mean() + self.bright_sd * values.std())
        return inside

    def candidates(
        self,
        baseline: NDArray[np.float32],
        followup: NDArray[np.float32],
        brain: NDArray[np.bool_],
        inclusion: NDArray[np.bool_],
    ) -> NDArray[np.bool_]:
        """(X, Y, Z) mask of candidates; empty for an empty brain or identical visits."""
        difference = followup.astype(np.float32) - baseline
        values = difference[brain if self.rise_region == "brain" else inclusion]
        if not values.size:
            return np.zeros(brain.shape, bool)
        risen = inclusion & (difference > values.mean() + self.rise_sd * values.std())
        labels, count = label_lesions(risen, self.connectivity)
        keep = np.bincount(labels.ravel(), minlength=count + 1) > self.larger_than
        core = risen if self.survives == "off" else _eroded(risen, 1)
        keep &= np.bincount(labels[core], minlength=count + 1) > 0
        keep[0] = False
        kept = keep[labels]
        return kept & core if self.survives == "eroded" else kept


class BsiSubtraction(CandidateMethod):
    """The first stage of S01 as a system of its own, without learning.

    The pair is prepared in MNI space (``conf/preprocess/bsi.yaml``), where the template's brain and
    ventricles lie; the candidates come back to the native grid by nearest neighbour, and all of
    them are lesions. There is no probability: the rules are yes or no. ``inside`` of the
    prediction is where candidates were allowed.

    Args:
        cache: prepares pairs; its chain must leave ``brain`` and ``ventricles`` on the grid.
        rule: which voxels are candidates.
        mask_rule: how the mask comes back to the native grid.
        postprocess: rules applied to the mask on the native grid.
    """

    def __init__(
        self,
        cache: PreparedCache,
        rule: BsiRule = BsiRule(),
        mask_rule: MaskRule = "nearest",
        postprocess: Sequence[Callable[[Prediction], Prediction]] = (),
    ) -> None:
        super().__init__(cache, rule, RuleChain({}), mask_rule, postprocess)
        self.rule = rule

    def settings(self) -> dict[str, Any]:
        """The settings of the rule."""
        return dataclasses.asdict(self.rule)


def _eroded(mask: NDArray[np.bool_], iterations: int) -> NDArray[np.bool_]:
    if iterations == 0:  # scipy would erode until nothing changes
        return mask.copy()
    return np.asarray(ndimage.binary_erosion(mask, iterations=iterations))
