"""The prediction of a system for one pair, on the grid of the patient's own scan."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.subject import Native


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Predicted new lesions of one pair.

    Args:
        subject: id of the pair.
        mask: (X, Y, Z) uint8, 0 or 1, native grid.
        probability: (X, Y, Z) float32 in [0, 1], native grid; None where a system has none.
        native: grid and header to write it with.
        inside: (X, Y, Z) bool, native grid: where the system looked (e.g. the brain), if limited.
        warnings: what a reader of the result must know.
        spread: (X, Y, Z) float32, native grid: the standard deviation of the probabilities that
            members, views, flips or passes gave, 0 where all agree; None of a single answer.
        steps: name -> (X, Y, Z), native grid, in order: what a system of rules had on the way to
            its mask, as float32 images and uint8 masks of the candidates that were left.
    """

    subject: str
    mask: NDArray[np.uint8]
    native: Native
    probability: NDArray[np.float32] | None = None
    inside: NDArray[np.bool_] | None = None
    warnings: tuple[str, ...] = ()
    spread: NDArray[np.float32] | None = None
    steps: Mapping[str, NDArray[np.generic]] = dataclasses.field(default_factory=dict)
