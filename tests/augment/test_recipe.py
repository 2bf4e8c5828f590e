from pathlib import Path

import hydra
import pytest
from omegaconf import OmegaConf

from msseg_lightning.augment import recipe as recipes
from msseg_lightning.augment.fused import FusedAugment
from msseg_lightning.augment.monai_transform import MonaiTransform
from msseg_lightning.augment.slices import SliceAugment
from msseg_lightning.augment.torchio_transform import TorchioTransform

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
