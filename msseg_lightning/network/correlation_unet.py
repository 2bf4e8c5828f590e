"""U-Net that compares two visits by the correlation of their features (S25)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.network.blocks import Norm

CHANNELS_PER_GROUP = 4
"""Of the group norms of S25's public code; the width of a level must divide by it."""


class Reconstruction(NamedTuple):
    """Output of the autoencoder for a pair of visits.

    Args:
        logits: (B, 2, X, Y, Z), reconstructed baseline and follow-up; intensities, no activation.
        images: (B, 2, X, Y, Z), the input.
        first: features of the baseline, each level of the encoder, then the bottleneck.
        second: the same of the follow-up.
    """

    logits: Tensor
    images: Tensor
    first: tuple[Tensor, ...]
    second: tuple[Tensor, ...]


class Level(nn.Module):
    """Convolution plus shortcut, then ReLU, then group norm: the block of S25's public code.

    The shortcut is the input itself, or its 1x1x1 convolution where the width changes. Unlike the
    blocks of ``network.blocks`` the norm comes last.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        groups: norm of the output.

    Shapes:
        features: (B, in_channels, X, Y, Z); returns (B, out_channels, X, Y, Z).
    """

    def __init__(self, in_channels: int, out_channels: int, groups: Norm) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, 3, padding=1)
        self.shortcut = (
            nn.Conv3d(in_channels, out_channels, 1) if in_channels != out_channels else None
        )
        self.norm = groups.build(out_channels, 3)

    def forward(self, features: Tensor) -> Tensor:
        carried = features if self.shortcut is None else self.shortcut(features)
        return self.norm(functional.relu(self.conv(features) + carried))


class PointwiseResidual(nn.Module):
    """``conv1(x) + shortcut1(x)``, without norm or activation: one image from the last features."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, 1, 1)
        self.shortcut = nn.Conv3d(in_channels, 1, 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.conv(features) + self.shortcut(features)


class CorrelationGate(nn.Module):
    """Difference of the features of two visits, weighted by their lack of correlation.

    With ``Q`` and ``K`` 1x1x1 convolutions of baseline and follow-up features, standardised, and
    ``V`` one of *follow-up minus baseline*, ``alpha = |mean over channels of Q K|`` and the output
    is ``norm(relu(clamp(1 - alpha, 0, 1) * V))``. The paper's equation 1 weights by ``alpha``, its
    words and the public code by ``1 - alpha``: the code decides.

    ``V`` of the ``features`` is what the public code does. Equation 1 takes the difference of the
    ``standardised`` features; a single voxel has none over space, so that the bottleneck of a patch
    of 32 voxels then passes a constant.

    ``space`` standardises each channel over the patch (instance norm without weights), as the code
    does. Then ``alpha`` of a single voxel may exceed 1, hence the clamp; its mean over the patch
    does not. ``channels`` standardises each voxel over the channels, which makes ``alpha`` the
    absolute Pearson coefficient of the text.

    Args:
        in_channels: of each visit's features.
        out_channels: of the output.
        query_channels: of Q and K.
        groups: norm of the output.
        standardise: see above.
        difference: of what ``V`` is made, see above.
        epsilon: added to the variance. A single voxel has the variance 0 over space: Q and K are 0
            there and the gate stands open.

    Shapes:
        first, second: (B, in_channels, X, Y, Z); returns (B, out_channels, X, Y, Z).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        query_channels: int,
        groups: Norm,
        standardise: Literal["space", "channels"] = "space",
        difference: Literal["features", "standardised"] = "features",
        epsilon: float = 1e-5,
    ) -> None:
        super().__init__()
        if standardise not in ("space", "channels"):
            raise ValueError(f"standardise {standardise!r} is neither space nor channels")
        if difference not in ("features", "standardised"):
            raise ValueError(f"difference {difference!r} is neither features nor standardised")
        self.difference = difference
        self.query = nn.Conv3d(in_channels, query_channels, 1)
        self.key = nn.Conv3d(in_channels, query_channels, 1)
        self.value = nn.Conv3d(in_channels, out_channels, 1)
        self.norm = groups.build(out_channels, 3)
        self.axes = (2, 3, 4) if standardise == "space" else (1,)
        self.epsilon = epsilon

    def correlation(self, first: Tensor, second: Tensor) -> Tensor:
        """alpha, (B, 1, X, Y, Z), >= 0."""
        query, key = self._standard(self.query(first)), self._standard(self.key(second))
        return (query * key).mean(1, keepdim=True).abs()

    def gated(self, first: Tensor, second: Tensor) -> Tensor:
        """The weighted difference before ReLU and norm."""
        open_share = (1 - self.correlation(first, second)).clamp(0, 1)
        if self.difference == "standardised":
            first, second = self._standard(first), self._standard(second)
        return open_share * self.value(second - first)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.norm(functional.relu(self.gated(first, second)))

    def _standard(self, features: Tensor) -> Tensor:
        # written out: torch's instance norm refuses the one voxel of a deep bottleneck
        variance, mean = torch.var_mean(features, self.axes, correction=0, keepdim=True)
        return (features - mean) * torch.rsqrt(variance + self.epsilon)


