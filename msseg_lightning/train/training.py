"""Fit of a task, resumable at any step."""

from __future__ import annotations

import copy
import dataclasses
import functools
import logging
import math
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments import ClusterEnvironment
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.strategies import StrategyRegistry
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from msseg_lightning.core.files import (
    DamagedFileError,
    Fields,
    damaged_file,
    read_record,
    write_record,
)
from msseg_lightning.core.memory import keep_freed_memory
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.train.budget import TimeBudget
from msseg_lightning.train.checkpoint import (
    BEST,
    LAST,
    AtomicCheckpointIO,
    KeepCheckpoints,
    read_checkpoint,
)
from msseg_lightning.train.curves import CurveFile, Progress
from msseg_lightning.train.datamodule import LongitudinalDataModule
from msseg_lightning.train.early_stop import StopWithoutProgress
from msseg_lightning.train.interruption import StopOnSignal
from msseg_lightning.train.profile import Profile
from msseg_lightning.train.ranks import on_all_processes
from msseg_lightning.train.recompute import recompute_blocks
from msseg_lightning.train.task import Task

log = logging.getLogger(__name__)

DONE = "done.json"
LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}
"""Channels-last memory format of the kernels of 2D and 3D convolutions."""
REPEAT_RATHER_THAN_STORE: dict[str, Any] = {"realize_reads_threshold": 8}
"""On a CPU a norm's backward pass repeats a calculation rather than store it in float32."""


def _require_counts(group: str, counts: Mapping[str, Any]) -> None:
    problems = [
        Problem(
            "config.range",
            "the value is out of range",
            field=f"{group}.{name}",
            found=str(value),
            expected="a whole number, at least 1",
            remedy=f"{group}.{name}=1, or more",
            exit_code=ExitCode.CONFIG,
        )
        for name, value in counts.items()
        if not isinstance(value, int) or value < 1
    ]
    if problems:
        raise MssegError(problems)


@dataclasses.dataclass(frozen=True)
class Hardware:
    """Hardware of a training; the arguments are those of Lightning's Trainer.

    One process trains per device. An optimiser step adds up ``devices * num_nodes *
    Training.accumulate`` batches, and only this product decides what is computed.

    Args:
        accelerator: ``auto``, ``cpu`` or ``gpu``.
        devices: how many on each machine.
        num_nodes: how many machines; more than one are started by torchrun or srun.
        strategy: how several share the work: ``auto`` (``ddp``), ``ddp``, ``fsdp`` ...
        precision: ``auto`` is bf16-mixed on a GPU that has it and 32-true elsewhere.
        compile: compile network and loss for their fixed patch size; pays back after some 150
            steps. Validation runs uncompiled, its windows come in other numbers.
        channels_last: keep the channels of a voxel side by side in memory. Faster together with
            ``compile`` and bf16-mixed, on a CPU slower without them.
        sync_batchnorm: batch statistics over all GPUs instead of each alone; on a CPU every
            process keeps its own.
        checkpoint_activations: keep the features between blocks of convolutions only and compute
            those inside once more in the backward pass: less memory, more time, equal results.
        profile: say at the end where the time went.
    """

    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "auto"
    compile: bool = False
    channels_last: bool = False
    sync_batchnorm: bool = False
    checkpoint_activations: bool = False
    profile: bool = False

    def __post_init__(self) -> None:
        _require_counts("trainer", {"devices": self.devices, "num_nodes": self.num_nodes})
        known = ["auto", *StrategyRegistry.available_strategies()]
        if self.strategy not in known:  # one process would ignore it, and several start late
            raise MssegError(
                Problem(
                    "config.strategy",
                    "Lightning has no such strategy",
                    field="trainer.strategy",
                    found=self.strategy,
                    expected=", ".join(known),
                    remedy="trainer.strategy=auto",
                    exit_code=ExitCode.CONFIG,
                )
            )

    @property
    def processes(self) -> int:
        """Number of processes on all machines."""
        return self.devices * self.num_nodes

    def prepare(self, task: Task) -> None:
        """Set the memory layout and compile the network; results stay equal up to rounding."""
        if not self.gpu:
            keep_freed_memory()
        if self.checkpoint_activations:
            recompute_blocks(task.network)
        if self.channels_last:
            for module in task.network.modules():
                for weight in module.parameters(recurse=False):
                    if weight.ndim in LAYOUTS:
                        weight.data = weight.data.contiguous(memory_format=LAYOUTS[weight.ndim])
        if self.compile:
            options = None if self.gpu else REPEAT_RATHER_THAN_STORE
            task.network.compile(dynamic=False, options=options)
            task.loss.compile(dynamic=False)
            task.compiled = True

    def resolved_precision(self) -> str:
        """The precision that ``auto`` stands for on this machine."""
        if self.precision != "auto":
            return self.precision
        return "bf16-mixed" if self.gpu and torch.cuda.is_bf16_supported() else "32-true"

    def require(self, devices: int | None = None) -> None:
        """Check that the devices are in this machine.

        Args:
            devices: how many are needed; None for those of a training.

        Raises:
            MssegError: they are not (exit 5); no such accelerator (exit 2).
        """
        devices = self.devices if devices is None else devices
        here = {"cpu": max(2, os.cpu_count() or 1), "cuda": torch.cuda.device_count()}
        here["mps"] = int(torch.backends.mps.is_available())
        here["gpu"] = here["cuda"] or here["mps"]
        here["auto"] = here["gpu"] or here["cpu"]
        if here.get(self.accelerator, 0) < devices:
            known = self.accelerator in here
            why = "it is not in this machine" if known else "there is no such accelerator"
            exit_code = ExitCode.ENVIRONMENT if known else ExitCode.CONFIG
            raise MssegError(self._absent(f"{self.accelerator} x {devices}", why, exit_code))

    @staticmethod
    def _absent(found: str, why: str, exit_code: ExitCode = ExitCode.ENVIRONMENT) -> Problem:
        return Problem(
            "train.device",
            f"this hardware cannot be used: {why}",
            field="trainer.accelerator / trainer.devices",
            found=found,
            expected=f"at most {os.cpu_count()} CPUs or {torch.cuda.device_count()} GPU(s), which "
            "are on this machine",
            remedy="use trainer.accelerator=cpu trainer.devices=1, or another machine",
            exit_code=exit_code,
        )

    @property
    def gpu(self) -> bool:
        """Whether training runs on a CUDA device."""
        return self.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


