"""Nothing is built or looked up that a configuration may not name."""

from __future__ import annotations

import os
import re

import pytest

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.run.config.allow_list import (
    SLOTS,
    read_stored_yaml,
    refuse_interpolations,
    refuse_links,
    refuse_paths,
    refuse_resolvers,
    refuse_targets,
    yaml_texts,
)
from msseg_lightning.run.config.compose import compose_config
from msseg_lightning.run.config.own_classes import PACKAGE, own_class

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
        "msseg_lightning.run.config.compose.root",
        "builtins.eval",
    ],
)
def test_targets_off_the_allow_list_are_a_security_refusal(target):
    assert refused(f"loss._target_={target}").exit_code == ExitCode.SECURITY


def test_a_hostile_target_is_found_at_any_depth():
    node = {"_target_": "torch.optim.Adam", "a": [{"b": {"_target_": "os.system"}}]}
    with pytest.raises(MssegError) as caught:
        refuse_targets(node, anywhere=True)
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


THRESHOLD = {"_target_": "msseg_lightning.postprocess.threshold.Threshold", "value": 0.5}
HANDLER = {
    "_target_": "msseg_lightning.read.load.logging.FileHandler",
    "filename": "VICTIM",
    "mode": "w",
}


@pytest.mark.parametrize(
    "config",
    [
        {"postprocess": {"rules": {"a": HANDLER}}},
        {"loss": {"_target_": "msseg_lightning.train.task.torch.cuda.memory.MemPool"}},
        {"read": {**HANDLER, "_partial_": True}},
        {"stages": {"a": {"network": [[{"b": HANDLER}]]}}},
        {"stages": [{"infer": HANDLER}]},
        {"ensemble": {"configs": {"a": {"stages": {"b": {"sample": HANDLER}}}}}},
        {"loss": {"_target_": "${card.idea}"}},
        {"train": {"optimizer": {"_target_": "lightning.pytorch.loggers.CSVLogger"}}},
        {"network": {"_target_": "torch.optim.Adam"}},  # at another place it may stand
        {"network": {"_target_": "msseg_lightning.read.msseg2.Msseg2", "root": "VICTIM"}},
        {"train": {"task": {"_target_": "msseg_lightning.train.curves.CurveFile"}}},
        {"method": {"_target_": "msseg_lightning.preprocess.cache.PreparedCache"}},
        {"preprocess": {"steps": {"a": {"_target_": "msseg_lightning.cli.main.Main"}}}},
        {"sample": {"_target_": "msseg_lightning.sample.loader.PatchMaker"}},  # a protocol
        {"somewhere": THRESHOLD},
        {"postprocess.rules": {"a": THRESHOLD}},  # a dot in a key makes no place
        {"postprocess": {"rules": {"a.b": THRESHOLD}}},
        {"postprocess": {"rules": {"a": {**THRESHOLD, "_target_": ["x"]}}}},
        {"postprocess": {"rules": {"a": {**THRESHOLD, "_target_": {"_target_": "x"}}}}},
        {"postprocess": {"rules": {"a": {**THRESHOLD, "_args_": [1]}}}},
        {"postprocess": {"rules": {"a": {**THRESHOLD, "_recursive_": False}}}},
        {"postprocess": {"rules": {"a": {**THRESHOLD, "_partial_": "true"}}}},
        {"postprocess": {"rules": {"a": {**THRESHOLD, "_convert_": "os.system"}}}},
    ],
    ids=lambda config: str(config)[:70],
)
def test_a_class_is_refused_where_it_may_not_stand(config):
    with pytest.raises(MssegError) as caught:
        refuse_targets(config)
    assert caught.value.exit_code == ExitCode.SECURITY


@pytest.mark.parametrize(
    "config",
    [
        {"postprocess": {"rules": {"a": THRESHOLD}}},
        {
            "ensemble": {
                "configs": {"a": {"stages": {"b": {"postprocess": {"rules": [THRESHOLD]}}}}}
            }
        },
        {"sizes": {"tiny": {"postprocess.rules.a": THRESHOLD}}},
    ],
)
def test_a_class_may_stand_at_its_place_in_stages_members_and_sizes(config):
    refuse_targets(config)


