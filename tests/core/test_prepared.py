import dataclasses
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from msseg_lightning.core.files import write_record
from msseg_lightning.core.prepared import CANDIDATES, PreparedSubject, quantise
from msseg_lightning.core.problem import MssegError
from msseg_lightning.core.subject import (
    BASELINE,
    BRAIN,
    FOLLOWUP,
    TARGET,
    LoadedSubject,
    LongitudinalSubject,
    Native,
)
from msseg_lightning.core.volume import Grid, Volume

SHAPE = (20, 24, 17)
AFFINE = np.array([[0.5, 0, 0, -9], [0, 0.8, 0, 3], [0, 0, 3.0, 1], [0, 0, 0, 1]])


def pair(extra: dict[str, Volume] | None = None, without: tuple[str, ...] = ()) -> LoadedSubject:
    generator = np.random.default_rng(0)
    inside = np.zeros(SHAPE, bool)
    inside[3:-3, 4:-4, 2:-2] = True
    volumes = {
        BASELINE: Volume(
            np.where(inside, generator.normal(0, 3, SHAPE), 0).astype(np.float32), AFFINE
        ),
        FOLLOWUP: Volume(
            np.where(inside, generator.normal(5, 9, SHAPE), 0).astype(np.float32), AFFINE
        ),
        TARGET: Volume((generator.random(SHAPE) < 0.01).astype(np.uint8), AFFINE, "mask"),
        BRAIN: Volume(inside.astype(np.uint8), AFFINE, "mask"),
        **(extra or {}),
    }
    volumes = {name: volume for name, volume in volumes.items() if name not in without}
    way_home = np.eye(4)
    way_home[0, 3] = 1.25
    return LoadedSubject(
        LongitudinalSubject("case01", "patient1", {}),
        volumes,
        Native(Grid((5, 6, 7), 2 * np.eye(4)), b"\x00header\xff"),
        way_home,
        ("cropped",),
    )


def test_values_return_within_half_a_step_and_zero_exactly(tmp_path):
    loaded = pair()
    prepared = PreparedSubject.write(loaded, tmp_path / "case01")
    for name, top in ((BASELINE, 65535), (FOLLOWUP, 32767)):
        original = np.asarray(loaded.volumes[name].data, float)
        bound = (max(original.max(), 0) - min(original.min(), 0)) / (top - 1) / 2
        error = np.abs(prepared.image(name) - original)
        assert error.max() <= bound * 1.01
        assert error.max() > bound * 0.5  # it is the promised precision, not a float copy
        assert (prepared.image(name)[original == 0] == 0).all()
    assert prepared.stack([FOLLOWUP, BASELINE]).shape == (2, *SHAPE)
    for name in (TARGET, BRAIN):
        assert (prepared.mask(name) == (np.asarray(loaded.volumes[name].data) > 0)).all()
    assert set(prepared.image_names) == {BASELINE, FOLLOWUP}
    assert set(prepared.mask_names) == {TARGET, BRAIN}


def test_a_patch_is_a_piece_of_the_volumes(tmp_path):
    extra = {"baseline_t1": Volume(np.arange(np.prod(SHAPE)).reshape(SHAPE) - 7.0, AFFINE)}
    prepared = PreparedSubject.write(pair(extra), tmp_path / "case01")
    names, box = [FOLLOWUP, "baseline_t1", BASELINE], (slice(2, 9), slice(5, 6), slice(3, 17))
    patch = prepared.patch(names, box)
    assert (patch.dtype, patch.shape) == (np.float32, (3, 7, 1, 14))
    np.testing.assert_array_equal(patch, prepared.stack(names)[(slice(None), *box)])
    both = [BASELINE, FOLLOWUP]  # these have a way of their own
    np.testing.assert_array_equal(
        prepared.patch(both, box), prepared.stack(both)[(slice(None), *box)]
    )
    with pytest.raises(MssegError, match="no image of this name"):
        prepared.patch([TARGET], box)


def test_quantise_by_hand():
    # range -1..3 on 0..5: scale 4/4 = 1, zero on word 1
    words, scale, zero = quantise(np.array([-1.0, 0.0, 0.4, 3.0]), 5)
    assert (scale, zero, words.tolist()) == (1.0, 1, [0, 1, 1, 4])
    words, scale, zero = quantise(np.zeros(3), 65535)
    assert (words.tolist(), zero) == ([0, 0, 0], 0)


