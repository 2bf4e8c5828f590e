"""Task with a weight for each element of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from msseg_lightning.core.batch import Batch
from msseg_lightning.core.network import DeepLogits
from msseg_lightning.train.task import StepOutput, Task


class WeightedTask(Task):
    """Weighted mean of the loss of each element: ``sum(w_i L_i) / sum(w_i)``.

    The weights are ``Batch.weight``, set by a loader that mixes sources. With one real patch of
    weight 1 and three synthetic ones of weight 1/3 that is
    ``(L_real + 1/3 sum L_synthetic) / (1 + 3 * 1/3)`` (S09). Elements go through the network
    together and through the loss one by one, so a loss that pools over the batch sees each alone.

    The arguments are those of ``Task``. Logs the mean loss of the elements of the
    largest weight and of the others (0 where there are none).
    """

    def step(self, batch: Batch) -> StepOutput:
        """See ``Task``."""
        output = self.network(batch.images)
        losses = torch.stack(
            [
                self.loss(element(output, index), batch.target[index : index + 1])
                for index in range(len(batch.weight))
            ]
        )
        weight = batch.weight.to(losses)
        low = (weight < weight.max()).to(losses)  # masks, not indices: no wait for the device
        logs = {
            name: (losses.detach() * part).sum() / part.sum().clamp_min(1)
            for name, part in (("loss_full_weight", 1 - low), ("loss_low_weight", low))
        }
        return StepOutput((weight * losses).sum() / weight.sum(), logs)


def element(output: Tensor | DeepLogits, index: int) -> Tensor | DeepLogits:
    """Output of the network for one element, with a batch axis of 1."""
    if isinstance(output, DeepLogits):
        deeper = tuple(logits[index : index + 1] for logits in output.deeper)
        return DeepLogits(output.logits[index : index + 1], deeper)
    return output[index : index + 1]
