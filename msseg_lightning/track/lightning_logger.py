"""Lightning logger that writes to a Tracker."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from msseg_lightning.track.tracker import Tracker


class TrackerLogger(Logger):
    """Lightning logger that forwards metrics of rank 0 to a Tracker.

    The run is opened and closed outside of the Trainer, which does not distinguish a killed run
    from a failed one, so ``finalize`` does not change its status. Hyper-parameters are logged from
    the composed configuration, not from here.

    Args:
        tracker: the open run; None on other ranks.
    """

    def __init__(self, tracker: Tracker | None) -> None:
        super().__init__()
        self.tracker = tracker

    @property
    def name(self) -> str:
        return "tracker"

    @property
    def version(self) -> str | None:
        return None if self.tracker is None else self.tracker.run_id

    @property
    @rank_zero_experiment
    def experiment(self) -> Tracker | None:
        return self.tracker

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if self.tracker is not None:
            epochless = {name: value for name, value in metrics.items() if name != "epoch"}
            self.tracker.log_metrics(epochless, step or 0)

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Do nothing; see the class."""
