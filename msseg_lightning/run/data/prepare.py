"""Preprocessing of all pairs of an experiment into the cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msseg_lightning.core.outputs import refuse_inside_data
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject_map import MapResult, SupportsSubmit
from msseg_lightning.read.reader import read_subjects
from msseg_lightning.run.assemble.system import build_cache, instantiate, stage_config
from msseg_lightning.run.config.compose import Config
from msseg_lightning.run.config.keys import inherited_settings
from msseg_lightning.run.shard import Shard


def prepare_data_set(
    config: Config,
    shard: Shard | None = None,
    executor: SupportsSubmit | None = None,
    pieces: int | None = None,
) -> MapResult[Any]:
    """Preprocess every pair that is missing in ``paths.cache``, for every chain of the experiment.

    Args:
        config: of an experiment.
        shard: only these pairs.
        executor: used instead of ``data.workers`` processes.
        pieces: see ``map_subjects``.

    Raises:
        MssegError: a step must be fitted on the training pairs (exit 2).
    """
    refuse_inside_data(config["read"].get("root"), {"paths.cache": config["paths"]["cache"]})
    subjects = read_subjects(instantiate(config["read"]))
    own = shard.of(subjects) if shard else subjects
    failed: dict[str, MssegError] = {}
    for part in preprocessing_chains(config):
        cache = build_cache(part)
        if cache.preprocess.needs_fit():
            raise MssegError(
                Problem(
                    "prepare.learned",
                    "a preprocessing step must be fitted on the training pairs",
                    field="preprocess",
                    found=repr(cache.preprocess),
                    remedy="give what is fitted as its setting (of Nyul: landmarks), from "
                    "Preprocess.fit on the training pairs",
                    exit_code=ExitCode.CONFIG,
                )
            )
        failed |= cache.build(own, executor, pieces).failed
    done = {subject.id: None for subject in own if subject.id not in failed}
    return MapResult(
        done, {subject.id: failed[subject.id] for subject in own if subject.id in failed}
    )


def preprocessing_chains(config: Config) -> Iterator[Config]:
    """Configurations of the experiment, its stages and members with different preprocessing."""
    members = (config.get("ensemble") or {}).get("configs") or {}
    shared = inherited_settings(config)
    systems = [config, *({**member, **shared} for member in members.values())]
    seen: list[Any] = []
    for system in systems:
        for part in (*(stage_config(system, name) for name in system["stages"]), system):
            # a stage with its own data preprocesses them when it is fitted
            if part["read"] == config["read"] and part["preprocess"] not in seen:
                seen.append(part["preprocess"])
                yield part
