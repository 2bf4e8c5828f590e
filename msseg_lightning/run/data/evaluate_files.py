"""Scoring of mask files: one pair of files, or two folders matched by case."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from msseg_lightning.core.input_hash import input_hash
from msseg_lightning.core.outputs import refuse_overwrites
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject import LongitudinalSubject, Native
from msseg_lightning.core.subject_map import SupportsSubmit, map_subjects
from msseg_lightning.core.volume import Volume
from msseg_lightning.evaluate.score import CaseScore, ScoreOptions, score_case
from msseg_lightning.read.nifti import FileFacts, GateOptions, inspect_volume, label_meanings
from msseg_lightning.read.reference import read_reference
from msseg_lightning.run.assemble.code import code_hash
from msseg_lightning.run.predict.lesion_traits import with_traits
from msseg_lightning.run.predict.scores import digest, is_saved_score, load_score, save_score
from msseg_lightning.run.shard import Shard

log = logging.getLogger(__name__)

ENDINGS = (".nii.gz", ".nii")
REFERENCE = re.compile(r"ground_truth|new_lesions|(?!.*desc-).*_label-newlesion_mask")
"""Stems of references in case folders: of the challenge, of tables, of BIDS."""
CHANGE_NAME = re.compile(r"gt|change")
"""Stems of masks of change in both directions (open_ms, tables)."""
OTHER = re.compile(
    r"(.*[-_])?ground_truth_.+|(.*[-_])?new_lesions_(rater|adjudicated).*|(.*[-_])?lesions_time\d+(_.*)?"
    r"|(.*[-_])?(baseline|followup|all|old|wm)_lesions?(_.*)?|lesions?|(.*[-_])?wmh([-_].*)?"
    r"|(.*[-_])?(ventricles?|tissue|head|skull|bet|hdbet|gm|wm|csf)([-_]?(mask|seg))?"
    r"|(.*[-_])?brain(_?mask)?(_.*)?|.*_label-(brain|lesion)_mask|.*_desc-.*_mask|.*desc-rater.*"
    r"|(.*_)?prob(ability|abilities)?(_map)?|(.*_)?logits|flair_.*"
)
"""Stems of other known files: raters, all lesions of a visit, brains, probability maps, scans."""
SAME_FILE = "prediction and reference are one file, or copies of it"
"""Note of a case."""
SCAN = re.compile(
    r"((.*[-_])?(flair|t1w?|t1_?c|t1gd|t1ce|t2w?|pdw?|mprage|dir|swi|dwi)([-_].*)?)|study\d.*"
)
"""Stems of scans in case folders."""


@dataclasses.dataclass(frozen=True)
class MaskPair:
    """A prediction and a reference to compare."""

    case: str
    prediction: Path
    reference: Path

    @property
    def files(self) -> tuple[Path, Path]:
        """Prediction and reference."""
        return self.prediction, self.reference


def find_pairs(prediction: Path, reference: Path) -> tuple[list[MaskPair], list[Problem]]:
    """Match predictions to references.

    Two files make one pair, named after the prediction. In folders a case is a mask file named
    after it (``013.nii.gz``) or a folder of that name. References in such a folder are named
    ``ground_truth``, ``new_lesions`` or ``*_label-newlesion_mask``; no other file is used as one.
    Predictions are named ``new_lesions`` or after the case, or are the only file of unknown kind
    (which is logged). Scans, probability maps, masks of brains, of raters, of change and of all
    lesions of a visit are ignored.

    Returns:
        pairs in order of case, and a problem for every case without counterpart.

    Raises:
        MssegError: a path is missing, a file is compared with a folder, a case is ambiguous or no
            case matches.
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
    (predicted, no_prediction), (true, no_reference) = (
        _masks_in(prediction, references=False),
        _masks_in(reference, references=True),
    )
    pairs = [
        MaskPair(case, predicted[case], true[case]) for case in sorted(predicted.keys() & true)
    ]
    unmatched = [
        Problem(
            "evaluate.unmatched",
            f"case {cases[0]} has no {counterpart} and was skipped"
            if len(cases) == 1
            else f"{len(cases)} cases have no {counterpart} and were skipped: {', '.join(cases)}",
            file=masks[cases[0]] if len(cases) == 1 else masks[cases[0]].parent,
            found="; ".join(ignored[case] for case in cases if case in ignored),
            expected=f"{cases[0]}.nii.gz or {cases[0]}/{name}",
            remedy=f"name the {counterpart} so, or give the two masks themselves",
            severity="warning",
            exit_code=ExitCode.PARTIAL,
        )
        for masks, others, ignored, counterpart, name in (
            (predicted, true, no_reference, "reference", "ground_truth.nii.gz"),
            (true, predicted, no_prediction, "prediction", "new_lesions.nii.gz"),
        )
        if (cases := sorted(masks.keys() - others))
    ]
    if not pairs:
        nothing = _nothing(prediction, len(predicted), len(true))
        raise MssegError(
            [nothing, *(dataclasses.replace(item, severity="error") for item in unmatched)]
        )
    return pairs, unmatched


