import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from msseg_lightning.core.subject import BASELINE, BASELINE_LESIONS, BRAIN, FOLLOWUP, TARGET
from msseg_lightning.core.volume import Volume
from msseg_lightning.preprocess.correlation import CorrelationRegistration
from msseg_lightning.preprocess.deform import warp_volume

STEP = CorrelationRegistration(2, (2, 1), (12, 6), (0, 0.5), update_sigma=1.5)


@pytest.fixture(scope="module", params=["canonical", "oblique"])
def moved(phantom, request):
    """A pair whose baseline is its follow-up under a smooth wave."""
    grid = phantom.grid(request.param)
    subject = phantom.pair(grid)
    x, y, _ = np.moveaxis(phantom.world(grid), -1, 0)
    wave = 1.5 * np.stack([np.sin(y / 8), np.cos(x / 9), np.sin(x / 7)], -1)
    field = sitk.GetImageFromArray(wave.transpose(2, 1, 0, 3), isVector=True)
    field.SetSpacing(grid.spacing_mm)
    field.SetOrigin(grid.affine[:3, 3].tolist())
    directions = grid.affine[:3, :3] / np.array(grid.spacing_mm)
    field.SetDirection(directions.ravel().tolist())
    way = sitk.DisplacementFieldTransform(field)
    brain = np.asarray(subject.volumes[FOLLOWUP].data) > 20
    volumes = {
        **subject.volumes,
        BASELINE: warp_volume(subject.volumes[FOLLOWUP], way),
        BASELINE_LESIONS: warp_volume(subject.volumes[TARGET], way),
        BRAIN: Volume(brain, grid.affine, "mask"),
    }
    pair = subject.replace(volumes=volumes)
    return pair, STEP(pair)


def test_a_bent_baseline_comes_back(moved, phantom):
    pair, found = moved
    followup = np.asarray(pair.volumes[FOLLOWUP].data)
    brain = pair.volumes[BRAIN].data
    before, after = (
        np.abs(np.asarray(each.volumes[BASELINE].data) - followup)[brain].mean()
        for each in (pair, found)
    )
    assert after < 0.5 * before
    lesion = pair.volumes[TARGET].data
    assert phantom.dice(found.volumes[BASELINE_LESIONS].data, lesion) > phantom.dice(
        pair.volumes[BASELINE_LESIONS].data, lesion
    )
    for name in (FOLLOWUP, TARGET, BRAIN):
        assert found.volumes[name] is pair.volumes[name]
    assert found.grid.same_as(pair.grid) and (found.to_native == pair.to_native).all()


def test_it_repeats_itself(moved):
    pair, found = moved
    np.testing.assert_array_equal(STEP(pair).volumes[BASELINE].data, found.volumes[BASELINE].data)


def test_a_visit_alone_and_an_empty_mask_stay_as_they_are(moved):
    pair, _ = moved
    alone = pair.replace(volumes={FOLLOWUP: pair.volumes[FOLLOWUP]})
    assert STEP(alone) is alone
    nowhere = Volume(np.zeros(pair.grid.shape, bool), pair.grid.affine, "mask")
    found = STEP(pair.replace(volumes={**pair.volumes, BRAIN: nowhere}))
    assert found.volumes[BASELINE] is pair.volumes[BASELINE]
    assert found.notes[-1] == "brain is empty: baseline not bent"


def test_levels_too_coarse_for_a_small_volume_are_left_out(moved):
    pair, _ = moved
    still = CorrelationRegistration(4, (30,), (2,), (0,))(pair)
    np.testing.assert_allclose(still.volumes[BASELINE].data, pair.volumes[BASELINE].data, atol=1e-3)


def test_levels_are_as_many_everywhere():
    with pytest.raises(ValueError, match="one number per level"):
        CorrelationRegistration(shrink=(4, 2))
