"""Nothing is built or looked up that a configuration may not name."""

from __future__ import annotations

import pytest

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.run.compose import compose_config
from msseg_lightning.run.fence import (
    refuse_interpolations,
    refuse_resolvers,
    refuse_targets,
    yaml_texts,
)

ROOT = "read.root=data"


def refused(*overrides, experiment="pre_unet"):
    with pytest.raises(MssegError) as caught:
        compose_config([ROOT, *overrides], experiment)
    return caught.value


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


def test_a_refused_class_says_where_it_may_be_allowed():
    with pytest.raises(MssegError, match=r"leave this setting out"):
        refuse_targets({"_target_": "os.system"})


@pytest.mark.parametrize(
    "target",
    [
        "msseg_lightning.cli.main.Main",  # not a step
        "msseg_lightning.loss.overlap.dice",  # a function
        "msseg_lightning.loss.DiceFocal",  # no module
        ["torch.optim.Adam"],
    ],
)
def test_of_our_own_only_classes_of_steps_may_be_built(target):
    with pytest.raises(MssegError):
        refuse_targets({"_target_": target})


def test_a_stored_configuration_with_an_interpolation_is_refused_at_any_depth():
    with pytest.raises(MssegError) as caught:
        refuse_interpolations({"a": [("b", "x${c}")], "d": "$HOME {e}"})
    assert caught.value.exit_code == ExitCode.SECURITY
    assert [problem.field for problem in caught.value.problems] == ["a[0][1]"]


def test_resolvers_of_preset_files_are_found_in_subfolders(tmp_path):
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss" / "mine.yaml").write_text("a: ${train.steps}\nb: ${oc.env:HOME}\n")
    (tmp_path / "good.yaml").write_text("a: ${train.${which}}\n")
    with pytest.raises(MssegError) as caught:
        refuse_resolvers(yaml_texts(tmp_path))
    assert [problem.field for problem in caught.value.problems] == ["mine.yaml"]
