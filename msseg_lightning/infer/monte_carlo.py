"""Monte Carlo dropout: mean and standard deviation of several passes with dropout (S17)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from msseg_lightning.core.random import keyed_seed
from msseg_lightning.infer.aggregate import Level, Window, mean_and_spread, times
from msseg_lightning.infer.sliding_window import require

DROPOUTS = (nn.Dropout, nn.Dropout2d, nn.Dropout3d)


class MonteCarloDropout:
    """Mean of several passes with active dropout.

    The draws of pass ``n`` are those of a seed and ``n``, so that a prediction can be repeated.
    During training volumes are validated with one plain pass (``for_validation``).

    Args:
        window: predicts one volume, a pass at a time.
        passes: how many, 2 or more.
        seed: of all draws.

    Attributes:
        maps: how many answers the mean is of.

    Reference:
        Gal and Ghahramani 2016, https://arxiv.org/abs/1506.02142
    """

    def __init__(self, window: Window, passes: int = 20, seed: int = 0) -> None:
        require(passes >= 2, "passes", passes, "2 or more")
        self.window = self.for_validation = window
        self.passes = self.maps = passes
        self.seed = seed
        self.level: Level = getattr(window, "level", "logit")

    def __call__(
        self,
        network: nn.Module,
        images: Tensor,
        inside: Tensor | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Predict one volume; see ``SlidingWindow``. Progress counts the windows of all passes."""
        return self.with_spread(network, images, inside, progress)[0]

    def with_spread(
        self,
        network: nn.Module,
        images: Tensor,
        inside: Tensor | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The mean, and the standard deviation of the passes' probabilities."""
        advance = times(progress, self.passes)
        maps = (
            self._one(network, images, inside, advance, number) for number in range(self.passes)
        )
        with torch.inference_mode():
            return mean_and_spread(maps, self.level, self.level)

    def _one(
        self,
        network: nn.Module,
        images: Tensor,
        inside: Tensor | None,
        progress: Callable[[int, int], None] | None,
        number: int,
    ) -> Tensor:
        own = [images.device] if images.is_cuda else []
        with torch.random.fork_rng(devices=own), dropout_on(network):
            torch.manual_seed(keyed_seed(self.seed, "dropout", number) >> 1)
            return self.window(network, images, inside, progress)


@contextlib.contextmanager
def dropout_on(network: nn.Module) -> Iterator[None]:
    """Context in which the dropout layers of a network in evaluation mode are active."""
    layers = [module for module in network.modules() if isinstance(module, DROPOUTS)]
    handles = [layer.register_forward_pre_hook(_draw) for layer in layers]
    training = [layer.training for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for layer, before in zip(layers, training, strict=True):
            layer.train(before)


def _draw(layer: nn.Module, _: object) -> None:
    layer.training = True
