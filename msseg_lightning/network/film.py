"""Instance norm whose scale and shift depend on the size of the case's voxels (S20)."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional


class FilmNorm(nn.Module):
    """Instance norm modulated by the size of voxels.

    ``(gamma + gamma_r) * (z - mean) / deviation + (beta + beta_r)`` for each channel of each
    sample: gamma and beta are learned as in instance norm, gamma_r and beta_r are the output of a
    network of one hidden layer that is given the three edges of a voxel in mm. Its last layer is 0
    at first, so that a new network is one with instance norm.

    Args:
        channels: C.
        hidden: units of the hidden layer.
        epsilon: added to the variance.

    Attributes:
        spacing_mm: (B, 3) edges of each sample's voxels; set by ``VoxelSizeNetwork``.

    Shapes:
        features: (B, C, X, Y[, Z]); returns the same.

    Reference:
        Perez et al. 2018, https://arxiv.org/abs/1709.07871
    """

    def __init__(self, channels: int, hidden: int = 64, epsilon: float = 1e-5) -> None:
        super().__init__()
        # no attribute `epsilon`: `fused_norm.norm_activation` would take it for an instance norm
        self.added_variance = epsilon
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.modulation = nn.Sequential(
            nn.Linear(3, hidden), nn.ReLU(), nn.Linear(hidden, 2 * channels)
        )
        nn.init.zeros_(cast(nn.Linear, self.modulation[2]).weight)
        nn.init.zeros_(cast(nn.Linear, self.modulation[2]).bias)
        self.spacing_mm: Tensor | None = None

    def forward(self, features: Tensor) -> Tensor:
        if self.spacing_mm is None:
            raise ValueError(
                "FiLM needs the size of voxels: put VoxelSizeNetwork around the network"
            )
        added = self.modulation(self.spacing_mm).chunk(2, dim=1)  # (B, C) each
        weight, bias = self.weight + added[0], self.bias + added[1]
        shape = (*weight.shape, *(1,) * (features.ndim - 2))
        if features[0, 0].numel() == 1:  # the variance of one voxel is 0; see `blocks.InstanceNorm`
            return features * 0 * weight.view(shape) + bias.view(shape)
        # what torch's instance norm does, with a weight for each channel of each sample
        samples = features.reshape(1, math.prod(weight.shape), *features.shape[2:])
        normed = functional.batch_norm(
            samples,
            None,
            None,
            weight.flatten(),
            bias.flatten(),
            training=True,
            eps=self.added_variance,
        )
        return normed.view_as(features)


class VoxelSizeNetwork(nn.Module):
    """Network whose norms are told the size of the case's voxels.

    Args:
        network: images -> logits, with at least one ``FilmNorm`` (``Norm(kind="film")``).

    Shapes:
        images: (B, C, X, Y, Z).
        spacing_mm: (B, 3), the voxels of the case before any augmentation.
        returns: what ``network`` returns.

    Raises:
        ValueError: no norm of the network depends on it.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        if not any(isinstance(part, FilmNorm) for part in network.modules()):
            raise ValueError("no norm of the network is of the kind film")
        self.network = network
        if hasattr(network, "divisor"):
            self.divisor = network.divisor

    def forward(self, images: Tensor, spacing_mm: Tensor) -> Tensor:
        for part in self.network.modules():
            if isinstance(part, FilmNorm):
                part.spacing_mm = spacing_mm  # stays: recomputed activations need it too
        return cast(Tensor, self.network(images))

    def on_grid(self, spacing_mm: tuple[float, float, float]) -> AtVoxelSize:
        """The network for images of a case with these voxels."""
        return AtVoxelSize(self, spacing_mm)


class AtVoxelSize(nn.Module):
    """A network for images with voxels of one size.

    Args:
        network: is given that size with every batch.
        spacing_mm: edges of a voxel.

    Shapes:
        images: (B, C, X, Y, Z).
        returns: what ``network`` returns.
    """

    def __init__(self, network: VoxelSizeNetwork, spacing_mm: tuple[float, float, float]) -> None:
        super().__init__()
        self.network, self.spacing_mm = network, spacing_mm
        self.training = network.training  # inference rules restore it in both
        if hasattr(network, "divisor"):
            self.divisor = network.divisor

    def forward(self, images: Tensor) -> Tensor:
        spacing = torch.tensor(self.spacing_mm, dtype=torch.float32, device=images.device)
        return cast(Tensor, self.network(images, spacing.expand(len(images), 3)))
