"""Short trainings that show whether a system runs, and whether it can learn: ``debug=``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.run.config.compose import Config

FAST, OVERFIT = "fast", "overfit"
FAST_STEPS = 2
OVERFIT_STEPS = 2000
OVERFIT_INTERVAL = 50
LEARNED_DICE = 0.9
"""Dice coefficient on the working grid from which a pair counts as learned."""


def with_debug(config: Config) -> Config:
    """The configuration of a short training; unchanged without ``debug``.

    ``fast``: every network does two steps on two pairs, one held-out pair is predicted and scored.
    ``overfit``: one network learns one pair with new lesions and is validated on it, until its Dice
    coefficient is ``LEARNED_DICE`` or for ``OVERFIT_STEPS`` steps. Both are untracked, below
    ``runs/debug``, and start anew each time.

    Raises:
        MssegError: another word, or ``overfit`` of a system that is not one network (exit 2).
    """
    mode = config.get("debug")
    if mode is None:
        return config
    if mode not in (FAST, OVERFIT):
        raise _wrong(str(mode), f"{FAST} or {OVERFIT}", f"debug={FAST}, or leave it out")
    config = _changed(config, mode)
    runs = str(Path(config["paths"]["runs"]) / "debug")
    config |= {"track": {}, "overwrite": True, "paths": {**config["paths"], "runs": runs}}
    if mode == OVERFIT:
        if config.get("stages") or config.get("ensemble") or not config.get("network"):
            found = f"{config['name']} has stages, members or no network"
            raise _wrong(found, "a system of one network", f"debug={FAST}, or one of its parts")
        stop = {
            "_target_": "lightning.pytorch.callbacks.EarlyStopping",
            "monitor": "val/dice",
            "mode": "max",
            "stopping_threshold": LEARNED_DICE,
            "patience": OVERFIT_STEPS,
            "check_on_train_epoch_end": False,
            "strict": False,  # a lesion may be smaller than a voxel of the prepared pair
        }
        config["callbacks"] = [*(config.get("callbacks") or []), stop]
    return config


def pairs_needed(config: Config) -> int:
    """How many training pairs a short training keeps: enough for all folds inside the system."""
    folds = [int((config.get("ensemble") or {}).get("folds") or 1)]
    folds += [int(stage.get("out_of_fold") or 1) for stage in (config.get("stages") or {}).values()]
    return 2 * max(folds)


def _changed(node: Any, mode: str, key: str = "") -> Any:
    if isinstance(node, list):
        return [_changed(value, mode) for value in node]
    if not isinstance(node, Mapping):
        return node
    found = {name: _changed(value, mode, name) for name, value in node.items()}
    if key == "train" and "steps" in found:
        most, interval = (
            (FAST_STEPS, FAST_STEPS) if mode == FAST else (OVERFIT_STEPS, OVERFIT_INTERVAL)
        )
        found["steps"] = min(found["steps"], most)
        found["validate_every"] = min(found["validate_every"], interval, found["steps"])
        found["stop_after"] = None
        if mode == OVERFIT:
            found["monitor"] = "dice"
    return found


def _wrong(found: str, expected: str, remedy: str) -> MssegError:
    return MssegError(
        Problem(
            "config.debug",
            "this short training does not exist",
            field="debug",
            found=found,
            expected=expected,
            remedy=remedy,
            exit_code=ExitCode.CONFIG,
        )
    )
