"""The HTML report of a run, built from its folder."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from msseg_lightning.core.files import require_record
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject import (
    BASELINE,
    BRAIN,
    FOLLOWUP,
    LoadedSubject,
    LongitudinalSubject,
)
from msseg_lightning.core.volume import Volume
from msseg_lightning.core.wording import counted
from msseg_lightning.evaluate.lesion_score import scores_by_size
from msseg_lightning.evaluate.score import CaseScore
from msseg_lightning.evaluate.summary import dice_as_published
from msseg_lightning.read.nifti import GateOptions, gate_options
from msseg_lightning.report.operating_point import operating_point_section
from msseg_lightning.report.picture import CaseVolumes
from msseg_lightning.report.run_page import ReportCase, ReportContext, write_report
from msseg_lightning.run.assemble.system import build_load, instantiate
from msseg_lightning.run.config.compose import Config, experiment_of
from msseg_lightning.run.folder import RunFolder, data_name, read_scores
from msseg_lightning.run.predict.lesion_traits import LARGEST_BRAIN_MM3
from msseg_lightning.run.predict.operating_point import POINT_FOLDER, StoredPoint, read_point
from msseg_lightning.run.predict.rater_scores import rater_range
from msseg_lightning.train.curves import read_curves

log = logging.getLogger(__name__)


def build_report(
    folder: RunFolder, output: Path, rename: Callable[[str], str] = lambda case: case
) -> Path:
    """Write the report of a finished run.

    Args:
        folder: the run.
        output: the HTML file.
        rename: id -> name as shown, e.g. a pseudonym.
    """
    return write_report(report_context(folder, rename), output)


def report_context(folder: RunFolder, rename: Callable[[str], str]) -> ReportContext:
    """Content of a run folder for the report and its pictures."""
    config, record = folder.complete_config(), folder.record()
    if not folder.scores_file.exists():
        raise MssegError(
            Problem(
                "run.no_scores",
                "this run has no scores yet",
                file=folder.path,
                field="scores.json",
                found=f"status {record.get('status', 'unknown')}",
                remedy="give its `msseg train` command again to finish it",
                exit_code=ExitCode.MODEL,
            )
        )
    content = folder.scores()
    scores = {case: CaseScore.from_dict(row) for case, row in content["cases"].items()}
    load, reading = build_load(config), gate_options(config["data"]["reading"])
    point = shown_point(folder.model)
    subjects = {subject.id: subject for subject in instantiate(config["read"]).subjects()}
    return ReportContext(
        setting=setting(config, record, content),
        card=shown_card(config, None if record.get("stages") else _parameters(folder)),
        cases=[
            ReportCase(
                rename(case),
                score,
                _loader(subjects[case], load, reading, folder),
                {} if point is None else _probabilities(point, score, folder, subjects[case]),
            )
            for case, score in scores.items()
        ],
        curves=read_curves(folder.fit / "curves.csv"),
        summary=shown_summary(content["summary"], content.get("raters", {}))
        | published_dice(scores),
        notes=notes(config, content["summary"]),
        kept_step=_kept_step(folder),
        operating_point=point_section(folder.path, folder.model),
    )


def shown_point(model: Path) -> StoredPoint | None:
    """The operating point of a model; None, with a warning, if it is damaged or of another one."""
    try:
        return read_point(model)
    except MssegError as error:
        log.warning("the report leaves out the operating point: %s", error)
        return None


def point_section(folder: Path, model: Path) -> Markup:
    """The operating point of a model, with the scores at it where they are known."""
    point = shown_point(model)
    if point is None:
        return Markup("")
    words = (
        "Used by msseg predict; the tables here are of the system's own rules. The point: "
        f"{point.words}"
    )
    file = folder / POINT_FOLDER / "scores.json"
    if file.exists():
        shown = shown_summary(read_scores(file)["summary"], {})
        told = [
            f"{group.replace('_', ' ')}: "
            + ", ".join(f"{name} {_number(value)}" for name, value in measures.items())
            for group, measures in shown.items()
        ]
        words += f". Held-out pairs at the point: {'; '.join(told)}"
    return operating_point_section(words, point.reliability)


def _number(value: object) -> str:
    if isinstance(value, Mapping):
        value = value["mean"]
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _probabilities(
    point: StoredPoint, score: CaseScore, folder: RunFolder, subject: LongitudinalSubject
) -> dict[int, float]:
    """Label of a predicted lesion -> its calibrated probability; empty without a map."""
    from msseg_lightning.read.nifti import read_volume
    from msseg_lightning.read.reference import read_reference

    files = [folder.predictions / f"{subject.id}{end}.nii.gz" for end in ("", "_probability")]
    if point.calibration is None or not all(file.is_file() for file in files):
        return {}
    mask = read_volume(files[0], "mask", GateOptions(largest_mask_fraction=1.0))
    probability = read_volume(files[1], "probability")
    reference = read_reference(subject)
    scores = scores_by_size(
        mask.data, probability.data.astype(np.float32), reference.data, point.measure
    )
    if len(scores) != len(score.predicted_lesions):
        return {}
    certain = point.calibration(scores)
    return {
        lesion.label: float(value)
        for lesion, value in zip(score.predicted_lesions, certain, strict=True)
    }


def shown_card(config: Config, parameters: int | None = None) -> dict[str, Any]:
    """The card of a system with its name; the idea tells if the run is smaller than the paper's.

    Args:
        config: of the run.
        parameters: of the run's only network; None where that is not recorded.
    """
    card = {"name": config["name"], **config["card"]}
    if config["size"] != "paper" and card.get("idea"):
        what = f"{_millions(parameters)} parameters" if parameters else "smaller than the paper's"
        card["idea"] = f"In the paper: {card['idea']}. This run: size={config['size']}, {what}."
    return card


def _millions(number: int) -> str:
    return f"{number / 1e6:.1f} M" if number >= 100_000 else f"{number:,}"


def _parameters(folder: RunFolder) -> int | None:
    file = folder.model / "card.json"
    remedy = "give the `msseg train` command of this run again, which writes it anew"
    fields = {"parameters?": int}
    return require_record(file, remedy, fields).get("parameters") if file.exists() else None


def _kept_step(folder: RunFolder) -> int | None:
    """Row of the curves of the best checkpoint; ``best_step`` counts from 1, rows from 0."""
    file = folder.fit / "done.json"
    remedy = "give the `msseg train` command of this run again, which writes it anew"
    fields = {"best_step?": (int, type(None))}
    best = require_record(file, remedy, fields).get("best_step") if file.exists() else None
    return None if best is None else best - 1


def _ensemble(ensemble: dict[str, Any]) -> str:
    seeds = f", {ensemble['seeds']} seeds each" if ensemble.get("seeds", 1) > 1 else ""
    return f"{ensemble['folds']} folds{seeds}, {ensemble['rule']} of {ensemble['level']}"


def setting(config: Config, record: dict[str, Any], content: dict[str, Any]) -> dict[str, object]:
    """Settings of the run that are shown at the top of the report."""
    split = content["split"]
    stages = {
        name: key[:12] for fit in (record.get("stages") or {}).values() for name, key in fit.items()
    }
    ensemble = config.get("ensemble")
    parts = {
        "stages": ", ".join(f"{name} ({key})" for name, key in stages.items()),
        "ensemble": _ensemble(ensemble) if ensemble else "",
        "needs": "; ".join(config["card"].get("needs") or ()),
    }
    return {
        "experiment": experiment_of(config),
        **{name: text for name, text in parts.items() if text},
        "size": config["size"],
        "data": data_name(config),
        "split": split["kind"],
        "fold": split["fold"],
        "seed": config["seed"],
        "evaluated on": "pairs held out from training and validation",
        "threshold": content["threshold"],
        "protocol": content["protocol"],
        "commit": (record.get("commit") or "")[:12] or "not a git checkout",
        "version": record.get("version"),
        "data hash": str(split["data_hash"])[:12],
    }


def shown_summary(summary: dict[str, Any], raters: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Main metrics of both groups of cases for the report.

    Args:
        summary: of the system.
        raters: scores of raters, of whom the mean and the range over raters are shown.
    """
    present, absent = summary["with_lesions"], summary["without_lesions"]
    shown: dict[str, dict[str, Any]] = {}
    if present["cases"]:
        measures, lesions = present["measures"], present["lesions"]
        shown["with_new_lesions"] = {
            "cases": len(present["cases"]),
            "Dice": _interval(measures["Dice"]),
            "lesion F1": _interval(measures["F1_score"]),
            "lesions detected": f"{lesions['detected']} of {lesions['true']}",
            "false lesions": lesions["predicted"] - lesions["matched"],
        }
    if absent["cases"]:
        shown["without_new_lesions"] = {
            "cases": len(absent["cases"]),
            "clean cases": f"{absent['clean']} of {len(absent['cases'])}",
            "false lesions per case": _interval(absent["false_lesions"]),
            "false volume per case (mm³)": _interval(absent["false_volume_mm3"]),
        }
    for group, measure, words in (
        ("with_new_lesions", "Dice", "Dice"),
        ("with_new_lesions", "F1_score", "lesion F1"),
        ("without_new_lesions", "NbTestedLesions", "false lesions per case"),
    ):
        found = rater_range(raters, measure)
        if group in shown and found is not None:
            mean, low, high = found
            name = f"{words} of raters against the others: mean and range"
            shown[group][name] = {"mean": mean, "low": low, "high": high}
    return shown


