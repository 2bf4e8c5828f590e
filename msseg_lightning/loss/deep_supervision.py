"""Deep supervision."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from msseg_lightning.core.network import DeepLogits


class DeepSupervision(nn.Module):
    """Weighted mean of a loss over the resolutions of a network's outputs.

    ``(w0 l0 + w1 l1 + ...) / (w0 + w1 + ...)``, finest first. The target is brought down by
    nearest neighbour: an average would blur lesions of a few voxels below one half. Plain logits
    (a network in evaluation, or one without deep supervision) give the loss itself, so training
    and validation losses of the finest resolution are on one scale.

    Args:
        loss: ``(logits, target) -> scalar``.
        weights: of each resolution, finest first.

    Shapes:
        logits: (B, K, X, Y, Z), or ``DeepLogits`` with as many resolutions as weights.
        target: (B, K, X, Y, Z) at full resolution.
        returns: scalar.

    Reference:
        Lee et al. 2015, https://arxiv.org/abs/1409.5185
    """

    def __init__(self, loss: nn.Module, weights: Sequence[float] = (1.0, 0.5, 0.25)) -> None:
        super().__init__()
        self.loss = loss
        self.weights = tuple(float(weight) for weight in weights)
        if not self.weights or min(self.weights) < 0 or self.weights[0] == 0:
            raise ValueError(f"weights {self.weights}: the finest must count, none be negative")

    def forward(self, logits: Tensor | DeepLogits, target: Tensor) -> Tensor:
        if isinstance(logits, Tensor):
            return self.loss(logits, target)
        outputs = (logits.logits, *logits.deeper)
        if len(outputs) != len(self.weights):
            raise ValueError(f"{len(outputs)} resolutions, {len(self.weights)} weights")
        total = target.new_zeros((), dtype=outputs[0].float().dtype)
        for output, weight in zip(outputs, self.weights, strict=True):
            total = total + weight * self.loss(output, at_resolution(target, output.shape[2:]))
        return total / sum(self.weights)


def at_resolution(target: Tensor, shape: Sequence[int]) -> Tensor:
    """The target on a coarser grid of the same field of view: (B, K, *shape), nearest voxel.

    Of every 2x2x2 cell the first voxel is kept (torch's ``nearest``), as the cited code does.
    """
    if tuple(target.shape[2:]) == tuple(shape):
        return target
    return functional.interpolate(target.float(), size=tuple(shape), mode="nearest")
