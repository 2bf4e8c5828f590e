"""Configurations are composed, checked and explained before anything is built."""

from __future__ import annotations

import pytest

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.run.config.compose import compose_config, experiment_names

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


def test_an_interpolation_loop_is_a_configuration_error():
    assert refused("name=${paths.runs}", "paths.runs=${name}").exit_code == ExitCode.CONFIG


def test_a_missing_value_names_the_key_to_give():
    with pytest.raises(MssegError) as caught:
        compose_config([], "pre_unet")
    assert caught.value.exit_code == ExitCode.CONFIG
    assert "read.root" in str(caught.value)
