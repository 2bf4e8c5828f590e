"""Classes of the user's own packages are built once the user has allowed the package."""

from __future__ import annotations

import json
import os
import sys

import pytest

from msseg_lightning.cli.main import main
from msseg_lightning.core.problem import MssegError
from msseg_lightning.run.assemble.code import code_hash, modules_of
from msseg_lightning.run.assemble.system import instantiate
from msseg_lightning.run.config.allow_list import refuse_targets
from msseg_lightning.run.config.own_classes import user_class
from msseg_lightning.run.config.user_packages import (
    VARIABLE,
    package_hashes,
    packages_of,
    source_files,
    user_packages,
)
from tests.conftest import tiny_words

NET = """\
import torch

from .blocks import last


class LabNet(torch.nn.Module):
    def __init__(self, widths):
        super().__init__()
        self.first = torch.nn.Conv3d(2, widths[0], 3, padding=1)
        self.last = last(widths[0])

    def forward(self, images):
        return self.last(self.first(images).relu())
"""
BLOCKS = "import torch\n\n\ndef last(width):\n    return torch.nn.Conv3d(width, 1, 1)\n"
MINE = """\
defaults:
  - pre_unet
  - override /network: lab
  - override /loss: dice
  - _self_
name: mine
"""


def write(folder, files):
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A working folder outside the checkout with an experiment, presets and a package."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv(VARIABLE, raising=False)
    write(
        tmp_path,
        {
            "lab_nets/__init__.py": "from lab_nets.net import LabNet\n",
            "lab_nets/net.py": NET,
            "lab_nets/blocks.py": BLOCKS,
            "experiments/mine.yaml": MINE,
            "conf/network/lab.yaml": "_target_: lab_nets.net.LabNet\nwidths: [4]\n",
            "conf/search/mine.yaml": "trials: 1\nfolds: [0]\nretrain: {best: 0, seeds: []}\n"
            "space: {train.optimizer.lr: {type: categorical, choices: [0.001]}}\n",
        },
    )
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    forget()


