import dataclasses

import numpy as np
import pytest

from msseg_lightning.augment.parameters import (
    Intensity,
    anatomical_axes,
    draw,
    visit_of,
)
from msseg_lightning.augment.recipe import (
    Affine,
    BiasField,
    Blur,
    Elastic,
    Flip,
    Gamma,
    Noise,
    Permute,
    Recipe,
    Scale,
    Shift,
    ThickSlices,
)
from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.volume import Grid

SIZE = (32, 32, 32)
CUBE = Grid((64, 64, 64), np.eye(4))
SLICES = Grid((64, 64, 20), np.diag([1.0, 1.0, 4.0, 1.0]))
VISITS = ("baseline", "followup")


def many(recipe, grid=CUBE, count=400):
    return [draw(recipe, grid, SIZE, VISITS, keyed_generator("test", i)) for i in range(count)]


def test_empty_recipe_changes_nothing():
    for parameters in many(Recipe(), count=5):
        assert np.array_equal(parameters.matrix, np.eye(3))
        assert parameters.nodes is None and not parameters.translation.any()
        for visit in parameters.visits.values():
            assert visit == Intensity(noise_seed=visit.noise_seed)


def test_rotation_is_rigid_in_millimetres():
    """With 4 mm slices a voxel matrix is no rotation, but in mm lengths and angles are kept."""
    recipe = Recipe(affine=Affine(1.0, (30, 30, 30)))
    spacing = np.diag([1.0, 1.0, 4.0])
    for parameters in many(recipe, SLICES, 20):
        in_mm = spacing @ parameters.matrix @ np.linalg.inv(spacing)
        assert np.allclose(in_mm @ in_mm.T, np.eye(3))
        assert not np.allclose(parameters.matrix @ parameters.matrix.T, np.eye(3))


def test_ranges_and_probabilities():
    recipe = Recipe(affine=Affine(0.3, scale=(0.7, 1.3), translation_mm=5), flip=Flip(0.5))
    drawn = many(recipe)
    scales = np.array([np.linalg.norm(p.matrix, axis=0) for p in drawn])
    moved = np.array([p.translation.any() for p in drawn])
    assert 0.22 < moved.mean() < 0.38
    assert scales.min() >= 0.7 and scales.max() <= 1.3
    assert scales.min() < 0.72 and scales.max() > 1.28
    flipped = np.array([np.diag(p.matrix) < 0 for p in drawn])
    assert (np.abs(flipped.mean(0) - 0.5) < 0.08).all()
    assert max(np.abs(p.translation).max() for p in drawn) <= 5


def test_shear_happens_as_often_as_asked_and_within_its_range():
    drawn = many(Recipe(affine=Affine(shear=0.1, shear_probability=0.2)))
    sheared = np.array([p.matrix - np.eye(3) for p in drawn])
    share = sheared.any((1, 2)).mean()
    assert 0.14 < share < 0.26
    assert 0.09 < np.abs(sheared).max() <= 0.1 and not sheared[:, range(3), range(3)].any()
    assert all((p.matrix != np.eye(3)).any() for p in many(Recipe(affine=Affine(shear=0.1))))


