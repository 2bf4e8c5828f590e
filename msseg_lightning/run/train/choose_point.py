"""Choice of the operating point of a run, or of all folds, on patients they were not fitted on."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from msseg_lightning.core.files import require_record
from msseg_lightning.core.prediction import Prediction
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject import LongitudinalSubject, Native
from msseg_lightning.core.subject_map import map_subjects
from msseg_lightning.core.wording import counted
from msseg_lightning.evaluate.calibration import (
    Calibration,
    Kind,
    brier_score,
    cross_fitted,
    reliability,
)
from msseg_lightning.evaluate.case_score import CaseScore
from msseg_lightning.evaluate.lesion_score import scores_by_size
from msseg_lightning.evaluate.operating_point import (
    Marks,
    OperatingPoint,
    Population,
    TooFew,
    choose_operating_point,
)
from msseg_lightning.evaluate.score import score_case
from msseg_lightning.postprocess.lesion_score import Measure
from msseg_lightning.read.nifti import GateOptions, gate_options, read_volume
from msseg_lightning.read.reference import read_reference
from msseg_lightning.run.assemble.system import postprocess_rules
from msseg_lightning.run.config.compose import Config
from msseg_lightning.run.folder import RunFolder, read_scores
from msseg_lightning.run.predict.operating_point import (
    POINT_FOLDER,
    StoredPoint,
    own_threshold,
    scan_hash,
    with_point,
    with_threshold,
    write_point,
)
from msseg_lightning.run.predict.predictor import Predictor
from msseg_lightning.run.predict.scores import score_options, write_scores
from msseg_lightning.run.predict.trained import find_model, model_hash
from msseg_lightning.run.train.experiment import labelled_subjects
from msseg_lightning.split.split import data_hash

log = logging.getLogger(__name__)

Values = np.ndarray[Any, np.dtype[np.float64]]


@dataclasses.dataclass(frozen=True)
class Choice:
    """How an operating point is chosen.

    Args:
        budget: allowed false lesions per patient.
        confidence: with which unseen patients have no more.
        population: of whom the budget speaks.
        thresholds: of the probability, tried besides the system's own.
        smallest_mm3: smallest lesions that are tried.
        measure: score of a lesion.
        calibration: of the lesion probabilities.
        too_few: what is done where the patients cannot certify the budget.
    """

    budget: float
    confidence: float = 0.9
    population: Population = "without"
    thresholds: tuple[float, ...] = (0.1, 0.2, 0.3, 0.5, 0.7)
    smallest_mm3: tuple[float, ...] = (0.0, 5.0, 10.0, 20.0)
    measure: Measure = "mean"
    calibration: Kind = "temperature"
    too_few: TooFew = "strictest"


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A chosen point and the scores with it.

    Args:
        stored: the point that is stored with the model.
        before: two-group summary of the held-out pairs by the system's own rules.
        after: the same at the operating point; of all folds at that of the other folds.
        folder: with ``scores.json`` of the latter.
    """

    stored: StoredPoint
    before: dict[str, Any]
    after: dict[str, Any]
    folder: Path


@dataclasses.dataclass(frozen=True)
class PairMarks:
    """The predicted lesions of a pair for every threshold, and how to score it again.

    Args:
        subject: the pair.
        by_threshold: the system's own threshold is None.
        folder: of the mask and the map.
        config: of the run that predicted it.
    """

    subject: LongitudinalSubject
    by_threshold: Mapping[float | None, Marks]
    folder: Path
    config: Config

    def score_at(self, point: OperatingPoint, measure: Measure) -> CaseScore:
        """Scores of the mask at an operating point."""
        prediction = stored_prediction(self.folder, self.subject.id)
        config = self.config
        if point.threshold is None:  # the stored mask is that of the system's own rules
            config = {"postprocess": None}
        for rule in postprocess_rules(with_point(config, point, measure)):
            prediction = rule(prediction)
        return _score(prediction, self.subject, self.config)


def choose_for_run(folder: RunFolder, choice: Choice) -> Chosen:
    """Choose the point of one run on its validation pairs, and score its held-out pairs with it.

    Maps of validation pairs are kept below the run; an interrupted command goes on with the
    missing ones.

    Raises:
        MssegError: the run has no model or no validation pairs, its data changed (exit 4), or no
            point can be chosen (exit 2).
    """
    find_model(str(folder.path))
    split = folder.split()
    if not split["val"]:
        raise MssegError(
            Problem(
                "point.no_validation",
                "this run has no validation patients to choose an operating point on",
                file=folder.split_file,
                field="val",
                found="0 pairs",
                expected="patients that the system was not fitted on",
                remedy="train all folds (fold=all) and give `msseg tune` the folder that it "
                "prints as out of fold",
                exit_code=ExitCode.MODEL,
            )
        )
    config = folder.complete_config()
    subjects = _same_data(folder, config, split)
    validation = [subjects[name] for name in split["val"]]
    pairs = _predicted(
        folder, config, validation, folder.path / POINT_FOLDER / "validation", choice
    )
    what = f"the {counted(len(pairs), 'validation pair')} of this run, which also chose its weights"
    stored = _store(pairs, choice, what, folder.model)
    held_out = [subjects[name] for name in split["test"]]
    tested = _predicted(folder, config, held_out, folder.predictions, choice)
    scores = {pair.subject.id: pair.score_at(stored.point, choice.measure) for pair in tested}
    return _chosen(folder.path, folder.scores(), config, scores, stored, "validation pairs")


