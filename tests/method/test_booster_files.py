"""Boosters are saved and loaded exactly, and other files are refused."""

from __future__ import annotations

import json
import re

import lightgbm
import numpy as np
import pytest

from msseg_lightning.core.files import write_record
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.method.booster_files import check_text, load_texts, plain_text, save_boosters

NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def booster():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(600, 3))
    rows = lightgbm.Dataset(features, features[:, 0] > 0.5, feature_name=list(NAMES))
    settings = {"objective": "binary", "num_leaves": 5, "verbosity": -1}
    return lightgbm.train(settings, rows, num_boost_round=3)


@pytest.fixture
def text(booster):
    return plain_text(booster.model_to_string())


@pytest.fixture
def folder(text, tmp_path):
    save_boosters([text, text], tmp_path, "bsi_lightgbm", NAMES)
    return tmp_path


def refused(folder):
    with pytest.raises(MssegError) as caught:
        load_texts(folder, NAMES)
    return caught.value


def test_the_text_is_trees_alone_and_predicts_the_same(booster, text):
    assert "parameters" not in text and "tree_sizes" not in text and "pandas" not in text
    features = np.random.default_rng(1).normal(size=(50, 3))
    again = lightgbm.Booster(model_str=text)
    np.testing.assert_array_equal(again.predict(features), booster.predict(features))
    assert plain_text(again.model_to_string()) == text


def test_saved_boosters_come_back(folder, text):
    assert load_texts(folder, NAMES) == [text, text]
    card = json.loads((folder / "card.json").read_text())
    assert card["system"] == "bsi_lightgbm" and card["features"] == list(NAMES)
    assert sorted(path.name for path in folder.iterdir()) == [
        "booster0.txt",
        "booster1.txt",
        "card.json",
    ]


def test_an_exchanged_file_is_a_matter_of_security(folder):
    file = folder / "booster1.txt"
    file.write_text(file.read_text().replace("shrinkage=0.1", "shrinkage=0.2"))
    error = refused(folder)
    assert error.exit_code == ExitCode.SECURITY and "sha256" in str(error)


def test_a_missing_file_or_card(folder):
    (folder / "booster1.txt").unlink()
    assert refused(folder).exit_code == ExitCode.MODEL
    (folder / "card.json").unlink()
    assert refused(folder).exit_code == ExitCode.MODEL


@pytest.mark.parametrize("name", ["../secret.txt", "/etc/passwd", "booster0.pkl", None])
def test_a_card_names_files_of_its_own_folder_only(folder, name):
    card = json.loads((folder / "card.json").read_text())
    card["boosters"][0]["file"] = name
    write_record(folder / "card.json", card)
    assert "does not describe boosters" in str(refused(folder))


@pytest.mark.parametrize("change", ["none", "one dropped"])
def test_a_card_lists_what_it_was_signed_for(folder, change):
    card = json.loads((folder / "card.json").read_text())
    card["boosters"] = [] if change == "none" else card["boosters"][:1]
    write_record(folder / "card.json", card)
    assert "does not describe boosters" in str(refused(folder))


def first(pattern, into):
    return lambda text: re.sub(pattern, into, text, count=1, flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (first(r"^left_child=\S+", "left_child=99"), "a child that is none"),
        (first(r"^right_child=\S+", "right_child=-99"), "a child that is none"),
        (first(r"^left_child=\S+", "left_child=0"), "a child that is none"),  # a circle
        (first(r"^split_feature=\S+", "split_feature=3"), "feature that does not exist"),
        (first(r"^split_feature=\S+", "split_feature=-1"), "feature that does not exist"),
        (first(r"^decision_type=\S+", "decision_type=1"), "categories"),
        (first(r"^leaf_value=\S+", "leaf_value=nan"), "finite"),
        (first(r"^threshold=\S+ ", "threshold="), "threshold"),
        (first(r"^num_leaves=5", "num_leaves=500000000"), "leaf_value"),
        (first(r"^num_cat=0", "num_cat=1"), "plain tree"),
        (first(r"^is_linear=0", "is_linear=1"), "plain tree"),
        (first(r"^leaf_value=.*\n", ""), "leaf_value"),
        (first(r"^objective=.*", "objective=regression"), "objective"),
        (first(r"^feature_names=a b c", "feature_names=a c b"), "feature_names"),
        (first(r"^max_feature_idx=2", "max_feature_idx=20"), "max_feature_idx"),
        (first(r"^num_class=1", "num_class=9"), "num_class"),
        (first(r"^label_index=0", "tree_sizes=1 2 3"), "list of trees"),
        (lambda text: text[: len(text) // 2], "cut off|finite|leaf"),
        (lambda text: "", "num_class"),
        (lambda text: text.split("Tree=0")[0] + "\nend of trees\n", "list of trees"),
    ],
)
def test_a_text_that_leads_out_of_bounds_is_refused(text, damage, says):
    check_text(text, NAMES)
    assert damage(text) != text
    with pytest.raises(ValueError, match=says):
        check_text(damage(text), NAMES)


def test_a_malformed_text_is_refused_even_if_its_card_vouches_for_it(text, tmp_path):
    save_boosters([first("left_child=", "left_child=7 ")(text)], tmp_path, "s", NAMES)
    error = refused(tmp_path)
    assert error.exit_code == ExitCode.MODEL and "tree 0: left_child" in str(error)


def test_a_booster_of_one_leaf_is_fine():
    rows = lightgbm.Dataset(np.zeros((50, 3)), np.arange(50) < 5, feature_name=list(NAMES))
    booster = lightgbm.train({"objective": "binary", "verbosity": -1}, rows, num_boost_round=2)
    text = plain_text(booster.model_to_string())
    check_text(text, NAMES)
    again = lightgbm.Booster(model_str=text)
    np.testing.assert_allclose(again.predict(np.zeros((1, 3))), 0.1)