def _nothing(folder: Path, predictions: int, references: int) -> Problem:
    return Problem(
        "evaluate.nothing",
        "no case has both a prediction and a reference",
        file=folder,
        found=f"{predictions} predictions, {references} references",
        expected="masks of the same case names in both folders",
        remedy="name both after the case: 013.nii.gz, or 013/ground_truth.nii.gz",
    )


def evaluate_files(
    pairs: Sequence[MaskPair],
    options: ScoreOptions,
    workers: int | None = None,
    label_values: Mapping[int, int] | None = None,
    keep: Path | None = None,
    shard: Shard | None = None,
    executor: SupportsSubmit | None = None,
    prediction_label_values: Mapping[int, int] | None = None,
) -> dict[str, CaseScore]:
    """Read and score all pairs.

    Args:
        pairs: masks to compare.
        options: thresholds of the lesion scores.
        workers: number of threads; None for one per processor.
        label_values: meaning of the values of references, see ``GateOptions``.
        keep: folder for the score of every pair; scores in it of the same masks, options and
            program code are reused.
        shard: score only these pairs; needs ``keep``.
        executor: used instead of threads.
        prediction_label_values: meaning of the values of predictions; those of this package are
            0 and 1.

    Returns:
        Scores in the order of the pairs; with a shard those of all pairs that are in ``keep`` now.

    Raises:
        MssegError: with all problems of all files; the scores of the other pairs are in ``keep``.
    """
    gates = [
        GateOptions(
            label_values=label_meanings((labels or {}).items()),
            largest_mask_fraction=1.0,  # a mask of any size is scored
        )
        for labels in (prediction_label_values, label_values)
    ]
    if keep is not None:
        kept_files = [(keep / f"{pair.case}.json", is_saved_score) for pair in pairs]
        refuse_overwrites(kept_files, field="--cases")
    code = code_hash({}, (__name__,)) if keep else ""
    score = _PairScorer(options, gates[0], gates[1], keep, code)
    named = {pair.case: pair for pair in (shard.of(pairs) if shard else pairs)}
    with ThreadPoolExecutor(min(workers or os.cpu_count() or 1, len(pairs))) as pool:
        scores = map_subjects(score, named, executor or pool, "evaluate").all_done()
    if shard is None:
        return scores
    saved = {pair.case: score.saved(pair) for pair in pairs}
    return {case: found for case, found in saved.items() if found is not None}