def choose_for_folds(folder: Path, choice: Choice) -> Chosen:
    """Choose a point for each fold on the held-out pairs of the others, and one on all of them.

    The first are stored with the models of the folds and used for the scores of all pairs; the
    last is stored with the model of all folds, for new patients.

    Raises:
        MssegError: see ``choose_for_run``.
    """
    remedy = "give the `msseg train` command of all folds again"
    origin = require_record(folder / "out_of_fold.json", remedy)
    runs = {name: RunFolder(folder.parent / name) for name in {o["run"] for o in origin.values()}}
    by_run: dict[str, list[PairMarks]] = {}
    for name in sorted(runs):
        run = runs[name]
        find_model(str(run.path))
        config = run.complete_config()
        subjects = _same_data(run, config, run.split())
        held_out = [subjects[case] for case, one in origin.items() if one["run"] == name]
        by_run[name] = _predicted(run, config, held_out, run.predictions, choice)
    scores: dict[str, CaseScore] = {}
    tested: list[tuple[Marks, Values]] = []
    for name, pairs in by_run.items():
        others = [pair for other, found in by_run.items() if other != name for pair in found]
        what = f"the {counted(len(others), 'held-out pair')} of the other folds"
        stored = _store(others, choice, what, runs[name].model)
        for pair in pairs:
            scores[pair.subject.id] = pair.score_at(stored.point, choice.measure)
            marks = _at_least(pair.by_threshold[stored.point.threshold], stored.point.smallest_mm3)
            calibration = stored.calibration
            tested.append(
                (marks, marks.scores if calibration is None else calibration(marks.scores))
            )
    every = [pair for pairs in by_run.values() for pair in pairs]
    what = f"the {counted(len(every), 'held-out pair')} of all {len(runs)} folds"
    stored = _store(every, choice, what, folder / "model", tested)
    config = next(iter(by_run.values()))[0].config
    content = read_scores(folder / "scores.json")
    return _chosen(folder, content, config, scores, stored, "held-out pairs of the other folds")


def _same_data(
    folder: RunFolder, config: Config, split: Mapping[str, Any]
) -> dict[str, LongitudinalSubject]:
    """The labelled pairs of a run, which must be those of its training."""
    subjects = labelled_subjects(config)
    if split.get("data_hash") != (found := data_hash(subjects.values())):
        raise MssegError(
            Problem(
                "point.other_data",
                "the data of this run have changed since it was trained",
                file=folder.split_file,
                field="data_hash",
                found=found[:12],
                expected=str(split.get("data_hash"))[:12],
                remedy="restore the data, or train again with overwrite=true",
                exit_code=ExitCode.MODEL,
            )
        )
    return subjects


def _predicted(
    run: RunFolder,
    config: Config,
    subjects: Sequence[LongitudinalSubject],
    folder: Path,
    choice: Choice,
) -> list[PairMarks]:
    """Lesions of some pairs; masks and maps that are missing are predicted again."""
    apply = Predictor.from_config(run.model, config, folder)
    named = {subject.id: subject for subject in subjects}
    if not all(apply.is_done(subject) for subject in subjects):
        map_subjects(apply, named, step="predict").all_done()
    own = own_threshold(config)
    further = () if own is None else tuple(one for one in choice.thresholds if one != own)
    marks = functools.partial(
        marks_of, folder=folder, config=config, thresholds=further, measure=choice.measure
    )
    found = map_subjects(marks, named, step="lesions").all_done()
    return [PairMarks(named[name], one, folder, config) for name, one in found.items()]


def marks_of(
    subject: LongitudinalSubject,
    folder: Path,
    config: Config,
    thresholds: Sequence[float],
    measure: Measure,
) -> dict[float | None, Marks]:
    """Predicted lesions of a pair by threshold; None is the mask of the system's own rules.

    Args:
        subject: a labelled pair.
        folder: with its mask and its probability map.
        config: of the system.
        thresholds: further ones, from which the mask is made again by the system's other rules.
        measure: score of a lesion.
    """
    stored = stored_prediction(folder, subject.id)
    found = {}
    for threshold in (None, *thresholds):
        prediction = stored
        if threshold is not None:
            for rule in postprocess_rules(with_threshold(config, threshold)):
                prediction = rule(prediction)
        assert prediction.probability is not None
        score = _score(prediction, subject, config)
        reference = read_reference(subject, gate_options(config["data"]["reading"]))
        scores = scores_by_size(prediction.mask, prediction.probability, reference.data, measure)
        found[threshold] = Marks.of(
            subject.patient, score, scores[: int(score.detection["n_test"] or 0)]
        )
    return found


