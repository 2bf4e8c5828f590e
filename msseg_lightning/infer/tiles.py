"""Prediction by networks whose output is smaller than their patch (S11)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from msseg_lightning.infer.sliding_window import (
    PRECISIONS,
    UNSEEN_LOGIT,
    Progress,
    check_inside,
    require,
    require_finite,
)


class DenseTiles:
    """Predict a volume by the centres of patches, averaged where they overlap.

    Tiles are spread evenly from end to end of each axis, so many that no voxel is left out; the
    patch around a tile reaches over the ends of the volume, where images are 0. Tiles without a
    voxel of ``inside`` are skipped.

    Args:
        size: edge of a patch in voxels.
        output: edge of the tile in its middle that the network answers for.
        counts: tiles along each axis; more are taken where these would leave gaps.
        level: what is averaged and returned: ``logit`` or ``probability`` (its sigmoid).
        batch_size: patches per forward pass.
        precision: ``fp32``, or ``bf16`` or ``fp16`` inside the network.
    """

    def __init__(
        self,
        size: int,
        output: int,
        counts: Sequence[int],
        level: Literal["logit", "probability"] = "probability",
        batch_size: int = 8,
        precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    ) -> None:
        fits = 1 <= output <= size and (size - output) % 2 == 0
        require(fits, "output", output, f"1 to {size}, an even number less than size")
        right = len(counts) == 3 and min(counts) >= 1
        require(right, "counts", list(counts), "three numbers, 1 or more")
        require(level in ("logit", "probability"), "level", level, "logit, probability")
        require(batch_size >= 1, "batch_size", batch_size, "1 or more")
        require(precision in PRECISIONS, "precision", precision, ", ".join(PRECISIONS))
        self.size, self.output, self.counts = size, output, tuple(counts)
        self.level, self.batch_size, self.precision = level, batch_size, precision

    def starts(self, shape: Sequence[int]) -> list[tuple[int, int, int]]:
        """First voxels of all tiles of a volume, in array order."""
        axes = []
        for length, count in zip(shape, self.counts, strict=True):
            room, enough = max(length - self.output, 0), max(count, -(-length // self.output))
            axes.append([round(room * place / max(enough - 1, 1)) for place in range(enough)])
        return [(x, y, z) for x, y, z in itertools.product(*axes)]

    def __call__(
        self,
        network: nn.Module,
        images: Tensor,
        inside: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Predict one volume.

        Args:
            network: (B, C, size, size, size) -> logits (B, K, output, output, output); put into
                evaluation mode meanwhile.
            images: (C, X, Y, Z).
            inside: (X, Y, Z) bool, where an answer is wanted; None is everywhere.
            progress: called with (tiles done, tiles in all).

        Returns:
            (K, X, Y, Z) float32 at ``level``; skipped tiles are ``UNSEEN_LOGIT`` or 0.

        Raises:
            MssegError: exit 3 if ``inside`` has another shape or no voxel, exit 7 if the network
                answers with NaN or infinity.
        """
        if images.ndim != 4:
            raise ValueError(f"images {tuple(images.shape)} are not (C, X, Y, Z)")
        x, y, z = (int(edge) for edge in images.shape[1:])
        check_inside(inside, (x, y, z))
        tiles = [
            tile
            for tile in self.starts((x, y, z))
            if inside is None or bool(inside[_cube(tile, self.output)].any())
        ]
        training = network.training
        network.eval()
        try:
            with torch.inference_mode():
                return self._predict(network, images, tiles, progress)
        finally:
            network.train(training)

    def _predict(
        self,
        network: nn.Module,
        images: Tensor,
        tiles: list[tuple[int, int, int]],
        progress: Progress | None,
    ) -> Tensor:
        margin = (self.size - self.output) // 2
        shape = [max(int(edge), self.output) for edge in images.shape[1:]]
        after = [margin + want - have for want, have in zip(shape, images.shape[1:], strict=True)]
        around = functional.pad(images, [margin, after[2], margin, after[1], margin, after[0]])
        sums: Tensor | None = None
        counts = torch.zeros(shape, device=images.device)
        for start in range(0, len(tiles), self.batch_size):
            chunk = tiles[start : start + self.batch_size]
            # the patch of a tile starts where the tile does, once the margin is added in front
            patches = torch.stack([around[(slice(None), *_cube(t, self.size))] for t in chunk])
            for tile, values in zip(chunk, self._forward(network, patches), strict=True):
                if sums is None:
                    sums = torch.zeros((values.shape[0], *shape), device=images.device)
                place = _cube(tile, self.output)
                sums[(slice(None), *place)] += values.to(images.device)
                counts[place] += 1
            if progress is not None:
                progress(start + len(chunk), len(tiles))
        assert sums is not None  # inside has a voxel, and tiles cover the volume
        sums /= counts  # 0 / 0 where nothing was seen, replaced next
        unseen = UNSEEN_LOGIT if self.level == "logit" else 0.0
        sums.masked_fill_(counts == 0, unseen)
        require_finite(sums)
        x, y, z = images.shape[1:]
        return sums[:, :x, :y, :z]

    def _forward(self, network: nn.Module, patches: Tensor) -> Tensor:
        """(B, K, output, output, output) float32 at the level of the average."""
        device = next((p.device for p in network.parameters()), patches.device)
        precision = PRECISIONS[self.precision]
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            logits = network(patches.to(device)).float()
        return logits.sigmoid() if self.level == "probability" else logits


def _cube(start: tuple[int, int, int], edge: int) -> tuple[slice, slice, slice]:
    x, y, z = start
    return slice(x, x + edge), slice(y, y + edge), slice(z, z + edge)
