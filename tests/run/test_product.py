"""All folds by one command: every pair scored once, finished runs kept, one model of all."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from msseg_lightning.cli.main import main
from msseg_lightning.core.problem import ExitCode
from msseg_lightning.run.product import is_product


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("product")


@pytest.fixture
def words(tiny_cohort, place, monkeypatch):
    monkeypatch.chdir(place)
    return [
        "oversampled_unet",
        f"read.root={tiny_cohort}",
        "split=kfold",
        "split.folds=2",
        "split.validation=0",
        "size=tiny",
        "train.steps=2",
        "data.workers=1",
        "track=off",
    ]


@pytest.mark.parametrize(
    ("words", "several"),
    [
        (["fold=all"], True),
        (["seed=0,1"], True),
        (["fold=0,2"], True),
        (["fold=0", "seed=3"], False),
        (["train.steps=0,1"], False),
    ],
)
def test_which_words_ask_for_several_runs(words, several):
    assert is_product(words) is several


def test_all_folds_give_one_table_and_one_model(words, place, tiny_cohort, capsys):
    assert main(["train", *words, "fold=0"]) == ExitCode.OK, capsys.readouterr().err
    (first,) = (place / "runs" / "oversampled_unet").glob("*-fold0-seed0")
    before = (first / "model" / "weights.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    assert main(["train", *words, "fold=all"]) == ExitCode.OK, capsys.readouterr().err
    assert "out of fold" in capsys.readouterr().out
    assert (first / "model" / "weights.safetensors").stat().st_mtime_ns == before

    (whole,) = (place / "runs" / "oversampled_unet").glob("*-folds2-seed0")
    scores = json.loads((whole / "scores.json").read_text())
    origin = json.loads((whole / "out_of_fold.json").read_text())
    assert set(scores["cases"]) == set(origin) == {"001", "002", "003", "004"}
    assert {one["fold"] for one in origin.values()} == {0, 1}
    for case, one in origin.items():
        run = first.with_name(one["run"])
        assert json.loads((run / "scores.json").read_text())["cases"][case] == scores["cases"][case]
        assert case not in json.loads((run / "split.json").read_text())["train"]

    pair = tiny_cohort / "003"
    files = [str(pair / f"flair_time0{visit}_on_middle_space.nii.gz") for visit in (1, 2)]
    single = []
    command = ["--baseline", files[0], "--followup", files[1]]

    def predict(run, name):
        maps = [
            "--output",
            str(place / f"{name}.nii.gz"),
            "--probability",
            str(place / f"{name}_p.nii"),
        ]
        assert main(["predict", str(run), *command, *maps]) == ExitCode.OK
        return nib.load(place / f"{name}_p.nii").get_fdata()

    mean = predict(whole, "whole")
    for fold in (0, 1):
        (run,) = (place / "runs" / "oversampled_unet").glob(f"*-fold{fold}-seed0")
        single.append(predict(run, f"fold{fold}"))
    np.testing.assert_allclose(mean, np.mean(single, axis=0), atol=2e-3)
