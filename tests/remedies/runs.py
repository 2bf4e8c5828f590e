"""Runs and their models: the command is given again with the words of the remedy."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import types
from pathlib import Path
from typing import Any

import pytest
import yaml

from msseg_lightning.core import locks
from msseg_lightning.core.files import write_record, write_settings
from msseg_lightning.core.outputs import is_json_with, refuse_overwrites
from msseg_lightning.core.prediction import Prediction
from msseg_lightning.core.subject import TARGET, LongitudinalSubject
from msseg_lightning.method.network_method import NetworkMethod
from msseg_lightning.preprocess.nyul import Nyul
from msseg_lightning.read.msseg2 import Msseg2
from msseg_lightning.run.assemble.system import build_load, instantiate
from msseg_lightning.run.config.allow_list import read_stored_yaml, refuse_paths
from msseg_lightning.run.config.compose import compose_config
from msseg_lightning.run.config.preset_files import experiment_names
from msseg_lightning.run.folder import RunFolder
from msseg_lightning.run.predict.prediction_files import (
    FILES_KEY,
    check_outputs,
    read_pairs,
    refuse_in_run,
    side_car_file,
)
from msseg_lightning.run.predict.trained import POINT_FILE, find_model, load_config
from msseg_lightning.run.train.choose_point import stored_prediction
from msseg_lightning.run.train.experiment import labelled_subjects
from msseg_lightning.run.train.folds_and_seeds import _combine_folds
from msseg_lightning.split.split import Split
from msseg_lightning.train.interruption import StopOnSignal
from msseg_lightning.train.ranks import on_all_processes
from tests.remedies.place import Place, case, with_settings
from tests.sample.conftest import prepare

BASELINE_FILE, FOLLOWUP_FILE = (
    f"flair_time0{number}_on_middle_space.nii.gz" for number in (1, 2)
)  # fmt: skip


class Trained:
    """A copy of the finished run in the working folder, and what belongs to it."""

    def __init__(self, place: Place) -> None:
        source: Path = place.fixture("coarse_run")
        shutil.copytree(source, place.folder, dirs_exist_ok=True)
        (self.run,) = (place.folder / "runs" / "pre_unet").iterdir()
        self.train = ["train", *place.fixture("coarse_words")]
        cohort: Path = place.fixture("coarse_cohort")
        self.cohort = cohort
        self.scans = [cohort / "003" / name for name in (BASELINE_FILE, FOLLOWUP_FILE)]
        self.predict = ["predict", str(self.run), "-t1", *map(str, self.scans[:1])]
        self.predict += ["-t2", str(self.scans[1]), "-o"]


@case("run.config_changed", "run.split_changed")
def other_settings_or_data(place: Place) -> None:
    trained = Trained(place)
    words = [*trained.train, "train.optimizer.lr=0.5"]
    refusal = place.refused("run.config_changed", words)
    assert refusal.remedy.startswith("give the old settings")

    def claim(words: list[str], split: Split) -> None:
        config = compose_config(words[2:], words[1])
        folder = RunFolder.from_config(config)
        with folder.lock():
            folder.claim_config(config)
            folder.claim_split(split)

    found = json.loads((trained.run / "split.json").read_text())
    names = {field.name for field in dataclasses.fields(Split)}
    old = Split(**{
        key: tuple(value) if isinstance(value, list) else value
        for key, value in found.items() if key in names
    })  # fmt: skip
    claim(trained.train, old)
    changed = dataclasses.replace(old, train=old.test, test=old.train)
    again = place.raised("run.split_changed", lambda: claim(trained.train, changed))
    assert again.remedy.startswith("restore the data")
    claim(trained.train, old)
    for problem, given, split in ((refusal, words, old), (again, trained.train, changed)):
        for choice in problem.settings(OTHER="other"):
            claim(with_settings(given, choice), split)


@case("run.busy")
def a_run_of_another_process(place: Place) -> None:
    trained = Trained(place)
    with RunFolder(trained.run).lock():
        refusal = place.refused("run.busy", trained.train)
        assert refusal.remedy == "wait for it, or use another seed, fold or paths.runs"
        for word in ("seed=1", "fold=1", "paths.runs=elsewhere"):
            with RunFolder.from_config(
                compose_config([*trained.train[2:], word], "pre_unet")
            ).lock():
                pass
    with RunFolder(trained.run).lock():
        pass


@case("run.config_damaged", "run.missing", "run.no_model", "run.no_scores", "model.missing")
def an_unfinished_run(place: Place) -> None:
    trained = Trained(place)
    path = trained.run / "config.yaml"
    sound = path.read_bytes()
    write_settings(path, {"name": "a", "size": "paper", "seed": 0, "fold": "0"})
    refusal = place.refused("run.config_damaged", ["report", trained.run])
    assert "under fold, card, channels" in refusal.text
    path.write_text("{")
    refusal = place.raised("run.config_damaged", RunFolder.find(str(trained.run)).config)
    assert refusal.remedy.startswith("restore the file, or train again")
    path.write_bytes(sound)
    RunFolder.find(str(trained.run)).config()

    refusal = place.refused("run.missing", ["report", "runs"])
    assert refusal.remedy.startswith("give a folder under runs/")
    refusal = place.raised("model.missing", lambda: find_model("nowhere"))
    assert refusal.remedy.startswith("give a folder under runs/")
    place.ends_well(["report", trained.run])
    find_model(str(trained.run))

    (trained.run / "scores.json").unlink()
    refusal = place.refused("run.no_scores", ["report", trained.run])
    assert refusal.remedy == "give its `msseg train` command again to finish it"
    shutil.rmtree(trained.run / "model")
    refusal = place.refused("run.no_model", [*trained.predict, "new.nii.gz"])
    assert refusal.remedy == "give its `msseg train` command again to finish it"
    place.ends_well(trained.train)
    place.ends_well(["report", trained.run])
    place.ends_well([*trained.predict, "new.nii.gz"])


@case("run.version")
def a_run_of_an_earlier_version(place: Place) -> None:
    trained = Trained(place)
    for path in (trained.run / "config.yaml", trained.run / "model" / "config.yaml"):
        config = yaml.safe_load(path.read_text())
        loader = config["sample"].pop("loader")
        split = {**(config.get("split") or {}), "_target_": "msseg_lightning.read.splits.KFold"}
        write_settings(path, {**config, "loader": loader, "split": split})
    refusal = place.refused("run.version", [*trained.predict, "new.nii.gz"])
    assert refusal.remedy.endswith("the `msseg train` command with overwrite=true")
    place.refused("run.version", ["report", trained.run])
    place.ends_well([*trained.train, "overwrite=true"])
    place.ends_well([*trained.predict, "new.nii.gz"])


@case("predict.in_run")
def an_output_in_the_folder_of_the_run(place: Place) -> None:
    trained = Trained(place)
    model = trained.run / "model"
    kept = trained.run / "predictions" / "003.nii.gz"
    before = kept.read_bytes()
    refusal = place.refused("predict.in_run", [*trained.predict, kept])
    assert "choose another folder" in refusal.remedy and kept.read_bytes() == before
    link = place.folder / "elsewhere"
    link.symlink_to(trained.run)
    for output in (model / "x.nii.gz", link / "predictions", trained.run):
        place.raised("predict.in_run", lambda output=output: refuse_in_run(model, [output]))
    refuse_in_run(model, [place.folder / "predictions" / kept.name])


@case("model.config", "config.place", "config.unsafe", "model.file")
def a_model_of_somebody_else(place: Place) -> None:
    trained = Trained(place)
    model = trained.run / "model"
    path = model / "config.yaml"
    sound = path.read_bytes()
    for code, text in (("model.config", "{}"), ("config.unsafe", "a: !!python/name:os.system ''")):
        path.write_text(text)
        remedy = place.raised(code, lambda: load_config(model)).remedy
        assert re.search(r"copy (the model folder|it) again from where it came from", remedy)
        path.write_bytes(sound)
        load_config(model)
    read_stored_yaml(sound.decode())
    write_settings(path, {**yaml.safe_load(sound), "infer": None})
    assert "under infer" in place.raised("model.config", lambda: load_config(model)).text
    path.write_bytes(sound)

    config = yaml.safe_load(sound)
    path.write_text(
        yaml.safe_dump({**config, "paths": {**config["paths"], "cache": "/some/cache"}})
    )
    refusal = place.refused("config.place", [*trained.predict, "new.nii.gz"])
    refuse_paths(config)
    path.write_bytes(sound)
    (choice,) = refusal.settings(FOLDER=str(place.folder / "mine"))
    place.ends_well(["predict", trained.run, "--folder", "masks", "--include-training",
                     "read=msseg2", f"read.root={trained.cohort}", *choice])  # fmt: skip
    assert (place.folder / "mine").is_dir()

    shutil.move(path, place.folder / "away.yaml")
    path.symlink_to(place.folder / "away.yaml")
    refusal = place.raised("model.file", lambda: load_config(model))
    command = re.search(r"`cp -rL`", refusal.remedy)
    assert command is not None and refusal.remedy.endswith("and use the copy")
    subprocess.run(["cp", "-rL", model, place.folder / "copy"], check=True)
    load_config(place.folder / "copy")


@case("predict.one_answer")
def an_uncertainty_map_of_one_answer(place: Place) -> None:
    trained = Trained(place)
    words = [*trained.predict, "new.nii.gz"]
    refusal = place.refused("predict.one_answer", [*words, "--uncertainty", "u.nii.gz"])
    assert refusal.remedy.startswith("leave --uncertainty out, or name a run of a system")
    place.ends_well(words)
    named = re.findall(r"[a-z]+(?:_[a-z]+)+", refusal.remedy)
    assert len(named) == 2 and set(named) <= set(experiment_names())


@case("predict.format", "output.overwrites", "predict.setting", "predict.training_data")
def words_of_a_prediction(place: Place) -> None:
    trained = Trained(place)
    refusal = place.refused("predict.format", [*trained.predict, "new.mha"])
    name = re.fullmatch(r"use (\S+)", refusal.remedy)
    assert name is not None
    place.ends_well([*trained.predict, name[1]])
    (place.folder / "own.nii.gz").write_bytes(b"a mask")
    refusal = place.refused("output.overwrites", [*trained.predict, "own.nii.gz"])
    assert refusal.remedy.startswith("choose another file name or folder, or move that file away")
    check_outputs([place.folder / "another.nii.gz"], trained.scans)
    shutil.move(place.folder / "own.nii.gz", place.folder / "away.nii.gz")
    place.ends_well([*trained.predict, "own.nii.gz"])
    record = side_car_file(place.folder / "own.nii.gz")  # as earlier versions wrote it
    write_record(
        record, {k: v for k, v in json.loads(record.read_text()).items() if k != FILES_KEY}
    )
    refusal = place.refused("output.overwrites", [*trained.predict, "own.nii.gz"])
    assert "those that an earlier version wrote" in refusal.remedy
    place.ends_well([*trained.predict, "next.nii.gz"])
    refuse_overwrites([(place.folder / "folder" / "own.nii.gz", is_json_with("a"))], trained.scans)

    words = ["predict", trained.run, "--folder", "masks", "read=msseg2",
             f"read.root={trained.cohort}"]  # fmt: skip
    refusal = place.refused("predict.training_data", words)
    assert refusal.options() == ["--include-training"]
    place.ends_well([*words, *refusal.options()])
    for wrong, right in (
        ("infer.overlapp=0.25", "infer.overlap=0.25"),
        ("network.widths=[8]", ""),
        ("infer.overlap=inf", "infer.overlap=0.25"),
        ("infer.level=3", ""),
        ("postprocess.rules.threshold.value=null", ""),
    ):
        refusal = place.refused("predict.setting", [*words, "--include-training", wrong])
        if right:
            assert "config.yaml lists them all" in refusal.remedy or "finite" in refusal.remedy
            assert (
                right.partition("=")[0].rpartition(".")[2]
                in (trained.run / "model" / "config.yaml").read_text()
            )
            load_config(trained.run / "model", [right])
        elif wrong.startswith("network"):
            assert refusal.remedy == "train another system for the rest"
            load_config(trained.run / "model")
        else:
            quoted = re.search(r'"(infer.*)"', refusal.remedy)
            if quoted is not None:
                load_config(trained.run / "model", [quoted[1]])
            for choice in refusal.settings() if quoted is None else []:
                load_config(trained.run / "model", choice)


@case("predict.output_place")
def outputs_of_a_table(place: Place) -> None:
    from tests.run.predict.test_prediction_files import table_with_outputs

    out = place.folder / "out"
    data = place.folder / "data"
    refusal = place.raised(
        "predict.output_place",
        lambda: read_pairs(table_with_outputs(data, [f"{out}/new/a.nii.gz"])),
    )
    assert refusal.remedy.startswith("empty the cell") and refusal.options() == ["--folder"]
    read_pairs(table_with_outputs(data, [""]))
    read_pairs(table_with_outputs(data, ["a.nii.gz"]))
    read_pairs(table_with_outputs(data, [f"{out}/new/a.nii.gz"]), out)


@case("train.stopped")
def a_training_that_was_stopped(place: Place) -> None:
    trained = Trained(place)
    words = with_settings(trained.train, ["seed=7"])
    with pytest.MonkeyPatch.context() as patch:
        start = StopOnSignal.on_train_start

        def stopped(self: StopOnSignal, *given: object) -> None:
            start(self, *given)  # type: ignore[arg-type]
            signal.raise_signal(signal.SIGTERM)

        patch.setattr(StopOnSignal, "on_train_start", stopped)
        refusal = place.refused("train.stopped", words)
    assert refusal.remedy == "give the same command again to continue"
    place.ends_well(words)


@case("train.trainer")
def a_setting_that_lightning_refuses(place: Place) -> None:
    trained = Trained(place)
    words = [*with_settings(trained.train, ["seed=8"]), "trainer.precision=none-such"]
    refusal = place.refused("train.trainer", words)
    (shown,) = place.follow_commands(refusal, EXPERIMENT="pre_unet")
    found = re.search(r"precision: (\S+)", shown)
    assert found is not None
    place.ends_well(with_settings(words, [f"trainer.precision={found[1]}"]))


@case("train.processes")
def another_number_of_processes(place: Place) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "3", "RANK": "0"}.items():
            patch.setenv(name, value)

        def begin(devices: int, nodes: int) -> None:
            with on_all_processes(devices, nodes, print):
                pass

        refusal = place.raised("train.processes", lambda: begin(2, 1))
        assert refusal.remedy.startswith("give the numbers that torchrun or srun was given")
        numbers = re.findall(r"\d+", os.environ["WORLD_SIZE"])
        assert f"found {numbers[0]}" in refusal.text
    refusal = place.raised("train.processes", lambda: begin(2, 2))
    assert refusal.remedy.endswith("several machines need one of the two")


@case("product.twice")
def folds_that_overlap(place: Place) -> None:
    trained = Trained(place)
    run = RunFolder(trained.run)
    out = place.folder / "out"
    refusal = place.raised(
        "product.twice", lambda: _combine_folds("pre_unet", run.config(), [run, run], out)
    )
    (choice,) = refusal.settings()
    words = [f"read.root={trained.cohort}", *choice]
    tested = [
        name
        for fold in (0, 1)
        for name in instantiate(compose_config(words, "pre_unet")["split"])
        .split(Msseg2(trained.cohort).subjects(), fold)
        .test
    ]
    assert len(tested) == len(set(tested)) == 4


@case("prepare.learned", "preprocess.nyul")
def a_chain_that_is_learned(place: Place) -> None:
    cohort = place.fixture("coarse_cohort")
    words = ["prepare", "pre_unet", "preprocess=nonzero_zscore_native", f"read.root={cohort}"]
    words += ["data.workers=1"]
    step = "_target_: msseg_lightning.preprocess.nyul.Nyul"
    refusal = place.refused("prepare.learned", [*words, "+preprocess.steps.nyul={" + step + "}"])
    assert "(of Nyul: landmarks)" in refusal.remedy
    load = build_load(compose_config(words[2:], "pre_unet"))
    pairs = [load(subject) for subject in Msseg2(cohort).subjects()]
    unfitted = place.raised("preprocess.nyul", lambda: Nyul()(pairs[0]))
    assert unfitted.remedy.startswith("give landmarks=[...] as a setting of the step")
    numbers = list(Nyul().fit(pairs).landmarks)
    Nyul(landmarks=tuple(numbers))(pairs[0])
    place.ends_well([*words, "+preprocess.steps.nyul={" + step + f", landmarks: {numbers}" + "}"])


@case("simulate.foreign_folder")
def a_folder_with_other_files(place: Place) -> None:
    (place.folder / "out").mkdir()
    (place.folder / "out" / "participants.tsv").touch()
    words = ["simulate", "out", "preset=tiny", "patients=1", "spacing_floor_mm=6.0"]
    words += ["sampling_mm=3.0"]
    assert place.refused("simulate.foreign_folder", words).remedy == "give another folder"
    place.ends_well(["simulate", "other", *words[2:]])


@case("train.device")
def a_device_that_is_not_here(place: Place) -> None:
    trained = Trained(place)
    words = [*with_settings(trained.train, ["seed=9"]), "trainer.accelerator=mps"]
    if platform.system() == "Darwin":  # where it may be there
        words[-1] = "trainer.accelerator=cuda"
    refusal = place.refused("train.device", words)
    place.follow_settings(refusal, words)


@case("data.no_reference")
def masks_that_training_needs(place: Place) -> None:
    """A target that no pair has, pairs without a mask among others, and a data set without any."""
    trained = Trained(place)
    words = [*trained.train, "channels.target=lesions"]
    refusal = place.refused("data.no_reference", [*words, "paths.runs=other"])
    place.follow_settings(refusal, words)

    data = place.folder / "data"
    shutil.copytree(trained.cohort, data)
    masks = {path: path.read_bytes() for path in data.rglob("ground_truth*.nii.gz")}
    for path in masks:
        path.unlink()
    words = with_settings(trained.train, [f"read.root={data}", "paths.runs=third"])
    refusal = place.refused("data.no_reference", words)
    assert refusal.remedy.startswith("give the masks the names that are read")
    layouts, *_ = refusal.commands()
    assert len(place.ends_well(layouts).splitlines()) > 40
    assert "apply a trained system" in refusal.remedy
    place.ends_well(["predict", trained.run, "--folder", "masks", "--include-training",
                     "read=msseg2", f"read.root={data}"])  # fmt: skip
    for path, content in masks.items():
        path.write_bytes(content)
    config = compose_config(words[2:], "pre_unet")
    assert len(labelled_subjects(config)) == 4

    folder = place.folder / "pairs"
    pairs: list[Any] = [prepare(folder, name, 1, seed) for seed, name in enumerate("ab")]
    one = types.SimpleNamespace(id="b", mask_names=())
    check = NetworkMethod._require_masks
    refusal = place.raised("data.no_reference", lambda: check([pairs[0], one], TARGET))
    assert refusal.remedy == "leave these pairs out: split=file split.path=FILE with the others"
    check(pairs[:1], TARGET)


@case("environment.in_the_way", "environment.files", "environment.memory")
def what_the_machine_refuses(place: Place) -> None:
    (place.folder / "file").touch()
    words = ["simulate", "file", "preset=tiny", "patients=1", "spacing_floor_mm=6.0"]
    words += ["sampling_mm=3.0"]
    refusal = place.refused("environment.in_the_way", words)
    assert "name another place" in refusal.remedy
    place.ends_well(["simulate", "other", *words[2:]])
    for error, code in (
        (OSError(errno.ENOSPC, "No space left on device", "runs"), "environment.files"),
        (MemoryError("4 GB"), "environment.memory"),
    ):

        def fail(*_: object, error: BaseException = error) -> None:
            raise error

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("msseg_lightning.cli.list.main", fail)
            refusal = place.refused(code, ["list"])
        assert "give the same command again" in refusal.remedy
        for choice in refusal.settings(FOLDER="elsewhere"):
            place.ends_well(["show", "pre_unet", *choice])
        place.ends_well(["list"])


@case("{step}.environment")
def a_folder_that_cannot_be_used(place: Place) -> None:
    """A pair that cannot be written where it was to be; another folder is named."""
    (place.folder / "file").touch()
    words = ["prepare", "pre_unet", "preprocess=nonzero_zscore_native", "data.workers=1"]
    words += [f"read.root={place.fixture('coarse_cohort')}", "paths.cache=file"]
    status, said = place.msseg(words)
    assert status not in (0, 1)
    refusal = place.said("preprocess.environment", said)
    assert "or name another folder, then give the same command again" in refusal.remedy
    place.ends_well(with_settings(words, ["paths.cache=cache"]))


@case("data.changed")
def a_file_that_is_still_being_copied(place: Place) -> None:
    trained = Trained(place)
    for scan in trained.scans:
        shutil.copy(scan, place.folder)
    baseline, followup = (place.folder / scan.name for scan in trained.scans)
    words = ["predict", trained.run, "-t1", baseline, "-t2", followup, "-o", "new.nii.gz"]
    with pytest.MonkeyPatch.context() as patch:
        predict = NetworkMethod.predict

        def copied(method: NetworkMethod, subject: LongitudinalSubject) -> Prediction:
            answer = predict(method, subject)
            shutil.copy(trained.scans[1], followup)
            return answer

        patch.setattr(NetworkMethod, "predict", copied)
        refusal = place.refused("data.changed", words)
    assert refusal.remedy.endswith("then give the same command again")
    place.ends_well(words)


@case("output.inside_data")
def results_in_the_folder_of_the_data(place: Place) -> None:
    trained = Trained(place)
    data = place.folder / "data"
    shutil.copytree(trained.cohort, data)
    words = with_settings(trained.train, [f"read.root={data}", f"paths.runs={data / 'runs'}"])
    words = with_settings(words, [f"split.path={data / 'split.json'}"])
    refusal = place.refused("output.inside_data", words)
    assert not (data / "runs").exists()
    place.follow_settings(refusal, words, FOLDER=str(place.folder / "elsewhere"))


@case("environment.locks")
def a_disk_without_locks(place: Place) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "x")

    trained = Trained(place)
    locks._error.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(locks.fcntl, "flock", refuse)
        refusal = place.refused("environment.locks", trained.train)
    locks._error.cache_clear()
    (choice,) = refusal.settings(FOLDER=str(place.folder / "elsewhere"))
    place.ends_well(with_settings(trained.train, choice))


@case(
    "point.no_validation",
    "point.other_data",
    "point.other_model",
    "point.several_seeds",
    "point.no_map",
    "predict.point_data",
)
def a_point_and_the_run_it_is_for(place: Place) -> None:
    product, cohort = place.fixture("product"), place.fixture("coarse_cohort")
    tune = ["--false-lesions", "3", "--population", "all", "--thresholds"]
    (run, other) = sorted(product.parent.glob("*-fold[01]-seed0"))

    split = run / "split.json"
    kept = split.read_bytes()
    content = json.loads(kept)
    del content["checksum"]
    split.write_text(json.dumps({**content, "val": []}))
    refusal = place.refused("point.no_validation", ["tune", run, *tune])
    assert "(fold=all)" in refusal.remedy and "out of fold" in refusal.remedy
    split.write_text(json.dumps({**content, "data_hash": "0" * 16}))
    refusal = place.refused("point.other_data", ["tune", run, *tune])
    assert refusal.remedy.startswith("restore the data, or train again with overwrite=true")
    split.write_bytes(kept)

    seeds = product.with_name(product.name.replace("-seed0", "-seeds0+1"))
    seeds.mkdir()
    (seeds / "summary.csv").touch()
    refusal = place.refused("point.several_seeds", ["tune", seeds, *tune])
    folder = refusal.remedy.removeprefix("give the folder of one seed: ")
    assert place.msseg(["tune", folder, *tune])[0] == 0

    refusal = place.raised("point.no_map", lambda: stored_prediction(run / "predictions", "nobody"))
    assert "keeps its own rules" in refusal.remedy

    data = ["read=msseg2", f"read.root={cohort}", "data.workers=1", "--folder", "out"]
    refusal = place.refused("predict.point_data", ["predict", product, *data])
    assert refusal.options() == ["--include-training"]
    assert place.msseg(["predict", product, *data, *refusal.options()])[0] == 0

    shutil.copy(other / "model" / POINT_FILE, run / "model" / POINT_FILE)
    scans = [cohort / "001" / f"flair_time0{visit}_on_middle_space.nii.gz" for visit in (1, 2)]
    predict = ["predict", run, "-t1", scans[0], "-t2", scans[1], "-o", "new.nii.gz"]
    (run / "model" / "notes.txt").touch()  # another model
    refusal = place.refused("point.other_model", predict)
    words = refusal.remedy.rsplit(": ", 1)[1].split()
    assert words == ["--operating-point", "off"]
    assert place.msseg([*predict, *words])[0] == 0
    assert ["tune"] in refusal.commands()
    assert place.msseg(["tune", product, *tune])[0] == 0
    assert place.msseg(predict)[0] == 0
