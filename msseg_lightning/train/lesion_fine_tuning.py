"""Fine-tuning of a network of all lesions where only the new ones are outlined (S06, stage 2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from msseg_lightning.core.batch import Batch
from msseg_lightning.train.task import StepOutput, Task

SURE_BACKGROUND = -20.0
"""Logit that stands for the network's where a voxel counts nothing: a probability of 2e-9."""


class LesionFineTuning(Task):
    """Task that learns all lesions of both visits from masks of the new ones.

    The network sees one visit at a time. Old lesions were outlined by nobody: where the network of
    the stage before, frozen, sees a lesion in the earlier visit, one is taken for granted in both.

    - later visit: new lesions and old ones are the target, with weight 1;
    - earlier visit: old lesions, with weight ``baseline_weight``.

    The borders of old lesions are uncertain, so voxels within ``ring_voxels`` of them that are no
    lesion cost nothing, in both visits. Training begins with the weights of that network.

    Args:
        network: ``images (B, 1, X, Y, Z) -> logits (B, 1, X, Y, Z)``.
        loss: as of ``Task``.
        optimizer: as of ``Task``.
        first: network of all lesions, of the same layout; None only where a saved system is loaded.
        baseline_weight: of the earlier visit's loss.
        ring_voxels: width of the ring, counted over corners.
        threshold: on the probability that ``first`` gives.
        others: see ``Task``.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: nn.Module,
        optimizer: Any,
        first: nn.Module | None = None,
        baseline_weight: float = 0.5,
        ring_voxels: int = 2,
        threshold: float = 0.5,
        **others: Any,
    ) -> None:
        super().__init__(network, loss, optimizer, **others)
        if baseline_weight < 0 or ring_voxels < 0 or not 0 <= threshold < 1:
            raise ValueError(
                f"baseline_weight {baseline_weight}, ring_voxels {ring_voxels} and threshold "
                f"{threshold}: none may be below 0, the last not above 1"
            )
        self.baseline_weight, self.ring_voxels = baseline_weight, ring_voxels
        self.threshold = threshold
        self.first = None if first is None else first.requires_grad_(False).eval()
        if first is not None:
            try:
                network.load_state_dict(first.state_dict())
            except RuntimeError as error:
                raise ValueError("first has another layout; give both the same") from error

    def step(self, batch: Batch) -> StepOutput:
        """Loss of a batch of pairs, (B, 2, X, Y, Z) with the earlier visit first."""
        if batch.images.shape[1] != 2:
            raise ValueError(f"{batch.images.shape[1]} images; this task takes two visits")
        earlier, later = batch.images[:, :1], batch.images[:, 1:]
        new = batch.target[:, :1]
        old = self.old_lesions(earlier)
        of_earlier = self.visit_loss(earlier, old, old)
        of_later = self.visit_loss(later, torch.maximum(old, new), old)
        logs = {"earlier": of_earlier, "later": of_later, "old_lesions": old.mean()}
        return StepOutput(of_later + self.baseline_weight * of_earlier, logs)

    def old_lesions(self, earlier: Tensor) -> Tensor:
        """(B, 1, X, Y, Z) of 0 and 1: lesions that the first network sees in the earlier visit."""
        assert self.first is not None, "a loaded system is not fitted again"
        with torch.no_grad():
            return (self.first(earlier).float().sigmoid() > self.threshold).float()

    def visit_loss(self, scan: Tensor, target: Tensor, old: Tensor) -> Tensor:
        """Loss of one visit; the ring around old lesions agrees with whatever is answered."""
        width = 2 * self.ring_voxels + 1
        near = functional.max_pool3d(old, width, stride=1, padding=self.ring_voxels)
        ring = (near > 0) & (target <= 0)
        logits = self.network(scan).masked_fill(ring, SURE_BACKGROUND)
        return self.loss(logits, target)

    def train(self, mode: bool = True) -> LesionFineTuning:
        """Set the mode of the network; the first one stays in evaluation mode."""
        super().train(mode)
        if self.first is not None:
            self.first.eval()
        return self
