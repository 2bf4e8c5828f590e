"""A training that starts from the weights of another one."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml
from safetensors.torch import load_file

from msseg_lightning.cli.main import main
from msseg_lightning.core.files import sha256_file, write_record
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.run.assemble.system import build_method
from msseg_lightning.run.config.compose import compose_config
from msseg_lightning.run.predict.model_zip import write_zip
from msseg_lightning.run.predict.trained import load_method
from msseg_lightning.run.train.experiment import train_experiment
from msseg_lightning.run.train.initial_weights import with_initial_weights
from tests.conftest import tiny_words
from tests.run.predict.test_model_zip import save


@pytest.fixture
def compose(tmp_path):
    def made(experiment, init, *words):
        given = ["read.root=.", "size=tiny", f"train.init={init}", f"paths.cache={tmp_path / 'c'}"]
        return with_initial_weights(compose_config([*given, *words], experiment))

    return made


@pytest.mark.parametrize("form", ["model", "zip", "stored"])
def test_a_model_is_named_by_the_hash_of_its_weights(form, compose, tmp_path):
    model = save(tmp_path / "model", "pre_unet", "seed=3")
    init = model
    if form == "zip":
        write_zip(model, init := tmp_path / "system.zip")
    if form == "stored":
        init = compose("pre_unet", model)["train"]["init"]
        shutil.rmtree(model)
    config = compose("pre_unet", init)
    given = next((tmp_path / "c" / "initial").glob("*/weights.safetensors"))
    assert config["train"]["init"] == f"pre_unet-{sha256_file(given)[:16]}"
    method = build_method(config)
    method.initial.load_into(method.task.network)
    state = method.task.network.state_dict()
    assert all(state[name].equal(value) for name, value in load_file(given).items())


def test_each_network_of_a_system_takes_what_fits_it(compose, tmp_path):
    """The stage of another kind starts anew; where no network takes anything, nothing starts."""
    other = save(tmp_path / "other", "pre_unet")
    mine = save(tmp_path / "mine", "oversampled_unet")
    assert compose("oversampled_unet", mine)["train"]["init"].startswith("oversampled_unet-")
    wider = compose("pre_unet", other, "network.widths=[8,8,16]")
    initial = build_method(wider).initial
    assert initial.taken and initial.left
    assert all("given" in why for why in initial.left.values())
    with pytest.raises(MssegError, match=r"init\.nothing_fits") as caught:
        compose("subtraction_unet_2d", other)
    assert caught.value.exit_code == ExitCode.MODEL


def test_what_has_no_weights_is_refused(compose, tmp_path):
    model = save(tmp_path / "model", "bsi_subtraction")
    with pytest.raises(MssegError, match=r"init\.no_weights"):
        compose("pre_unet", model)
    with pytest.raises(MssegError, match=r"model\.missing"):
        compose("pre_unet", tmp_path / "nowhere")


def test_without_the_setting_nothing_changes(tmp_path):
    config = compose_config(["read.root=.", "size=tiny"], "pre_unet")
    assert with_initial_weights(config) is config


def test_a_fit_starts_from_the_given_weights_and_records_them(
    coarse_cohort, tmp_path, monkeypatch, capsys
):
    """At a rate of zero the weights at the end are those of the beginning."""
    monkeypatch.chdir(tmp_path)
    model = save(tmp_path / "model", "pre_unet", "seed=3")
    words = [*tiny_words(coarse_cohort), "track=off", "train.init=model", "train.steps=1"]
    words += ["train.optimizer.lr=0", "preprocess.steps.resample.spacing_mm=6.0"]
    train_experiment(compose_config(words, "pre_unet"), with_report=False)
    (run,) = (tmp_path / "runs" / "pre_unet").iterdir()
    given, found = (load_file(at / "weights.safetensors") for at in (model, run / "model"))
    assert all(found[name].equal(value) for name, value in given.items())
    record = json.loads((run / "run.json").read_text())["initial_weights"]["fit"]
    assert record["sha256"] == sha256_file(model / "weights.safetensors")
    assert record["taken"] == len(given) and not record["left"] and not record["unused"]
    # the given model may go; the trained one has weights of its own
    shutil.rmtree(model)
    shutil.rmtree(tmp_path / "cache" / "initial")
    assert load_method(run / "model")[1]["train"]["init"] is None
    # pairs that the given weights know are no test
    split = json.loads((run / "split.json").read_text())
    assert split["test"] == ["003", "004"]
    write_record(run / "split.json", {**split, "train": ["003", "004"], "test": ["001", "002"]})
    again = ["train", "pre_unet", *words, f"train.init={run}", "seed=1"]
    assert main(again) == ExitCode.MODEL
    said = capsys.readouterr().err
    assert "init.seen" in said and "003, 004" in said
    assert len(list((tmp_path / "runs" / "pre_unet").iterdir())) == 1


def test_each_fold_may_start_from_its_own(tmp_path):
    words = ["read.root=.", "size=tiny", "fold=2", "train.init=runs/x-fold${fold}-seed0"]
    assert compose_config(words, "pre_unet")["train"]["init"] == "runs/x-fold2-seed0"


def test_the_stored_model_names_no_path(compose, tmp_path):
    from msseg_lightning.run.train.mlflow_run import without_paths

    config = compose("pre_unet", save(tmp_path / "model", "pre_unet"))
    assert str(tmp_path) not in yaml.safe_dump({"train": without_paths(config)["train"]})
