"""Network with a fine pathway and a coarse pathway with a larger field of view (S11)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from msseg_lightning.core.problem import ExitCode, MssegError, Problem


def _unit(in_channels: int, out_channels: int, kernel: int, dropout: float = 0.0) -> nn.Module:
    """Unpadded convolution, batch norm, PReLU with a slope per channel."""
    parts: list[nn.Module] = [nn.Dropout(dropout)] if dropout else []
    parts += [
        nn.Conv3d(in_channels, out_channels, kernel),
        nn.BatchNorm3d(out_channels),
        nn.PReLU(out_channels),
    ]
    return nn.Sequential(*parts)


class TwoPathways(nn.Module):
    """Two pathways of unpadded 3x3x3 convolutions, joined by 1x1x1 convolutions.

    Of a patch of 97 voxels the fine pathway is given the 33 voxels in the middle, the coarse one
    every third voxel, 33 too. Seven convolutions leave 19 voxels of the fine patch; eight leave 17
    of the coarse one, each repeated to 3 x 3 x 3, of whose 51 the middle 19 are kept: the same
    part of the patch. Two layers of 1x1x1 convolutions and a last one make logits of both.

    The kept part of the coarse pathway reaches 33 voxels to each side of the patch's middle.

    Args:
        in_channels: images per patch.
        fine: channels of the convolutions of the fine pathway.
        coarse: channels of those of the coarse one.
        joined: channels of the 1x1x1 convolutions before the last.
        out_channels: channels of the logits.
        edge: of what each pathway is given, in voxels of its own scale, odd.
        step: the coarse pathway sees every so-manyth voxel, odd.
        dropout: share of features zeroed before each of the ``joined`` convolutions.

    Attributes:
        size: edge of the patch, ``step * (edge - 1) + 1``.
        output: edge of the logits, ``edge - 2 * len(fine)``.

    Shapes:
        images: (B, in_channels, size, size, size).
        returns: logits (B, out_channels, output, output, output) of the patch's middle.

    Reference:
        Kamnitsas et al. 2017, https://arxiv.org/abs/1603.05959
    """

    def __init__(
        self,
        in_channels: int = 2,
        fine: Sequence[int] = (30, 40, 50, 60, 70, 80, 90),
        coarse: Sequence[int] = (30, 40, 50, 60, 70, 80, 90, 100),
        joined: Sequence[int] = (300, 300),
        out_channels: int = 1,
        edge: int = 33,
        step: int = 3,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.in_channels, self.edge, self.step = in_channels, edge, step
        self.size, self.output = step * (edge - 1) + 1, edge - 2 * len(fine)
        repeated = step * (edge - 2 * len(coarse))
        if edge % 2 == 0 or step % 2 == 0:
            raise ValueError(f"edge {edge} and step {step} must be odd: both scales share a middle")
        if not 1 <= self.output <= repeated:
            raise ValueError(
                f"an edge of {edge} leaves {self.output} fine and {repeated} coarse voxels"
            )
        self.fine = self._pathway(in_channels, fine)
        self.coarse = self._pathway(in_channels, coarse)
        widths = [fine[-1] + coarse[-1], *joined]
        self.joined = nn.Sequential(
            *(_unit(before, after, 1, dropout) for before, after in itertools.pairwise(widths))
        )
        self.head = nn.Conv3d(widths[-1], out_channels, 1)

    @staticmethod
    def _pathway(in_channels: int, widths: Sequence[int]) -> nn.Sequential:
        before = [in_channels, *widths]
        return nn.Sequential(
            *(_unit(given, made, 3) for given, made in zip(before, widths, strict=False))
        )

    def fine_features(self, images: Tensor) -> Tensor:
        """(B, C, output, ...) of the middle of the patch."""
        return self.fine(_middle(images, self.edge))

    def coarse_features(self, images: Tensor) -> Tensor:
        """(B, C, edge - 2 * layers, ...), a voxel for every ``step`` voxels of the patch."""
        return self.coarse(images[..., :: self.step, :: self.step, :: self.step])

    def forward(self, images: Tensor) -> Tensor:
        self._check(images)
        repeated = functional.interpolate(
            self.coarse_features(images), scale_factor=float(self.step), mode="nearest"
        )
        both = torch.cat([self.fine_features(images), _middle(repeated, self.output)], dim=1)
        return self.head(self.joined(both))

    def _check(self, images: Tensor) -> None:
        expected = (self.in_channels, self.size, self.size, self.size)
        if tuple(images.shape[1:]) != expected:
            raise MssegError(
                Problem(
                    "network.patch",
                    "The patch is not the one that both pathways were built for.",
                    field="patch size",
                    found="x".join(map(str, images.shape[1:])),
                    expected="x".join(map(str, expected)),
                    remedy="name as many images as network.in_channels, and this edge in "
                    "sample.size and infer.size",
                    exit_code=ExitCode.CONFIG,
                )
            )


def _middle(features: Tensor, edge: int) -> Tensor:
    """Central cube of features with a given edge."""
    start = (features.shape[-1] - edge) // 2
    part = slice(start, start + edge)
    return features[..., part, part, part]
