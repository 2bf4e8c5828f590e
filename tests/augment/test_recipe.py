from pathlib import Path

import hydra
import numpy as np
import pytest
from omegaconf import OmegaConf

from msseg_lightning.augment import recipe as recipes
from msseg_lightning.augment.batched import BatchedAugment
from msseg_lightning.augment.fused import FusedAugment
from msseg_lightning.augment.monai_transform import MonaiTransform
from msseg_lightning.augment.parameters import Intensity, draw
from msseg_lightning.augment.recipe import Blur, Noise, OneOf, Recipe, Sharpen, ThickSlices
from msseg_lightning.augment.slices import SliceAugment
from msseg_lightning.augment.torchio_transform import TorchioTransform
from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.subject import BASELINE, FOLLOWUP, TARGET
from msseg_lightning.core.volume import Grid

CONF = Path(__file__).parents[2] / "conf" / "augment"


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_presets_build(path):
    made = hydra.utils.instantiate(OmegaConf.load(path))
    assert isinstance(made, FusedAugment | MonaiTransform | SliceAugment | TorchioTransform)


def test_pre_unet_has_the_numbers_of_its_code():
    recipe = hydra.utils.instantiate(OmegaConf.load(CONF / "pre_unet.yaml")).recipe
    assert list(recipe.affine.rotation_degrees) == [30, 30, 30]
    assert list(recipe.affine.scale) == [0.7, 1.3]
    assert recipe.flip.probability == 0.5 and tuple(recipe.flip.axes) == recipes.AXES
    for name in ("affine", "noise", "blur", "scale", "shift", "bias_field", "gamma"):
        assert getattr(recipe, name).probability == 0.15, name
    assert list(recipe.bias_field.coefficient) == [0, 0.1] and recipe.bias_field.degree == 3
    for name in ("elastic", "thick_slices", "sharpen"):
        assert getattr(recipe, name) is None


CONF = Path(__file__).parents[2] / "conf" / "augment"
SIZE = (16, 16, 16)
CUBE = Grid((32, 32, 32), np.eye(4))
VISITS = ("baseline", "followup")


def image_quality():
    return hydra.utils.instantiate(OmegaConf.load(CONF / "image_quality.yaml"), _convert_="all")


def happened(values):
    return (
        ["blur"] * any(values.blur_sigma)
        + ["edges"] * bool(values.sharpen_amount)
        + ["axial"] * (values.thick_voxels > 1)
    )


def test_one_and_only_one_of_three_for_each_image():
    recipe = image_quality().recipe
    drawn = [draw(recipe, CUBE, SIZE, VISITS, keyed_generator("iqda", i)) for i in range(2000)]
    names = [[happened(p.visits[visit]) for visit in VISITS] for p in drawn]
    assert all(len(found) == 1 for pair in names for found in pair)
    flat = [found[0] for pair in names for found in pair]
    for name in ("blur", "edges", "axial"):  # 4,000 draws, SD 0.7 %
        assert 0.30 < np.mean([found == name for found in flat]) < 0.37, name
    same = np.mean([first == second for first, second in names])
    assert 0.29 < same < 0.38  # visits are drawn apart: 3 x 1/9
    for parameters in drawn:
        for values in parameters.visits.values():
            only = Intensity(
                noise_seed=values.noise_seed,
                blur_sigma=values.blur_sigma,
                sharpen_amount=values.sharpen_amount,
                sharpen_sigma=values.sharpen_sigma,
                thick_axis=values.thick_axis,
                thick_voxels=values.thick_voxels,
                thick_interpolate=values.thick_interpolate,
            )
            assert values == only  # nothing but the three
            assert len(set(values.blur_sigma)) == 1
            if values.sharpen_amount:
                assert 0.5 <= values.sharpen_amount <= 2 and 0.5 <= values.sharpen_sigma <= 1.75
            if any(values.blur_sigma):
                assert 0.5 <= values.blur_sigma[0] <= 1.75
            if values.thick_voxels > 1:
                assert values.thick_voxels in (2, 3, 4) and not values.thick_interpolate


def test_one_draw_for_both_visits():
    group = OneOf({"blur": Blur(), "noise": Noise(sd=(0.1, 0.2))}, per_visit=False)
    for i in range(50):
        visits = draw(Recipe(one_of=group), CUBE, SIZE, VISITS, keyed_generator(i)).visits
        first, second = visits["baseline"], visits["followup"]
        assert first.blur_sigma == second.blur_sigma and first.noise_sd == second.noise_sd
        assert any(first.blur_sigma) != bool(first.noise_sd)


