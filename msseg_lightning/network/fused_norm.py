"""Norm and activation as one expression that ``torch.compile`` can fuse.

torch's own instance norm reshapes to batch norm, which undoes a channels-last layout and stands
between two convolutions as a wall: the features are written and read several times. Here the same
formula is plain tensor algebra with its own backward pass. Eager it is slower than torch's kernels,
because every step makes a tensor; compiled it becomes one reading pass for the statistics and one
writing pass for everything else. So ``blocks.Unit`` takes this path (``fast_steps``) only while it
is compiled. Parameters stay where they are: a checkpoint does not know which path made it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class NormActivation(torch.autograd.Function):
    """Group norm with weight and bias, then leaky ReLU; one channel per group is instance norm.

    Statistics and arithmetic are float32 whatever the features are; the compiler keeps them in
    registers. Only the features, which the convolution in front holds anyway, and two numbers per
    group are kept for the backward pass.

    Shapes:
        features: (B, C, X, Y[, Z]); returns the same, in the features' type.

    Reference:
        Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167, section 3 (backward pass); Wu and
        He 2018, https://arxiv.org/abs/1803.08494 (groups)
    """

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor,
        groups: int,
        epsilon: float,
        slope: float,
    ) -> Tensor:
        mean, rate = _statistics(features, groups, epsilon)  # (B, C, 1, 1[, 1]) each
        shape = (1, -1, *(1,) * (features.ndim - 2))
        # centred first: a mean far above the deviation would cost the sum its digits
        affine = (features.float() - mean) * (rate * weight.float().view(shape))
        affine = affine + bias.float().view(shape)
        ctx.save_for_backward(features, weight, bias, mean, rate)
        ctx.groups, ctx.slope = groups, slope
        return torch.where(affine > 0, affine, affine * slope).to(features.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        features, weight, bias, mean, rate = ctx.saved_tensors
        axes = tuple(range(2, features.ndim))
        shape = (1, -1, *(1,) * len(axes))
        factor = weight.float().view(shape)
        normalised = (features.float() - mean) * rate
        passed = gradient.float()
        # the sign before the activation is worked out again: cheaper than reading it from memory
        affine = normalised * factor + bias.float().view(shape)
        passed = torch.where(affine > 0, passed, passed * ctx.slope)
        total = passed.sum(axes, keepdim=True)  # (B, C, 1, 1[, 1])
        along = (passed * normalised).sum(axes, keepdim=True)
        voxels = features[0, 0].numel()
        shift = _group_mean(total * factor, ctx.groups) / voxels
        slant = _group_mean(along * factor, ctx.groups) / voxels
        back = (passed * factor - shift - normalised * slant) * rate
        keep = (0, *axes)
        return (
            back.to(features.dtype),
            along.sum(keep).to(weight.dtype),
            total.sum(keep).to(bias.dtype),
            None,
            None,
            None,
        )


def _group_mean(values: Tensor, groups: int) -> Tensor:
    """Mean over the channels of each group, given back to each channel; (B, C, 1, 1[, 1])."""
    if groups == values.shape[1]:
        return values
    grouped = values.view(values.shape[0], groups, -1)
    return grouped.mean(2, keepdim=True).expand_as(grouped).reshape(values.shape)


def _statistics(features: Tensor, groups: int, epsilon: float) -> tuple[Tensor, Tensor]:
    """Mean and one over the standard deviation of each channel's group, float32.

    Each channel is reduced alone and groups are joined afterwards (the variance of a union is the
    mean variance plus the variance of the means), so no layout has to change.
    """
    axes = tuple(range(2, features.ndim))
    variance, mean = torch.var_mean(features.float(), axes, correction=0, keepdim=True)
    joined = _group_mean(mean, groups)
    variance = _group_mean(variance + (mean - joined).square(), groups)
    return joined, torch.rsqrt(variance + epsilon)


def norm_activation(norm: nn.Module, activation: nn.Module | None, features: Tensor) -> Tensor:
    """``activation(norm(features))``, in fusable form where there is one.

    Args:
        norm: ``nn.GroupNorm``, or anything that normalises each channel of each sample and has
            ``weight``, ``bias`` and ``epsilon`` (``blocks.InstanceNorm``).
        activation: ``nn.ReLU``, ``nn.LeakyReLU`` or nothing.
        features: (B, C, X, Y[, Z]).
    """
    slope = _slope(activation)
    groups: int = getattr(norm, "num_groups", features.shape[1])
    epsilon = norm.eps if isinstance(norm, nn.GroupNorm) else getattr(norm, "epsilon", None)
    if slope is None or epsilon is None:
        features = norm(features)
        return features if activation is None else activation(features)
    answer: Tensor = NormActivation.apply(features, norm.weight, norm.bias, groups, epsilon, slope)
    return answer


def _slope(activation: nn.Module | None) -> float | None:
    """Slope for negative values; None if the activation is neither ReLU nor leaky ReLU."""
    if activation is None:
        return 1.0
    if isinstance(activation, nn.LeakyReLU):
        return float(activation.negative_slope)
    return 0.0 if isinstance(activation, nn.ReLU) else None
