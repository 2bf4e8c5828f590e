"""Models, checkpoints, masks to be scored: the sound file in its place, or the right words."""

from __future__ import annotations

import shutil

import pytest
import torch

from msseg_lightning.evaluate.score import score_case
from msseg_lightning.network.weights import load_weights, save_weights
from msseg_lightning.postprocess.threshold import Threshold
from msseg_lightning.read.reader import read_subjects
from msseg_lightning.run.assemble.system import instantiate
from msseg_lightning.run.config.compose import compose_config
from msseg_lightning.run.config.debug import with_debug
from msseg_lightning.run.folder import RunFolder
from msseg_lightning.run.predict import onnx_networks
from msseg_lightning.run.predict.model_zip import opened_model, write_zip
from msseg_lightning.run.predict.trained import load_config
from msseg_lightning.run.train.initial_weights import refuse_seen, with_initial_weights
from msseg_lightning.split.split import Split
from msseg_lightning.train.checkpoint import read_checkpoint
from tests.conftest import tiny_words
from tests.read import files
from tests.remedies.place import Place, case
from tests.run.predict import test_model_zip


@case(
    "evaluate.missing", "evaluate.kinds", "evaluate.nothing", "evaluate.unmatched",
    "evaluate.ambiguous", "evaluate.grid",
)  # fmt: skip
def masks_to_be_scored(place: Place) -> None:
    mask = files.scans()[2]
    one, two = place.folder / "pred", place.folder / "true"
    files.save(one / "a.nii.gz", mask)
    files.save(two / "b.nii.gz", mask)
    right = ["evaluate", one / "a.nii.gz", two / "b.nii.gz"]
    refusal = place.refused("evaluate.missing", ["evaluate", one / "none.nii.gz", right[2]])
    assert refusal.remedy.startswith("check the spelling")
    refusal = place.refused("evaluate.kinds", ["evaluate", one, right[2]])
    assert refusal.remedy == "give the mask inside the folder"
    place.ends_well(right)
    words = ["evaluate", one, two]
    refusal = place.refused("evaluate.nothing", words)
    assert refusal.remedy.startswith("name both after the case")
    files.save(two / "a.nii.gz", mask)
    refusal = place.refused("evaluate.unmatched", words)
    assert refusal.remedy == "name the prediction so, or give the two masks themselves"
    files.save(one / "b.nii.gz", mask)
    place.ends_well(words)
    files.save(one / "b.nii", mask)
    refusal = place.refused("evaluate.ambiguous", words)
    assert refusal.remedy.startswith("move the others elsewhere")
    (one / "b.nii").unlink()
    files.save(one / "b.nii.gz", mask[:-2])
    refusal = place.refused("evaluate.grid", words)
    assert "resample the prediction to that grid" in refusal.remedy
    files.save(one / "b.nii.gz", mask)
    place.ends_well(words)


@case("evaluate.spacing", "evaluate.shape")
def arrays_to_be_scored(place: Place) -> None:
    mask = files.scans()[2].astype(bool)
    refusal = place.raised("evaluate.spacing", lambda: score_case(mask, mask, (1.0, 0.0, 1.0)))
    assert refusal.remedy == "take them from the header of the reference"
    refusal = place.raised("evaluate.shape", lambda: score_case(mask[1:], mask, (1.0, 1.0, 1.0)))
    assert refusal.remedy.startswith("predict on the native grid")
    score_case(mask, mask, (1.0, 1.0, 1.0))


@case("postprocess.threshold")
def a_threshold_above_one(place: Place) -> None:
    refusal = place.raised("postprocess.threshold", lambda: Threshold(1.5))
    assert refusal.remedy.endswith("give 0 to 1")
    Threshold(0.5)


@case("file.damaged", "file.missing", "checkpoint.unsafe")
def checkpoints(place: Place) -> None:
    path = place.folder / "last.ckpt"
    torch.save({"step": 3}, path)
    sound = path.read_bytes()
    path.write_bytes(sound[:-40])
    refusal = place.raised("file.damaged", lambda: read_checkpoint(path))
    assert "restore a copy" in refusal.remedy
    path.unlink()
    refusal = place.raised("file.missing", lambda: read_checkpoint(path))
    assert "restore a copy" in refusal.remedy
    torch.save({"step": shutil.copy}, path)
    refusal = place.raised("checkpoint.unsafe", lambda: read_checkpoint(path))
    assert refusal.remedy.startswith("train again")
    path.write_bytes(sound)
    assert read_checkpoint(path) == {"step": 3}


@case("weights.missing", "weights.card", "weights.hash", "weights.architecture")
def weights(place: Place) -> None:
    network = torch.nn.Linear(2, 2)
    kept, folder = place.folder / "kept", place.folder / "model"
    save_weights(network, kept)
    for code, file, content, remedy in (
        ("weights.card", "card.json", None, "copy the whole model folder"),
        ("weights.missing", "weights.safetensors", None, "train first"),
        ("weights.hash", "weights.safetensors", "last", "again from a source you trust"),
    ):
        shutil.copytree(kept, folder)
        if content is None:
            (folder / file).unlink()
        else:
            data = bytearray((folder / file).read_bytes())
            data[-1] ^= 1
            (folder / file).write_bytes(data)
        assert remedy in place.raised(code, lambda: load_weights(network, folder)).remedy
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)
        load_weights(network, folder)
        shutil.rmtree(folder)
    refusal = place.raised(
        "weights.architecture", lambda: load_weights(torch.nn.Linear(3, 2), kept)
    )
    assert refusal.remedy == "use the configuration that was saved with the model"
    load_weights(torch.nn.Linear(2, 2), kept)


