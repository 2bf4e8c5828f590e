"""Configurations are composed, checked and explained before anything is built."""

from __future__ import annotations

import pytest

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.run.compose import compose_config, experiment_names, refuse_targets

ROOT = "read.root=data"


def refused(*overrides, experiment="pre_unet"):
    with pytest.raises(MssegError) as caught:
        compose_config([ROOT, *overrides], experiment)
    return caught.value


@pytest.mark.parametrize("name", experiment_names())
def test_every_experiment_composes_under_its_own_name(name):
    config = compose_config([ROOT], name)
    assert config["name"] == name
    assert config["read"]["root"] == "data"


@pytest.mark.parametrize("name", experiment_names())
def test_every_size_of_every_experiment_composes(name):
    for size in compose_config([ROOT], name)["sizes"]:
        config = compose_config([ROOT, f"size={size}"], name)
        assert config["size"] == size


def test_a_value_of_the_command_line_wins_over_the_size():
    config = compose_config([ROOT, "size=tiny", "train.steps=7"], "pre_unet")
    assert config["train"]["steps"] == 7
    assert config["train"]["scheduler"]["T_max"] == 7


def test_an_unknown_key_names_the_nearest():
    error = refused("train.optimizer.learning_rat=1")
    assert error.exit_code == ExitCode.CONFIG
    error = refused("train.step=1")
    assert "train.steps" in str(error)
    assert refused("netwrok=unet_2d").problems[0].expected.startswith("network,")


def test_an_unknown_experiment_names_the_nearest():
    error = refused(experiment="pre_unt")
    assert error.exit_code == ExitCode.CONFIG
    assert "pre_unet" in str(error)


def test_an_unknown_preset_is_a_configuration_error():
    assert refused("loss=dise").exit_code == ExitCode.CONFIG


def test_an_unknown_size_lists_the_known():
    error = refused("size=huge")
    assert error.exit_code == ExitCode.CONFIG
    assert "cpu" in str(error)


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


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "torch.load",
        "shutil.copyfile",
        "msseg_lightning.run.compose.root",
        "builtins.eval",
    ],
)
def test_targets_off_the_allow_list_are_a_security_refusal(target):
    assert refused(f"loss._target_={target}").exit_code == ExitCode.SECURITY


def test_a_hostile_target_is_found_at_any_depth():
    node = {"_target_": "torch.optim.Adam", "a": [{"b": {"_target_": "os.system"}}]}
    with pytest.raises(MssegError) as caught:
        refuse_targets(node)
    assert caught.value.problems[0].field == "a[0].b._target_"


@pytest.mark.parametrize(
    "text",
    [
        "${oc.env:HOME}",
        "'${ oc.env:HOME}'",
        "${oc.env :HOME}",
        "'${ oc.create : {_target_: os.mkdir, path: /nowhere}}'",
        "'${oc.${evaluate.x}:HOME}'",
        "'x${paths.${oc.env:HOME}}'",
        r"$\{oc.env\:HOME\}",
    ],
)
def test_reading_the_environment_is_a_security_refusal(text):
    error = refused(f"card.idea={text}")
    assert error.exit_code == ExitCode.SECURITY
    assert {problem.code for problem in error.problems} == {"config.resolver"}


def test_a_setting_may_name_another():
    found = compose_config([ROOT, "card.idea='${paths.runs}: ${paths.${paths.cache}}'"], "pre_unet")
    assert found["card"]["idea"] == "runs: cache"


def test_an_interpolation_loop_is_a_configuration_error():
    assert refused("name=${paths.runs}", "paths.runs=${name}").exit_code == ExitCode.CONFIG


def test_a_missing_value_names_the_key_to_give():
    with pytest.raises(MssegError) as caught:
        compose_config([], "pre_unet")
    assert caught.value.exit_code == ExitCode.CONFIG
    assert "read.root" in str(caught.value)


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
