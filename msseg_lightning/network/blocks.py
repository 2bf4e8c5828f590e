"""Building blocks of U-Nets: norms, activations, convolution blocks, down- and upsampling.

Recipes are frozen dataclasses of plain values; each builds modules once channels are known. A norm
or a way of upsampling that a paper needs is added here once and is then open to every network.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from msseg_lightning.network import fast_steps
from msseg_lightning.network.film import FilmNorm

Order = Literal["conv_norm_act", "norm_act_conv", "norm_conv_act"]
Shortcut = Literal["identity", "convolution"]
Weights = Literal["torch", "xavier", "he"]
"""How the kernels of a new network are initialised, see ``initialise``."""

ByDims = Mapping[int, Callable[..., nn.Module]]

CONVOLUTIONS: ByDims = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: ByDims = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
CONVOLVE: dict[int, Callable[..., Tensor]] = {2: functional.conv2d, 3: functional.conv3d}
TRANSPOSE: dict[int, Callable[..., Tensor]] = {
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}
MAX_POOLS: ByDims = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
BATCH_NORMS: ByDims = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
DROPOUTS: ByDims = {2: nn.Dropout2d, 3: nn.Dropout3d}
LINEAR = {2: "bilinear", 3: "trilinear"}


def per_axis(value: int | Sequence[int], dims: int) -> tuple[int, ...]:
    """One number for every axis: ``2`` is ``(2, 2, 2)`` in 3D.

    Raises:
        ValueError: a sequence of another length.
    """
    values = (value,) * dims if isinstance(value, int) else tuple(int(part) for part in value)
    if len(values) != dims:
        raise ValueError(f"{values} needs {dims} numbers, one per axis")
    return values


class InstanceNorm(nn.Module):
    """Zero mean and unit variance per channel of each sample; defined on a single voxel too.

    torch's own refuses one voxel per channel in training, which small patches reach in a deep
    bottleneck. The variance is zero there, so the normalised value is 0 and the bias remains: the
    same formula, no special meaning.

    Args:
        channels: C.
        epsilon: added to the variance.

    Shapes:
        features: (B, C, X, Y[, Z]); returns the same.
    """

    def __init__(self, channels: int, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, features: Tensor) -> Tensor:
        if features[0, 0].numel() > 1:
            return functional.instance_norm(
                features, weight=self.weight, bias=self.bias, eps=self.epsilon
            )
        shape = (1, -1, *(1,) * (features.ndim - 2))
        # 0 * features keeps the graph connected: weight gets the gradient 0, as the formula says
        return features * 0 * self.weight.view(shape) + self.bias.view(shape)


@dataclasses.dataclass(frozen=True)
class Norm:
    """Settings of a normalisation layer.

    Args:
        kind: ``batch``, ``instance``, ``group``, ``none``, or ``film``, an instance norm that
            depends on the size of voxels (``network.film``).
        groups: number of groups of ``group`` (Wu and He 2018); give this or the next.
        channels_per_group: size of a group, for papers that fix this instead.
        epsilon: added to the variance.
        hidden: units of the hidden layer of ``film``.
    """

    kind: Literal["batch", "instance", "group", "none", "film"] = "group"
    groups: int | None = None
    channels_per_group: int | None = None
    epsilon: float = 1e-5
    hidden: int = 64

    def __post_init__(self) -> None:
        if self.kind not in ("batch", "instance", "group", "none", "film"):
            raise ValueError(f"norm {self.kind!r} is not batch, instance, group, none or film")
        given = (self.groups is not None) + (self.channels_per_group is not None)
        if given != (self.kind == "group"):
            raise ValueError("group norm takes either groups or channels_per_group, others none")

    def build(self, channels: int, dims: int) -> nn.Module:
        """Build the layer for a number of channels.

        Raises:
            ValueError: the channels do not divide into the groups.
        """
        if self.kind == "none":
            return nn.Identity()
        if self.kind == "batch":
            return BATCH_NORMS[dims](channels, eps=self.epsilon)
        if self.kind == "instance":
            return InstanceNorm(channels, self.epsilon)
        if self.kind == "film":
            return FilmNorm(channels, self.hidden, self.epsilon)
        groups = self.groups or channels // (self.channels_per_group or channels)
        size = self.channels_per_group
        if groups < 1 or channels % groups or (size is not None and groups * size != channels):
            raise ValueError(f"{channels} channels do not divide into {self}")
        return nn.GroupNorm(groups, channels, eps=self.epsilon)


@dataclasses.dataclass(frozen=True)
class Activation:
    """Settings of an activation function.

    Args:
        kind: ``relu`` or ``leaky_relu``.
        slope: for negative values, of ``leaky_relu`` only.
    """

    kind: Literal["relu", "leaky_relu"] = "leaky_relu"
    slope: float = 0.01

    def build(self) -> nn.Module:
        """Build the activation, not in place, since residual blocks still need their input."""
        if self.kind == "relu":
            return nn.ReLU()
        if self.kind == "leaky_relu":
            return nn.LeakyReLU(self.slope)
        raise ValueError(f"activation {self.kind!r} is not relu or leaky_relu")


class Unit(nn.Module):
    """One convolution with its norm and activation, in the order of the recipe.

    Shapes:
        features: (B, in, X, Y[, Z]); returns (B, out, X / stride, ...).
    """

    norm: nn.Module
    act: nn.Module

    def __init__(
        self,
        recipe: Block,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, ...],
        stride: tuple[int, ...],
        norm: Norm,
    ) -> None:
        super().__init__()
        dims = len(kernel)
        normed = out_channels if recipe.order == "conv_norm_act" else in_channels
        parts: dict[str, nn.Module] = {
            "norm": norm.build(normed, dims),
            "act": recipe.activation.build(),
            "conv": CONVOLUTIONS[dims](
                in_channels,
                out_channels,
                kernel,
                stride=stride,
                padding=tuple(edge // 2 for edge in kernel),
                bias=recipe.bias,
            ),
        }
        steps = recipe.order.split("_")
        if recipe.dropout:
            parts["dropout"] = DROPOUTS[dims](recipe.dropout)
            steps.insert(steps.index("conv") + 1, "dropout")
        # registered in the order of execution, so that printing the network tells the order
        for name in steps:
            self.add_module(name, parts[name])
        self.steps: tuple[str, ...] = tuple(steps)

    def forward(self, features: Tensor) -> Tensor:
        return self.run(features, self.steps)

    def run(self, features: Tensor, steps: Sequence[str]) -> Tensor:
        """Apply some of the steps in order; residual blocks branch and add between two of them."""
        if torch.compiler.is_compiling():
            return fast_steps.run_fused(self, features, steps)
        if not torch.is_grad_enabled():
            return fast_steps.run_in_place(self, features, steps)
        for name in steps:
            features = getattr(self, name)(features)
        return features


@dataclasses.dataclass(frozen=True)
class Block:
    """Settings of the convolution block of each U-Net level, with or without a shortcut.

    Args:
        order: of norm, activation and convolution within one unit.
        residual: add the block's input to its output. Where stride or channels change, the input
            first passes a bias-free 1x1x1 convolution. With ``norm_act_conv`` that convolution
            sees the input *after* the first norm and activation (pre-activation residual networks,
            He et al. 2016, as the authors of S12 wrote it); otherwise it sees the input itself.
        units: convolutions per block.
        norm: of every unit.
        activation: of every unit.
        bias: of every 3x3x3 convolution.
        dropout: share of channels zeroed after each convolution.
        shortcut: of a residual block. ``identity`` is the one above, joined before the last
            activation. ``convolution`` always sends the input through a convolution of the
            block's kernel with bias, and adds it after the last activation, so that no activation
            stands between the levels' shortcuts (S13).
    """

    order: Order = "conv_norm_act"
    residual: bool = False
    units: int = 2
    norm: Norm = Norm("instance")
    activation: Activation = Activation()
    bias: bool = True
    dropout: float = 0.0
    shortcut: Shortcut = "identity"

    def __post_init__(self) -> None:
        if self.order not in ("conv_norm_act", "norm_act_conv", "norm_conv_act"):
            raise ValueError(f"order {self.order!r} is not known")
        if self.shortcut not in ("identity", "convolution"):
            raise ValueError(f"shortcut {self.shortcut!r} is not identity or convolution")

    def build(
        self,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, ...],
        stride: tuple[int, ...],
        first_norm: Norm | None = None,
    ) -> nn.Module:
        """Build the block; its first convolution has the stride.

        Args:
            in_channels: of the input.
            out_channels: of every convolution.
            kernel: one edge per axis, odd.
            stride: one per axis.
            first_norm: replaces the norm of the first unit (2 image channels have no 8 groups).
        """
        units = nn.ModuleList(
            Unit(
                self,
                in_channels if index == 0 else out_channels,
                out_channels,
                kernel,
                stride if index == 0 else (1,) * len(stride),
                first_norm if index == 0 and first_norm is not None else self.norm,
            )
            for index in range(self.units)
        )
        if self.residual and self.shortcut == "convolution":
            return ConvolvedResidualBlock(units, in_channels, out_channels, kernel, stride)
        if self.residual:
            return ResidualBlock(units, self.order, in_channels, out_channels, stride)
        return nn.Sequential(*units)


class ResidualBlock(nn.Module):
    """Units with a shortcut around them (see ``Block``).

    In the post-activation orders the shortcut is added before the last activation; with
    ``norm_act_conv`` nothing follows the sum, so an identity path runs through the whole level.
    """

    def __init__(
        self,
        units: nn.ModuleList,
        order: Order,
        in_channels: int,
        out_channels: int,
        stride: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.units = units
        self.preactivated = order == "norm_act_conv"
        dims = len(stride)
        changes = in_channels != out_channels or any(step != 1 for step in stride)
        self.shortcut = (
            CONVOLUTIONS[dims](in_channels, out_channels, 1, stride=stride, bias=False)
            if changes
            else None
        )

    def ordered(self) -> list[Unit]:
        """The units in order of execution."""
        return [cast(Unit, unit) for unit in self.units]

    def forward(self, features: Tensor) -> Tensor:
        first, *rest = self.ordered()
        if self.preactivated:
            activated = first.run(features, first.steps[:2])
            carried = features if self.shortcut is None else self.shortcut(activated)
            features = first.run(activated, first.steps[2:])
            for unit in rest:
                features = unit(features)
            return carried + features
        carried = features if self.shortcut is None else self.shortcut(features)
        *begin, last = self.ordered()
        for unit in begin:
            features = unit(features)
        features = last.run(features, last.steps[:-1])
        return last.run(features + carried, last.steps[-1:])


class ConvolvedResidualBlock(nn.Module):
    """Units plus a convolution of the same input as shortcut (see ``Block``)."""

    def __init__(
        self,
        units: nn.ModuleList,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, ...],
        stride: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.units = nn.Sequential(*units)
        self.shortcut = CONVOLUTIONS[len(kernel)](
            in_channels,
            out_channels,
            kernel,
            stride=stride,
            padding=tuple(edge // 2 for edge in kernel),
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.shortcut(features) + self.units(features)


class Blurred(nn.Module):
    """Anti-aliased strided or transposed convolution: its kernel is convolved with a box.

    Plain strided convolutions see the features through a lattice: shifted by one voxel, a small
    lesion answers differently. Averaging over all positions of the lattice before the stride (and
    after it, on the way up) is the same as convolving the kernel itself with that box, once per
    pass: a 3^3 kernel and stride 2 act as 4^3. The size changes by exactly the stride.

    Args:
        channels: in and out.
        stride: per axis; along axes of stride 1 nothing is smeared.
        up: enlarge (transposed convolution) instead of shrink.
        gain: sum of the box; times the stride's volume on the way up, where that many fewer
            voxels meet each kernel. 1 leaves the size of the features alone.

    Shapes:
        features: (B, channels, X, Y[, Z]); returns (B, channels, X / stride, ...) or the reverse.

    Reference:
        Zhang 2019, https://arxiv.org/abs/1904.11486, for the idea
    """

    box: Tensor

    def __init__(self, channels: int, stride: tuple[int, ...], up: bool, gain: float = 1.0) -> None:
        super().__init__()
        dims, volume = len(stride), math.prod(stride)
        layer = (TRANSPOSED if up else CONVOLUTIONS)[dims]
        self.convolution = layer(channels, channels, 3, stride=stride, padding=1)
        self.stride, self.up = stride, up
        total = gain * volume if up else gain
        self.register_buffer("box", torch.full((1, 1, *stride), total / volume), persistent=False)

    def kernel(self) -> Tensor:
        """The effective kernel: (in or out, out or in, 2 + stride, ...)."""
        weight = cast(Tensor, self.convolution.weight)
        planes = weight.reshape(-1, 1, *weight.shape[2:])
        padding = tuple(step - 1 for step in self.stride)
        smeared = CONVOLVE[len(self.stride)](planes, self.box.to(planes.dtype), padding=padding)
        return smeared.view(*weight.shape[:2], *smeared.shape[2:])

    def forward(self, features: Tensor) -> Tensor:
        run = (TRANSPOSE if self.up else CONVOLVE)[len(self.stride)]
        bias = self.convolution.bias
        return run(features, self.kernel(), bias, stride=self.stride, padding=1)


@dataclasses.dataclass(frozen=True)
class Down:
    """Settings of downsampling between levels.

    Args:
        kind: ``in_block`` is a strided first convolution inside the next block, ``max_pool`` a
            pooling in front of it, ``blurred`` a smeared strided convolution (see ``Blurred``).
        dropout: share of features zeroed after a pooling.
        whole_channels: that dropout takes channels instead of single voxels.
        gain: of ``blurred``.
    """

    kind: Literal["in_block", "max_pool", "blurred"] = "in_block"
    dropout: float = 0.0
    whole_channels: bool = False
    gain: float = 1.0

    def build(self, stride: tuple[int, ...], channels: int) -> nn.Module:
        """Build the layer before the block; an identity if the block has the stride."""
        if self.kind == "in_block":
            return nn.Identity()
        if self.kind == "blurred":
            return Blurred(channels, stride, up=False, gain=self.gain)
        if self.kind != "max_pool":
            raise ValueError(f"down {self.kind!r} is not in_block, max_pool or blurred")
        dims = len(stride)
        drop = DROPOUTS[dims] if self.whole_channels else nn.Dropout
        pool = MAX_POOLS[dims](stride)
        return nn.Sequential(pool, drop(self.dropout)) if self.dropout else pool


class LinearUp(nn.Module):
    """Upsampling by linear interpolation."""

    def __init__(self, stride: tuple[int, ...]) -> None:
        super().__init__()
        self.scale = tuple(float(step) for step in stride)
        self.mode = LINEAR[len(stride)]

    def forward(self, features: Tensor) -> Tensor:
        return functional.interpolate(
            features, scale_factor=self.scale, mode=self.mode, align_corners=False
        )


def initialise(network: nn.Module, kind: Weights) -> None:
    """Initialise all convolutions of a network in place; biases become 0.

    Args:
        network: all convolutions inside it, transposed ones too.
        kind: ``xavier`` (uniform, Glorot and Bengio 2010), ``he`` (normal, He et al. 2015, by the
            number of inputs), or ``torch``, which leaves them as torch drew them.
    """
    if kind not in ("torch", "xavier", "he"):
        raise ValueError(f"weights {kind!r} are not torch, xavier or he")
    if kind == "torch":
        return
    kernels = (*CONVOLUTIONS.values(), *TRANSPOSED.values())
    for module in network.modules():
        if isinstance(module, kernels):  # type: ignore[arg-type]  # classes, typed as callables
            weight, bias = cast(Tensor, module.weight), cast(Tensor | None, module.bias)
            if kind == "xavier":
                nn.init.xavier_uniform_(weight)
            else:
                nn.init.kaiming_normal_(weight, nonlinearity="relu")
            if bias is not None:
                nn.init.zeros_(bias)


def begin_at(prior: float | None, *heads: nn.Module) -> None:
    """Set the biases of heads so that a new network answers with about this probability.

    Args:
        prior: in (0, 1); None leaves the biases as they are.
        heads: convolutions that give logits.
    """
    if prior is None:
        return
    if not 0 < prior < 1:
        raise ValueError(f"prior is {prior}, not between 0 and 1")
    for head in heads:
        nn.init.constant_(cast(Tensor, head.bias), math.log(prior / (1 - prior)))


@dataclasses.dataclass(frozen=True)
class Up:
    """Settings of upsampling between levels.

    Args:
        kind: ``transposed`` convolution to the finer level's channels, or, keeping the channels,
            ``linear`` interpolation, the ``nearest`` neighbour (each voxel repeated) or a
            ``blurred`` transposed convolution (see ``Blurred``).
        kernel: edge of the transposed convolution; ``None`` is the stride (no overlap).
        bias: of the transposed convolution.
        gain: of ``blurred``.
    """

    kind: Literal["transposed", "linear", "nearest", "blurred"] = "transposed"
    kernel: int | None = None
    bias: bool = True
    gain: float = 1.0

    def channels(self, coarse: int, fine: int) -> int:
        """Number of channels after upsampling."""
        return fine if self.kind == "transposed" else coarse

    def build(self, coarse: int, fine: int, stride: tuple[int, ...]) -> nn.Module:
        """Build the layer; its output is exactly ``stride`` times larger.

        Raises:
            ValueError: the kernel cannot give that size.
        """
        if self.kind == "linear":
            return LinearUp(stride)
        if self.kind == "nearest":
            return nn.Upsample(scale_factor=tuple(float(step) for step in stride))
        if self.kind == "blurred":
            return Blurred(coarse, stride, up=True, gain=self.gain)
        if self.kind != "transposed":
            raise ValueError(f"up {self.kind!r} is not transposed, linear, nearest or blurred")
        kernel = stride if self.kernel is None else (self.kernel,) * len(stride)
        # size = (n - 1) * stride - 2 * padding + kernel + extra, wanted: n * stride
        padding = tuple(
            max(0, -(-(edge - step) // 2)) for edge, step in zip(kernel, stride, strict=True)
        )
        extra = tuple(
            step - edge + 2 * pad for edge, step, pad in zip(kernel, stride, padding, strict=True)
        )
        if any(size < 0 or size >= step for size, step in zip(extra, stride, strict=True)):
            raise ValueError(f"a transposed kernel of {kernel} cannot enlarge by {stride}")
        return TRANSPOSED[len(stride)](
            coarse,
            fine,
            kernel,
            stride=stride,
            padding=padding,
            output_padding=extra,
            bias=self.bias,
        )
