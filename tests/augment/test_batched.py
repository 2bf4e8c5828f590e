import dataclasses

import numpy as np
import pytest
import torch

from msseg_lightning.augment.batched import BatchedAugment
from msseg_lightning.augment.fused import FusedAugment
from msseg_lightning.augment.recipe import (
    Affine,
    BiasField,
    Blur,
    Elastic,
    Flip,
    Gamma,
    Noise,
    Recipe,
    Scale,
    Sharpen,
    Shift,
    ThickSlices,
)
from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP, TARGET

IMAGES, LABELS = (BASELINE, FOLLOWUP, "baseline_ratio"), (TARGET, BRAIN)
EVERYTHING = Recipe(
    flip=Flip(),
    affine=Affine(1.0, (15, 10, 20), (0.8, 1.2), shear=0.05, translation_mm=2),
    elastic=Elastic(1.0, 16.0, (1.0, 2.0)),
    thick_slices=ThickSlices(0.5, axes=("left_right", "inferior_superior")),
    blur=Blur(0.5),
    sharpen=Sharpen(0.5),
    noise=Noise(0.7),
    gamma=Gamma(0.7),
    bias_field=BiasField(0.7, (-0.2, 0.2)),
    scale=Scale(0.7),
    shift=Shift(0.7),
)
SINGLE = [
    dataclasses.replace(Recipe(), **{field.name: getattr(EVERYTHING, field.name)})
    for field in dataclasses.fields(Recipe)
]


def both(pair, recipe, size, count=3):
    centres = [np.array([21.5, 25.5, 18.5]), np.array([3.0, 40.0, 30.0]), np.array([30, 26, 20.0])]
    generators = [keyed_generator("batched", element) for element in range(count)]
    images, labels = BatchedAugment(recipe).make(
        [pair] * count, centres, size, IMAGES, LABELS, generators
    )
    expected_images = np.empty(images.shape, np.float32)
    expected_labels = np.empty(labels.shape, np.float32)
    for element in range(count):
        FusedAugment(recipe).fill(
            pair,
            centres[element],
            IMAGES,
            LABELS,
            keyed_generator("batched", element),
            expected_images[element],
            expected_labels[element],
        )
    return images.numpy(), labels.numpy(), expected_images, expected_labels


@pytest.mark.parametrize("recipe", [Recipe(), *SINGLE, EVERYTHING])
def test_engines_agree(pair, recipe):
    images, labels, expected_images, expected_labels = both(pair, recipe, (24, 20, 17))
    spread = expected_images.max() - expected_images.min()
    error = np.abs(images - expected_images) / spread
    assert error.mean() < 2e-5
    assert np.quantile(error, 0.999) < 1e-3
    assert (labels != expected_labels).mean() < 1e-3
    assert labels[:, 0].any()


def test_patch_longer_than_the_volume(pair):
    images, labels, expected_images, expected_labels = both(pair, Recipe(flip=Flip()), (50, 60, 41))
    assert np.abs(images - expected_images).max() < 1e-5
    assert np.array_equal(labels, expected_labels)


@pytest.mark.gpu
def test_device_agrees_with_cpu(pair):
    centre, size = [np.array([21.5, 25.5, 18.5])], (24, 20, 17)
    host, device = (
        BatchedAugment(EVERYTHING, where).make(
            [pair], centre, size, IMAGES, LABELS, [keyed_generator("batched", 0)]
        )
        for where in ("cpu", "cuda")
    )
    assert torch.allclose(host[0], device[0].cpu(), atol=1e-3)
    assert (host[1] != device[1].cpu()).float().mean() < 1e-3