@dataclasses.dataclass(frozen=True)
class _PairScorer:
    """Scores a pair, or loads its saved score; it can be pickled."""

    options: ScoreOptions
    of_predictions: GateOptions
    of_references: GateOptions
    keep: Path | None
    code: str

    def __call__(self, pair: MaskPair) -> CaseScore:
        score = self.saved(pair)
        if score is None:
            facts: dict[Path, FileFacts] = {}
            score = _score_pair(pair, self.options, self.of_predictions, self.of_references, facts)
            if self.keep is not None:  # with the hashes of the bytes that were scored
                made_from = self._made_from([facts[path].sha256 for path in pair.files])
                save_score(self._file(self.keep, pair), score, made_from)
        return score

    def saved(self, pair: MaskPair) -> CaseScore | None:
        """The score that an earlier call saved; None without one."""
        if self.keep is None or not self._file(self.keep, pair).is_file():
            return None
        made_from = self._made_from([input_hash(path) for path in pair.files])
        return load_score(self._file(self.keep, pair), made_from)

    def _file(self, keep: Path, pair: MaskPair) -> Path:
        return keep / f"{pair.case}.json"

    def _made_from(self, masks: Sequence[str]) -> str:
        gates = self.of_predictions, self.of_references
        labels = [sorted(gate.label_values.items()) for gate in gates]
        return digest(masks, dataclasses.asdict(self.options), labels, self.code)


def _score_pair(
    pair: MaskPair,
    options: ScoreOptions,
    of_predictions: GateOptions,
    of_references: GateOptions,
    facts: dict[Path, FileFacts],
) -> CaseScore:
    """Score a pair; fills ``facts`` with those of the files that were read."""
    prediction = _read(pair.prediction, of_predictions, "--prediction-label-value", facts)
    reference = _read(pair.reference, of_references, "--label-value", facts)
    _refuse_other_grid(prediction, reference, pair.prediction, pair.reference.name)
    spacing_mm = _header_spacing(facts[pair.reference].native, reference)
    score = score_case(prediction.data, reference.data, spacing_mm, options)
    if facts[pair.prediction].sha256 == facts[pair.reference].sha256 and reference.data.any():
        return dataclasses.replace(score, notes=(*score.notes, SAME_FILE))
    return score


def evaluate_subjects(
    folder: Path,
    subjects: Sequence[LongitudinalSubject],
    options: ScoreOptions,
    reading: GateOptions,
    prediction_label_values: Mapping[int, int] | None = None,
) -> dict[str, CaseScore]:
    """Score the masks of a folder against the references of a data set.

    Args:
        folder: with ``<id>.nii.gz`` or ``<id>/new_lesions.nii.gz``.
        subjects: labelled pairs; those without a mask are left out.
        options: thresholds of the lesion scores.
        reading: options for reading references.
        prediction_label_values: meaning of the values of predictions.

    Raises:
        MssegError: no pair has a mask, or a file is refused.
    """
    masks, _ = _masks_in(folder, references=False)
    found = {one.id: one for one in subjects if one.id in masks}
    if not found:
        raise MssegError(_nothing(folder, len(masks), len(subjects)))
    labels = label_meanings((prediction_label_values or {}).items())
    gate = GateOptions(label_values=labels, largest_mask_fraction=1.0)

    def score(subject: LongitudinalSubject) -> CaseScore:
        prediction = _read(masks[subject.id], gate, "--prediction-label-value", {})
        reference = read_reference(subject, reading, options.reference)
        _refuse_other_grid(prediction, reference, masks[subject.id], subject.id)
        found = score_case(prediction.data, reference.data, reference.spacing_mm, options)
        return with_traits(found, subject, prediction.data, reference, reading)

    return map_subjects(score, found, step="evaluate").all_done()


def _refuse_other_grid(prediction: Volume, reference: Volume, file: Path, name: str) -> None:
    if prediction.grid.same_as(reference.grid):
        return
    shift = prediction.grid.displacement_mm(reference.grid)
    raise MssegError(
        Problem(
            "evaluate.grid",
            "prediction and reference do not lie on one grid",
            file=file,
            field="dim" if np.isinf(shift) else "affine",
            found=f"shape {prediction.grid.shape}"
            + ("" if np.isinf(shift) else f", corners off by up to {shift:.3g} mm"),
            expected=f"shape {reference.grid.shape}, the affine of {name}",
            remedy="write predictions with the header of the patient's own scan"
            if np.isfinite(shift)
            else f"predict the scan on whose grid {name} lies, or resample the prediction to that "
            "grid by nearest neighbour",
        )
    )


