"""A recipe of slices names its operations, and an empty one does nothing."""

import dataclasses

import numpy as np
import pytest

from msseg_lightning.augment import slice_intensity
from msseg_lightning.augment.slice_recipe import Rotate, SliceRecipe
from msseg_lightning.core.random import keyed_generator


def test_an_empty_recipe_leaves_a_stack_as_it_is():
    stack = keyed_generator("stack").normal(size=(3, 8, 8)).astype(np.float32)
    changed = slice_intensity.apply(SliceRecipe(), stack.copy(), keyed_generator("draws"))
    np.testing.assert_array_equal(changed, stack)
    recipe = SliceRecipe()
    assert recipe.flip == recipe.transpose == 0
    others = set(vars(recipe)) - {"flip", "transpose"}
    assert len(others) == 12 and all(getattr(recipe, name) is None for name in others)


def test_recipes_are_values():
    recipe = SliceRecipe(rotate=Rotate(degrees=(1, 5)))
    assert recipe == SliceRecipe(rotate=Rotate(degrees=(1, 5))) != SliceRecipe(rotate=Rotate())
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.flip = 0.5
