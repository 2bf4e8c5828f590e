"""MLflow runs: names, tags, parameters and results."""

from __future__ import annotations

import contextlib
import csv
import glob
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from msseg_lightning import __version__
from msseg_lightning.core.files import sha256_file
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.evaluate.score import CaseScore
from msseg_lightning.evaluate.summary import summarise
from msseg_lightning.run.assemble.code import modules_of
from msseg_lightning.run.config.compose import Config, compose_config, experiment_of
from msseg_lightning.run.config.keys import affects_result, is_path_key
from msseg_lightning.run.config.user_packages import package_hashes
from msseg_lightning.run.folder import RunFolder, data_name, flatten, result_settings
from msseg_lightning.run.predict.scores import PROTOCOL, scores_table
from msseg_lightning.split.split import Split
from msseg_lightning.track.store import RUNS

if TYPE_CHECKING:
    from msseg_lightning.track.tracker import Parent


def open_run(config: Config, folder: RunFolder, split: Split, tracking: Any) -> Any:
    """Open the MLflow run of a fold as child of its experiment; None if tracking is off."""
    from msseg_lightning.track.environment import environment_record

    environment = environment_record()
    git = environment.get("git") or {}
    folder.update_record(
        experiment=experiment_of(config),
        data=data_name(config),
        version=__version__,
        commit=git.get("commit"),
        environment=environment,
        packages=package_hashes(modules_of(config)),
        split_hash=sha256_file(folder.split_file)[:16],
        data_hash=split.data_hash,
        status="started",
    )
    if tracking is None:
        return None
    parent = experiment_run(config, folder)
    tracker = tracking.start(
        RUNS,
        f"{parent.name}-fold{config['fold']}",
        spool=folder.path / "track",
        parent=parent,
        tags={
            **parent.tags,
            "level": "fold",
            "fold": config["fold"],
            "split": split.kind,
            "data_hash": split.data_hash,
            "split_hash": folder.record()["split_hash"],
        },
        params=tracked_settings(config),
    )
    rename = tracking.pseudonyms.name
    parts = {
        part: [rename(case) for case in getattr(split, part)] for part in ("train", "val", "test")
    }
    tracker.log_dataset(data_name(config), split.data_hash, {p: len(n) for p, n in parts.items()})
    tracker.log_text(json.dumps(parts, indent=2), "split.json")
    tracker.log_text(yaml.safe_dump(without_paths(config), sort_keys=False), "config.yaml")
    tracker.log_text(json.dumps(environment, indent=2, default=str), "environment.json")
    return tracker


def experiment_run(config: Config, folder: RunFolder) -> Parent:
    """The parent MLflow run of all folds of an experiment."""
    from msseg_lightning.track.tracker import Parent

    name = f"{config['name']}-{data_name(config)}-{config['size']}-seed{config['seed']}"
    tags = {
        "system": experiment_of(config),
        "system_id": config["card"].get("id", ""),
        "family": config["card"].get("family", ""),
        "data": data_name(config),
        "size": config["size"],
        "seed": config["seed"],
        "commit": folder.record().get("commit") or "unknown",
        "version": __version__,
        "protocol": PROTOCOL,
        "level": "experiment",
        **description(config, folder.record().get("commit")),
    }
    return Parent(folder.path.parent / f".parent-{name}", name, tags)


def description(config: Config, commit: str | None) -> dict[str, str]:
    """MLflow's own tags of the description and the source of a run."""
    card = config["card"]
    lines = [card.get("idea"), card.get("paper")]
    lines += [f"Trained on {data_name(config)}, size {config['size']}, seed {config['seed']}."]
    tags = {
        "mlflow.note.content": "\n\n".join(str(line) for line in lines if line),
        "mlflow.source.name": f"msseg train {experiment_of(config)}",
        "mlflow.source.type": "LOCAL",
    }
    return tags | ({"mlflow.source.git.commit": commit} if commit else {})


