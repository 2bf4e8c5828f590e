import hashlib
import json

import nibabel
import numpy as np
import pytest

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.core.volume import Volume
from msseg_lightning.simulate.cohort import nifti_bytes, summarise, write_cohort
from msseg_lightning.simulate.recipe import CohortRecipe


def digests(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_layout(written):
    assert sorted(path.name for path in written.iterdir()) == [
        "001", "002", "003", "004", "cohort.json", "lesions.tsv", "participants.tsv", "split.json"
    ]  # fmt: skip
    rows = (written / "participants.tsv").read_text().splitlines()
    assert rows[0].split("\t")[:5] == ["participant_id", "part", "sex", "age", "site"]
    assert [row.split("\t")[:2] for row in rows[1:]] == [
        ["001", "train"], ["002", "train"], ["003", "test"], ["004", "test"]
    ]  # fmt: skip
    assert json.loads((written / "split.json").read_text()) == {
        "train": ["001", "002"],
        "test": ["003", "004"],
    }
    lesions = (written / "lesions.tsv").read_text().splitlines()
    assert "fate" in lesions[0] and any("\tnew\t" in row for row in lesions)


def test_files_read_back(written):
    image = nibabel.load(written / "001" / "flair_time01_on_middle_space.nii.gz")
    truth = nibabel.load(written / "001" / "ground_truth.nii.gz")
    assert image.shape == truth.shape and np.allclose(image.affine, truth.affine)
    assert int(image.header["sform_code"]) == int(image.header["qform_code"]) == 1
    assert set(np.unique(np.asarray(truth.dataobj))) <= {0, 1}


def test_any_workers_order_and_subset_give_the_same_bytes(written, tiny, tmp_path):
    write_cohort(tmp_path, tiny, 0, workers=2, indices=[3, 0])
    expected = digests(written)
    for name, digest in digests(tmp_path).items():
        if "/" in name:
            assert digest == expected[name], name


def test_resumes_after_damage(written, tiny, tmp_path):
    write_cohort(tmp_path, tiny, 0, indices=[0])
    stamp = (tmp_path / "001" / "patient.json").stat().st_mtime_ns
    half = tmp_path / "002"  # a folder that some other program left without a record
    half.mkdir()
    (half / "flair_time01_on_middle_space.nii.gz").write_bytes(b"half")
    left = tmp_path / ".partial-002-abc"  # what a killed run leaves
    left.mkdir()
    (left / "ground_truth.nii.gz").write_bytes(b"")
    write_cohort(tmp_path, tiny, 0, indices=[0, 1])
    assert not left.exists()
    assert (tmp_path / "001" / "patient.json").stat().st_mtime_ns == stamp  # not made again
    expected = digests(written)
    assert all(
        digest == expected[name] for name, digest in digests(tmp_path).items() if "/" in name
    )


def test_another_cohort_is_not_mixed_in(written, tiny):
    with pytest.raises(MssegError) as caught:
        write_cohort(written, tiny, 1)
    problem = caught.value.problems[0]
    assert caught.value.exit_code == ExitCode.DATA
    assert (problem.field, problem.found, problem.expected) == ("seed", "0", "1")


def test_bytes_do_not_depend_on_the_time(monkeypatch):
    volume = Volume(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.diag([1.0, 2, 3, 1]))
    first = nifti_bytes(volume)
    monkeypatch.setattr("time.time", lambda: 1.0)
    assert nifti_bytes(volume) == first
    image = nibabel.Nifti1Image.from_bytes(__import__("gzip").decompress(first))
    assert np.array_equal(np.asarray(image.dataobj), volume.data)


def test_statistics_of_the_challenge_without_rendering():
    summary = summarise(CohortRecipe(), 0)
    assert (summary["without"], summary["with_one"]) == (11, 9)
    assert 130 <= summary["new"] <= 175 and summary["most"] <= 32
