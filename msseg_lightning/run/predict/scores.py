"""Scores of predicted pairs, and their files."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from msseg_lightning import __version__
from msseg_lightning.core.files import DamagedFileError, atomic_write, read_record, write_record
from msseg_lightning.core.prediction import Prediction
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject import LongitudinalSubject
from msseg_lightning.core.table_cells import plain_row
from msseg_lightning.evaluate.score import CaseScore, ScoreOptions, score_case
from msseg_lightning.evaluate.summary import summarise
from msseg_lightning.read.nifti import GateOptions
from msseg_lightning.read.reference import read_reference
from msseg_lightning.run.config.compose import Config
from msseg_lightning.run.predict.lesion_traits import activity, with_traits

log = logging.getLogger(__name__)

PROTOCOL = "MSSEG-2 (animaSegPerfAnalyzer 4.2 rules)"


OWN_THRESHOLD = "fixed by the experiment, not chosen on these pairs"
"""What is said of the threshold where no operating point is used."""


def score_options(config: Config) -> ScoreOptions:
    """Options of the official scorer from a configuration."""
    return ScoreOptions(**(config.get("evaluate") or {}))


def score_prediction(
    prediction: Prediction,
    subject: LongitudinalSubject,
    reading: GateOptions,
    options: ScoreOptions,
) -> CaseScore:
    """Compare the mask with the pair's reference.

    Args:
        prediction: on the native grid.
        subject: a labelled pair.
        reading: options for reading its reference.
        options: thresholds of the scores.

    Raises:
        MssegError: the reference is refused, or lies on another grid (exit 3).
    """
    reference = read_reference(subject, reading, options.reference)
    if not reference.grid.same_as(prediction.native.grid):
        raise MssegError(
            Problem(
                "evaluate.grid",
                "prediction and reference lie on different grids",
                file=subject.id,
                field="affine",
                remedy="references must lie on the grid of the predicted mask",
                exit_code=ExitCode.DATA,
            )
        )
    score = score_case(prediction.mask, reference.data, reference.spacing_mm, options)
    score = with_traits(score, subject, prediction.mask, reference, reading)
    voxel_mm3 = reference.grid.voxel_volume_mm3
    return dataclasses.replace(score, activity=activity(prediction.probability, voxel_mm3))


def write_scores(
    folder: Path, scores: dict[str, CaseScore], options: ScoreOptions, facts: dict[str, Any]
) -> dict[str, Any]:
    """Write ``scores.json`` (all, with ``facts``) and ``scores.csv`` (one row per pair).

    ``facts["pairs"]`` is made by ``pair_facts``; ``msseg compare`` reads it.

    Returns:
        The two-group summary.
    """
    summary = summarise(scores).as_dict()
    cases = {name: score.as_dict() for name, score in scores.items()}
    write_record(
        folder / "scores.json",
        {
            "protocol": PROTOCOL,
            "options": dataclasses.asdict(options),
            "scorer_version": __version__,
            "threshold": OWN_THRESHOLD,
            **facts,
            "summary": summary,
            "cases": cases,
        },
    )
    with atomic_write(folder / "scores.csv") as temporary:
        temporary.write_text(scores_table(cases), encoding="utf-8")
    return summary


def pair_facts(
    subjects: Iterable[LongitudinalSubject], learned_from: Iterable[str] | None
) -> dict[str, dict[str, str | None]]:
    """Patient of every pair, and a hash of what the system that predicted it has learned from.

    Args:
        subjects: predicted pairs.
        learned_from: pairs of training and validation; None where unknown.
    """
    learned = None if learned_from is None else digest(sorted(learned_from))[:16]
    return {one.id: {"patient": one.patient, "learned_from": learned} for one in subjects}


def scores_table(cases: dict[str, dict[str, Any]]) -> str:
    """CSV text with one row per pair: the official measures and the lesion counts."""
    rows = [
        {"case": name, **score["official"], **score["detection"]} for name, score in cases.items()
    ]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(dict.fromkeys(key for row in rows for key in row)))
    writer.writeheader()
    writer.writerows(map(plain_row, rows))
    return stream.getvalue()


def digest(*parts: Any) -> str:
    """Hash of plain values as 32 hexadecimal digits."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def is_saved_score(path: Path) -> bool:
    """Whether a file holds a score of a pair, or damaged JSON, and may be overwritten."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return True
    return isinstance(content, dict) and "made_from" in content


def load_score(file: Path, made_from: str) -> CaseScore | None:
    """The score that ``save_score`` wrote, if its digest is ``made_from``; else None."""
    try:
        content = read_record(file, {"made_from": str}, sealed=True)
        if content.pop("made_from") == made_from:
            return CaseScore.from_dict(content)
    except FileNotFoundError:
        pass
    except (OSError, DamagedFileError, ValueError, TypeError, KeyError) as error:
        log.warning("%s is damaged (%s) and is computed again", file, error)
    return None


def save_score(file: Path, score: CaseScore, made_from: str) -> None:
    """Write the score of a pair with the digest of everything it depends on."""
    write_record(file, {"made_from": made_from, **score.as_dict()})