def test_weights():
    group = OneOf({"blur": Blur(), "noise": Noise(sd=(0.1, 0.2))}, weights={"blur": 1, "noise": 3})
    drawn = [draw(Recipe(one_of=group), CUBE, SIZE, ["a"], keyed_generator(i)) for i in range(1000)]
    assert 0.7 < np.mean([bool(p.visits["a"].noise_sd) for p in drawn]) < 0.8
    with pytest.raises(ValueError, match="weights"):
        OneOf({"blur": Blur()}, weights={"noise": 1})
    with pytest.raises(ValueError, match="none"):
        OneOf({"blur": Blur()}, none=1.5)


def test_other_operations_are_drawn_as_without_a_group():
    recipe = Recipe(blur=Blur(0.5), noise=Noise(0.5))
    group = OneOf({"sharpen": Sharpen()})
    for i in range(20):
        plain = draw(recipe, CUBE, SIZE, VISITS, keyed_generator(i)).visits
        more = draw(
            Recipe(blur=Blur(0.5), noise=Noise(0.5), one_of=group),
            CUBE,
            SIZE,
            VISITS,
            keyed_generator(i),
        ).visits
        for visit in VISITS:
            assert plain[visit].blur_sigma == more[visit].blur_sigma
            assert plain[visit].noise_sd == more[visit].noise_sd
            assert more[visit].sharpen_amount > 0


def cut(augment, pair, seed, names=(BASELINE, FOLLOWUP), labels=(TARGET, "followup_lesions")):
    images = np.zeros((len(names), *SIZE), np.float32)
    masks = np.zeros((len(labels), *SIZE), np.float32)
    centre = np.array([15.5, 22.5, 12.5])
    parameters = augment.fill(pair, centre, names, labels, keyed_generator(seed), images, masks)
    return images, masks, parameters


def test_images_change_and_labels_do_not(pair):
    augment, plain = image_quality(), FusedAugment()
    before, masks, _ = cut(plain, pair, 0)
    box = (slice(8, 24), slice(15, 31), slice(5, 21))
    assert masks.any()
    for mask, name in zip(masks, (TARGET, "followup_lesions"), strict=True):
        assert np.array_equal(mask, pair.label(name)[box])
    changed = 0
    for seed in range(20):
        images, same, parameters = cut(augment, pair, seed)
        assert np.array_equal(same, masks)
        for channel, visit in enumerate(VISITS):
            fired = bool(happened(parameters.visits[visit]))
            assert fired != np.array_equal(images[channel], before[channel])
            changed += fired
    assert changed > 20


def mean_filter(planes, thickness):
    """Moving average along the first axis, cut off at the ends."""
    out = np.empty_like(planes)
    for index in range(len(planes)):
        low, high = index - (thickness - 1) // 2, index + thickness // 2
        out[index] = planes[max(0, low) : high + 1].mean(0)
    return out


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("engine", [FusedAugment, BatchedAugment])
def test_the_mean_filter_runs_from_foot_to_head(order, engine):
    """Whatever array axis that is: ``order[k]`` is the world axis of array axis k."""
    affine = np.zeros((4, 4))
    affine[list(order), [0, 1, 2]] = (-1.0, 1.0, -1.0)
    affine[3, 3] = 1
    grid = Grid((32, 32, 32), affine)
    group = OneOf({"axial": ThickSlices(voxels=(2, 4), interpolate=False)})
    generator = np.random.default_rng(0)
    for seed in range(6):
        values = draw(Recipe(one_of=group), grid, SIZE, ["a"], keyed_generator(seed)).visits["a"]
        assert order[values.thick_axis] == 2
        image = generator.normal(size=SIZE).astype(np.float32)
        axis = order.index(2)
        expected = np.moveaxis(
            mean_filter(np.moveaxis(image, axis, 0), values.thick_voxels), 0, axis
        )
        if engine is FusedAugment:
            FusedAugment()._intensity(values, 0, image, SIZE)
        else:
            import torch

            BatchedAugment()._intensity(torch.from_numpy(image[None]), [values], [0])
        np.testing.assert_allclose(image, expected, atol=1e-5)
