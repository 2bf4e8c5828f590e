"""Choice of CPU kernels during prediction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class CpuKernels(TorchFunctionMode):
    """Context in which 3D convolutions are fast and norms precise on a CPU.

    torch leaves oneDNN for a fallback up to 17 times slower where a float32 batch of one has
    channels x X x Y <= 20480, which is true of most levels of a U-Net. Feeding two windows at once
    avoids that at twice the memory; here oneDNN is called as it is for two.

    torch's group norm of features with channels innermost adds up in float32: over a window of
    128^3 its answer is off by 0.005 standard deviations, over 256^3 by 10. With channels outermost
    it is exact to rounding, so features are laid out like that first. Instance norm does so itself,
    there and back. Of bf16 features that is a sixth of the time of a U-Net, and the batch norm of a
    batch of one is the same formula without it; its float32 sums are finer than bf16 up to 128^3.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if func is torch.conv3d:
            return convolve(*args, **given)
        if func is functional.group_norm and args[0].device.type == "cpu":
            features, *rest = args
            return func(features.contiguous(), *rest, **given)
        own = given.get("use_input_stats", True)
        if func is functional.instance_norm and own and is_small_half(*args):
            weight, bias = given.get("weight"), given.get("bias")
            return functional.batch_norm(
                args[0], None, None, weight, bias, training=True, eps=given["eps"]
            )
        return func(*args, **given)


def is_small_half(features: Tensor, *rest: Any) -> bool:
    """Whether these are bf16 features of a single window of up to 128^3 voxels."""
    return (
        not rest
        and features.device.type == "cpu"
        and features.dtype == torch.bfloat16
        and features.ndim == 5
        and features.shape[0] == 1
        and 1 < features[0, 0].numel() <= 128**3
    )


def convolve(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """``torch.conv3d`` by oneDNN, also where torch would choose another kernel."""
    if not falls_back(features, weight) or isinstance(padding, str):
        return torch.conv3d(features, weight, bias, stride, padding, dilation, groups)
    stride, padding, dilation = (
        (value,) * 3 if isinstance(value, int) else value for value in (stride, padding, dilation)
    )
    laid_out = features.contiguous(memory_format=torch.channels_last_3d)
    return torch.mkldnn_convolution(laid_out, weight, bias, padding, stride, dilation, groups)


def falls_back(features: Tensor, weight: Tensor) -> bool:
    """Whether torch may not use oneDNN for this convolution: a float32 batch of one on a CPU."""
    return (
        features.device.type == "cpu"
        and features.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and features.ndim == 5
        and features.shape[0] == 1
        and torch.backends.mkldnn.is_available()
    )
