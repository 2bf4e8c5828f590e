import math

import numpy as np
import pytest

from msseg_lightning.core.candidates import Candidates
from msseg_lightning.core.subject import FOLLOWUP
from msseg_lightning.method.candidate_rules import (
    AnyOf,
    AtLeastVoxels,
    ConsistentOverTime,
    Contrast,
    LeastAxis,
    NotTouching,
    ShareInside,
    Sphericity,
    least_axis_mm,
    sphericity,
)

SHAPE = (24, 24, 24)
UNIT = (1.0, 1.0, 1.0)


class Pair:
    """Stands for a prepared pair with some masks and images."""

    def __init__(self, **volumes):
        self.volumes = volumes

    def mask(self, name):
        return self.volumes[name]

    image = mask


def block(*corners):
    mask = np.zeros(SHAPE, bool)
    mask[tuple(slice(*corner) for corner in corners)] = True
    return mask


def rod(length):
    """A candidate of so many voxels."""
    return block((5, 5 + length), (5, 6), (5, 6))


def ball(radius, spacing=UNIT):
    grid = np.indices(SHAPE).transpose(1, 2, 3, 0) - 11.5
    return np.linalg.norm(grid * spacing, axis=-1) <= radius


def kept(rule, mask, **volumes):
    candidates = Candidates.of(mask, UNIT)
    return rule(Pair(**volumes), candidates).tolist()


def test_four_voxels_are_dropped_and_five_stay():
    assert kept(AtLeastVoxels(5), rod(4)) == [False]
    assert kept(AtLeastVoxels(5), rod(5)) == [True]


def test_a_tenth_in_white_matter_is_enough():
    rule = ShareInside("white", 0.1)
    assert kept(rule, rod(10), white=rod(1)) == [True]
    assert kept(rule, rod(11), white=rod(1)) == [False]


def test_touching_is_one_voxel_in_common_or_beside():
    beside = block((4, 5), (5, 6), (5, 6))
    assert kept(NotTouching(["fluid"]), rod(5), fluid=beside) == [True]
    assert kept(NotTouching(["fluid"], "dilated"), rod(5), fluid=beside) == [False]
    assert kept(NotTouching(["fluid"]), rod(5), fluid=rod(1)) == [False]
    other = NotTouching(["fluid", "grey"])
    assert kept(other, rod(5), fluid=~rod(5), grey=rod(1)) == [False]
    assert kept(other, rod(5), fluid=~rod(5), grey=~rod(5)) == [True]
    assert kept(NotTouching(["fluid"], share=0.2), rod(5), fluid=rod(1)) == [True]
    assert kept(NotTouching(["fluid"], share=0.2), rod(5), fluid=rod(2)) == [False]
    with pytest.raises(ValueError, match="touch"):
        NotTouching(["fluid"], "near")


def test_contrast_is_the_mean_inside_minus_that_of_two_voxels_around():
    own = block((8, 12), (8, 12), (8, 12))
    image = np.zeros(SHAPE, np.float32)
    image[own] = 1.0
    image[block((0, 5), (0, 24), (0, 24))] = -100  # three voxels away
    assert kept(Contrast(0.9), own, **{FOLLOWUP: image}) == [True]
    assert kept(Contrast(1.01), own, **{FOLLOWUP: image}) == [False]
    near = image.copy()
    near[block((6, 7), (8, 12), (8, 12))] = 20  # the second voxel beside it belongs to the shell
    assert kept(Contrast(0.9), own, **{FOLLOWUP: near}) == [False]
    assert kept(Contrast(0.9, shell=1), own, **{FOLLOWUP: near}) == [True]
    another = own | block((13, 15), (8, 12), (8, 12))  # a candidate in the shell does not count
    image[another & ~own] = 50
    assert kept(Contrast(0.9), another, **{FOLLOWUP: image}) == [True, True]
    ratio = Contrast(1.5, measure="ratio")
    assert kept(ratio, own, **{FOLLOWUP: np.where(own, 3.1, 2.0)}) == [True]
    assert kept(ratio, own, **{FOLLOWUP: np.where(own, 2.9, 2.0)}) == [False]


def test_the_least_axis_in_mm():
    """A sheet of one voxel has none; of two planes 1 mm apart the variance is 1/4, of the length
    4 * 0.5 = 2; a spacing of 0.5 halves it."""
    sheet, slab = block((5, 15), (5, 15), (5, 6)), block((5, 15), (5, 15), (5, 7))
    assert least_axis_mm(sheet, UNIT) == 0 and least_axis_mm(rod(1), UNIT) == 0
    assert least_axis_mm(slab, UNIT) == pytest.approx(2)
    assert least_axis_mm(slab, (1.0, 1.0, 0.5)) == pytest.approx(1)
    assert kept(LeastAxis(1.2), sheet) == [False] and kept(LeastAxis(1.2), slab) == [True]
    assert kept(LeastAxis(2.1), slab) == [False]


def test_sphericity_of_a_ball_and_of_a_needle():
    """Marching cubes cut the corners of a voxel ball; a ball of 8 mm is round within 10 %."""
    assert sphericity(ball(8), UNIT) == pytest.approx(1, abs=0.1)
    assert sphericity(ball(8, (1.0, 1.0, 2.0)), (1.0, 1.0, 2.0)) == pytest.approx(1, abs=0.1)
    # one voxel: marching cubes give an octahedron with edges of sqrt(1/2), so an area of sqrt(3)
    one = (36 * math.pi) ** (1 / 3) / math.sqrt(3)
    assert sphericity(rod(1), UNIT) == pytest.approx(one)
    sheet = block((0, 24), (0, 24), (5, 6))
    assert sphericity(sheet, (1.0, 1.0, 0.1)) < 0.2 < sphericity(ball(5), UNIT)
    assert kept(Sphericity(0.2), ball(5)) == [True]
    thin = Candidates.of(sheet, (1.0, 1.0, 0.1))
    assert Sphericity(0.2)(Pair(), thin).tolist() == [False]


def test_any_of_removes_what_fails_both():
    sheet = block((5, 15), (5, 15), (5, 6))
    assert kept(AnyOf(LeastAxis(1.2), Sphericity(0.2)), sheet) == [True]
    assert kept(AnyOf(LeastAxis(1.2), Sphericity(0.9)), sheet) == [False]


@pytest.mark.parametrize(
    ("later", "earlier", "stays"),
    [
        (6, 6, False),  # inside of lesions of both visits
        (6, 0, True),
        (1, 0, True),  # one voxel is enough
        (0, 0, False),
        (6, 2, True),
        (6, 3, False),  # one half is too much
    ],
)
def test_a_lesion_of_the_followup_that_is_none_of_the_baseline_stays(later, earlier, stays):
    maps = {"f": np.where(rod(later), 0.8, 0.5), "b": np.where(rod(earlier), 0.8, 0.5)}
    assert kept(ConsistentOverTime("f", "b"), rod(6), **maps) == [stays]
    assert kept(ConsistentOverTime("f", "b", threshold=0.85), rod(6), **maps) == [False]


def test_both_numbers_of_consistency_can_be_changed():
    maps = {"f": rod(2).astype(float), "b": rod(3).astype(float)}
    assert kept(ConsistentOverTime("f", "b", baseline_share=0.6), rod(6), **maps) == [True]
    strict = ConsistentOverTime("f", "b", followup_voxels=3, baseline_share=0.6)
    assert kept(strict, rod(6), **maps) == [False]
