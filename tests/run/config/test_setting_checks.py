"""Settings of another kind or out of range are refused by their key."""

from __future__ import annotations

import pytest

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.run.config.compose import compose_config
from msseg_lightning.run.config.setting_checks import leaves, refuse_types

ROOT = "read.root=data"


def refused(*overrides, experiment="pre_unet"):
    with pytest.raises(MssegError) as caught:
        compose_config([ROOT, *overrides], experiment)
    return caught.value


def test_words_where_a_number_belongs_are_refused_with_key_and_type():
    error = refused("train.steps=many")
    assert error.exit_code == ExitCode.CONFIG
    assert error.problems[0].field == "train.steps"
    assert "int" in error.problems[0].expected
    assert len(refused("size=tiny", "train.steps=many").problems) == 1


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("data.workers=[1]", "data.workers"),
        ("data.workers=null", "data.workers"),
        ("data.workers=-3", "data.workers"),
        ("data.workers=1.5", "data.workers"),
        ("sample.size=[0,16,16]", "sample.size"),
        ("infer.size=-16", "infer.size"),
        ("data.workers='${name}'", "data.workers"),
        ("data=null", "data"),
        ("postprocess.rules=3", "postprocess.rules"),
        ("preprocess.steps=3", "preprocess.steps"),
        ("channels.images=3", "channels.images"),
        ("uses=3", "uses"),
        ("stages=3", "stages"),
        ("trainer=3", "trainer"),
        ("ensemble=3", "ensemble"),
        ("+ensemble.folds=0", "ensemble"),
        ("ensemble={folds: 0, level: probability, rule: mean}", "ensemble.folds"),
        ("ensemble={folds: 1, level: probability, rule: mean, members: 3}", "ensemble"),
        ("ensemble={folds: 1, level: probability, rule: mean, share_stages: 3}", "ensemble"),
        ("ensemble={folds: 1, seeds: 0, level: probability, rule: mean}", "ensemble.seeds"),
    ],
)
def test_a_value_of_another_kind_is_refused_with_its_key(override, field):
    error = refused(override)
    assert error.exit_code == ExitCode.CONFIG
    assert [problem.field for problem in error.problems] == [field]
    assert error.problems[0].remedy


def test_a_class_may_take_a_number_for_a_list_and_be_left_out():
    words = [ROOT, "sample.size=16", "infer.size=[16,16,16]", "train.scheduler=null", "stages=null"]
    config = compose_config(words, "pre_unet")
    assert config["sample"]["size"] == 16 and config["train"]["scheduler"] is None


def test_a_word_that_the_class_takes_may_stand_for_a_number():
    config = compose_config([ROOT, "split.validation=next_fold"], "pre_unet")
    assert config["split"]["validation"] == "next_fold"
    words = [ROOT, "split=hold_out", "split.fraction=0.5"]
    assert compose_config(words, "pre_unet")["split"]["fraction"] == 0.5
    (problem,) = refused("split.validation=nextfold").problems
    assert problem.field == "split.validation" and problem.expected.endswith(", or next_fold")
    (problem,) = refused("split.folds=next_fold").problems
    assert problem.field == "split.folds" and "next_fold" not in problem.expected


@pytest.mark.parametrize("text", ["network.widths=[8,.inf]", "sample.size=[16,16,many]"])
def test_a_text_in_a_list_of_numbers_is_refused(text):
    (problem,) = refused(text).problems
    assert problem.code == "config.type" and problem.field == text.partition("=")[0]


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("train.optimizer.lr=.nan", "train.optimizer.lr"),
        ("train.optimizer.lr=.inf", "train.optimizer.lr"),
        ("preprocess.steps.resample.spacing_mm=.inf", "preprocess.steps.resample.spacing_mm"),
        ("seed=-1", "seed"),
        ("seed=4294967296", "seed"),
        ("fold=-1", "fold"),
        ("name=../../elsewhere", "name"),
    ],
)
def test_numbers_are_finite_and_a_name_is_no_path(override, field):
    error = refused(override)
    assert error.exit_code == ExitCode.CONFIG
    assert [problem.field for problem in error.problems] == [field]


def test_a_new_setting_and_one_without_a_default_may_be_of_any_kind():
    refuse_types({"a": None, "b": "text", "c": 1}, {"a": [1], "b": 2.5, "c": 1.5, "d": {}})
    with pytest.raises(MssegError):
        refuse_types({"c": 1}, {"c": True})


def test_leaves_are_values_by_their_dotted_key():
    assert leaves({"a": {"b": 1, "c": {}}, "d": [{"e": 2}]}) == {"a.b": 1, "d": [{"e": 2}]}
