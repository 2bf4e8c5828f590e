"""Systems in two steps: one proposes regions, the other judges each of them."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.candidates import Candidates, Judgement, Proposal
from msseg_lightning.core.files import read_record, write_record
from msseg_lightning.core.method import NO_CONTEXT, FitContext
from msseg_lightning.core.prediction import Prediction
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject import LongitudinalSubject
from msseg_lightning.core.volume import Kind
from msseg_lightning.preprocess.cache import PreparedCache
from msseg_lightning.preprocess.restore import restore
from msseg_lightning.preprocess.space import MaskRule

log = logging.getLogger(__name__)

RULE_FILE = "rule.json"


class Proposer(Protocol):
    """Finds the candidates of a prepared pair."""

    def __call__(self, pair: PreparedSubject) -> Proposal:
        """The candidates, and the maps on the way to them."""


class Judge(Protocol):
    """Says of each candidate how likely it is a new lesion."""

    def __call__(self, pair: PreparedSubject, candidates: Candidates) -> Judgement:
        """A score for each, in their order."""


class Rule(Protocol):
    """A condition on candidates."""

    def __call__(self, pair: PreparedSubject, candidates: Candidates) -> NDArray[np.bool_]:
        """(n,) which candidates stay."""


class RuleChain:
    """Judge that applies rules in their order; each sees what those before it left.

    Args:
        rules: name -> rule; null is no rule. The maps of the judgement have these names.
    """

    def __init__(self, rules: Mapping[str, Rule | None]) -> None:
        self.rules = {name: rule for name, rule in rules.items() if rule is not None}

    def __call__(self, pair: PreparedSubject, candidates: Candidates) -> Judgement:
        left, numbers = candidates, np.arange(len(candidates))
        maps = {}
        for name, rule in self.rules.items():
            keep = rule(pair, left) if len(left) else np.zeros(0, bool)
            left, numbers = left.select(keep), numbers[keep]
            maps[name] = left.mask.astype(np.uint8)
        scores = np.zeros(len(candidates), np.float32)
        scores[numbers] = 1
        return Judgement(scores, maps)


class CandidateMethod:
    """System without training: candidates, and a judge without weights that keeps some.

    The prediction's ``steps`` are the maps of the proposal, the mask ``proposed`` and the maps of
    the judge, on the native grid. There is no probability: rules are yes or no.

    Args:
        cache: prepares pairs; its chain must leave what proposal and rules ask for.
        propose: finds candidates.
        judge: scores them; those above one half become lesions.
        mask_rule: how masks come back to the native grid.
        postprocess: rules applied in order to the mask on the native grid.
    """

    def __init__(
        self,
        cache: PreparedCache,
        propose: Proposer,
        judge: Judge,
        mask_rule: MaskRule = "linear_threshold",
        postprocess: Sequence[Callable[[Prediction], Prediction]] = (),
    ) -> None:
        self.cache, self.propose, self.judge = cache, propose, judge
        self.mask_rule, self.postprocess = mask_rule, tuple(postprocess)

    def fit(
        self,
        train: Sequence[LongitudinalSubject],
        val: Sequence[LongitudinalSubject],
        folder: Path,
        context: FitContext = NO_CONTEXT,
    ) -> None:
        """Do nothing: rules need no fitting."""
        log.info("%d training pairs given; nothing is fitted", len(train))

    def predict(self, subject: LongitudinalSubject) -> Prediction:
        """Predict one pair on its native grid."""
        pair = self.cache.prepare([subject])[0]
        proposal = self.propose(pair)
        judged = self.judge(pair, proposal.candidates)
        return candidate_prediction(pair, proposal, judged, self.mask_rule, self.postprocess)

    def settings(self) -> dict[str, Any]:
        """Class and settings of the proposer and of every rule, in order."""
        rules = getattr(self.judge, "rules", {})
        return {
            "propose": _described(self.propose),
            "judge": [type(self.judge).__name__, *rules],
            "rules": [_described(rule) for rule in rules.values()],
        }

    def save(self, folder: Path) -> None:
        """Write the settings of the rules."""
        write_record(folder / RULE_FILE, self.settings())

    def load(self, folder: Path) -> None:
        """Check that the saved settings equal the configured ones.

        Raises:
            MssegError: nothing was saved here, or other rules (exit 4).
        """
        require_saved(folder, self.settings())


def candidate_prediction(
    pair: PreparedSubject,
    proposal: Proposal,
    judged: Judgement,
    mask_rule: MaskRule = "linear_threshold",
    postprocess: Sequence[Callable[[Prediction], Prediction]] = (),
) -> Prediction:
    """The candidates whose score is above one half, on the native grid, with the map of every step.

    Args:
        pair: prepared.
        proposal: its candidates.
        judged: their scores.
        mask_rule: how masks come back to the native grid.
        postprocess: rules applied in order to the mask on the native grid.
    """
    mask = proposal.candidates.paint(judged.scores) > 0.5

    def home(data: NDArray[np.generic], kind: Kind) -> NDArray[np.generic]:
        return restore(data, pair.grid, pair.native, pair.to_native, kind, mask_rule)

    steps = {**proposal.maps, "proposed": proposal.candidates.mask, **judged.maps}
    prediction = Prediction(
        subject=pair.id,
        mask=np.asarray(home(mask, "mask") != 0, np.uint8),
        native=pair.native,
        inside=home(proposal.inside, "mask") != 0,
        warnings=pair.notes,
        steps={
            name: np.asarray(home(data, "image"), np.float32)
            if data.dtype == np.float32
            else np.asarray(home(data != 0, "mask") != 0, np.uint8)
            for name, data in steps.items()
        },
    )
    for rule in postprocess:
        prediction = rule(prediction)
    return prediction


def _described(part: Any) -> dict[str, Any]:
    return {"class": type(part).__name__, **dataclasses.asdict(part)}


def require_saved(folder: Path, own: Mapping[str, Any]) -> None:
    """Check that a folder holds just these settings.

    Raises:
        MssegError: nothing was saved there, or other settings (exit 4).
    """
    path = folder / RULE_FILE
    own = json.loads(json.dumps(own))  # as it reads back: a tuple is a list
    try:
        saved = read_record(path)
    except (OSError, ValueError) as error:
        raise _problem(path, "the saved rule cannot be read", repr(error), "") from error
    if saved != own:
        differs = {key for key in {*own, *saved} if own.get(key) != saved.get(key)}
        name = ", ".join(sorted(differs))
        raise _problem(path, "the saved rule is not the configured one", str(saved), name)


def _problem(path: Path, message: str, found: str, field: str) -> MssegError:
    return MssegError(
        Problem(
            "model.rule",
            message,
            file=path,
            field=field,
            found=found,
            remedy="build the method from the configuration it was saved with",
            exit_code=ExitCode.MODEL,
        )
    )
