import sys

import numpy as np
import pytest
import torch

from msseg_lightning.augment.fused import FusedAugment
from msseg_lightning.augment.recipe import Affine, Flip, Noise, Recipe
from msseg_lightning.core.lesion import label_lesions
from msseg_lightning.core.random import keyed_generator
from msseg_lightning.sample.patch import PatchSpec
from msseg_lightning.sample.ratio import RatioSampler
from msseg_lightning.sample.synthetic_pairs import (
    ERASED,
    Donors,
    Fate,
    PairSynthesis,
    run_frozen,
)
from msseg_lightning.sample.visit import FLAIR, LESIONS, visits_of
from tests.sample.lesion_scans import LESION, SHAPE, Filler, prepared

TURN = Recipe(flip=Flip(), affine=Affine(rotation_degrees=(15, 15, 15)))
NOISE = FusedAugment(Recipe(noise=Noise(probability=1.0, sd=(0.2, 0.2))))
HEALTHY, PAINT = 0.0, 2.0  # means of patches, and two deviations above them


@pytest.fixture(scope="module")
def visits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    return visits_of([prepared(folder, name, seed) for seed, name in enumerate("abc")])


def synthesis(fates=(0.25, 0.25, 0.25, 0.25), recipe=None, size=20, **options):
    sampler = RatioSampler(size, 1.0, target="lesions")
    return PairSynthesis(sampler, FusedAugment(recipe), fates=fates, **options)


def always(fate: Fate) -> list[float]:
    return [float(fate == other) for other in Fate]


def filled(copy, where) -> bool:
    """Whether a network's one value stands there, and not a lesion."""
    return bool(np.ptp(copy[where]) < 1e-5 and copy[where].mean() < LESION / 2)


def make(how, visits, inpainter=None, generator=None, seed=0, count=1):
    donors = Donors(visits) if generator is not None else None
    plans = [how.plan(visits, donors, keyed_generator("test", seed, i)) for i in range(count)]
    images, new = how.render(plans, inpainter, generator)
    return plans, images, new[:, 0] > 0


# ------------------------------------------------------------------ acceptance of the card
def test_neither_erased_nor_painted_nothing_is_new(visits):
    how = synthesis(always(Fate.KEPT), TURN, alter=None)
    plans, images, new = make(how, visits, Filler(HEALTHY), count=4)
    assert not new.any()
    assert all(plan.lesions.max() > 0 for plan in plans)
    np.testing.assert_array_equal(images[:, 0], images[:, 1])  # no augmentation: the same
    altered = synthesis(always(Fate.KEPT), TURN, alter=NOISE)
    _, noisy, new = make(altered, visits, Filler(HEALTHY), count=4)
    assert not new.any()
    difference = noisy[:, 0] - noisy[:, 1]  # two draws of noise of 0.2 and nothing else
    assert difference.std() == pytest.approx(0.2 * np.sqrt(2), rel=0.05)
    assert np.abs(difference.mean()) < 0.01
    # the noise is as strong on lesions as beside them
    lesions = np.stack([plan.lesions > 0 for plan in plans])
    assert difference[lesions].std() == pytest.approx(difference[~lesions].std(), rel=0.15)
    assert np.abs(difference[lesions].mean()) < 0.1


def test_erased_in_the_first_copy_all_lesions_are_new(visits):
    how = synthesis(always(Fate.ERASED_FIRST), TURN)
    plans, images, new = make(how, visits, Filler(HEALTHY), count=4)
    for plan, pair, mask in zip(plans, images, new, strict=True):
        lesions = plan.lesions > 0
        np.testing.assert_array_equal(mask, lesions)
        assert filled(pair[0], lesions)
        assert pair[1][lesions].mean() > LESION / 2
        rest = ~plan.erase[0]
        np.testing.assert_array_equal(pair[0][rest], pair[1][rest])


def test_without_an_inpainter_noise_of_the_patch_is_left(visits):
    plans, images, _ = make(synthesis(always(Fate.ERASED_FIRST)), visits, count=4)
    for plan, pair in zip(plans, images, strict=True):
        lesions = plan.lesions > 0
        assert pair[0][lesions].mean() < pair[1][lesions].mean() - 1