def test_everything_else_returns(tmp_path):
    loaded = pair()
    PreparedSubject.write(loaded, tmp_path / "case01")
    prepared = PreparedSubject.open(tmp_path / "case01")
    assert (prepared.id, prepared.patient, prepared.notes) == ("case01", "patient1", ("cropped",))
    assert prepared.grid.shape == SHAPE and np.array_equal(prepared.grid.affine, AFFINE)
    assert prepared.native.header == b"\x00header\xff"
    assert prepared.native.grid.shape == (5, 6, 7)
    assert np.array_equal(prepared.to_native, loaded.to_native)
    prepared.verify()


def test_pair_and_target_take_four_bytes_per_voxel(tmp_path):
    PreparedSubject.write(pair(), tmp_path / "case01")
    assert (tmp_path / "case01" / "pair.npy").stat().st_size <= 4 * np.prod(SHAPE) + 128


def test_further_volumes(tmp_path):
    generator = np.random.default_rng(1)
    raters = {
        f"new_lesions_rater{i}": Volume(generator.random(SHAPE) < 0.1, AFFINE, "mask")
        for i in range(9)
    }
    soft = Volume(generator.random(SHAPE).astype(np.float32), AFFINE, "probability")
    ratio = Volume(generator.normal(0, 1, SHAPE).astype(np.float32), AFFINE)
    prepared = PreparedSubject.write(
        pair({**raters, "soft_target": soft, "ratio": ratio}), tmp_path / "case01"
    )
    for name, volume in raters.items():
        assert (prepared.mask(name) == volume.data).all()
    assert np.abs(prepared.label("soft_target") - soft.data).max() <= 0.5 / 65535 * 1.01
    assert np.abs(prepared.image("ratio") - ratio.data).max() < 1e-3


def test_single_visit_without_target(tmp_path):
    prepared = PreparedSubject.write(pair(without=(BASELINE, TARGET, BRAIN)), tmp_path / "case01")
    assert prepared.image_names == (FOLLOWUP,) and prepared.mask_names == ()
    assert len(prepared.voxels(BRAIN)) == np.count_nonzero(prepared.image(FOLLOWUP))
    with pytest.raises(MssegError, match="no mask"):
        prepared.voxels(TARGET)
    with pytest.raises(MssegError, match="no volume"):
        prepared.image(BASELINE)


def test_candidates(tmp_path):
    loaded = pair()
    prepared = PreparedSubject.write(loaded, tmp_path / "case01")
    found = prepared.voxels(TARGET)
    assert found.dtype == np.int32
    assert np.array_equal(found, np.argwhere(loaded.volumes[TARGET].data))
    assert len(prepared.voxels(BRAIN, limit=10)) == 10
    assert prepared.mask(BRAIN)[tuple(prepared.voxels(BRAIN, limit=10).T)].all()


def test_many_candidates_are_thinned(tmp_path):
    shape = (50, 50, 50)
    volume = Volume(np.ones(shape, np.float32), np.eye(4))
    loaded = LoadedSubject(
        LongitudinalSubject("case02", "patient2", {}),
        {BASELINE: volume, FOLLOWUP: volume},
        Native(volume.grid, b""),
    )
    found = PreparedSubject.write(loaded, tmp_path).voxels(BRAIN)
    assert found.shape == (CANDIDATES, 3)
    assert len(np.unique(found, axis=0)) == CANDIDATES
    assert np.allclose(found.mean(0), 24.5, atol=0.3)


def test_empty_target(tmp_path):
    empty = {TARGET: Volume(np.zeros(SHAPE, np.uint8), AFFINE, "mask")}
    prepared = PreparedSubject.write(pair(empty), tmp_path)
    assert prepared.voxels(TARGET).shape == (0, 3)
    assert not prepared.mask(TARGET).any()


def test_opening_is_cheap(tmp_path):
    PreparedSubject.write(pair(), tmp_path)
    times = []
    for _ in range(10):
        start = time.process_time()
        PreparedSubject.open(tmp_path)
        times.append(time.process_time() - start)
    assert min(times) <= 0.005