@dataclasses.dataclass(frozen=True)
class Training:
    """Length, validation and checkpoint intervals of a fit.

    Args:
        steps: optimiser steps; with ``minutes`` only the length of the learning-rate schedule.
        batch_size: patches per batch on each device.
        validate_every: optimiser steps between two whole-volume validations.
        accumulate: batches per optimiser step.
        clip_norm: gradient norm limit; None for no limit.
        checkpoint_minutes: longest time whose work a crash may cost.
        stop_after: validations in a row without a better score before training ends; None trains
            all ``steps``.
        monitor: validation score by which weights are kept and training ends, larger is better;
            ``score`` and ``dice_or_empty`` are explained in ``train.task``.
        minutes: of the processor (on a GPU of the clock), after which training ends, whatever the
            number of steps, see ``train.budget``; None trains ``steps``. How many steps that are
            differs between repetitions, so results are not equal bit for bit.
    """

    steps: int
    batch_size: int
    validate_every: int
    accumulate: int = 1
    clip_norm: float | None = None
    checkpoint_minutes: float = 10.0
    stop_after: int | None = None
    monitor: str = "score"
    minutes: float | None = None

    def __post_init__(self) -> None:
        counts = {"steps": self.steps, "batch_size": self.batch_size}
        counts |= {"validate_every": self.validate_every, "accumulate": self.accumulate}
        if self.stop_after is not None:
            counts["stop_after"] = self.stop_after
        _require_counts("train", counts)
        if self.minutes is not None and not (
            isinstance(self.minutes, int | float) and 0 < self.minutes < math.inf
        ):
            raise MssegError(
                Problem(
                    "config.range",
                    "the value is out of range",
                    field="train.minutes",
                    found=str(self.minutes),
                    expected="minutes above 0, or null for a number of steps",
                    remedy="train.minutes=30, or train.minutes=null",
                    exit_code=ExitCode.CONFIG,
                )
            )

    def fit(
        self,
        task: Task,
        data: LongitudinalDataModule,
        folder: Path,
        hardware: Hardware = Hardware(),
        loggers: Sequence[Logger] = (),
        callbacks: Sequence[L.Callback] = (),
    ) -> None:
        """Fit or continue the fit in ``folder``, then load the best weights into the task.

        With several devices every one has its process, see ``train.ranks``.

        Args:
            task: what learns.
            data: what it learns from.
            folder: of this fit.
            hardware: what it runs on.
            loggers: of the leading process alone.
            callbacks: as loggers.

        Raises:
            MssegError: no such device (5), loss not finite (7), stopped by a signal (75, 129, 130,
                143).
        """
        if (finished := _finished(folder)) is not None:
            return self._load_best(task, folder, finished)
        curves = CurveFile(folder / "curves.csv")
        last = folder / LAST if (folder / LAST).exists() else None
        if last is not None:
            curves.drop_from(int(read_checkpoint(last)["global_step"]))
        # strategies for several processes exchange parts of a module and do not put them back
        copied = copy.deepcopy(task) if hardware.processes > 1 else task
        share = functools.partial(self._fit, copied, data, folder, hardware, last)
        with on_all_processes(hardware.devices, hardware.num_nodes, share) as place:
            step, keep, budget = share(place, [curves, *loggers], callbacks)
        found = math.isfinite(keep.best_score)
        finished = {
            "step": step,
            "best_step": keep.best_step if found else None,
            "best_score": keep.best_score if found else None,
            "minutes": budget.minutes,
        }
        write_record(folder / DONE, finished)
        self._load_best(task, folder, finished)

    def _fit(
        self,
        task: Task,
        data: LongitudinalDataModule,
        folder: Path,
        hardware: Hardware,
        last: Path | None,
        place: ClusterEnvironment,
        loggers: Sequence[Logger] = (),
        callbacks: Sequence[L.Callback] = (),
    ) -> tuple[int, KeepCheckpoints, TimeBudget]:
        """The part of a fit that every process runs."""
        clock = time.monotonic if hardware.gpu else time.process_time
        budget = TimeBudget(self.minutes, self.steps, clock)
        if self.minutes is not None:
            task.schedule_position = budget.position
        keep = KeepCheckpoints(folder, f"val/{self.monitor}", self.checkpoint_minutes)
        hardware.prepare(task)
        watch = [Profile(data)] if hardware.profile else []
        patience: list[L.Callback] = []
        if self.stop_after is not None:
            patience = [StopWithoutProgress(keep, self.stop_after, self.validate_every)]
        warnings.filterwarnings("ignore", category=UserWarning, module="lightning")
        try:
            trainer = L.Trainer(
                accelerator=hardware.accelerator,
                devices=hardware.devices,
                num_nodes=hardware.num_nodes,
                strategy=hardware.strategy if hardware.processes > 1 else "auto",
                precision=hardware.resolved_precision(),  # type: ignore[arg-type]  # free text from YAML
                sync_batchnorm=hardware.sync_batchnorm and hardware.gpu and hardware.processes > 1,
                max_steps=self.steps if self.minutes is None else -1,
                max_epochs=-1,
                accumulate_grad_batches=self.accumulate,
                gradient_clip_val=self.clip_norm,
                num_sanity_val_steps=0,
                limit_val_batches=1.0 if data.val else 0,
                log_every_n_steps=max(1, min(50, self.validate_every // 5)),
                logger=list(loggers),
                callbacks=[
                    *watch,
                    budget,
                    Progress(self.steps, budget),
                    keep,
                    *patience,
                    *callbacks,
                    StopOnSignal(keep),
                ],
                plugins=[AtomicCheckpointIO(), place],
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                use_distributed_sampler=False,
                deterministic="warn" if torch.cuda.is_available() else True,
            )
        except ValueError as error:
            raise MssegError(
                Problem(
                    "train.trainer",
                    f"Lightning refuses a setting: {error}",
                    field="trainer",
                    remedy="`msseg show EXPERIMENT` prints what works, under trainer",
                    exit_code=ExitCode.CONFIG,
                )
            ) from error
        except MisconfigurationException as error:
            found = f"{hardware.accelerator} x {hardware.devices}"
            raise MssegError(hardware._absent(found, str(error))) from error
        trainer.fit(task, datamodule=data, ckpt_path=None if last is None else str(last))
        return trainer.global_step, keep, budget

    @staticmethod
    def _load_best(task: Task, folder: Path, finished: Mapping[str, Any]) -> None:
        """Load ``best.ckpt``, or ``last.ckpt`` where nothing was validated."""
        state = read_checkpoint(folder / (LAST if finished["best_step"] is None else BEST))
        task.load_state_dict(state["state_dict"])


def _finished(folder: Path) -> dict[str, Any] | None:
    """Record of a finished fit; None if it is not finished or the record is damaged.

    The last checkpoint knows all that the record says: a fit with a damaged record goes on from
    there, which is its end.

    Raises:
        MssegError: the record is damaged and there is no checkpoint (exit 4).
    """
    file = folder / DONE
    fields: Fields = {
        "step": int,
        "best_step": (int, type(None)),
        "best_score": (int, float, type(None)),
    }
    try:
        return read_record(file, fields)
    except FileNotFoundError:
        return None
    except (OSError, DamagedFileError) as error:
        if (folder / LAST).exists():
            log.warning("%s is damaged (%s) and is made again", file, error)
            return None
        remedy = f"delete the folder {folder} and give the `msseg train` command again"
        raise damaged_file(file, error, remedy) from error
