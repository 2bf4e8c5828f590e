"""What the card of S16 says of both systems, on a pair whose tissue is known."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.subject import (
    BASELINE,
    BRAIN,
    FOLLOWUP,
    LoadedSubject,
    LongitudinalSubject,
    Native,
)
from msseg_lightning.core.volume import Volume
from msseg_lightning.preprocess.tissue import CLASSES
from msseg_lightning.run.assemble.system import build_method
from msseg_lightning.run.config.compose import compose_config

NAMES = ("subtraction_radiomics", "cross_sectional_lesion_difference")
SHAPE = (44, 40, 36)
WHITE = (slice(4, 30), slice(4, 36), slice(4, 32))
FLUID = (slice(30, 40), slice(4, 36), slice(4, 32))


@functools.cache
def config(name):
    return compose_config(["read.root=."], name)


class Cache:
    """Hands out one prepared pair."""

    def __init__(self, pair):
        self.pair = pair

    def prepare(self, subjects):
        return [self.pair for _ in subjects]


def ball(centre, radius):
    grid = np.indices(SHAPE).transpose(1, 2, 3, 0) - centre
    return np.linalg.norm(grid, axis=-1) <= radius


def box(*corners):
    mask = np.zeros(SHAPE, bool)
    mask[tuple(slice(*corner) for corner in corners)] = True
    return mask


def predict(folder, risen, name=NAMES[0], lesions=()):
    """The prediction for visits that are equal but for a rise by 3 in some voxels.

    Args:
        folder: for the prepared pair.
        risen: (X, Y, Z) where the follow-up is brighter.
        name: of the system.
        lesions: hyperintense voxels of the baseline and of the follow-up.
    """
    generator = np.random.default_rng(0)
    brain, nowhere = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    kinds = {"white_matter": nowhere.copy(), "fluid": nowhere.copy()}
    for kind, place in (("white_matter", WHITE), ("fluid", FLUID)):
        kinds[kind][place] = brain[place] = True
    baseline = generator.normal(0, 0.2, SHAPE).astype(np.float32) * brain
    volumes = {
        BASELINE: Volume(baseline, np.eye(4)),
        FOLLOWUP: Volume(baseline + 3 * risen.astype(np.float32), np.eye(4)),
        BRAIN: Volume(brain, np.eye(4), "mask"),
    }
    bright = dict(zip(("baseline", "followup"), lesions, strict=False))
    for visit in ("baseline", "followup"):
        masks = {**kinds, "hyperintense": bright.get(visit, nowhere)}
        for kind in CLASSES:
            mask = masks.get(kind, nowhere)
            volumes[f"{visit}_{kind}"] = Volume(mask, np.eye(4), "mask")
    native = Native(volumes[BASELINE].grid, b"")
    pair = PreparedSubject.write(
        LoadedSubject(LongitudinalSubject("p", "p", {}), volumes, native), folder
    )
    method = build_method(config(name))
    method.cache = Cache(pair)
    return method.predict(LongitudinalSubject("p", "p", {}))


def test_of_white_matter_a_ball_is_kept_and_of_fluid_it_is_not(tmp_path):
    """Balls of 3 mm; one in fluid, a sheet one voxel thick, and rods of four and five voxels."""
    kept, drowned = ball((12, 12, 12), 3), ball((35, 12, 12), 3)
    sheet, four = box((20, 28), (20, 28), (20, 21)), box((8, 12), (30, 31), (8, 9))
    found = predict(tmp_path / "pair", kept | drowned | sheet | four)
    np.testing.assert_array_equal(found.mask > 0, kept)
    steps = found.steps
    assert list(steps) == [
        "tissue",
        "difference",
        "proposed",
        "size",
        "white_matter",
        "touching",
        "contrast",
        "least_axis",
        "sphericity",
    ]
    lost = {"size": four, "white_matter": drowned, "least_axis": sheet}
    left = kept | drowned | sheet | four
    np.testing.assert_array_equal(steps["proposed"] > 0, left)
    for name in list(steps)[3:]:
        left = left & ~lost.get(name, np.zeros(SHAPE, bool))
        np.testing.assert_array_equal(steps[name] > 0, left, err_msg=name)


def test_more_than_half_in_fluid_or_in_an_old_lesion_is_too_much(tmp_path):
    """Two balls that are cut in half by the border of the other region, and one further on."""
    ours = ball((12, 12, 12), 3)
    half = ours & box((0, 12), (0, 40), (0, 36))  # the smaller half: the middle plane is not in it
    found = predict(tmp_path / "half", ours, lesions=(half,))
    np.testing.assert_array_equal(found.mask > 0, ours)
    more = ours & box((0, 13), (0, 40), (0, 36))
    found = predict(tmp_path / "more", ours, lesions=(more,))
    assert found.steps["white_matter"].any() and not found.steps["touching"].any()
    wet = box((28, 33), (10, 15), (10, 15))  # two fifths in white matter
    found = predict(tmp_path / "wet", wet)
    assert found.steps["white_matter"].any() and not found.steps["touching"].any()


def test_five_voxels_are_enough_for_the_first_rule(tmp_path):
    four, five = box((8, 12), (30, 31), (8, 9)), box((8, 13), (20, 21), (8, 9))
    found = predict(tmp_path / "pair", four | five)
    np.testing.assert_array_equal(found.steps["size"] > 0, five)


@pytest.mark.parametrize("name", NAMES)
def test_equal_visits_have_no_new_lesion(name, tmp_path):
    lesions = (ball((12, 12, 12), 3),) * 2
    found = predict(tmp_path / "pair", np.zeros(SHAPE, bool), name, lesions)
    assert not found.mask.any()


def test_nothing_is_fitted_and_two_answers_are_the_same(tmp_path):
    for name in NAMES:
        build_method(config(name)).fit([], [], tmp_path)
    first, second = (predict(tmp_path / n, ball((12, 12, 12), 3)) for n in "ab")
    np.testing.assert_array_equal(first.mask, second.mask)
    assert all(np.array_equal(first.steps[n], second.steps[n]) for n in first.steps)


def test_the_baseline_of_the_cross_section_is_compared_lesion_by_lesion(tmp_path):
    """A lesion that shares one voxel with an old one is old, whatever the difference says."""
    new, grown = ball((12, 12, 12), 3), ball((22, 25, 20), 4)
    old = box((22, 23), (25, 26), (24, 25))  # at the rim of the grown one
    assert (grown & old).sum() == 1
    found = predict(tmp_path / "p", np.zeros(SHAPE, bool), NAMES[1], (old, new | grown))
    np.testing.assert_array_equal(found.mask > 0, new)
    assert list(found.steps) == [
        "baseline_tissue",
        "followup_tissue",
        "proposed",
        "not_in_baseline",
    ]


def test_the_chain_makes_tissue_before_and_difference_after_the_z_scores():
    for name in NAMES:
        names = list(config(name)["preprocess"]["steps"])
        assert names.index("bias") < names.index("tissue") < names.index("normalise")
