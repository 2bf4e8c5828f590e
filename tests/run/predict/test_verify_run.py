"""Two runs: what is promised about them, where they part and why."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from msseg_lightning.core.files import write_record
from msseg_lightning.run.folder import RunFolder
from msseg_lightning.run.predict.verify_run import (
    BIT_FOR_BIT,
    NOTHING,
    STAGES,
    STATISTICAL,
    verify_runs,
)


@pytest.fixture
def runs(trained_run, tmp_path) -> tuple[Path, Path]:
    """A run and its copy, on a processor that is known and with unchanged code."""
    found = tmp_path / "a", tmp_path / "b"
    for folder in found:
        shutil.copytree(trained_run, folder)
        change(folder, git={"commit": "c0ffee", "dirty": False}, cpu_flags=["avx2"], gpus=[])
    return found


def change(folder, **environment):
    record = RunFolder(folder).record()
    write_record(folder / "run.json", record | {"environment": record["environment"] | environment})


def verify(runs):
    return verify_runs(*map(RunFolder, runs))


def test_equal_runs_keep_the_promise(runs):
    found = verify(runs)
    assert (found.promise, found.kept, found.exit_code) == (BIT_FOR_BIT, True, 0)
    assert not found.parted and not found.why and found.first_difference is None
    assert list(found.compared) == list(STAGES) and all(found.compared.values())
    json.dumps(found.as_dict())


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"torch_threads": 7}, "torch_threads"),
        ({"cpu_flags": ["avx2", "fma"]}, "cpu_flags"),
        ({"cpu_flags": []}, "cpu_flags"),
        ({"gpus": ["H200"]}, "gpus"),
        ({"python": "3.99"}, "python"),
        ({"packages": {"torch": "9"}}, "torch"),
        ({"git": {"commit": "beef", "dirty": False}}, "git.commit"),
        ({"git": {"commit": "c0ffee", "dirty": True}}, "code"),
    ],
)
def test_another_machine_is_named_and_less_is_promised(changes, name, runs):
    change(runs[1], **changes)
    found = verify(runs)
    assert found.promise == STATISTICAL and name in {fact.name for fact in found.why}


def test_a_command_line_and_free_processors_decide_nothing(runs):
    change(runs[1], command=["other"], cpu_count=99)
    assert verify(runs).promise == BIT_FOR_BIT


def test_other_data_are_another_experiment(runs):
    record = RunFolder(runs[1]).record()
    write_record(runs[1] / "run.json", record | {"data_hash": "0" * 16})
    found = verify(runs)
    assert found.promise == NOTHING and [fact.name for fact in found.why] == ["data"]


def damage_weights(run):
    from safetensors.numpy import load_file, save_file

    (file,) = (run / "model").glob("*.safetensors")
    tensors = load_file(file)
    name = sorted(tensors)[0]
    tensors[name] = tensors[name] + np.float32(0.5)
    save_file(tensors, file)


def damage_image(pattern):
    def damage(run):
        (file,) = (run / "predictions").glob(pattern)
        image = nib.load(file)
        data = np.array(image.dataobj)
        data[0, 0, :2] = 1 - data[0, 0, :2]
        nib.save(nib.Nifti1Image(data, image.affine, image.header), file)

    return damage


def damage_scores(run):
    scores = RunFolder(run).scores()
    scores["cases"]["003"]["official"]["Dice"] = 0.123
    write_record(run / "scores.json", scores)


def damage_curves(run):
    file = run / "fit" / "curves.csv"
    file.write_text(file.read_text().replace("train/loss,", "train/loss,9", 1))


@pytest.mark.parametrize(
    ("stage", "damage", "said"),
    [
        ("training", damage_curves, "train/loss"),
        ("weights", damage_weights, "at most 0.5"),
        ("maps", damage_image("003_probability.nii.gz"), "2 of"),
        ("masks", damage_image("003.nii.gz"), "2 of"),
        ("scores", damage_scores, "003.official.Dice"),
    ],
)
def test_the_stage_that_differs_is_named(stage, damage, said, runs):
    damage(runs[1])
    found = verify(runs)
    assert list(found.parted) == [stage] == [found.first_difference]
    assert said in found.parted[stage] and found.exit_code == 7 and not found.kept
    change(runs[1], torch_threads=7)
    assert verify(runs).exit_code == 0  # nothing else was promised


def test_a_file_in_one_run_only_is_a_difference(runs):
    (runs[1] / "predictions" / "003.nii.gz").unlink()
    assert verify(runs).parted == {"masks": "predictions/003.nii.gz is in one run only"}


def test_equal_voxels_in_other_bytes_are_equal(runs):
    (file,) = (runs[1] / "predictions").glob("003.nii.gz")
    nib.save(nib.load(file), file.with_name("again.nii.gz"))
    file.with_name("again.nii.gz").rename(file)
    assert not verify(runs).parted
