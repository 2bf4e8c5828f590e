import contextlib
import hashlib
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import nibabel
import numpy as np
import pytest

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.core.volume import Volume
from msseg_lightning.simulate import cohort
from msseg_lightning.simulate.cohort import nifti_bytes, summarise, write_cohort, write_patient
from msseg_lightning.simulate.patient import RENDERER_VERSION, SimulatedPatient
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


class Halfway(dict):
    """Files of a patient: after the first, its writer waits."""

    def __init__(self, files):
        super().__init__(files)
        self.reached, self.go_on = threading.Event(), threading.Event()

    def items(self):
        first, second = super().items()
        yield first
        self.reached.set()
        assert self.go_on.wait(20)
        yield second


def test_several_at_once_write_each_patient_once(tiny, tmp_path, monkeypatch):
    voxel = Volume(np.zeros((1, 1, 1), np.int16), np.eye(4))
    slow, made = Halfway({"a": voxel, "b": voxel}), []

    def simulate(recipe, seed, index):
        made.append(index)
        name = recipe.patient_name(index)
        return SimulatedPatient(
            name, {"a": voxel} if index else slow, {"participant_id": name, "part": "train"}, ()
        )

    monkeypatch.setattr(cohort, "simulate_patient", simulate)
    with ThreadPoolExecutor(2) as both:
        first = both.submit(write_cohort, tmp_path, tiny, 0, indices=[0])
        assert slow.reached.wait(20)
        (tmp_path / ".partial-009-abc").mkdir()  # another process is about to rename it
        (tmp_path / ".partial-009-abc" / "patient.json").touch()
        write_cohort(tmp_path, tiny, 0, indices=[1])  # does not wait for patient 0
        second = both.submit(write_cohort, tmp_path, tiny, 0, indices=[0])
        with pytest.raises(TimeoutError):
            second.result(timeout=0.3)
        slow.go_on.set()
        first.result(), second.result()
    assert made == [0, 1]
    assert json.loads((tmp_path / "split.json").read_text())["train"] == ["001", "002"]
    assert sorted(path.name for path in (tmp_path / "001").iterdir()) == [
        "a.nii.gz", "b.nii.gz", "patient.json"
    ]  # fmt: skip
    assert not list(tmp_path.glob(".*.lock"))


def test_a_patient_is_on_the_disk_before_it_has_its_name(patients, tmp_path, monkeypatch):
    flushed, replace = {}, os.replace

    def fsync(descriptor):
        flushed[os.fstat(descriptor).st_ino] = os.fstat(descriptor).st_size

    def rename(partial, target):
        assert all(flushed[file.stat().st_ino] == file.stat().st_size for file in partial.iterdir())
        assert partial.stat().st_ino in flushed
        replace(partial, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", rename)
    assert (write_patient(tmp_path, patients[0]) / "patient.json").is_file()


def test_patients_that_the_cohort_does_not_have_are_refused(tiny, tmp_path):
    with pytest.raises(MssegError) as caught:
        write_cohort(tmp_path / "cohort", tiny, 0, indices=[-1, 3, 4, 99999])
    (problem,) = caught.value.problems
    assert caught.value.exit_code == ExitCode.CONFIG
    assert (problem.found, problem.expected) == ("-1, 4, 99999", "0 to 3")
    assert not (tmp_path / "cohort").exists()


def test_another_cohort_is_not_mixed_in(written, tiny):
    with pytest.raises(MssegError) as caught:
        write_cohort(written, tiny, 1)
    problem = caught.value.problems[0]
    assert caught.value.exit_code == ExitCode.DATA
    assert (problem.field, problem.found, problem.expected) == ("seed", "0", "1")


def test_of_two_recipes_in_one_empty_folder_the_second_is_refused(tiny, tmp_path, monkeypatch):
    writing, go_on = threading.Event(), threading.Event()
    write_json = cohort.write_json

    def slowly(path, record):
        if path.name == "cohort.json" and record["seed"] == 0:
            writing.set()
            assert go_on.wait(20)
        write_json(path, record)

    monkeypatch.setattr(cohort, "write_json", slowly)
    with ThreadPoolExecutor(2) as both:
        first = both.submit(write_cohort, tmp_path, tiny, 0, indices=[])
        assert writing.wait(20)
        second = both.submit(write_cohort, tmp_path, tiny, 1, indices=[])
        with contextlib.suppress(TimeoutError):
            second.exception(timeout=0.3)  # it has looked: there was no record yet
        go_on.set()
        assert first.result() == tmp_path
        assert second.exception().problems[0].code == "simulate.other_cohort"
    assert json.loads((tmp_path / "cohort.json").read_text())["seed"] == 0
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("version", [None, 0, RENDERER_VERSION + 1])
def test_a_cohort_of_another_renderer_is_not_continued(version, tiny, tmp_path, monkeypatch):
    cohort_file = write_cohort(tmp_path, tiny, 0, indices=[]) / "cohort.json"
    record = json.loads(cohort_file.read_text())
    assert record.pop("renderer_version") == RENDERER_VERSION
    if version is not None:  # None: begun before versions were recorded
        record["renderer_version"] = version
    cohort_file.write_text(json.dumps(record))
    before = digests(tmp_path)
    monkeypatch.setattr(cohort, "simulate_patient", None)
    with pytest.raises(MssegError) as caught:
        write_cohort(tmp_path, tiny, 0)
    (problem,) = caught.value.problems
    assert (problem.code, problem.exit_code) == ("simulate.other_version", ExitCode.DATA)
    assert problem.field == "renderer_version" and problem.expected == str(RENDERER_VERSION)
    assert problem.found.startswith("none" if version is None else str(version))
    assert problem.file == cohort_file and "another folder" in problem.remedy
    assert digests(tmp_path) == before


@pytest.mark.parametrize("content", ["", "{", "[]", "\ufffd"])
def test_a_damaged_record_is_no_cohort_of_ours(content, tiny, tmp_path):
    (tmp_path / "cohort.json").write_text(content)
    with pytest.raises(MssegError) as caught:
        write_cohort(tmp_path, tiny, 0)
    assert caught.value.problems[0].code == "simulate.other_cohort"


@pytest.mark.parametrize("name", ["participants.tsv", "split.json", "003/scan.nii.gz"])
def test_data_of_others_are_no_place_for_a_cohort(name, tiny, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(MssegError) as caught:
        write_cohort(tmp_path, tiny, 0, indices=[])
    assert caught.value.problems[0].code == "simulate.foreign_folder"
    assert list(digests(tmp_path)) == [name] and (tmp_path / name).read_text() == "mine"


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
