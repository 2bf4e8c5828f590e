"""Thresholding of probabilities."""

from __future__ import annotations

import dataclasses

import numpy as np

from msseg_lightning.core.prediction import Prediction
from msseg_lightning.core.problem import ExitCode, MssegError, Problem


class Threshold:
    """Set voxels to lesion where the probability exceeds a value.

    A threshold on logits is one on probabilities: logit 0 is 0.5. The mask the prediction had
    before is replaced, so this rule stands first.

    Args:
        value: in [0, 1].
        strict: the probability must exceed the value; otherwise equality is enough, as for a
            majority of votes.

    Raises:
        MssegError: exit 2 for a value outside [0, 1] or a prediction without probabilities, exit 7
            for probabilities that are NaN: no mask is made of them.
    """

    def __init__(self, value: float, strict: bool = True) -> None:
        if not 0 <= value <= 1:
            raise MssegError(
                Problem(
                    "postprocess.threshold",
                    "A threshold is a probability.",
                    field="value",
                    found=str(value),
                    expected="0 to 1",
                    remedy="leave out the changed postprocess.rules, or give 0 to 1",
                    exit_code=ExitCode.CONFIG,
                )
            )
        self.value, self.strict = value, strict

    def __call__(self, prediction: Prediction) -> Prediction:
        probability = prediction.probability
        if probability is None:
            raise MssegError(
                Problem(
                    "postprocess.no_probability",
                    f"{prediction.subject}: the system gives no probabilities to threshold.",
                    field="postprocess",
                    remedy="leave the threshold out for this system",
                    exit_code=ExitCode.CONFIG,
                )
            )
        count = int(np.isnan(probability).sum())
        if count:
            raise MssegError(
                Problem(
                    "postprocess.nan",
                    f"{prediction.subject}: probabilities are not numbers; no mask is written.",
                    field="probability",
                    found=f"{count} NaN voxels",
                    expected="0 to 1",
                    remedy="check the images and the weights",
                    exit_code=ExitCode.NUMERICAL,
                )
            )
        # compared as float32: 0.2 as a double is below float32's 0.2, which would pass "> 0.2"
        value = np.float32(self.value)
        mask = probability > value if self.strict else probability >= value
        return dataclasses.replace(prediction, mask=mask.astype(np.uint8))
