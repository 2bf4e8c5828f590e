"""The operating point of a trained system: stored with its model, used when it predicts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from msseg_lightning.core.files import require_record, write_record
from msseg_lightning.core.input_hash import input_hash
from msseg_lightning.core.lesion import label_lesions
from msseg_lightning.core.prediction import Prediction
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject import FOLLOWUP, LongitudinalSubject
from msseg_lightning.evaluate.calibration import Calibration
from msseg_lightning.evaluate.operating_point import OperatingPoint
from msseg_lightning.postprocess.lesion_score import LeastLesionScore, Measure, lesion_scores
from msseg_lightning.postprocess.region import InsideMask, NotOnBoundary
from msseg_lightning.postprocess.size import MinSize
from msseg_lightning.postprocess.threshold import Threshold
from msseg_lightning.run.config.compose import Config
from msseg_lightning.run.predict.trained import POINT_FILE, model_hash

Use = Literal["auto", "off"]
"""Whether a stored operating point is used."""

POINT_FOLDER = "operating_point"
"""Folder of a run with the scores at its operating point."""

FIELDS: dict[str, Any] = {
    "point": dict,
    "measure": str,
    "calibration": (dict, type(None)),
    "reliability": dict,
    "chosen_on": str,
    "scans": list,
    "model_sha256": str,
}
"""Fields of ``operating_point.json``."""


@dataclasses.dataclass(frozen=True)
class StoredPoint:
    """An operating point with the calibration of its lesions and what both were chosen on.

    Args:
        point: which lesions are kept.
        measure: score of a lesion.
        calibration: of its lesions; None where none was predicted.
        reliability: Brier scores and bins of a reliability diagram.
        chosen_on: the patients, in words.
        scans: SHA-256 of their follow-up scans, 16 digits each.
        model_sha256: of the model.
    """

    point: OperatingPoint
    measure: Measure
    calibration: Calibration | None
    reliability: Mapping[str, Any]
    chosen_on: str
    scans: tuple[str, ...]
    model_sha256: str

    def as_dict(self) -> dict[str, Any]:
        """The content of ``operating_point.json``."""
        content = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        calibration = None if self.calibration is None else self.calibration.as_dict()
        return {**content, "point": self.point.as_dict(), "calibration": calibration}

    @property
    def words(self) -> str:
        """The point and what it was chosen on, in one line."""
        return f"{self.point}; chosen on {self.chosen_on}"

    def chosen_among(self, subjects: Iterable[LongitudinalSubject]) -> list[str]:
        """Ids of the pairs that the point was chosen on; scans are compared by their bytes."""
        known = set(self.scans)
        return sorted(one.id for one in subjects if scan_hash(one) in known)

    def lesions(self, prediction: Prediction) -> list[dict[str, Any]]:
        """Place, volume, score and calibrated probability of every predicted lesion."""
        if prediction.probability is None:
            return []
        labels, count = label_lesions(prediction.mask)
        scores = lesion_scores(labels, count, prediction.probability, self.measure)
        certain = np.full(count, np.nan) if self.calibration is None else self.calibration(scores)
        places = np.argwhere(labels)
        owner = labels[labels > 0].astype(np.int64) - 1
        voxels = np.bincount(owner, minlength=count)
        centres = np.stack(
            [np.bincount(owner, places[:, axis], count) / voxels for axis in range(3)], axis=1
        )
        voxel_mm3 = prediction.native.grid.voxel_volume_mm3
        found = [
            {
                "centre_voxel": [round(float(value), 1) for value in centres[index]],
                "volume_mm3": round(float(voxels[index]) * voxel_mm3, 3),
                "score": round(float(scores[index]), 4),
                "probability": None
                if self.calibration is None
                else round(float(certain[index]), 4),
            }
            for index in range(count)
        ]
        return sorted(found, key=lambda one: -float(one["score"]))


def scan_hash(subject: LongitudinalSubject) -> str:
    """Hash of a pair's follow-up scan; empty if there is no such file."""
    file = subject.images.get(FOLLOWUP)
    return input_hash(file)[:16] if file is not None and file.is_file() else ""


def write_point(model: Path, stored: StoredPoint) -> None:
    """Write the operating point of a model."""
    write_record(model / POINT_FILE, stored.as_dict())


