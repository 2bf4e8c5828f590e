"""Voxels are classified, candidates cut from their map, and each is judged as a whole."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import expand_labels

from msseg_lightning.core.candidates import Candidates
from msseg_lightning.core.files import read_record, write_record
from msseg_lightning.core.method import NO_CONTEXT, FitContext
from msseg_lightning.core.prediction import Prediction
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject import TARGET, LongitudinalSubject
from msseg_lightning.core.volume import Kind
from msseg_lightning.method.booster_files import load_texts, save_boosters
from msseg_lightning.method.boosting import Boosting, Table, nested_folds
from msseg_lightning.method.derived_image import write_table
from msseg_lightning.method.lesion_judge import LabelledCandidates, LesionJudge
from msseg_lightning.method.pair_features import PairFeatures, VoxelTable
from msseg_lightning.method.training_range import TrainingRange
from msseg_lightning.preprocess.cache import PreparedCache
from msseg_lightning.preprocess.restore import restore
from msseg_lightning.preprocess.space import inverse, resample_array
from msseg_lightning.sample.voxel_table import VoxelRows

log = logging.getLogger(__name__)

CHUNK = 1 << 17
"""Voxels per prediction of LightGBM."""

AUDIT = "audit_training_table.csv"
"""Table in the folder of a fit: every candidate that the judges learned from."""

RANGE = "training_range.json"
"""What the training pairs were like."""

RISE_SD = 2.0
"""Voxels that rise by more than this many standard deviations of their pair are rows, beside those
of new lesions; of the others a share is drawn."""

MARGIN = 2
"""Voxels around a candidate that take its score on the way to the native grid."""


@dataclasses.dataclass(frozen=True)
class Peaks:
    """Cuts candidates from a map of probabilities, each at a share of its own peak.

    Args:
        low: what a voxel must exceed to belong to a candidate.
        share: of the highest probability of the region above ``low``; what lies below is cut away.
        most: the cut is not higher than this.
        connectivity: 6 as the official scores count lesions.
    """

    low: float = 0.1
    share: float = 0.5
    most: float = 0.5
    connectivity: Any = 6

    def __call__(
        self, probability: NDArray[np.float32], spacing_mm: tuple[float, float, float]
    ) -> Candidates:
        """The candidates of a map (X, Y, Z)."""
        regions = Candidates.of(probability > self.low, spacing_mm, self.connectivity)
        cut = np.zeros(len(regions), np.float32)
        for number, box in enumerate(regions.boxes):
            peak = probability[box][regions.within(number)].max()
            cut[number] = min(self.share * peak, self.most)
        kept = (probability > self.low) & (probability >= regions.paint(cut))
        return Candidates.of(kept, spacing_mm, self.connectivity)


class FindThenJudge:
    """Boosters find candidates voxel by voxel, and further ones judge each candidate as a whole.

    The training patients are divided into folds. For each fold a booster of voxels is fitted on the
    others; it makes the map of the fold's pairs, so that candidates to learn from are found as on
    new patients. The judges are fitted on these candidates in the same folds, and their scores of
    the patients left out give the calibration and the cut. A new pair gets the mean of all boosters
    and of all judges.

    The probability of a prediction is that of the whole candidate: how likely it is a new lesion.

    Args:
        cache: prepares pairs; its chain must leave ``brain``.
        features: of voxels and candidates.
        rows: which voxels the finding boosters are fitted on.
        find: how their trees grow.
        peaks: cuts candidates.
        judge: scores them.
        folds: parts of the training patients.
        true_share: share of a candidate that lies in the reference for it to be a true one.
        seed: of folds and draws.
        name: of the system; kept with the boosters.
        postprocess: rules applied in order to the prediction on the native grid.
    """

    def __init__(
        self,
        cache: PreparedCache,
        features: PairFeatures,
        rows: VoxelRows,
        find: Boosting,
        peaks: Peaks,
        judge: LesionJudge,
        folds: int = 5,
        true_share: float = 0.3,
        seed: int = 0,
        name: str = "",
        postprocess: Sequence[Callable[[Prediction], Prediction]] = (),
    ) -> None:
        self.cache, self.features, self.rows, self.find = cache, features, rows, find
        self.peaks, self.judge, self.folds, self.true_share = peaks, judge, folds, true_share
        self.seed, self.name = seed, name
        self.postprocess = tuple(postprocess)
        self.range = TrainingRange()
        self.texts: list[str] = []
        self._boosters: list[Any] = []

    def fit(
        self,
        train: Sequence[LongitudinalSubject],
        val: Sequence[LongitudinalSubject],
        folder: Path,
        context: FitContext = NO_CONTEXT,
    ) -> None:
        """Fit on the training and validation patients: each is left out of one booster.

        Raises:
            MssegError: a pair has no reference, or none has a single new lesion (exit 3).
        """
        prepared = self.cache.prepare([*train, *val])
        left_out = self._folds(prepared)
        self.range = TrainingRange.of(prepared)
        tables = {pair.id: self._rows(pair) for pair in prepared}
        texts = []
        for number, patients in enumerate(left_out):
            fit = [tables[pair.id] for pair in prepared if pair.patient not in patients]
            booster = self.find.fit(Table.joined(fit), None, self.features.voxel_names, self.seed)
            texts.append(booster.text)
            log.info(
                "booster %d of %d: %d voxels, %d of new lesions",
                number + 1,
                len(left_out),
                booster.rows,
                booster.lesion_rows,
            )
        self._take(texts)
        proposals = [
            self._proposal(
                pair,
                [number for number, patients in enumerate(left_out) if pair.patient in patients]
                or range(len(texts)),
            )
            for pair in prepared
        ]
        scores = self.judge.fit(proposals, left_out, self.features.candidate_names, self.seed)
        write_table(self._audit(proposals, scores, prepared, left_out), folder / AUDIT)

    def predict(self, subject: LongitudinalSubject) -> Prediction:
        """Predict one pair on its native grid.

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
        pair = self.cache.prepare([subject])[0]
        voxels = self.features.of_voxels(pair)
        found = self._map(voxels, range(len(self._boosters)))
        candidates = self.peaks(found, pair.grid.spacing_mm)
        scores = self.judge(self.features.of_candidates(voxels, found, candidates))

        def native(data: NDArray[Any], kind: Kind) -> NDArray[np.generic]:
            return restore(data, pair.grid, pair.native, pair.to_native, kind)

        outline = native(candidates.mask, "mask") != 0
        grown = expand_labels(candidates.labels.astype(np.int32), MARGIN)
        painted = resample_array(
            np.concatenate([[0], scores]).astype(np.float32)[grown],
            pair.grid.affine,
            pair.native.grid,
            "image",
            inverse(pair.to_native),
            image_rule="nearest",
        )
        probability = np.where(outline, painted, 0).astype(np.float32)
        steps: dict[str, NDArray[Any]] = {
            "found": found,
            "proposed": candidates.mask.astype(np.uint8),
        }
        prediction = Prediction(
            subject=subject.id,
            mask=(probability > self.judge.cut).astype(np.uint8),
            native=pair.native,
            probability=probability,
            inside=native(voxels.inside, "mask") != 0,
            warnings=(*pair.notes, *self.range.warnings(pair)),
            steps={
                name: native(data, "image" if data.dtype == np.float32 else "mask")
                for name, data in steps.items()
            },
        )
        for rule in self.postprocess:
            prediction = rule(prediction)
        return prediction

    def save(self, folder: Path) -> None:
        """Write boosters and judges as text with cards of checksums, calibration and range."""
        save_boosters(self.texts, folder / "find", self.name, self.features.voxel_names)
        self.judge.save(folder / "judge", self.name, self.features.candidate_names)
        write_record(folder / RANGE, {"limits": dict(self.range.limits)})

    def load(self, folder: Path) -> None:
        """Load boosters and judges and verify their checksums; nothing is executed."""
        self._take(load_texts(folder / "find", self.features.voxel_names))
        self.judge.load(folder / "judge", self.features.candidate_names)
        limits = read_record(folder / RANGE, {"limits": dict})["limits"]
        self.range = TrainingRange({name: (low, high) for name, (low, high) in limits.items()})

    def _take(self, texts: list[str]) -> None:
        import lightgbm

        self.texts = texts
        self._boosters = [lightgbm.Booster(model_str=text) for text in texts]

    def _folds(self, prepared: Sequence[PreparedSubject]) -> list[frozenset[str]]:
        """The patients left out of each booster."""
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
        return nested_folds(positive, self.folds, self.seed)

    def _rows(self, pair: PreparedSubject) -> Table:
        """The voxels of a pair that the finding boosters are fitted on."""
        voxels, target = self.features.of_voxels(pair), pair.mask(TARGET)
        rise = voxels.values[:, self.features.voxel_names.index("rise")]
        high = rise.mean() + RISE_SD * rise.std() if rise.size else np.inf
        risen = voxels.image(rise) > high
        asked = voxels.image(self._rises(voxels).astype(np.float32)) > 0
        rows = self.rows.fitting(asked, risen, target, self.seed, pair.id)
        place = np.zeros(voxels.inside.shape, np.int64)
        place[voxels.inside] = np.arange(len(voxels.values))
        where = tuple(rows.voxels.T)
        return Table(voxels.values[place[where]], target[where], rows.weight)

    def _map(self, voxels: VoxelTable, boosters: Sequence[int]) -> NDArray[np.float32]:
        """(X, Y, Z) mean probability of some boosters."""
        found = np.zeros(len(voxels.values), np.float32)
        asked = np.flatnonzero(self._rises(voxels))
        for start in range(0, len(asked), CHUNK):
            part = asked[start : start + CHUNK]
            each = [self._boosters[number].predict(voxels.values[part]) for number in boosters]
            found[part] = np.mean(each, axis=0)
        return voxels.image(found)

    def _rises(self, voxels: VoxelTable) -> NDArray[np.bool_]:
        """(n,) voxels that are brighter at the follow-up, smoothed; no other is looked at."""
        name = f"rise_{self.features.scales_mm[0]:g}mm"
        return np.asarray(voxels.values[:, self.features.voxel_names.index(name)] > 0)

    def _proposal(self, pair: PreparedSubject, boosters: Sequence[int]) -> LabelledCandidates:
        """What some boosters find in a training pair, with its labels."""
        voxels, target = self.features.of_voxels(pair), pair.mask(TARGET)
        found = self._map(voxels, boosters)
        candidates = self.peaks(found, pair.grid.spacing_mm)
        features = self.features.of_candidates(voxels, found, candidates)
        lesions = Candidates.of(target, pair.grid.spacing_mm, self.peaks.connectivity)
        pairs = np.stack([candidates.labels[target], lesions.labels[target]], axis=1)
        return LabelledCandidates(
            pair.patient,
            features,
            candidates.count_in(target) >= self.true_share * candidates.sizes,
            np.unique(pairs[pairs[:, 0] > 0], axis=0).astype(np.int64) - 1,
            len(lesions),
        )

    def _audit(
        self,
        proposals: Sequence[LabelledCandidates],
        scores: Sequence[NDArray[np.float32]],
        prepared: Sequence[PreparedSubject],
        left_out: Sequence[frozenset[str]],
    ) -> list[dict[str, object]]:
        """A row for every candidate of the training pairs."""
        patients = {pair.patient for pair in prepared}
        volume = self.features.candidate_names.index("volume_mm3")
        rows: list[dict[str, object]] = []
        for pair, proposal, found in zip(prepared, proposals, scores, strict=True):
            unseen = next((part for part in left_out if pair.patient in part), frozenset())
            rows += [
                {
                    "pair": pair.id,
                    "patient": pair.patient,
                    "number": number + 1,
                    "volume_mm3": round(float(features[volume]), 1),
                    "label": int(label),
                    "score": round(float(score), 4),
                    "trained_on": " ".join(sorted(patients - unseen)),
                    "saw_this_patient": pair.patient not in unseen,
                }
                for number, (features, label, score) in enumerate(
                    zip(proposal.features, proposal.true, found, strict=True)
                )
            ]
        return rows


def _no_lesions(code: str, message: str, remedy: str) -> MssegError:
    return MssegError(Problem(code, message, field=TARGET, remedy=remedy, exit_code=ExitCode.DATA))
