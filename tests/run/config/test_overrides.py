"""Paths and texts reach the configuration unchanged, whatever characters they hold."""

from pathlib import Path

import pytest

from msseg_lightning.core.problem import MssegError
from msseg_lightning.run.config.compose import compose_config
from msseg_lightning.run.config.overrides import override, refuse_invalid_overrides, to_hydra

NAMES = (
    "ms (copy)",
    "[x]",
    "{y}",
    "a, b",
    "a,b",
    "a=b",
    "~home",
    "it's",
    'say "hi"',
    "M\u00fcller \u65e5\u672c",
    "2021",
    "007",
    "true",
    "1e3",
    "end\\",
    "\\'",
    "a:b#c%d&e;f|g",
    " leading",
    "$HOME",
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("folder", ["/data/{}", "{}", "~/{}/scans"])
def test_a_path_is_taken_as_it_was_typed(name, folder):
    path = folder.format(name)
    config = compose_config([f"read.root={path}", f"paths.cache={path}"], "pre_unet")
    full = str(Path(path).expanduser()) if path.startswith("~/") else path  # as a shell does
    assert config["read"]["root"] == full and config["paths"]["cache"] == full
    assert compose_config([override("read.root", path)], "pre_unet")["read"]["root"] == path


def test_quotes_of_hydra_still_mean_what_they_did():
    config = compose_config(["read.root='../ms (copy)'", 'paths.runs="a b"'], "pre_unet")
    assert (config["read"]["root"], config["paths"]["runs"]) == ("../ms (copy)", "a b")


def test_what_hydra_reads_is_left_alone():
    words = ["fold=0", "train.optimizer.lr=1e-3", "a.b=[1,2]", "~x", "train=adam", "+c={d: 1}"]
    assert to_hydra(words) == words
    assert to_hydra(["read.root=null", "name=a (b)"]) == ["read.root=null", "name='a (b)'"]


@pytest.mark.parametrize(
    ("value", "expected"), [(None, "k=null"), (True, "k=True"), (2, "k=2"), ("b c", "k='b c'")]
)
def test_a_word_of_any_value(value, expected):
    assert override("k", value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([None, 1], "k=[null,1]"),
        (["a b", True], "k=['a b',True]"),
        ([[1, None], {"x": None}], "k=[[1,null],{x:null}]"),
        ({"a": ["it's"]}, r"k={a:['it\'s']}"),
    ],
)
def test_what_lies_inside_lists_and_mappings_is_the_same_after_hydra_read_it(value, expected):
    assert override("k", value) == expected
    assert (
        compose_config([f"+card.{override('k', value)}"], "pre_unet", False)["card"]["k"] == value
    )


@pytest.mark.parametrize(
    ("item", "found"),
    [
        ("foo", "this is not a setting"),
        ("=3", "this is not a setting"),
        ("@foo=3", "this is not a setting"),
        ("paths.runs=", "the path is missing"),
        ("paths.cache=null", "the path is missing"),
        ("read.root=''", "the path is missing"),
        (r"read.root=a\${b}", "a path may not hold ${"),
        ("data.reading.label_values={1: 0, 1: 1}", "a key is named twice"),
        ("data.reading.label_values={1:0,2:1,1:1}", "a key is named twice"),
        ("train.optimizer={lr: 1, lr: 2}", "a key is named twice"),
        ("+read.sources.a={_target_: x, root: {a: 1, b: {c: 1, c: 2}}}", "a key is named twice"),
        ("name=null", "a run has a name"),
    ],
)
def test_words_that_mean_nothing_or_two_things_are_refused(item, found):
    with pytest.raises(MssegError) as caught:
        refuse_invalid_overrides([item])
    (problem,) = caught.value.problems
    assert problem.message.startswith(found) and problem.found == item and problem.remedy


def test_words_that_mean_one_thing_pass():
    refuse_invalid_overrides(
        [
            "data.reading.label_values={1: 0, 2: 1}",
            "a=[{b: 1}, {b: 2}]",
            "+c={d: {x: 1}, e: {x: 2}}",
            "read.root={a: 1, a: 2",
            "~train.steps",
            "~x=1",
            "split.path=null",
            "name='{a: 1, a: 2'",
        ]
    )


def test_places_below_home_are_read_in_full(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for key in ("paths.cache", "paths.runs", "read.root", "split.path"):
        assert to_hydra([f"{key}=~/x y"]) == to_hydra([f"{key}={tmp_path}/x y"])
    (tmp_path / "~" / "x").mkdir(parents=True)
    assert to_hydra(["read.root=~/x"]) != to_hydra([f"read.root={tmp_path}/x"])
    assert to_hydra(["a.b=~/x"]) != to_hydra([f"a.b={tmp_path}/x"])
