import dataclasses
import logging
import multiprocessing
import os
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject import (
    BASELINE,
    FOLLOWUP,
    RATER,
    TARGET,
    LoadedSubject,
    LongitudinalSubject,
    Native,
)
from msseg_lightning.core.subject_map import map_subjects as real
from msseg_lightning.core.volume import Grid, Volume
from msseg_lightning.preprocess.cache import PreparedCache
from msseg_lightning.preprocess.intensity import ZScore
from msseg_lightning.preprocess.pipeline import Preprocess
from msseg_lightning.read.load import load_subject
from msseg_lightning.read.msseg2 import Msseg2
from tests.read import files


def load(subject):
    """Stands for the reader: brightness from the file's first byte. ``bad`` files are refused, and
    ``kill`` ends the process as the kernel does when memory is short."""
    content = subject.images[BASELINE].read_bytes()
    if content == b"bad":
        raise MssegError(Problem("image.bad", f"{subject.id}: cannot be read"))
    if content == b"kill":
        os._exit(9)
    if content == b"bug":
        raise RuntimeError("a mistake of ours")
    data = np.random.default_rng(content[0]).random((8, 9, 7)).astype(np.float32)
    volumes = {
        BASELINE: Volume(data, np.eye(4)),
        FOLLOWUP: Volume(data + 1, np.eye(4)),
        TARGET: Volume(data > 0.9, np.eye(4), "mask"),
    }
    return LoadedSubject(subject, volumes, Native(Grid((8, 9, 7), np.eye(4)), b""))


@dataclasses.dataclass(frozen=True)
class Counted:
    """Leaves one file per call behind."""

    folder: str

    version: ClassVar[int] = 1

    def __call__(self, subject):
        (Path(self.folder) / f"{os.getpid()}-{len(list(Path(self.folder).iterdir()))}").touch()
        return subject


@pytest.fixture
def subjects(tmp_path):
    def make(contents):
        pairs = []
        for number, content in enumerate(contents):
            path = tmp_path / f"{number}.nii"
            path.write_bytes(content)
            pairs.append(LongitudinalSubject(f"p{number}", f"p{number}", {BASELINE: path}))
        return pairs

    return make


@pytest.fixture
def calls(tmp_path):
    folder = tmp_path / "calls"
    folder.mkdir()
    return folder


def test_made_once_and_found_again(subjects, calls, tmp_path):
    pairs = subjects([b"a", b"b", b"c"])
    chain = Preprocess([Counted(str(calls)), ZScore("volume")])
    cache = PreparedCache(tmp_path / "cache", chain, load)
    first = cache.prepare(pairs)
    assert [entry.id for entry in first] == ["p0", "p1", "p2"]
    expected = ZScore("volume")(load(pairs[1])).volumes[BASELINE].data
    np.testing.assert_allclose(first[1].image(BASELINE), expected, atol=1e-4)
    cache.prepare(pairs)
    assert len(list(calls.iterdir())) == 3
    assert not list((tmp_path / "cache").glob(".partial*"))
    pairs[0].images[BASELINE].write_bytes(b"z")
    cache.prepare(pairs)
    assert len(list(calls.iterdir())) == 4


def test_a_broken_entry_is_built_again(subjects, calls, tmp_path, caplog):
    (pair,) = subjects([b"a"])
    chain = Preprocess([Counted(str(calls))])
    cache = PreparedCache(tmp_path / "cache", chain, load)
    entry = cache.prepare([pair])[0]
    before = np.array(entry.image(BASELINE))
    array = next(entry.folder.glob("pair.npy"))
    raw = bytearray(array.read_bytes())
    raw[-5] ^= 255  # one flipped byte, size unchanged
    array.write_bytes(raw)
    with caplog.at_level(logging.WARNING):
        again = cache.prepare([pair])[0]
    np.testing.assert_array_equal(again.image(BASELINE), before)
    assert "damaged" in caplog.text
    (again.folder / "meta.json").unlink()
    cache.prepare([pair])
    assert len(list(calls.iterdir())) == 3


@pytest.mark.parametrize("left", [0, 60], ids=["empty", "cut"])
@pytest.mark.parametrize("file", ["pair.npy", "meta.json", "voxels_brain.npy"])
def test_what_a_power_cut_left_is_built_again(file, left, subjects, calls, tmp_path):
    """Contents are flushed before the rename; a disk that lies about it is found out."""
    (pair,) = subjects([b"a"])
    cache = PreparedCache(tmp_path / "cache", Preprocess([Counted(str(calls))]), load)
    entry = cache.prepare([pair])[0]
    before = np.array(entry.image(BASELINE))
    content = (entry.folder / file).read_bytes()
    (entry.folder / file).write_bytes(content[:left])
    np.testing.assert_array_equal(cache.prepare([pair])[0].image(BASELINE), before)
    assert (entry.folder / file).read_bytes() == content and len(list(calls.iterdir())) == 2


def test_all_problems_name_their_pair_and_good_pairs_are_kept(subjects, tmp_path):
    pairs = subjects([b"bad", b"a", b"bug"])
    cache = PreparedCache(tmp_path / "cache", Preprocess(), load)
    with pytest.raises(MssegError) as caught:
        cache.prepare(pairs)
    assert [problem.code for problem in caught.value.problems] == ["image.bad", "preprocess.failed"]
    assert "p2" in str(caught.value) and "mistake" in str(caught.value)
    assert cache.place(pairs[1]).is_dir()
    assert not list((tmp_path / "cache").glob(".partial*"))


