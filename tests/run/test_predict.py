"""A trained system answers on the patient's own grid and says where the answer came from."""

from __future__ import annotations

import csv
import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from msseg_lightning.cli.main import main
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.run.predict import find_model, load_method


@pytest.fixture
def pair(tiny_cohort):
    folder = tiny_cohort / "003"
    return [folder / f"flair_time0{visit}_on_middle_space.nii.gz" for visit in (1, 2)]


def test_a_pair_is_predicted_as_it_was_in_its_run(trained_run, pair, tmp_path):
    out, probability = tmp_path / "new.nii.gz", tmp_path / "p.nii.gz"
    words = ["predict", str(trained_run), "-t1", str(pair[0]), "-t2", str(pair[1])]
    assert main([*words, "-o", str(out), "--probability", str(probability)]) == ExitCode.OK
    mask = nib.load(out)
    scan = nib.load(pair[1])
    assert mask.shape == scan.shape
    np.testing.assert_allclose(mask.affine, scan.affine, atol=1e-5)
    again = nib.load(trained_run / "predictions" / "003.nii.gz")
    np.testing.assert_array_equal(np.asarray(mask.dataobj), np.asarray(again.dataobj))
    values = np.asarray(nib.load(probability).dataobj)
    assert values.dtype == np.float32 and values.min() >= 0 and values.max() <= 1
    np.testing.assert_array_equal(values > 0.5, np.asarray(mask.dataobj) > 0)
    record = json.loads((tmp_path / "new.json").read_text())
    assert record["system"] == "pre_unet" and len(record["model_sha256"]) == 64


def test_the_same_pair_gives_the_same_bytes(trained_run, pair, tmp_path):
    for name in ("a", "b"):
        words = ["predict", str(trained_run), "-t1", str(pair[0]), "-t2", str(pair[1])]
        assert main([*words, "-o", str(tmp_path / f"{name}.nii.gz")]) == ExitCode.OK
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_in_a_table_a_refused_pair_is_left_out_and_named(trained_run, pair, tmp_path, capsys):
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(pair[1].read_bytes()[:2000])
    good = [shutil.copy(path, tmp_path / path.name) for path in pair]
    table = tmp_path / "pairs.csv"
    with table.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "baseline_flair", "followup_flair"])
        writer.writerow(["good", *(path.name for path in map(type(table), good))])
        writer.writerow(["bad", pair[0].name, broken.name])
    folder = tmp_path / "out"
    words = ["predict", str(trained_run), "--table", str(table), "--folder", str(folder)]
    assert main(words) == ExitCode.PARTIAL
    assert (folder / "good.nii.gz").exists() and not (folder / "bad.nii.gz").exists()
    assert "bad" in capsys.readouterr().err


def test_an_output_never_overwrites_an_input(trained_run, pair, capsys):
    words = ["predict", str(trained_run), "-t1", str(pair[0]), "-t2", str(pair[1])]
    assert main([*words, "-o", str(pair[1])]) == ExitCode.CONFIG
    assert "overwrite" in capsys.readouterr().err


def test_an_unknown_model_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MssegError) as caught:
        find_model("nowhere")
    assert caught.value.exit_code == ExitCode.MODEL


def test_a_hostile_model_configuration_builds_nothing(trained_run, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(trained_run / "model", copy)
    text = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(text.replace("torch.optim.AdamW", "os.system"))
    with pytest.raises(MssegError) as caught:
        load_method(copy)
    assert caught.value.exit_code == ExitCode.SECURITY


def test_changed_weights_are_refused(trained_run, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(trained_run / "model", copy)
    weights = copy / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(MssegError) as caught:
        load_method(copy)
    assert caught.value.exit_code == ExitCode.SECURITY
