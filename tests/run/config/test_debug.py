"""Settings of short trainings."""

from __future__ import annotations

import pytest

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.run.config.compose import compose_config
from msseg_lightning.run.config.debug import pairs_needed, with_debug


def trainings(node, key=""):
    if isinstance(node, dict):
        found = [node] if key == "train" and "steps" in node else []
        return found + [one for name, value in node.items() for one in trainings(value, name)]
    return []


@pytest.mark.parametrize(
    "experiment", ["pre_unet", "metric_learning_unet", "segresnet_ensemble", "bsi_subtraction"]
)
def test_fast_is_two_steps_of_every_network_untracked_and_apart(experiment):
    config = with_debug(compose_config(["read.root=.", "debug=fast"], experiment))
    found = trainings({**config, "sizes": {}})
    assert bool(found) is (experiment != "bsi_subtraction")
    assert {(train["steps"], train["validate_every"]) for train in found} <= {(2, 2)}
    assert config["track"] == {} and config["overwrite"]
    assert config["paths"]["runs"] == "runs/debug"


def test_overfit_stops_when_the_pair_is_learned():
    config = with_debug(compose_config(["read.root=.", "debug=overfit"], "pre_unet"))
    assert config["train"]["steps"] == 2000 and config["train"]["validate_every"] == 50
    assert config["train"]["monitor"] == "dice"
    (stop,) = config["callbacks"]
    assert (stop["monitor"], stop["stopping_threshold"]) == ("val/dice", 0.9)
    short = with_debug(compose_config(["read.root=.", "debug=overfit", "size=tiny"], "pre_unet"))
    assert short["train"]["steps"] == 4 == short["train"]["validate_every"] * 2


def test_without_the_setting_nothing_changes():
    config = compose_config(["read.root=."], "pre_unet")
    assert with_debug(config) is config


@pytest.mark.parametrize(
    ("experiment", "mode"),
    [("pre_unet", "slow"), ("segresnet_ensemble", "overfit"), ("bsi_subtraction", "overfit")],
)
def test_what_does_not_exist_is_refused(experiment, mode):
    config = compose_config(["read.root=.", f"debug={mode}"], experiment)
    with pytest.raises(MssegError, match=r"config\.debug") as caught:
        with_debug(config)
    assert caught.value.exit_code == ExitCode.CONFIG


def test_folds_inside_a_system_have_pairs_enough():
    assert pairs_needed(compose_config(["read.root=."], "pre_unet")) == 2
    assert pairs_needed(compose_config(["read.root=."], "segresnet_ensemble")) == 10
