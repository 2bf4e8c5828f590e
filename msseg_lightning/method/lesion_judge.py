"""A judge of candidates: boosters on a row of features each, calibrated out of fold."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from msseg_lightning.core.files import read_record, write_record
from msseg_lightning.evaluate.calibration import Calibration
from msseg_lightning.method.booster_files import load_texts, save_boosters
from msseg_lightning.method.boosting import Boosting, Table

log = logging.getLogger(__name__)

CALIBRATION = "calibration.json"
CUTS = np.arange(0.02, 0.981, 0.02)
"""Cuts on the score, of which the best one is chosen."""


class LabelledCandidates(NamedTuple):
    """The candidates of a training pair.

    Attributes:
        patient: whose they are.
        features: (n, columns).
        true: (n,) bool, which are new lesions.
        met: (m, 2) candidate and lesion that have a voxel in common, both from 0.
        lesions: number of new lesions of the pair.
    """

    patient: str
    features: NDArray[np.float32]
    true: NDArray[np.bool_]
    met: NDArray[np.int64]
    lesions: int


class LesionJudge:
    """Boosters that score candidates, a calibration of their mean, and a cut.

    Args:
        boosting: how trees grow.
    """

    def __init__(self, boosting: Boosting) -> None:
        self.boosting = boosting
        self.calibration, self.cut = Calibration("temperature"), 0.5
        self.texts: list[str] = []
        self._boosters: list[Any] = []

    def __call__(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n,) how likely each candidate (n, columns) is a new lesion."""
        return self.calibration(self._score(features, range(len(self._boosters)))).astype(
            np.float32
        )

    def fit(
        self,
        pairs: Sequence[LabelledCandidates],
        left_out: Sequence[frozenset[str]],
        names: Sequence[str],
        seed: int,
    ) -> list[NDArray[np.float32]]:
        """Fit a booster without each part of the patients, calibrate them, and choose a cut.

        Args:
            pairs: candidates of every training pair.
            left_out: disjoint sets of patients.
            names: of the columns.
            seed: of the boosters.

        Returns:
            The calibrated scores of the candidates of each pair, from the boosters without its
            patient.
        """
        texts = []
        for patients in left_out:
            rows = [pair for pair in pairs if pair.patient not in patients]
            true = np.concatenate([pair.true for pair in rows])
            table = Table(
                np.concatenate([pair.features for pair in rows]),
                true,
                np.ones(len(true), np.float32),
            )
            texts.append(self.boosting.fit(table, None, names, seed).text)
        self._take(texts)
        raw = [
            self._score(
                pair.features,
                [number for number, part in enumerate(left_out) if pair.patient in part]
                or range(len(texts)),
            )
            for pair in pairs
        ]
        true = np.concatenate([pair.true for pair in pairs])
        if len(true):
            self.calibration = Calibration.fit(np.concatenate(raw), true)
        scores = [self.calibration(score).astype(np.float32) for score in raw]
        worth = [value_of_cut(pairs, scores, cut) for cut in CUTS]
        best = np.flatnonzero(np.isclose(worth, max(worth)))
        self.cut = float(round(CUTS[best[len(best) // 2]], 2))
        log.info(
            "%d candidates, %d true: cut at %.2f (mean score of patients left out %.3f)",
            len(true),
            int(true.sum()),
            self.cut,
            max(worth),
        )
        return scores

    def save(self, folder: Path, system: str, names: Sequence[str]) -> None:
        """Write the boosters as text and the calibration."""
        save_boosters(self.texts, folder, system, names)
        write_record(folder / CALIBRATION, self.record())

    def load(self, folder: Path, names: Sequence[str]) -> None:
        """Load what ``save`` wrote and verify its checksums; nothing is executed."""
        self._take(load_texts(folder, names))
        record = read_record(folder / CALIBRATION, {"calibration": dict, "cut": float})
        self.calibration = Calibration.from_dict(record["calibration"])
        self.cut = record["cut"]

    def record(self) -> dict[str, Any]:
        """The calibration and the cut."""
        return {"calibration": self.calibration.as_dict(), "cut": self.cut}

    def _take(self, texts: list[str]) -> None:
        import lightgbm

        self.texts = texts
        self._boosters = [lightgbm.Booster(model_str=text) for text in texts]

    def _score(self, features: NDArray[np.float32], boosters: Sequence[int]) -> NDArray[np.float64]:
        """(n,) mean of the log odds of some boosters, as a probability."""
        if not len(features):
            return np.zeros(0)
        each = [self._boosters[number].predict(features, raw_score=True) for number in boosters]
        return np.asarray(special.expit(np.mean(each, axis=0)))


def value_of_cut(
    pairs: Sequence[LabelledCandidates], scores: Sequence[NDArray[np.float32]], cut: float
) -> float:
    """Mean over pairs of the lesion F1 of the candidates above a cut.

    A pair without new lesions counts 1 if nothing is marked in it and 0 otherwise.
    """
    total = 0.0
    for pair, score in zip(pairs, scores, strict=True):
        kept = score > cut
        if not pair.lesions:
            total += float(not kept.any())
            continue
        right = kept & pair.true
        found = len(np.unique(pair.met[right[pair.met[:, 0]], 1])) if len(pair.met) else 0
        precision = int(right.sum()) / max(int(kept.sum()), 1)
        recall = found / pair.lesions
        total += 2 * precision * recall / (precision + recall) if found else 0.0
    return total / len(pairs)