def test_workers_agree_with_one_process(subjects, tmp_path):
    pairs = subjects([b"a", b"b", b"c"])
    chain = Preprocess([ZScore("volume")])
    one = PreparedCache(tmp_path / "one", chain, load).prepare(pairs)
    two = PreparedCache(tmp_path / "two", chain, load, workers=2).prepare(pairs)
    assert [entry.sha256 for entry in one] == [entry.sha256 for entry in two]


def test_a_killed_worker_is_named_and_others_are_finished(subjects, tmp_path):
    pairs = subjects([b"a", b"kill", b"c"])
    cache = PreparedCache(tmp_path / "cache", Preprocess(), load, workers=2)
    with pytest.raises(MssegError, match="p1") as caught:
        cache.prepare(pairs)
    assert [problem.code for problem in caught.value.problems] == ["preprocess.killed"]
    assert caught.value.exit_code == ExitCode.ENVIRONMENT
    assert cache.place(pairs[0]).is_dir() and cache.place(pairs[2]).is_dir()


def refuse(subject):
    """Stands for the gate, which never opens what is no regular file."""
    raise MssegError(Problem("image.missing", f"{subject.id}: there is no such file"))


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir, os.mkfifo])
def test_the_gate_explains_what_is_no_file(make, tmp_path):
    """A missing file was an internal error, and hashing a pipe waited for ever."""
    make(tmp_path / "scan")
    images = {BASELINE: tmp_path / "scan", FOLLOWUP: tmp_path / "scan"}
    subject = LongitudinalSubject(id="a", patient="a", images=images)
    with pytest.raises(MssegError, match="there is no such file") as caught:
        PreparedCache(tmp_path / "cache", Preprocess([]), refuse).prepare([subject])
    assert caught.value.exit_code == ExitCode.DATA


def test_a_full_disk_is_the_machines_business(subjects, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(MssegError) as caught:
        PreparedCache(tmp_path / "cache", Preprocess([]), load).prepare(subjects([b"1"]))
    assert caught.value.exit_code == ExitCode.ENVIRONMENT


def _prepare(folder, calls, pairs):
    PreparedCache(folder, Preprocess([Counted(str(calls))]), load).prepare(pairs)


def test_several_processes_share_a_cache(subjects, calls, tmp_path):
    pairs = subjects([b"a", b"b", b"c", b"d"])
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_prepare, args=(tmp_path / "cache", calls, pairs)) for _ in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    cache = PreparedCache(tmp_path / "cache", Preprocess([Counted(str(calls))]), load)
    for entry in cache.prepare(pairs):
        entry.verify()


def test_no_process_is_started_where_everything_is_there(subjects, tmp_path, monkeypatch):
    pairs = subjects([b"a", b"b", b"c"])
    first = PreparedCache(tmp_path / "cache", Preprocess([ZScore()]), load)
    first.prepare(pairs[:2])
    asked = []
    monkeypatch.setattr(
        "msseg_lightning.preprocess.cache.map_subjects",
        lambda function, missing, *rest: asked.append(list(missing)) or real(function, missing, 1),
    )
    again = PreparedCache(tmp_path / "cache", Preprocess([ZScore()]), load, workers=2)
    assert len(again.prepare(pairs[:2])) == 2
    assert len(again.prepare(pairs)) == 3
    assert asked == [[], [pairs[2].id]]


def test_a_file_that_is_replaced_while_it_is_read_makes_no_entry(tmp_path):
    """The folder's name stands for the bytes that were hashed, the arrays for those read."""
    files.good_pair(tmp_path)
    (pair,) = Msseg2(tmp_path).subjects()

    def load_another(subject):
        files.save(subject.images[BASELINE], files.scans()[0] + 3)
        return load_subject(subject)

    cache = PreparedCache(tmp_path / "cache", Preprocess(), load_another)
    with pytest.raises(MssegError, match=r"data\.changed.*baseline_flair") as caught:
        cache.prepare([pair])
    assert len(caught.value.problems) == 1
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    again = PreparedCache(tmp_path / "cache", Preprocess(), load_subject).prepare([pair])
    assert again[0].image(BASELINE).max() > files.scans()[0].max() + 1


def test_masks_of_raters_are_prepared_only_where_they_are_named(tmp_path):
    folder = files.good_pair(tmp_path)
    for rater in range(1, 5):
        (folder / f"ground_truth_expert{rater}.nii.gz").write_bytes(b"damaged")
    (pair,) = Msseg2(tmp_path).subjects()
    files.save(folder / "ground_truth_expert2.nii.gz", files.scans()[2])
    without = PreparedCache(tmp_path / "cache", Preprocess(), load_subject)
    with_one = PreparedCache(tmp_path / "cache", Preprocess(), load_subject, raters=[f"{RATER}2"])
    assert without.prepare([pair])[0].mask_names == (TARGET,)
    assert set(with_one.prepare([pair])[0].mask_names) == {TARGET, f"{RATER}2"}
    place = without.place(pair)
    (folder / "ground_truth_expert1.nii.gz").write_bytes(b"something else")
    assert without.place(pair) == place != with_one.place(pair)
