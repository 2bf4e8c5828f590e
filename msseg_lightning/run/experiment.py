"""One experiment: split, fit, predict the held-out pairs, score, report, record."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from msseg_lightning import __version__
from msseg_lightning.core.files import sha256_file, write_json
from msseg_lightning.core.method import Method
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject import TARGET, LongitudinalSubject
from msseg_lightning.evaluate.score import CaseScore, ScoreOptions, score_case
from msseg_lightning.evaluate.summary import summarise
from msseg_lightning.read.splits import Split
from msseg_lightning.run.build import Load, build_load, build_method, instantiate
from msseg_lightning.run.compose import Config, compose_config
from msseg_lightning.run.folder import RunFolder, data_name, flatten
from msseg_lightning.run.predict import predict_to_file
from msseg_lightning.run.progress import track

log = logging.getLogger(__name__)

PROTOCOL = "MSSEG-2 (animaSegPerfAnalyzer 4.2 rules)"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Where a finished run lies and what it scored.

    Args:
        folder: the run folder.
        summary: the two-group summary of the held-out pairs.
        tracking_uri: store that holds the run; None where it could not be reached.
    """

    folder: RunFolder
    summary: dict[str, Any]
    tracking_uri: str | None


def train_experiment(config: Config) -> Outcome:
    """Run an experiment from split to report, or continue it where it stopped.

    Raises:
        MssegError: anything the user can act on; the run is marked accordingly.
    """
    folder = RunFolder.of(config)
    with folder.lock():
        folder.claim_config(config)
        load = build_load(config)
        subjects = labelled_subjects(config)
        split = make_split(config, subjects, load)
        write_json(folder.split_file, dataclasses.asdict(split))
        tracking = instantiate(config["track"])
        tracker = _open_run(config, folder, split, tracking)
        if tracker is None:
            return _run(config, folder, subjects, split, load, None)
        with tracker:
            return _run(config, folder, subjects, split, load, tracker)


def labelled_subjects(config: Config) -> dict[str, LongitudinalSubject]:
    """Every pair with a reference mask, by id.

    Raises:
        MssegError: there is none.
    """
    subjects = {subject.id: subject for subject in instantiate(config["read"]).subjects()}
    labelled = {
        name: subject
        for name, subject in subjects.items()
        if TARGET in subject.masks or TARGET in subject.derived
    }
    if not labelled:
        raise MssegError(
            Problem(
                "data.no_reference",
                f"none of the {len(subjects)} pairs has a mask of new lesions",
                file=config["read"].get("root"),
                field=TARGET,
                remedy="training needs labelled pairs; `msseg predict` needs none",
            )
        )
    return labelled


def make_split(config: Config, subjects: dict[str, LongitudinalSubject], load: Load) -> Split:
    """The pairs of this fold; patients never stand on two sides."""
    pairs = list(subjects.values())
    has_lesions = {
        subject.id: bool(load(subject).volumes[TARGET].data.any())
        for subject in track(pairs, "reading reference masks")
    }
    split: Split = instantiate(config["split"]).split(pairs, config["fold"], has_lesions)
    return split


def _run(
    config: Config,
    folder: RunFolder,
    subjects: dict[str, LongitudinalSubject],
    split: Split,
    load: Load,
    tracker: Any,
) -> Outcome:
    from msseg_lightning.track.lightning_logger import TrackerLogger

    method = build_method(config, [TrackerLogger(tracker)] if tracker is not None else [])
    folder.update_record(status="fitting")
    method.fit(
        [subjects[name] for name in split.train],
        [subjects[name] for name in split.val],
        folder.fit,
    )
    if int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))) != 0:
        return Outcome(folder, {}, None)
    save_model(method, config, folder)
    folder.update_record(status="predicting")
    held_out = [subjects[name] for name in split.test]
    scores = score_held_out(method, held_out, load, folder, score_options(config))
    summary = write_scores(folder, scores, config, split)
    folder.update_record(status="reporting")
    from msseg_lightning.run.report import build_report

    report = build_report(folder, folder.report_file)
    folder.update_record(status="finished")
    if tracker is not None:
        _log_results(tracker, folder, summary, report)
    return Outcome(folder, summary, config["track"] and str(config["track"]["folder"]))


