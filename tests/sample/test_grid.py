import itertools

import numpy as np
import pytest
import torch

from msseg_lightning.augment.fused import FusedAugment
from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.subject import BRAIN, TARGET
from msseg_lightning.sample.grid import GridLoader, GridSampler, SliceGridLoader, brain_box

SIZE = 8


def loader(cohort, **options):
    options = {"batch_size": 4, "seed": 3} | options
    return GridLoader(cohort, GridSampler(SIZE, 4), FusedAugment(), **options)


def boxes_of(loader, numbers):
    return [(subject, tuple(centre), flip) for subject, centre, flip in map(loader.place, numbers)]


def test_boxes_cover_the_box_of_the_brain_at_the_stride(cohort):
    low, high = brain_box(cohort[0])
    brain = np.argwhere(cohort[0].mask(BRAIN))
    assert (low == brain.min(0)).all() and (high == brain.max(0) + 1).all()
    starts = GridSampler(SIZE, 4).starts(cohort[0])
    # brain 4..25, 4..31, 3..20: starts 4 8 12 16 and the last at 26 - 8 = 18, and so on
    assert sorted(set(starts[:, 0])) == [4, 8, 12, 16, 18]
    assert sorted(set(starts[:, 1])) == [4, 8, 12, 16, 20, 24]
    assert sorted(set(starts[:, 2])) == [3, 7, 11, 13]
    assert len(starts) == 5 * 6 * 4 == len(np.unique(starts, axis=0))


def test_a_brain_smaller_than_a_box_lies_in_the_middle_of_one(cohort):
    starts = GridSampler((24, 8, 8), 4).starts(cohort[0])
    assert set(starts[:, 0]) == {3}  # 22 voxels from 4 on, one spare voxel on each side


def test_positive_boxes_hold_a_target_voxel_and_negative_ones_none(cohort):
    positive, negative = loader(cohort).boxes
    assert len(positive) + len(negative) == sum(
        len(GridSampler(SIZE, 4).starts(pair)) for pair in cohort
    )
    for boxes, expected in ((positive, True), (negative, False)):
        for subject, centre in zip(boxes.subject, boxes.centre, strict=True):
            start = np.rint(centre - (SIZE - 1) / 2).astype(int)
            box = tuple(slice(first, first + SIZE) for first in start)
            assert cohort[subject].mask(TARGET)[box].any() == expected
    assert len(positive) > 5


def test_half_of_every_batch_is_positive(cohort):
    for batch in loader(cohort).iterate(0, 6):
        assert (batch.target.sum((1, 2, 3, 4)) > 0).tolist() == [True, False] * 2


def test_every_negative_is_used_once_before_any_repeats(cohort):
    source = loader(cohort)
    count = len(source.boxes[1])
    turns = [
        [box[:2] for box in boxes_of(source, range(start, start + 2 * count, 2))]
        for start in (1, 1 + 2 * count)
    ]
    assert len(set(turns[0])) == count and set(turns[0]) == set(turns[1])
    assert turns[0] != turns[1], "each turn has an order of its own"
    mirrored = [box[2] for box in boxes_of(source, range(1, 2 * count, 2))]
    assert 0.4 < np.mean(mirrored) < 0.6


def test_every_positive_and_its_mirror_image_come_once_in_a_turn(cohort):
    source = loader(cohort)
    count = 2 * len(source.boxes[0])
    turn = boxes_of(source, range(0, 2 * count, 2))
    assert len(set(turn)) == count
    assert {box for box in turn if not box[2]} == {(*box[:2], False) for box in turn if box[2]}


def test_the_mirror_image_runs_from_right_to_left_with_its_mask(cohort):
    source, plain = loader(cohort), loader(cohort, mirror=False)
    # the same numbers name other boxes once the turns differ: compare by box
    patches = {}
    for batch, step in zip(plain.iterate(0, 200), itertools.count()):
        for index in range(4):
            subject, centre, _ = plain.place(4 * step + index)
            patches[subject, tuple(centre)] = batch.images[index], batch.target[index]
    seen = 0
    for batch, step in zip(source.iterate(0, 40), itertools.count()):
        for index in range(4):
            subject, centre, flip = source.place(4 * step + index)
            if (known := patches.get((subject, tuple(centre)))) is None:
                continue
            seen += flip
            images, target = (part.flip(1) if flip else part for part in known)
            assert (batch.images[index] == images).all()
            assert (batch.target[index] == target).all()
    assert seen > 20


