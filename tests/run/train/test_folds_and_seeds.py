"""All folds by one command: every pair scored once, finished runs kept, one model of all."""

from __future__ import annotations

import csv
import json

import nibabel as nib
import numpy as np
import pytest

from msseg_lightning.cli.main import main
from msseg_lightning.core.files import read_record
from msseg_lightning.core.problem import ExitCode
from msseg_lightning.run.config.compose import compose_config
from msseg_lightning.run.folder import RunFolder
from msseg_lightning.run.predict.scores import digest
from msseg_lightning.run.train import folds_and_seeds
from msseg_lightning.run.train.folds_and_seeds import is_finished, is_multirun


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
    assert is_multirun(words) is several


def test_all_folds_give_one_table_and_one_model(words, place, tiny_cohort, capsys):
    assert main(["train", *words, "fold=0"]) == ExitCode.OK, capsys.readouterr().err
    (first,) = (place / "runs" / "oversampled_unet").glob("*-fold0-seed0")
    before = (first / "model" / "weights.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    assert main(["train", *words, "fold=all"]) == ExitCode.OK, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "out of fold" in out and "report.html" in out
    assert (first / "model" / "weights.safetensors").stat().st_mtime_ns == before

    (whole,) = (place / "runs" / "oversampled_unet").glob("*-folds2-seed0")
    scores = json.loads((whole / "scores.json").read_text())
    origin = read_record(whole / "out_of_fold.json")
    assert set(scores["cases"]) == set(origin) == {"001", "002", "003", "004"}
    assert {one["fold"] for one in origin.values()} == {0, 1}
    for case, one in origin.items():
        run = first.with_name(one["run"])
        assert json.loads((run / "scores.json").read_text())["cases"][case] == scores["cases"][case]
        split = json.loads((run / "split.json").read_text())
        assert case not in split["train"]
        learned = digest(sorted([*split["train"], *split["val"]]))[:16]
        assert scores["pairs"][case] == {"patient": case, "learned_from": learned}

    pair = tiny_cohort / "003"
    files = [str(pair / f"flair_time0{visit}_on_middle_space.nii.gz") for visit in (1, 2)]
    single = []
    command = ["--baseline", files[0], "--followup", files[1]]
    command += ["--brain", str(pair / "brain_mask.nii.gz")]  # as in training; none is looked for

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


def test_an_interrupted_product_goes_on_where_it_stopped(words, place, monkeypatch, capsys):
    """A second seed beside the first; the second run that is trained is stopped."""
    from msseg_lightning.run.train import experiment

    begun = []
    whole = experiment.score_held_out

    def stop_once(*arguments):
        begun.append(arguments[2].path.name)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(experiment, "score_held_out", stop_once)
    command = ["train", *words, "fold=all", "seed=0,1"]
    assert main(command) == ExitCode.INTERRUPTED
    assert main(command) == ExitCode.OK, capsys.readouterr().err
    finished, stopped, *rest = begun
    assert rest[0] == stopped and finished not in rest
    assert len(rest) == len(set(rest)) and rest[-1].endswith("fold1-seed1")
    (both,) = (place / "runs" / "oversampled_unet").glob("*-folds2-seeds0+1")
    page = (both / "report.html").read_text()
    assert "Mean of 2 seeds" in page and "Seed 1, fold 1" in page
    groups = page.index("Cases with new lesions"), page.index("Cases without new lesions")
    assert groups[0] < page.index("Clean pairs") and groups[1] < page.index("Clean pairs")

    table = list(csv.DictReader((both / "summary.csv").open()))
    values = {
        (row["measure"], row["run"]): row for row in table if row["measure"] == "NbTestedLesions"
    }
    seeds = [float(values["NbTestedLesions", f"seed {n}, all folds"]["mean"]) for n in (0, 1)]
    pooled = values["NbTestedLesions", "mean of 2 seeds"]
    assert float(pooled["mean"]) == pytest.approx(np.mean(seeds)) and pooled["cases"] == "2"


def test_what_was_scored_on_other_data_is_not_taken_as_finished(words, place):
    assert main(["train", *words, "fold=0"]) == ExitCode.OK
    config = compose_config([*words[1:], "fold=0"], words[0])
    folder = RunFolder.from_config(config)
    assert is_finished(folder, config)
    folder.update_record(data_hash="of other data")
    assert not is_finished(folder, config)


def test_a_division_without_a_last_fold_is_refused(words, capsys):
    drawn = [word for word in words if not word.startswith("split")]
    assert main(["train", *drawn, "split=hold_out", "fold=all"]) == ExitCode.CONFIG
    assert "no last fold" in capsys.readouterr().err


def test_a_finished_fold_whose_end_was_not_recorded_is_taken_again(words, monkeypatch):
    """Killed between its last file and its end in MLflow: skipped, it would stay KILLED there."""
    monkeypatch.setattr(folds_and_seeds, "is_finished", lambda folder, config: True)
    monkeypatch.setattr(folds_and_seeds, "combine_folds", lambda experiment, runs: runs[0].path)
    monkeypatch.setattr(
        folds_and_seeds, "end_unrecorded", lambda folder: "fold1" in folder.path.name
    )
    taken = []
    monkeypatch.setattr(folds_and_seeds, "train_experiment", lambda one: taken.append(one["fold"]))
    tracked = [word for word in words[1:] if word != "track=off"]
    folds_and_seeds.train_multirun(words[0], [*tracked, "fold=0,1"])
    assert taken == [1]
    folds_and_seeds.train_multirun(words[0], [*words[1:], "fold=0,1"])  # nothing is recorded
    assert taken == [1]
