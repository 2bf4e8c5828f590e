import numpy as np
import pytest
import torch

from msseg_lightning.augment.fused import FusedAugment
from msseg_lightning.augment.recipe import Affine, BiasField, Blur, Elastic, Flip, Gamma, Recipe
from msseg_lightning.augment.slices import SliceAugment
from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP, TARGET
from msseg_lightning.sample.slices import SliceLoader, SliceSampler, SliceSpec
from tests.sample.conftest import SHAPE

ENGINES = {"3d": FusedAugment, "2d": SliceAugment}


def loader(cohort, engine="3d", sampler=None, **changes):
    sampler = sampler or SliceSampler((12, 10), 0.5)
    return SliceLoader(
        cohort, sampler, ENGINES[engine](), **{"batch_size": 6, "seed": 3, **changes}
    )


def whole(subject, name, axis, number):
    """A slice cut by hand; zeros beyond the volume."""
    if not 0 <= number < SHAPE[axis]:
        return np.zeros([edge for other, edge in enumerate(SHAPE) if other != axis], np.float32)
    array = subject.image(name) if name in subject.image_names else subject.label(name)
    return np.take(array, number, axis)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_channels_are_the_stack_of_the_first_visit_then_of_the_second(cohort, engine, axis):
    """[B(k-1), B(k), B(k+1), F(k-1), F(k), F(k+1)] and the mask of slice k."""
    plane = ("sagittal", "coronal", "axial")[axis]
    size = [edge for other, edge in enumerate(SHAPE) if other != axis]
    made = loader(cohort, engine, SliceSampler(size, 0.5, [plane]), depth=3)
    batch = made.batch(4)
    assert batch.images.shape == (6, 6, *size) and batch.target.shape == (6, 1, *size)
    for element in range(6):
        spec = made.choose(4, element)
        subject, k = cohort[spec.subject], int(spec.voxel[axis])
        expected = [
            whole(subject, name, axis, k + offset)
            for name in (BASELINE, FOLLOWUP)
            for offset in (-1, 0, 1)
        ]
        np.testing.assert_allclose(batch.images[element], np.stack(expected), atol=1e-5)
        np.testing.assert_array_equal(batch.target[element, 0], whole(subject, TARGET, axis, k))
        assert batch.subjects[element] == subject.id
    deep = loader(cohort, engine, SliceSampler(size, 0.5, [plane]), depth=3, layout="depth").batch(
        4
    )
    assert deep.images.shape == (6, 2, 3, *size)
    assert torch.equal(deep.images.flatten(1, 2), batch.images)


@pytest.mark.parametrize("engine", ENGINES)
def test_slices_beyond_the_volume_are_zero(cohort, engine):
    made = loader(cohort[:1], engine, SliceSampler((36, 24), 0.0, ["sagittal"]), depth=3)
    first = SliceSpec(0, 0, np.array([0, 18, 12]), positive=False)
    made.choose = lambda step, element: first  # type: ignore[method-assign]
    images = made.batch(0).images[0]
    assert not images[0].any() and not images[3].any()
    np.testing.assert_allclose(images[2], whole(cohort[0], BASELINE, 0, 1), atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_slice_smaller_than_the_crop_lies_whole_in_its_middle(cohort, engine):
    made = loader(cohort, engine, SliceSampler(40, 0.5, ["axial"]))
    batch = made.batch(1)
    for element in range(6):
        spec = made.choose(1, element)
        part = batch.images[element, 1, 5:35, 2:38].numpy()  # 30 x 36 in 40 x 40
        cut = whole(cohort[spec.subject], FOLLOWUP, 2, int(spec.voxel[2]))
        np.testing.assert_allclose(part, cut, atol=1e-5)
    outside = batch.images.clone()
    outside[..., 5:35, 2:38] = 0
    assert not outside.any()


def test_batches_mix_planes_and_patients(cohort):
    """Every batch of three or more holds all planes, however it is drawn."""
    made = loader(cohort, batch_size=6)
    specs = [[made.choose(step, element) for element in range(6)] for step in range(30)]
    for batch in specs:
        assert {spec.axis for spec in batch[:3]} == {spec.axis for spec in batch[3:]} == {0, 1, 2}
    assert {spec.subject for batch in specs for spec in batch} == set(range(5))
    assert len({tuple(spec.axis for spec in batch) for batch in specs}) > 10  # not in one order


@pytest.mark.parametrize(("ratio", "counts"), [(0.5, {3}), (1.0, {6}), (0.0, {0}), (0.25, {1, 2})])
def test_the_share_of_lesion_slices_holds_in_every_batch(cohort, ratio, counts):
    made = loader(cohort, sampler=SliceSampler(8, ratio))
    found, planes = [], set()
    for step in range(60):
        specs = [made.choose(step, element) for element in range(6)]
        found.append(sum(spec.positive for spec in specs))
        planes |= {spec.axis for spec in specs if spec.positive}
        for spec in specs:
            inside = np.take(cohort[spec.subject].mask(TARGET), spec.voxel[spec.axis], spec.axis)
            assert inside.any() or not spec.positive
    assert set(found) == counts
    assert ratio == 0 or planes == {0, 1, 2}
    assert np.mean(found) == pytest.approx(6 * ratio, abs=0.3)


def test_lesion_slices_are_drawn_alike_from_one_pool(cohort):
    """Cases 0, 2 and 3 have 2, 1 and 3 cubes of 3 slices each: 6, 3 and up to 9 axial slices."""
    sampler = SliceSampler(8, 1.0)
    pool = {
        (index, number)
        for index, subject in enumerate(cohort)
        for number in np.unique(subject.voxels(TARGET)[:, 2]).tolist()
    }
    drawn = [
        sampler.draw(cohort, 2, True, keyed_generator("pool", number)) for number in range(3000)
    ]
    counts = {}
    for spec in drawn:
        key = (spec.subject, int(spec.voxel[2]))
        counts[key] = counts.get(key, 0) + 1
    assert set(counts) == pool
    expected = 3000 / len(pool)
    assert max(abs(count - expected) for count in counts.values()) < 5 * expected**0.5


def test_a_slice_needs_enough_lesion_voxels(cohort):
    assert SliceSampler(8, lesion_voxels=9)._slices(cohort[0], TARGET, 0).size > 0
    sampler = SliceSampler(8, 1.0, lesion_voxels=100)
    spec = sampler.draw(cohort, 0, True, keyed_generator("none"))
    assert not spec.positive  # no slice qualifies: any slice with brain


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("share", "anywhere"), [(1.0, True), (1.0, False), (0.5, True)])
def test_crops_are_laid_over_a_lesion(cohort, engine, share, anywhere):
    sampler = SliceSampler(8, 1.0, lesion_pixel=share, anywhere=anywhere)
    made = loader(cohort, engine, sampler, batch_size=60)
    hit = made.batch(0).target.flatten(1).any(1).float()
    if share == 1:
        assert hit.all()
    else:
        assert 0.5 < hit.mean() < 0.95  # a crop laid anywhere meets one now and then
    middle = made.batch(0).target[:, 0, 3:5, 3:5].flatten(1).any(1).float().mean()
    assert (middle > 0.85) != anywhere