def stored_prediction(folder: Path, pair: str) -> Prediction:
    """The mask and the probability map of a pair, as written by a prediction.

    Raises:
        MssegError: there is no map, because the system gives no probabilities (exit 2).
    """
    file = folder / f"{pair}_probability.nii.gz"
    if not file.is_file():
        raise MssegError(
            Problem(
                "point.no_map",
                "this system gives no probabilities, from which lesions could be scored",
                file=file,
                field="probability",
                found="no map",
                expected="a system with a probability map",
                remedy="choose the operating point of another system; this one keeps its own rules",
                exit_code=ExitCode.CONFIG,
            )
        )
    options = GateOptions(largest_mask_fraction=1.0)
    mask = read_volume(folder / f"{pair}.nii.gz", "mask", options)
    probability = np.asarray(read_volume(file, "probability").data, np.float32)
    return Prediction(pair, np.asarray(mask.data, np.uint8), Native(mask.grid, b""), probability)


def _score(prediction: Prediction, subject: LongitudinalSubject, config: Config) -> CaseScore:
    reference = read_reference(subject, gate_options(config["data"]["reading"]))
    return score_case(prediction.mask, reference.data, reference.spacing_mm, score_options(config))


def _store(
    pairs: Sequence[PairMarks],
    choice: Choice,
    chosen_on: str,
    model: Path,
    tested: Sequence[tuple[Marks, Values]] = (),
) -> StoredPoint:
    """Choose a point on some pairs and store it with a model.

    Args:
        pairs: predicted by systems that were not fitted on them.
        choice: how.
        chosen_on: the pairs in words.
        model: the model folder.
        tested: lesions with probabilities by calibrations of other pairs; without them these are
            made by cross-fitting.
    """
    by_threshold = {
        threshold: [pair.by_threshold[threshold] for pair in pairs]
        for threshold in pairs[0].by_threshold
    }
    point = choose_operating_point(
        by_threshold,
        choice.budget,
        choice.confidence,
        choice.population,
        choice.smallest_mm3,
        choice.too_few,
    )
    marks = [_at_least(one, point.smallest_mm3) for one in by_threshold[point.threshold]]
    scores, right = _joined(marks)
    calibration = Calibration.fit(scores, right, choice.calibration) if len(scores) else None
    if tested:
        told, certain = [one for one, _ in tested], np.concatenate([one for _, one in tested])
    else:
        patients = [one.patient for one in marks for _ in one.scores]
        told, certain = marks, cross_fitted(scores, right, patients, choice.calibration)
    stored = StoredPoint(
        point=point,
        measure=choice.measure,
        calibration=calibration,
        reliability=_reliability(*_joined(told), certain),
        chosen_on=chosen_on,
        scans=tuple(sorted(scan_hash(pair.subject) for pair in pairs)),
        model_sha256=model_hash(model),
    )
    if not point.certified:
        log.warning("%s", point)
    write_point(model, stored)
    return stored


def _at_least(marks: Marks, smallest_mm3: float) -> Marks:
    """The lesions of a pair from a volume on, for a calibration."""
    kept = marks.volumes_mm3 >= smallest_mm3
    return dataclasses.replace(
        marks,
        scores=marks.scores[kept],
        volumes_mm3=marks.volumes_mm3[kept],
        right=marks.right[kept],
        finds=np.zeros((0, 2), np.int64),
    )


def _joined(marks: Sequence[Marks]) -> tuple[Values, np.ndarray[Any, np.dtype[np.bool_]]]:
    scores = np.concatenate([one.scores for one in marks])
    return scores, np.concatenate([one.right for one in marks])


def _reliability(
    scores: Values, right: np.ndarray[Any, np.dtype[np.bool_]], certain: Values
) -> dict[str, Any]:
    return {
        "lesions": len(scores),
        "true": int(right.sum()),
        "brier_before": brier_score(scores, right),
        "brier_after": brier_score(certain, right),
        "before": [dataclasses.asdict(one) for one in reliability(scores, right)],
        "after": [dataclasses.asdict(one) for one in reliability(certain, right)],
    }


def _chosen(
    folder: Path,
    content: Mapping[str, Any],
    config: Config,
    scores: dict[str, CaseScore],
    stored: StoredPoint,
    chosen_on: str,
) -> Chosen:
    """Write the scores at the operating point, and return them with those by the own rules."""
    facts = {key: content[key] for key in ("split", "seed", "commit", "pairs") if key in content}
    facts["model"] = {"system": f"{config['name']} at its operating point"}
    facts["threshold"] = f"chosen on {chosen_on}, not on these pairs: {stored.words}"
    facts["operating_point"] = {"used": True, "is": stored.words, "chosen_on_scored": []}
    summary = write_scores(folder / POINT_FOLDER, scores, score_options(config), facts)
    return Chosen(stored, dict(content["summary"]), summary, folder / POINT_FOLDER)
