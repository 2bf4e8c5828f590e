import math

import numpy as np
import pytest

from msseg_lightning.augment.slice_map import SliceMap, draw_crop, draw_map
from msseg_lightning.augment.slice_recipe import (
    Aspect,
    GridDistortion,
    Rotate,
    ScaleCrop,
    SliceRecipe,
)
from msseg_lightning.core.random import keyed_generator

BANDS = (np.array([0, 8.0, 20.0]), np.array([0, 10.0, 20.0]))
EVERYTHING = SliceRecipe(
    aspect=Aspect(1.0, 1.0), rotate=Rotate(1.0), distort=GridDistortion(1.0), scale=ScaleCrop(1.0)
)


def draws(count):
    return [keyed_generator("map", number) for number in range(count)]


def test_way_there_and_back():
    where = SliceMap((20, 30), (2, 1), (0.5, 1.0), 0.4, (BANDS, BANDS))
    points = np.random.default_rng(0).uniform(-5, 35, (50, 2))
    np.testing.assert_allclose(where.from_source(where.to_source(points)), points, atol=1e-9)
    for generator in draws(20):
        where = draw_map(EVERYTHING, (40, 30), (1.0, 1.0), (16, 16), generator)
        np.testing.assert_allclose(where.to_source(where.from_source(points)), points, atol=1e-9)


def test_stretching_keeps_edges_of_pixels():
    """Twice as many pixels: the centres 0 and 1 of the canvas lie a quarter off centre 0."""
    where = SliceMap((20, 10), stretch=(0.5, 1.0))
    np.testing.assert_allclose(where.to_source(np.array([0.0, 3.0])), [-0.25, 3])
    np.testing.assert_allclose(where.to_source(np.array([1.0, 3.0])), [0.25, 3])
    np.testing.assert_allclose(SliceMap((9, 9), (2, 1)).to_source(np.array([2.0, 1.0])), [0, 0])


def test_a_quarter_turn_about_the_middle():
    where = SliceMap((5, 5), angle=math.pi / 2)
    corners = np.array([[0.0, 0.0], [0.0, 4.0], [2.0, 2.0]])
    found = where.to_source(corners)
    assert {tuple(np.rint(point)) for point in found[:2]} < {(0, 0), (0, 4), (4, 0), (4, 4)}
    np.testing.assert_allclose(found[2], [2, 2])
    assert not np.allclose(found[0], corners[0])
    lengths = np.linalg.norm(found[0] - found[1]), np.linalg.norm(corners[0] - corners[1])
    assert lengths[0] == pytest.approx(lengths[1])


def test_distortion_by_hand():
    """Canvas 0..10 shows source 0..8, canvas 10..20 shows 8..20."""
    where = SliceMap((20, 20), bands=(BANDS, BANDS))
    found = where.to_source(np.array([[5.0, 10.0], [15.0, 20.0]]))
    np.testing.assert_allclose(found, [[4, 8], [14, 20]])


def test_bands_change_by_at_most_the_limit():
    recipe = SliceRecipe(distort=GridDistortion(1.0, steps=5, limit=0.3))
    for generator in draws(50):
        where = draw_map(recipe, (50, 40), (1, 1), (8, 8), generator)
        for (before, after), edge in zip(where.bands, (50, 40), strict=True):
            assert len(after) == 6 and after[-1] == edge
            assert np.abs(np.diff(before) / (edge / 5) - 1).max() <= 0.3


def test_thick_pixels_are_stretched_to_squares():
    """Second axis of 3 mm beside 1 mm: three times as many columns; the other way round, rows."""
    recipe = SliceRecipe(aspect=Aspect(probability=1.0))
    generator = keyed_generator("aspect")
    assert draw_map(recipe, (40, 20), (1.0, 3.0), (8, 8), generator).shape == (40, 60)
    assert draw_map(recipe, (20, 40), (3.0, 1.0), (8, 8), generator).shape == (60, 40)
    kept = [
        draw_map(SliceRecipe(aspect=Aspect(0.8)), (40, 20), (1.0, 3.0), (8, 8), generator).shape
        for generator in draws(400)
    ]
    assert kept.count((40, 60)) / 400 == pytest.approx(0.8, abs=0.06)


def test_square_pixels_get_another_ratio_in_a_fifth_of_the_draws():
    recipe = SliceRecipe(aspect=Aspect(probability=1.0, new_probability=0.2))
    shapes = [
        draw_map(recipe, (100, 100), (1, 1.0), (8, 8), generator).shape for generator in draws(600)
    ]
    changed = [shape for shape in shapes if shape != (100, 100)]
    assert len(changed) / 600 == pytest.approx(0.2 * 0.95, abs=0.05)
    assert max(max(shape) for shape in changed) <= 200 and min(map(min, changed)) == 100
    taller = sum(rows > columns for rows, columns in changed)
    assert 0.3 < taller / len(changed) < 0.7


def test_angles():
    both = [
        draw_map(SliceRecipe(rotate=Rotate(1.0)), (9, 9), (1, 1), (4, 4), g).angle
        for g in draws(200)
    ]
    one = SliceRecipe(rotate=Rotate(0.3, both_ways=False))
    turned = [draw_map(one, (9, 9), (1, 1), (4, 4), generator).angle for generator in draws(400)]
    angles = np.degrees(np.abs(both))
    assert 1 <= angles.min() < 5 and 41 < angles.max() <= 45
    assert min(both) < 0 < max(both) and min(turned) == 0
    assert np.mean(np.array(turned) > 0) == pytest.approx(0.3, abs=0.06)


def test_crops_hold_the_anchor_and_stay_on_the_canvas():
    for generator in draws(100):
        where = draw_map(EVERYTHING, (60, 50), (1, 1), (24, 24), generator)
        crop = draw_crop(EVERYTHING, where, (30, 25), True, (24, 24), generator)
        assert crop.shape == (24, 24, 2)
        for axis in (0, 1):
            assert crop[..., axis].min() > -0.5 and crop[..., axis].max() < where.shape[axis] - 0.5
        distance = np.linalg.norm(where.to_source(crop) - (30, 25), axis=-1).min()
        assert distance < 2.5


def test_plain_crops_lie_on_the_lattice_around_the_anchor():
    where = SliceMap((30, 40))
    middle = draw_crop(SliceRecipe(), where, (15, 20), False, (8, 9), keyed_generator("crop"))
    np.testing.assert_array_equal(middle[:, 0, 0], np.arange(11, 19))
    np.testing.assert_array_equal(middle[0, :, 1], np.arange(16, 25))
    border = draw_crop(SliceRecipe(), where, (1, 39), False, (8, 8), keyed_generator("crop"))
    np.testing.assert_array_equal(border[:, 0, 0], np.arange(8))
    np.testing.assert_array_equal(border[0, :, 1], np.arange(32, 40))
    starts = {
        int(draw_crop(SliceRecipe(), where, (15, 20), True, (8, 8), g)[0, 0, 0]) for g in draws(200)
    }
    assert starts == set(range(8, 16))


def test_scaled_crops_span_from_two_thirds_to_the_slice():
    recipe = SliceRecipe(scale=ScaleCrop(1.0, smallest=2 / 3))
    spans = []
    for generator in draws(300):
        crop = draw_crop(recipe, SliceMap((60, 90)), (30, 30), True, (12, 12), generator)
        step = crop[1, 0, 0] - crop[0, 0, 0]
        assert crop[0, 1, 1] - crop[0, 0, 1] == pytest.approx(step)
        spans.append(step * 12)
    assert 8 <= min(spans) < 10 and 58 < max(spans) <= 60
