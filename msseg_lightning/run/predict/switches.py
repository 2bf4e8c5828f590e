"""Switches of a prediction that are no settings of a system: ``mirror`` and ``threshold``."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.run.config.compose import Config

MIRROR = {"left-right": [0], "all": [0, 1, 2]}
"""Value of the switch -> axes of the working grid, which is RAS+."""

SWITCHES = ("mirror", "threshold")

INFER = "msseg_lightning.infer"
FLIPPED = f"{INFER}.aggregate.Flipped"
WINDOW = f"{INFER}.sliding_window.SlidingWindow"
SLICES = f"{INFER}.slices.SliceWise"
PASSES = f"{INFER}.monte_carlo.MonteCarloDropout"
THRESHOLD = "msseg_lightning.postprocess.threshold.Threshold"


def split_switches(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Settings, and the switches among them: ``mirror=all``, ``threshold=0.3``."""
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name in SWITCHES:
            found[name] = value
    return [word for word in words if word.partition("=")[0] not in SWITCHES], found


def apply_switches(config: Config, switches: dict[str, str]) -> Config:
    """The configuration of a trained system with mirrored copies and another threshold.

    Mirrored copies are predicted by every network that gives the final map (the last stage, each
    member) and averaged with the plain one. The threshold is that of the map which the system
    outputs.

    Raises:
        MssegError: an unknown value, or a system without such a step (exit 2).
    """
    config = copy.deepcopy(config)
    if "mirror" in switches:
        axes = MIRROR.get(switches["mirror"])
        if axes is None:
            raise _wrong("mirror", switches["mirror"], " or ".join(MIRROR), "give one of these")
        configs = (config.get("ensemble") or {}).get("configs") or {}
        for part in configs.values() if configs else [config]:
            part["infer"] = _mirrored(part.get("infer"), axes)
    if "threshold" in switches:
        _set_threshold(config, switches["threshold"])
    return config


def _mirrored(infer: Any, axes: Sequence[int]) -> Any:
    target = (infer or {}).get("_target_")
    if target == WINDOW:
        return {"_target_": FLIPPED, "window": infer, "axes": list(axes)}
    if target == FLIPPED:
        return {**infer, "axes": sorted({*infer.get("axes", (0, 1, 2)), *axes})}
    if target == SLICES:
        from msseg_lightning.infer.aggregate import flip_sets

        given = [tuple(one) for one in infer.get("flips") or [[]]]
        sets = {tuple(sorted({*one} ^ {*more})) for one in given for more in flip_sets(axes)}
        return {**infer, "flips": sorted(map(list, sets), key=lambda one: (len(one), one))}
    if target == PASSES:
        return {**infer, "window": _mirrored(infer["window"], axes)}
    name = str(target).rpartition(".")[2] if target else "no network"
    raise _wrong("mirror", name, "windows or slices of a network", "leave --mirror out")


def _set_threshold(config: Config, text: str) -> None:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise _wrong("threshold", text, "0 to 1", "give a probability, such as --threshold 0.3")
    rules = ((config.get("postprocess") or {}).get("rules") or {}).values()
    found = [rule for rule in rules if rule and rule.get("_target_") == THRESHOLD]
    if not found:
        name = str(config.get("name"))
        raise _wrong(
            "threshold",
            name,
            "a system whose map of probabilities is cut",
            "leave --threshold out: this system decides by rules of its own",
        )
    for rule in found:
        rule["value"] = value


def _wrong(name: str, found: str, expected: str, remedy: str) -> MssegError:
    return MssegError(
        Problem(
            "predict.switch",
            "this switch cannot be used",
            field=f"--{name}",
            found=found,
            expected=expected,
            remedy=remedy,
            exit_code=ExitCode.CONFIG,
        )
    )