def score_options(config: Config) -> ScoreOptions:
    """Thresholds of the official scorer."""
    return ScoreOptions(**(config["evaluate"] or {}))


def save_model(method: Method, config: Config, folder: RunFolder) -> None:
    """What ``msseg predict`` needs, and nothing of the training data."""
    method.save(folder.model)
    with (folder.model / "config.yaml").open("w", encoding="utf-8") as stream:
        yaml.safe_dump(config, stream, sort_keys=False)


def score_held_out(
    method: Method,
    subjects: Sequence[LongitudinalSubject],
    load: Load,
    folder: RunFolder,
    options: ScoreOptions,
) -> dict[str, CaseScore]:
    """Predict each pair on its native grid, write it, score it against its reference."""
    scores = {}
    for subject in track(subjects, "predicting held-out pairs"):
        prediction = predict_to_file(method, subject, folder.predictions, model=folder.model)
        reference = load(subject).volumes[TARGET]
        if not reference.grid.same_as(prediction.native.grid):
            raise MssegError(
                Problem(
                    "evaluate.grid",
                    "prediction and reference lie on different grids",
                    file=subject.id,
                    field="affine",
                    remedy="references must lie on the grid of the delivered prediction",
                    exit_code=ExitCode.DATA,
                )
            )
        scores[subject.id] = score_case(
            prediction.mask, reference.data, reference.spacing_mm, options
        )
    positive = sum(score.predicted_volume_mm3 > 0 for score in scores.values())
    if scores and not positive:
        log.warning("0 of %d held-out pairs have any predicted lesion", len(scores))
    return scores


def write_scores(
    folder: RunFolder, scores: dict[str, CaseScore], config: Config, split: Split
) -> dict[str, Any]:
    """``scores.json`` (all) and ``scores.csv`` (one row per pair); returns the summary."""
    summary = summarise(scores).as_dict()
    write_json(
        folder.scores_file,
        {
            "protocol": PROTOCOL,
            "options": dataclasses.asdict(score_options(config)),
            "scorer_version": __version__,
            "split": {"kind": split.kind, "fold": split.fold, "data_hash": split.data_hash},
            "seed": config["seed"],
            "threshold": "fixed by the experiment, not chosen on these pairs",
            "commit": folder.record().get("commit"),
            "summary": summary,
            "cases": {name: score.as_dict() for name, score in scores.items()},
        },
    )
    _write_csv(folder.path / "scores.csv", scores)
    return summary


def _write_csv(path: Path, scores: dict[str, CaseScore]) -> None:
    import csv

    from msseg_lightning.core.files import atomic_write

    rows = [
        {"case": name, "new_lesions": score.has_new_lesions, **score.official, **score.detection}
        for name, score in scores.items()
    ]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with atomic_write(path) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)


