"""What is recorded in MLflow can be found, compared and used again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from unittest.mock import Mock

import nibabel as nib
import numpy as np
import pytest
from mlflow import MlflowClient

from msseg_lightning.cli.main import main
from msseg_lightning.core.problem import ExitCode
from msseg_lightning.run.config.allow_list import refuse_paths
from msseg_lightning.run.config.compose import compose_config
from msseg_lightning.run.folder import RunFolder
from msseg_lightning.run.train.mlflow_run import (
    audit_with_pseudonyms,
    end_unrecorded,
    track_experiment,
    tracked_settings,
    with_pseudonyms,
    without_paths,
)
from msseg_lightning.track.journal import KINDS, Journal
from msseg_lightning.track.process import process_tags
from msseg_lightning.track.store import ensure_store


@pytest.fixture(scope="module")
def tracked(tiny_cohort, tmp_path_factory):
    """A tracked run with pseudonyms, its place and its MLflow client."""
    place = tmp_path_factory.mktemp("tracked")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        words = [f"read.root={tiny_cohort}", "split=file", f"split.path={tiny_cohort}/split.json"]
        words += ["size=tiny", "data.workers=1", f"track.key_file={place / 'secret.key'}"]
        assert main(["train", "pre_unet", *words]) == ExitCode.OK
    client = MlflowClient(ensure_store(place / "mlruns"))
    experiment = client.get_experiment_by_name("msseg")
    runs = client.search_runs([experiment.experiment_id])
    return place, client, {run.data.tags["level"]: run for run in runs}


def test_the_fold_is_a_child_of_its_experiment(tracked):
    _, _, runs = tracked
    assert runs["fold"].data.tags["mlflow.parentRunId"] == runs["experiment"].info.run_id
    assert {run.info.status for run in runs.values()} == {"FINISHED"}


def test_tags_and_parameters_say_what_ran(tracked):
    _, _, runs = tracked
    tags, params = runs["fold"].data.tags, runs["fold"].data.params
    assert (tags["system"], tags["fold"], tags["seed"], tags["data"]) == (
        "pre_unet",
        "0",
        "0",
        "tiny",
    )
    assert {"commit", "version", "protocol", "data_hash", "split_hash"} <= set(tags)
    assert params["train.steps"] == "4" and params["experiment"] == "pre_unet"


def test_description_source_and_data_set_are_filled_in(tracked):
    _, _, runs = tracked
    for run in runs.values():
        tags = run.data.tags
        assert "pre-activation residual blocks" in tags["mlflow.note.content"]
        assert tags["mlflow.source.name"] == "msseg train pre_unet"
    (used,) = runs["fold"].inputs.dataset_inputs
    assert used.dataset.name == "tiny"
    assert used.dataset.digest == runs["fold"].data.tags["data_hash"][:36]
    assert json.loads(used.dataset.profile) == {"train": 2, "val": 0, "test": 2}


def test_a_model_names_no_folder_of_chosen_files():
    words = ["read=bids", "read.root=/d", "read.choose=[sub-A/ses-1/anat/a.nii]"]
    words += ["read.masks.brain=derivatives/{subject}/{session}.nii"]
    read = without_paths(compose_config(words, "pre_unet"))["read"]
    refuse_paths({"read": read})
    assert read["choose"] == ["a.nii"] and read["masks"]["brain"] == "{session}.nii"


def test_results_and_curves_are_metrics(tracked):
    _, _, runs = tracked
    metrics = runs["fold"].data.metrics
    assert {"result/dice", "result/lesion_f1", "train/loss"} <= set(metrics)
    assert any(name.startswith("system/") for name in metrics)


def test_artifacts_are_complete_and_name_neither_patient_nor_place(tracked, tiny_cohort, tmp_path):
    place, client, runs = tracked
    folder = Path(client.download_artifacts(runs["fold"].info.run_id, "", str(tmp_path)))
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {
        "config.yaml",
        "environment.json",
        "split.json",
        "scores/scores.json",
        "scores/scores.csv",
        "model/weights.safetensors",
        "model/card.json",
        "curves/curves.csv",
        "report.html",
    } <= files
    for name in ("split.json", "scores/scores.json", "scores/scores.csv"):
        text = (folder / name).read_text()
        assert "case-" in text and '"003"' not in text and "\n003," not in text
    for name in ("config.yaml", "model/config.yaml", "environment.json"):
        text = (folder / name).read_text()
        assert str(tiny_cohort.parent) not in text and str(place) not in text


def test_a_run_id_and_a_registered_model_predict_as_the_folder_does(
    tracked, tiny_cohort, monkeypatch
):
    place, client, runs = tracked
    monkeypatch.chdir(place)
    run = runs["fold"].info.run_id
    client.create_registered_model("pre_unet")
    source = f"{client.get_run(run).info.artifact_uri}/model"
    client.create_model_version("pre_unet", source, run)
    pair = [tiny_cohort / "003" / f"flair_time0{visit}_on_middle_space.nii.gz" for visit in (1, 2)]
    (folder,) = (place / "runs" / "pre_unet").glob("tiny*")
    masks = []
    for number, model in enumerate([str(folder), run, "models:/pre_unet/1"]):
        words = ["-t1", str(pair[0]), "-t2", str(pair[1]), "-o", f"{number}.nii.gz"]
        assert main(["predict", model, *words]) == ExitCode.OK
        masks.append(np.asarray(nib.load(f"{number}.nii.gz").dataobj))
    np.testing.assert_array_equal(masks[0], masks[1])
    np.testing.assert_array_equal(masks[0], masks[2])


def test_brackets_in_the_name_of_the_data_hide_no_fold(trained_run, tmp_path):
    """The name of a run folder is no pattern."""
    folders = [tmp_path / f"d[1]-fold{fold}-seed0" for fold in (0, 1)]
    for folder in folders:
        folder.mkdir()
        for name in ("config.yaml", "run.json", "scores.json"):
            shutil.copy(trained_run / name, folder / name)
    tracking = Mock()
    run = RunFolder(folders[0])
    track_experiment(tracking, run.config(), run)
    assert tracking.start.call_args.kwargs["tags"]["folds"] == 2


@pytest.mark.parametrize("root", ["'../ms (copy)'", "../ms (copy)", "/d/it's, here", "2021"])
def test_changed_settings_are_recorded_whatever_the_data_s_folder_is_called(root):
    words = [f"read.root={root}", "split.folds=3", "method.rule.rise_sd=2.0"]
    found = tracked_settings(compose_config(words, "bsi_subtraction"))
    assert found["split.folds"] == 3 and found["method.rule.rise_sd"] == 2.0
    assert not any("root" in key for key in found)


def test_a_run_with_a_name_of_its_own_is_of_the_same_experiment():
    config = compose_config(["read.root=.", "name=mine", "split.folds=3"], "bsi_subtraction")
    found = tracked_settings(config)
    assert found["experiment"] == "bsi_subtraction" and found["split.folds"] == 3
    assert found["name"] == "mine"


def test_a_run_whose_process_could_not_record_its_end(tmp_path):
    folder = RunFolder(tmp_path)
    assert not end_unrecorded(folder)  # never tracked
    journal = Journal(tmp_path / "track")
    opening = {"do": "open"} | dict.fromkeys(KINDS["open"], "x") | {"time": 1}
    journal.append([opening])
    assert end_unrecorded(folder)
    for status, expected in (("FAILED", True), ("FINISHED", False)):
        journal.append([{"do": "close", "status": status, "time": 2}])
        assert end_unrecorded(folder) is expected
        journal.append([opening | {"time": 3}])
    journal.append([opening | {"time": 4, "process": process_tags()}])
    assert not end_unrecorded(folder)  # another process is at it


def test_tables_of_a_fit_name_no_patient(tmp_path):
    audit, table = tmp_path / "audit_map.csv", tmp_path / "audit_training_table.csv"
    audit.write_text("pair,patient,model,trained_on,saw_this_patient\na,p,key,q r,False\n")
    table.write_text("pair,patient,from,label\na,p,candidate,0\n")
    found = [audit_with_pseudonyms(file, str.upper).splitlines()[1] for file in (audit, table)]
    assert found == ["A,P,key,Q R,False", "A,P,candidate,0"]


def test_pairs_of_raters_are_renamed_too():
    content = {
        "summary": {"with_lesions": {"cases": ["a"]}},
        "cases": {"a": {}},
        "raters": {"rater1": {"a": {"others": {}}}},
    }
    assert with_pseudonyms(content, str.upper)["raters"] == {"rater1": {"A": {"others": {}}}}