def test_the_networks_run_without_gradients_and_keep_their_weights(visits):
    inpainter, generator = Filler(HEALTHY), Filler(PAINT)
    before = [network.value.clone() for network in (inpainter, generator)]
    _, images, _ = make(synthesis(painted=(3, 3)), visits, inpainter, generator, count=4)
    assert inpainter.modes == [(True, False)] == generator.modes
    assert inpainter.calls[0][1] == 1 and generator.calls[0][1] == 2
    assert [network.value for network in (inpainter, generator)] == before
    assert all(network.value.grad is None for network in (inpainter, generator))
    learned = torch.from_numpy(images)  # an ordinary tensor that a network can learn from
    assert not learned.is_inference() and not learned.requires_grad


written: list[str] = []
watching = False


def _watch(event, arguments):
    if watching and event == "open" and isinstance(arguments[1], str):
        if set(arguments[1]) & set("wax+"):
            written.append(str(arguments[0]))
    elif watching and event in ("os.mkdir", "os.rename"):
        written.append(str(arguments[0]))


def test_no_file_is_written(visits, tmp_path):
    global watching
    how = synthesis(recipe=TURN, alter=NOISE, painted=(1, 3))
    make(how, visits, Filler(HEALTHY), Filler(PAINT), count=2)  # compiled code is cached once
    sys.addaudithook(_watch)
    watching = True
    try:
        make(how, visits, Filler(HEALTHY), Filler(PAINT), seed=1, count=4)
        assert written == []
        (tmp_path / "seen").write_text("the watch works")
        assert len(written) == 1
    finally:
        watching = False


# ------------------------------------------------------------------ construction of the mask
def test_every_fate_does_what_it_says(visits):
    plans, images, new = make(synthesis(recipe=TURN), visits, Filler(HEALTHY), count=12)
    met = set()
    for plan, pair, mask in zip(plans, images, new, strict=True):
        assert len(plan.fates) == plan.lesions.max()
        for number, fate in enumerate(plan.fates, start=1):
            lesion = plan.lesions == number
            gone = [filled(copy, lesion) for copy in pair]
            there = [bool(np.median(copy[lesion]) > LESION / 2) for copy in pair]
            expected = {
                Fate.ERASED_FIRST: ([True, False], [False, True], True),
                Fate.ERASED_SECOND: ([False, True], [True, False], False),
                Fate.ERASED_BOTH: ([True, True], [False, False], False),
                Fate.KEPT: ([False, False], [True, True], False),
            }[fate]
            assert (gone, there) == expected[:2]
            assert bool(mask[lesion].all()) == bool(mask[lesion].any()) == expected[2]
            met.add(fate)
        assert not mask[plan.lesions == 0].any()
    assert met == set(Fate)


def test_fates_are_equally_likely(visits):
    how = synthesis(size=(36, 40, 32))
    fates = [fate for plan in make(how, visits, count=150)[0] for fate in plan.fates]
    shares = np.bincount(fates, minlength=4) / len(fates)
    assert len(fates) > 400
    np.testing.assert_allclose(shares, 0.25, atol=0.06)


def test_a_margin_goes_with_an_erased_lesion_but_not_into_a_kept_one(tmp_path):
    neighbours = ((10, 12, 10), (10, 17, 10))  # one voxel apart
    visits = visits_of([prepared(tmp_path, "a", 0, places=neighbours)])
    plans, images, _ = make(synthesis(margin_voxels=2), visits, Filler(HEALTHY), count=16)
    told_apart = 0
    for plan, pair in zip(plans, images, strict=True):
        for copy, before, erase, time in zip(pair, plan.copies, plan.erase, (0, 1), strict=True):
            gone = [ERASED[fate][time] for fate in plan.fates]
            for number, erased in enumerate(gone, start=1):
                lesion = plan.lesions == number
                if not erased:
                    np.testing.assert_array_equal(copy[lesion], before[lesion])
            assert not any(gone) or erase.sum() > (erase & (plan.lesions > 0)).sum()
            told_apart += len(set(gone)) == 2
    assert told_apart > 4


