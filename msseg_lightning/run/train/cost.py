"""What a training costs: time, memory, device and parameters, for the record of its run."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from msseg_lightning.core.files import require_record
from msseg_lightning.run.config.compose import Config

BY_TIME = (
    "training ended by time (train.minutes): a repeated or continued run takes other steps, so its "
    "results are not equal bit for bit"
)
"""Note in the record of a run whose length is a number of minutes."""


class FitCost:
    """Time and memory of a fit, added to what earlier processes of the run recorded.

    Args:
        record: content of ``run.json``.
    """

    def __init__(self, record: Mapping[str, Any]) -> None:
        self._record = dict(record)
        self._began, self._cpu_s = time.monotonic(), processor_s()

    def facts(self) -> dict[str, float]:
        """Minutes of the clock, minutes of all processors and largest memory in MiB."""
        known = self._record
        minutes = float(known.get("fit_minutes", 0)) + (time.monotonic() - self._began) / 60
        cpu = float(known.get("fit_cpu_minutes", 0)) + (processor_s() - self._cpu_s) / 60
        return {
            "fit_minutes": round(minutes, 4),
            "fit_cpu_minutes": round(cpu, 4),
            "peak_mib": max(int(known.get("peak_mib", 0)), peak_mib()),
        }


def processor_s() -> float:
    """Processor seconds of this process, all threads, and of its finished child processes."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def peak_mib() -> int:
    """The most memory that this process ever occupied, in MiB."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit


def model_parameters(model: Path) -> int | None:
    """Parameters of all networks of a model folder; None where one is not recorded."""
    cards = sorted(model.rglob("card.json"))
    remedy = "give the `msseg train` command of this run again, which writes it anew"
    fields = {"parameters?": (int, type(None))}
    numbers = [require_record(card, remedy, fields).get("parameters") for card in cards]
    known = [int(number) for number in numbers if number is not None]
    return sum(known) if known and len(known) == len(cards) else None


def device(config: Config) -> str:
    """What a system is trained on: ``cpu``, or the name of the GPU."""
    from msseg_lightning.train.training import Hardware

    accelerator = (config.get("trainer") or {}).get("accelerator", "auto")
    if not any(True for _ in trainings(config)) or not Hardware(accelerator=accelerator).gpu:
        return "cpu"
    import torch

    return str(torch.cuda.get_device_name())


def trainings(config: Config) -> Iterator[Mapping[str, Any]]:
    """The ``train`` settings of every network of a system, its members and stages included."""
    members = ((config.get("ensemble") or {}).get("configs") or {}).values()
    for system in members or (config,):
        for part in (*(system.get("stages") or {}).values(), system):
            if part.get("network") is not None and part.get("train"):
                yield part["train"]


def length_facts(config: Config) -> dict[str, str]:
    """A note for the record of a run whose length is a number of minutes; else empty."""
    by_time = any(train.get("minutes") is not None for train in trainings(config))
    return {"repeatable": BY_TIME} if by_time else {}
