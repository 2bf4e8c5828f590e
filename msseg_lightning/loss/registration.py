"""Similarity of two images, smoothness of a displacement, and their sum with a loss."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional


class LocalCorrelation(nn.Module):
    """One minus the squared local correlation of two images, as a map.

    Around each voxel the squared correlation coefficient of the two images is taken over a square
    window of its slice (MONAI's ``LocalNormalizedCrossCorrelationLoss``, unreduced). Brightness
    and contrast of a window do not matter.

    In a window without structure the coefficient is that of the noise, about 0, and would call
    tissue that did not change dissimilar. Variances below that of the noise therefore count as the
    noise's, and two windows of noise alone have distance 0.

    Args:
        window: edge of the window in voxels, odd.
        noise: standard deviation of the noise, in units of the images, > 0.

    Shapes:
        warped, fixed: (B, 1, D, H, W), D slices; returns the same in [0, 1], float32.
    """

    def __init__(self, window: int, noise: float) -> None:
        from monai.losses.image_dissimilarity import LocalNormalizedCrossCorrelationLoss

        super().__init__()
        if noise <= 0:
            raise ValueError(f"noise is {noise}, not above 0")
        least = window**2 * noise**2  # sums of squares over a window, not means
        self.correlation = LocalNormalizedCrossCorrelationLoss(
            spatial_dims=2,
            kernel_size=window,
            reduction="none",
            smooth_nr=least**2,
            smooth_dr=least,
        )

    def forward(self, warped: Tensor, fixed: Tensor) -> Tensor:
        with torch.autocast(warped.device.type, enabled=False):
            one, other = (
                image.float().movedim(2, 1).flatten(0, 1) for image in (warped, fixed)
            )  # (B x D, 1, H, W): slices by themselves
            negative: Tensor = self.correlation(one, other)
        batch, _, depth, *plane = warped.shape
        return (1 + negative).clamp_min(0).view(batch, depth, 1, *plane).movedim(1, 2)


class SquaredDifference(nn.Module):
    """Squared difference of two images, as a map.

    Shapes:
        warped, fixed: (B, C, ...); returns the same, float32.
    """

    def forward(self, warped: Tensor, fixed: Tensor) -> Tensor:
        return functional.mse_loss(warped.float(), fixed.float(), reduction="none")


class Smoothness(nn.Module):
    """Mean squared slope of a velocity or displacement field.

    The sum over axes of the squared central differences, at a border the difference to the only
    neighbour, averaged over voxels and components. (MONAI's ``DiffusionLoss`` leaves borders out:
    of a slab of three slices it would see one.)

    Args:
        spacing: distance of neighbouring voxels, in voxels of the finest resolution.

    Shapes:
        field: (B, 2 or 3, X, Y[, Z]) in voxels; returns a scalar, float32.
    """

    def __init__(self, spacing: float = 1.0) -> None:
        super().__init__()
        self.spacing = spacing

    def forward(self, field: Tensor) -> Tensor:
        axes = list(range(2, field.ndim))
        slopes = torch.gradient(field.float(), spacing=self.spacing, dim=axes)
        return torch.stack([slope.square().mean() for slope in slopes]).sum()


class RegisteredSegmentation(Protocol):
    """Output of a network that registers and segments (``network.joint_registration``)."""

    @property
    def logits(self) -> Tensor:
        """(B, 1, X, Y, Z) of the segmentation."""

    @property
    def displacement(self) -> Tensor:
        """(B, 3, X, Y, Z) in voxels."""

    @property
    def warped(self) -> Tensor:
        """(B, 1, X, Y, Z) baseline after the deformation."""

    @property
    def fixed(self) -> Tensor:
        """(B, 1, X, Y, Z) follow-up."""


class SegmentationAndRegistration(nn.Module):
    """Sum of a segmentation loss, a distance of the registered images, and smoothness (S27).

    ``segmentation(logits, target) + mean(D[F, B(phi)]) + smoothness * R(phi)``, R as in
    ``Smoothness``.

    Args:
        segmentation: ``(logits, target) -> scalar``.
        distance: ``(warped, fixed) -> map``.
        smoothness: weight of R, >= 0.

    Shapes:
        answer: see ``RegisteredSegmentation``.
        target: (B, 1, X, Y, Z).
        returns: scalar.
    """

    def __init__(self, segmentation: nn.Module, distance: nn.Module, smoothness: float) -> None:
        super().__init__()
        if smoothness < 0:
            raise ValueError(f"smoothness is {smoothness}, below 0")
        self.segmentation, self.distance, self.slope = segmentation, distance, Smoothness()
        self.smoothness = smoothness

    def forward(self, answer: RegisteredSegmentation, target: Tensor) -> Tensor:
        return torch.stack(list(self.parts(answer, target).values())).sum()

    def parts(self, answer: RegisteredSegmentation, target: Tensor) -> dict[str, Tensor]:
        """Each term as it enters the sum, by name."""
        return {
            "segmentation": self.segmentation(answer.logits, target),
            "distance": self.distance(answer.warped, answer.fixed).mean(),
            "deformation": self.smoothness * self.slope(answer.displacement),
        }
