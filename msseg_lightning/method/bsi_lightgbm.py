"""Subtraction, rules and gradient-boosted classification of voxels (S01)."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import hashlib
import io
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.files import atomic_write, read_record, read_regular, write_record
from msseg_lightning.core.method import NO_CONTEXT, FitContext
from msseg_lightning.core.prediction import Prediction
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject import BASELINE, FOLLOWUP, TARGET, LongitudinalSubject
from msseg_lightning.method.booster_files import (
    load_texts,
    read_text,
    save_boosters,
    write_text,
)
from msseg_lightning.method.boosting import SCORE, Boosting, Table, nested_folds
from msseg_lightning.method.bsi_subtraction import BsiRule, Subtraction
from msseg_lightning.preprocess.cache import PreparedCache
from msseg_lightning.preprocess.restore import restore
from msseg_lightning.sample.voxel_table import VoxelRows, feature_names, neighbour_features

log = logging.getLogger(__name__)

IMAGES = (BASELINE, FOLLOWUP, "candidates")
FEATURES = feature_names(IMAGES)
"""The 21 columns, in order."""

CHUNK = 1 << 18
"""Voxels per prediction of LightGBM: 22 MB of features."""


class BsiLightgbm:
    """S01: candidates by subtraction and rules, then LightGBM on 21 features of each voxel.

    The values are those of baseline and follow-up (z-scores within the brain) and of the first
    stage's mask, at the voxel and its six face neighbours. The training patients are divided into
    folds; each booster is fitted on all but one of them and stops growing when the modified Dice of
    the one left out does not rise any more. The map is the mean of the boosters, made in the
    template's space and brought to the native grid by linear interpolation.

    Validation pairs are training patients too: each fold is the validation set of one booster.
    Nothing of the held-out patient is a row. A booster that stands in ``folder`` already is not
    fitted again.

    Args:
        cache: prepares pairs; its chain must leave ``brain`` and ``ventricles`` on the grid.
        rule: the first stage; ``rows``: which voxels are rows; ``boosting``: how trees grow.
        seed: of folds and draws.
        name: of the system; kept with the boosters.
        postprocess: rules applied in order to the map on the native grid.

    Reference:
        MSSEG-2 proceedings 2021, boundary shift integral and gradient boosting (S01).
    """

    def __init__(
        self,
        cache: PreparedCache,
        rule: BsiRule | None = None,
        rows: VoxelRows | None = None,
        boosting: Boosting | None = None,
        seed: int = 0,
        name: str = "",
        postprocess: Sequence[Callable[[Prediction], Prediction]] = (),
    ) -> None:
        self.cache, self.rule = cache, rule or BsiRule()
        self.rows, self.boosting = rows or VoxelRows(), boosting or Boosting()
        self.seed, self.name, self.postprocess = seed, name, tuple(postprocess)
        self.texts: list[str] = []
        self._boosters: list[Any] = []

    def fit(
        self,
        train: Sequence[LongitudinalSubject],
        val: Sequence[LongitudinalSubject],
        folder: Path,
        context: FitContext = NO_CONTEXT,
    ) -> None:
        """Fit one booster per fold of the training and validation patients.

        Raises:
            MssegError: a pair has no reference, or none has a single new lesion (exit 3).
        """
        prepared = self.cache.prepare([*train, *val])
        validation_sets = self._folds(prepared)
        places = [folder / f"fold{number}.json" for number in range(len(validation_sets))]
        keys = [self._key(prepared, patients) for patients in validation_sets]
        records = [_finished(place, key) for place, key in zip(places, keys, strict=True)]
        with _bars() as bar:
            tables: dict[str, Table] = {}
            for number, patients in enumerate(validation_sets):
                if records[number] is not None:
                    log.info("booster %d is fitted already", number)
                    continue
                if not tables:
                    tables = {
                        pair.id: self._table(pair) for pair in bar(prepared, "tables of voxels")
                    }
                fit = [pair for pair in prepared if pair.patient not in patients]
                validation = [pair for pair in prepared if pair.patient in patients] or prepared
                booster = self.boosting.fit(
                    Table.joined([tables[pair.id] for pair in fit]),
                    Table.joined([tables[pair.id] for pair in validation]),
                    FEATURES,
                    self.seed,
                    bar(
                        range(self.boosting.rounds),
                        f"booster {number + 1} of {len(validation_sets)}",
                    ),
                )
                best = booster.curve[booster.best_iteration - 1]
                made: dict[str, Any] = {
                    "key": keys[number],
                    "sha256": write_text(places[number].with_suffix(".txt"), booster.text),
                    "fitted_on": [pair.id for pair in fit],
                    "watched": [pair.id for pair in validation],
                    "rows": booster.rows,
                    "lesion_rows": booster.lesion_rows,
                    "best_iteration": booster.best_iteration,
                    SCORE: best,
                    "curve": [round(value, 6) for value in booster.curve],
                }
                write_record(places[number], made)
                records[number] = made
                log.info(
                    "booster %d: %d trees, %s %.3f", number, booster.best_iteration, SCORE, best
                )
        known = [record for record in records if record is not None]
        _write_curves(folder / "curves.csv", [record["curve"] for record in known])
        self._take(
            [
                read_text(place.with_suffix(".txt"), record["sha256"], FEATURES)
                for place, record in zip(places, known, strict=True)
            ]
        )

    def predict(self, subject: LongitudinalSubject) -> Prediction:
        """Predict by the mean of all boosters, resample to the native grid and apply the rules.

        Raises:
            MssegError: nothing was fitted or loaded (exit 4).
        """
        if not self._boosters:
            raise MssegError(
                Problem(
                    "model.missing",
                    "there are no boosters to predict with",
                    field=self.name,
                    remedy="train first, or load a trained model",
                    exit_code=ExitCode.MODEL,
                )
            )
        prepared = self.cache.prepare([subject])[0]
        stage = self.rule.subtract(prepared)
        images = _images(stage)
        voxels = self.rows.predicting(stage.brain, stage.candidates)
        answer = np.zeros(stage.brain.shape, np.float32)
        for start in range(0, len(voxels), CHUNK):
            part = voxels[start : start + CHUNK]
            features = neighbour_features(images, part)
            each = [booster.predict(features) for booster in self._boosters]
            answer[tuple(part.T)] = np.mean(each, axis=0)

        def to_native(data: NDArray[Any], kind: Any) -> NDArray[np.generic]:
            return restore(data, prepared.grid, prepared.native, prepared.to_native, kind)

        probability = np.clip(np.asarray(to_native(answer, "probability"), np.float32), 0.0, 1.0)
        prediction = Prediction(
            subject=subject.id,
            mask=(probability > 0.5).astype(np.uint8),
            native=prepared.native,
            probability=probability,
            inside=to_native(stage.brain, "mask") != 0,
            warnings=prepared.notes,
            steps={
                name: to_native(data, "image" if data.dtype == np.float32 else "mask")
                for name, data in {**stage.maps, "candidates": stage.candidates}.items()
            },
        )
        for rule in self.postprocess:
            prediction = rule(prediction)
        return prediction

    def save(self, folder: Path) -> None:
        """Write the boosters as text, with a card of checksums."""
        save_boosters(self.texts, folder, self.name, FEATURES)

    def load(self, folder: Path) -> None:
        """Load boosters and verify their checksums; nothing is executed."""
        self._take(load_texts(folder, FEATURES))

    def _take(self, texts: list[str]) -> None:
        import lightgbm

        self.texts = texts
        self._boosters = [lightgbm.Booster(model_str=text) for text in texts]

    def _folds(self, prepared: Sequence[PreparedSubject]) -> list[frozenset[str]]:
        """Validation patients of each booster."""
        missing = [pair.id for pair in prepared if TARGET not in pair.mask_names]
        if missing:
            raise _no_lesions(
                "data.no_reference",
                f"training pairs without a reference mask: {', '.join(missing[:10])}",
                "leave these pairs out: split=file split.path=FILE with the others",
            )
        positive: dict[str, bool] = {}
        for pair in prepared:
            lesions = len(pair.voxels(TARGET)) > 0
            positive[pair.patient] = positive.get(pair.patient, False) or lesions
        if not any(positive.values()):
            raise _no_lesions(
                "data.all_empty",
                "no training pair has a single new lesion",
                "train on pairs of which some have new lesions",
            )
        return nested_folds(positive, self.boosting.folds, self.seed)

    def _key(self, prepared: Sequence[PreparedSubject], validation: frozenset[str]) -> str:
        """Key of a booster: settings, contents of pairs, validation patients."""
        content = [
            dataclasses.asdict(self.rule),
            dataclasses.asdict(self.rows),
            dataclasses.asdict(self.boosting),
            self.seed,
            sorted(validation),
            [[pair.id, pair.patient, sorted(pair.sha256.items())] for pair in prepared],
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def _table(self, pair: PreparedSubject) -> Table:
        stage, target = self.rule.subtract(pair), pair.mask(TARGET)
        rows = self.rows.fitting(stage.brain, stage.candidates, target, self.seed, pair.id)
        features = neighbour_features(_images(stage), rows.voxels)
        return Table(features, target[tuple(rows.voxels.T)], rows.weight)


def z_score(image: NDArray[np.float32], brain: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Standardise an image within the brain; a constant image becomes 0."""
    values = image[brain]
    if not values.size:
        return np.zeros_like(image)
    spread = float(values.std()) or 1.0
    return np.asarray((image - values.mean()) / spread, np.float32)


