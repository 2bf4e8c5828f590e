"""Pairs of masks: their F1 by hand, evenly spread, and what is done to lesions."""

import itertools

import numpy as np
import pytest
import torch
from scipy import ndimage

from msseg_lightning.augment.batched import BatchedAugment
from msseg_lightning.augment.fused import FusedAugment
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.core.random import keyed_generator
from msseg_lightning.sample.mask_pairs import (
    Corruption,
    MaskPairLoader,
    bin_of,
    lesion_f1,
    lesions_of,
)
from msseg_lightning.sample.ratio import RatioSampler

EDGE = 24


def line(*spans, length=40):
    mask = np.zeros((length, 3, 3), bool)
    for first, last in spans:
        mask[first:last, 1, 1] = True
    return mask


def loader(cohort, **changes):
    settings = {"batch_size": 4, "seed": 0, **changes}
    edge = settings.pop("edge", EDGE)
    return MaskPairLoader(cohort, RatioSampler(edge, 0.5), FusedAugment(), **settings)


@pytest.mark.parametrize(
    ("predicted", "true", "expected"),
    [
        ([(0, 5)], [(0, 5)], 1.0),
        ([(4, 9)], [(0, 5)], 1.0),  # one common voxel is enough
        ([(5, 9)], [(0, 5)], 0.0),
        ([], [], 1.0),
        ([(0, 5)], [], 0.0),
        ([], [(0, 5)], 0.0),
        ([(0, 5)], [(0, 5), (10, 15)], 2 / 3),  # LTPR 1/2, LPPV 1
        ([(0, 5), (20, 25)], [(0, 5)], 2 / 3),  # LTPR 1, LPPV 1/2
        ([(0, 2), (3, 5), (20, 25)], [(0, 5), (10, 15)], 4 / 7),  # LTPR 1/2, LPPV 2/3
        ([(0, 30)], [(0, 5), (10, 15)], 1.0),  # one finding meets both
    ],
)
def test_lesion_f1_by_hand(predicted, true, expected):
    assert lesion_f1(line(*predicted), line(*true)) == pytest.approx(expected)


def test_lesion_f1_against_scipy():
    generator = np.random.default_rng(0)
    for _ in range(30):
        true, predicted = generator.random((2, 9, 9, 9)) < 0.06
        structure = np.ones((3, 3, 3))
        lesions, n = ndimage.label(true, structure)
        findings, m = ndimage.label(predicted, structure)
        met = np.mean([predicted[lesions == i + 1].any() for i in range(n)])
        right = np.mean([true[findings == i + 1].any() for i in range(m)])
        expected = 2 * met * right / (met + right) if met else 0.0
        assert lesion_f1(predicted, true) == pytest.approx(expected)


def test_connectivity_tells_lesions_apart():
    corner = np.zeros((4, 4, 4), bool)
    corner[0, 0, 0] = corner[1, 1, 1] = True
    alone = np.zeros_like(corner)
    alone[0, 0, 0] = True
    assert lesion_f1(alone, corner, 26) == 1.0
    assert lesion_f1(alone, corner, 6) == pytest.approx(2 / 3)


def test_plans_fall_into_their_bins():
    for index, plans in enumerate(Corruption().plans(10)):
        assert plans
        for true, found, foreign in plans:
            total = true + found + foreign
            assert bin_of(2 * found / total if total else 1.0, 10) == index
            assert found <= true <= 8 and foreign <= 4
    assert [bin_of(value, 10) for value in (0.0, 0.0999, 0.1, 0.3, 0.6, 0.7, 1.0)] == [
        0,
        0,
        1,
        3,
        6,
        7,
        9,
    ]


def test_every_decile_holds_a_tenth_of_5000_pairs(cohort):
    pairs = loader(cohort)
    counts = np.zeros(10)
    for index in range(5000):
        generator = keyed_generator("pairs", index)
        # patches as they come: half of them with lesions, mostly one to three
        patch = np.zeros((EDGE,) * 3, bool)
        if index % 2:
            subject = cohort[(0, 2, 3)[index % 3]]
            patch = subject.mask("new_lesions")[3 : 3 + EDGE, 6 : 6 + EDGE, :EDGE]
        predicted, true, value = pairs.pair(patch, generator)
        if index % 50 == 0:
            assert value == lesion_f1(predicted, true)
        counts[bin_of(value, 10)] += 1
    assert (counts / 5000 > 0.08).all() and (counts / 5000 < 0.12).all(), counts


def test_batches_are_masks_and_their_f1(cohort):
    pairs = loader(
        cohort, corruption=Corruption(blur_voxels=(0, 0), scale=(1, 1), offset=(0, 0), noise=(0, 0))
    )
    seen = 0
    for batch in pairs.iterate(0, 12):
        assert tuple(batch.images.shape) == (4, 2, EDGE, EDGE, EDGE)
        assert tuple(batch.target.shape) == (4, 1)
        for (predicted, true), (value,) in zip(batch.images, batch.target, strict=True):
            assert set(torch.unique(torch.stack([predicted, true])).tolist()) <= {0.0, 1.0}
            # nothing was softened, so the number can be counted again from what is handed out
            again = lesion_f1(predicted.numpy() > 0.5, true.numpy() > 0.5)
            assert float(value) == pytest.approx(again)
            seen += 0 < again < 1
    assert seen > 20