def test_painted_lesions_are_new_only_where_the_second_copy_alone_has_them(visits):
    how = synthesis(always(Fate.KEPT), TURN, painted=(3, 3), size=24)
    plans, images, new = make(how, visits, Filler(HEALTHY), Filler(PAINT), count=10)
    kinds = set()
    for plan, pair, mask in zip(plans, images, new, strict=True):
        first, second = plan.paint
        np.testing.assert_array_equal(mask, second & ~first)
        for copy, where, before in zip(pair, plan.paint, plan.copies, strict=True):
            if where.any():
                expected = before.mean() + PAINT * before.std()
                np.testing.assert_allclose(copy[where], expected, rtol=0.15)
        assert not (plan.paint & (plan.lesions > 0)).any()
        labels, count = label_lesions(first | second, 26)
        assert count <= 3  # they never touch one another
        for number in range(1, count + 1):
            where = labels == number
            kinds.add((bool(first[where].any()), bool(second[where].any())))
            assert bool(first[where].all()) == bool(first[where].any())
            assert bool(second[where].all()) == bool(second[where].any())
            assert (plan.copies[0][where] < 1.5).mean() > 0.7
    assert kinds == {(True, False), (False, True), (True, True)}


def test_nothing_is_painted_without_a_generator_or_outside_of_its_places(visits):
    assert not any(plan.paint.any() for plan in make(synthesis(painted=(3, 3)), visits)[0])
    nowhere = synthesis(painted=(3, 3), tissue=(10.0, 11.0))
    assert not any(
        plan.paint.any() for plan in make(nowhere, visits, None, Filler(PAINT), count=3)[0]
    )
    brain = synthesis(always(Fate.KEPT), painted=(3, 3), places="brain", size=24)
    plans = make(brain, visits, None, Filler(PAINT), count=6)[0]
    assert any(plan.paint.any() for plan in plans)


def test_a_pair_is_a_function_of_its_generator(visits):
    how = synthesis(recipe=TURN, alter=NOISE, painted=(1, 3))
    networks = Filler(HEALTHY), Filler(PAINT)
    _, images, new = make(how, visits, *networks, seed=3, count=2)
    _, again, same = make(how, visits, *networks, seed=3, count=2)
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(new, same)
    _, other, _ = make(how, visits, *networks, seed=4, count=2)
    assert not np.array_equal(images, other)


# ------------------------------------------------------------------ transplanted lesions
class At:
    """A sampler that always gives one box."""

    size = SHAPE

    def draw(self, subjects, generator):
        return PatchSpec(0, (np.array(SHAPE) - 1) / 2, SHAPE, positive=False)


def test_a_transplant_lies_where_it_lay_in_the_other_brain(visits):
    donors = Donors(visits)
    into, others = visits[0], [visit for visit in visits if visit.patient != visits[0].patient]
    union = np.any([visit.mask(LESIONS) for visit in others], axis=0)
    for seed in range(20):
        mask = donors.transplant(into, np.zeros(3), np.eye(3), SHAPE, keyed_generator("t", seed))
        # the brains have one box, so the places are the same: one lesion of 4^3
        assert mask is not None and mask.sum() == 64
        assert not (mask & ~union).any()


def test_a_transplant_follows_the_turn_of_the_patch(visits):
    donors = Donors(visits)
    plain = donors.transplant(visits[0], np.zeros(3), np.eye(3), SHAPE, keyed_generator("t", 5))
    flipped = donors.transplant(
        visits[0],
        np.array([SHAPE[0] - 1.0, 0.0, 0.0]),
        np.diag([-1.0, 1.0, 1.0]),
        SHAPE,
        keyed_generator("t", 5),
    )
    np.testing.assert_array_equal(flipped, plain[::-1])
    away = np.array([1000.0, 0, 0])
    assert donors.transplant(visits[0], away, np.eye(3), SHAPE, keyed_generator("t", 5)) is None


def test_the_patch_of_a_plan_is_the_scan(visits):
    how = PairSynthesis(At(), FusedAugment())
    (plan,), _, _ = make(how, visits)
    np.testing.assert_array_equal(plan.copies[0], visits[0].image(FLAIR))
    np.testing.assert_array_equal(plan.lesions > 0, visits[0].mask(LESIONS))
    assert plan.subject == "a"


def test_one_volume_gets_the_answer_of_two():
    network = Filler(1.0)
    assert run_frozen(network, np.zeros((1, 1, 4, 4, 4), np.float32)).shape == (1, 1, 4, 4, 4)
    assert network.calls == [(2, 1, 4, 4, 4)]


def test_what_it_refuses():
    with pytest.raises(ValueError, match="probabilities"):
        synthesis((0.5, 0.5, 0.5, 0.5))
    with pytest.raises(ValueError, match="counts"):
        synthesis(painted=(2, 1))