def _images(stage: Subtraction) -> list[NDArray[Any]]:
    return [
        z_score(stage.baseline, stage.brain),
        z_score(stage.followup, stage.brain),
        stage.candidates,
    ]


def _finished(place: Path, key: str) -> dict[str, Any] | None:
    """The record of a booster with this key if its file exists; else None."""
    try:
        record = read_record(place)
        text = read_regular(place.with_suffix(".txt"))
    except (OSError, ValueError):
        return None
    whole = record.get("key") == key and record.get("sha256") == hashlib.sha256(text).hexdigest()
    return record if whole else None


def _write_curves(path: Path, curves: Sequence[Sequence[float]]) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(("step", "name", "value"))
    for number, curve in enumerate(curves):
        writer.writerows(
            (step, f"val/{SCORE}_fold{number}", value) for step, value in enumerate(curve)
        )
    with atomic_write(path) as temporary:
        temporary.write_text(stream.getvalue(), encoding="utf-8")


@contextlib.contextmanager
def _bars() -> Iterator[Callable[[Any, str], Iterator[Any]]]:
    """A function that shows a progress bar for items on a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:

        def bar(items: Any, caption: str) -> Iterator[Any]:
            task = progress.add_task(caption, total=len(items))
            try:
                for item in items:
                    yield item
                    progress.advance(task)
            finally:  # also where growing stops early
                progress.remove_task(task)

        yield bar


def _no_lesions(code: str, message: str, remedy: str) -> MssegError:
    return MssegError(Problem(code, message, field=TARGET, remedy=remedy, exit_code=ExitCode.DATA))
