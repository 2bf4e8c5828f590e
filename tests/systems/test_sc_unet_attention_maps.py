"""What the card of S05 says of the whole system."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import nn

from msseg_lightning.core.subject import (
    BASELINE,
    FOLLOWUP,
    LoadedSubject,
    LongitudinalSubject,
    Native,
)
from msseg_lightning.core.volume import Volume
from msseg_lightning.preprocess.difference import RISES
from msseg_lightning.run.assemble.system import build_method, build_sampler, instantiate
from msseg_lightning.run.config.compose import compose_config
from tests.sample.conftest import prepare


@functools.cache
def config(*words):
    return compose_config(("read.root=.", *words), "sc_unet_attention_maps")


def test_four_channels_of_which_two_are_zero_where_nothing_became_brighter():
    """The chain's last three steps on a pair of noise: z-scores of everything, no negative value,
    products with the rise."""
    generator = np.random.default_rng(0)
    scans = [generator.normal(100, 50, (6, 7, 8)).astype(np.float32) for _ in range(2)]
    volumes = {
        name: Volume(data, np.eye(4))
        for name, data in zip((BASELINE, FOLLOWUP), scans, strict=True)
    }
    native = Native(volumes[BASELINE].grid, b"")
    pair = LoadedSubject(LongitudinalSubject("p", "p", {}), volumes, native)
    steps = config()["preprocess"]["steps"]
    for name in ("normalise", "clip", "rise"):
        pair = instantiate(steps[name])(pair)
    assert tuple(config()["channels"]["images"]) == (BASELINE, FOLLOWUP, *RISES)
    found = [np.asarray(pair.volumes[name].data) for name in config()["channels"]["images"]]
    for scan, image in zip(scans, found, strict=False):
        expected = np.maximum((scan - scan.mean()) / scan.std(), 0)
        np.testing.assert_allclose(image, expected, atol=1e-5)
    baseline, followup, first, second = found
    rise = followup > baseline
    assert not first[~rise].any() and not second[~rise].any()
    np.testing.assert_allclose(first[rise], (baseline * (followup - baseline))[rise], rtol=1e-6)
    np.testing.assert_allclose(second[rise], (followup * (followup - baseline))[rise], rtol=1e-6)
    assert second[rise].all()


def test_a_batch_is_16_patches_with_lesion_and_16_without(tmp_path):
    """Plain sagittal patches of 64 x 64 with four channels, on the grid of every 32nd pixel."""
    pair = prepare(tmp_path, "p", 3, 0)
    found = config()
    loader = instantiate(found["sample"]["loader"], partial=True)(
        subjects=[pair],
        sampler=build_sampler(found),
        augment=instantiate({"_target_": "msseg_lightning.augment.fused.FusedAugment"}),
        image_names=(BASELINE, FOLLOWUP, BASELINE, FOLLOWUP),
        batch_size=found["train"]["batch_size"],
    )
    batch = loader.batch(0)
    assert batch.images.shape == (32, 4, 64, 64) and batch.target.shape == (32, 1, 64, 64)
    assert int(batch.target.flatten(1).any(1).sum()) == 16
    assert loader.axis == 0 and not loader.mirror


def test_patches_are_turned_in_their_own_plane():
    recipe = instantiate(config()["augment"]).recipe
    from msseg_lightning.augment.parameters import draw
    from msseg_lightning.core.random import keyed_generator
    from msseg_lightning.core.volume import Grid

    grid, moved = Grid((9, 64, 64), np.diag([2.0, 0.5, 0.5, 1.0])), 0
    for number in range(60):
        drawn = draw(recipe, grid, (1, 64, 64), ["baseline"], keyed_generator(number))
        assert drawn.translation[0] == 0 and not drawn.matrix[0, 1:].any()
        assert not drawn.matrix[1:, 0].any()
        size = np.linalg.norm(drawn.matrix[1:, 1:], axis=0)
        assert 0.9 <= size.min() <= size.max() <= 1.1
        assert np.abs(drawn.matrix[1, 2] / size[1]) <= np.sin(np.radians(15)) + 1e-9
        assert np.abs(drawn.translation).max() <= 12  # 6 mm
        moved += drawn.translation.any()
    assert 15 < moved < 45


def test_windows_lie_at_every_multiple_of_32():
    """A slice of 70 x 40: windows at 0, 32 and 64, and at 0 and 32, over zeros; what each voxel
    gets is the mean of those that cover it."""
    infer = instantiate(config()["infer"])
    images, seen = torch.rand(4, 2, 70, 40), []

    class Numbered(nn.Module):
        """Answers with a logit that tells windows apart."""

        def forward(self, stacks):
            assert stacks.shape[1:] == (4, 64, 64)
            seen.extend(stacks)
            numbers = torch.arange(len(stacks)).float() % 6
            return (numbers / 10).logit(eps=1e-6).view(-1, 1, 1, 1).expand(-1, 1, 64, 64)

    found = infer(Numbered(), images)[0]
    assert len(seen) == 2 * 6
    big = nn.functional.pad(images, [0, 96 - 40, 0, 128 - 70])
    for number, (top, left) in enumerate((r, c) for r in (0, 32, 64) for c in (0, 32)):
        assert torch.equal(seen[number], big[:, 0, top : top + 64, left : left + 64])
    expected = {(0, 0): 0.0, (0, 39): 0.05, (40, 0): 0.1, (40, 39): 0.15, (69, 39): 0.35}
    for place, value in expected.items():
        assert found[0][place] == pytest.approx(value, abs=1e-4)


def test_five_members_on_the_same_pairs_that_start_differently():
    method = build_method(config("network.widths=[2,4,8]"))
    assert len(method.names) == len(set(method.names)) == 5
    assert method.folds == 1 and (method.level, method.rule) == ("probability", "mean")
    members = [make() for make in method.members.values()]
    first, *others = (member.task.network.encoder[0][0].weight for member in members)
    assert all(not torch.equal(first, other) for other in others)
    assert len({member.task.seed for member in members}) == 5
