"""Apply a trained system to every pair of a data set, and score it where references exist."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msseg_lightning.core.files import sha256_file
from msseg_lightning.core.method import Method
from msseg_lightning.core.outputs import is_json_with, is_text_with, refuse_overwrites
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject import LongitudinalSubject
from msseg_lightning.core.subject_map import SupportsSubmit, map_subjects
from msseg_lightning.evaluate.score import CaseScore
from msseg_lightning.read.nifti import changed_options
from msseg_lightning.read.reader import read_subjects
from msseg_lightning.run.assemble.code import ASSEMBLES, code_hash
from msseg_lightning.run.assemble.system import build_load, instantiate
from msseg_lightning.run.config.compose import Config
from msseg_lightning.run.config.keys import OF_THE_RUN, hardware
from msseg_lightning.run.folder import data_name
from msseg_lightning.run.predict.delivery import (
    WRITTEN,
    read_pairs,
    read_side_car,
    refuse_foreign_files,
    side_car,
    uncertainty_file,
    write_prediction,
)
from msseg_lightning.run.predict.scores import (
    digest,
    is_kept_score,
    keep_score,
    kept_score,
    score_options,
    score_prediction,
    write_scores,
)
from msseg_lightning.run.predict.trained import (
    build_stored,
    load_config,
    recorded_settings,
    run_of,
    weights_hash,
)
from msseg_lightning.run.predict.uncertainty import refuse_one_answer
from msseg_lightning.run.shard import Shard
from msseg_lightning.split.split import data_hash


@dataclasses.dataclass(frozen=True)
class Applied:
    """What became of a data set.

    Args:
        predicted: ids of the pairs with a mask, of this part of the data set.
        summary: the two-group summary of the pairs with a reference; empty without any, and as long
            as other parts are missing.
        refused: id -> why it has no mask, or no score.
        total: number of pairs in all parts.
    """

    predicted: tuple[str, ...]
    summary: dict[str, Any]
    refused: dict[str, MssegError]
    total: int


@dataclasses.dataclass(frozen=True)
class Application:
    """Predicts one pair, and scores it where it has a reference; what is there is left alone.

    Holds plain values only, so that it can travel to other processes; the system is built at the
    first pair that needs it.

    Args:
        model: model folder.
        config: of the system, with the data set's settings.
        folder: of masks, maps and side-cars; ``scores/<id>.json`` below it.
        made_from: digest of everything that decides the result, beside the pair itself.
        masks_only: neither maps nor scores.
        uncertainty: write ``<mask>_uncertainty.nii.gz`` beside every mask.
        outputs: id -> mask file, where it is not ``<folder>/<id>.nii.gz``.
        settings: what was changed of the system, for the record.
    """

    model: Path
    config: Config
    folder: Path
    made_from: str
    masks_only: bool = False
    outputs: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    settings: tuple[str, ...] = ()
    uncertainty: bool = False

    @classmethod
    def of(cls, model: Path, config: Config, folder: Path, **more: Any) -> Application:
        """With the digest of the weights, the settings and the program.

        Raises:
            MssegError: an uncertainty map is wanted of a system with one answer (exit 2).
        """
        if more.get("uncertainty"):
            refuse_one_answer(config)
        decisive = {key: value for key, value in config.items() if key not in OF_THE_RUN}
        scoring = dataclasses.asdict(score_options(config))
        where = changed_options(config["data"]["reading"]), hardware(config)
        code = code_hash(decisive, (ASSEMBLES, __name__))
        made_from = digest(weights_hash(model), decisive, where, scoring, code)
        return cls(model, config, folder, made_from, **more)

    @functools.cached_property
    def method(self) -> Method:
        """The system with its weights."""
        return build_stored(self.model, self.config)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, field.name) for field in dataclasses.fields(self))

    def __call__(self, subject: LongitudinalSubject) -> CaseScore | None:
        """The score; None of a pair without a reference.

        Raises:
            MssegError: the pair is refused.
        """
        load = build_load(self.config)
        if not all(file.is_file() for file in subject.files().values()):
            load(subject)  # says what is wrong; hashing a named pipe would wait for ever
        if self.is_done(subject):
            return self._kept(subject)
        made_from, mask = self._made_from(subject), self._mask(subject)
        prediction = self.method.predict(subject)
        probability = self._probability(subject)
        record = {**side_car(prediction, self.model, self.settings), "made_from": made_from}
        write_prediction(prediction, mask, probability, record, self._uncertainty(subject))
        if not self._scored(subject):
            return None
        score = score_prediction(prediction, subject, load, score_options(self.config))
        keep_score(self._score_file(subject), score, made_from)
        return score

    def is_done(self, subject: LongitudinalSubject) -> bool:
        """Whether mask, side-car and score of this pair, by this system, are there."""
        mask = self._mask(subject)
        record = read_side_car(mask)
        if not record or record.get("made_from") != self._made_from(subject):
            return False
        uncertainty = self._uncertainty(subject)
        if uncertainty is not None and uncertainty.name not in record[WRITTEN]:
            return False
        whole = all(
            (mask.parent / name).is_file() and sha256_file(mask.parent / name) == content
            for name, content in record[WRITTEN].items()
        )
        return whole and (not self._scored(subject) or self._kept(subject) is not None)

    def refuse_foreign_files(self, subjects: Iterable[LongitudinalSubject]) -> None:
        """No file of somebody else, and none of these pairs, may be overwritten.

        Raises:
            MssegError: with every file that would be (exit 2).
        """
        pairs = list(subjects)
        inputs = [file for pair in pairs for file in pair.files().values()]
        refuse_foreign_files(
            [
                (self._mask(pair), self._probability(pair), self._uncertainty(pair))
                for pair in pairs
            ],
            inputs,
        )
        if not self.masks_only:
            of_scores = [(self._score_file(pair), is_kept_score) for pair in pairs]
            tables = [
                (self.folder / "scores.json", is_json_with("protocol", "cases")),
                (self.folder / "scores.csv", is_text_with("case,")),
            ]
            refuse_overwrites([*of_scores, *tables], inputs, "--folder")

    def _probability(self, subject: LongitudinalSubject) -> Path | None:
        return None if self.masks_only else self.folder / f"{subject.id}_probability.nii.gz"

    def _uncertainty(self, subject: LongitudinalSubject) -> Path | None:
        return uncertainty_file(self._mask(subject)) if self.uncertainty else None

    def _mask(self, subject: LongitudinalSubject) -> Path:
        return self.outputs.get(subject.id, self.folder / f"{subject.id}.nii.gz")

    def _scored(self, subject: LongitudinalSubject) -> bool:
        return subject.labelled and not self.masks_only

    def _kept(self, subject: LongitudinalSubject) -> CaseScore | None:
        if not self._scored(subject):
            return None
        return kept_score(self._score_file(subject), self._made_from(subject))

    def _score_file(self, subject: LongitudinalSubject) -> Path:
        return self.folder / "scores" / f"{subject.id}.json"

    def _made_from(self, subject: LongitudinalSubject) -> str:
        return digest(self.made_from, data_hash([subject]))


def apply_to_data_set(
    model: Path,
    overrides: Sequence[str],
    folder: Path,
    include_training: bool = False,
    shard: Shard | None = None,
    executor: SupportsSubmit | int = 1,
    pieces: int | None = None,
    uncertainty: bool = False,
) -> Applied:
    """Write masks, maps and side-cars of all pairs into ``folder``; score those with a reference.

    A pair that is refused is left out and the others go on. A second call does only what is
    missing.

    Args:
        model: model folder, from ``find_model``.
        overrides: ``read=PRESET read.root=...`` and, if wanted, settings as ``load_config`` takes.
        folder: ``<id>.nii.gz``, ``<id>_probability.nii.gz``, ``<id>_msseg.json``; where there are
            references ``scores/<id>.json``, and ``scores.json`` and ``scores.csv`` of all.
        include_training: also take pairs the system was trained on.
        shard: only these pairs; the part that completes the data set writes the tables.
        executor: number of processes, or where else to work.
        pieces: see ``map_subjects``.
        uncertainty: also write ``<id>_uncertainty.nii.gz``.

    Raises:
        MssegError: a setting is unknown or would change what was trained (exit 2), or the system
            was trained on some of these pairs (exit 4).
    """
    config = load_config(model, overrides)
    subjects = read_subjects(instantiate(config["read"]))
    seen = trained_on(model, subjects)
    if seen and not include_training:
        raise MssegError(
            Problem(
                "predict.training_data",
                f"the system was trained on {len(seen)} of these {len(subjects)} pairs: "
                "their scores would be no test",
                file=config["read"].get("root"),
                field="read.root",
                found=", ".join(seen[:10]),
                expected="pairs the system has not seen",
                remedy="give other data, or --include-training to go on and have it recorded",
                exit_code=ExitCode.MODEL,
            )
        )
    settings = recorded_settings(overrides)
    apply = Application.of(model, config, folder, settings=settings, uncertainty=uncertainty)
    apply.refuse_foreign_files(subjects)
    mine = {subject.id: subject for subject in (shard.of(subjects) if shard else subjects)}
    mapped = map_subjects(apply, mine, executor, "predict", pieces)
    scores = mapped.done
    if shard is not None and all(apply.is_done(subject) for subject in subjects):
        scores = {subject.id: apply(subject) for subject in subjects}
    scored = {name: score for name, score in scores.items() if score is not None}
    summary: dict[str, Any] = {}
    if scored and (shard is None or len(scores) == len(subjects)):
        facts = {
            "data": {
                "name": data_name(config),
                "data_hash": data_hash(subjects),
                "left_out": sorted(mapped.failed),
                "trained_on": seen,
            },
            "model": {"system": config["name"], "weights_sha256": weights_hash(model)},
            "settings": list(apply.settings),
        }
        summary = write_scores(folder, scored, score_options(config), facts)
    return Applied(tuple(mapped.done), summary, mapped.failed, len(subjects))


def apply_to_table(
    model: Path,
    table: Path,
    folder: Path,
    overrides: Sequence[str] = (),
    shard: Shard | None = None,
    executor: SupportsSubmit | int = 1,
    pieces: int | None = None,
    uncertainty: bool = False,
) -> Applied:
    """Masks of all pairs of a CSV, see ``read_pairs``; otherwise as ``apply_to_data_set``."""
    pairs = read_pairs(table, folder)
    outputs = {subject.id: output for subject, output in pairs if output is not None}
    apply = Application.of(
        model,
        load_config(model, overrides),
        folder,
        masks_only=True,
        outputs=outputs,
        settings=recorded_settings(overrides),
        uncertainty=uncertainty,
    )
    subjects = [subject for subject, _ in pairs]
    apply.refuse_foreign_files(subjects)
    mine = {subject.id: subject for subject in (shard.of(subjects) if shard else subjects)}
    mapped = map_subjects(apply, mine, executor, "predict", pieces)
    return Applied(tuple(mapped.done), {}, mapped.failed, len(subjects))


def trained_on(model: Path, subjects: Sequence[LongitudinalSubject]) -> list[str]:
    """Ids of pairs that the run of this model trained or chose a checkpoint on.

    Known only for a model that lies in its run folder; data are recognised by their hash, so that
    equal ids in another data set do not matter.
    """
    run = run_of(model)
    if run is None or not run.split_file.exists():
        return []
    split = run.split()
    labelled = [subject for subject in subjects if subject.labelled]
    if split.get("data_hash") != data_hash(labelled):
        return []
    used = {*split["train"], *split["val"]}
    return sorted(subject.id for subject in labelled if subject.id in used)
