"""References for folders of masks that another tool predicted."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject import LongitudinalSubject
from msseg_lightning.evaluate.case_score import CaseScore, ScoreOptions
from msseg_lightning.read.nifti import DEFAULT, GateOptions, gate_options
from msseg_lightning.read.reader import read_subjects
from msseg_lightning.read.reference import CONSENSUS
from msseg_lightning.run.assemble.system import instantiate
from msseg_lightning.run.config.compose import Config, compose_config
from msseg_lightning.run.data.evaluate_files import evaluate_files, evaluate_subjects, find_pairs
from msseg_lightning.run.predict.rater_scores import RaterScores, score_raters

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ForeignData:
    """Where the references are: in a folder, or in a data set.

    Args:
        folder: with masks named after the cases, as for ``msseg evaluate``; or
        subjects: pairs of a data set.
        reading: options for reading the references of the subjects.
        label_values: meaning of the values of references in the folder.
        prediction_label_values: meaning of the values of predictions.
    """

    folder: Path | None = None
    subjects: Sequence[LongitudinalSubject] = ()
    reading: GateOptions = DEFAULT
    label_values: Mapping[int, int] = dataclasses.field(default_factory=dict)
    prediction_label_values: Mapping[int, int] = dataclasses.field(default_factory=dict)

    @classmethod
    def of_data_set(
        cls, overrides: Sequence[str], prediction_label_values: Mapping[int, int]
    ) -> ForeignData:
        """The labelled pairs of ``read=PRESET read.root=...``."""
        return cls.of_config(compose_config(overrides), prediction_label_values)

    @classmethod
    def of_config(
        cls, config: Config, prediction_label_values: Mapping[int, int] | None = None
    ) -> ForeignData:
        """The labelled pairs of a configuration."""
        subjects = [one for one in read_subjects(instantiate(config["read"])) if one.labelled]
        return cls(
            subjects=subjects,
            reading=gate_options(config["data"]["reading"]),
            prediction_label_values=prediction_label_values or {},
        )

    def only(self, pairs: Collection[str]) -> ForeignData:
        """The same with these pairs only."""
        return dataclasses.replace(self, subjects=[one for one in self.subjects if one.id in pairs])

    def score(
        self, predictions: Path, options: ScoreOptions
    ) -> tuple[dict[str, CaseScore], dict[str, str]]:
        """Scores of the masks of a folder, and the patients of pairs of a data set.

        Raises:
            MssegError: no mask has a reference, or a file is refused (exit 3).
        """
        if self.folder is None:
            scores = evaluate_subjects(
                predictions, self.subjects, options, self.reading, self.prediction_label_values
            )
            return scores, {one.id: one.patient for one in self.subjects}
        if options.reference != CONSENSUS:
            raise MssegError(
                Problem(
                    "compare.reference_version",
                    "a folder of references has one version of each",
                    file=self.folder,
                    field="--reference",
                    found=options.reference,
                    expected="a data set, which tells the masks of raters from the consensus",
                    remedy="give the data set instead: read=msseg2 read.root=FOLDER",
                    exit_code=ExitCode.CONFIG,
                )
            )
        pairs, unmatched = find_pairs(predictions, self.folder)
        for problem in unmatched:
            log.warning("%s", problem)
        scores = evaluate_files(
            pairs,
            options,
            label_values=self.label_values,
            prediction_label_values=self.prediction_label_values,
        )
        return scores, {}

    def raters(self, pairs: Collection[str], options: ScoreOptions) -> RaterScores:
        """Scores of the raters of pairs of a data set; of a folder there are none."""
        own = [one for one in self.subjects if one.id in pairs]
        return score_raters(own, self.reading, options)
