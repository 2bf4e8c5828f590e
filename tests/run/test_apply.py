"""A trained system on every pair of a data set, in any layout."""

from __future__ import annotations

import csv
import json

import nibabel as nib
import numpy as np
import pytest

from msseg_lightning.cli.main import main
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.run.apply import changed_config
from msseg_lightning.run.predict import json_safe_config


def table_of(cohort, path, names, with_reference=True):
    """A CSV of some pairs of the cohort: another layout of the same scans."""
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "baseline_flair", "followup_flair", "new_lesions"])
        for name in names:
            scans = [f"{name}/flair_time0{visit}_on_middle_space.nii.gz" for visit in (1, 2)]
            reference = f"{name}/ground_truth.nii.gz" if with_reference else ""
            writer.writerow([f"case{name}", *scans, reference])
    return [
        "read=table",
        f"read.manifest={path}",
        f"read.root={cohort}",
        "read.registered=true",
        "data.workers=1",
    ]


def test_another_layout_gives_the_scores_of_the_run(trained_run, tiny_cohort, tmp_path, capsys):
    words = table_of(tiny_cohort, tmp_path / "pairs.csv", ["003", "004"])
    out = tmp_path / "out"
    cache = f"paths.cache={tmp_path / 'cache'}"
    assert main(["predict", str(trained_run), "--folder", str(out), *words, cache]) == ExitCode.OK
    printed = capsys.readouterr().out
    assert "2 of 2 pairs predicted" in printed and "1 pairs with new lesions" in printed
    ours = json.loads((out / "scores.json").read_text())
    run = json.loads((trained_run / "scores.json").read_text())
    for name in ("003", "004"):
        assert ours["cases"][f"case{name}"]["official"] == run["cases"][name]["official"]
        mask = nib.load(out / f"case{name}.nii.gz")
        same = nib.load(trained_run / "predictions" / f"{name}.nii.gz")
        np.testing.assert_array_equal(np.asarray(mask.dataobj), np.asarray(same.dataobj))
        assert (out / f"case{name}_probability.nii.gz").exists()
    assert ours["data"]["trained_on"] == [] and len(ours["model"]["weights_sha256"]) == 64
    assert len((out / "scores.csv").read_text().splitlines()) == 3


def test_without_references_there_are_masks_and_no_scores(trained_run, tiny_cohort, tmp_path):
    words = table_of(tiny_cohort, tmp_path / "pairs.csv", ["003"], with_reference=False)
    out = tmp_path / "out"
    words += [f"paths.cache={tmp_path / 'cache'}", "postprocess.rules.threshold.value=1.0"]
    assert main(["predict", str(trained_run), "--folder", str(out), *words]) == ExitCode.OK
    assert not np.asarray(nib.load(out / "case003.nii.gz").dataobj).any()  # nothing exceeds 1
    assert not (out / "scores.json").exists()


def test_a_refused_pair_is_named_and_the_others_are_scored(
    trained_run, tiny_cohort, tmp_path, capsys
):
    manifest = tmp_path / "pairs.csv"
    words = table_of(tiny_cohort, manifest, ["003", "004"])
    text = manifest.read_text().replace("004/ground_truth", "004/flair_time01_on_middle_space")
    manifest.write_text(text)  # a scan in place of a mask
    out = tmp_path / "out"
    words += [f"paths.cache={tmp_path / 'cache'}"]
    assert main(["predict", str(trained_run), "--folder", str(out), *words]) == ExitCode.PARTIAL
    assert "case004" in capsys.readouterr().err
    content = json.loads((out / "scores.json").read_text())
    assert list(content["cases"]) == ["case003"] and content["data"]["left_out"] == ["case004"]


def test_training_pairs_are_no_test(trained_run, tiny_cohort, tmp_path, capsys):
    words = ["predict", str(trained_run), "--folder", str(tmp_path / "out")]
    words += ["read=msseg2", f"read.root={tiny_cohort}", f"paths.cache={tmp_path / 'cache'}"]
    assert main(words) == ExitCode.MODEL
    assert "trained on 2 of these 4 pairs" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*words, "--include-training"]) == ExitCode.OK
    content = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert content["data"]["trained_on"] == ["001", "002"]


def test_only_what_was_not_trained_can_be_set(trained_run, tmp_path):
    saved = json_safe_config(trained_run / "model")
    read = ["read=open_ms", f"read.root={tmp_path}"]
    changed = changed_config(saved, [*read, "infer.overlap=0.25", "postprocess=threshold_0_5"])
    assert changed["read"]["_target_"].endswith("OpenMs") and changed["infer"]["overlap"] == 0.25
    assert changed["network"] == saved["network"] and saved["infer"]["overlap"] == 0.5
    for wrong in ("network.widths=[8]", "infer.overlapp=0.25", "preprocess=bsi"):
        with pytest.raises(MssegError) as caught:
            changed_config(saved, [*read, wrong])
        assert caught.value.exit_code == ExitCode.CONFIG
