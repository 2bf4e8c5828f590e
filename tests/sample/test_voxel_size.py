import dataclasses

import numpy as np
import pytest
import torch

from msseg_lightning.augment.fused import FusedAugment
from msseg_lightning.augment.recipe import Affine, Recipe
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.subject import (
    BASELINE,
    BRAIN,
    FOLLOWUP,
    TARGET,
    LoadedSubject,
    LongitudinalSubject,
    Native,
)
from msseg_lightning.core.volume import Volume
from msseg_lightning.sample.ratio import RatioSampler
from msseg_lightning.sample.voxel_size import VoxelSizeLoader

SIZES = {"thin": (0.5, 0.7, 1.0), "thick": (1.0, 1.0, 3.0)}
SHAPE = (16, 18, 14)


@pytest.fixture
def pairs(tmp_path):
    """Two pairs of other voxels, bright in the second."""
    found = []
    for value, (name, spacing) in enumerate(SIZES.items(), start=1):
        affine = np.diag([*spacing, 1.0])
        image = Volume(np.full(SHAPE, value, np.float32), affine)
        mask = Volume(np.ones(SHAPE, np.uint8), affine, "mask")
        volumes = {BASELINE: image, FOLLOWUP: image, TARGET: mask, BRAIN: mask}
        subject = LongitudinalSubject(name, name, {})
        loaded = LoadedSubject(subject, volumes, Native(image.grid, b""))
        found.append(PreparedSubject.write(loaded, tmp_path / name))
    return found


def loader(pairs, recipe=None, **settings):
    augment = FusedAugment(recipe) if recipe else FusedAugment()
    return VoxelSizeLoader(pairs, RatioSampler(8), augment, batch_size=4, **settings)


@pytest.mark.parametrize("threads", [1, 2])
def test_every_patch_has_the_voxels_of_its_own_case(pairs, threads):
    seen = set()
    for step, batch in enumerate(loader(pairs, threads=threads).iterate(0, 3)):
        spacing = batch.extra["spacing_mm"]
        assert spacing.shape == (4, 3) and spacing.dtype == torch.float32
        for name, size, image in zip(batch.subjects, spacing, batch.images, strict=True):
            assert size.tolist() == pytest.approx(SIZES[name])
            assert image.mean() == pytest.approx(1 + (name == "thick"), abs=1e-3)
            seen.add(name)
        assert set(batch.extra) == {"spacing_mm"}
        again = loader(pairs).batch(step)
        assert torch.equal(again.extra["spacing_mm"], spacing)
    assert seen == set(SIZES)


def test_an_augmentation_does_not_change_them(pairs):
    recipe = Recipe(affine=Affine(scale_probability=1.0, scale=(2.0, 2.0)))
    batch = loader(pairs, recipe).batch(0)
    for name, size in zip(batch.subjects, batch.extra["spacing_mm"], strict=True):
        assert size.tolist() == pytest.approx(SIZES[name])


def test_further_masks_stay_beside_it(pairs):
    batch = loader(pairs, extra_names=(BRAIN,)).batch(0)
    assert set(batch.extra) == {BRAIN, "spacing_mm"}
    moved = batch.to("cpu")
    assert torch.equal(moved.extra["spacing_mm"], batch.extra["spacing_mm"])
    assert dataclasses.is_dataclass(moved)
