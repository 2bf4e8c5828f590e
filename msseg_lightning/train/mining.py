"""Hard example mining with a teacher network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from msseg_lightning.core.batch import Batch
from msseg_lightning.train.task import StepOutput, Task


class MomentumMining(Task):
    """Online hard example mining by a network averaged over time (S21).

    Every batch is a pool. The teacher, an exponential moving average of the network, predicts the
    whole pool without gradient; the ``keep`` patches with the largest error are trained on, the
    others are forgotten. After every optimiser step, for each tensor,
    ``teacher = momentum * teacher + (1 - momentum) * network``; both begin equal. The teacher is
    part of the checkpoint and never of the saved system, which is the network itself.

    The pool is predicted ``keep`` patches at a time, so it costs time but no memory.

    What counts as hard decides what is seen. By Dice a patch without lesion is as wrong as can be
    until its probabilities sum to about one voxel: a new network keeps nothing else until the whole
    background is clean, which with few steps may last to the end. Cross-entropy has no such bias.

    Args:
        network: the student.
        loss: of the kept patches.
        optimizer: of the student.
        keep: patches trained on per step, at most the size of the pool.
        momentum: mu of the paper, in [0, 1]; 0 makes teacher and student equal.
        error: what patches are ranked by: ``loss``, called for one patch at a time, or
            ``cross_entropy``, the mean over the patch.
        scheduler, decay, seed, patience: see ``Task``.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: nn.Module,
        optimizer: Callable[[Iterable[Any]], torch.optim.Optimizer],
        keep: int,
        momentum: float,
        error: Literal["loss", "cross_entropy"] = "loss",
        scheduler: Callable[[torch.optim.Optimizer], Any] | None = None,
        decay: Literal["all", "convolution_kernels"] = "all",
        seed: int = 0,
        patience: int = 10,
    ) -> None:
        super().__init__(network, loss, optimizer, scheduler, decay, seed, patience)
        if keep < 1 or not 0 <= momentum <= 1:
            raise ValueError(f"keep {keep} must be at least 1, momentum {momentum} in [0, 1]")
        if error not in ("loss", "cross_entropy"):
            raise ValueError(f"error {error!r} is not loss or cross_entropy")
        self.keep, self.momentum = keep, momentum
        self.error = error
        self.teacher = copy.deepcopy(network).requires_grad_(False).eval()

    def step(self, batch: Batch) -> StepOutput:
        """Loss of the hardest patches of the pool."""
        pool = len(batch.images)
        if pool < self.keep:
            raise ValueError(f"a pool of {pool} patches has no {self.keep} to keep")
        errors = self.errors(batch.images, batch.target)
        chosen = errors.topk(self.keep).indices
        target = batch.target[chosen]
        loss = self.loss(self.network(batch.images[chosen]), target)
        logs = {
            "pool_error": errors.mean(),
            "kept_error": errors[chosen].mean(),
            "pool_lesional": batch.target.flatten(1).any(1).float().mean(),
            "kept_lesional": target.flatten(1).any(1).float().mean(),
        }
        return StepOutput(loss, logs)

    def errors(self, images: Tensor, target: Tensor) -> Tensor:
        """(B,) error of the teacher on each patch."""
        found: list[Tensor] = []
        with torch.no_grad():
            for start in range(0, len(images), self.keep):
                logits = self.teacher(images[start : start + self.keep])
                truth = target[start : start + self.keep]
                if self.error == "cross_entropy":
                    entropy = functional.binary_cross_entropy_with_logits
                    voxels = entropy(logits.float(), truth.float(), reduction="none")
                    found += list(voxels.flatten(1).mean(1))
                else:
                    found += [
                        self.loss(logits[place : place + 1], truth[place : place + 1])
                        for place in range(len(logits))
                    ]
        return torch.stack(found)

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        """Update the network, then the teacher.

        Here, and not at the end of a batch: a checkpoint taken by the clock between the two would
        bring back a teacher that is one step behind.
        """
        super().optimizer_step(*arguments, **named)
        self.update_teacher()

    @torch.no_grad()
    def update_teacher(self) -> None:
        """Move the teacher's weights and norm statistics one step of the moving average."""
        present = self.network.state_dict()
        for name, slow in self.teacher.state_dict().items():
            if slow.is_floating_point():
                slow.mul_(self.momentum).add_(present[name], alpha=1 - self.momentum)
            else:  # counters
                slow.copy_(present[name])

    def train(self, mode: bool = True) -> MomentumMining:
        """Set the mode of the network; the teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self
