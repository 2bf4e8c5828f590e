"""The trained system in the package is whole, and is told from others."""

import json

import pytest

from msseg_lightning.method.find_then_judge import FindThenJudge
from msseg_lightning.run.predict import packaged
from msseg_lightning.run.predict.model_zip import opened_model
from msseg_lightning.run.predict.packaged import (
    MODELS,
    NAME,
    introduction,
    name_if_packaged,
    packaged_model,
    packaged_name,
    packaged_record,
)
from msseg_lightning.run.predict.trained import load_method, weights_hash


def test_the_file_holds_the_system_of_its_record():
    assert packaged_model().stat().st_size < 8e6
    with opened_model(str(packaged_model())) as model:
        method, config = load_method(model)
        weights = weights_hash(model)
    assert isinstance(method, FindThenJudge) and config["name"] == NAME
    assert name_if_packaged(weights) == packaged_name() == f"{NAME} {packaged_record()['version']}"
    assert len(method.texts) == len(method.judge.texts) == config["method"]["folds"]
    assert 0 < method.judge.cut < 1 and method.range.limits


def test_its_record_tells_figures_of_patients_it_was_not_trained_on():
    record = packaged_record()
    assert "simulated_unseen" in record["figures"]
    for figure in record["figures"].values():
        assert 0 <= figure["found"] <= figure["lesions"] and figure["pairs"] > 0
    assert record["training"]["commit"] and "CC-BY" in record["licence"]
    text = introduction()
    assert "\n" not in text and packaged_name() in text and record["held_out"] in text


def test_other_weights_are_not_taken_for_it(tmp_path, monkeypatch):
    assert name_if_packaged("0" * 64) is None and name_if_packaged(None) is None
    (tmp_path / f"{NAME}.json").write_text(json.dumps({"version": "9"}), encoding="utf-8")
    monkeypatch.setattr(packaged, "MODELS", tmp_path)
    packaged_record.cache_clear()
    with pytest.raises(Exception, match="weights_sha256"):
        packaged_record()
    packaged_record.cache_clear()
    assert MODELS.is_dir()