@pytest.mark.parametrize("engine", ENGINES)
def test_the_lesion_pixel_lies_anywhere_in_the_crop(cohort, engine):
    made = loader(cohort, engine, SliceSampler(8, 1.0, anywhere=True), batch_size=200)
    places = made.batch(0).target.mean((0, 1))
    # a lesion of 3 pixels covers an edge in 2 of 8 places of its pixel, the middle in 3 of 8
    for rows in (places.mean(0), places.mean(1)):
        assert rows.min() > 0.35 * rows.max()


def test_no_brain_and_no_lesion(cohort):
    spec = SliceSampler(8, 1.0).draw(cohort[1:2], 1, True, keyed_generator("empty"))
    assert not spec.positive and spec.axis == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_a_batch_is_a_function_of_seed_and_step(cohort, engine):
    steady = list(loader(cohort, engine, threads=3).iterate(0, 5))
    resumed = list(loader(cohort, engine).iterate(3, 5))
    for first, second in zip(steady[3:], resumed, strict=True):
        assert torch.equal(first.images, second.images)
        assert torch.equal(first.target, second.target)
    halves = [loader(cohort, engine, batch_size=3).batch(4, rank, 2) for rank in range(2)]
    assert torch.equal(torch.cat([half.images for half in halves]), steady[4].images)
    assert not torch.equal(steady[0].images, steady[1].images)


def test_3d_augmentation_of_a_single_slice_is_finite_and_moves_the_mask_along(cohort):
    recipe = Recipe(
        flip=Flip(),
        affine=Affine(1.0, (15, 15, 15)),
        elastic=Elastic(1.0),
        gamma=Gamma(1.0),
        bias_field=BiasField(1.0),
        blur=Blur(1.0),
    )
    sampler = SliceSampler((24, 30), 1.0)
    made = SliceLoader(cohort, sampler, FusedAugment(recipe), batch_size=24)
    batch = made.batch(0)
    assert torch.isfinite(batch.images).all() and batch.images.std() > 0.1
    assert set(batch.target.unique().tolist()) == {0, 1}
    change = (batch.images[:, 1] - batch.images[:, 0])[batch.target[:, 0] > 0]
    assert (
        change.mean() > 0.5
    )  # lesions are bright in the second visit, and still where the mask is


def test_extra_masks(cohort):
    batch = loader(cohort, extra_names=(BRAIN,)).batch(0)
    assert batch.extra[BRAIN].shape == (6, 1, 12, 10)
    assert batch.extra[BRAIN].any()


@pytest.mark.parametrize(
    "bad",
    [
        {"size": 0},
        {"positive_ratio": 2},
        {"planes": ["oblique"]},
        {"planes": []},
        {"lesion_pixel": -1},
    ],
)
def test_bad_sampler(bad):
    with pytest.raises(ValueError, match=r"size|ratio|planes"):
        SliceSampler(**{"size": 8, **bad})


def test_bad_loader(cohort):
    with pytest.raises(ValueError, match="middle"):
        loader(cohort, depth=2)
    with pytest.raises(ValueError, match="layout"):
        loader(cohort, layout="rows")