class Encoder(nn.Module):
    """Encoder that is shared by both visits: levels with max pooling between them.

    Args:
        widths: of the levels.
        groups: norm of every level.

    Shapes:
        image: (B, 1, X, Y, Z), edges divisible by ``2 ** len(widths)``.
        returns: the features of each level before its pooling, finest first, and the pooled last.
    """

    def __init__(self, widths: Sequence[int], groups: Norm) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            Level(before, width, groups)
            for before, width in zip((1, *widths), widths, strict=False)
        )

    def forward(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        skips, features = [], image
        for level in self.levels:
            skips.append(level(features))
            features = functional.max_pool3d(skips[-1], 2)
        return skips, features


class Decoder(nn.Module):
    """Decoder: nearest-neighbour upsampling, concatenated skip, level.

    Args:
        widths: of all levels, the bottleneck last.
        groups: norm of every level.
    """

    def __init__(self, widths: Sequence[int], groups: Norm) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            Level(coarse + fine, fine, groups)
            for coarse, fine in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )

    def forward(self, features: Tensor, skips: Sequence[Tensor]) -> Tensor:
        for level, skip in zip(self.levels, reversed(skips), strict=True):
            enlarged = functional.interpolate(features, size=skip.shape[2:], mode="nearest")
            features = level(torch.cat([enlarged, skip], dim=1))
        return features


class PairAutoencoder(nn.Module):
    """Autoencoder of both visits, for training without labels.

    One encoder and one decoder serve both visits. Two small heads, one per visit as the paper has
    it (the public code uses the first for both), give the images back.

    Args:
        widths: of all levels, the bottleneck last.
        channels_per_group: of every group norm.

    Shapes:
        images: (B, 2, X, Y, Z), baseline and follow-up.
        returns: ``Reconstruction``.
    """

    def __init__(self, widths: Sequence[int], channels_per_group: int = CHANNELS_PER_GROUP) -> None:
        super().__init__()
        groups = Norm("group", channels_per_group=channels_per_group)
        self.divisor = 2 ** (len(widths) - 1)
        self.encoder = Encoder(widths[:-1], groups)
        self.bottleneck = Level(widths[-2], widths[-1], groups)
        self.decoder = Decoder(widths, groups)
        self.first_head, self.second_head = (PointwiseResidual(widths[0]) for _ in range(2))

    def forward(self, images: Tensor) -> Reconstruction:
        check_pair(images, self.divisor)
        first, first_image = self._visit(images[:, :1], self.first_head)
        second, second_image = self._visit(images[:, 1:], self.second_head)
        images_again = torch.cat([first_image, second_image], dim=1)
        return Reconstruction(images_again, images, first, second)

    def _visit(self, image: Tensor, head: nn.Module) -> tuple[tuple[Tensor, ...], Tensor]:
        skips, pooled = self.encoder(image)
        deepest = self.bottleneck(pooled)
        return (*skips, deepest), head(self.decoder(deepest, skips))