def test_shifts_along_single_axes_follow_anatomy():
    # array axes run down-up, right-left, back-front
    affine = np.array([[0, -1.0, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    recipe = Recipe(affine=Affine(1.0, translation_mm=(0, 3, 6)))
    shifts = [
        draw(recipe, Grid(SIZE, affine), SIZE, VISITS, keyed_generator(i)).translation
        for i in range(60)
    ]
    most = np.abs(shifts).max(0)  # up-down, left-right, front-back
    assert 5 < most[0] <= 6 and most[1] == 0 and 2.5 < most[2] <= 3


def test_flips_follow_anatomy_not_array_order():
    # array axes run down-up, right-left, back-front
    affine = np.array([[0, -1.0, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    assert anatomical_axes(Grid(SIZE, affine)) == (1, 2, 0)
    recipe = Recipe(flip=Flip(1.0, ("left_right",)))
    parameters = draw(recipe, Grid(SIZE, affine), SIZE, VISITS, keyed_generator(0))
    assert np.diag(parameters.matrix).tolist() == [1, -1, 1]
    assert np.diag(draw(recipe, CUBE, SIZE, VISITS, keyed_generator(0)).matrix)[0] == -1


def test_oblique_grid():
    angle = np.radians(40)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    assert anatomical_axes(Grid(SIZE, affine)) == (0, 1, 2)


@pytest.mark.parametrize(
    "operation",
    [
        {"noise": Noise(0.5, (0.1, 0.2))},
        {"blur": Blur(0.5)},
        {"gamma": Gamma(0.5)},
        {"bias_field": BiasField(0.5, (0.05, 0.1))},
        {"scale": Scale(0.5)},
        {"shift": Shift(0.5)},
        {"thick_slices": ThickSlices(0.5)},
    ],
    ids=lambda operation: next(iter(operation)),
)
def test_drawn_per_visit_or_for_both(operation):
    (name, own), *_ = operation.items()
    neutral = Intensity()

    def changes(parameters):
        return [
            {
                field.name: str(getattr(visit, field.name))
                for field in dataclasses.fields(visit)
                if field.name != "noise_seed"
                and str(getattr(visit, field.name)) != str(getattr(neutral, field.name))
            }
            for visit in (parameters.visits["baseline"], parameters.visits["followup"])
        ]

    apart = [changes(p) for p in many(Recipe(**{name: own}), count=200)]
    both = dataclasses.replace(own, per_visit=False)
    together = [changes(p) for p in many(Recipe(**{name: both}), count=200)]
    assert all(first == second for first, second in together)
    assert 0.35 < np.mean([bool(first) for first, _ in together]) < 0.65
    on = np.array([[bool(first), bool(second)] for first, second in apart])
    assert 0.1 < (on[:, 0] & ~on[:, 1]).mean() < 0.4  # independent coins


def test_noise_never_repeats():
    seeds = [visit.noise_seed for p in many(Recipe()) for visit in p.visits.values()]
    assert len(set(seeds)) == len(seeds)


def test_elastic_is_smooth_and_has_its_size_in_millimetres():
    recipe = Recipe(elastic=Elastic(1.0, 24.0, (3.0, 3.0)))
    nodes = np.stack([p.nodes for p in many(recipe, SLICES, 60)])
    assert nodes.shape == (60, 5, 5, 5, 3)
    millimetres = nodes * [1, 1, 4]
    # a cubic B-spline of unit normals has a variance of at most (2/3)^2 + 2 (1/6)^2 per axis
    assert 0.7 < millimetres.std() < 3.0
    assert np.allclose(millimetres.std((0, 1, 2, 3)), millimetres.std(), rtol=0.25)


def test_visit_is_the_first_word():
    assert visit_of("baseline_flair") == "baseline" and visit_of("ratio") == "ratio"


def test_same_generator_same_draw():
    recipe = Recipe(Flip(), Affine(1.0, (9, 9, 9)), Elastic(1.0), noise=Noise(1.0))
    first, second, third = (
        draw(recipe, CUBE, SIZE, VISITS, keyed_generator("a", key)) for key in (1, 1, 2)
    )
    assert np.array_equal(first.matrix, second.matrix)
    assert first.nodes is not None and second.nodes is not None
    assert np.array_equal(first.nodes, second.nodes) and first.visits == second.visits
    assert not np.array_equal(first.matrix, third.matrix)


def test_all_48_orientations_are_drawn_about_equally_often():
    drawn = many(Recipe(permute=Permute(), flip=Flip(0.5)), count=1920)
    matrices, counts = np.unique([p.matrix for p in drawn], axis=0, return_counts=True)
    assert len(matrices) == 48
    assert np.allclose(matrices @ matrices.transpose(0, 2, 1), np.eye(3))
    assert counts.min() > 15 and counts.max() < 70  # 40 expected


def test_affine_and_elastic_exclude_each_other():
    """S13: three patches in four are deformed, one of five of these elastically."""
    recipe = Recipe(affine=Affine(0.75, (45,) * 3), elastic=Elastic(0.75), elastic_share=0.2)
    drawn = many(recipe, count=800)
    affine = np.array([not np.array_equal(p.matrix, np.eye(3)) for p in drawn])
    elastic = np.array([p.nodes is not None for p in drawn])
    assert not (affine & elastic).any()
    assert abs(affine.mean() - 0.6) < 0.06 and abs(elastic.mean() - 0.15) < 0.05