def test_bad_values_and_names_are_refused(tmp_path):
    broken = np.zeros(SHAPE, np.float32)
    broken[0, 0, 0] = np.nan
    with pytest.raises(MssegError) as caught:
        PreparedSubject.write(
            pair({"ratio": Volume(broken, AFFINE), "../x": Volume(broken, AFFINE)}), tmp_path
        )
    assert len(caught.value.problems) == 2


def test_damage_is_reported(tmp_path):
    prepared = PreparedSubject.write(pair(), tmp_path)
    with (tmp_path / "pair.npy").open("r+b") as stream:
        stream.seek(500)
        stream.write(b"\x01\x02\x03")
    with pytest.raises(MssegError, match=r"pair\.npy"):
        prepared.verify()
    (tmp_path / "pair.npy").write_bytes(b"short")
    with pytest.raises(MssegError, match="cannot be read"):
        PreparedSubject.open(tmp_path).image(BASELINE)
    meta = json.loads((tmp_path / "meta.json").read_text())
    write_record(tmp_path / "meta.json", {**meta, "format": 0})
    with pytest.raises(MssegError, match="format"):
        PreparedSubject.open(tmp_path)
    (tmp_path / "meta.json").unlink()
    with pytest.raises(MssegError):
        PreparedSubject.open(tmp_path)


@pytest.fixture
def flushed(monkeypatch):
    """Whether a file, or a folder, was flushed with the size that it has now."""
    seen = set()
    real = os.fsync

    def fsync(descriptor):
        found = os.fstat(descriptor)
        seen.add((found.st_ino, found.st_size))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return lambda path: (path.stat().st_ino, path.stat().st_size) in seen


@pytest.mark.parametrize("links", [True, False], ids=["linked", "copied"])
def test_what_a_power_cut_may_not_take_is_flushed(links, flushed, tmp_path, monkeypatch):
    """Renames may reach the disk before the contents do; flushed files cannot be empty after."""
    prepared = PreparedSubject.write(pair(), tmp_path / "first" / "case01")
    assert all(map(flushed, prepared.folder.iterdir()))
    if not links:
        monkeypatch.setattr(Path, "hardlink_to", lambda *_: os.open(tmp_path / "no" / "such", 0))
    more = prepared.with_image("again", prepared.image(BASELINE), tmp_path / "second" / "case01")
    files = list(more.folder.iterdir())
    assert len(files) == len(list(prepared.folder.iterdir())) + 1
    assert [path.name for path in files if not flushed(path)] == []
    assert flushed(more.folder.parent)
    assert (more.folder / "pair.npy").samefile(prepared.folder / "pair.npy") == links


def test_inside_is_where_any_of_the_named_images_is_not_zero(tmp_path):
    images = {BASELINE: [-1, 0, 0], FOLLOWUP: [0, 0, 2], "difference": [0, 0, 0]}
    volumes = {
        name: Volume(np.array(values, np.float32).reshape(3, 1, 1), np.eye(4))
        for name, values in images.items()
    }
    volumes[TARGET] = Volume(np.ones((3, 1, 1)), np.eye(4), "mask")  # shares the word
    first = np.array([1, 1, 0]).reshape(3, 1, 1)
    volumes["first"] = Volume(first, np.eye(4), "mask")
    loaded = dataclasses.replace(pair(), volumes=volumes)
    prepared = PreparedSubject.write(loaded, tmp_path / "a")
    assert prepared.inside()[:, 0, 0].tolist() == [True, False, True]
    assert prepared.inside([FOLLOWUP])[:, 0, 0].tolist() == [False, False, True]
    assert not prepared.inside(["difference"]).any()
    assert prepared.inside([FOLLOWUP], TARGET)[:, 0, 0].tolist() == [False, False, True]
    assert prepared.inside(None, "first")[:, 0, 0].tolist() == [True, False, False]
    for name in (TARGET, "unknown"):
        with pytest.raises(MssegError, match=r"prepared\.name"):
            prepared.inside([name])


def test_inside_is_where_the_values_are_not_zero(tmp_path):
    prepared = PreparedSubject.write(pair(), tmp_path / "a")
    for names in ([BASELINE], [FOLLOWUP], [BASELINE, FOLLOWUP]):
        np.testing.assert_array_equal(prepared.inside(names), prepared.stack(names).any(axis=0))
