"""3D U-Net with residual levels, three joined outputs and a normalised ReLU (S17)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def _convolution(before: int, after: int, kernel: int = 3, stride: int = 1) -> nn.Conv3d:
    return nn.Conv3d(before, after, kernel, stride, padding=kernel // 2, bias=False)


class PlainInstanceNorm(nn.Module):
    """Mean 0 and variance 1 per channel of each sample, without weights; one voxel becomes 0."""

    def forward(self, features: Tensor) -> Tensor:
        if features[0, 0].numel() == 1:
            return features * 0
        return functional.instance_norm(features)


def _normalised() -> list[nn.Module]:
    return [PlainInstanceNorm(), nn.LeakyReLU()]


def _enlarge(before: int, after: int) -> nn.Sequential:
    enlarge = nn.Upsample(scale_factor=2, mode="nearest")
    convolution = _convolution(before, after)
    return nn.Sequential(*_normalised(), enlarge, convolution, *_normalised())


class ResidualLevel(nn.Module):
    """Residual block of a convolution and two steps of norm, activation and the same convolution.

    Both passes use the same weights, with dropout between them.

    Args:
        before: channels of the input.
        channels: of the level.
        dropout: share of channels that are dropped.
    """

    def __init__(self, before: int, channels: int, dropout: float) -> None:
        super().__init__()
        self.first = _convolution(before, channels, stride=2)
        self.again = nn.Sequential(*_normalised(), _convolution(channels, channels))
        self.dropout = nn.Dropout3d(dropout)

    def forward(self, features: Tensor) -> Tensor:
        features = self.first(features)
        return features + self.again(self.dropout(self.again(features)))


class GridGate(nn.Module):
    """Attention gate: weights the positions of a skip by itself and the bottleneck.

    The skip is taken to half its size by a convolution of stride 2, the gating signal is enlarged
    to that; of their sum a ReLU, a convolution to one channel and a sigmoid make the map, which is
    enlarged and multiplied with the skip. A 1x1x1 convolution and an instance norm follow.

    Args:
        channels: of the skip.
        gating: of the gating signal.

    Reference:
        Oktay et al. 2018, https://arxiv.org/abs/1804.03999
    """

    def __init__(self, channels: int, gating: int) -> None:
        super().__init__()
        self.of_skip = nn.Conv3d(channels, channels, 2, stride=2, bias=False)
        self.of_gating = nn.Conv3d(gating, channels, 1)
        self.to_map = nn.Conv3d(channels, 1, 1)
        self.after = nn.Sequential(nn.Conv3d(channels, channels, 1), PlainInstanceNorm())

    def forward(self, skip: Tensor, gating: Tensor) -> Tensor:
        return self.after(skip * self.map(skip, gating))

    def map(self, skip: Tensor, gating: Tensor) -> Tensor:
        """(B, 1, X, Y, Z) in [0, 1], the size of the skip."""
        small = self.of_skip(skip)
        signal = functional.interpolate(self.of_gating(gating), small.shape[2:], mode="trilinear")
        weight = self.to_map(functional.relu(small + signal)).sigmoid()
        return functional.interpolate(weight, skip.shape[2:], mode="trilinear")


class ModifiedUNet(nn.Module):
    """U-Net of five levels with strided convolutions and nearest-neighbour upsampling (S17).

    Two lower levels of the decoder have outputs of their own, which are enlarged and added to the
    last one. The answer is the *normalised* ReLU: ``ReLU(x)`` divided by its largest value in the
    patch, 0 where no value is above 0. It is a map in [0, 1] and needs no sigmoid.

    Args:
        in_channels: images per patch.
        width: channels of the finest level, doubled at each of the other four.
        dropout: share of channels dropped inside the levels of the encoder.
        attention: gates at the three lower skips, driven by the bottleneck.
        standardise: give each image of a patch mean 0 and standard deviation 1 first; a patch of
            one value has only its mean taken away.

    Attributes:
        normalise: False returns ``ReLU(x)`` as it is, for an inference rule that divides by the
            largest value of the volume.

    Shapes:
        images: (B, in_channels, X, Y, Z), every edge divisible by ``divisor`` and above it.
        returns: (B, 1, X, Y, Z) in [0, 1].

    Reference:
        Isensee et al. 2017, https://arxiv.org/abs/1802.10508
    """

    def __init__(
        self,
        in_channels: int = 2,
        width: int = 8,
        dropout: float = 0.5,
        attention: bool = False,
        standardise: bool = True,
    ) -> None:
        super().__init__()
        w1, w2, w3, w4, w5 = (width * 2**level for level in range(5))
        self.divisor = (16, 16, 16)
        self.standardise, self.normalise = standardise, True
        self.first = _convolution(in_channels, w1)
        self.way = nn.Sequential(nn.LeakyReLU(), _convolution(w1, w1), nn.Dropout3d(dropout))
        self.way_on = nn.Sequential(nn.LeakyReLU(), _convolution(w1, w1))
        self.down = nn.ModuleList(
            ResidualLevel(before, after, dropout)
            for before, after in ((w1, w2), (w2, w3), (w3, w4), (w4, w5))
        )
        self.activate, self.between = nn.LeakyReLU(), nn.Sequential(*_normalised())
        self.gating: nn.Module | None = None
        if attention:
            self.gating = nn.Sequential(nn.Conv3d(w5, w4, 1), *_normalised())
            self.gates = nn.ModuleList(GridGate(channels, w4) for channels in (w4, w3, w2))
        self.bottom = nn.Sequential(_enlarge(w5, w4), _convolution(w4, w4, 1), *_normalised())
        self.joined = nn.ModuleList(
            nn.Sequential(_convolution(2 * channels, 2 * channels), *_normalised())
            for channels in (w4, w3, w2, w1)
        )
        self.up = nn.ModuleList(
            nn.Sequential(_convolution(2 * channels, channels, 1), _enlarge(channels, after))
            for channels, after in ((w4, w3), (w3, w2), (w2, w1))
        )
        self.heads = nn.ModuleList(_convolution(2 * channels, 1, 1) for channels in (w3, w2, w1))

    def forward(self, images: Tensor) -> Tensor:
        positive = functional.relu(self.before_activation(images).float())
        return normalised_by_maximum(positive) if self.normalise else positive

    def before_activation(self, images: Tensor) -> Tensor:
        """(B, 1, X, Y, Z) sum of the three outputs."""
        features = self.first(standardised(images) if self.standardise else images)
        features = features + self.way_on(self.way(features))
        skips = [self.activate(features)]
        for number, level in enumerate(self.down):
            if number == 0:  # the only level that is normalised behind the skip
                features = self.between(features)
            features = level(features)
            if number < len(self.down) - 1:
                features = self.between(features)
                skips.append(features)
        if self.gating is not None:
            features = self.between(features)
            signal = self.gating(features)
            for gate, place in zip(self.gates, (3, 2, 1), strict=True):
                skips[place] = gate(skips[place], signal)
        features = self.bottom(features)
        answer: Tensor | None = None
        for number, join in enumerate(self.joined):
            features = join(torch.cat([features, skips.pop()], dim=1))
            if number:
                part = self.heads[number - 1](features)
                answer = part if answer is None else part + _twice(answer)
            if number < len(self.up):
                features = self.up[number](features)
        assert answer is not None
        return answer


def _twice(answer: Tensor) -> Tensor:
    return functional.interpolate(answer, scale_factor=2.0, mode="nearest")


def standardised(images: Tensor) -> Tensor:
    """Mean 0 and standard deviation 1 of each image of each patch; (B, C, X, Y, Z)."""
    axes = tuple(range(2, images.ndim))
    centred = images - images.mean(axes, keepdim=True)
    deviation = centred.square().mean(axes, keepdim=True).sqrt()
    # rounding leaves a patch of one value a deviation that is not quite 0
    flat = deviation <= 1e-6 * images.abs().amax(axes, keepdim=True).clamp_min(1e-6)
    return centred / torch.where(flat, torch.ones_like(deviation), deviation)


def normalised_by_maximum(values: Tensor) -> Tensor:
    """Each sample of (B, ...) values of 0 and above divided by its largest; zeros stay zeros."""
    largest = values.flatten(1).amax(1).view(-1, *(1,) * (values.ndim - 1))
    return values / torch.where(largest > 0, largest, torch.ones_like(largest))
