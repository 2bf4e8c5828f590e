"""Apply a trained system to a pair, a table or a data set, and score where references exist."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject import LongitudinalSubject
from msseg_lightning.core.subject_map import SupportsSubmit, map_subjects
from msseg_lightning.read.reader import read_subjects
from msseg_lightning.run.assemble.system import instantiate
from msseg_lightning.run.folder import data_name
from msseg_lightning.run.predict.application import Application
from msseg_lightning.run.predict.delivery import read_pairs, read_side_car
from msseg_lightning.run.predict.scores import score_options, write_scores
from msseg_lightning.run.predict.trained import (
    load_config,
    recorded_settings,
    run_of,
    weights_hash,
)
from msseg_lightning.run.shard import Shard
from msseg_lightning.split.split import data_hash


@dataclasses.dataclass(frozen=True)
class Applied:
    """What became of a data set.

    Args:
        predicted: ids of the pairs with a mask, of this part of the data set.
        summary: the two-group summary of the pairs with a reference; empty without any, and as long
            as other parts are missing.
        refused: id -> why it has no mask, or no score.
        total: number of pairs in all parts.
    """

    predicted: tuple[str, ...]
    summary: dict[str, Any]
    refused: dict[str, MssegError]
    total: int


def apply_to_data_set(
    model: Path,
    overrides: Sequence[str],
    folder: Path,
    include_training: bool = False,
    shard: Shard | None = None,
    executor: SupportsSubmit | int = 1,
    pieces: int | None = None,
) -> Applied:
    """Write masks, maps and side-cars of all pairs into ``folder``; score those with a reference.

    A pair that is refused is left out and the others go on. A second call does only what is
    missing.

    Args:
        model: model folder, from ``find_model``.
        overrides: ``read=PRESET read.root=...`` and, if wanted, settings as ``load_config`` takes.
        folder: ``<id>.nii.gz``, ``<id>_probability.nii.gz``, ``<id>_msseg.json``; where there are
            references ``scores/<id>.json``, and ``scores.json`` and ``scores.csv`` of all.
        include_training: also take pairs the system was trained on.
        shard: only these pairs; the part that completes the data set writes the tables.
        executor: number of processes, or where else to work.
        pieces: see ``map_subjects``.

    Raises:
        MssegError: a setting is unknown or would change what was trained (exit 2), or the system
            was trained on some of these pairs (exit 4).
    """
    config = load_config(model, overrides)
    subjects = read_subjects(instantiate(config["read"]))
    seen = trained_on(model, subjects)
    if seen and not include_training:
        raise MssegError(
            Problem(
                "predict.training_data",
                f"the system was trained on {len(seen)} of these {len(subjects)} pairs: "
                "their scores would be no test",
                file=config["read"].get("root"),
                field="read.root",
                found=", ".join(seen[:10]),
                expected="pairs the system has not seen",
                remedy="give other data, or --include-training to go on and have it recorded",
                exit_code=ExitCode.MODEL,
            )
        )
    apply = Application.of(model, config, folder, settings=recorded_settings(overrides))
    apply.refuse_foreign_files(subjects)
    mine = {subject.id: subject for subject in (shard.of(subjects) if shard else subjects)}
    mapped = map_subjects(apply, mine, executor, "predict", pieces)
    scores = mapped.done
    if shard is not None and all(apply.is_done(subject) for subject in subjects):
        scores = {subject.id: apply(subject) for subject in subjects}
    scored = {name: score for name, score in scores.items() if score is not None}
    summary: dict[str, Any] = {}
    if scored and (shard is None or len(scores) == len(subjects)):
        facts = {
            "data": {
                "name": data_name(config),
                "data_hash": data_hash(subjects),
                "left_out": sorted(mapped.failed),
                "trained_on": seen,
            },
            "model": {"system": config["name"], "weights_sha256": weights_hash(model)},
            "settings": list(apply.settings),
        }
        summary = write_scores(folder, scored, score_options(config), facts)
    return Applied(tuple(mapped.done), summary, mapped.failed, len(subjects))


def apply_to_table(
    model: Path,
    table: Path,
    folder: Path,
    overrides: Sequence[str] = (),
    shard: Shard | None = None,
    executor: SupportsSubmit | int = 1,
    pieces: int | None = None,
) -> Applied:
    """Masks of all pairs of a CSV, see ``read_pairs``; otherwise as ``apply_to_data_set``."""
    pairs = read_pairs(table, folder)
    outputs = {subject.id: output for subject, output in pairs if output is not None}
    apply = Application.of(
        model,
        load_config(model, overrides),
        folder,
        masks_only=True,
        outputs=outputs,
        settings=recorded_settings(overrides),
    )
    subjects = [subject for subject, _ in pairs]
    apply.refuse_foreign_files(subjects)
    mine = {subject.id: subject for subject in (shard.of(subjects) if shard else subjects)}
    mapped = map_subjects(apply, mine, executor, "predict", pieces)
    return Applied(tuple(mapped.done), {}, mapped.failed, len(subjects))


def apply_to_pair(
    model: Path,
    subject: LongitudinalSubject,
    output: Path,
    probability: Path | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Write the mask of one pair, and the map where wanted; what is there already stays.

    Args:
        model: model folder, from ``find_model``.
        subject: the pair.
        output: mask; ``delivery.check_outputs`` has looked at it.
        probability: map.
        overrides: settings as ``load_config`` takes.

    Returns:
        What the side-car of the mask says.

    Raises:
        MssegError: the pair is refused.
    """
    apply = Application.of(
        model,
        load_config(model, overrides),
        output.parent,
        masks_only=True,
        outputs={subject.id: output},
        maps={} if probability is None else {subject.id: probability},
        settings=recorded_settings(overrides),
    )
    apply(subject)
    return read_side_car(output)


def trained_on(model: Path, subjects: Sequence[LongitudinalSubject]) -> list[str]:
    """Ids of pairs that the run of this model trained or chose a checkpoint on.

    Known only for a model that lies in its run folder; data are recognised by their hash, so that
    equal ids in another data set do not matter.
    """
    run = run_of(model)
    if run is None or not run.split_file.exists():
        return []
    split = run.split()
    labelled = [subject for subject in subjects if subject.labelled]
    if split.get("data_hash") != data_hash(labelled):
        return []
    used = {*split["train"], *split["val"]}
    return sorted(subject.id for subject in labelled if subject.id in used)
