"""Prepared pairs of an experiment, before anything is trained or predicted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject_map import MapResult, SupportsSubmit
from msseg_lightning.read.reader import read_subjects
from msseg_lightning.run.assemble.system import build_cache, instantiate, stage_config
from msseg_lightning.run.config.compose import Config
from msseg_lightning.run.config.keys import handed_down
from msseg_lightning.run.shard import Shard


def prepare_data_set(
    config: Config,
    shard: Shard | None = None,
    executor: SupportsSubmit | None = None,
    pieces: int | None = None,
) -> MapResult[Any]:
    """Build what is missing of ``paths.cache``: every pair, by every chain of the experiment.

    Training and prediction find there what they would have to make.

    Args:
        config: of an experiment.
        shard: only these pairs.
        executor: where to work; ``data.workers`` processes by default.
        pieces: see ``map_subjects``.

    Raises:
        MssegError: a chain learns from the training pairs (exit 2).
    """
    subjects = read_subjects(instantiate(config["read"]))
    mine = shard.of(subjects) if shard else subjects
    failed: dict[str, MssegError] = {}
    for part in chains(config):
        cache = build_cache(part)
        if cache.preprocess.needs_fit():
            raise MssegError(
                Problem(
                    "prepare.learned",
                    "a step of this chain is learned from the training pairs",
                    field="preprocess",
                    found=repr(cache.preprocess),
                    remedy="give what it learns as its setting (of Nyul: landmarks), from "
                    "Preprocess.fit on the training pairs",
                    exit_code=ExitCode.CONFIG,
                )
            )
        failed |= cache.build(mine, executor, pieces).failed
    done = {subject.id: None for subject in mine if subject.id not in failed}
    return MapResult(
        done, {subject.id: failed[subject.id] for subject in mine if subject.id in failed}
    )


def chains(config: Config) -> Iterator[Config]:
    """The experiment, its stages and its members, each chain of preprocessing once."""
    members = (config.get("ensemble") or {}).get("configs") or {}
    shared = handed_down(config)
    systems = [config, *({**member, **shared} for member in members.values())]
    seen: list[Any] = []
    for system in systems:
        for part in (*(stage_config(system, name) for name in system["stages"]), system):
            # a stage with data of its own prepares them itself
            if part["read"] == config["read"] and part["preprocess"] not in seen:
                seen.append(part["preprocess"])
                yield part
