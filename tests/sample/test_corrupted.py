import numpy as np
import pytest
import torch

from msseg_lightning.augment.fused import FusedAugment
from msseg_lightning.augment.recipe import Affine, Blur, Flip, Recipe
from msseg_lightning.sample.corrupted import (
    LesionFreePatches,
    LesionPatches,
    fill_with_noise,
    random_ellipsoids,
    widened,
)
from msseg_lightning.sample.ratio import RatioSampler
from msseg_lightning.sample.uniform import UniformSampler
from tests.sample.lesion_scans import LESION, prepared

TURN = Recipe(flip=Flip(), affine=Affine(rotation_degrees=(15, 15, 15)))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    return [prepared(folder, name, seed) for seed, name in enumerate("ab")]


def healthy(pairs, recipe=None, size=10, **options):
    return LesionFreePatches(
        pairs, UniformSampler(size), FusedAugment(recipe), batch_size=4, **options
    )


def lesional(pairs, recipe=None, **options):
    sampler = RatioSampler(16, 1.0, target="lesions")
    return LesionPatches(pairs, sampler, FusedAugment(recipe), batch_size=4, **options)


def made(loader, step=0):
    """Input and target of a batch before they are scaled, in prepared intensities."""
    images, targets, _ = zip(*(loader.element(step, i) for i in range(4)), strict=True)
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(targets))


def test_noise_has_the_mean_and_deviation_of_the_tissue():
    image = np.full((40, 40, 40), 5.0, np.float32)
    image[:20] = 0  # air
    image[20:30] = 1  # tissue of 1 and 5: mean 3, standard deviation 2
    where = np.zeros(image.shape, bool)
    where[22:38, 5:35, 5:35] = True
    fill_with_noise(image, where, np.random.default_rng(0))
    assert image[where].mean() == pytest.approx(3, abs=0.1)
    assert image[where].std() == pytest.approx(2, abs=0.1)
    assert set(np.unique(image[~where])) == {0, 1, 5}
    nothing = np.zeros((4, 4, 4), np.float32)
    fill_with_noise(nothing, np.ones((4, 4, 4), bool), np.random.default_rng(0))
    assert not nothing.any()


def test_a_widened_lesion_grows_by_its_faces():
    mask = np.zeros((5, 5, 5), bool)
    mask[2, 2, 2] = True
    assert widened(mask, 1).sum() == 7 and widened(mask, 0).sum() == 1
    assert not widened(np.zeros((5, 5, 5), bool), 3).any()


def test_ellipsoids_have_the_drawn_size():
    tissue = np.zeros((21, 21, 21), bool)
    tissue[10, 10, 10] = True
    found = random_ellipsoids(tissue, (1, 1), (2.0, 2.0), np.random.default_rng(0))
    assert found.sum() == 33  # voxels within 2 of the centre, counted by hand: 1+6+12+8+6
    assert found[12, 10, 10] and not found[12, 11, 10]
    none = random_ellipsoids(np.zeros((4, 4, 4), bool), (1, 3), (1, 2), np.random.default_rng(0))
    assert not none.any()


def test_healthy_patches_hold_no_lesion_and_their_regions_became_noise(pairs):
    loader = healthy(pairs, most_hyperintense=0.0, hyperintense=2.0)
    for step in range(4):
        images, target = made(loader, step)
        assert images.shape == (4, 1, 10, 10, 10) and target.shape == (4, 2, 10, 10, 10)
        clean, region = target[:, :1], target[:, 1:].bool()
        assert float(clean.max()) < LESION / 2
        assert bool(region.any())
        torch.testing.assert_close(images[~region], clean[~region])
        assert not torch.equal(images[region], clean[region])
        assert not bool((clean[region] == 0).any())  # regions lie in tissue


def test_lesions_that_nobody_marked_are_passed_over_too(pairs, tmp_path):
    pair = prepared(tmp_path, "c", 5)
    words = np.load(pair.folder / "masks0.npy")
    np.save(pair.folder / "masks0.npy", words * 0)  # the masks are empty, the scan is not
    patches = healthy([pair, *pairs], hyperintense=2.0, most_hyperintense=0.0, tries=30)
    assert all(float(made(patches, step)[1][:, :1].max()) < 2 for step in range(8))


def test_where_no_patch_is_healthy_regions_keep_away_from_the_lesions(pairs):
    # the whole brain with its lesions, and regions everywhere
    patches = healthy(pairs, size=(36, 40, 32), tries=2, regions=(150, 150))
    _, target = made(patches)
    assert float(target[:, :1].max()) == pytest.approx(LESION, abs=0.01)
    region = target[:, 1:].bool()
    assert bool(region.any()) and float(target[:, :1][region].max()) < LESION / 2


def test_where_no_patch_is_healthy_the_healthiest_is_taken(pairs, tmp_path):
    best = prepared(tmp_path, "one", 7, places=[(15, 16, 12)])
    patches = healthy([*pairs, best], size=(36, 40, 32), tries=40)
    assert {patches.element(0, number)[2] for number in range(3)} == {"one"}


def test_corruption_is_seen_by_the_network_alone(pairs):
    blur = FusedAugment(Recipe(blur=Blur(probability=1.0, sigma_voxels=(1.0, 1.0))))
    plain, target = made(healthy(pairs))
    blurred, same = made(healthy(pairs, corrupt=blur))
    torch.testing.assert_close(target, same)
    rest = ~target[:, 1:].bool()
    assert not torch.allclose(plain[rest], blurred[rest])
    assert float(blurred[rest].std()) < float(plain[rest].std())


@pytest.mark.parametrize("make", [healthy, lesional])
def test_a_batch_is_counted_in_units_of_its_input(pairs, make):
    loader = make(pairs)
    batch = loader.batch(0)
    images, target = made(loader)
    torch.testing.assert_close(
        batch.images[:, 0].mean((1, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0
    )
    for index in range(4):
        middle, spread = images[index, 0].mean(), images[index, 0].std(unbiased=False)
        torch.testing.assert_close(batch.images[index, 0], (images[index, 0] - middle) / spread)
        torch.testing.assert_close(batch.target[index, 0], (target[index, 0] - middle) / spread)
    torch.testing.assert_close(batch.target[:, 1], target[:, 1])
    torch.testing.assert_close(batch.images[:, 1:], images[:, 1:])


def test_lesions_become_noise_and_their_mask_is_given(pairs):
    images, target = made(lesional(pairs))
    assert images.shape == (4, 2, 16, 16, 16)
    image, mask = images[:, :1], images[:, 1:].bool()
    clean, region = target[:, :1], target[:, 1:].bool()
    assert bool(mask.flatten(1).any(1).all())  # every patch has a lesion
    assert float(clean[mask].min()) == pytest.approx(LESION, abs=0.01)
    assert bool((region & mask == mask).all()) and int(region.sum()) > int(mask.sum())
    torch.testing.assert_close(image[~region], clean[~region])
    assert float(image[mask].mean()) < LESION - 1


@pytest.mark.parametrize("make", [healthy, lesional])
def test_batches_are_a_function_of_step_and_rank(pairs, make):
    first, again = make(pairs, TURN), make(pairs, TURN)
    for batch, other in zip(first.iterate(2, 4), again.iterate(2, 4), strict=True):
        assert torch.equal(batch.images, other.images) and torch.equal(batch.target, other.target)
        assert batch.subjects == other.subjects
    whole = again.batch(2, 1, 2)
    assert not torch.equal(first.batch(2, 0, 2).images, whole.images)
    assert torch.equal(first.batch(2, 1, 2).images, whole.images)