def test_no_class_that_takes_a_path_may_stand_where_nothing_is_read():
    classes = [
        f"msseg_lightning.{path.relative_to(PACKAGE).with_suffix('').as_posix()}".replace("/", ".")
        + f".{name}"
        for path in PACKAGE.rglob("*.py")
        for name in re.findall(r"^class ([A-Z]\w*)", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    writers = {"PreparedCache", "CurveFile", "KeepCheckpoints", "Journal", "Stage", "Pseudonyms"}
    assert writers <= {name.rpartition(".")[2] for name in classes}
    allowed = {name: [slot for slot in SLOTS if slot.accepts(name)] for name in classes}
    with_path = {
        name.rpartition(".")[2]: [slot.place for slot in slots]
        for name, slots in allowed.items()
        if slots and own_class(name).takes_path
    }
    assert with_path.keys() & writers == set()
    assert sum(map(bool, allowed.values())) > 80


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.system [touch VICTIM]",
        "a: !!python/name:os.system",
        "a: !mine 3",
        "a: &a {x: 1}\nb: {<<: *a}",
        "a: &a ["
        + "1, " * 99
        + "1]\n"
        + "b: &b ["
        + "*a, " * 99
        + "*a]\nc: ["
        + "*b, " * 99
        + "*b]",
        "a: &a [*a]",
        "[" * 3000,
        "a: " + "[" * 100 + "]" * 100,
    ],
    ids=lambda text: text[:30],
)
def test_a_stored_text_is_plain_and_of_bounded_size(text):
    with pytest.raises(MssegError) as caught:
        read_stored_yaml(text)
    assert caught.value.exit_code == ExitCode.SECURITY


@pytest.mark.parametrize(
    "config",
    [
        {"paths": {"cache": "/somewhere"}},
        {"sample": {"visits": {"folder": "../cache"}}},
        {"ensemble": {"configs": {"../../other": {}}}},
        {"stages": {"..": {}}},
        {"track": {"uri": "http://elsewhere"}},
        {"network": {"pretrained": "~/weights"}},
        {"a": ["C:weights"]},
    ],
    ids=str,
)
def test_a_model_names_no_place(config):
    with pytest.raises(MssegError) as caught:
        refuse_paths(config)
    assert caught.value.exit_code == ExitCode.SECURITY
    refuse_paths({"card": {"paper": "https://doi.org/1"}, "sizes": {"a": {"b": "c/d"}}})


def test_a_model_folder_holds_plain_files(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").write_text("")
    (folder / "same").symlink_to("weights")
    refuse_links(folder)
    (tmp_path / "outside").write_text("")
    (folder / "link").symlink_to("../outside")
    os.mkfifo(folder / "pipe")
    with pytest.raises(MssegError) as caught:
        refuse_links(folder)
    assert caught.value.exit_code == ExitCode.SECURITY
    assert [problem.file.name for problem in caught.value.problems] == ["link", "pipe"]


@pytest.mark.parametrize(
    "name",
    [
        "Lambda",  # calls a function
        "MonaiAdapter",
        "HistogramStandardization",  # reads files
        "Resample",
        "ToReferenceSpace",
        "LabelsToImage",
        "RandomLabelsToImage",
        "Crop",  # another size
        "RandomSwap",  # other places in either visit
    ],
)
def test_transforms_of_torchio_that_read_call_or_resize_are_refused(name):
    augment = {"transforms": {"one": {"_target_": f"torchio.transforms.{name}"}}}
    with pytest.raises(MssegError) as caught:
        refuse_targets({"augment": augment})
    assert caught.value.exit_code == ExitCode.SECURITY
    refuse_targets(
        {"augment": {"transforms": {"one": {"_target_": "torchio.transforms.RandomGamma"}}}}
    )
    with pytest.raises(MssegError):  # no transform anywhere else
        refuse_targets({"loss": {"_target_": "torchio.transforms.RandomGamma"}})


@pytest.mark.parametrize(
    ("place", "target", "accepted"),
    [
        ("loggers", "lightning.pytorch.loggers.TensorBoardLogger", True),
        ("loggers", "lightning.pytorch.loggers.MLFlowLogger", False),
        ("callbacks", "lightning.pytorch.callbacks.EarlyStopping", True),
        ("callbacks", "msseg_lightning.train.early_stop.StopWithoutProgress", False),
        ("callbacks", "lightning.pytorch.callbacks.ModelCheckpoint", False),  # writes anywhere
        ("callbacks", "lightning.pytorch.callbacks.LambdaCallback", False),  # calls functions
        ("callbacks", "lightning.pytorch.loggers.CSVLogger", False),
        ("callbacks", "msseg_lightning.train.task.Task", False),
    ],
)
def test_loggers_and_callbacks_are_lightning_s_own(place, target, accepted):
    config = {place: [{"_target_": target}]}
    if accepted:
        refuse_targets(config)
        return
    with pytest.raises(MssegError) as caught:
        refuse_targets(config)
    assert caught.value.exit_code == ExitCode.SECURITY
