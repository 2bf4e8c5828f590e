"""Linear decay of the learning rate."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class ConstantThenLinear(LambdaLR):
    """Constant learning rate for a share of the steps, then linear decay to 0.

    Args:
        optimizer: whose rate falls.
        steps: of the whole training, after which the rate is 0.
        constant_share: of the steps at the full rate, in [0, 1).
    """

    def __init__(self, optimizer: Optimizer, steps: int, constant_share: float) -> None:
        if steps < 1 or not 0 <= constant_share < 1:
            raise ValueError(f"steps {steps} below 1 or constant_share {constant_share} no share")
        falling = steps * (1 - constant_share)
        # a plain function: the state of an object would be written into the checkpoint
        super().__init__(optimizer, lambda step: min(1.0, max(0.0, (steps - step) / falling)))
