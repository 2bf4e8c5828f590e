"""Experiments and presets of the user: by name in the working folder, or as files."""

from __future__ import annotations

import pytest
import yaml

from msseg_lightning.cli.main import main
from msseg_lightning.core.problem import MssegError
from msseg_lightning.run.config.cards import read_cards
from msseg_lightning.run.config.compose import compose_config, experiment_of
from msseg_lightning.run.config.preset_files import known_experiment, preset_files, user_roots
from msseg_lightning.run.data.simulate import load_recipe
from msseg_lightning.run.sweep.space import read_search

ROOT = "read.root=data"
NETWORK = "_target_: monai.networks.nets.UNet\nspatial_dims: 3\nin_channels: 2\nout_channels: 1\n"
MINE = """\
defaults:
  - pre_unet
  - override /network: small
  - _self_
name: null
train: {steps: 5}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with presets and an experiment of its own."""
    for name, text in {
        "experiments/mine.yaml": MINE,
        "conf/network/small.yaml": f"{NETWORK}channels: [4, 8]\nstrides: [2]\n",
        "conf/search/mine.yaml": "trials: 3\n",
        "conf/simulate/mine.yaml": "name: mine\ntrain: 1\ntest: 1\n",
        "conf/config.yaml": "nothing: of ours\n",  # of another program
        "conf/hydra/job.yaml": "nothing: of ours\n",
        "other.yaml": f"{NETWORK}channels: [6, 12]\nstrides: [2]\n",
    }.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_experiment_is_found_by_name_and_as_a_file_from_anywhere(place, monkeypatch):
    by_name = compose_config([ROOT], "mine")
    assert by_name["network"]["channels"] == [4, 8] and by_name["train"]["steps"] == 5
    assert by_name["name"] == "mine" and experiment_of(by_name) == "mine"
    assert by_name["preprocess"] == compose_config([ROOT], "pre_unet")["preprocess"]
    assert compose_config([ROOT], "./experiments/mine.yaml") == by_name
    monkeypatch.chdir("/")  # presets beside the experiment are found too
    assert compose_config([ROOT], str(place / "experiments" / "mine.yaml")) == by_name


def test_files_of_the_working_folder_come_before_those_of_the_package(place):
    before = compose_config([ROOT], "pre_unet")["network"]
    (place / "conf" / "network" / "pre_unet.yaml").write_text(f"{NETWORK}channels: [2, 4]\n")
    assert compose_config([ROOT], "pre_unet")["network"] != before
    (place / "conf" / "network" / "pre_unet.yaml").write_text(f"{NETWORK}channels: [2, 8]\n")
    assert compose_config([ROOT], "pre_unet")["network"]["channels"] == [2, 8]  # read again


@pytest.mark.parametrize("name", ["other.yaml", "./other.yaml", "{place}/other.yaml"])
def test_a_preset_may_be_a_file(place, name):
    word = f"network={name.format(place=place)}"
    assert compose_config([ROOT, word], "mine")["network"]["channels"] == [6, 12]
    assert compose_config([ROOT, word], "pre_unet")["network"]["channels"] == [6, 12]


def test_searches_and_cohorts_may_be_files_and_say_only_what_differs(place):
    for name in ("mine", "conf/search/mine.yaml"):
        assert read_search(name) == read_search("default", {"trials": 3})
    assert read_search("mine", experiment=str(place / "experiments" / "mine.yaml")).trials == 3
    for name in ("mine", "./conf/simulate/mine.yaml"):
        assert load_recipe(name).name == "mine"


def test_own_experiments_are_listed_and_need_no_card(place):
    assert "mine" in preset_files("experiments")
    assert read_cards()[-1]["name"] == "mine"
    assert main(["list"]) == 0


def test_what_is_given_as_a_name_of_the_package_stays_one(place):
    assert known_experiment("pre_unet") == "pre_unet"
    assert user_roots("experiments/mine.yaml", "/a/b.yaml") == (place, place.__class__("/a"))


@pytest.mark.parametrize(
    ("text", "found"),
    [("a: [", "while parsing"), ("", "an empty file"), ("- a\n", "a list"), ("\xff", "decode")],
)
def test_a_damaged_file_is_refused_by_name(place, text, found):
    (place / "bad.yaml").write_bytes(text.encode("latin-1"))
    for experiment, words in (("./bad.yaml", []), ("mine", ["network=bad.yaml"])):
        with pytest.raises(MssegError, match=found) as caught:
            compose_config([ROOT, *words], experiment)
        assert caught.value.problems[0].file.name == "bad.yaml" and caught.value.exit_code == 2


def test_a_file_of_the_user_reads_no_environment_and_builds_no_other_class(place):
    (place / "env.yaml").write_text("name: ${oc.env:HOME}\n")
    (place / "class.yaml").write_text("loss: {_target_: subprocess.Popen}\n")
    for name in ("env.yaml", "class.yaml"):
        with pytest.raises(MssegError) as caught:
            compose_config([ROOT], name)
        assert caught.value.exit_code == 6
    assert compose_config([ROOT], "mine")  # another file of the folder is not looked at


def test_what_show_prints_of_an_own_experiment_is_what_it_is(place, capsys):
    assert main(["show", "./experiments/mine.yaml", ROOT]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == compose_config([ROOT], "mine")
