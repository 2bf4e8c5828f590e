"""Training that shows every term of its loss."""

from __future__ import annotations

import torch

from msseg_lightning.core.batch import Batch
from msseg_lightning.train.task import StepOutput, Task


class LoggedTerms(Task):
    """Task whose loss is a sum of named terms, each of which is logged.

    For losses with weights to be chosen, as those of ``loss.non_correspondence``: which term leads
    is seen in the curves.

    The loss has ``parts(output, target)``, which returns the terms as they enter the sum.
    """

    def step(self, batch: Batch) -> StepOutput:
        """The sum, and its terms by name."""
        parts = self.loss.parts(self.network(batch.images), batch.target)  # type: ignore[operator]  # a method
        return StepOutput(torch.stack(list(parts.values())).sum(), parts)