def test_batches_are_a_function_of_the_step_on_any_number_of_ranks_and_threads(cohort):
    whole = list(loader(cohort).iterate(0, 8))
    late = list(loader(cohort, threads=3).iterate(5, 8))
    for one, other in zip(whole[5:], late, strict=True):
        assert (one.images == other.images).all() and (one.target == other.target).all()
    for rank in range(2):
        part = loader(cohort, batch_size=2).batch(6, rank, 2)
        assert (part.images == whole[6].images[2 * rank : 2 * rank + 2]).all()
    assert (loader(cohort, seed=4).batch(0).images != whole[0].images).any()


@pytest.mark.parametrize("without", ["labels", "lesions"])
def test_where_nothing_is_positive_all_boxes_come_in_turn(cohort, without):
    names = () if without == "labels" else (TARGET,)
    source = loader([cohort[1], cohort[4]], target_names=names)
    count = len(source.boxes[1])
    assert not len(source.boxes[0])
    turn = [box[:2] for box in boxes_of(source, range(count))]
    assert len(set(turn)) == count
    assert source.batch(0).target.shape[1] == len(names)


def test_a_draw_lies_on_the_grid(cohort):
    sampler = GridSampler(SIZE, 4)
    spec = sampler.draw(cohort, keyed_generator("any", 0))
    starts = sampler.starts(cohort[spec.subject])
    assert (np.rint(spec.centre - 3.5) == starts).all(1).any() and spec.size == (SIZE,) * 3


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_thin_boxes_become_slices(cohort, axis):
    size, stride = [10, 10, 10], [5, 5, 5]
    size[axis] = stride[axis] = 1
    source = SliceGridLoader(
        cohort, GridSampler(size, stride), FusedAugment(), mirror=False, batch_size=6, seed=3
    )
    batch = source.batch(2)
    assert batch.images.shape == (6, 2, 10, 10) and batch.target.shape == (6, 1, 10, 10)
    assert batch.target.flatten(1).any(1).tolist() == [True, False] * 3
    for index in range(6):
        subject, centre, _ = source.place(12 + index)
        start = np.rint(centre - (np.array(size) - 1) / 2).astype(int)
        box = tuple(slice(first, first + edge) for first, edge in zip(start, size, strict=True))
        expected = cohort[subject].image("followup_flair")[box].squeeze(axis)
        np.testing.assert_allclose(batch.images[index, 1], expected, atol=1e-5)


@pytest.mark.parametrize("size", [(8, 8, 8), (1, 1, 8)])
def test_other_boxes_are_no_slices(cohort, size):
    with pytest.raises(ValueError, match="no slice"):
        SliceGridLoader(cohort, GridSampler(size, 4), FusedAugment())


def test_patches_of_a_patient_can_be_on_both_sides(cohort):
    """The share of boxes of each kind is trained on, the others are held back, none is both."""
    whole, split = loader(cohort), loader(cohort, patch_split=0.7)
    assert whole.held_back() is None
    sides = split.boxes, split.held_back().boxes
    for kind, every in enumerate(whole.boxes):
        trained, other = (
            {
                (int(subject), *centre)
                for subject, centre in zip(side[kind].subject, side[kind].centre, strict=True)
            }
            for side in sides
        )
        assert len(trained) == round(0.7 * len(every)) and not trained & other
        assert len(trained | other) == len(every)
        for side in (trained, other):  # drawn, not cut off
            assert len({subject for subject, *_ in side}) > 1
    first = split.held_back().batch(0)
    assert torch.equal(first.images, split.held_back().batch(0).images)
    assert first.target.flatten(1).any(1).tolist() == [True, False] * 2
    places = {place[:2] for place in boxes_of(split, range(400))}
    assert not places & {place[:2] for place in boxes_of(split.held_back(), range(400))}
    for share in (0.0, 1.0):
        with pytest.raises(ValueError, match="patch_split"):
            loader(cohort, patch_split=share)