def published_dice(scores: dict[str, CaseScore]) -> dict[str, dict[str, Any]]:
    """Dice with the conventions of the papers for empty cases, for comparison with their tables."""
    if all(score.has_new_lesions for score in scores.values()):
        return {}
    return {
        "dice_as_papers_count_empty_cases": {
            words: _interval(dataclasses.asdict(dice_as_published(scores, convention)))
            for words, convention in (
                ("all cases, empty and predicted empty = 1 (S12, S13)", "one_if_both_empty"),
                ("cases with new lesions only (S18, S26, official)", "undefined_without_reference"),
                ("all cases, smoothed (S01)", "modified"),
            )
        }
    }


def _interval(statistic: dict[str, Any]) -> dict[str, Any]:
    low, high = statistic["interval"] or (None, None)
    return {"mean": statistic["mean"], "low": low, "high": high}


def notes(config: Config, summary: Mapping[str, Any]) -> tuple[str, ...]:
    """Warnings that are shown in the report."""
    cases = len(summary["with_lesions"]["cases"]) + len(summary["without_lesions"]["cases"])
    found = []
    if cases < 20:
        found.append(
            f"With {counted(cases, 'case')} there are too few to rank systems; read the intervals."
        )
    if config["size"] != "paper":
        found.append(
            f"Run at size {config['size']!r}, which is smaller than the paper's system; "
            "its figures say nothing about the paper."
        )
    return tuple(found)


