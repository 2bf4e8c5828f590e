"""Prediction of a pair, a table or a data set with a trained system."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msseg_lightning.core.outputs import refuse_inside_data
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject import LongitudinalSubject
from msseg_lightning.core.subject_map import SupportsSubmit, map_subjects
from msseg_lightning.read.nifti import gate_options
from msseg_lightning.read.reader import read_subjects
from msseg_lightning.run.assemble.system import instantiate
from msseg_lightning.run.folder import data_name
from msseg_lightning.run.predict.bids_derivatives import (
    derivative_files,
    is_bids,
    write_description,
)
from msseg_lightning.run.predict.operating_point import StoredPoint, Use, operated
from msseg_lightning.run.predict.prediction_files import read_pairs, read_side_car, refuse_in_run
from msseg_lightning.run.predict.predictor import Predictor
from msseg_lightning.run.predict.rater_scores import score_raters
from msseg_lightning.run.predict.scores import pair_facts, score_options, write_scores
from msseg_lightning.run.predict.trained import (
    load_config,
    recorded_settings,
    run_of,
    weights_hash,
)
from msseg_lightning.run.shard import Shard
from msseg_lightning.split.split import data_hash


@dataclasses.dataclass(frozen=True)
class DataSetResult:
    """Result of the prediction of a data set or of one shard of it.

    Args:
        predicted: ids of the predicted pairs of this shard.
        summary: the two-group summary of the pairs with a reference; empty without any, and while
            other shards are missing.
        refused: id -> error of a pair without mask or score.
        total: number of pairs in all shards.
        operating_point: what the side-cars say of it; empty where none was chosen.
    """

    predicted: tuple[str, ...]
    summary: dict[str, Any]
    refused: dict[str, MssegError]
    total: int
    operating_point: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def predict_data_set(
    model: Path,
    overrides: Sequence[str],
    folder: Path,
    include_training: bool = False,
    shard: Shard | None = None,
    executor: SupportsSubmit | int = 1,
    pieces: int | None = None,
    uncertainty: bool = False,
    use_point: Use = "auto",
) -> DataSetResult:
    """Write masks, maps and side-cars of all pairs into ``folder``; score those with a reference.

    Of a BIDS data set they are BIDS derivatives, see ``bids_derivatives``. A pair that is refused
    is skipped. A second call predicts only the missing pairs.

    Args:
        model: model folder, from ``find_model``.
        overrides: ``read=PRESET read.root=...`` and other settings that ``load_config`` accepts.
        folder: receives ``<id>.nii.gz``, ``<id>_probability.nii.gz``, ``<id>_msseg.json``; with
            references also ``scores/<id>.json``, and ``scores.json`` and ``scores.csv`` of all.
        include_training: also predict pairs that the system was trained on.
        shard: only these pairs; the shard that completes the data set writes the tables.
        executor: number of processes, or an executor.
        pieces: see ``map_subjects``.
        uncertainty: also write ``<id>_uncertainty.nii.gz``.
        use_point: whether the operating point of the model is used.

    Raises:
        MssegError: a setting is unknown or would change what was trained (exit 2); or the system
            was trained, or its operating point chosen, on some of these pairs (exit 4).
    """
    config = load_config(model, overrides)
    refuse_inside_data(config["read"].get("root"), {"--folder": folder})
    config, point, told = operated(model, config, overrides, use_point)
    subjects = read_subjects(instantiate(config["read"]))
    seen = trained_on(model, subjects)
    if seen and not include_training:
        raise MssegError(
            Problem(
                "predict.training_data",
                f"the system was trained on {len(seen)} of these {len(subjects)} pairs: "
                "their scores would not be a test",
                file=config["read"].get("root"),
                field="read.root",
                found=", ".join(seen[:10]),
                expected="pairs that the system was not trained on",
                remedy="give other data, or --include-training to go on and have it recorded",
                exit_code=ExitCode.MODEL,
            )
        )
    chosen = point.chosen_among(subjects) if point is not None else []
    if chosen and not include_training:
        raise _chosen_on(chosen, len(subjects), config["read"].get("root"))
    files: dict[str, Any] = {"uncertainty": uncertainty}
    if is_bids(config):
        files = derivative_files(subjects, folder, uncertainty)
    apply = Predictor.from_config(
        model,
        config,
        folder,
        settings=recorded_settings(overrides),
        point=point,
        operating_point=told,
        **files,
    )
    apply.refuse_foreign_files(subjects)
    selected = {subject.id: subject for subject in (shard.of(subjects) if shard else subjects)}
    mapped = map_subjects(apply, selected, executor, "predict", pieces)
    if is_bids(config) and mapped.done:
        done = [selected[name] for name in mapped.done]
        facts = {"name": config["name"], "model_sha256": weights_hash(model)}
        write_description(folder, done, facts)
    scores = mapped.done
    if shard is not None and all(apply.is_done(subject) for subject in subjects):
        scores = {subject.id: apply(subject) for subject in subjects}
    scored = {name: score for name, score in scores.items() if score is not None}
    summary: dict[str, Any] = {}
    if scored and (shard is None or len(scores) == len(subjects)):
        labelled = [one for one in subjects if one.id in scored]
        facts = {
            "data": {
                "name": data_name(config),
                "data_hash": data_hash(subjects),
                "left_out": sorted(mapped.failed),
                "trained_on": seen,
            },
            "model": {"system": config["name"], "weights_sha256": weights_hash(model)},
            "settings": list(apply.settings),
            **point_facts(point, chosen, told),
            "pairs": pair_facts(labelled, learned_from(model)),
            "raters": score_raters(
                labelled, gate_options(config["data"]["reading"]), score_options(config)
            ),
        }
        summary = write_scores(folder, scored, score_options(config), facts)
    facts = {**told, "chosen_on_scored": chosen} if chosen else told
    return DataSetResult(tuple(mapped.done), summary, mapped.failed, len(subjects), facts)


def predict_table(
    model: Path,
    table: Path,
    folder: Path,
    overrides: Sequence[str] = (),
    shard: Shard | None = None,
    executor: SupportsSubmit | int = 1,
    pieces: int | None = None,
    uncertainty: bool = False,
    use_point: Use = "auto",
) -> DataSetResult:
    """Write masks of all pairs of a CSV, see ``read_pairs``; else like ``predict_data_set``."""
    pairs = read_pairs(table, folder)
    refuse_in_run(model, [output for _, output in pairs if output is not None])
    outputs = {subject.id: output for subject, output in pairs if output is not None}
    config, point, told = operated(model, load_config(model, overrides), overrides, use_point)
    apply = Predictor.from_config(
        model,
        config,
        folder,
        masks_only=True,
        outputs=outputs,
        settings=recorded_settings(overrides),
        uncertainty=uncertainty,
        point=point,
        operating_point=told,
    )
    subjects = [subject for subject, _ in pairs]
    apply.refuse_foreign_files(subjects)
    selected = {subject.id: subject for subject in (shard.of(subjects) if shard else subjects)}
    mapped = map_subjects(apply, selected, executor, "predict", pieces)
    return DataSetResult(tuple(mapped.done), {}, mapped.failed, len(subjects), told)


def predict_pair(
    model: Path,
    subject: LongitudinalSubject,
    output: Path,
    probability: Path | None = None,
    overrides: Sequence[str] = (),
    uncertainty: Path | None = None,
    use_point: Use = "auto",
) -> dict[str, Any]:
    """Write the mask of one pair and the requested maps; a finished prediction is kept.

    Args:
        model: model folder, from ``find_model``.
        subject: the pair.
        output: file of the mask, checked by ``prediction_files.check_outputs``.
        probability: file of the probability map.
        overrides: settings that ``load_config`` accepts.
        uncertainty: file of the uncertainty map.
        use_point: whether the operating point of the model is used.

    Returns:
        Content of the side-car of the mask.

    Raises:
        MssegError: the pair is refused, or an uncertainty map is wanted of a system with a single
            output (exit 2).
    """
    config, point, told = operated(model, load_config(model, overrides), overrides, use_point)
    apply = Predictor.from_config(
        model,
        config,
        output.parent,
        masks_only=True,
        outputs={subject.id: output},
        maps={} if probability is None else {subject.id: probability},
        uncertainty={} if uncertainty is None else {subject.id: uncertainty},
        settings=recorded_settings(overrides),
        point=point,
        operating_point=told,
    )
    apply(subject)
    return read_side_car(output)


def point_facts(
    point: StoredPoint | None, chosen: Sequence[str], told: Mapping[str, Any]
) -> dict[str, Any]:
    """What the scores say of the operating point, and of scored pairs that it was chosen on."""
    if point is None:
        return {"operating_point": dict(told)} if told else {}
    threshold = point.words
    if chosen:
        threshold += f"; CHOSEN ON {len(chosen)} OF THESE PAIRS, so their scores are no test"
    return {"operating_point": {**told, "chosen_on_scored": list(chosen)}, "threshold": threshold}


def _chosen_on(chosen: Sequence[str], total: int, root: str | None) -> MssegError:
    return MssegError(
        Problem(
            "predict.point_data",
            f"the operating point was chosen on {len(chosen)} of these {total} pairs: their scores "
            "would not be a test",
            file=root,
            field="read.root",
            found=", ".join(chosen[:10]),
            expected="pairs that the operating point was not chosen on",
            remedy="give other data, or --include-training to go on and have it recorded",
            exit_code=ExitCode.MODEL,
        )
    )


def trained_on(model: Path, subjects: Sequence[LongitudinalSubject]) -> list[str]:
    """Ids of pairs that were used for training or validation of this model.

    Known only for a model in its run folder; data are compared by hash, so that equal ids in
    another data set do not count.
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


def learned_from(model: Path) -> list[str] | None:
    """Ids of the pairs of training and validation; None for a model outside of its run folder."""
    run = run_of(model)
    if run is None or not run.split_file.exists():
        return None
    split = run.split()
    return [*split["train"], *split["val"]]
