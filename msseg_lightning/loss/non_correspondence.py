"""Registration that leaves out what has no counterpart (S26)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from msseg_lightning.core.network import DeepLogits
from msseg_lightning.loss.registration import Smoothness


class RegisteredPair(Protocol):
    """Output of a network that registers and marks (``network.ncr_net.Registered``).

    Every tuple holds one entry for each resolution, finest first.
    """

    @property
    def logits(self) -> Tensor:
        """(B, 1, D, H, W) logits of the map of non-correspondence."""

    @property
    def deeper(self) -> tuple[Tensor, ...]:
        """The same at coarser resolutions."""

    @property
    def velocities(self) -> tuple[Tensor, ...]:
        """(B, 3, D, H, W) stationary velocities, in voxels of their resolution."""

    @property
    def warped(self) -> tuple[Tensor, ...]:
        """(B, 1, D, H, W) baseline after the deformation."""

    @property
    def fixed(self) -> tuple[Tensor, ...]:
        """(B, 1, D, H, W) follow-up."""


class NonCorrespondence(nn.Module):
    """Registration loss outside a map of non-correspondence, which has its price (S26).

    With the follow-up F, the deformed baseline B(phi) and the map N, the sigmoid of the logits:

    ``mean((1 - N) D[F, B(phi)]) + alpha R(v) + beta mean(N) + gamma mean(tanh(|grad N|^2))``

    for each resolution, these weighted and added. D is a distance voxel by voxel, R the smoothness
    of the velocity. A voxel is marked where that costs less than its distance: beta is the distance
    above which tissue counts as new. Where N is 0 this is a plain registration.

    With ``overlap`` the map is taught: a loss of its logits against the lesions is added. Without
    it the target is never looked at.

    Args:
        distance: ``(warped, fixed) -> map``.
        alpha: price of the deformation, >= 0.
        beta: price of marked voxels, >= 0.
        gamma: price of the boundary of what is marked, >= 0.
        resolutions: weight of each resolution, finest first.
        overlap: ``(logits, target) -> scalar``, or None.

    Shapes:
        answer: see ``RegisteredPair``.
        target: (B, 1, D, H, W); looked at by ``overlap`` alone.
        returns: scalar, float32.

    Reference:
        Non-correspondence regions of S26, MSSEG-2 challenge proceedings, MICCAI 2021.
    """

    def __init__(
        self,
        distance: nn.Module,
        alpha: float,
        beta: float,
        gamma: float,
        resolutions: Sequence[float] = (1.0,),
        overlap: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if min(alpha, beta, gamma, *resolutions) < 0:
            raise ValueError(f"a weight is below 0: {alpha}, {beta}, {gamma}, {list(resolutions)}")
        self.distance, self.overlap = distance, overlap
        self.alpha, self.beta, self.gamma = alpha, beta, gamma
        self.resolutions = tuple(float(weight) for weight in resolutions)
        self.smoothness = nn.ModuleList(
            Smoothness(spacing=2.0**level) for level in range(len(self.resolutions))
        )

    def forward(self, answer: RegisteredPair, target: Tensor | None = None) -> Tensor:
        return torch.stack(list(self.parts(answer, target).values())).sum()

    def parts(self, answer: RegisteredPair, target: Tensor | None = None) -> dict[str, Tensor]:
        """Each term as it enters the sum, by name."""
        logits = (answer.logits, *answer.deeper)
        if len(logits) != len(self.resolutions):
            raise ValueError(f"{len(logits)} resolutions, {len(self.resolutions)} weights")
        parts = {name: logits[0].new_zeros(()).float() for name in TERMS}
        for level, weight in enumerate(self.resolutions):
            marked = logits[level].float().sigmoid()
            apart = self.distance(answer.warped[level], answer.fixed[level])
            slope = self.smoothness[level](answer.velocities[level])
            parts["distance"] = parts["distance"] + weight * ((1 - marked) * apart).mean()
            parts["deformation"] = parts["deformation"] + weight * self.alpha * slope
            parts["marked"] = parts["marked"] + weight * self.beta * marked.mean()
            parts["boundary"] = parts["boundary"] + weight * self.gamma * boundary(marked)
        if self.overlap is not None:
            parts["overlap"] = self.overlap(DeepLogits(answer.logits, answer.deeper), target)
        return parts


TERMS = ("distance", "deformation", "marked", "boundary")


def boundary(marked: Tensor) -> Tensor:
    """Mean over voxels of ``tanh(|gradient|^2)`` of a map (B, 1, D, H, W)."""
    slopes = torch.gradient(marked, dim=[2, 3, 4])
    squared = torch.stack([slope.square() for slope in slopes]).sum(0)
    return torch.tanh(squared).mean()