def read_point(model: Path) -> StoredPoint | None:
    """The operating point of a model; None if none was chosen.

    Raises:
        MssegError: the file is damaged, or was chosen for other weights (exit 4).
    """
    file = model / POINT_FILE
    if not file.exists():
        return None
    remedy = f"delete {POINT_FILE} and choose the point again with `msseg tune`"
    content = require_record(file, remedy, FIELDS)
    try:
        calibration = content["calibration"]
        stored = StoredPoint(
            OperatingPoint(**content["point"]),
            content["measure"],
            None if calibration is None else Calibration.from_dict(calibration),
            content["reliability"],
            content["chosen_on"],
            tuple(content["scans"]),
            content["model_sha256"],
        )
    except (TypeError, KeyError) as error:
        raise _other(file, f"{type(error).__name__}: {error}"[:200], "this version's") from error
    if stored.model_sha256 != (found := model_hash(model)):
        raise _other(file, f"point of {stored.model_sha256[:12]}", f"the model's {found[:12]}")
    return stored


def _other(file: Path, found: str, expected: str) -> MssegError:
    return MssegError(
        Problem(
            "point.other_model",
            "the operating point beside this model was chosen for another model or version",
            file=file,
            found=found,
            expected=expected,
            remedy="choose it again with `msseg tune`, or predict with the system's own rules: "
            "--operating-point off",
            exit_code=ExitCode.MODEL,
        )
    )


def threshold_rule(config: Config) -> str | None:
    """Name of the rule whose threshold an operating point may change; None if there is none.

    Rules on the region that was searched need what only a prediction knows: their systems keep
    their own threshold.
    """
    rules = {name: rule for name, rule in _rules(config).items() if rule}
    classes = {name: _class(rule) for name, rule in rules.items()}
    if {_path(InsideMask), _path(NotOnBoundary)} & set(classes.values()):
        return None
    names = [name for name, one in classes.items() if one == _path(Threshold)]
    return names[0] if names and names[0] == next(iter(rules)) else None


def own_threshold(config: Config) -> float | None:
    """The threshold of a system's own rules, if an operating point may change it."""
    name = threshold_rule(config)
    return None if name is None else float(_rules(config)[name]["value"])


def with_threshold(config: Config, value: float | None) -> Config:
    """The configuration with another threshold of the probability; None leaves it."""
    if value is None:
        return config
    rules, name = _rules(config), threshold_rule(config)
    assert name is not None
    changed = {**rules, name: {**rules[name], "value": value}}
    return {**config, "postprocess": {**config["postprocess"], "rules": changed}}


def with_point(config: Config, point: OperatingPoint, measure: Measure) -> Config:
    """The configuration of a system that keeps the lesions of an operating point only."""
    config = with_threshold(config, point.threshold)
    rules = dict(_rules(config))
    if point.smallest_mm3 > 0:
        rules["operating_point_size"] = {
            "_target_": _path(MinSize),
            "mm3": point.smallest_mm3,
            "connectivity": 6,
        }
    rules["operating_point_score"] = {
        "_target_": _path(LeastLesionScore),
        "value": point.least_score,
        "measure": measure,
    }
    return {**config, "postprocess": {**(config.get("postprocess") or {}), "rules": rules}}


def operated(
    model: Path, config: Config, overrides: Sequence[str], use: Use
) -> tuple[Config, StoredPoint | None, dict[str, Any]]:
    """Apply the operating point of a model to its configuration.

    Args:
        model: model folder.
        config: from ``load_config``.
        overrides: settings of the command; ``postprocess`` and ``threshold=`` win over the point.
        use: ``off`` leaves the system's own rules.

    Returns:
        The configuration, the point if it is used, and what the side-car says of it: empty where
        no point was chosen.

    Raises:
        MssegError: the point is damaged or of another model (exit 4).
    """
    if not (model / POINT_FILE).exists():
        return config, None, {}
    given = [one for one in overrides if one.lstrip("+~").startswith(("postprocess", "threshold="))]
    if use == "off" or given:
        why = f"settings were given: {' '.join(given)}" if given else "--operating-point off"
        return config, None, {"used": False, "why": why}
    stored = read_point(model)
    assert stored is not None
    told = {"used": True, "is": stored.words, **stored.point.as_dict(), "measure": stored.measure}
    return with_point(config, stored.point, stored.measure), stored, told


def _rules(config: Config) -> Mapping[str, Any]:
    return (config.get("postprocess") or {}).get("rules") or {}


def _class(rule: Mapping[str, Any]) -> str:
    return str(rule.get("_target_"))


def _path(one: type) -> str:
    return f"{one.__module__}.{one.__qualname__}"
