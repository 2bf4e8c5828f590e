import dataclasses
import math

import numpy as np
import pytest

from msseg_lightning.simulate.head import load_head
from msseg_lightning.simulate.lesion import (
    Lesion,
    classify,
    draw_lesions,
    new_lesion_count,
    stratified_quantile,
)
from msseg_lightning.simulate.lesion_prior.statistics import shipped_statistics
from msseg_lightning.simulate.recipe import CohortRecipe, LesionRecipe


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_counts_like_the_challenge(seed):
    counts = [new_lesion_count(LesionRecipe(), seed, index) for index in range(40)]
    assert sum(count == 0 for count in counts) == 11  # exactly, by stratification
    assert sum(count == 1 for count in counts) == 9
    assert 130 <= sum(counts) <= 175  # about 150
    assert 20 <= max(counts) <= 32


def test_a_stratum_is_spread_evenly_and_a_patient_stands_alone():
    quantiles = [stratified_quantile(3, index, 10, "x") for index in range(20)]
    assert sorted(int(q * 10) for q in quantiles[:10]) == list(range(10))
    assert sorted(int(q * 10) for q in quantiles[10:]) == list(range(10))
    assert stratified_quantile(3, 7, 10, "x") == quantiles[7]


def test_volume_of_an_ellipsoid_by_hand():
    lesion = Lesion(
        1, "growing", "deep", np.zeros(3), np.array([3.0, 2.0, 1.0]), np.eye(3), 1.4, 0, 0, 0,
        (1.0, 1.2),
    )  # fmt: skip
    assert lesion.volume_mm3 == pytest.approx(4 / 3 * math.pi * 6)
    assert lesion.radius_mm == pytest.approx(6 ** (1 / 3))
    assert lesion.shape_matrix(0) @ [3, 0, 0] == pytest.approx([1, 0, 0])
    assert lesion.shape_matrix(1) @ [0, 2.4, 0] == pytest.approx([0, 1, 0])


@pytest.fixture(scope="module")
def table():
    recipe = CohortRecipe()
    return [draw_lesions(recipe, shipped_statistics(), load_head(), 0, i) for i in range(40)]


def test_volumes_and_contrast_of_new_lesions(table):
    new = [lesion for patient in table for lesion in patient if lesion.fate == "new"]
    volumes = np.array([lesion.volume_mm3 for lesion in new])
    assert volumes.min() >= 4 - 1e-9 and volumes.max() <= 3000
    assert 40 < np.median(volumes) < 95 and 80 < volumes.mean() < 180
    # 0.005 % of the voxels of a 1 mm grid of the challenge's size
    share = volumes.sum() / 40 / (192 * 240 * 212)
    assert 0.00003 < share < 0.00008
    low, high = LesionRecipe().contrast
    contrasts = [lesion.contrast for lesion in new]
    assert low <= min(contrasts) and max(contrasts) <= high


def test_every_fate_and_class_occurs(table):
    everything = [lesion for patient in table for lesion in patient]
    fates = {lesion.fate for lesion in everything}
    assert fates == {"new", "stable", "growing", "shrinking", "vanishing", "vessel"}
    old = [lesion for lesion in everything if lesion.fate not in ("new", "vessel")]
    share = {fate: np.mean([lesion.fate == fate for lesion in old]) for fate in fates}
    assert 0.80 < share["stable"] < 0.92 and 0.03 < share["growing"] < 0.10
    places = [lesion.place for lesion in old]
    assert 0.12 < np.mean([place == "periventricular" for place in places]) < 0.30  # open_ms: 0.18
    large = sum(a.volume_mm3 for a in old if a.place == "periventricular")
    assert 0.4 < large / sum(a.volume_mm3 for a in old) < 0.9  # open_ms: 0.60
    assert {"juxtacortical", "infratentorial", "deep"} < set(places)


def test_new_lesions_keep_apart(table):
    for patient in table:
        new = [lesion for lesion in patient if lesion.fate == "new"]
        for n, a in enumerate(new):
            for b in new[:n]:
                assert np.linalg.norm(a.centre_mm - b.centre_mm) > 3


def test_numbers_are_unique_and_scales_follow_fates(table):
    for patient in table:
        assert [lesion.number for lesion in patient] == list(range(1, len(patient) + 1))
        for lesion in patient:
            if lesion.fate == "new":
                assert lesion.scales == (0.0, 1.0)
            if lesion.fate == "vanishing":
                assert lesion.scales == (1.0, 0.0)
            if lesion.fate == "growing":
                assert lesion.scales[1] > lesion.scales[0] > 0


def test_lesions_lie_in_tissue_inside_the_brain(table):
    centres = np.array([lesion.centre_mm for p in table for lesion in p if lesion.fate != "vessel"])
    levels = load_head().at(centres)
    assert np.mean(levels[:, 2] > 0.5) < 0.02
    assert np.mean(levels[:, 3] < 0) > 0.99


def test_without_new_lesions_nothing_else_changes():
    recipe = CohortRecipe()
    none = dataclasses.replace(
        recipe, lesions=dataclasses.replace(recipe.lesions, without_new=1.0, with_one=0.0)
    )
    drawn = draw_lesions(none, shipped_statistics(), load_head(), 0, 5)
    usual = draw_lesions(recipe, shipped_statistics(), load_head(), 0, 5)
    assert not [lesion for lesion in drawn if lesion.fate == "new"]
    old = [lesion.centre_mm for lesion in usual if lesion.fate not in ("new", "vessel")]
    again = [lesion.centre_mm for lesion in drawn if lesion.fate != "vessel"]
    assert np.array_equal(old, again)


@pytest.mark.parametrize(
    ("centre", "levels", "place"),
    [
        ((10, -50, -30), (0.9, 0.1, 0, -20, 3), "infratentorial"),
        ((25, -20, 20), (0.9, 0.1, 0, -30, 4), "periventricular"),
        ((45, -20, 40), (0.9, 0.1, 0, -10, 20), "juxtacortical"),
        ((28, -20, 35), (1.0, 0.0, 0, -30, 12), "deep"),
    ],
)
def test_classes(centre, levels, place):
    assert classify(np.array(centre, float), np.array(levels, np.float32)) == place
