"""Networks of S26: registration with a map of non-correspondence, and a U-Net of its outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from msseg_lightning.network.blocks import begin_at
from msseg_lightning.network.registration import SpatialTransformer, VelocityIntegration
from msseg_lightning.network.unet import check_images

IN_PLANE = (1, 2, 2)
"""Slabs have few slices: these are never halved."""


class Registered(NamedTuple):
    """Output of ``NcrNet`` in training; tuples hold one entry for each resolution, finest first.

    Args:
        logits: (B, 1, D, H, W) of the map of non-correspondence.
        deeper: the same at the coarser resolutions.
        velocities: (B, 3, D, H, W) in voxels of the resolution.
        displacements: (B, 3, D, H, W), phi: the baseline is sampled at ``x + phi(x)``.
        warped: (B, 1, D, H, W) baseline after the deformation.
        fixed: (B, 1, D, H, W) follow-up.
    """

    logits: Tensor
    deeper: tuple[Tensor, ...]
    velocities: tuple[Tensor, ...]
    displacements: tuple[Tensor, ...]
    warped: tuple[Tensor, ...]
    fixed: tuple[Tensor, ...]


def conv_block(channels: int, first: int, second: int, dropout: float) -> nn.Sequential:
    """Twice convolution, batch norm and ReLU, then dropout; borders are continued."""

    def unit(given: int, made: int) -> list[nn.Module]:
        convolution = nn.Conv3d(given, made, 3, padding=1, bias=False, padding_mode="replicate")
        return [convolution, nn.BatchNorm3d(made), nn.ReLU()]

    return nn.Sequential(*unit(channels, first), *unit(first, second), nn.Dropout(dropout))


def head(channels: int, outputs: int) -> nn.Sequential:
    """Two 1x1x1 convolutions, of which the first halves the channels."""
    half = max(1, channels // 2)
    return nn.Sequential(nn.Conv3d(channels, half, 1), nn.ReLU(), nn.Conv3d(half, outputs, 1))


def upsampled(features: Tensor) -> Tensor:
    """Twice the pixels of every slice, linearly."""
    scale = tuple(float(step) for step in IN_PLANE)
    return functional.interpolate(features, scale_factor=scale, mode="trilinear")


class StreamEncoder(nn.Module):
    """Encoder whose first level has a block of its own for each stream of images.

    Args:
        streams: images of each stream, which are its successive channels.
        stream_width: channels of each stream's block; the first level has them side by side.
        widths: channels of the levels below, each with half the pixels of the one before.
        dropout: at the end of each block.

    Shapes:
        images: (B, sum of streams, D, H, W); returns the features of all levels, finest first.
    """

    def __init__(
        self, streams: Sequence[int], stream_width: int, widths: Sequence[int], dropout: float
    ) -> None:
        super().__init__()
        self.streams = tuple(streams)
        self.first = nn.ModuleList(
            conv_block(images, stream_width, stream_width, dropout) for images in streams
        )
        self.pool = nn.MaxPool3d(IN_PLANE)
        given = [stream_width * len(self.streams), *widths]
        self.levels = nn.ModuleList(
            conv_block(above, width, width, dropout)
            for above, width in zip(given, widths, strict=False)
        )
        self.widths = tuple(given)

    def forward(self, images: Tensor) -> list[Tensor]:
        parts = images.split(self.streams, dim=1)
        blocks = zip(self.first, parts, strict=True)
        found = [torch.cat([block(part) for block, part in blocks], dim=1)]
        for level in self.levels:
            found.append(level(self.pool(found[-1])))
        return found


class SkipDecoder(nn.Module):
    """Decoder: features are enlarged, joined with those of the encoder and sent through a block.

    Args:
        encoder: channels of its levels, finest first.
        widths: channels of both convolutions of each block, finest first; as many as levels below
            the coarsest one, or fewer, where it stops before the finest.
        dropout: at the end of each block.

    Shapes:
        features: of all levels, finest first; returns those of its own, finest first.
    """

    def __init__(
        self, encoder: Sequence[int], widths: Sequence[Sequence[int]], dropout: float
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        below = encoder[-1]
        for skip, (first, second) in zip(reversed(encoder[:-1]), reversed(widths), strict=False):
            self.blocks.append(conv_block(skip + below, first, second, dropout))
            below = second

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        found = [features[-1]]
        for block, skip in zip(self.blocks, reversed(features[:-1]), strict=False):
            found.insert(0, block(torch.cat([skip, upsampled(found[0])], dim=1)))
        return found[:-1]


class NcrNet(nn.Module):
    """Registration network that marks what has no counterpart at the other visit (S26).

    One encoder looks at a slab of both visits and of their difference. One decoder gives
    stationary velocity fields, each integrated to a deformation of the baseline, the other the map
    of non-correspondence, both at several resolutions. In evaluation the answer is the map alone;
    ``register`` gives all.

    Fields are computed at half their resolution and enlarged, which makes them smooth. They begin
    at 0, and the map at ``prior``.

    Args:
        streams: images with a first block in common: 2, both visits, and 1, their difference.
        stream_width: channels of each first block.
        widths: channels of the encoder below the first level.
        decoder: channels of both convolutions of each block of the decoders, finest first; the
            finest is the map's alone.
        resolutions: of fields and maps, each with half the pixels of the one before.
        dropout: at the end of each block.
        integration_steps: squarings of ``VelocityIntegration``.
        prior: value of a new network's map, in (0, 1).

    Shapes:
        images: (B, 3, D, H, W): baseline, follow-up, follow-up minus baseline; H and W divisible
            by ``divisor``.
        returns: ``Registered`` in training, logits of the map (B, 1, D, H, W) in evaluation.

    Reference:
        NCR-Net of S26, MSSEG-2 challenge proceedings, MICCAI 2021.
    """

    def __init__(
        self,
        streams: Sequence[int],
        stream_width: int,
        widths: Sequence[int],
        decoder: Sequence[Sequence[int]],
        resolutions: int,
        dropout: float,
        integration_steps: int,
        prior: float,
    ) -> None:
        super().__init__()
        if len(decoder) != len(widths) or not 1 <= resolutions < len(widths) or sum(streams) != 3:
            raise ValueError(
                f"{len(decoder)} decoder blocks, {resolutions} resolutions and streams "
                f"{list(streams)} do not fit {len(widths)} levels and 3 images"
            )
        self.encoder = StreamEncoder(streams, stream_width, widths, dropout)
        self.field_decoder = SkipDecoder(self.encoder.widths, decoder, dropout)
        del self.field_decoder.blocks[-1]  # stops at half the resolution
        self.map_decoder = SkipDecoder(self.encoder.widths, decoder, dropout)
        outputs = [second for _, second in decoder]
        self.velocity_heads = nn.ModuleList(
            head(channels, 3) for channels in outputs[1 : resolutions + 1]
        )
        self.map_heads = nn.ModuleList(head(channels, 1) for channels in outputs[:resolutions])
        self.integrate = VelocityIntegration(integration_steps)
        self.transform = SpatialTransformer()
        self.divisor = (1, 2 ** len(widths), 2 ** len(widths))
        for part in self.velocity_heads:
            nn.init.normal_(part[-1].weight, std=1e-5)  # type: ignore[index]  # of a Sequential
            nn.init.zeros_(part[-1].bias)  # type: ignore[index]
        begin_at(prior, *(part[-1] for part in self.map_heads))  # type: ignore[index]

    def register(self, images: Tensor) -> Registered:
        """Everything that the network finds out about a slab."""
        check_images(images, 3, self.divisor)
        features = self.encoder(images)
        fields, maps = self.field_decoder(features), self.map_decoder(features)
        velocities = tuple(
            upsampled(part(field).float())
            for part, field in zip(self.velocity_heads, fields, strict=False)
        )
        logits, *deeper = (part(found) for part, found in zip(self.map_heads, maps, strict=False))
        displacements = tuple(self.integrate(velocity) for velocity in velocities)
        visits = [images[:, :2].float()]
        for velocity in velocities[1:]:
            coarser = functional.interpolate(visits[0], size=velocity.shape[2:], mode="trilinear")
            visits.append(coarser)
        warped = tuple(
            self.transform(pair[:, :1], field)
            for pair, field in zip(visits, displacements, strict=True)
        )
        fixed = tuple(pair[:, 1:] for pair in visits)
        return Registered(logits, tuple(deeper), velocities, displacements, warped, fixed)

    def forward(self, images: Tensor) -> Registered | Tensor:
        found = self.register(images)
        return found if self.training else found.logits


class StreamUNet(nn.Module):
    """3D U-Net of slabs with a first block of its own for each image (S26).

    With ``registration`` the images are made from its answer: the follow-up minus the deformed
    baseline, the map of non-correspondence where asked for, and both visits. The deformation is 0
    where the map is above ``cut``: what has no counterpart is not moved. Without it the images are
    taken as they come.

    Args:
        images: number of streams of one image each.
        stream_width: channels of each first block.
        widths: channels of the encoder below the first level.
        decoder: channels of both convolutions of each block of the decoder, finest first.
        dropout: at the end of each block.
        prior: probability of a lesion that a new network answers with, in (0, 1).
        registration: a fitted ``NcrNet``, frozen here; None for a U-Net of the images themselves.
        with_map: its map is one of the images.
        cut: see above.

    Shapes:
        images: (B, 3, D, H, W): baseline, follow-up, follow-up minus baseline; without a
            registration any that ``images`` says. H and W divisible by ``divisor``.
        returns: logits (B, 1, D, H, W).

    Reference:
        S26, MSSEG-2 challenge proceedings, MICCAI 2021.
    """

    def __init__(
        self,
        images: int,
        stream_width: int,
        widths: Sequence[int],
        decoder: Sequence[Sequence[int]],
        dropout: float,
        prior: float,
        registration: NcrNet | None = None,
        with_map: bool = True,
        cut: float = 0.5,
    ) -> None:
        super().__init__()
        made = images if registration is None else 3 + with_map
        if made != images or len(decoder) != len(widths):
            raise ValueError(
                f"{images} images and {len(decoder)} decoder blocks, expected {made} and "
                f"{len(widths)}"
            )
        self.registration = registration
        if registration is not None:
            registration.requires_grad_(False).eval()
        self.images, self.with_map, self.cut = images, with_map, cut
        self.encoder = StreamEncoder([1] * images, stream_width, widths, dropout)
        self.decoder = SkipDecoder(self.encoder.widths, decoder, dropout)
        self.head = head(decoder[0][1], 1)
        begin_at(prior, self.head[-1])
        self.divisor = (1, 2 ** len(widths), 2 ** len(widths))

    def streams(self, images: Tensor) -> Tensor:
        """(B, images, D, H, W): what the first blocks are given."""
        if self.registration is None:
            return images
        with torch.no_grad():
            found = self.registration.register(images)
            marked = found.logits.float().sigmoid()
            field = found.displacements[0] * (marked <= self.cut)
            baseline, followup = images[:, :1], images[:, 1:2]
            apart = followup - self.registration.transform(baseline, field)
            parts = [apart, marked] if self.with_map else [apart]
            return torch.cat([*parts, baseline, followup], dim=1)

    def forward(self, images: Tensor) -> Tensor:
        check_images(images, self.images if self.registration is None else 3, self.divisor)
        finest = self.decoder(self.encoder(self.streams(images)))[0]
        logits: Tensor = self.head(finest)
        return logits

    def train(self, mode: bool = True) -> StreamUNet:
        """Set the mode of the U-Net; the registration stays in evaluation mode."""
        super().train(mode)
        if self.registration is not None:
            self.registration.eval()
        return self