def _read(path: Path, gate: GateOptions, option: str, facts: dict[Path, FileFacts]) -> Volume:
    """Read a mask; an empty one causes no warning."""
    volume, problems = inspect_volume(path, "mask", gate, facts=facts)
    if volume is None:
        errors = [problem for problem in problems if problem.severity == "error"]
        raise MssegError([_for_this_command(problem, option) for problem in errors])
    for problem in problems:
        if problem.code != "mask.empty":
            log.warning("%s", problem)
    return volume


def _for_this_command(problem: Problem, option: str) -> Problem:
    """A problem with a remedy that names the options of ``msseg evaluate``."""
    if problem.code != "mask.values":
        return problem
    request, _, labels = problem.remedy.partition("data.reading.label_values='{")
    words = [f"{option}={label.replace(': ', '=')}" for label in labels[:-2].split(", ") if label]
    remedy = request + " ".join(words)
    return dataclasses.replace(problem, remedy=remedy.partition(", or data.reading.soft_labels")[0])


def _header_spacing(native: Native, volume: Volume) -> tuple[float, float, float]:
    """Spacing from ``pixdim``, which the official tool uses.

    The affine gives the same up to rounding, which matters for a lesion exactly at the volume
    limit. If ``pixdim`` differs from the affine, the affine is used.
    """
    stored = np.frombuffer(native.header, np.float32, count=3, offset=80)
    if np.allclose(stored, volume.spacing_mm, rtol=1e-4):
        return float(stored[0]), float(stored[1]), float(stored[2])
    return volume.spacing_mm


def _stem(path: Path) -> str:
    """File name without ``.nii.gz`` or ``.nii``."""
    for ending in ENDINGS:
        if path.name.lower().endswith(ending):
            return path.name[: -len(ending)]
    return path.name


def _masks_in(folder: Path, references: bool) -> tuple[dict[str, Path], dict[str, str]]:
    """Case -> mask below a folder, and case -> other files of folders without a mask.

    Raises:
        MssegError: several files could be the mask of one case.
    """
    candidates: dict[str, list[Path]] = {}
    ignored: dict[str, str] = {}
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            images = [path for path in sorted(entry.iterdir()) if _is_image(path)]
            masks = _references(images) if references else _predictions(images, entry.name)
            if masks:
                candidates.setdefault(entry.name, []).extend(masks)
            else:
                ignored[entry.name] = ", ".join(path.name for path in images)
        elif _is_image(entry) and not OTHER.fullmatch(_stem(entry).lower()):
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
    return {case: paths[0] for case, paths in candidates.items()}, ignored


def _references(images: Sequence[Path]) -> list[Path]:
    """Files of a case's folder with the name of a reference."""
    consensus = [path for path in images if _stem(path) == "ground_truth"]
    return consensus or [path for path in images if REFERENCE.fullmatch(_stem(path))]


def _predictions(images: Sequence[Path], case: str) -> list[Path]:
    """The file with the name of a prediction, or else all files of unknown kind."""
    named = [path for path in images if _stem(path) in (case, "new_lesions")]
    if named:
        return named
    known = (OTHER, SCAN, CHANGE_NAME, REFERENCE)
    unknown = [
        path for path in images if not any(name.fullmatch(_stem(path).lower()) for name in known)
    ]
    if len(unknown) == 1:
        log.warning("%s: %s is used as the prediction", case, unknown[0].name)
    return unknown


def _is_image(path: Path) -> bool:
    return _stem(path) != path.name and not path.name.startswith(".")
