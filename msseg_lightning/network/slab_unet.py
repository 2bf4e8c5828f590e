"""U-Net that reduces a slab of slices to its middle one, then works in its plane (S23)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from msseg_lightning.core.problem import ExitCode, MssegError, Problem


def _in_plane(in_channels: int, out_channels: int, dilation: int = 1) -> nn.Sequential:
    """A 3x3 convolution that continues the slice by its border and keeps the size."""
    pad = nn.ReplicationPad2d(dilation)
    return nn.Sequential(pad, nn.Conv2d(in_channels, out_channels, 3, dilation=dilation))


def _level(in_channels: int, out_channels: int) -> nn.Sequential:
    """Two convolutions, each with instance norm without weights and ReLU."""
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        layers += [_in_plane(channels, out_channels), nn.InstanceNorm2d(out_channels), nn.ReLU()]
    return nn.Sequential(*layers)


class DepthReduction(nn.Module):
    """A 3x3x3 convolution that takes one slice off either end of a slab.

    Args:
        in_channels: of the slab.
        out_channels: of the thinner slab.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv3d(in_channels, out_channels, 3)
        self.norm = nn.InstanceNorm3d(out_channels)

    def forward(self, slab: Tensor) -> Tensor:
        slab = functional.pad(slab, (1, 1, 1, 1, 0, 0), mode="replicate")
        return functional.relu(self.norm(self.convolution(slab)))


class DenseUnit(nn.Module):
    """Appends a few features, seen at a distance, to those it was given.

    Args:
        in_channels: of what it is given.
        growth: features that are appended.
        dilation: of its convolution.
    """

    def __init__(self, in_channels: int, growth: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(in_channels)
        self.convolution = _in_plane(in_channels, growth, dilation)

    def forward(self, features: Tensor) -> Tensor:
        new = self.convolution(functional.relu(self.norm(features)))
        return torch.cat([features, new], dim=1)


class FeatureAttention(nn.Module):
    """Multiplies every feature at every pixel by a weight in (0, 1) made from all of them.

    Args:
        channels: of the features; a quarter of them stands between the two convolutions.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        middle = channels // 4
        self.weight = nn.Sequential(
            nn.InstanceNorm2d(channels),
            nn.ReLU(),
            _in_plane(channels, middle),
            nn.InstanceNorm2d(middle),
            nn.ReLU(),
            _in_plane(middle, channels),
            nn.Sigmoid(),
        )

    def forward(self, features: Tensor) -> Tensor:
        return features * self.weight(features)


class SlabUNet(nn.Module):
    """Logits of the middle slice of a slab.

    Convolutions without padding across slices reduce the slab to one slice; after that the network
    is a U-Net of one level in the plane, with groups of dilated dense units, each followed by an
    attention, at half the resolution.

    Args:
        in_channels: images per slab.
        slices: of a slab, odd; ``(slices - 1) / 2`` convolutions reduce it to one.
        slab_width: channels of the slab.
        width: channels of the level at full resolution.
        growth: features that a dense unit appends.
        dilations: of the groups of dense units.
        units: dense units per group.
        log_variance: a second head for losses that ask how sure the network is. None of ours does,
            so it is not trained; its weights are kept so that the layout is the published one.
        out_channels: of the logits.
        pretrained: network of the same layout whose weights this one begins with. Where it has
            other input channels, the new ones begin with the mean of its own, and all are scaled so
            that equal images give equal features.

    Shapes:
        images: (B, in_channels, slices, H, W), H and W even.
        returns: logits (B, out_channels, H, W).

    Reference:
        McKinley et al. 2021, https://arxiv.org/abs/1904.02436 (DeepSCAN), and the layout of
        https://github.com/SCAN-NRAD/DL-DiReCT
    """

    def __init__(
        self,
        in_channels: int,
        slices: int = 7,
        slab_width: int = 32,
        width: int = 64,
        growth: int = 16,
        dilations: Sequence[int] = (1, 2, 4, 8),
        units: int = 4,
        log_variance: bool = True,
        out_channels: int = 1,
        pretrained: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if slices < 3 or slices % 2 == 0:
            raise ValueError(f"a slab of {slices} slices; give an odd number, 3 or more")
        self.in_channels, self.slices, self.divisor = in_channels, slices, (2, 2)
        inputs = [in_channels] + [slab_width] * (slices // 2 - 1)
        self.reduce = nn.Sequential(*(DepthReduction(each, slab_width) for each in inputs))
        self.fine = _level(slab_width, width)
        self.pool = nn.MaxPool2d(2)
        dense: list[nn.Module] = []
        channels = width
        for dilation in dilations:
            for _ in range(units):
                dense.append(DenseUnit(channels, growth, dilation))
                channels += growth
            dense.append(FeatureAttention(channels))
        self.coarse = nn.Sequential(*dense)
        self.up = nn.Sequential(
            nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=True),
            _in_plane(channels, channels),
        )
        self.joined = _level(channels + width, channels)
        self.head = nn.Conv2d(channels, out_channels, 1)
        self.log_variance = None
        if log_variance:
            self.log_variance = nn.Conv2d(channels, out_channels, 1).requires_grad_(False)
        if pretrained is not None:
            try:
                self.load_state_dict(_widened(pretrained.state_dict(), self.state_dict()))
            except (RuntimeError, KeyError) as error:
                raise ValueError("pretrained has another layout; give both the same") from error

    def forward(self, images: Tensor) -> Tensor:
        self._check(images)
        fine = self.fine(self.reduce(images).squeeze(2))
        coarse = self.coarse(self.pool(fine))
        return self.head(self.joined(torch.cat([fine, self.up(coarse)], dim=1)))

    def _check(self, images: Tensor) -> None:
        """Refuse slabs of a wrong number of images or slices, or of odd edges."""
        found = tuple(images.shape[1:])
        even = images.ndim == 5 and not any(edge % 2 for edge in found[2:])
        if not even or found[:2] != (self.in_channels, self.slices):
            raise MssegError(
                Problem(
                    "network.slab",
                    "The slab does not fit the network.",
                    field="channels, sample.loader.depth, sample.size",
                    found="x".join(map(str, found)),
                    expected=f"{self.in_channels} images, {self.slices} slices, even edges",
                    remedy=f"sample.loader.depth={self.slices} infer.depth={self.slices}, an even "
                    f"sample.size and {self.in_channels} images under channels.images",
                    exit_code=ExitCode.CONFIG,
                )
            )


def _widened(given: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a network, those of its first convolution spread over other input channels."""
    first = "reduce.0.convolution.weight"
    kernel, channels = given[first], wanted[first].shape[1]
    known = kernel.shape[1]
    if channels == known:
        return given
    mean = kernel.mean(1, keepdim=True).expand(-1, max(0, channels - known), -1, -1, -1)
    spread = torch.cat([kernel[:, :channels], mean], dim=1)
    return {**given, first: spread * (known / channels)}