def test_predictions_look_like_maps(cohort):
    between = []
    for batch in loader(cohort).iterate(0, 5):
        predicted, true = batch.images[:, 0], batch.images[:, 1]
        assert float(predicted.min()) >= 0 and float(predicted.max()) <= 1
        assert set(torch.unique(true).tolist()) <= {0.0, 1.0}
        between += [float(((p > 0) & (p < 1)).float().mean()) for p in predicted]
    assert np.mean(np.array(between) > 0) > 0.75


def test_softening_by_hand(cohort):
    """A Gaussian of 0.6 voxels, then times 0.9 plus 0.05; noise with the drawn deviation on top.

    Far inside the block 0.95, far outside 0.05; beside a flat face the Gaussian's own sums.
    """
    mask = np.zeros((EDGE,) * 3, bool)
    mask[: EDGE // 2] = True

    def softened(noise):
        change = Corruption(
            blur_voxels=(0.6, 0.6), scale=(0.9, 0.9), offset=(0.05, 0.05), noise=(noise, noise)
        )
        return loader(cohort, corruption=change)._soften(mask, keyed_generator("soft"))

    place = np.arange(-3, 4)
    weights = np.exp(-(place**2) / (2 * 0.6**2))
    share = weights[place > 0].sum() / weights.sum()  # of the block, one voxel outside its face
    line = softened(0.0)[:, EDGE // 2, EDGE // 2]
    assert line[0] == pytest.approx(0.95, abs=1e-3)
    assert line[-1] == pytest.approx(0.05, abs=1e-3)
    assert line[EDGE // 2] == pytest.approx(0.9 * share + 0.05, abs=2e-3)
    assert line[EDGE // 2 - 1] == pytest.approx(0.9 * (1 - share) + 0.05, abs=2e-3)
    noise = softened(0.02)[2:5] - softened(0.0)[2:5]
    assert 0.017 < noise.std() < 0.023
    # what goes beyond a probability is cut
    loud = softened(3.0)
    assert loud.min() == 0 and loud.max() == 1


def test_a_pair_is_a_function_of_its_place(cohort):
    whole = [batch.images for batch in loader(cohort).iterate(0, 4)]
    later = [batch.images for batch in loader(cohort, threads=3).iterate(2, 4)]
    assert all(torch.equal(a, b) for a, b in zip(whole[2:], later, strict=True))
    assert not torch.equal(whole[0], whole[1])
    # elements are numbered across ranks
    halves = [next(loader(cohort, batch_size=2).iterate(1, 2, rank, 2)).images for rank in (0, 1)]
    assert torch.equal(torch.cat(halves), whole[1])
    assert not torch.equal(next(loader(cohort, seed=1).iterate(0, 1)).images, whole[0])


def test_foreign_lesions_touch_nothing_and_deformed_ones_stay_near(cohort):
    pairs = loader(cohort)
    for index in range(40):
        generator = keyed_generator("place", index)
        taken = np.zeros((EDGE,) * 3, bool)
        taken[8:14, 8:14, 8:14] = True
        added = np.zeros_like(taken)
        before = taken.copy()
        pairs._place(added, taken, generator)
        assert not (ndimage.binary_dilation(added, np.ones((3, 3, 3))) & before).any()
        assert np.array_equal(taken, before | added)
        deformed = np.zeros_like(taken)
        pairs._deform(before, deformed, generator)
        assert deformed.any()
        reach = ndimage.binary_dilation(before, np.ones((3, 3, 3)), iterations=2)
        assert not (deformed & ~reach).any()


def test_a_single_voxel_survives_erosion(cohort):
    pairs = loader(cohort, corruption=Corruption(most_shift=0))
    lesion = np.zeros((EDGE,) * 3, bool)
    lesion[0, 5, 23] = True
    for index in range(20):
        deformed = np.zeros_like(lesion)
        pairs._deform(lesion, deformed, keyed_generator("erode", index))
        assert deformed[0, 5, 23]


def test_lesions_are_cut_out():
    first, second = lesions_of(line((2, 5), (9, 10)), 26)
    assert first.shape == (3, 1, 1) and second.shape == (1, 1, 1) and first.all() and second.all()
    assert lesions_of(np.zeros((3, 3, 3), bool), 26) == []


@pytest.mark.parametrize(
    "changes", [{"edge": 4}, {"corruption": Corruption(most_lesions=2, most_foreign=1)}]
)
def test_what_cannot_be_made_is_refused_in_words(cohort, changes):
    with pytest.raises(MssegError, match="lesion-wise F1") as caught:
        loader(cohort, **changes)
    assert caught.value.exit_code == ExitCode.CONFIG


def test_masks_are_cut_on_the_cpu(cohort):
    with pytest.raises(ValueError, match="CPU"):
        MaskPairLoader(cohort, RatioSampler(EDGE), BatchedAugment())


def test_no_lesion_is_counted_twice(cohort):
    """Lesions of the bank keep their voxels, whatever way they are turned."""
    pairs = loader(cohort)
    sizes = {int(lesion.sum()) for lesion in pairs.bank}
    for index in itertools.islice(itertools.count(), 20):
        mask = np.zeros((EDGE,) * 3, bool)
        pairs._place(mask, mask.copy(), keyed_generator("bank", index))
        assert int(mask.sum()) in sizes
