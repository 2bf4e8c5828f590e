"""Score mask files: one pair, or two folders matched by case."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from msseg_lightning.core.files import sha256_file
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject_map import Submits, map_subjects
from msseg_lightning.core.volume import Volume
from msseg_lightning.evaluate.score import CaseScore, ScoreOptions, score_case
from msseg_lightning.read.nifti import (
    GateOptions,
    inspect_volume,
    label_meanings,
    read_header,
)
from msseg_lightning.run.build import code_hash
from msseg_lightning.run.scores import digest, keep_score, kept_score
from msseg_lightning.run.shard import Shard

log = logging.getLogger(__name__)

ENDINGS = (".nii.gz", ".nii")
REFERENCE_NAME = "ground_truth"
"""Stem of the consensus mask in the challenge's case folders."""


@dataclasses.dataclass(frozen=True)
class MaskPair:
    """Two files to compare."""

    case: str
    prediction: Path
    reference: Path


def find_pairs(prediction: Path, reference: Path) -> tuple[list[MaskPair], list[Problem]]:
    """Match predictions to references.

    Two files make one pair, named after the prediction. In two folders a case is a mask file named
    after it (``013.nii.gz``) or a folder of that name with one mask in it: ``ground_truth.nii.gz``
    on the reference side, any one mask on the other. Probability maps
    (``*_probability.nii.gz``) and scans (``flair_*``) are passed over.

    Returns:
        pairs in order of case, and a problem for every case that lacks its counterpart.

    Raises:
        MssegError: a path is missing, a file meets a folder, a case is ambiguous or nothing
            matches.
    """
    missing = [path for path in (prediction, reference) if not path.exists()]
    if missing:
        raise MssegError(
            [
                Problem(
                    "evaluate.missing",
                    "there is no such file or folder",
                    file=path,
                    remedy="check the spelling; the prediction comes first, then the reference",
                )
                for path in missing
            ]
        )
    if prediction.is_dir() != reference.is_dir():
        folder = prediction if prediction.is_dir() else reference
        raise MssegError(
            Problem(
                "evaluate.kinds",
                "a file cannot be compared with a folder",
                file=folder,
                found="a folder",
                expected="two files or two folders",
                remedy="give the mask inside the folder",
                exit_code=ExitCode.CONFIG,
            )
        )
    if not prediction.is_dir():
        return [MaskPair(_stem(prediction), prediction, reference)], []
    predicted, true = _masks_in(prediction), _masks_in(reference)
    pairs = [
        MaskPair(case, predicted[case], true[case]) for case in sorted(predicted.keys() & true)
    ]
    unmatched = [
        Problem(
            "evaluate.unmatched",
            f"case {case} has no {counterpart} and was left out",
            file=masks[case],
            expected=f"{case}.nii.gz or a folder {case}",
            remedy="name both masks after the case",
            severity="warning",
            exit_code=ExitCode.PARTIAL,
        )
        for masks, others, counterpart in (
            (predicted, true, "reference"),
            (true, predicted, "prediction"),
        )
        for case in sorted(masks.keys() - others)
    ]
    if not pairs:
        raise MssegError(
            Problem(
                "evaluate.nothing",
                "no case has both a prediction and a reference",
                file=prediction,
                found=f"{len(predicted)} predictions, {len(true)} references",
                expected="masks of the same case names in both folders",
                remedy="name both after the case: 013.nii.gz, or 013/ground_truth.nii.gz",
            )
        )
    return pairs, unmatched


def evaluate_files(
    pairs: Sequence[MaskPair],
    options: ScoreOptions,
    workers: int | None = None,
    label_values: Mapping[int, int] | None = None,
    keep: Path | None = None,
    shard: Shard | None = None,
    executor: Submits | None = None,
    prediction_label_values: Mapping[int, int] | None = None,
) -> dict[str, CaseScore]:
    """Read and score all pairs.

    Args:
        pairs: what to compare.
        options: thresholds of the lesion scores.
        workers: threads; reading and scoring release the interpreter. None takes one per
            processor.
        label_values: what values of the references mean, see ``GateOptions``.
        keep: folder for the score of every pair; what lies there already, of the same masks by the
            same rules and program, is not scored again.
        shard: score only these; needs ``keep``.
        executor: works in place of threads.
        prediction_label_values: what values of the predictions mean; those of this package are
            0 and 1.

    Returns:
        Scores in the order of the pairs; with a shard those of all pairs that are in ``keep`` now.

    Raises:
        MssegError: with every problem of every file; then nothing is scored by halves, but all
            other pairs are in ``keep``.
    """
    gates = [
        GateOptions(
            label_values=label_meanings((labels or {}).items()),
            largest_mask_fraction=1.0,  # how much a system marks is for the scores to say
        )
        for labels in (prediction_label_values, label_values)
    ]
    score = _Score(options, gates[0], gates[1], keep, code_hash() if keep else "")
    named = {pair.case: pair for pair in (shard.of(pairs) if shard else pairs)}
    with ThreadPoolExecutor(min(workers or os.cpu_count() or 1, len(pairs))) as pool:
        scores = map_subjects(score, named, executor or pool, "evaluate").all_done()
    if shard is None:
        return scores
    kept = {pair.case: score.kept(pair) for pair in pairs}
    return {case: found for case, found in kept.items() if found is not None}


