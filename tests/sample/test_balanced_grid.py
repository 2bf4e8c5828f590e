import numpy as np

from msseg_lightning.augment.fused import FusedAugment
from msseg_lightning.sample.balanced_grid import BalancedGridLoader
from msseg_lightning.sample.grid import GridSampler


def loader(cohort, **options):
    options = {"batch_size": 4, "seed": 3} | options
    return BalancedGridLoader(cohort, GridSampler(8, 4), FusedAugment(), **options)


def turn_of(source, number):
    places = [source.place(number * source.turn + place) for place in range(source.turn)]
    return [(subject, tuple(centre)) for subject, centre, _ in places]


def test_a_turn_holds_negatives_once_and_positives_as_often_as_balances_them(cohort):
    source = loader(cohort)
    positive, negative = source.boxes
    assert source.repeats == round(len(negative) / len(positive)) > 1
    seen = turn_of(source, 0)
    places = {
        kind: {
            (int(subject), tuple(centre))
            for subject, centre in zip(boxes.subject, boxes.centre, strict=True)
        }
        for kind, boxes in (("positive", positive), ("negative", negative))
    }
    assert all(seen.count(place) == source.repeats for place in places["positive"])
    assert all(seen.count(place) == 1 for place in places["negative"])
    # as many of either kind, within the rounding of the factor
    count = sum(place in places["positive"] for place in seen)
    assert abs(count - len(negative)) <= len(positive) / 2


def test_the_factor_is_set_once_and_the_order_is_new_each_turn(cohort):
    source = loader(cohort)
    first, second = turn_of(source, 0), turn_of(source, 1)
    assert first != second and sorted(first) == sorted(second)
    assert not any(source.place(number)[2] for number in range(source.turn))


def test_a_batch_is_a_function_of_the_step_however_many_ranks_make_it(cohort):
    alone = loader(cohort).batch(5)
    halves = [loader(cohort, batch_size=2).batch(5, rank, 2) for rank in range(2)]
    for rank, half in enumerate(halves):
        assert np.array_equal(half.images, alone.images[2 * rank : 2 * rank + 2])
    assert not np.array_equal(loader(cohort, seed=4).batch(5).images, alone.images)


def test_pairs_without_lesions_give_every_patch_once(cohort):
    source = loader([cohort[1], cohort[4]])
    assert source.repeats == 0 and source.turn == len(source.boxes[1])
    assert len(set(turn_of(source, 0))) == source.turn
