"""Calibration: from the score of a predicted lesion to the probability that it is a true lesion."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from msseg_lightning.core.problem import ExitCode, MssegError, Problem

Values = NDArray[np.float64]

Kind = Literal["temperature", "isotonic"]

_EDGE = 1e-4  # scores of 0 and 1 have no log odds


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A function from scores to probabilities that never falls.

    ``temperature``: the log odds of the score, divided by a temperature and moved by an offset.
    ``isotonic``: the steps that never fall, of least squared error, with lines between them; it
    needs some hundred lesions.

    Args:
        kind: which of the two.
        slope: 1 / temperature, at least 0.
        offset: of the log odds.
        scores: (k,) ascending knots of ``isotonic``.
        probabilities: (k,) at the knots.
    """

    kind: Kind
    slope: float = 1.0
    offset: float = 0.0
    scores: tuple[float, ...] = ()
    probabilities: tuple[float, ...] = ()

    @classmethod
    def fit(
        cls, scores: Sequence[float] | Values, right: Any, kind: Kind = "temperature"
    ) -> Calibration:
        """Fit to the lesions of patients that the system was not fitted on.

        The targets of ``temperature`` are ``(n + 1) / (n + 2)`` of n right lesions and
        ``1 / (m + 2)`` of m wrong ones (Platt 1999), so that few lesions give no certainty.

        Args:
            scores: (n,) in [0, 1].
            right: (n,) bool, true lesions.
            kind: see above.

        Raises:
            MssegError: there is no lesion (exit 2).
        """
        values, truth = np.asarray(scores, np.float64), np.asarray(right, bool)
        if not len(values):
            raise MssegError(
                Problem(
                    "calibration.no_lesions",
                    "lesion probabilities cannot be calibrated: no lesion was predicted",
                    field="scores",
                    found="0 predicted lesions",
                    expected="at least one",
                    remedy="train the system longer, or on more patients",
                    exit_code=ExitCode.CONFIG,
                )
            )
        if kind == "isotonic":
            knots, owner = np.unique(values, return_inverse=True)
            weights = np.bincount(owner).astype(np.float64)
            means = np.bincount(owner, weights=truth) / weights
            steps = optimize.isotonic_regression(means, weights=weights).x
            return cls(kind, scores=tuple(knots.tolist()), probabilities=tuple(steps.tolist()))
        count = int(truth.sum())
        targets = np.where(truth, (count + 1) / (count + 2), 1 / (len(truth) - count + 2))
        odds = _log_odds(values)

        def loss(parameters: Values) -> tuple[float, Values]:
            logits = parameters[0] * odds + parameters[1]
            value = np.logaddexp(0, logits) - targets * logits
            error = special.expit(logits) - targets
            return float(value.mean()), np.array([(error * odds).mean(), error.mean()])

        bounds = [(0, None), (None, None)]
        slope, offset = optimize.minimize(loss, np.array([1.0, 0.0]), jac=True, bounds=bounds).x
        return cls(kind, float(slope), float(offset))

    def __call__(self, scores: Sequence[float] | Values) -> Values:
        """(n,) probabilities of scores (n,)."""
        values = np.asarray(scores, np.float64)
        if self.kind == "isotonic":
            return np.asarray(np.interp(values, self.scores, self.probabilities))
        return np.asarray(special.expit(self.slope * _log_odds(values) + self.offset))

    def as_dict(self) -> dict[str, Any]:
        """The calibration as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """The calibration from the values of ``as_dict``."""
        knots = {name: tuple(values[name]) for name in ("scores", "probabilities")}
        return cls(**{**values, **knots})


def cross_fitted(
    scores: Values, right: NDArray[np.bool_], patients: Sequence[str], kind: Kind = "temperature"
) -> Values:
    """(n,) probabilities, each by a calibration that was not fitted on its patient.

    Patients are dealt in order of their names into five folds. Without lesions of other patients a
    score is its own probability.

    Args:
        scores: (n,) in [0, 1].
        right: (n,) true lesions.
        patients: (n,) of each lesion.
        kind: of the calibrations.
    """
    fold_of = {name: index % 5 for index, name in enumerate(sorted(set(patients)))}
    folds = np.array([fold_of[name] for name in patients], np.int64)
    found = np.array(scores, np.float64)
    for fold in range(5):
        here = folds == fold
        if here.any() and not here.all():
            found[here] = Calibration.fit(scores[~here], right[~here], kind)(scores[here])
    return found


def brier_score(probabilities: Values, right: NDArray[np.bool_]) -> float | None:
    """Mean squared difference of probability and truth (0 or 1) by lesion; None without lesions."""
    if not len(right):
        return None
    return float(((np.asarray(probabilities) - np.asarray(right)) ** 2).mean())


@dataclasses.dataclass(frozen=True)
class ReliabilityBin:
    """Lesions with similar probabilities.

    Args:
        lesions: their number.
        probability: their mean probability.
        right: their share of true lesions.
    """

    lesions: int
    probability: float
    right: float


def reliability(
    probabilities: Values, right: NDArray[np.bool_], bins: int = 5
) -> tuple[ReliabilityBin, ...]:
    """Bins of as many lesions each, by probability; equal probabilities are in one bin.

    Args:
        probabilities: (n,).
        right: (n,) true lesions.
        bins: at most so many.
    """
    if not len(right):
        return ()
    edges = np.unique(np.quantile(probabilities, np.linspace(0, 1, bins + 1)))
    place = np.clip(np.searchsorted(edges, probabilities, side="right") - 1, 0, len(edges) - 2)
    place = np.maximum(place, 0)
    return tuple(
        ReliabilityBin(
            int((place == one).sum()),
            float(probabilities[place == one].mean()),
            float(np.asarray(right)[place == one].mean()),
        )
        for one in np.unique(place)
    )


def _log_odds(scores: Values) -> Values:
    return np.asarray(special.logit(np.clip(scores, _EDGE, 1 - _EDGE)))
