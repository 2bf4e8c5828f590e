"""Candidates that a network and rules judge one by one, one after the other (S03)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from msseg_lightning.core.candidates import Box, Candidates, Judgement, Proposal
from msseg_lightning.core.prediction import Prediction
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.subject import LongitudinalSubject
from msseg_lightning.method.candidates import Proposer, Rule, RuleChain, candidate_prediction
from msseg_lightning.method.network_method import NetworkMethod
from msseg_lightning.preprocess.space import MaskRule
from msseg_lightning.train.task import Validator, scored

Classify = Callable[[nn.Module, NDArray[np.float32], Sequence[Box]], NDArray[np.float32]]
"""``(network, images (C, X, Y, Z), boxes) -> (n,) scores``: e.g. ``CandidateWindows``."""


@dataclasses.dataclass(frozen=True)
class AtLeastScore:
    """Keep candidates to which a network gives a score.

    Args:
        classify: gives a score to each.
        network: is asked.
        images: its channels; a last one, 1 in all candidates, is added.
        least: of the score; exactly this is enough.
    """

    classify: Classify
    network: nn.Module
    images: tuple[str, ...]
    least: float

    def __call__(self, pair: PreparedSubject, candidates: Candidates) -> NDArray[np.bool_]:
        images = np.concatenate([pair.stack(self.images), candidates.mask[None]])
        scores = self.classify(self.network, images.astype(np.float32), candidates.boxes)
        return np.asarray(scores >= self.least)


class NetworkCandidates(NetworkMethod):
    """Method whose network classifies candidates that earlier stages proposed.

    A prediction is: the images of earlier stages, the proposal, the network (``classified``), the
    rules in their order. All of them are ``steps`` of the prediction. There is no probability.

    Args:
        propose: finds candidates in a pair with the images of earlier stages.
        least_score: of the network for a candidate to stay; None asks no network.
        rules: name -> rule, applied to what the network left; null is no rule.
        mask_rule: how masks come back to the native grid.
        others: see ``NetworkMethod``; ``infer`` gives a score to each candidate.
    """

    def __init__(
        self,
        *,
        propose: Proposer,
        least_score: float | None = 0.5,
        rules: Mapping[str, Rule | None] | None = None,
        mask_rule: MaskRule = "linear_threshold",
        **others: Any,
    ) -> None:
        super().__init__(**others)
        if least_score is not None and not 0 <= least_score <= 1:
            raise ValueError(f"least_score {least_score} is not between 0 and 1")
        self.propose, self.least_score, self.mask_rule = propose, least_score, mask_rule
        self.rules = dict(rules or {})

    def predict(self, subject: LongitudinalSubject, infer: Any = None) -> Prediction:
        """Predict one pair on its native grid; see ``NetworkMethod``."""
        pair = self._with_images(self.cache.prepare([subject])[0])
        network = self.task.network.to(self._device())
        classify: Any = infer or self.infer
        proposal, judged = self.judged(network, pair, classify)
        found = {image.name: pair.image(image.name) for image in self.derived}
        proposal = proposal._replace(maps={**found, **proposal.maps})
        return candidate_prediction(pair, proposal, judged, self.mask_rule, self.postprocess)

    def judged(
        self, network: nn.Module, pair: PreparedSubject, classify: Classify
    ) -> tuple[Proposal, Judgement]:
        """The candidates of a pair with the images of earlier stages, and what is said of them."""
        proposal = self.propose(pair)
        rules: dict[str, Rule | None] = {}
        if self.least_score is not None:
            images = self.channels.images
            rules["classified"] = AtLeastScore(classify, network, images, self.least_score)
        return proposal, RuleChain({**rules, **self.rules})(pair, proposal.candidates)

    def _validator(self, infer: Any, target: str) -> Validator:
        def validate(network: nn.Module, subject: PreparedSubject) -> dict[str, float]:
            proposal, judged = self.judged(network, subject, infer)
            found = proposal.candidates.paint(judged.scores) > 0.5
            return scored(found, subject, target, self.score)

        return validate
