"""From the words of ``msseg sweep`` to a sweep that runs and is tracked."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from msseg_lightning.run.build import instantiate
from msseg_lightning.run.compose import Config, compose_config
from msseg_lightning.run.folder import data_name
from msseg_lightning.run.search import read_search
from msseg_lightning.run.sweep import ExperimentTrial, Sweep
from msseg_lightning.run.tracked import WriteReport, track_sweep, track_trial

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

FREE = ("trainer.", "paths.", "track", "data.workers")
"""Settings in which processes of one sweep may differ."""


def open_sweep(experiment: str, words: Sequence[str], report: WriteReport) -> tuple[Sweep, Config]:
    """The sweep that the words describe, begun or found again.

    Args:
        experiment: name.
        words: ``search=NAME``, ``search.KEY=VALUE``, ``name=``, ``store=``; the rest are overrides
            of the experiment, the same for all trials.
        report: writes the report of a run.

    Raises:
        MssegError: a search or setting that cannot be used, a sweep of this name with other
            settings (exit 2).
    """
    own: dict[str, Any] = {"search": "default", "name": None, "store": None}
    changes: dict[str, Any] = {}
    overrides = []
    for word in words:
        key, _, value = word.partition("=")
        key = key.removeprefix("+")
        if key in own:
            own[key] = value
        elif key.startswith("search."):
            changes[key.removeprefix("search.")] = yaml.safe_load(value)
        else:
            overrides.append(word)
    config = compose_config(overrides, experiment)  # refuses now what every trial would refuse
    search = read_search(own["search"], changes)
    size = "" if config["size"] == "paper" else f"-{config['size']}"
    name = own["name"] or f"{experiment}-{data_name(config)}{size}-{own['search']}"
    folder = Path(config["paths"].get("sweeps") or "sweeps") / name
    fixed = sorted(word for word in overrides if not word.lstrip("+~").startswith(FREE))
    sweep = Sweep(
        name,
        folder,
        search,
        ExperimentTrial(experiment, overrides, report),
        own["store"],
        [experiment, *fixed],
    )
    return sweep, config


def run_sweep(sweep: Sweep, config: Config) -> None:
    """Work on a sweep until it is finished, retrain the best few, write and track the answer."""
    tracking = instantiate(config.get("track")) or None
    name = config["name"]

    def on_trial(trial: FrozenTrial) -> None:
        if tracking is not None:
            with contextlib.suppress(OSError):  # the store of the trials is not the tracking store
                track_trial(tracking, sweep, name, trial)

    sweep.run(on_trial)
    several = len(sweep.search.objective) > 1
    sweep.export([] if several else sweep.retrain())
    if tracking is not None:
        track_sweep(tracking, sweep, name)
