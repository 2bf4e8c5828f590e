from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from msseg_lightning.core.problem import MssegError
from msseg_lightning.evaluate.calibration import Calibration
from msseg_lightning.evaluate.operating_point import OperatingPoint
from msseg_lightning.run.assemble.system import postprocess_rules
from msseg_lightning.run.config.allow_list import refuse_targets
from msseg_lightning.run.config.compose import compose_config
from msseg_lightning.run.predict.operating_point import (
    StoredPoint,
    operated,
    own_threshold,
    read_point,
    with_point,
    with_threshold,
    write_point,
)
from msseg_lightning.run.predict.trained import POINT_FILE, model_hash
from tests.postprocess.phantom import blocks, predicted

POINT = OperatingPoint(
    threshold=0.3,
    smallest_mm3=5.0,
    least_score=0.6,
    budget=0.1,
    confidence=0.9,
    population="without",
    certified=True,
    false_per_patient=0.02,
    upper_limit=0.08,
    sensitivity=0.7,
    patients=60,
    patients_needed=24,
)


def stored(model, **changes):
    calibration = Calibration.fit([0.2, 0.4, 0.6, 0.8] * 5, [0, 0, 1, 1] * 5)
    values = {
        "point": POINT,
        "measure": "mean",
        "calibration": calibration,
        "reliability": {"lesions": 20},
        "chosen_on": "the 60 validation pairs of this run",
        "scans": ("a" * 16,),
        "model_sha256": model_hash(model),
    }
    return StoredPoint(**{**values, **changes})


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.safetensors").write_bytes(b"weights")
    return folder


def config_of(experiment, *words):
    return compose_config(["read.root=.", *words], experiment)


def three_lesions():
    """4 voxels of 0.9, 8 of 0.4 and 8 of 0.8."""
    boxes = ((0, 1), (0, 2), (0, 2)), ((3, 5), (0, 2), (0, 2)), ((7, 9), (0, 2), (0, 2))
    probability = np.zeros((10, 4, 4), np.float32)
    for box, value in zip(boxes, (0.9, 0.4, 0.8), strict=True):
        probability[blocks(probability.shape, box) > 0] = value
    return predicted(np.zeros(probability.shape), probability=probability)


def test_a_point_is_read_as_it_was_written(model):
    before = model_hash(model)
    write_point(model, stored(model))
    assert read_point(model) == stored(model)
    assert model_hash(model) == before  # a point changes no model


def test_a_point_of_other_weights_or_a_changed_one_is_refused(model):
    assert read_point(model) is None
    write_point(model, stored(model))
    (model / "weights.safetensors").write_bytes(b"others")
    with pytest.raises(MssegError, match="chosen for another model"):
        read_point(model)
    write_point(model, stored(model))
    file = model / POINT_FILE
    file.write_text(file.read_text().replace('"budget": 0.1', '"budget": 0.2'))
    with pytest.raises(MssegError, match="changed or damaged"):
        read_point(model)
    content = {**stored(model).as_dict(), "point": {"level": 1}}
    file.write_text(json.dumps(content))
    with pytest.raises(MssegError, match="another model or version"):
        read_point(model)


def test_the_point_keeps_its_lesions_only():
    config = with_point(config_of("pre_unet"), POINT, "mean")
    refuse_targets(config)
    prediction = three_lesions()
    for rule in postprocess_rules(config):
        prediction = rule(prediction)
    # 4 mm3 are too small, a mean of 0.4 is too low
    assert prediction.mask.sum() == 8 and prediction.mask[7, 0, 0] == 1
    lower = dataclasses.replace(POINT, least_score=0.35, smallest_mm3=0.0)
    prediction = three_lesions()
    for rule in postprocess_rules(with_point(config_of("pre_unet"), lower, "mean")):
        prediction = rule(prediction)
    assert prediction.mask.sum() == 20


@pytest.mark.parametrize(
    ("experiment", "threshold"),
    [
        ("pre_unet", 0.5),
        ("nnunet_standardised_pair", 0.2),
        ("ncr_net", None),  # a rule on the region that was searched
        ("bsi_subtraction", None),
        ("nnunet_lesion_subtraction", 0.5),
    ],
)
def test_systems_whose_threshold_may_change(experiment, threshold):
    config = config_of(experiment)
    assert own_threshold(config) == threshold
    if threshold is not None:
        changed = with_threshold(config, 0.3)
        assert own_threshold(changed) == 0.3 and own_threshold(config) == threshold
    added = with_point(config, dataclasses.replace(POINT, threshold=None), "max")
    own = (config.get("postprocess") or {}).get("rules") or {}
    assert list(added["postprocess"]["rules"]) == [
        *own,
        "operating_point_size",
        "operating_point_score",
    ]


def test_settings_of_the_command_win_and_are_recorded(model):
    config = config_of("pre_unet")
    assert operated(model, config, [], "auto") == (config, None, {})
    write_point(model, stored(model))
    changed, used, told = operated(model, config, ["infer.overlap=0.5"], "auto")
    assert used == stored(model) and changed == with_point(config, POINT, "mean")
    assert told["used"] and told["least_score"] == 0.6 and "60 validation pairs" in told["is"]
    given = ["postprocess.rules.threshold.value=0.4"]
    assert operated(model, config, given, "auto")[:2] == (config, None)
    assert operated(model, config, given, "auto")[2] == {
        "used": False,
        "why": f"settings were given: {given[0]}",
    }
    assert operated(model, config, [], "off")[2] == {"used": False, "why": "--operating-point off"}


def test_lesions_are_listed_with_their_probabilities(model):
    prediction = three_lesions()
    prediction = dataclasses.replace(
        prediction, mask=(prediction.probability > 0.3).astype(np.uint8)
    )
    one = stored(model)
    listed = one.lesions(prediction)
    assert [lesion["score"] for lesion in listed] == [0.9, 0.8, 0.4]
    assert [lesion["volume_mm3"] for lesion in listed] == [4.0, 8.0, 8.0]
    assert listed[1]["centre_voxel"] == [7.5, 0.5, 0.5]
    expected = one.calibration([0.9])[0]
    assert listed[0]["probability"] == pytest.approx(expected, abs=1e-4)
    assert dataclasses.replace(one, calibration=None).lesions(prediction)[0]["probability"] is None
    assert one.lesions(dataclasses.replace(prediction, mask=prediction.mask * 0)) == []
    assert one.lesions(dataclasses.replace(prediction, probability=None)) == []
