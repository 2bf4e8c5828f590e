"""Faster execution of the steps of ``blocks.Unit``, with the same results."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from msseg_lightning.network.fused_norm import norm_activation


def run_fused(unit: nn.Module, features: Tensor, steps: Sequence[str]) -> Tensor:
    """Run steps under ``torch.compile``: a norm and the activation after it as one expression.

    Args:
        unit: has a submodule of each name in ``steps``.
        features: (B, C, X, Y[, Z]).
        steps: names in order of execution.
    """
    remaining = list(steps)
    while remaining:
        name = remaining.pop(0)
        if name != "norm":
            features = getattr(unit, name)(features)
        else:
            act = getattr(unit, remaining.pop(0)) if remaining[:1] == ["act"] else None
            features = norm_activation(getattr(unit, name), act, features)
    return features


def run_in_place(unit: nn.Module, features: Tensor, steps: Sequence[str]) -> Tensor:
    """Run steps without gradients: activations overwrite their input, which saves one tensor.

    Only features made by an earlier step are overwritten, never the argument.

    Args:
        unit: has a submodule of each name in ``steps``.
        features: (B, C, X, Y[, Z]).
        steps: names in order of execution.
    """
    own = False  # whether the features were made here
    for name in steps:
        if name == "act" and own:
            features = activate_in_place(getattr(unit, name), features)
            continue
        result = getattr(unit, name)(features)
        own = own or result is not features
        features = result
        del result  # otherwise it would keep its memory during the next step
    return features


def activate_in_place(activation: nn.Module, features: Tensor) -> Tensor:
    """Overwrite features with their leaky ReLU or ReLU."""
    if isinstance(activation, nn.LeakyReLU):
        return functional.leaky_relu_(features, activation.negative_slope)
    return functional.relu_(features)