@case("archive.entry", "archive.files", "archive.hash", "archive.contents", "archive.unreadable")
def an_archive_of_somebody_else(place: Place) -> None:
    sound, file = place.folder / "sound.zip", place.folder / "system.zip"
    write_zip(test_model_zip.save(place.folder / "model", "bsi_subtraction"), sound)

    def refused(code: str) -> None:
        def read() -> None:
            with opened_model(str(file)):
                pass

        refusal = place.raised(code, read)
        assert refusal.remedy.startswith("get the file again from a source that you trust")
        shutil.copy(sound, file)
        read()

    for code, form in {
        "archive.entry": "a path above",
        "archive.files": "a program",
        "archive.hash": "other bytes",
        "archive.contents": "no list",
    }.items():
        archive = test_model_zip.Changed(sound, file)
        test_model_zip.HOSTILE[form](archive)
        archive.write()
        refused(code)
    file.write_bytes(sound.read_bytes()[:-40])
    refused("archive.unreadable")


@case("archive.foreign")
def a_model_folder_with_something_else_in_it(place: Place) -> None:
    model = test_model_zip.save(place.folder / "model", "bsi_subtraction")
    (model / "notes.pdf").touch()
    words = ["export", model, "--zip", place.folder / "system.zip"]
    refusal = place.refused("archive.foreign", words)
    assert refusal.remedy == "move this file out of the model folder"
    (model / "notes.pdf").rename(place.folder / "notes.pdf")
    place.ends_well(words)


@case("onnx.system")
def a_system_without_a_network_as_onnx(place: Place) -> None:
    model = test_model_zip.save(place.folder / "model", "bsi_subtraction")
    with pytest.MonkeyPatch.context() as patch:  # the packages are an extra
        patch.setattr(onnx_networks, "_require_packages", lambda: None)
        refusal = place.refused("onnx.system", ["export", model, "--onnx", place.folder / "x"])
    for words in refusal.commands(RUN=str(model), FILE=str(place.folder / "system")):
        place.ends_well(words)


@case("init.no_weights", "init.nothing_fits")
def weights_that_cannot_be_given(place: Place) -> None:
    def start(model: str, experiment: str = "pre_unet") -> None:
        words = ["read.root=.", "size=tiny", f"train.init={place.folder / model}"]
        with_initial_weights(compose_config(words if model else words[:2], experiment))

    test_model_zip.save(place.folder / "rules", "bsi_subtraction")
    test_model_zip.save(place.folder / "same", "pre_unet")
    refusal = place.raised("init.no_weights", lambda: start("rules"))
    assert refusal.remedy.startswith("name a model of a system with a network")
    start("same")
    refusal = place.raised("init.nothing_fits", lambda: start("same", "subtraction_unet_2d"))
    assert refusal.remedy.startswith("give a model of the same network")
    assert refusal.remedy.endswith("or leave train.init out")
    start("", "subtraction_unet_2d")


@case("init.seen")
def weights_that_know_the_test(place: Place) -> None:
    run, cohort = place.fixture("trained_run"), place.fixture("tiny_cohort")
    given = compose_config([*tiny_words(cohort), f"train.init={run}"], "pre_unet")
    config = with_initial_weights(given)
    subjects = {one.id: one for one in read_subjects(instantiate(config["read"]))}
    split = Split(**RunFolder(run).split())
    other = Split(**{**RunFolder(run).split(), "train": split.test, "test": split.train})
    refusal = place.raised("init.seen", lambda: refuse_seen(given, config, subjects, other))
    assert refusal.remedy.startswith("give the run of the same fold")
    refuse_seen(given, config, subjects, split)


@case("predict.switch")
def a_switch_that_a_system_does_not_have(place: Place) -> None:
    rules = test_model_zip.save(place.folder / "rules", "bsi_subtraction")
    for switch in ("mirror=all", "threshold=0.3"):
        refusal = place.raised("predict.switch", lambda switch=switch: load_config(rules, [switch]))
        assert f"leave --{switch.partition('=')[0]} out" in refusal.remedy
    load_config(rules)
    network = test_model_zip.save(place.folder / "network", "pre_unet")
    refusal = place.raised("predict.switch", lambda: load_config(network, ["mirror=both"]))
    for value in refusal.expected.split(" or "):
        load_config(network, [f"mirror={value}"])
    refusal = place.raised("predict.switch", lambda: load_config(network, ["threshold=2"]))
    assert refusal.remedy.endswith("--threshold 0.3")
    load_config(network, ["threshold=0.3"])


@case("config.debug")
def a_short_training_that_does_not_exist(place: Place) -> None:
    words = ["read.root=.", "size=tiny"]
    wrong = compose_config([*words, "debug=slow"], "pre_unet")
    refusal = place.raised("config.debug", lambda: with_debug(wrong))
    for settings in refusal.settings():
        with_debug(compose_config([*words, *settings], "pre_unet"))
    several = compose_config([*words, "debug=overfit"], "segresnet_ensemble")
    refusal = place.raised("config.debug", lambda: with_debug(several))
    assert refusal.remedy.endswith("or one of its parts")
    with_debug(compose_config([*words, "debug=overfit"], "segresnet_deep"))
    for settings in refusal.settings():
        with_debug(compose_config([*words, *settings], "segresnet_ensemble"))
