"""Paths and texts reach the configuration letter by letter, however they are spelt."""

import pytest

from msseg_lightning.run.compose import compose_config
from msseg_lightning.run.overrides import readable, word

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
    assert config["read"]["root"] == path and config["paths"]["cache"] == path
    assert compose_config([word("read.root", path)], "pre_unet")["read"]["root"] == path


def test_quotes_of_hydra_still_mean_what_they_did():
    config = compose_config(["read.root='../ms (copy)'", 'paths.runs="a b"'], "pre_unet")
    assert (config["read"]["root"], config["paths"]["runs"]) == ("../ms (copy)", "a b")


def test_what_hydra_reads_is_left_alone():
    words = ["fold=0", "train.optimizer.lr=1e-3", "a.b=[1,2]", "~x", "train=adam", "+c={d: 1}"]
    assert readable(words) == words
    assert readable(["read.root=null", "name=a (b)"]) == ["read.root=null", "name='a (b)'"]


@pytest.mark.parametrize(
    ("value", "expected"), [(None, "k=null"), (True, "k=True"), (2, "k=2"), ("b c", "k='b c'")]
)
def test_a_word_of_any_value(value, expected):
    assert word("k", value) == expected
