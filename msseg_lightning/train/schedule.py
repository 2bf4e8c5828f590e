"""Learning rate drops at shares of a training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.optim.lr_scheduler import MultiStepLR


class DropAtShares(MultiStepLR):
    """Multiply the learning rate by a factor at given shares of the steps.

    Args:
        optimizer: whose rate it is.
        steps: of the whole training.
        shares: in (0, 1), ascending; 0.5 is half of the steps.
        factor: of each drop.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        steps: int,
        shares: Sequence[float],
        factor: float = 0.1,
    ) -> None:
        if any(not 0 < share < 1 for share in shares) or list(shares) != sorted(shares):
            raise ValueError(f"shares {list(shares)} are not ascending between 0 and 1")
        super().__init__(optimizer, [round(share * steps) for share in shares], gamma=factor)