def _loader(
    subject: LongitudinalSubject,
    load: Callable[[LongitudinalSubject], LoadedSubject],
    reading: GateOptions,
    folder: RunFolder,
) -> Callable[[], CaseVolumes]:
    def volumes() -> CaseVolumes:
        from msseg_lightning.read.geometry import in_order_of
        from msseg_lightning.read.nifti import read_volume
        from msseg_lightning.read.reference import read_reference

        prediction = read_volume(
            folder.predictions / f"{subject.id}.nii.gz",
            # a mask of any size is shown
            options=GateOptions(largest_mask_fraction=1.0),
            kind="mask",
        )
        # a pair with known transforms has the grid of its masks
        shown = subject.masks if subject.to_native else {BRAIN: subject.masks.get(BRAIN)}
        masks = {name: path for name, path in shown.items() if path is not None}
        loaded = load(dataclasses.replace(subject, masks=masks).with_raters(()))
        volumes = {
            name: in_order_of(volume, prediction.affine) for name, volume in loaded.volumes.items()
        }
        loaded = loaded.replace(volumes=volumes)
        return CaseVolumes(
            baseline=volumes[BASELINE],
            followup=volumes[FOLLOWUP],
            prediction=prediction,
            reference=read_reference(subject, reading) if subject.labelled else None,
            brain=volumes.get(BRAIN) or _brain(loaded),
            uncertainty=_uncertainty(folder.predictions / f"{subject.id}.nii.gz"),
            steps=_steps(folder.predictions / f"{subject.id}.nii.gz"),
        )

    return volumes


def _uncertainty(mask: Path) -> Volume | None:
    """The uncertainty map beside a mask; None if there is none."""
    from msseg_lightning.read.nifti import read_volume
    from msseg_lightning.run.predict.prediction_files import uncertainty_file

    file = uncertainty_file(mask)
    return read_volume(file, kind="probability") if file.is_file() else None


def _steps(mask: Path) -> dict[str, Volume]:
    """The maps of a system's steps beside a mask, in order."""
    from msseg_lightning.read.nifti import read_volume
    from msseg_lightning.run.predict.prediction_files import step_files

    options = GateOptions(largest_mask_fraction=1.0)
    return {
        name: read_volume(file, kind, options) for name, (file, kind) in step_files(mask).items()
    }


def _brain(loaded: LoadedSubject) -> Volume | None:
    """Estimated brain mask: non-zero voxels of skull-stripped scans, else Otsu's threshold.

    None if the result is too large for a brain; then the report has no pictures. Zeros in the
    background do not show that a scan is skull-stripped, since scanners write them too.
    """
    from msseg_lightning.preprocess.otsu import OtsuBrain

    followup = loaded.volumes[FOLLOWUP]
    nonzero = (np.asarray(followup.data) > 0).astype(np.uint8)
    for mask in (Volume(nonzero, followup.affine, "mask"), OtsuBrain()(loaded).volumes[BRAIN]):
        volume_mm3 = np.count_nonzero(mask.data) * mask.grid.voxel_volume_mm3
        if 0 < volume_mm3 <= LARGEST_BRAIN_MM3:
            return mask
    return None
