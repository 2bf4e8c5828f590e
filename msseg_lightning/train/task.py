"""The LightningModule of all networks: network, loss and optimiser."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Literal, NamedTuple, Protocol

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from msseg_lightning.core.batch import Batch
from msseg_lightning.core.network import on_grid
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.random import keyed_seed


class StepOutput(NamedTuple):
    """Result of a training step.

    Args:
        loss: scalar to descend.
        logs: further scalars, kept on the device and read only when they are written.
    """

    loss: Tensor
    logs: Mapping[str, Tensor]


class Validator(Protocol):
    """Predicts one prepared pair with the current network and scores the whole volume."""

    def __call__(self, network: nn.Module, subject: PreparedSubject) -> Mapping[str, float]:
        """Named scores of this pair; NaN where a score is undefined."""


class Task(L.LightningModule):
    """LightningModule with one network and one loss.

    Another way of learning overrides :meth:`step` (and, for several networks, the optimisers); the
    base logs, schedules, validates and guards against a loss that is no longer finite.

    Args:
        network: ``images (B, C, X, Y, Z) -> logits``.
        loss: ``(network output, target (B, K, X, Y, Z)) -> scalar``.
        optimizer: takes parameter groups, returns the optimiser.
        scheduler: takes the optimiser, returns a learning-rate scheduler stepped after every
            optimiser step; None keeps the rate. One of type ``ReduceLROnPlateau`` is stepped after
            every validation instead.
        decay: which weights the optimiser's ``weight_decay`` acts on: all, or the kernels of
            convolutions alone.
        seed: of everything a step draws (dropout); keyed by step, so that resuming changes nothing.
        patience: steps in a row with a loss that is not finite before training stops.
        monitor: the validation score that a ``ReduceLROnPlateau`` reads, without ``val/``.
    """

    validator: Validator | None = None
    compiled = False
    schedule_position: Callable[[], int] | None = None
    """Step that the learning-rate schedule is at, where a budget in minutes replaces the steps."""

    def __init__(
        self,
        network: nn.Module,
        loss: nn.Module,
        optimizer: Callable[[Iterable[Any]], torch.optim.Optimizer],
        scheduler: Callable[[torch.optim.Optimizer], Any] | None = None,
        decay: Literal["all", "convolution_kernels"] = "all",
        seed: int = 0,
        patience: int = 10,
        monitor: str = "score",
    ) -> None:
        super().__init__()
        self.network = network
        self.loss = loss
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.decay = decay
        self.seed = seed
        self.patience = patience
        self.monitor = monitor
        self.plateau: ReduceLROnPlateau | None = None
        self._plateau_state: dict[str, Any] | None = None
        self.latest: dict[str, Tensor] = {}
        self._since_point: dict[str, tuple[Tensor, int]] = {}  # sum and number of steps
        self._bad_steps = 0
        self._val_rows: dict[str, dict[str, float]] = {}

    def step(self, batch: Batch) -> StepOutput:
        """Loss of one batch; subclasses override it."""
        return StepOutput(self.loss(self.network(batch.images), batch.target), {})

    # ------------------------------------------------------------------ training
    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed random draws by the step and the position of the batch in it."""
        # what curves are labelled with; after a resume at the end of an epoch with a validation
        # Lightning's own count is one ahead
        self.trainer.fit_loop.epoch_loop._batches_that_stepped = self.global_step
        turn = batch_idx % self.trainer.accumulate_grad_batches
        place = turn * self.trainer.world_size + self.global_rank
        seed = keyed_seed(self.seed, "step", self.global_step, place) >> 1
        # torch.manual_seed also queues a call, with a stack trace, for every kind of device this
        # machine lacks, which costs a step a millisecond
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_available():
            torch.cuda.manual_seed_all(seed)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Loss of one batch, collected for logging."""
        loss, logs = self.step(batch)
        values = {"train/loss": loss.detach()}
        values |= {f"train/{name}": value.detach() for name, value in logs.items()}
        turn = batch_idx % self.trainer.accumulate_grad_batches
        if turn:  # mean over the batches that one step adds up
            values = {
                name: self.latest[name] + (value - self.latest[name]) / (turn + 1)
                for name, value in values.items()
            }
        self.latest = values
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log losses, and skip a few steps whose loss is not finite.

        A point of a curve is the mean over the steps since the point before; steps that were
        skipped do not count. Single batches differ too much to be read.

        The loss is read once per optimiser step, after the backward pass was queued. All ranks read
        the mean over all ranks, so that they decide alike.
        """
        if self.trainer.world_size > 1 and self.latest:
            values = torch.stack([value.float() for value in self.latest.values()])
            values = self.trainer.strategy.reduce(values, reduce_op="mean")
            self.latest = dict(zip(self.latest, values, strict=True))
        loss = self.latest.get("train/loss")
        finite = loss is None or bool(torch.isfinite(loss))
        if finite:
            for name, value in self.latest.items():
                total, steps = self._since_point.get(name, (torch.zeros_like(value), 0))
                self._since_point[name] = total + value, steps + 1
        # Lightning's log costs half a millisecond: it is called for the steps that are written
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # set at run time
        if (self.global_step + 1) % every == 0:
            for name, value in self.latest.items():
                total, steps = self._since_point.get(name, (value, 1))
                self.log(name, total / steps)
            self._since_point = {}
        if loss is None or finite:
            self._bad_steps = 0
            return
        self._bad_steps += 1
        optimizer.zero_grad(set_to_none=True)  # a poisoned gradient never reaches the weights
        if self._bad_steps >= self.patience:
            raise MssegError(
                Problem(
                    "train.not_finite",
                    f"the loss was not finite in {self._bad_steps} steps in a row",
                    field="train/loss",
                    found=str(float(loss)),
                    expected="a finite number",
                    remedy="lower the learning rate or use trainer.precision=32-true; the last "
                    "good checkpoint is kept",
                    exit_code=ExitCode.NUMERICAL,
                )
            )

    def configure_optimizers(self) -> Any:
        """Build the optimiser, and the scheduler if there is one."""
        optimizer = self.make_optimizer(self.parameter_groups(self.network))
        if self.make_scheduler is None:
            return optimizer
        scheduler = self.make_scheduler(optimizer)
        if isinstance(scheduler, ReduceLROnPlateau):
            # Lightning would step it after the checkpoint of that validation is written, and skip
            # that step in a run that goes on from there
            self.plateau = scheduler
            if self._plateau_state is not None:
                scheduler.load_state_dict(self._plateau_state)
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def lr_scheduler_step(self, scheduler: Any, metric: Any | None) -> None:
        """Move the schedule by one step, or to the spent share of a budget in minutes."""
        if self.schedule_position is None:
            return super().lr_scheduler_step(scheduler, metric)
        for _ in range(self.schedule_position() - scheduler.last_epoch):
            scheduler.step()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the state of curves and of the plateau scheduler."""
        checkpoint["accumulate"] = self.trainer.accumulate_grad_batches
        checkpoint["since_point"] = self._since_point
        if self.plateau is not None:
            checkpoint["plateau"] = self.plateau.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the state of curves and of the plateau scheduler.

        Lightning counts batches: a run that goes on with more devices and less accumulation, or
        the other way round, counts the same optimiser steps in other numbers of batches.
        """
        self._plateau_state = checkpoint.get("plateau")
        self._since_point = dict(checkpoint.get("since_point", {}))
        before = checkpoint.get("accumulate")
        if before is not None and before != self.trainer.accumulate_grad_batches:
            counts = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
            ready = counts["ready"] // before * self.trainer.accumulate_grad_batches
            # `completed` may lie one behind
            counts |= {name: ready - (counts["ready"] - count) for name, count in counts.items()}

    def parameter_groups(self, network: nn.Module) -> list[dict[str, Any]]:
        """Trainable parameters; with ``convolution_kernels`` only kernels get weight decay."""
        trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
        if self.decay == "all":
            return [{"params": trainable}]
        kernels = [
            module.weight
            for module in network.modules()
            if isinstance(module, nn.modules.conv._ConvNd) and module.weight.requires_grad
        ]
        chosen = {id(kernel) for kernel in kernels}
        rest = [parameter for parameter in trainable if id(parameter) not in chosen]
        return [{"params": kernels}, {"params": rest, "weight_decay": 0.0}]

    # ---------------------------------------------------------------- validation
    def validation_step(self, subject: PreparedSubject | None, batch_idx: int) -> None:
        """Score one whole volume; None pads the ranks that have one pair less."""
        if subject is None:
            return
        # windows come in other numbers than patches: each number would be compiled anew
        eager = torch.compiler.set_stance("force_eager") if self.compiled else nullcontext()
        with eager:
            self._val_rows[subject.id] = self.validate(subject)

    def validate(self, subject: PreparedSubject) -> dict[str, float]:
        """Scores of a pair by name."""
        data = getattr(self.trainer, "datamodule", None)
        validator = self.validator or getattr(data, "validator", None)
        if validator is None:
            raise RuntimeError(
                "validation pairs were given but nothing that scores them: set task.validator, or "
                "LongitudinalDataModule(validator=...)"
            )
        return dict(validator(self.network, subject))

    def on_validation_epoch_end(self) -> None:
        """Mean of each score over the pairs for which it is defined, over all ranks.

        Every rank computes and knows the same, in the order of the pairs' names.
        """
        gathered = self._gather(self._val_rows)
        rows = [gathered[name] for name in sorted(gathered)]
        self._val_rows = {}
        for name in dict.fromkeys(name for row in rows for name in row):
            values = np.array([row[name] for row in rows if name in row], dtype=np.float64)
            defined = values[np.isfinite(values)]
            if len(defined):
                mean = float(defined.mean())
                self.log(f"val/{name}", mean)
                if name == self.monitor and self.plateau is not None:
                    self.plateau.step(mean)

    def _gather(self, rows: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        if self.trainer.world_size == 1:
            return rows
        parts: list[Any] = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(parts, rows)
        both = [name for part in parts for name in part]
        assert len(both) == len(set(both)), "a pair was validated by two ranks"
        return {name: row for part in parts for name, row in part.items()}

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Move batches of patches to the device; whole pairs stay on disk."""
        return batch.to(device) if isinstance(batch, Batch) else batch


def whole_volume_score(rows: Mapping[str, float]) -> float:
    """Score in [0, 1] by which checkpoints are chosen.

    With new lesions: the mean of Dice and lesion F1. Without: 1 / (1 + false lesions), so that a
    clean case is worth as much as a perfect one. Ours; it is used on validation pairs only.
    """
    if np.isfinite(rows.get("dice", np.nan)):
        return float(np.nanmean([rows["dice"], rows.get("lesion_f1", np.nan)]))
    return 1.0 / (1.0 + rows.get("false_lesions", 0.0))


Score = Callable[
    [NDArray[np.bool_], NDArray[np.bool_], tuple[float, float, float]], Mapping[str, float]
]
"""``(mask, reference, spacing_mm) -> named scores``."""


def scored(
    found: NDArray[np.bool_], subject: PreparedSubject, target: str, score: Score
) -> dict[str, float]:
    """Named scores of what was found in a pair and two summaries.

    ``score`` is :func:`whole_volume_score`. ``dice_or_empty`` is the Dice coefficient where an
    empty answer to an empty reference counts 1 and any other answer to it 0, the convention of S12
    and S13.

    Args:
        found: (X, Y, Z) on the working grid.
        subject: the pair.
        target: name of the reference mask.
        score: of a mask.
    """
    rows = dict(score(found, subject.mask(target), subject.grid.spacing_mm))
    dice = rows.get("dice", np.nan)
    rows["dice_or_empty"] = dice if np.isfinite(dice) else float(not found.any())
    return {**rows, "score": whole_volume_score(rows)}


class WholeVolumeValidator:
    """Validator: sliding window, threshold and scores on the working grid.

    Args:
        infer: ``(network, images (C, X, Y, Z), inside (X, Y, Z)) -> map (K, X, Y, Z)``. One with
            an attribute ``for_validation`` hands validation to that simpler rule (mirrored copies
            would make it eight times as long). It and the network are told the size of voxels
            where they have ``on_grid``.
        level: whether that map holds logits or probabilities.
        score: ``(mask, reference, spacing_mm) -> named scores``.
        images: channels, by name.
        target: name of the reference mask.
        threshold: on the probability.
    """

    def __init__(
        self,
        infer: Callable[[nn.Module, Tensor, Tensor], Tensor],
        level: Literal["logit", "probability"],
        score: Score,
        images: Sequence[str],
        target: str,
        threshold: float = 0.5,
    ) -> None:
        simpler = getattr(infer, "for_validation", None)
        if simpler is not None:
            infer, level = simpler, simpler.level
        self.infer, self.level, self.score = infer, level, score
        self.images, self.target, self.threshold = tuple(images), target, threshold

    def __call__(self, network: nn.Module, subject: PreparedSubject) -> dict[str, float]:
        """See ``scored``."""
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
        images = subject.stack(self.images)
        inside = subject.inside(self.images, getattr(self.infer, "region", None))
        found = np.zeros(inside.shape, bool)  # also the answer to images that are 0 everywhere
        if inside.any():
            spacing = subject.grid.spacing_mm
            answer = on_grid(self.infer, spacing)(
                on_grid(network, spacing),
                torch.from_numpy(images).to(device),
                torch.from_numpy(inside).to(device),
            )
            answer = answer[0].float().cpu()
            probability = answer.sigmoid() if self.level == "logit" else answer
            found = probability.numpy() > self.threshold
        return scored(found, subject, self.target, self.score)
