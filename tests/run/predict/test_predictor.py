"""Finished predictions are kept, changed ones are computed again."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

from msseg_lightning.core.prediction import Prediction
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.core.subject import TARGET
from msseg_lightning.read.load import load_subject
from msseg_lightning.read.msseg2 import Msseg2
from msseg_lightning.run.config.compose import compose_config
from msseg_lightning.run.folder import RunFolder
from msseg_lightning.run.predict import predictor as module
from msseg_lightning.run.predict.data_set import predict_pair
from msseg_lightning.run.predict.predictor import Predictor
from msseg_lightning.run.train.experiment import score_held_out
from tests.read import files


class Oracle:
    """Answers with the reference; notes whom it was asked for."""

    def __init__(self, with_map=True, meanwhile=lambda subject: None):
        self.asked, self.with_map, self.meanwhile = [], with_map, meanwhile

    def predict(self, subject):
        self.asked.append(subject.id)
        loaded = load_subject(subject)
        self.meanwhile(subject)
        mask = np.asarray(loaded.volumes[TARGET].data, np.uint8)
        probability = mask.astype(np.float32) if self.with_map else None
        return Prediction(subject.id, mask, loaded.native, probability)


@pytest.fixture(scope="module")
def config():
    return compose_config(["read.root=unknown", "data.workers=1"], "pre_unet")


@pytest.fixture
def subjects(tmp_path):
    for name in ("013", "014"):
        files.good_pair(tmp_path / "data", name)
    return Msseg2(tmp_path / "data").subjects()


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "run" / "model"
    folder.mkdir(parents=True)
    (folder / "booster0.txt").write_text("a tree")
    return folder


def test_an_interrupted_prediction_of_held_out_pairs_goes_on(config, subjects, model):
    folder = RunFolder(model.parent)

    def stop(subject):
        if subject.id == "014":
            raise KeyboardInterrupt

    stopped, rest, none = Oracle(meanwhile=stop), Oracle(), Oracle()
    with pytest.raises(KeyboardInterrupt):
        score_held_out(stopped, subjects, folder, config)
    scores = score_held_out(rest, subjects, folder, config)
    assert stopped.asked == ["013", "014"] and rest.asked == ["014"]
    assert [score.official["F1_score"] for score in scores.values()] == [1.0, 1.0]
    assert score_held_out(none, subjects, folder, config) == scores and not none.asked
    names = {path.name for path in folder.predictions.iterdir()}
    assert names == {"scores"} | {
        f"{name}{end}"
        for name in ("013", "014")
        for end in (".nii.gz", "_probability.nii.gz", "_msseg.json")
    }


def test_what_was_learned_anew_is_predicted_anew(config, subjects, model):
    folder, first, again = RunFolder(model.parent), Oracle(), Oracle()
    score_held_out(first, subjects, folder, config)
    (model / "booster0.txt").write_text("another tree")  # no weights of a network
    score_held_out(again, subjects, folder, config)
    assert again.asked == first.asked == ["013", "014"]


@pytest.mark.parametrize("lost", ["013.nii.gz", "013_probability.nii.gz", "scores/013.json"])
def test_what_is_lost_is_made_again(lost, config, subjects, model, tmp_path):
    oracle = Oracle()
    apply = Predictor.from_config(model, config, tmp_path / "out", loaded=oracle)
    score = apply(subjects[0])
    assert apply.is_done(subjects[0]) and apply(subjects[0]) == score
    (tmp_path / "out" / lost).unlink()
    assert not apply.is_done(subjects[0])
    assert apply(subjects[0]) == score and oracle.asked == ["013", "013"]
    assert apply.is_done(subjects[0])


def test_a_system_without_maps_is_done_without_them(config, subjects, model, tmp_path):
    oracle = Oracle(with_map=False)
    apply = Predictor.from_config(model, config, tmp_path / "out", loaded=oracle)
    assert apply(subjects[0]) == apply(subjects[0]) and oracle.asked == ["013"]
    assert not list((tmp_path / "out").glob("*probability*"))


@pytest.mark.parametrize("name", ["baseline_flair", TARGET])
def test_a_file_that_is_replaced_meanwhile_leaves_no_prediction(
    name, config, subjects, model, tmp_path
):
    def replace(subject):
        path = subject.files()[name]
        other = path.with_name("other.nii.gz")
        other.write_bytes(path.read_bytes())
        other.replace(path)

    apply = Predictor.from_config(model, config, tmp_path / "out", loaded=Oracle(meanwhile=replace))
    with pytest.raises(MssegError, match=r"data\.changed") as caught:
        apply(subjects[0])
    assert caught.value.exit_code == ExitCode.DATA and caught.value.problems[0].field == name
    assert not (tmp_path / "out").exists()
    again = Predictor.from_config(model, config, tmp_path / "out", loaded=Oracle())
    assert again(subjects[0]) is not None


def test_a_reference_that_is_replaced_after_the_prediction_is_not_scored(
    config, subjects, model, tmp_path, monkeypatch
):
    real = module.score_prediction

    def replace_first(prediction, subject, *given):
        files.save(subject.masks[TARGET], np.roll(files.scans()[2], 2, axis=0))
        return real(prediction, subject, *given)

    monkeypatch.setattr(module, "score_prediction", replace_first)
    apply = Predictor.from_config(model, config, tmp_path / "out", loaded=Oracle())
    with pytest.raises(MssegError, match=r"data\.changed"):
        apply(subjects[0])
    assert not (tmp_path / "out" / "scores").exists()


def test_one_pair_is_predicted_once_and_a_map_when_it_is_wanted(
    config, subjects, model, tmp_path, monkeypatch
):
    oracle = Oracle()
    monkeypatch.setattr(module, "build_trained", lambda *_: oracle)
    monkeypatch.setattr("msseg_lightning.run.predict.data_set.load_config", lambda *_: config)
    mask, probability = tmp_path / "a" / "new.nii.gz", tmp_path / "b" / "map.nii.gz"
    record = predict_pair(model, subjects[0], mask)
    assert record == predict_pair(model, subjects[0], mask) and oracle.asked == ["013"]
    assert record["new_lesion_voxels"] == np.count_nonzero(files.scans()[2])
    assert [path.name for path in sorted(mask.parent.iterdir())] == [
        "new.nii.gz",
        "new_msseg.json",
    ]
    for _ in range(2):
        predict_pair(model, subjects[0], mask, probability)
    assert oracle.asked == ["013", "013"] and probability.exists()
    assert json.loads((mask.parent / "new_msseg.json").read_text())["files"].keys() == {
        "new.nii.gz",
        "map.nii.gz",
    }


def test_a_loaded_system_stays_in_its_process(config, model, tmp_path):
    apply = Predictor.from_config(
        model, config, tmp_path, loaded=Oracle(), maps={"a": tmp_path / "b"}
    )
    assert apply.loaded is not None
    there = pickle.loads(pickle.dumps(apply))
    assert there.loaded is None and there.maps == apply.maps
    assert there.made_from == apply.made_from
