"""One experiment: split, fit, predict the held-out pairs, score, report, record."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from msseg_lightning import __version__
from msseg_lightning.core.files import atomic_write, sha256_file, write_json
from msseg_lightning.core.method import Method
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject import TARGET, LongitudinalSubject
from msseg_lightning.core.volume import Volume
from msseg_lightning.evaluate.score import CaseScore, ScoreOptions, score_case
from msseg_lightning.evaluate.summary import summarise
from msseg_lightning.read.nifti import GateOptions, gate_options, read_volume
from msseg_lightning.read.splits import Split, write_split
from msseg_lightning.run.build import Load, build_load, build_method, instantiate
from msseg_lightning.run.compose import Config, compose_config
from msseg_lightning.run.folder import RunFolder, data_name, flatten
from msseg_lightning.run.predict import predict_to_file
from msseg_lightning.run.progress import track

log = logging.getLogger(__name__)

WriteReport = Callable[[RunFolder, Path, Callable[[str], str]], Path]
"""(run folder, file to write, id -> shown name) -> the file."""

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


def train_experiment(config: Config, report: WriteReport) -> Outcome:
    """Run an experiment from split to report, or continue it where it stopped.

    Args:
        config: from ``compose_config``.
        report: writes the report of a run folder; ``compare`` stands above ``run``, so the
            command line hands it down.

    Raises:
        MssegError: anything the user can act on; the run is marked accordingly.
    """
    folder = RunFolder.of(config)
    with folder.lock():
        folder.claim_config(config)
        load = build_load(config)
        subjects = labelled_subjects(config)
        split = make_split(config, subjects, load)
        write_split(folder.split_file, split)
        tracking = instantiate(config.get("track")) or None
        tracker = _open_run(config, folder, split, tracking)
        if tracker is None or tracking is None:
            return Outcome(folder, _run(config, folder, subjects, split, load, report, None), None)
        try:
            summary = _run(config, folder, subjects, split, load, report, tracker)
            if summary:
                _log_results(tracker, folder, summary, tracking.pseudonyms.name, report)
        except BaseException as error:
            tracker.finish(_status(error))
            raise
        tracker.finish("FINISHED")
        return Outcome(folder, summary, str(tracking.folder))


def labelled_subjects(config: Config) -> dict[str, LongitudinalSubject]:
    """Every pair with a reference mask, by id.

    Raises:
        MssegError: there is none.
    """
    subjects = {subject.id: subject for subject in instantiate(config["read"]).subjects()}
    labelled = {name: subject for name, subject in subjects.items() if subject.labelled}
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
    if len(labelled) < len(subjects):
        left = sorted(set(subjects) - set(labelled))
        log.warning(
            "%d pairs without a reference are left out: %s", len(left), ", ".join(left[:20])
        )
    return labelled


def make_split(config: Config, subjects: dict[str, LongitudinalSubject], load: Load) -> Split:
    """The pairs of this fold; patients never stand on two sides."""
    pairs = list(subjects.values())
    refuse_copies(pairs)
    options = gate_options(config["data"]["reading"])
    has_lesions = {
        subject.id: bool(_reference(subject, load, options).data.any())
        for subject in track(pairs, "reading reference masks")
    }
    split: Split = instantiate(config["split"]).split(pairs, config["fold"], has_lesions)
    return split


def _reference(subject: LongitudinalSubject, load: Load, options: GateOptions) -> Volume:
    """The mask of new lesions alone, where it is a file; otherwise the whole pair is needed."""
    if TARGET in subject.masks:
        return read_volume(subject.masks[TARGET], "mask", options, subject.root)
    return load(subject).volumes[TARGET]


def refuse_copies(subjects: Sequence[LongitudinalSubject]) -> None:
    """The same scan under two patients would be learned and then tested on.

    Files are compared byte by byte; `msseg check` also finds copies stored in another way.

    Raises:
        MssegError: one problem per copy (exit 3).
    """
    owners: dict[str, tuple[str, Path]] = {}
    problems = []
    for subject in subjects:
        for file in filter(Path.is_file, subject.images.values()):
            patient, first = owners.setdefault(sha256_file(file), (subject.patient, file))
            if patient != subject.patient:
                problems.append(
                    Problem(
                        "data.copy",
                        "the same scan lies under two patients",
                        file=Path(*file.parts[-2:]),
                        field="bytes",
                        found=f"identical to {Path(*first.parts[-2:])}",
                        expected="each scan once",
                        remedy="remove one, or give both the same patient",
                    )
                )
    if problems:
        raise MssegError(problems)


def _run(
    config: Config,
    folder: RunFolder,
    subjects: dict[str, LongitudinalSubject],
    split: Split,
    load: Load,
    report: WriteReport,
    tracker: Any,
) -> dict[str, Any]:
    from msseg_lightning.track.lightning_logger import TrackerLogger

    method = build_method(config, [TrackerLogger(tracker)] if tracker is not None else [])
    folder.update_record(status="fitting")
    method.fit(
        [subjects[name] for name in split.train],
        [subjects[name] for name in split.val],
        folder.fit,
    )
    if int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))) != 0:
        return {}  # only one process writes results
    save_model(method, config, folder)
    folder.update_record(status="predicting")
    held_out = [subjects[name] for name in split.test]
    options = score_options(config)
    scores = score_held_out(method, held_out, load, folder, options)
    facts = {
        "split": {"kind": split.kind, "fold": split.fold, "data_hash": split.data_hash},
        "seed": config["seed"],
        "commit": folder.record().get("commit"),
    }
    summary = write_scores(folder.path, scores, options, facts)
    folder.update_record(status="reporting")
    report(folder, folder.report_file, str)
    folder.update_record(status="finished")
    return summary


def _status(error: BaseException) -> str:
    """KILLED for signals, FAILED for everything else."""
    from msseg_lightning.track.tracker import status_of

    if isinstance(error, MssegError) and error.exit_code in (
        ExitCode.INTERRUPTED,
        ExitCode.TERMINATED,
    ):
        return "KILLED"
    return status_of(error)


def score_options(config: Config) -> ScoreOptions:
    """Thresholds of the official scorer."""
    return ScoreOptions(**(config.get("evaluate") or {}))


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
    scores = {
        subject.id: score_pair(method, subject, load, folder.predictions, folder.model, options)
        for subject in track(subjects, "predicting held-out pairs")
    }
    positive = sum(score.predicted_volume_mm3 > 0 for score in scores.values())
    if scores and not positive:
        log.warning("0 of %d held-out pairs have any predicted lesion", len(scores))
    return scores


def score_pair(
    method: Method,
    subject: LongitudinalSubject,
    load: Load,
    predictions: Path,
    model: Path,
    options: ScoreOptions,
) -> CaseScore:
    """Predict one pair, write the files of ``predict_to_file`` and score the mask.

    Raises:
        MssegError: the pair is refused, or its reference lies on another grid (exit 3).
    """
    prediction = predict_to_file(method, subject, predictions, model)
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
    return score_case(prediction.mask, reference.data, reference.spacing_mm, options)


def write_scores(
    folder: Path, scores: dict[str, CaseScore], options: ScoreOptions, facts: dict[str, Any]
) -> dict[str, Any]:
    """``scores.json`` (all, with ``facts``) and ``scores.csv`` (one row per pair).

    Returns:
        The two-group summary.
    """
    summary = summarise(scores).as_dict()
    cases = {name: score.as_dict() for name, score in scores.items()}
    write_json(
        folder / "scores.json",
        {
            "protocol": PROTOCOL,
            "options": dataclasses.asdict(options),
            "scorer_version": __version__,
            **facts,
            "threshold": "fixed by the experiment, not chosen on these pairs",
            "summary": summary,
            "cases": cases,
        },
    )
    with atomic_write(folder / "scores.csv") as temporary:
        temporary.write_text(scores_table(cases), encoding="utf-8")
    return summary


def scores_table(cases: dict[str, dict[str, Any]]) -> str:
    """One CSV row per pair: the official measures and the lesion counts."""
    rows = [
        {"case": name, **score["official"], **score["detection"]} for name, score in cases.items()
    ]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(dict.fromkeys(key for row in rows for key in row)))
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _open_run(config: Config, folder: RunFolder, split: Split, tracking: Any) -> Any:
    """The MLflow run of this fold below the run of its experiment; None where tracking is off."""
    from msseg_lightning.track.environment import environment_record
    from msseg_lightning.track.tracker import reap_dead_runs

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
    reap_dead_runs(tracking.uri())
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
    rename = tracking.pseudonyms.name
    parts = {
        part: [rename(case) for case in getattr(split, part)] for part in ("train", "val", "test")
    }
    tracker.log_text(json.dumps(parts, indent=2), "split.json")
    tracker.log_text(yaml.safe_dump(without_places(config), sort_keys=False), "config.yaml")
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
    return {"system": config["name"], "data": data_name(config)} | {
        key: value
        for key, value in flat.items()
        if not key.startswith(skip)
        and (key.startswith(always) or default.get(key, value) != value)
        and "_target_" not in key
    }


def _log_results(
    tracker: Any,
    folder: RunFolder,
    summary: dict[str, Any],
    rename: Callable[[str], str],
    report: WriteReport,
) -> None:
    """Numbers, tables, curves, weights and report; patients under the names ``rename`` gives."""
    tracker.log_metrics(headline_metrics(summary))
    scores = renamed(json.loads(folder.scores_file.read_text(encoding="utf-8")), rename)
    tracker.log_text(json.dumps(scores, indent=2), "scores/scores.json")
    tracker.log_text(scores_table(scores["cases"]), "scores/scores.csv")
    tracker.log_artifact(folder.model, "model")
    curves = folder.fit / "curves.csv"
    if curves.exists():
        tracker.log_artifact(curves, "curves")
    page = folder.report_file
    if any(rename(case) != case for case in scores_of(folder)):
        page = report(folder, folder.path / "track" / "report.html", rename)
    tracker.log_artifact(page)


def scores_of(folder: RunFolder) -> list[str]:
    """Ids of the scored pairs."""
    return list(json.loads(folder.scores_file.read_text(encoding="utf-8"))["cases"])


def renamed(content: dict[str, Any], rename: Callable[[str], str]) -> dict[str, Any]:
    """``scores.json`` with other names for the pairs."""
    summary = {
        group: {**values, "cases": [rename(case) for case in values["cases"]]}
        for group, values in content["summary"].items()
    }
    cases = {rename(case): score for case, score in content["cases"].items()}
    return {**content, "summary": summary, "cases": cases}


def without_places(config: Config) -> Config:
    """A configuration that does not tell where on this machine anything lies."""
    read = {**config["read"], "root": data_name(config)} if "root" in config["read"] else {}
    return {**config, "read": read or config["read"], "paths": {}}


def headline_metrics(summary: dict[str, Any]) -> dict[str, float]:
    """The few numbers by which runs are compared; the two groups of cases apart."""
    present, absent = summary["with_lesions"], summary["without_lesions"]
    found = {
        "result/cases_with_new_lesions": len(present["cases"]),
        "result/cases_without_new_lesions": len(absent["cases"]),
        "result/pooled_lesion_f1": present["lesions"]["f1"],
        "result/pooled_lesion_sensitivity": present["lesions"]["sensitivity"],
        "result/pooled_lesion_precision": present["lesions"]["precision"],
        "result/clean_share_of_cases_without": absent["clean_share"],
        "result/false_lesions_per_case_without": absent["false_lesions"]["mean"],
        "result/false_volume_mm3_per_case_without": absent["false_volume_mm3"]["mean"],
    } | {
        f"result/{NAMES[name]}": statistic["mean"]
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