@dataclasses.dataclass(frozen=True)
class _Score:
    """Scores a pair once; plain values only, so that it can travel to other processes."""

    options: ScoreOptions
    of_predictions: GateOptions
    of_references: GateOptions
    keep: Path | None
    code: str

    def __call__(self, pair: MaskPair) -> CaseScore:
        score = self.kept(pair)
        if score is None:
            score = _score_pair(pair, self.options, self.of_predictions, self.of_references)
            if self.keep is not None:
                keep_score(self._file(self.keep, pair), score, self._made_from(pair))
        return score

    def kept(self, pair: MaskPair) -> CaseScore | None:
        """What an earlier call left."""
        if self.keep is None or not self._file(self.keep, pair).is_file():
            return None
        return kept_score(self._file(self.keep, pair), self._made_from(pair))

    def _file(self, keep: Path, pair: MaskPair) -> Path:
        return keep / f"{pair.case}.json"

    def _made_from(self, pair: MaskPair) -> str:
        masks = [sha256_file(path) for path in (pair.prediction, pair.reference)]
        gates = self.of_predictions, self.of_references
        labels = [sorted(gate.label_values.items()) for gate in gates]
        return digest(masks, dataclasses.asdict(self.options), labels, self.code)


def _score_pair(
    pair: MaskPair, options: ScoreOptions, of_predictions: GateOptions, of_references: GateOptions
) -> CaseScore:
    prediction = _read(pair.prediction, of_predictions, "--prediction-label-value")
    reference = _read(pair.reference, of_references, "--label-value")
    if not prediction.grid.same_as(reference.grid):
        shift = prediction.grid.displacement_mm(reference.grid)
        raise MssegError(
            Problem(
                "evaluate.grid",
                "prediction and reference do not lie on one grid",
                file=pair.prediction,
                field="dim" if np.isinf(shift) else "affine",
                found=f"shape {prediction.grid.shape}"
                + ("" if np.isinf(shift) else f", corners off by up to {shift:.3g} mm"),
                expected=f"shape {reference.grid.shape}, the affine of {pair.reference.name}",
                remedy="write predictions with the header of the patient's own scan",
            )
        )
    spacing_mm = _header_spacing(pair.reference, reference, of_references)
    return score_case(prediction.data, reference.data, spacing_mm, options)


def _read(path: Path, gate: GateOptions, option: str) -> Volume:
    """One mask; that it is empty is no warning here."""
    volume, problems = inspect_volume(path, "mask", gate)
    if volume is None:
        errors = [problem for problem in problems if problem.severity == "error"]
        raise MssegError([_for_this_command(problem, option) for problem in errors])
    for problem in problems:
        if problem.code != "mask.empty":
            log.warning("%s", problem)
    return volume


def _for_this_command(problem: Problem, option: str) -> Problem:
    """The remedy in words of ``msseg evaluate``, which has an option for each side."""
    if problem.code != "mask.values":
        return problem
    request, _, labels = problem.remedy.partition("data.reading.label_values='{")
    words = [f"{option}={label.replace(': ', '=')}" for label in labels[:-2].split(", ") if label]
    remedy = request + " ".join(words)
    return dataclasses.replace(problem, remedy=remedy.partition(", or data.reading.soft_labels")[0])


def _header_spacing(path: Path, volume: Volume, gate: GateOptions) -> tuple[float, float, float]:
    """Voxel edges from ``pixdim``, which the official tool computes with.

    The affine gives the same up to the rounding of its nine products; that matters for a lesion
    exactly at the volume limit. A file whose ``pixdim`` says something else goes by its affine.
    """
    header, _ = read_header(path, gate)
    stored = np.frombuffer(header.raw, np.float32, count=3, offset=80)
    if np.allclose(stored, volume.spacing_mm, rtol=1e-4):
        return float(stored[0]), float(stored[1]), float(stored[2])
    return volume.spacing_mm


def _stem(path: Path) -> str:
    """Name without its ending."""
    for ending in ENDINGS:
        if path.name.lower().endswith(ending):
            return path.name[: -len(ending)]
    return path.name


def _masks_in(folder: Path) -> dict[str, Path]:
    """Case -> mask below a folder.

    Raises:
        MssegError: several files could be the mask of one case.
    """
    candidates: dict[str, list[Path]] = {}
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            masks = [path for path in sorted(entry.iterdir()) if _may_be_mask(path)]
            consensus = [path for path in masks if _stem(path) == REFERENCE_NAME]
            if masks:
                candidates.setdefault(entry.name, []).extend(consensus or masks)
        elif _may_be_mask(entry):
            candidates.setdefault(_stem(entry), []).append(entry)
    ambiguous = [
        Problem(
            "evaluate.ambiguous",
            f"several files could be the mask of case {case}",
            file=folder,
            found=", ".join(str(path.relative_to(folder)) for path in paths),
            expected="one mask per case",
            remedy="move the others elsewhere, or compare single files",
        )
        for case, paths in candidates.items()
        if len(paths) > 1
    ]
    if ambiguous:
        raise MssegError(ambiguous)
    return {case: paths[0] for case, paths in candidates.items()}


def _may_be_mask(path: Path) -> bool:
    stem = _stem(path)
    return (
        stem != path.name
        and not path.name.startswith(".")
        and not stem.endswith("_probability")
        and not stem.startswith("flair_")
    )