def _open_run(config: Config, folder: RunFolder, split: Split, tracking: Any) -> Any:
    """The MLflow run of this fold below the run of its experiment; None where tracking is off."""
    from msseg_lightning.track.environment import environment_record

    environment = environment_record()
    record = folder.record()
    git = environment.get("git") or {}
    folder.update_record(
        experiment=config["name"],
        data=data_name(config),
        version=__version__,
        commit=git.get("commit"),
        environment=environment,
        split_hash=sha256_file(folder.split_file)[:16],
        data_hash=split.data_hash,
        status="started",
    )
    if tracking is None:
        return None
    family = f"{config['name']}-{data_name(config)}-{config['size']}-seed{config['seed']}"
    tags = {
        "system": config["name"],
        "system_id": config["card"].get("id", ""),
        "family": config["card"].get("family", ""),
        "data": data_name(config),
        "size": config["size"],
        "seed": config["seed"],
        "commit": git.get("commit") or "unknown",
        "version": __version__,
        "protocol": PROTOCOL,
    }
    parent_folder = folder.path.parent / f".parent-{family}"
    parent = tracking.start(
        "msseg",
        family,
        spool=parent_folder,
        tags={**tags, "level": "experiment"},
        resume_run_id=_remembered(parent_folder),
    )
    tracker = tracking.start(
        "msseg",
        f"{family}-fold{config['fold']}",
        spool=folder.path / "track",
        parent=parent,
        tags={
            **tags,
            "level": "fold",
            "fold": config["fold"],
            "split": split.kind,
            "data_hash": split.data_hash,
            "split_hash": folder.record()["split_hash"],
        },
        params=tracked_settings(config),
        resume_run_id=record.get("mlflow_run_id"),
    )
    if parent.run_id:
        write_json(parent_folder / "run.json", {"mlflow_run_id": parent.run_id})
    parent.finish("FINISHED")
    folder.update_record(mlflow_run_id=tracker.run_id)
    tracker.log_artifact(folder.config_file)
    tracker.log_artifact(folder.split_file, "split")
    tracker.log_text(json.dumps(environment, indent=2, default=str), "environment.json")
    return tracker


def _remembered(parent_folder: Path) -> str | None:
    file = parent_folder / "run.json"
    if not file.exists():
        return None
    return str(json.loads(file.read_text(encoding="utf-8"))["mlflow_run_id"])


def tracked_settings(config: Config) -> dict[str, Any]:
    """Settings worth a column in MLflow: the rhythm of training and whatever was overridden."""
    flat = flatten(config)
    try:
        default = flatten(
            compose_config((f"read.root={config['read'].get('root')}",), config["name"])
        )
    except MssegError:
        default = {}
    always = ("train.", "sample.", "fold", "seed", "size", "split._target_")
    skip = ("paths.", "sizes.", "card.", "track.", "read.root", "trainer.")
    return {
        key: value
        for key, value in flat.items()
        if not key.startswith(skip)
        and (key.startswith(always) or default.get(key, value) != value)
        and "_target_" not in key
    }


def _log_results(tracker: Any, folder: RunFolder, summary: dict[str, Any], report: Path) -> None:
    tracker.log_metrics(headline_metrics(summary))
    for path, place in (
        (folder.scores_file, "scores"),
        (folder.path / "scores.csv", "scores"),
        (folder.fit / "curves.csv", "curves"),
        (folder.model, "model"),
        (report, None),
    ):
        if path.exists():
            tracker.log_artifact(path, place)


def headline_metrics(summary: dict[str, Any]) -> dict[str, float]:
    """The few numbers by which runs are compared; the two groups of cases apart."""
    present, absent = summary["with_lesions"], summary["without_lesions"]
    found = {
        "test/cases_with_new_lesions": len(present["cases"]),
        "test/cases_without_new_lesions": len(absent["cases"]),
        "test/pooled_lesion_f1": present["lesions"]["f1"],
        "test/pooled_lesion_sensitivity": present["lesions"]["sensitivity"],
        "test/pooled_lesion_precision": present["lesions"]["precision"],
        "test/clean_share_of_cases_without": absent["clean_share"],
        "test/false_lesions_per_case_without": absent["false_lesions"]["mean"],
        "test/false_volume_mm3_per_case_without": absent["false_volume_mm3"]["mean"],
    } | {
        f"test/{NAMES[name]}": statistic["mean"]
        for name, statistic in present["measures"].items()
        if name in NAMES
    }
    return {name: float(value) for name, value in found.items() if value is not None}


NAMES = {
    "Dice": "dice",
    "F1_score": "lesion_f1",
    "SensL": "lesion_sensitivity",
    "PPVL": "lesion_precision",
    "HausdorffDistance": "hausdorff_mm",
    "average_symmetric_surface_distance_mm": "average_symmetric_surface_distance_mm",
}
"""Official measures, over cases with new lesions only -> names in MLflow."""
