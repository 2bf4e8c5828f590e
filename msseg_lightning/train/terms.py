"""Training that shows every term of its loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from msseg_lightning.core.batch import Batch
from msseg_lightning.train.task import StepOutput, Task


def sum_of_terms(loss: nn.Module, output: Any, target: Tensor) -> StepOutput:
    """The sum of a loss's terms, and each of them by name.

    Args:
        loss: has ``parts(output, target)``, which returns the terms as they enter the sum.
        output: of the network.
        target: of the batch.
    """
    parts = loss.parts(output, target)  # type: ignore[operator]  # a method
    return StepOutput(torch.stack(list(parts.values())).sum(), parts)


class LoggedTerms(Task):
    """Task whose loss is a sum of named terms, each of which is logged.

    For losses with weights to be chosen, as those of ``loss.non_correspondence``: which term leads
    is seen in the curves. See ``sum_of_terms`` for what the loss has.
    """

    def step(self, batch: Batch) -> StepOutput:
        """The sum, and its terms by name."""
        return sum_of_terms(self.loss, self.network(batch.images), batch.target)
