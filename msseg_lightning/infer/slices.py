"""Slicewise prediction of a volume along one, two or three planes.

Counterpart of ``sample.slices``: planes are axes of the working grid (RAS+), stacks are laid out
alike, slices beyond the volume are 0.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from msseg_lightning.core.problem import MssegError, Problem
from msseg_lightning.infer.aggregate import Level, Rule, combine, flips, mean_and_spread
from msseg_lightning.infer.sliding_window import (
    PRECISIONS,
    UNSEEN_LOGIT,
    Progress,
    check_inside,
    require,
    require_finite,
    starts,
)

Joined = TypeVar("Joined")
PLANES = ("sagittal", "coronal", "axial")


class SliceWise:
    """Predict a volume slice by slice along several planes and combine the planes' maps.

    Slices without a voxel of ``inside`` are skipped. Each plane's map is made when its turn comes
    and added to one running sum, so three planes need the memory of two maps and one batch of
    slices.

    Args:
        planes: any of sagittal, coronal, axial.
        depth: neighbouring slices per image, odd; the answer is that of the middle one.
        layout: ``channels`` stacks the slices of one image, then those of the next, as channels;
            ``depth`` hands over (B, C, depth, H, W). A network may then answer for every slice;
            the middle one's answer is kept.
        size: edge of square windows within the slice, one number or two; None takes slices whole,
            padded evenly with 0 to what the network can divide (its ``divisor``, else 1).
        overlap: shared share of neighbouring windows, in [0, 1).
        edges: ``shifted`` pushes the last window of an axis back to end with the slice; ``padded``
            lays one at every step that begins in the slice, over zeros where it reaches beyond
            (S05). Both cover the slice.
        whole: refuse slices that are larger than ``size`` rather than cover them by windows (S07).
        combine_at: level at which planes and flips are combined: ``logit``, ``probability``, or
            ``binary``, where each plane's map is cut first.
        rule: ``mean``, or ``majority`` of cut maps (a tie is no lesion).
        threshold: of the cut.
        flips: sets of volume axes to mirror, for each plane: ``[[], [0]]`` adds left-right.
        batch_size: slices or windows per forward pass.
        precision: ``fp32``, or ``bf16`` or ``fp16`` inside the network.

    Attributes:
        level: of the returned map: ``logit``, or ``probability`` (0 and 1 after a majority, the
            share of votes for means of cut maps).
        maps: how many answers are combined, of planes and flips.

    Raises:
        MssegError: exit 2 for a setting out of range.
    """

    def __init__(
        self,
        planes: Sequence[str] = PLANES,
        depth: int = 1,
        layout: Literal["channels", "depth"] = "channels",
        size: int | Sequence[int] | None = None,
        overlap: float = 0.0,
        combine_at: Level = "probability",
        rule: Rule = "mean",
        threshold: float = 0.5,
        flips: Sequence[Sequence[int]] = ((),),
        batch_size: int = 16,
        precision: Literal["fp32", "bf16", "fp16"] = "fp32",
        whole: bool = False,
        edges: Literal["shifted", "padded"] = "shifted",
    ) -> None:
        require(bool(planes) and set(planes) <= set(PLANES), "planes", planes, ", ".join(PLANES))
        require(depth >= 1 and depth % 2 == 1, "depth", depth, "an odd number")
        require(layout in ("channels", "depth"), "layout", layout, "channels, depth")
        require(0 <= overlap < 1, "overlap", overlap, "0 or more, below 1")
        require(batch_size >= 1, "batch_size", batch_size, "1 or more")
        require(precision in PRECISIONS, "precision", precision, ", ".join(PRECISIONS))
        levels = ("logit", "probability", "binary")
        require(combine_at in levels, "combine_at", combine_at, ", ".join(levels))
        require(edges in ("shifted", "padded"), "edges", edges, "shifted, padded")
        fits = rule == "mean" or (rule == "majority" and combine_at == "binary")
        require(fits, "rule", rule, "mean, or majority with combine_at=binary")
        self.axes = tuple(PLANES.index(plane) for plane in planes)
        self.depth, self.layout, self.overlap = depth, layout, overlap
        self.size = None
        if size is not None:
            height, width = (size, size) if isinstance(size, int) else (int(edge) for edge in size)
            require(min(height, width) >= 1, "size", size, "1 or more")
            self.size = (height, width)
        self.combine_at, self.rule, self.threshold = combine_at, rule, threshold
        self.flips = tuple(tuple(axes) for axes in flips)
        self.batch_size, self.precision, self.whole = batch_size, precision, whole
        self.edges = edges
        self.level: Literal["logit", "probability"]
        self.level = "logit" if combine_at == "logit" else "probability"

    def __call__(
        self,
        network: nn.Module,
        images: Tensor,
        inside: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Predict one volume.

        Args:
            network: (B, C, H, W) -> logits (B, K, H, W); put into evaluation mode meanwhile. With
                ``layout="depth"`` (B, C, depth, H, W) -> (B, K, H, W) or (B, K, depth, H, W).
            images: (C, X, Y, Z).
            inside: (X, Y, Z) bool, where an answer is wanted; None is everywhere.
            progress: called with (slices done, slices in all) of each plane and flip.

        Returns:
            (K, X, Y, Z) float32 at ``level``.

        Raises:
            MssegError: exit 3 if ``inside`` has another shape or no voxel, exit 7 if the network
                answers with NaN or infinity.
        """
        return self._predict(network, images, inside, progress, combine)

    def with_spread(
        self,
        network: nn.Module,
        images: Tensor,
        inside: Tensor | None = None,
        progress: Progress | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The combined map, and the standard deviation of the planes' probabilities or votes."""
        return self._predict(network, images, inside, progress, mean_and_spread)

    @property
    def maps(self) -> int:
        """See the class."""
        return len(self.axes) * len(self.flips)

    def _predict(
        self,
        network: nn.Module,
        images: Tensor,
        inside: Tensor | None,
        progress: Progress | None,
        join: Callable[..., Joined],
    ) -> Joined:
        if images.ndim != 4:
            raise ValueError(f"images {tuple(images.shape)} are not (C, X, Y, Z)")
        x, y, z = (int(edge) for edge in images.shape[1:])
        check_inside(inside, (x, y, z))
        training = network.training
        network.eval()
        try:
            with torch.inference_mode():
                maps = self._maps(network, images, inside, progress)
                given: Level = "probability" if self.combine_at == "binary" else self.combine_at
                return join(maps, given, self.combine_at, self.rule, self.threshold)
        finally:
            network.train(training)

    def views(self) -> list[SliceWise]:
        """One inference rule per plane, which returns the probabilities of that plane."""
        single = []
        for axis in self.axes:
            view = copy.copy(self)
            view.axes, view.combine_at, view.rule = (axis,), "probability", "mean"
            view.level = "probability"
            single.append(view)
        return single

    def _maps(
        self,
        network: nn.Module,
        images: Tensor,
        inside: Tensor | None,
        progress: Progress | None,
    ) -> Iterator[Tensor]:
        for axis in self.axes:

            def plane(
                network: nn.Module,
                images: Tensor,
                inside: Tensor | None,
                progress: Progress | None,
                axis: int = axis,
            ) -> Tensor:
                return self._plane(network, images, inside, axis, progress)

            yield from flips(plane, network, images, inside, self.flips, progress)

    def _plane(
        self,
        network: nn.Module,
        images: Tensor,
        inside: Tensor | None,
        axis: int,
        progress: Progress | None,
    ) -> Tensor:
        """(K, X, Y, Z) map of one plane, at the level of the combination."""
        volume = images.movedim(1 + axis, 1)  # (C, slices, H, W)
        numbers = list(range(volume.shape[1]))
        if inside is not None:
            others = [other for other in range(3) if other != axis]
            numbers = torch.nonzero(inside.any(others[1]).any(others[0])).flatten().tolist()
        height, width, corners, padding = self._windows(network, volume.shape[2], volume.shape[3])
        jobs = [(number, corner) for number in numbers for corner in corners]
        sums: Tensor | None = None
        # every slice has the same windows
        counts = torch.zeros(volume.shape[2] + padding[0][1], volume.shape[3] + padding[1][1])
        for top, left in corners:
            counts[top : top + height, left : left + width] += 1
        counts = counts.to(images.device)
        for start in range(0, len(jobs), self.batch_size):
            chunk = jobs[start : start + self.batch_size]
            stacks = torch.stack(
                [
                    padded(self._stack(volume, number), padding)[
                        ..., top : top + height, left : left + width
                    ]
                    for number, (top, left) in chunk
                ]
            )
            values = self._forward(network, stacks).to(images.device)
            if sums is None:
                shape = (values.shape[1], len(volume[0]), *counts.shape)
                unseen = 0.0 if self.level == "probability" else UNSEEN_LOGIT
                sums = torch.full(shape, unseen, device=images.device)
                sums[:, numbers] = 0
            for (number, (top, left)), window in zip(chunk, values, strict=True):
                sums[:, number, top : top + height, left : left + width] += window
            if progress is not None:
                progress(min(start + self.batch_size, len(jobs)), len(jobs))
        assert sums is not None  # inside has a voxel
        sums[:, numbers] /= counts
        require_finite(sums)
        first, second = padding[0][0], padding[1][0]
        kept = sums[..., first : first + volume.shape[2], second : second + volume.shape[3]]
        return kept.movedim(1, 1 + axis)

    def _windows(
        self, network: nn.Module, height: int, width: int
    ) -> tuple[int, int, list[tuple[int, int]], tuple[tuple[int, int], tuple[int, int]]]:
        """Size and positions of the windows, and the padding of the slice (before, total)."""
        have = (height, width)
        if self.size is None:
            divisor = tuple(getattr(network, "divisor", (1, 1)))[-2:]
            size = [edge + -edge % part for edge, part in zip(have, divisor, strict=True)]
        else:
            size = list(self.size)
            if self.whole and any(edge > most for edge, most in zip(have, size, strict=True)):
                raise MssegError(
                    Problem(
                        "infer.slice",
                        "A slice is larger than the largest one that is predicted whole.",
                        field="infer.size",
                        found="x".join(map(str, have)),
                        expected=f"{'x'.join(map(str, size))} or less",
                        remedy="set infer.whole=false to cover it by windows, or raise infer.size "
                        "and sample.size",
                    )
                )
        steps = [max(1, int(edge * (1 - self.overlap))) for edge in size]
        if self.edges == "padded":
            first, second = (
                list(range(0, given, step)) for given, step in zip(have, steps, strict=True)
            )
            beyond = (
                (0, max(0, places[-1] + edge - given))
                for places, edge, given in zip((first, second), size, have, strict=True)
            )
            rows, columns = beyond
            corners = [(top, left) for top in first for left in second]
            return size[0], size[1], corners, (rows, columns)
        missing = [max(0, edge - given) for edge, given in zip(size, have, strict=True)]
        first, second = (
            starts(given + gap, edge, step)
            for given, gap, edge, step in zip(have, missing, size, steps, strict=True)
        )
        corners = [(top, left) for top in first for left in second]
        before = ((missing[0] // 2, missing[0]), (missing[1] // 2, missing[1]))
        return size[0], size[1], corners, before

    def _stack(self, volume: Tensor, number: int) -> Tensor:
        """(C, depth, H, W) around a slice; 0 beyond the volume."""
        low, high = number - self.depth // 2, number + self.depth // 2 + 1
        known = volume[:, max(0, low) : high]
        if known.shape[1] == self.depth:
            return known
        after = max(0, high - volume.shape[1])
        return functional.pad(known, [0, 0, 0, 0, max(0, -low), after])

    def _forward(self, network: nn.Module, stacks: Tensor) -> Tensor:
        """(B, K, H, W) float32 at the level of the combination."""
        device = next((p.device for p in network.parameters()), stacks.device)
        batch = stacks.flatten(1, 2) if self.layout == "channels" else stacks
        precision = PRECISIONS[self.precision]
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            output = network(batch.to(device))
        logits = output if isinstance(output, Tensor) else output.logits
        if logits.ndim == 5:
            logits = logits[:, :, self.depth // 2]
        logits = logits.float()
        return logits if self.combine_at == "logit" else logits.sigmoid()


def padded(stack: Tensor, padding: tuple[tuple[int, int], tuple[int, int]]) -> Tensor:
    """A stack with zeros around it; padding is (before, in all) per axis of the slice."""
    (top, rows), (left, columns) = padding
    if not rows and not columns:
        return stack
    return functional.pad(stack, [left, columns - left, top, rows - top])
