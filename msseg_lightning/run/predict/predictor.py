"""Prediction of one pair with a trained system: files are written and the mask is scored."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from msseg_lightning.core.files import sha256_file
from msseg_lightning.core.input_hash import FileState, changed_input
from msseg_lightning.core.method import Method
from msseg_lightning.core.outputs import is_json_with, is_text_with, refuse_overwrites
from msseg_lightning.core.problem import MssegError
from msseg_lightning.core.subject import LongitudinalSubject
from msseg_lightning.evaluate.score import CaseScore
from msseg_lightning.read.nifti import changed_options, gate_options
from msseg_lightning.run.assemble.code import BUILD_MODULE, code_hash
from msseg_lightning.run.assemble.system import build_load
from msseg_lightning.run.config.compose import Config
from msseg_lightning.run.config.keys import RUN_KEYS, hardware
from msseg_lightning.run.predict.operating_point import StoredPoint
from msseg_lightning.run.predict.prediction_files import (
    FILES_KEY,
    MAP_KEY,
    read_side_car,
    refuse_foreign_files,
    side_car,
    step_files,
    uncertainty_file,
    write_prediction,
)
from msseg_lightning.run.predict.scores import (
    digest,
    is_saved_score,
    load_score,
    save_score,
    score_options,
    score_prediction,
)
from msseg_lightning.run.predict.trained import build_trained, model_hash
from msseg_lightning.run.predict.uncertainty import require_uncertainty
from msseg_lightning.split.split import data_hash


@dataclasses.dataclass(frozen=True)
class Predictor:
    """Predicts one pair and scores it if it has a reference; finished pairs are skipped.

    Held-out pairs of a training, data sets, tables and single pairs all use it. It can be pickled:
    another process builds the system from its folder at the first pair that needs it.

    Args:
        model: model folder.
        config: of the system, with the data set's settings.
        folder: of masks, maps and side-cars; ``scores/<id>.json`` below it.
        made_from: digest of everything that the result depends on, except the pair itself.
        masks_only: write no scores, and no maps except ``maps``.
        outputs: id -> mask file, where it is not ``<folder>/<id>.nii.gz``.
        maps: id -> map file, where it is not ``<folder>/<id>_probability.nii.gz``.
        uncertainty: write ``<mask>_uncertainty.nii.gz`` beside every mask; or id -> file.
        settings: changed settings of the system, written to the side-cars.
        point: the operating point in ``config``; its lesions are listed in the side-cars.
        operating_point: what the side-cars say of it.
        loaded: the system of the model folder if it is in memory already.
    """

    model: Path
    config: Config
    folder: Path
    made_from: str
    masks_only: bool = False
    outputs: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    maps: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    uncertainty: bool | Mapping[str, Path] = False
    settings: tuple[str, ...] = ()
    loaded: Method | None = None
    point: StoredPoint | None = None
    operating_point: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_config(cls, model: Path, config: Config, folder: Path, **more: Any) -> Predictor:
        """Create a predictor with the digest of weights, settings and program code.

        Raises:
            MssegError: an uncertainty map is wanted of a system with a single output (exit 2).
        """
        if more.get("uncertainty"):
            require_uncertainty(config)
        settings = {key: value for key, value in config.items() if key not in RUN_KEYS}
        scoring = dataclasses.asdict(score_options(config))
        data = changed_options(config["data"]["reading"]), hardware(config)
        code = code_hash(settings, (BUILD_MODULE, __name__))
        told = [more["operating_point"]] if more.get("operating_point") else []
        made_from = digest(model_hash(model), settings, data, scoring, code, *told)
        return cls(model, config, folder, made_from, **more)

    @functools.cached_property
    def method(self) -> Method:
        """The system with its weights."""
        return self.loaded or build_trained(self.model, self.config)

    def __reduce__(self) -> tuple[Any, ...]:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return type(self), tuple({**values, "loaded": None}.values())

    def __call__(self, subject: LongitudinalSubject) -> CaseScore | None:
        """Predict a pair; returns its score, or None without a reference.

        Raises:
            MssegError: the pair is refused, or one of its files changed during the prediction
                (exit 3).
        """
        if not all(file.is_file() for file in subject.files().values()):
            build_load(self.config)(subject)  # reports the error; reading a pipe would block
        before = _states(subject)
        made_from = self._made_from(subject)
        if self._is_done(subject, made_from):
            return self._saved_score(subject, made_from)
        prediction = self.method.predict(subject)
        _refuse_changed(subject, before)
        record = {**side_car(prediction, self.model, self.settings), "made_from": made_from}
        if self.operating_point:
            record["operating_point"] = dict(self.operating_point)
        if self.point is not None:
            record["lesions"] = self.point.lesions(prediction)
        files = self._mask(subject), self._map(subject)
        write_prediction(
            prediction, *files, record, self._uncertainty(subject), steps=not self.masks_only
        )
        if not self._scored(subject):
            return None
        reading, options = gate_options(self.config["data"]["reading"]), score_options(self.config)
        score = score_prediction(prediction, subject, reading, options)
        _refuse_changed(subject, before)
        save_score(self._score_file(subject), score, made_from)
        return score

    def is_done(self, subject: LongitudinalSubject) -> bool:
        """Whether mask, side-car and score of this pair by this system exist."""
        return self._is_done(subject, self._made_from(subject))

    def refuse_foreign_files(self, subjects: Iterable[LongitudinalSubject]) -> None:
        """Refuse to overwrite files that this package did not write, and the scans themselves.

        Raises:
            MssegError: with every file that would be overwritten (exit 2).
        """
        pairs = list(subjects)
        inputs = [file for pair in pairs for file in pair.files().values()]
        refuse_foreign_files(
            [(self._mask(pair), self._map(pair), self._uncertainty(pair)) for pair in pairs], inputs
        )
        if not self.masks_only:
            scores = [(self._score_file(pair), is_saved_score) for pair in pairs]
            tables = [
                (self.folder / "scores.json", is_json_with("protocol", "cases")),
                (self.folder / "scores.csv", is_text_with("case,")),
            ]
            refuse_overwrites([*scores, *tables], inputs, "--folder")

    def _is_done(self, subject: LongitudinalSubject, made_from: str) -> bool:
        mask, map_file = self._mask(subject), self._map(subject)
        record = read_side_car(mask)
        if record.get("made_from") != made_from:
            return False
        maps = [map_file if record.get(MAP_KEY) else None, self._uncertainty(subject)]
        steps = [] if self.masks_only else [file for file, _ in step_files(mask).values()]
        files = [mask, *(file for file in maps if file is not None), *steps]
        complete = all(
            file.is_file() and record[FILES_KEY].get(file.name) == sha256_file(file)
            for file in files
        )
        scored = not self._scored(subject) or self._saved_score(subject, made_from) is not None
        return complete and scored

    def _map(self, subject: LongitudinalSubject) -> Path | None:
        default = None if self.masks_only else self.folder / f"{subject.id}_probability.nii.gz"
        return self.maps.get(subject.id, default)

    def _uncertainty(self, subject: LongitudinalSubject) -> Path | None:
        if isinstance(self.uncertainty, Mapping):
            return self.uncertainty.get(subject.id)
        return uncertainty_file(self._mask(subject)) if self.uncertainty else None

    def _mask(self, subject: LongitudinalSubject) -> Path:
        return self.outputs.get(subject.id, self.folder / f"{subject.id}.nii.gz")

    def _scored(self, subject: LongitudinalSubject) -> bool:
        return subject.labelled and not self.masks_only

    def _saved_score(self, subject: LongitudinalSubject, made_from: str) -> CaseScore | None:
        if not self._scored(subject):
            return None
        return load_score(self._score_file(subject), made_from)

    def _score_file(self, subject: LongitudinalSubject) -> Path:
        return self.folder / "scores" / f"{subject.id}.json"

    def _made_from(self, subject: LongitudinalSubject) -> str:
        return digest(self.made_from, data_hash([subject]))


def _states(subject: LongitudinalSubject) -> dict[str, FileState]:
    return {name: FileState.of(path) for name, path in subject.files().items()}


def _refuse_changed(subject: LongitudinalSubject, before: Mapping[str, FileState]) -> None:
    after, files = _states(subject), subject.files()
    changed = [name for name, state in before.items() if after[name] != state]
    if changed:
        raise MssegError([changed_input(subject.id, name, files[name]) for name in changed])
