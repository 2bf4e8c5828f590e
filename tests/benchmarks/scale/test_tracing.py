"""What a tiny training and a prediction read of each file, in numbers that may not grow."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.scale.tracing import Trace, prediction_words, table, traced_command
from msseg_lightning.core import input_hash
from msseg_lightning.core.input_hash import Input
from msseg_lightning.read import reference
from msseg_lightning.read.nifti import read_volume

TRAINED, HELD_OUT = ("001", "002"), ("003", "004")
SCANS = [f"flair_time0{visit}_on_middle_space.nii.gz" for visit in (1, 2)]


@pytest.fixture
def settled(monkeypatch):
    """The cohort counts as old, and nothing is known of it yet."""
    monkeypatch.setattr(input_hash, "SETTLED_S", -1.0)
    monkeypatch.setattr(input_hash, "_known", {})
    monkeypatch.setattr(reference, "_known", {})


def test_each_file_is_hashed_once_and_decoded_for_what_needs_it(
    settled, coarse_cohort, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    words = ["train", "pre_unet", f"read.root={coarse_cohort}", "split=file", "track=off"]
    words += [f"split.path={coarse_cohort / 'split.json'}", "preprocess=nonzero_zscore_native"]
    words += ["network.widths=[8,8,8]", "sample.size=[16,16,16]", "infer.size=16"]
    words += ["postprocess.rules.threshold.value=1.0", "train.steps=2", "train.validate_every=1"]
    words += ["data.workers=1"]
    counts = traced_command(coarse_cohort, words)

    def of(patients, file, kind):
        return {counts[f"{patient}/{file}"][kind] for patient in patients}

    for file in SCANS:
        assert of((*TRAINED, *HELD_OUT), file, "hashed") == {1}
        assert of(TRAINED, file, "decoded") == {1}  # the preparation
        # and the contrast of its lesions, and the pictures of the report
        assert of(HELD_OUT[:1], file, "decoded") <= {2, 3}
        assert of(HELD_OUT[1:], file, "decoded") == {1}  # nothing was found there to be shown
    assert of((*TRAINED, *HELD_OUT), "ground_truth.nii.gz", "hashed") == {1}
    # the preparation; and one for split, score and report
    assert of((*TRAINED, *HELD_OUT), "ground_truth.nii.gz", "decoded") == {2}
    for rater in range(1, 5):
        file = f"ground_truth_expert{rater}.nii.gz"
        assert of((*TRAINED, *HELD_OUT), file, "hashed") <= {0, 1}
        assert of(TRAINED, file, "decoded") == {0}
        assert of(HELD_OUT, file, "decoded") == {1}  # raters are scored
    assert max(row["decoded"] for row in counts.values()) <= 3

    (run,) = (tmp_path / "runs" / "pre_unet").iterdir()
    words = prediction_words(coarse_cohort, tmp_path, run)
    first, second = (traced_command(coarse_cohort, words) for _ in range(2))
    assert {name: (row["hashed"], row["decoded"]) for name, row in first.items()} == {
        f"003/{file}": (0, 1)  # this process has hashed them for the training
        for file in SCANS
    }
    assert not any(row["hashed"] or row["decoded"] for row in second.values())


def test_counts_are_those_of_the_block(settled, coarse_cohort, tmp_path):
    scan, other = (coarse_cohort / "001" / name for name in SCANS)
    with Trace(coarse_cohort).counting() as counts:
        read_volume(scan)
        read_volume(scan)
        Input(other).sha256()
        Path(tmp_path / "a.nii.gz").write_bytes(b"")
        (tmp_path / "a.nii.gz").read_bytes()  # elsewhere
    Input(other).sha256()
    read_volume(scan)
    assert dict(counts) == {
        f"001/{SCANS[0]}": {"opened": 2, "hashed": 0, "decoded": 2},
        f"001/{SCANS[1]}": {"opened": 1, "hashed": 1, "decoded": 0},
    }
    (_, _, first, _, last) = ("", *table(counts).splitlines())
    assert first.split() == [SCANS[0], "1", "2", "0", "2"]
    assert last.split() == ["all", "2", "3", "1", "2"]
