"""Network of S27: registration and segmentation trained together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from msseg_lightning.network.blocks import Activation, Block, Norm, begin_at
from msseg_lightning.network.products import apply_head
from msseg_lightning.network.registration import SpatialTransformer
from msseg_lightning.network.unet import check_images


class RegisteredSegmentation(NamedTuple):
    """Output of ``JointRegistration`` in training.

    Args:
        logits: (B, 1, X, Y, Z) of new lesions.
        displacement: (B, 3, X, Y, Z), phi: the baseline is sampled at ``x + phi(x)``.
        warped: (B, 1, X, Y, Z) baseline after the deformation.
        fixed: (B, 1, X, Y, Z) follow-up.
    """

    logits: Tensor
    displacement: Tensor
    warped: Tensor
    fixed: Tensor


class RegistrationUNet(nn.Module):
    """U-Net of VoxelMorph: a displacement for every voxel of two images.

    Each level of the encoder is one convolution of stride 2; each level of the decoder is one
    convolution, nearest-neighbour enlargement and the skip of that resolution, of which the last is
    the images themselves. More convolutions follow at full resolution. All are 3x3x3 with a leaky
    ReLU. The last one, without it, begins near 0: a new network moves nothing.

    Args:
        encoder: channels of each level, finest first.
        decoder: channels of each level, coarsest first; as many.
        last: channels of the convolutions at full resolution.
        slope: of the leaky ReLU for negative values.

    Shapes:
        images: (B, 2, X, Y, Z), every edge divisible by ``divisor``.
        returns: displacement (B, 3, X, Y, Z) in voxels.

    Reference:
        Balakrishnan et al. 2019, https://arxiv.org/abs/1809.05231
    """

    def __init__(
        self,
        encoder: Sequence[int],
        decoder: Sequence[int],
        last: Sequence[int],
        slope: float = 0.2,
    ) -> None:
        super().__init__()
        if len(encoder) != len(decoder):
            raise ValueError(f"{len(encoder)} levels of the encoder, {len(decoder)} of the decoder")

        recipe = Block(units=1, norm=Norm("none"), activation=Activation("leaky_relu", slope=slope))

        def unit(given: int, made: int, stride: int = 1) -> nn.Module:
            return recipe.build(given, made, (3, 3, 3), (stride,) * 3)

        skips = [2, *encoder]
        self.encoder = nn.ModuleList(
            unit(given, made, stride=2) for given, made in zip(skips, encoder, strict=False)
        )
        self.decoder, below = nn.ModuleList(), encoder[-1]
        for made, skip in zip(decoder, reversed(skips[:-1]), strict=True):
            self.decoder.append(unit(below, made))
            below = made + skip
        widths = [below, *last]
        units = (unit(given, made) for given, made in zip(widths, last, strict=False))
        self.last = nn.Sequential(*units, nn.Conv3d(widths[-1], 3, 3, padding=1))
        self.enlarge = nn.Upsample(scale_factor=2, mode="nearest")
        self.divisor = (2 ** len(encoder),) * 3
        nn.init.normal_(self.last[-1].weight, std=1e-5)  # type: ignore[arg-type]  # of a convolution
        nn.init.zeros_(self.last[-1].bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        check_images(images, 2, self.divisor)
        found = [images]
        for level in self.encoder:
            found.append(level(found[-1]))
        features = found.pop()
        for level in self.decoder:
            features = torch.cat([self.enlarge(level(features)), found.pop()], dim=1)
        displacement: Tensor = self.last(features)
        return displacement


class JointRegistration(nn.Module):
    """Segmentation from both visits and from the deformation between them, learned together (S27).

    One network finds the deformation of the baseline onto the follow-up. Two U-Nets follow, one of
    the visits as they are and one of the deformation; their features are joined before the
    classifier, a 1x1x1 convolution. A loss of the segmentation therefore also teaches the
    registration. The deformed baseline is seen by the loss alone.

    Args:
        registration: (B, 2, X, Y, Z) -> displacement (B, 3, X, Y, Z) in voxels.
        branch: makes a U-Net of ``in_channels`` images whose answer is features; called twice.
        width: channels of these features.
        prior: probability of a lesion that a new network answers with; None draws the bias.

    Shapes:
        images: (B, 2, X, Y, Z): baseline, follow-up; every edge divisible by ``divisor``.
        returns: ``RegisteredSegmentation`` in training, logits (B, 1, X, Y, Z) in evaluation.

    Reference:
        S27, MSSEG-2 challenge proceedings, MICCAI 2021.
    """

    def __init__(
        self,
        registration: nn.Module,
        branch: Callable[..., nn.Module],
        width: int,
        prior: float | None = None,
    ) -> None:
        super().__init__()
        self.registration = registration
        self.of_images, self.of_field = branch(in_channels=2), branch(in_channels=3)
        self.classifier = nn.Conv3d(2 * width, 1, 1)
        self.transform = SpatialTransformer()
        parts = (registration, self.of_images, self.of_field)
        self.divisor = tuple(
            max(edges) for edges in zip(*(part.divisor for part in parts), strict=True)
        )
        begin_at(prior, self.classifier)

    def forward(self, images: Tensor) -> RegisteredSegmentation | Tensor:
        check_images(images, 2, self.divisor)
        displacement = self.registration(images)
        features = torch.cat([self.of_images(images), self.of_field(displacement)], dim=1)
        logits = apply_head(self.classifier, features)
        if not self.training:
            return logits
        baseline, followup = images[:, :1].float(), images[:, 1:].float()
        warped = self.transform(baseline, displacement)
        return RegisteredSegmentation(logits, displacement, warped, followup)
