import dataclasses

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from msseg_lightning.core.subject import BASELINE, BASELINE_LESIONS, FOLLOWUP, TARGET
from msseg_lightning.core.volume import Volume
from msseg_lightning.preprocess.deform import FreeFormRegistration, warp_volume


@pytest.fixture(scope="module")
def moved(phantom):
    """A pair whose baseline is its follow-up under a smooth wave, and the pair registered.

    The grid is oblique, so a step that mixed up axes or directions would not bring it back.
    """
    grid = phantom.grid("oblique")
    subject = phantom.pair(grid)
    x, y, _ = np.moveaxis(phantom.world(grid), -1, 0)
    wave = 1.5 * np.stack([np.sin(y / 8), np.cos(x / 9), np.sin(x / 7)], -1)
    field = sitk.GetImageFromArray(wave.transpose(2, 1, 0, 3), isVector=True)
    field.SetSpacing(grid.spacing_mm)
    field.SetOrigin(grid.affine[:3, 3].tolist())
    field.SetDirection(grid.affine[:3, :3].ravel().tolist())
    way = sitk.DisplacementFieldTransform(field)
    volumes = {
        **subject.volumes,
        BASELINE: warp_volume(subject.volumes[FOLLOWUP], way),
        BASELINE_LESIONS: warp_volume(subject.volumes[TARGET], way),
    }
    pair = subject.replace(volumes=volumes)
    step = FreeFormRegistration(12.0, 2, spacing_mm=2.0, iterations=6)
    return subject, pair, step(pair)


def test_a_bent_baseline_comes_back(moved):
    subject, pair, found = moved
    followup = np.asarray(subject.volumes[FOLLOWUP].data)
    brain = followup > 20
    before, after = (
        np.abs(np.asarray(each.volumes[BASELINE].data) - followup)[brain].mean()
        for each in (pair, found)
    )
    assert after < 0.5 * before
    assert found.notes[-1] == "baseline bent onto the follow-up"


def test_masks_of_the_baseline_move_with_it_and_nothing_else_moves(moved, phantom):
    subject, pair, found = moved
    lesion = subject.volumes[TARGET].data
    before = phantom.dice(pair.volumes[BASELINE_LESIONS].data, lesion)
    assert phantom.dice(found.volumes[BASELINE_LESIONS].data, lesion) > 0.85 > before
    for name in (FOLLOWUP, TARGET):
        assert found.volumes[name] is pair.volumes[name]
    assert found.grid.same_as(pair.grid) and (found.to_native == pair.to_native).all()


def test_it_repeats_itself(phantom):
    subject = phantom.pair(phantom.grid("canonical"))
    step = FreeFormRegistration(12.0, 1, spacing_mm=3.0, iterations=3)
    one, other = step(subject), step(subject)
    assert (one.volumes[BASELINE].data == other.volumes[BASELINE].data).all()


def test_sampling_by_hand(phantom):
    """A shift of one voxel along x, and of half: values come from there, 0 from outside."""
    grid = phantom.grid("canonical")
    data = np.arange(np.prod(grid.shape), dtype=np.float32).reshape(grid.shape)
    whole = warp_volume(Volume(data, grid.affine), sitk.TranslationTransform(3, (1.0, 0, 0)))
    np.testing.assert_allclose(whole.data[:-1], data[1:])
    assert not whole.data[-1].any()
    half = warp_volume(Volume(data, grid.affine), sitk.TranslationTransform(3, (0.5, 0, 0)))
    np.testing.assert_allclose(half.data[3], (data[3] + data[4]) / 2)
    mask = warp_volume(
        Volume(data > data[20].max(), grid.affine, "mask"),
        sitk.TranslationTransform(3, (1.0, 0, 0)),
    )
    assert mask.data.dtype == bool and mask.data[20].all() and not mask.data[19].any()


def test_a_visit_alone_stays_and_wrong_distances_are_refused(phantom):
    subject = phantom.pair(phantom.grid("canonical"))
    alone = dataclasses.replace(subject, volumes={FOLLOWUP: subject.volumes[FOLLOWUP]})
    assert FreeFormRegistration()(alone) is alone
    for control, levels in ((8.0, 2), (20.0, 0), (20.0, 4)):
        with pytest.raises(ValueError, match="control points"):
            FreeFormRegistration(control, levels, spacing_mm=2.5)