def track_experiment(tracking: Any, config: Config, folder: RunFolder) -> None:
    """Track the scores of all finished folds in the parent run."""
    from msseg_lightning.track.journal import run_key

    others = re.sub(r"fold\d+", "fold*", glob.escape(folder.path.name))
    found = [
        other
        for path in sorted(folder.path.parent.glob(others))
        if (other := RunFolder(path)).scores_file.exists()
        and {**result_settings(other.config()), "fold": None}
        == {**result_settings(config), "fold": None}
    ]
    rows = [run.scores()["cases"] for run in found]
    cases = {case: CaseScore.from_dict(row) for cases in rows for case, row in cases.items()}
    run = experiment_run(config, folder)
    figures = headline_metrics(summarise(cases).as_dict())
    tracker = tracking.start(
        RUNS,
        run.name,
        spool=folder.path / "track" / "experiment",
        key=run_key(run.folder),
        tags={**run.tags, "folds": len(found), "pairs": len(cases)},
        params=tracked_settings({**config, "fold": 0}, ALWAYS_TRACKED),
    )
    tracker.log_metrics(
        rounded({key: figures[key] for key in EXPERIMENT_METRICS if key in figures})
    )
    tracker.finish("FINISHED")


@contextlib.contextmanager
def tracked_part(
    tracking: Any,
    folder: RunFolder,
    config: Config,
    name: str,
    tags: Mapping[str, object],
) -> Iterator[list[object]]:
    """Open a child run for a stage or member; yields its loggers."""
    from msseg_lightning.track.lightning_logger import TrackerLogger
    from msseg_lightning.track.tracker import Parent

    tracker = tracking.start(
        RUNS,
        name,
        spool=folder.path / "track" / name,
        parent=Parent(folder.path / "track", name, {}),
        tags={
            "system": experiment_of(config),
            "data": data_name(config),
            "fold": config["fold"],
            "seed": config["seed"],
            "level": "stage" if "stage" in tags else "member",
            **tags,
        },
    )
    try:
        yield [TrackerLogger(tracker)]
    except BaseException as error:
        tracker.finish(end_status(error))
        raise
    tracker.finish("FINISHED")


ALWAYS_TRACKED = ("train.steps", "train.batch_size", "train.optimizer.lr", "seed", "size")
"""Settings that are always tracked, since all systems have them."""


def tracked_settings(
    config: Config, always: tuple[str, ...] = ("train.", "sample.", "fold", "seed", "size")
) -> dict[str, Any]:
    """Parameters for MLflow: ``always`` and the settings that the user changed."""
    flat = flatten(without_paths(config))
    file = str(config.get("experiment") or config["name"])
    composed = compose_config([f"size={config['size']}"], file, complete=False)
    default = flatten(without_paths(composed))
    return {"experiment": experiment_of(config)} | {
        key: value
        for key, value in flat.items()
        if affects_result(key)
        and (key.startswith(always) or key not in default or default[key] != value)
        and "_target_" not in key
        and not is_path_key(key.rpartition(".")[2])
    }


def log_results(
    tracker: Any,
    folder: RunFolder,
    summary: dict[str, Any],
    rename: Callable[[str], str],
) -> None:
    """Track scores, tables, curves, weights and report, with renamed patients."""
    tracker.log_metrics(rounded(headline_metrics(summary)))
    scores = with_pseudonyms(folder.scores(), rename)
    tracker.log_text(json.dumps(scores, indent=2), "scores/scores.json")
    tracker.log_text(scores_table(scores["cases"]), "scores/scores.csv")
    tracker.log_artifact(folder.model, "model")
    for table in sorted(folder.fit.rglob("audit_*.csv")):
        tracker.log_text(audit_with_pseudonyms(table, rename), f"stages/{table.name}")
    curves = folder.fit / "curves.csv"
    if curves.exists():
        tracker.log_artifact(curves, "curves")
    from msseg_lightning.run.train.run_report import build_report

    page = folder.report_file
    if not page.exists():
        return
    if any(rename(case) != case for case in scores_of(folder)):
        page = build_report(folder, folder.path / "track" / "report.html", rename)
    tracker.log_artifact(page)


def close_run(tracker: Any, folder: RunFolder, status: str, tracking: Any = None) -> None:
    """Send remaining records and store the run id in the run folder."""
    if tracking is not None:
        track_experiment(tracking, folder.config(), folder)
    tracker.finish(status)
    if tracker.run_id is not None:
        folder.update_record(mlflow_run_id=tracker.run_id)


