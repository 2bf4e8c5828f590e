"""Sliding-window prediction."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.infer.cpu_kernels import CpuKernels

Progress = Callable[[int, int], None]
"""Called with (windows done, windows in all)."""

Box = tuple[slice, slice, slice]

Tiling = Literal["volume", "inside_box", "one_pass"]

UNSEEN_LOGIT = -20.0
"""Logit of voxels that no window covers, a probability of 2e-9; probabilities get 0."""

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class SlidingWindow:
    """Predict a volume window by window and average where windows overlap.

    Windows lie on the usual grid: from the first voxel on at a fixed stride, the last one of each
    axis pushed back until it ends with the volume. What costs time is dropped, what changes the
    result is not: windows without a single voxel of ``inside`` are skipped, so that the result
    inside equals the plain rule's. ``tiling="inside_box"`` instead lays the same grid over the box
    around ``inside``. That is about twice as fast, but networks that normalise by the statistics
    of their window (instance, group norm) see other windows and answer a little differently.
    ``tiling="one_pass"`` sees that box at once, each edge rounded up to what the network can divide
    (its ``divisor``, else what 32 and the window have in common). No voxel is computed twice, and
    those networks normalise by the whole brain.

    Memory: the result, one map of weights over the box of the windows, and one batch of windows.
    Windows are accumulated in place and never kept. One pass is one window as large as the brain:
    for a U-Net about three times its widest full-size features, 1.6 GB for 32 channels in bf16 over
    192 x 224 x 192 voxels. No edge of it exceeds ``largest``; a longer box is covered by several
    such windows, one at a time, at the same relative stride.

    On a CPU one window at a time is as fast as several (see ``CpuKernels``) and needs least memory.

    Args:
        size: edge of a window in voxels, one for all axes or one per axis.
        overlap: shared share of neighbouring windows, in [0, 1); the stride is rounded down to
            voxels. Give this or ``stride``.
        stride: distance of neighbouring windows in voxels, 1 to ``size``.
        weighting: ``uniform`` mean, or ``gaussian`` with a standard deviation of an eighth of the
            window about its centre (floor 0.001), which trusts the middle of a window more.
        batch_size: windows per forward pass.
        precision: ``fp32``, or ``bf16`` or ``fp16`` inside the network; sums are float32 always.
            With ``tiling="volume"``, for the masks of the plain rule, the ``finest_level`` of
            a network that names it stays float32: the visits are compared there, and eight bits of
            each lose much of their small difference.
        level: what is averaged and returned: ``logit`` or ``probability`` (its sigmoid).
        skip_empty: drop windows without a voxel of ``inside``.
        tiling: ``volume`` lays the grid over the volume, ``inside_box`` over the box of ``inside``,
            ``one_pass`` is a single window over that box.
        largest: edge of the window of ``one_pass`` in voxels, at most; not below ``size``.
        activation: ``sigmoid``; ``none`` of a network that answers with probabilities itself; or
            ``volume_maximum`` of one that divides each patch by its largest value (S17): the map is
            divided by the largest value of the volume instead.
        padding_value: what surrounds a volume smaller than a window (evenly on both sides); 0 is
            the mean after z-scoring.

    Raises:
        MssegError: exit 2 for an overlap of 1 or more or below 0, a stride outside 1 to ``size``,
            a size or batch below 1.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        overlap: float | None = None,
        stride: int | Sequence[int] | None = None,
        weighting: Literal["uniform", "gaussian"] = "uniform",
        batch_size: int = 1,
        precision: Literal["fp32", "bf16", "fp16"] = "fp32",
        level: Literal["logit", "probability"] = "logit",
        skip_empty: bool = True,
        tiling: Tiling = "volume",
        padding_value: float = 0.0,
        largest: int = 256,
        activation: Literal["sigmoid", "none", "volume_maximum"] = "sigmoid",
    ) -> None:
        self.size = three(size, "size")
        self.stride = chosen_stride(self.size, overlap, stride)
        require(batch_size >= 1, "batch_size", batch_size, "1 or more")
        require(weighting in ("uniform", "gaussian"), "weighting", weighting, "uniform, gaussian")
        require(precision in PRECISIONS, "precision", precision, ", ".join(PRECISIONS))
        require(level in ("logit", "probability"), "level", level, "logit, probability")
        require(tiling in get_args(Tiling), "tiling", tiling, ", ".join(get_args(Tiling)))
        require(largest >= max(self.size), "largest", largest, f"the window {self.size} or more")
        ready = activation in ("none", "volume_maximum") and level == "probability"
        expected = "sigmoid; none or volume_maximum with level=probability"
        require(ready or activation == "sigmoid", "activation", activation, expected)
        self.activation = activation
        self.weighting, self.batch_size, self.precision = weighting, batch_size, precision
        self.level, self.skip_empty, self.tiling = level, skip_empty, tiling
        self.padding_value, self.largest = padding_value, largest

    def __call__(
        self,
        network: nn.Module,
        images: Tensor,
        inside: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Predict one volume.

        Windows go to the device of the network one batch at a time; sums stay where the images are,
        so put the images on the GPU for speed or leave them on the CPU for size.

        Args:
            network: (B, C, *size) -> logits (B, K, *size); put into evaluation mode meanwhile.
            images: (C, X, Y, Z).
            inside: (X, Y, Z) bool, where an answer is wanted (e.g. the brain); None is everywhere.
            progress: called after every batch.

        Returns:
            (K, X, Y, Z) float32 logits or probabilities. Voxels that no window covers are
            ``UNSEEN_LOGIT`` or 0.

        Raises:
            MssegError: exit 3 if ``inside`` has another shape or no voxel, exit 7 if the network
                answers with NaN or infinity.
        """
        if images.ndim != 4:
            raise ValueError(f"images {tuple(images.shape)} are not (C, X, Y, Z)")
        shape = (int(images.shape[1]), int(images.shape[2]), int(images.shape[3]))
        check_inside(inside, shape)
        plan = self._plan(network, shape, inside)
        training = network.training
        network.eval()
        try:
            spared = finest_levels(network) if self.tiling == "volume" else []
            with (
                channels_last(network),
                full_precision(spared),
                torch.inference_mode(),
                CpuKernels(),
            ):
                if self.activation != "volume_maximum":
                    return self._predict(network, images, plan, progress)
                with not_normalised(network):
                    answer = self._predict(network, images, plan, progress)
                return answer / answer.amax().clamp_min(1e-12)
        finally:
            network.train(training)

    def _plan(self, network: nn.Module, shape: tuple[int, int, int], inside: Tensor | None) -> Plan:
        size, stride = self.size, self.stride
        if self.tiling == "one_pass":
            size = one_window(shape, inside, multiples(network, self.size), self.largest)
            x, y, z = (
                max(1, edge * step // of)
                for edge, step, of in zip(size, self.stride, self.size, strict=True)
            )
            stride = x, y, z
        return plan_windows(shape, size, stride, inside, self.skip_empty, self.tiling)

    def _predict(
        self, network: nn.Module, images: Tensor, plan: Plan, progress: Progress | None
    ) -> Tensor:
        weight = window_weight(plan.size, self.weighting, images.device)
        pad = [edge for axis in reversed(plan.padding) for edge in axis]
        padded = functional.pad(images, pad, value=self.padding_value) if any(pad) else images
        # sums cover the box of the windows; most of a head scan is air
        sums: Tensor | None = None
        weights = torch.zeros(plan.box_shape, device=images.device)
        batch_size = 1 if self.tiling == "one_pass" else self.batch_size
        for start in range(0, len(plan.starts), batch_size):
            chunk = plan.starts[start : start + batch_size]
            windows = [padded[(slice(None), *box(corner, plan.size))] for corner in chunk]
            for corner, values in zip(chunk, self._forward(network, windows), strict=True):
                if sums is None:
                    sums = torch.zeros((values.shape[0], *plan.box_shape), device=images.device)
                place = box(
                    tuple(c - o for c, o in zip(corner, plan.origin, strict=True)), plan.size
                )
                sums[(slice(None), *place)].addcmul_(values.to(images.device), weight)
                weights[place] += weight
            if progress is not None:
                progress(start + len(chunk), len(plan.starts))
        assert sums is not None  # a plan has at least one window
        return self._finish(sums, weights, plan, images)

    def _forward(self, network: nn.Module, windows: list[Tensor]) -> Tensor:
        """(windows, K, *size) float32 at the requested level."""
        device = next((p.device for p in network.parameters()), windows[0].device)
        batch = torch.stack(windows).to(device, memory_format=torch.channels_last_3d)
        precision = PRECISIONS[self.precision]
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            output = network(batch)
        logits = output if isinstance(output, Tensor) else output.logits
        logits = logits.float()
        to_probability = self.level == "probability" and self.activation == "sigmoid"
        return logits.sigmoid_() if to_probability else logits

    def _finish(self, sums: Tensor, weights: Tensor, plan: Plan, images: Tensor) -> Tensor:
        unseen = UNSEEN_LOGIT if self.level == "logit" else 0.0
        sums /= weights  # 0 / 0 where nothing was seen, replaced next
        seen = weights > 0
        sums.masked_fill_(~seen, unseen)
        require_finite(sums)
        # the padded volume back to the given one; the box may cover only a part of it
        result = torch.full((sums.shape[0], *images.shape[1:]), unseen, device=sums.device)
        source, goal = [], []
        for axis in range(3):
            origin = plan.origin[axis] - plan.padding[axis][0]
            low = max(origin, 0)
            high = min(origin + plan.box_shape[axis], images.shape[1 + axis])
            goal.append(slice(low, high))
            source.append(slice(low - origin, high - origin))
        result[(slice(None), *goal)] = sums[(slice(None), *source)]
        return result


@contextlib.contextmanager
def channels_last(network: nn.Module) -> Iterator[None]:
    """Context in which convolution weights have channels-last layout.

    The original tensors return afterwards: left in the other layout, training would round
    differently after a validation than before, and a resumed run would differ from one that was
    never stopped.
    """
    weights = [weight for weight in network.parameters() if weight.ndim == 5]
    originals = [weight.data for weight in weights]
    try:
        for weight in weights:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last_3d)
        yield
    finally:
        for weight, original in zip(weights, originals, strict=True):
            weight.data = original


@contextlib.contextmanager
def not_normalised(network: nn.Module) -> Iterator[None]:
    """Context in which networks do not divide their output by its largest value."""
    modules = [part for part in network.modules() if getattr(part, "normalise", None) is True]
    try:
        for module in modules:
            module.normalise = False  # type: ignore[assignment]  # a plain attribute of ours
        yield
    finally:
        for module in modules:
            module.normalise = True  # type: ignore[assignment]


def finest_levels(network: nn.Module) -> list[nn.Module]:
    """The modules that networks inside this one name as their ``finest_level``."""
    return [part for module in network.modules() for part in getattr(module, "finest_level", ())]


@contextlib.contextmanager
def full_precision(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Context in which these modules run in float32; their outputs have the type of autocast."""

    def exact(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def run(features: Tensor) -> Tensor:
            device = features.device.type
            if not torch.is_autocast_enabled(device):
                return forward(features)
            with torch.autocast(device, enabled=False):
                answer = forward(features.float())
            return answer.to(torch.get_autocast_dtype(device))

        return run

    try:
        for module in modules:
            module.forward = exact(module.forward)
        yield
    finally:
        for module in modules:
            module.__dict__.pop("forward", None)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Positions of windows in the padded volume.

    Args:
        starts: first voxel of every window.
        size: of every window.
        padding: voxels (before, after) on each axis.
        origin: first voxel of the box that holds all windows.
        box_shape: its edges.
    """

    starts: tuple[tuple[int, int, int], ...]
    size: tuple[int, int, int]
    padding: tuple[tuple[int, int], ...]
    origin: tuple[int, int, int]
    box_shape: tuple[int, int, int]


def plan_windows(
    shape: tuple[int, int, int],
    size: tuple[int, int, int],
    stride: tuple[int, int, int],
    inside: Tensor | None = None,
    skip_empty: bool = True,
    tiling: Tiling = "volume",
) -> Plan:
    """Windows to run, in array order.

    Args:
        shape: of the volume in voxels.
        size: of a window.
        stride: of neighbouring windows.
        inside: (X, Y, Z) bool with at least one voxel, or None.
        skip_empty: drop windows without a voxel of ``inside``.
        tiling: see ``SlidingWindow``; ``one_pass`` lays the windows as ``inside_box`` does.
    """
    missing = [max(0, edge - have) for edge, have in zip(size, shape, strict=True)]
    padding = tuple((gap // 2, gap - gap // 2) for gap in missing)
    low = [0, 0, 0]
    high = [have + gap for have, gap in zip(shape, missing, strict=True)]
    if inside is not None and tiling != "volume":
        for axis in range(3):
            first, last = extent(inside, axis)
            first, last = first + padding[axis][0], last + padding[axis][0]
            # grow evenly to one window, then stay within the volume
            first = max(0, first - max(0, size[axis] - (last - first)) // 2)
            last = min(high[axis], max(last, first + size[axis]))
            low[axis], high[axis] = max(0, min(first, last - size[axis])), last
    grid = [
        [low[axis] + start for start in starts(high[axis] - low[axis], size[axis], stride[axis])]
        for axis in range(3)
    ]
    corners = [(x, y, z) for x, y, z in itertools.product(*grid)]
    if inside is not None and skip_empty:
        before = tuple(edge[0] for edge in padding)
        corners = [corner for corner in corners if holds(inside, corner, size, before)]
    origin = tuple(min(corner[axis] for corner in corners) for axis in range(3))
    end = tuple(max(corner[axis] for corner in corners) + size[axis] for axis in range(3))
    edges = tuple(last - first for first, last in zip(origin, end, strict=True))
    return Plan(tuple(corners), size, padding, (origin[0], origin[1], origin[2]), edges)  # type: ignore[arg-type]  # three each


def one_window(
    shape: tuple[int, int, int], inside: Tensor | None, multiple: Sequence[int], largest: int
) -> tuple[int, int, int]:
    """Size of the window that contains all of ``inside``: multiples, cut at ``largest``."""
    edges = []
    for axis, part in enumerate(multiple):
        first, last = (0, shape[axis]) if inside is None else extent(inside, axis)
        edges.append(min(math.ceil((last - first) / part), largest // part) * part)
    return edges[0], edges[1], edges[2]


def multiples(network: nn.Module, size: tuple[int, int, int]) -> tuple[int, ...]:
    """Divisor of window edges: ``divisor`` of the network, else 32 where ``size`` does."""
    known = getattr(network, "divisor", None)
    return tuple(known) if known is not None else tuple(math.gcd(edge, 32) for edge in size)


def starts(length: int, size: int, stride: int) -> list[int]:
    """First voxels of the windows along one axis; the last is pushed back to end with the axis."""
    count = 1 + math.ceil(max(0, length - size) / stride)
    return [min(index * stride, max(0, length - size)) for index in range(count)]


def window_weight(
    size: Sequence[int], weighting: Literal["uniform", "gaussian"], device: torch.device | str
) -> Tensor:
    """(*size) float32 weights of a window's voxels, at most 1; symmetric, so flips commute."""
    weight = torch.ones(tuple(size), device=device)
    if weighting == "uniform":
        return weight
    for axis, edge in enumerate(size):
        distance = torch.arange(edge, device=device) - (edge - 1) / 2
        profile = torch.exp(-0.5 * (distance / (edge * 0.125)) ** 2)
        weight *= profile.view([-1 if axis == other else 1 for other in range(len(size))])
    return weight.clamp_(min=1e-3)


def box(corner: Sequence[int], size: Sequence[int]) -> Box:
    """Slices that index one window."""
    x, y, z = (slice(start, start + edge) for start, edge in zip(corner, size, strict=True))
    return x, y, z


def extent(inside: Tensor, axis: int) -> tuple[int, int]:
    """First voxel and one past the last voxel of a mask along an axis."""
    others = [other for other in range(3) if other != axis]
    found = torch.nonzero(inside.amax(dim=others)).flatten()
    return int(found[0]), int(found[-1]) + 1


def holds(
    inside: Tensor, corner: Sequence[int], size: Sequence[int], before: Sequence[int]
) -> bool:
    """Whether a window of the padded volume contains a voxel of the mask."""
    first = [max(0, start - pad) for start, pad in zip(corner, before, strict=True)]
    last = [start + edge - pad for start, edge, pad in zip(corner, size, before, strict=True)]
    return bool(inside[tuple(slice(a, b) for a, b in zip(first, last, strict=True))].any())


def check_inside(inside: Tensor | None, shape: tuple[int, int, int]) -> None:
    """Refuse a mask of another grid or without a voxel."""
    if inside is None:
        return
    if tuple(inside.shape) != shape or not bool(inside.any()):
        same = tuple(inside.shape) == shape
        raise MssegError(
            Problem(
                "infer.inside",
                "The mask of the region to predict does not fit the images."
                if not same
                else "The mask of the region to predict is empty.",
                field="inside",
                found="no voxel" if same else "x".join(map(str, inside.shape)),
                expected="one voxel or more" if same else "x".join(map(str, shape)),
                remedy="check the brain mask of this pair",
            )
        )


def require_finite(values: Tensor) -> None:
    """Refuse predictions with NaN or infinity (exit 7)."""
    if not bool(torch.isfinite(values).all()):
        raise MssegError(
            Problem(
                "infer.not_finite",
                "The output of the network contains NaN or infinity.",
                field="logits",
                found=f"{int((~torch.isfinite(values)).sum())} voxels",
                expected="finite numbers",
                remedy="check images and weights; with fp16 try bf16 or fp32",
                exit_code=ExitCode.NUMERICAL,
            )
        )


def three(value: int | Sequence[int], name: str) -> tuple[int, int, int]:
    """A positive number per axis, from one number or three."""
    x, y, z = (value, value, value) if isinstance(value, int) else (int(part) for part in value)
    require(min(x, y, z) >= 1, name, (x, y, z), "1 or more")
    return x, y, z


def chosen_stride(
    size: tuple[int, int, int], overlap: float | None, stride: int | Sequence[int] | None
) -> tuple[int, int, int]:
    """The stride, given directly or as an overlap."""
    require((overlap is None) != (stride is None), "overlap", overlap, "either overlap or stride")
    if overlap is not None:
        require(0 <= overlap < 1, "overlap", overlap, "0 or more, below 1")
        x, y, z = (max(1, int(edge * (1 - overlap))) for edge in size)
        return x, y, z
    assert stride is not None
    steps = three(stride, "stride")
    fits = all(step <= edge for step, edge in zip(steps, size, strict=True))
    require(fits, "stride", steps, f"at most the window {size}, or voxels are missed")
    return steps


def require(holds_true: bool, field: str, found: object, expected: str) -> None:
    """Refuse a setting (exit 2)."""
    if not holds_true:
        raise MssegError(
            Problem(
                "infer.window",
                "The sliding window cannot be used with this setting.",
                field=field,
                found=str(found),
                expected=expected,
                remedy=f"change infer.{field}",
                exit_code=ExitCode.CONFIG,
            )
        )