def forget():
    """As in a new process, which has not imported the package."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "lab_nets"]:
        del sys.modules[name]


def test_own_files_and_classes_train_search_and_predict(lab, coarse_cohort, capsys, monkeypatch):
    words = [*tiny_words(coarse_cohort), "track=off"]
    places = [f"paths.{name}={lab / name}" for name in ("runs", "cache", "sweeps")]
    assert main(["train", "mine", *words]) == 6  # nobody has allowed the package
    assert "packages=lab_nets" in capsys.readouterr().err
    allowed = "packages=lab_nets"
    assert main(["train", "mine", *words, allowed]) == 0
    (run,) = (lab / "runs" / "mine").iterdir()
    record = json.loads((run / "run.json").read_text())
    assert len(record["packages"]["lab_nets"]) == 64 and record["experiment"] == "mine"
    assert main(["sweep", "mine", "search=mine", *words, allowed]) == 0
    assert list((lab / "sweeps").glob("mine-*-mine/report.html"))

    elsewhere = lab / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    forget()
    sys.path.remove(str(lab))
    scans = min(coarse_cohort.rglob("flair_time01*")).parent
    names = ("flair_time01_on_middle_space.nii.gz", "flair_time02_on_middle_space.nii.gz")
    pair = ["--baseline", str(scans / names[0]), "--followup", str(scans / names[1])]
    predict = ["predict", str(run), *pair, "--output", "new.nii.gz"]
    capsys.readouterr()
    assert main(predict) == 6 and main([*predict, allowed]) == 2
    unallowed, missing = capsys.readouterr().err.strip().split("\n")
    assert "there is no package lab_nets here" in unallowed
    assert "PYTHONPATH=FOLDER" in missing and "cannot be imported" in missing
    sys.path.append(str(lab))  # what PYTHONPATH does
    assert main([*predict, allowed]) == 0 and (elsewhere / "new.nii.gz").is_file()
    again = ["train", str(lab / "experiments" / "mine.yaml"), *words, *places, allowed]
    assert main(again) == 0
    assert json.loads((run / "run.json").read_text())["fit_minutes"] >= record["fit_minutes"]
    assert list((lab / "runs" / "mine").iterdir()) == [run]
    assert main(["report", str(run), allowed]) == 0
    assert VARIABLE not in os.environ


def test_a_file_can_allow_no_package(lab, capsys):
    write(lab, {"experiments/mine.yaml": f"{MINE}packages: [lab_nets]\n"})
    assert main(["show", "mine"]) == 2  # there is no such setting
    write(lab, {"experiments/mine.yaml": MINE})
    assert main(["show", "mine"]) == 6
    with pytest.raises(MssegError) as caught:
        instantiate({"_target_": "lab_nets.net.LabNet", "widths": [4]})
    assert caught.value.problems[0].code == "config.package"
    assert "lab_nets.net" not in sys.modules  # nothing of it was run


def test_packages_are_allowed_during_a_command_only(lab, monkeypatch):
    monkeypatch.setenv(VARIABLE, "lab_nets.net")
    with packages_of(["a=1", "packages=[lab_nets]"]) as words:
        assert words == ["a=1"] and user_packages() == ("lab_nets.net", "lab_nets")
    assert user_packages() == ("lab_nets.net",)


@pytest.mark.parametrize("name", ["subprocess", "os.path", "msseg_lightning", "lab_nats"])
def test_what_is_no_package_of_the_user_is_refused(lab, name):
    with pytest.raises(MssegError) as caught, packages_of([f"packages={name}"]):
        pass
    assert caught.value.exit_code == 2 and caught.value.problems[0].found == name


def test_a_class_is_found_where_it_is_defined_or_imported_by_its_package(lab, monkeypatch):
    monkeypatch.setenv(VARIABLE, "lab_nets")
    own = user_class("lab_nets.LabNet")
    assert own.ancestors == ("lab_nets.net.LabNet", "torch.nn.Module") and not own.complete
    for name in ("lab_nets.last", "lab_nets.net.Missing", "lab_nets.none.A", "lab_nats.net.LabNet"):
        assert user_class(name) is None
    assert "lab_nets" not in sys.modules
    built = instantiate({"_target_": "lab_nets.LabNet", "widths": [4]})
    assert type(built).__module__ == "lab_nets.net"


@pytest.mark.parametrize(
    ("text", "place", "accepted"),
    [
        ("class A:\n    pass\n", "loss", True),
        ("class A:\n    pass\n", "postprocess.rules.a", False),  # it cannot be called
        ("class A:\n    def __call__(self, mask): ...\n", "postprocess.rules.a", True),
        ("class A:\n    def __call__(self, mask): ...\n", "train.task", False),  # no Task
        (
            "from msseg_lightning.train.task import Task\nclass A(Task):\n    pass\n",
            "train.task",
            True,
        ),
        ("class A:\n    pass\n", "card", False),  # nothing is built there
    ],
)
def test_a_class_has_what_its_place_needs(lab, monkeypatch, text, place, accepted):
    monkeypatch.setenv(VARIABLE, "lab_nets")
    write(lab, {"lab_nets/rules.py": text})
    node = {"_target_": "lab_nets.rules.A"}
    for key in reversed(place.split(".")):
        node = {key: node}
    if accepted:
        refuse_targets(node)
        return
    with pytest.raises(MssegError) as caught:
        refuse_targets(node)
    assert caught.value.problems[0].code == "config.target"


@pytest.mark.parametrize(
    ("text", "code"),
    [("class A(:\n", "config.package_source"), ("import none\n", "config.package_import")],
)
def test_a_module_that_cannot_be_used_is_named(lab, monkeypatch, text, code):
    monkeypatch.setenv(VARIABLE, "lab_nets")
    write(lab, {"lab_nets/broken.py": f"{text}\n\nclass A:\n    pass\n"})
    with pytest.raises(MssegError) as caught:
        instantiate({"_target_": "lab_nets.broken.A"})
    (problem,) = caught.value.problems
    assert problem.code == code and problem.file.name == "broken.py"


def test_a_stage_is_fitted_again_when_an_own_module_changes(lab, monkeypatch):
    monkeypatch.setenv(VARIABLE, "lab_nets")
    node = {"network": {"_target_": "lab_nets.net.LabNet"}}
    assert {"lab_nets.net", "lab_nets.blocks"} <= set(modules_of(node))
    hashes = [code_hash(node), package_hashes(modules_of(node))]
    (lab / "lab_nets" / "blocks.py").write_text(f"{BLOCKS}\n# changed\n")
    from msseg_lightning.run.assemble import code

    code._content.cache_clear()
    assert code_hash(node) != hashes[0] and package_hashes(modules_of(node)) != hashes[1]
    monkeypatch.delenv(VARIABLE)
    assert code_hash(node) == code_hash({})


def test_a_folder_without_init_and_a_single_file_are_packages_too(lab, monkeypatch):
    write(lab, {"lab_loose/net.py": NET.replace("from .blocks", "from lab_nets.blocks")})
    write(lab, {"lab_file.py": "class A:\n    pass\n"})
    assert [path.name for path in source_files("lab_loose")] == ["net.py"]
    monkeypatch.setenv(VARIABLE, "lab_loose,lab_file")
    assert user_class("lab_loose.net.LabNet") and user_class("lab_file.A")
