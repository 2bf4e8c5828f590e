"""A budget of minutes or steps, divided over the networks of a system."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping
from typing import Any

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.run.config.compose import Config
from msseg_lightning.run.config.overrides import override


@dataclasses.dataclass(frozen=True)
class Budget:
    """How much a system may be trained; without either as long as its settings say.

    Args:
        minutes: of the processor, over all its networks (see ``train.budget``).
        steps: optimiser steps, over all its networks.
    """

    minutes: float | None = None
    steps: int | None = None

    @classmethod
    def parse(cls, given: Mapping[str, str]) -> Budget:
        """The budget of ``budget.minutes=N`` or ``budget.steps=N``.

        Args:
            given: ``minutes`` or ``steps`` -> text.

        Raises:
            MssegError: both are given, another setting, or no number above 0 (exit 2).
        """
        try:
            numbers: dict[str, Any] = {
                name: _KINDS[name](text) for name, text in given.items() if text != "null"
            }
            budget = cls(**numbers)
        except (ValueError, KeyError):
            budget = cls(0, 0)
        values = [one for one in dataclasses.astuple(budget) if one is not None]
        if len(values) > 1 or not all(0 < one < float("inf") for one in values):
            raise MssegError(
                Problem(
                    "benchmark.budget",
                    "this is no budget of a training",
                    field="budget",
                    found=", ".join(f"budget.{name}={text}" for name, text in given.items()),
                    expected="one of budget.minutes and budget.steps, above 0",
                    remedy="budget.minutes=30, or budget.steps=2000",
                    exit_code=ExitCode.CONFIG,
                )
            )
        return budget

    def __str__(self) -> str:
        if self.minutes is not None:
            return f"{self.minutes:g} minutes of the processor for all networks of a system"
        if self.steps is not None:
            return f"{self.steps} optimiser steps for all networks of a system"
        return "as long as the settings of each system say"

    def as_dict(self) -> dict[str, float]:
        """What is limited, by name."""
        return {key: of for key, of in dataclasses.asdict(self).items() if of is not None}

    def overrides(self, config: Config) -> list[str]:
        """Settings that give a system this budget.

        Each network gets the share that its steps have among the steps of all networks. A system
        without a network that is trained by gradients needs none.
        """
        if not self.as_dict():
            return []
        networks = networks_of(config)
        total = sum(one.steps * one.fits for one in networks)
        members: dict[str, list[str]] = {}
        words: list[str] = []
        for one in networks:
            own = [
                f"{'++' if '.' in one.place else ''}{one.place}.{key}={value}"
                for key, value in self._share(one, total).items()
            ]
            if one.member is None:
                words += own
            else:
                members.setdefault(one.member, []).extend(own)
        variants = (config.get("ensemble") or {}).get("variants") or {}
        for member, own in members.items():
            known = list((variants.get(member) or {}).get("settings", ()))
            words.append("++" + override(f"ensemble.variants.{member}.settings", [*known, *own]))
        return words

    def _share(self, network: Network, total: int) -> dict[str, float]:
        share = network.steps / total
        if self.minutes is not None:
            return {"minutes": round(self.minutes * share, 4)}
        assert self.steps is not None
        steps = max(1, round(self.steps * share))
        return {"steps": steps, "validate_every": min(network.validate_every, steps)}


_KINDS: Mapping[str, type[float] | type[int]] = {"minutes": float, "steps": int}


@dataclasses.dataclass(frozen=True)
class Network:
    """A network of a system that is trained by gradients.

    Args:
        member: of an ensemble of experiments; None for the system itself.
        place: its training settings: ``train``, or ``stages.NAME.train``.
        steps: optimiser steps of one fit.
        validate_every: steps between two validations.
        fits: how often it is fitted: for parts of the patients, members and seeds.
    """

    member: str | None
    place: str
    steps: int
    validate_every: int
    fits: int


def networks_of(config: Config) -> list[Network]:
    """The networks of a system, of its stages and of the members of an ensemble."""
    ensemble = config.get("ensemble")
    if not ensemble:
        return _of_system(config, None, 1, 1)
    seeds = int(ensemble.get("seeds") or 1)
    systems = ensemble.get("configs") or {None: config}
    named = collections.Counter(ensemble.get("of_fold") or ())
    found = []
    for member, system in systems.items():
        fits = seeds * int(named[member or config["name"]] if named else ensemble["folds"])
        of_stages = 1 if ensemble.get("share_stages") else fits
        found += _of_system(system, member, of_stages, fits)
    return found


def _of_system(system: Config, member: str | None, of_stages: int, fits: int) -> list[Network]:
    parts = [
        (f"stages.{name}.train", part, of_stages * int(part.get("out_of_fold") or 1))
        for name, part in (system.get("stages") or {}).items()
    ]
    return [
        Network(member, place, part["train"]["steps"], part["train"]["validate_every"], count)
        for place, part, count in (*parts, ("train", system, fits))
        if part.get("network") is not None and part.get("train")
    ]
