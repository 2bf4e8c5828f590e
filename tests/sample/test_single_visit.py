import numpy as np
import pytest

from msseg_lightning.augment.fused import FusedAugment
from msseg_lightning.augment.recipe import Affine, Flip, Recipe
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.core.subject import (
    BASELINE,
    BASELINE_LESIONS,
    BRAIN,
    FOLLOWUP,
    FOLLOWUP_LESIONS,
    TARGET,
    LoadedSubject,
    LongitudinalSubject,
    Native,
)
from msseg_lightning.core.volume import Volume
from msseg_lightning.sample.ratio import RatioSampler
from msseg_lightning.sample.single_visit import SingleVisitLoader
from msseg_lightning.sample.visit import FLAIR, LESIONS

SHAPE = (20, 24, 16)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """An old lesion at both visits and a new one at the second; visits of other brightness."""
    old, new = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    old[4:7, 5:8, 6:9], new[12:15, 14:17, 8:11] = 1, 1
    brain = np.ones(SHAPE, np.uint8)
    affine = np.eye(4)
    volumes = {
        BASELINE: Volume((1 + old).astype(np.float32), affine),
        FOLLOWUP: Volume((3 + old + new).astype(np.float32), affine),
        TARGET: Volume(new, affine, "mask"),
        BASELINE_LESIONS: Volume(old, affine, "mask"),
        FOLLOWUP_LESIONS: Volume(old | new, affine, "mask"),
        BRAIN: Volume(brain, affine, "mask"),
    }
    loaded = LoadedSubject(
        LongitudinalSubject("a", "a", {}), volumes, Native(volumes[BASELINE].grid, b"")
    )
    return PreparedSubject.write(loaded, tmp_path_factory.mktemp("pair") / "a")


def loader(subjects, recipe=None, **options):
    sampler = RatioSampler(8, 1.0, target=LESIONS)
    options = {"batch_size": 8} | options
    return SingleVisitLoader(subjects, sampler, FusedAugment(recipe), **options)


def test_each_visit_comes_with_its_own_lesions(pair):
    first, second = loader([pair]).subjects
    assert first.mask(LESIONS).sum() == 27 and second.mask(LESIONS).sum() == 54
    assert first.image(FLAIR).max() == pytest.approx(2, abs=1e-3)
    assert second.image(FLAIR).max() == pytest.approx(4, abs=1e-3)
    assert len(first.voxels(LESIONS)) == 27 and len(second.voxels(LESIONS)) == 54
    assert len(first.voxels(BRAIN)) == np.prod(SHAPE)


@pytest.mark.parametrize("recipe", [None, Recipe(affine=Affine(scale=(0.8, 1.2)), flip=Flip())])
def test_batches_hold_one_scan_and_the_mask_of_that_scan(pair, recipe):
    source = loader([pair], recipe)
    visits = set()
    for batch in source.iterate(0, 4):
        assert batch.images.shape == batch.target.shape == (8, 1, 8, 8, 8)
        assert batch.extra == {}
        for image, target in zip(batch.images.numpy(), batch.target.numpy(), strict=True):
            assert target.any() and set(np.unique(target)) <= {0, 1}
            inside = float(image[target > 0].max())
            visits.add(round(inside))
            # background of the same visit: one below its lesions
            assert float(np.median(image[image > 0.5])) <= inside
    assert visits == {2, 4}


def test_the_names_of_the_stage_do_not_decide_what_is_trained_on(pair):
    source = loader([pair], image_names=("x",), target_names=("y",))
    assert (source.image_names, source.target_names) == ((FLAIR,), (LESIONS,))


def test_data_without_such_masks_are_refused_with_a_way_out(cohort):
    with pytest.raises(MssegError, match="all its lesions") as error:
        loader(cohort)
    assert error.value.exit_code == ExitCode.DATA
