"""Rule on the score of lesions, from the probabilities of their voxels."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.lesion import label_lesions
from msseg_lightning.core.prediction import Prediction
from msseg_lightning.core.problem import ExitCode, MssegError, Problem

Measure = Literal["mean", "max"]
"""The score of a lesion: mean or largest probability of its voxels."""


def lesion_scores(
    labels: NDArray[np.integer],
    count: int,
    probability: NDArray[np.floating],
    measure: Measure = "mean",
) -> NDArray[np.float64]:
    """(count,) score of the lesions with the labels 1 to ``count``.

    Args:
        labels: (X, Y, Z), 0 outside of all.
        count: number of lesions.
        probability: (X, Y, Z) in [0, 1]; where a judge decided on whole candidates, its score.
        measure: of the voxels.
    """
    inside = labels > 0
    owner, values = labels[inside].astype(np.int64) - 1, probability[inside].astype(np.float64)
    if measure == "max":
        largest = np.zeros(count)
        np.maximum.at(largest, owner, values)
        return largest
    voxels = np.bincount(owner, minlength=count)
    return np.bincount(owner, weights=values, minlength=count) / np.maximum(voxels, 1)


class LeastLesionScore:
    """Remove lesions whose score is below a value.

    A lesion is a component by faces, as in the official scores.

    Args:
        value: lesions with at least this score stay.
        measure: ``mean`` or ``max`` of the probabilities of its voxels.

    Raises:
        MssegError: exit 2, the system gives no probabilities.
    """

    def __init__(self, value: float, measure: Measure = "mean") -> None:
        if measure not in ("mean", "max"):
            raise ValueError(f"unknown measure {measure!r}")
        self.value, self.measure = value, measure

    def __call__(self, prediction: Prediction) -> Prediction:
        if prediction.probability is None:
            raise MssegError(
                Problem(
                    "postprocess.no_probability",
                    f"{prediction.subject}: the system gives no probabilities to score lesions by.",
                    field="postprocess",
                    remedy="leave the rule out for this system",
                    exit_code=ExitCode.CONFIG,
                )
            )
        labels, count = label_lesions(prediction.mask)
        scores = lesion_scores(labels, count, prediction.probability, self.measure)
        keep = np.concatenate(([False], scores >= self.value))
        return dataclasses.replace(prediction, mask=keep[labels].astype(np.uint8))