class CorrelationUNet(nn.Module):
    """U-Net whose skips and bottleneck are gated differences of the two visits' features.

    With the widths of the paper, 16 32 64 128 256 512, it has 8,930,833 parameters.

    Args:
        widths: of all levels, the bottleneck last.
        channels_per_group: of every group norm.
        query_share: width of Q and K as a share of the features that enter a gate.
        standardise: see ``CorrelationGate``.
        difference: see ``CorrelationGate``.
        pretrained: a fitted ``PairAutoencoder`` of the same widths. The levels of its encoder are
            copied; its bottleneck, decoder and heads are not used, and nothing is frozen.

    Shapes:
        images: (B, 2, X, Y, Z), baseline and follow-up, edges divisible by ``divisor``.
        returns: logits (B, 1, X, Y, Z).

    Raises:
        MssegError: exit 2, the pre-trained encoder has other widths.
    """

    def __init__(
        self,
        widths: Sequence[int],
        channels_per_group: int = CHANNELS_PER_GROUP,
        query_share: float = 0.5,
        standardise: Literal["space", "channels"] = "space",
        difference: Literal["features", "standardised"] = "features",
        pretrained: nn.Module | None = None,
    ) -> None:
        super().__init__()
        groups = Norm("group", channels_per_group=channels_per_group)
        self.divisor = 2 ** (len(widths) - 1)
        self.encoder = Encoder(widths[:-1], groups)
        ends = [*((width, width) for width in widths[:-1]), (widths[-2], widths[-1])]
        self.gates = nn.ModuleList(
            CorrelationGate(
                enter, leave, round(enter * query_share), groups, standardise, difference
            )
            for enter, leave in ends
        )
        self.decoder = Decoder(widths, groups)
        self.head = nn.Conv3d(widths[0], 1, 1)
        if pretrained is not None:
            self._start_from(pretrained)

    def forward(self, images: Tensor) -> Tensor:
        check_pair(images, self.divisor)
        first, first_pooled = self.encoder(images[:, :1])
        second, second_pooled = self.encoder(images[:, 1:])
        *skips, deepest = (
            gate(one, other)
            for gate, one, other in zip(
                self.gates, [*first, first_pooled], [*second, second_pooled], strict=True
            )
        )
        return self.head(self.decoder(deepest, skips))

    def _start_from(self, pretrained: nn.Module) -> None:
        encoder = getattr(pretrained, "encoder", None)
        given = {} if encoder is None else encoder.state_dict()
        wanted = self.encoder.state_dict()
        if {name: value.shape for name, value in given.items()} != {
            name: value.shape for name, value in wanted.items()
        }:
            raise MssegError(
                Problem(
                    "network.pretrained",
                    "The pre-trained encoder does not fit this network.",
                    field="widths",
                    remedy="give both stages the same widths",
                    exit_code=ExitCode.CONFIG,
                )
            )
        self.encoder.load_state_dict(given)


def check_pair(images: Tensor, divisor: int) -> None:
    """Refuse input that is not two visits of a divisible size (exit 2)."""
    edges = tuple(images.shape[2:])
    if images.shape[1] == 2 and not any(edge % divisor for edge in edges):
        return
    raise MssegError(
        Problem(
            "network.patch",
            "The network compares two images on a patch that it halves several times.",
            field="channels and patch size",
            found=f"{images.shape[1]} images of {'x'.join(map(str, edges))}",
            expected=f"2 images, edges divisible by {divisor}",
            remedy="name two images in the data, choose patch and window sizes that are "
            "multiples of these",
            exit_code=ExitCode.CONFIG,
        )
    )
