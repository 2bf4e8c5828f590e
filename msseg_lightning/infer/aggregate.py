"""Combination of several predictions of one volume: members, folds, flips, views.

The algebra has two parts. A *source* yields maps one after the other, each made when it is asked
for: ``flips`` of a network, ``members`` of an ensemble. ``combine`` reads a source and keeps only
one running sum, so ten members need the memory of one. The result is a map again and can be
yielded by another source: S14's "vote over views, then average over folds" is a ``combine`` inside
a ``combine``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from msseg_lightning.core.problem import ExitCode, MssegError, Problem

Level = Literal["logit", "probability", "binary"]
Rule = Literal["mean", "majority"]
Window = Callable[..., Tensor]
"""``(network, images, inside, progress) -> (K, X, Y, Z)``: a ``SlidingWindow``."""

LEVELS: tuple[Level, ...] = ("logit", "probability", "binary")


def convert(values: Tensor, given: Level, wanted: Level, threshold: float = 0.5) -> Tensor:
    """Convert a map to another level.

    Args:
        values: (K, X, Y, Z) logits, probabilities, or zeros and ones.
        given: level of ``values``.
        wanted: a level further down the list logit, probability, binary, or the same.
        threshold: of the step to binary; a probability must exceed it.

    Raises:
        ValueError: the step would have to invent what a coarser level has lost.
    """
    if LEVELS.index(wanted) < LEVELS.index(given):
        raise ValueError(f"{given} maps cannot become {wanted} maps")
    if wanted == given:
        return values
    if wanted == "probability":
        return values.sigmoid()
    probability = values.sigmoid() if given == "logit" else values
    return (probability > threshold).float()


def combine(
    maps: Iterable[Tensor],
    given: Level,
    level: Level,
    rule: Rule = "mean",
    threshold: float = 0.5,
) -> Tensor:
    """Combine maps one by one, in the memory of one map.

    Args:
        maps: (K, X, Y, Z) each, at level ``given``; read once, in order.
        given: level of the maps.
        level: where they are combined. ``mean`` at ``binary`` is the share of votes.
        rule: ``mean``, or ``majority``: 1 where more than half of the maps, taken to binary, say
            1 (a tie is 0).
        threshold: of the step to binary.

    Returns:
        (K, X, Y, Z) float32 at ``level``; for ``majority`` and for means of votes, in [0, 1].

    Raises:
        MssegError: exit 2, no map at all.
        ValueError: a majority of what is not binary.
    """
    return _combine(maps, given, level, rule, threshold, None)


def mean_and_spread(
    maps: Iterable[Tensor],
    given: Level,
    level: Level,
    rule: Rule = "mean",
    threshold: float = 0.5,
) -> tuple[Tensor, Tensor]:
    """Combined map of ``combine``, and the standard deviation of the maps.

    Returns:
        The combined map; (K, X, Y, Z) standard deviation of the maps' probabilities (of their
        votes at the binary level), exactly 0 where all are equal.
    """
    spread = Spread()
    return _combine(maps, given, level, rule, threshold, spread), spread.deviation()


class Spread:
    """Running standard deviation of maps, in the memory of two.

    Welford's sums: maps that are all equal leave exactly 0, which a mean of squares would not.
    """

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, values: Tensor) -> None:
        """Add a map of probabilities."""
        self.count += 1
        if self.count == 1:
            self.mean, self.squares = values.clone(), torch.zeros_like(values)
            return
        away = values - self.mean
        self.mean = self.mean + away / self.count
        self.squares.addcmul_(away, values - self.mean)

    def variance(self) -> Tensor:
        """Variance of all maps so far (divided by their number)."""
        return (self.squares / max(self.count, 1)).clamp_min_(0)

    def deviation(self) -> Tensor:
        """Standard deviation of all maps so far."""
        return self.variance().sqrt_()


def times(
    progress: Callable[[int, int], None] | None, copies: int
) -> Callable[[int, int], None] | None:
    """Progress callback of one of several passes, which counts the windows of all passes."""
    if progress is None:
        return None
    before = 0

    def count(done: int, windows: int) -> None:
        nonlocal before
        assert progress is not None
        progress(before + done, copies * windows)
        before += windows if done == windows else 0

    return count


def _combine(
    maps: Iterable[Tensor],
    given: Level,
    level: Level,
    rule: Rule,
    threshold: float,
    spread: Spread | None,
) -> Tensor:
    if rule not in ("mean", "majority"):
        raise ValueError(f"rule {rule!r} is not mean or majority")
    if rule == "majority" and level != "binary":
        raise ValueError("a majority is counted at the binary level")
    total: Tensor | None = None
    count = 0
    for values in maps:
        values = convert(values.float(), given, level, threshold)
        if spread is not None:
            spread.add(values.sigmoid() if level == "logit" else values)
        total = values.clone() if total is None else total.add_(values)
        count += 1
    if total is None:
        raise MssegError(
            Problem(
                "infer.no_members",
                "There is no prediction to combine.",
                field="members",
                found="none",
                expected="one or more",
                remedy="name the runs (folds, networks) of the ensemble",
                exit_code=ExitCode.CONFIG,
            )
        )
    if rule == "majority":
        return (total > count / 2).float()
    return total.div_(count)


def flip_sets(axes: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """All combinations of flips along spatial axes 0, 1, 2: eight for three axes, none included."""
    return tuple(
        chosen for count in range(len(axes) + 1) for chosen in itertools.combinations(axes, count)
    )


def flips(
    window: Window,
    network: nn.Module,
    images: Tensor,
    inside: Tensor | None = None,
    sets: Iterable[Sequence[int]] = ((),),
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Tensor]:
    """Maps of one network for flipped images, flipped back.

    Args:
        window: predicts one volume.
        network: images -> logits.
        images: (C, X, Y, Z).
        inside: (X, Y, Z) bool or None; flipped along.
        sets: spatial axes to flip, 0 to 2; ``()`` is the volume as it is.
        progress: handed to the window.
    """
    for axes in sets:
        turned = [1 + axis for axis in axes]
        region = inside if inside is None or not axes else inside.flip(list(axes))
        given = images.flip(turned) if axes else images
        answer = window(network, given, region, progress)
        yield answer.flip(turned) if axes else answer


class Flipped:
    """Test-time augmentation: a window rule over flipped volumes, combined to one map.

    Called like the window it stands for, so it is an inference rule of its own. During training
    volumes are validated with the plain window (``for_validation``).

    Args:
        window: predicts one volume; its ``level`` says what it returns.
        axes: spatial axes that are mirrored, alone and together: three give eight copies.
        level: where the answers are combined; None is the window's own.
        rule: ``mean`` or ``majority`` (of binary answers).
        threshold: of the step to binary.

    Attributes:
        maps: how many answers are combined.
    """

    def __init__(
        self,
        window: Window,
        axes: Sequence[int] = (0, 1, 2),
        level: Level | None = None,
        rule: Rule = "mean",
        threshold: float = 0.5,
    ) -> None:
        self.window = self.for_validation = window
        own: Level = getattr(window, "level", "logit")
        combined = own if level is None else level
        self._ensemble = Ensemble(window, combined, rule, flip_sets(axes), threshold)
        self.maps = len(self._ensemble.flips)
        # votes and their shares are read as probabilities
        self.level: Level = "logit" if combined == "logit" else "probability"

    def __call__(
        self,
        network: nn.Module,
        images: Tensor,
        inside: Tensor | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Predict one volume; see ``SlidingWindow``. Progress counts the windows of all copies."""
        return self._ensemble([network], images, inside, times(progress, self.maps))

    def with_spread(
        self,
        network: nn.Module,
        images: Tensor,
        inside: Tensor | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The combined map, and the standard deviation of the copies' probabilities or votes."""
        return self._ensemble.with_spread([network], images, inside, times(progress, self.maps))


class Ensemble:
    """Combination of members and flips; one member is in memory at a time.

    Called like a ``SlidingWindow``, with many networks in place of one. Every member and flip
    counts the same.

    Args:
        window: predicts one volume with one network; its ``level`` says what it returns.
        level: where answers are combined.
        rule: ``mean`` or ``majority``.
        flips: axis sets; ``flip_sets([0, 1, 2])`` for all eight.
        threshold: of the step to binary.
    """

    def __init__(
        self,
        window: Window,
        level: Level,
        rule: Rule = "mean",
        flips: Sequence[Sequence[int]] = ((),),
        threshold: float = 0.5,
    ) -> None:
        if not flips or any(not set(axes) <= {0, 1, 2} for axes in flips):
            raise ValueError(f"flips {flips} are not sets of the axes 0, 1, 2")
        self.window, self.level, self.rule = window, level, rule
        self.flips, self.threshold = tuple(tuple(axes) for axes in flips), threshold

    def __call__(
        self,
        networks: Iterable[nn.Module],
        images: Tensor,
        inside: Tensor | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Predict one volume.

        Args:
            networks: the members; a generator may load each from disk when its turn comes.
            images: (C, X, Y, Z).
            inside: (X, Y, Z) bool or None.
            progress: called with (windows done, windows in all) of each pass.

        Returns:
            (K, X, Y, Z) float32 at ``level``.
        """
        maps = self._maps(networks, images, inside, progress)
        given: Level = getattr(self.window, "level", "logit")
        with torch.inference_mode():
            return combine(maps, given, self.level, self.rule, self.threshold)

    def with_spread(
        self,
        networks: Iterable[nn.Module],
        images: Tensor,
        inside: Tensor | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The combined map, and the standard deviation of the maps of members and flips."""
        maps = self._maps(networks, images, inside, progress)
        given: Level = getattr(self.window, "level", "logit")
        with torch.inference_mode():
            return mean_and_spread(maps, given, self.level, self.rule, self.threshold)

    def _maps(
        self,
        networks: Iterable[nn.Module],
        images: Tensor,
        inside: Tensor | None,
        progress: Callable[[int, int], None] | None,
    ) -> Iterator[Tensor]:
        return (
            answer
            for network in networks
            for answer in flips(self.window, network, images, inside, self.flips, progress)
        )
