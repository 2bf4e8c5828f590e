from __future__ import annotations

import pytest

from msseg_lightning.core.problem import MssegError
from msseg_lightning.core.subject import (
    BASELINE,
    BASELINE_LESIONS,
    BRAIN,
    FOLLOWUP,
    FOLLOWUP_LESIONS,
    TARGET,
)
from msseg_lightning.read.bids import Bids


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def scan(root, subject, session, suffix="FLAIR.nii.gz"):
    touch(root / subject / session / "anat" / f"{subject}_{session}_{suffix}")


def mask(root, subject, session, label):
    name = f"{subject}_{session}_{label}.nii.gz"
    touch(root / "derivatives" / "manual" / subject / session / "anat" / name)


def test_sessions_become_pairs(tmp_path):
    for session in ("ses-01", "ses-02", "ses-03"):
        scan(tmp_path, "sub-A", session)
    scan(tmp_path, "sub-B", "ses-01", "FLAIR.nii")
    scan(tmp_path, "sub-B", "ses-02", "T1w.nii.gz")
    mask(tmp_path, "sub-A", "ses-02", "label-newlesion_mask")
    mask(tmp_path, "sub-A", "ses-02", "desc-rater1_label-newlesion_mask")
    mask(tmp_path, "sub-A", "ses-02", "desc-brain_mask")
    mask(tmp_path, "sub-A", "ses-01", "label-lesion_mask")
    mask(tmp_path, "sub-A", "ses-02", "label-lesion_mask")
    (tmp_path / "participants.tsv").write_text("participant_id\tsex\nsub-A\tM\n")
    reader = Bids(tmp_path)
    first, second = reader.subjects()
    assert first.id == "sub-A_ses-01_ses-02" and first.patient == second.patient == "sub-A"
    assert second.images[BASELINE] == first.images[FOLLOWUP]
    assert set(first.masks) == {
        TARGET, f"{TARGET}_rater1", BRAIN, BASELINE_LESIONS, FOLLOWUP_LESIONS
    }  # fmt: skip
    assert "ses-01" in first.masks[BASELINE_LESIONS].parts
    assert set(second.masks) == {BASELINE_LESIONS} and not second.labelled
    assert first.facts.sex == "M" and not first.registered
    assert [problem.file for problem in reader.skipped()] == ["sub-B"]


def test_two_candidates_are_refused_until_one_is_chosen(tmp_path):  # D24
    scan(tmp_path, "sub-A", "ses-01", "run-1_FLAIR.nii.gz")
    scan(tmp_path, "sub-A", "ses-01", "run-2_FLAIR.nii.gz")
    scan(tmp_path, "sub-A", "ses-02", "run-1_FLAIR.nii.gz")
    with pytest.raises(MssegError, match=r"bids.ambiguous.*run-1.*run-2"):
        Bids(tmp_path).subjects()
    (pair,) = Bids(tmp_path, entities={"run": 1}).subjects()
    assert "run-1" in pair.images[BASELINE].name


def test_no_pair(tmp_path):
    scan(tmp_path, "sub-A", "ses-01")
    with pytest.raises(MssegError, match=r"data.empty"):
        Bids(tmp_path).subjects()
