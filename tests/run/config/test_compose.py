"""Configurations are composed, checked and explained before anything is built."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.run.config import compose
from msseg_lightning.run.config.compose import compose_config
from msseg_lightning.run.config.preset_files import conf_dir, experiment_names, root

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


@pytest.mark.parametrize(
    ("word", "code", "remedy"),
    [
        ("network=ohem", "config.preset", "network=ohem_unet"),
        ("read=mseg2", "config.preset", "read=msseg2"),
        ("+trian.steps=3", "config.root", "leave it out"),
        ("+foo=3", "config.root", "leave it out"),
        ("+data.foo=3", "config.key", "did you mean data.workers?"),
        ("+paths.run=x", "config.key", "did you mean paths.runs?"),
        ("hydra.run.dir=x", "config.key", "`msseg show"),
        ("~data.workers", "config.compose", "leave ~data.workers out"),
        ("~seed", "config.compose", "leave ~seed out"),
        ("~none", "config.compose", "leave ~none out"),
        ("network=null", "config.preset", "network="),
        ("~train.steps", "config.unresolved", "leave ~train.steps out"),
        ("read.root=a${b}", "config.word", "rename the folder"),
    ],
)
def test_a_word_that_cannot_be_meant_is_refused_with_what_to_do(word, code, remedy):
    problem = refused(word, "fold=1").problems[0]
    assert (problem.code, problem.exit_code) == (code, ExitCode.CONFIG)
    assert problem.remedy.startswith(remedy)
    assert word in problem.found or code == "config.root"


def test_a_size_gives_lists_with_null_in_them_and_texts_with_blanks(monkeypatch):
    sizes = {"some": {"sample.size": [8, None], "card.paper": "A b,  c", "train.steps": None}}

    class Composed:
        pass

    Composed.sizes = OmegaConf.create(sizes)
    monkeypatch.setattr(compose, "_compose", lambda overrides: Composed)
    assert compose._size(["size=some"], []) == [
        "sample.size=[8,null]",
        "card.paper='A b,  c'",
        "train.steps=null",
    ]


@pytest.mark.parametrize(
    "words",
    [
        ("train.steps=3", "train.steps=4", "data={workers:2}", "name='a,b'"),
        ("network=unet_2d", "network.features=[4,8]", "+train.task.other=1", "sample=null"),
        ("track=off", "~fold", "seed=${fold}", "card.departures=[]"),
        ("infer.overlap=null", "track=off", "sample={size:[8,8,8]}", "read=table"),
    ],
)
@pytest.mark.parametrize("name", ["pre_unet", "cascaded_probability_difference"])
def test_values_over_composed_presets_are_what_hydra_makes_of_all_words(name, words):
    size = compose._size(["size=tiny"], [f"experiments={name}"])
    words = (f"experiments={name}", *size, ROOT, *words)
    source = compose._Source(root(), conf_dir(), (), ())
    assert (found := outcome(compose._try, words)) == outcome(compose._composed, words, source)
    assert found == outcome(compose._try, words)  # nothing changed what is kept


def outcome(function, *arguments):
    """A composed configuration as text, or the words of its refusal."""
    try:
        return OmegaConf.to_yaml(function(*arguments))
    except compose._hydra_errors() as error:
        return f"{type(error).__name__}: {error}"


def test_presets_are_composed_once_for_all_values(monkeypatch):
    composed = []
    hydra = compose._composed

    def counted(words, source):
        composed.append(words)
        return hydra(words, source)

    monkeypatch.setattr(compose, "_composed", counted)
    for folder in ("one", "two"):
        assert compose_config([f"read.root={folder}", "seed=3"], "pre_unet")["seed"] == 3
    assert {word for words in composed for word in words} == {"experiments=pre_unet"}


@pytest.mark.parametrize(
    "word", ["infer=[]", "network=null", "loss=[a, b]", "augment=3", "read=null"]
)
def test_a_group_without_a_preset_is_named_and_not_its_neighbour(word):
    group = word.partition("=")[0]
    with pytest.raises(MssegError) as caught:
        compose_config(["read.root=x", "split=file", "split.path=y", word], "pre_unet")
    (problem,) = caught.value.problems
    assert (problem.code, problem.field) == ("config.preset", group)
    compose_config(["read.root=x", "split=file", "split.path=y", problem.remedy.partition(",")[0]])


def test_of_several_words_the_wrong_one_is_named():
    with pytest.raises(MssegError) as caught:
        compose_config(["read.root=x", "split=file", "split.path=y", "channels=[a]"], "pre_unet")
    assert caught.value.problems[0].found == "channels=[a]"