def end_unrecorded(folder: RunFolder) -> bool:
    """Whether the process of a tracked run was stopped before it could record the run's end."""
    from msseg_lightning.track.journal import Journal
    from msseg_lightning.track.run_state import state_of

    spool = folder.path / "track"
    found = state_of([Journal(spool)]) if (spool / "notes.jsonl").is_file() else None
    return found is not None and found.status in ("KILLED", "FAILED")


def end_status(error: BaseException) -> str:
    """Status of a run that ended with an error: KILLED for signals, else FAILED."""
    from msseg_lightning.track.tracker import status_of

    if isinstance(error, MssegError) and error.exit_code in (
        ExitCode.INTERRUPTED,
        ExitCode.TERMINATED,
        ExitCode.PREEMPTED,
        ExitCode.HUNG_UP,
    ):
        return "KILLED"
    return status_of(error)


def scores_of(folder: RunFolder) -> list[str]:
    """Ids of the scored pairs."""
    return list(folder.scores()["cases"])


def with_pseudonyms(content: dict[str, Any], rename: Callable[[str], str]) -> dict[str, Any]:
    """``scores.json`` with renamed pairs."""
    summary = {
        group: {**values, "cases": [rename(case) for case in values["cases"]]}
        for group, values in content["summary"].items()
    }
    cases = {rename(case): score for case, score in content["cases"].items()}
    pairs = {  # the hash of what was learned from is of ids, and few of them can be guessed
        rename(case): {"patient": rename(facts["patient"]), "learned_from": None}
        for case, facts in content.get("pairs", {}).items()
    }
    raters = {
        rater: {rename(case): scores for case, scores in rows.items()}
        for rater, rows in content.get("raters", {}).items()
    }
    return {**content, "summary": summary, "cases": cases, "pairs": pairs, "raters": raters}


def audit_with_pseudonyms(table: Path, rename: Callable[[str], str]) -> str:
    """A table of a fit with renamed patients."""
    with table.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        rows, columns = list(reader), list(reader.fieldnames or ())
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    for row in rows:
        changed = {"pair": rename(row["pair"]), "patient": rename(row["patient"])}
        if "trained_on" in row:
            changed["trained_on"] = " ".join(map(rename, row["trained_on"].split()))
        writer.writerow({**row, **changed})
    return text.getvalue()


def without_paths(config: Config) -> Config:
    """A configuration without paths and addresses.

    Only the last part of a path is kept, with which `msseg predict` can build the system. Roots of
    readers inside the system are removed, since prediction does not need their scans.
    """
    cut = _cut("", config)
    return {**cut, "read": _last_parts(cut.get("read")), "track": {}}


def _last_parts(node: Any) -> Any:
    """Settings of a reader in which names and patterns of files have lost their folders."""
    if isinstance(node, Mapping):
        return {key: _last_parts(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_last_parts(value) for value in node]
    return Path(node).name if isinstance(node, str) and "/" in node else node


def _cut(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        found = {name: _cut(name, inner) for name, inner in value.items()}
        return {**found, "root": None} if key == "reader" and "root" in found else found
    if isinstance(value, list):
        return [_cut(key, inner) for inner in value]
    if isinstance(value, str) and (is_path_key(key) or value.startswith(("/", "~"))):
        return Path(value).resolve().name
    return None if key == "uri" else value


def headline_metrics(summary: dict[str, Any]) -> dict[str, float]:
    """Main metrics of both groups of cases."""
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


EXPERIMENT_METRICS = (
    "result/lesion_f1",
    "result/dice",
    "result/lesion_sensitivity",
    "result/lesion_precision",
    "result/false_lesions_per_case_without",
)
"""Metrics of a whole experiment, in the order in which MLflow plots them."""


def rounded(figures: Mapping[str, float]) -> dict[str, float]:
    """Metrics rounded for MLflow; the exact ones are in ``scores.json``."""
    return {name: round(value, 4) for name, value in figures.items()}


NAMES = {
    "Dice": "dice",
    "F1_score": "lesion_f1",
    "SensL": "lesion_sensitivity",
    "PPVL": "lesion_precision",
    "HausdorffDistance": "hausdorff_mm",
    "average_symmetric_surface_distance_mm": "average_symmetric_surface_distance_mm",
}
"""Official measures of cases with new lesions -> names in MLflow."""
