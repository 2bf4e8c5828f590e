"""What the card of S04 says of the whole system."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import nn

from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.subject import TARGET
from msseg_lightning.run.assemble.system import build_sampler, instantiate
from msseg_lightning.run.config.compose import compose_config
from tests.sample.conftest import prepare


@functools.cache
def config():
    return compose_config(("read.root=.",), "siamese_mpunet")


def test_both_visits_meet_the_same_weights():
    network = instantiate(config()["network"]).eval()
    used: list[tuple[int, ...]] = []
    network.segment.register_forward_hook(
        lambda part, given, found: used.append(tuple(id(weight) for weight in part.parameters()))
    )
    with torch.no_grad():
        network(torch.randn(1, 2, 8, 8, 8))
    assert len(used) == 2 and used[0] == used[1]
    assert 25_000 < sum(weight.numel() for weight in network.parameters()) < 60_000


def test_five_outputs_are_learned_and_the_first_is_predicted():
    """Dice of each, by hand: outputs of one half on two voxels, masks 1 0 and 0 0: with one voxel
    added 1 - (1 + 1) / (2 + 1) and 1 - 1 / (1 + 1)."""
    loss, logits = instantiate(config()["loss"]), torch.zeros(1, 5, 2, 1, 1)
    target = torch.zeros(1, 5, 2, 1, 1)
    target[0, :3, 0] = 1
    assert loss(logits, target) == pytest.approx((3 * (1 / 3) + 2 * 0.5) / 5)
    channels = config()["channels"]
    assert (channels["target"], len(channels["further_targets"])) == (TARGET, 4)

    class Numbered(nn.Module):
        def forward(self, images):
            values = torch.arange(5.0).view(1, 5, 1, 1, 1) - 2
            return values.expand(len(images), 5, *images.shape[2:]).clone()

    found = instantiate(config()["infer"])(Numbered(), torch.rand(2, 60, 56, 57))
    torch.testing.assert_close(found[0], torch.full((60, 56, 57), -2.0).sigmoid())


def test_windows_of_56_lie_28_apart():
    seen = []

    class Keep(nn.Module):
        def forward(self, images):
            seen.extend(images)
            return images[:, :1].clone()

    images = torch.rand(2, 84, 56, 56)
    instantiate(config()["infer"])(Keep(), images)
    assert [tuple(window.shape) for window in seen] == [(2, 56, 56, 56)] * 2
    assert torch.equal(seen[1], images[:, 28:])


def test_four_of_five_patches_of_a_patient_with_lesions_hold_one(tmp_path):
    """2000 draws of patches as large against the brain as the paper's; a patient without lesions
    has none forced upon."""
    pairs = [prepare(tmp_path, "lesions", 3, 0), prepare(tmp_path, "none", 0, 1)]
    small = {**config()["sample"], "size": [10, 10, 10], "jitter_voxels": 4}
    sampler = build_sampler({**config(), "sample": small})
    held = {0: [], 1: []}
    for number in range(4000):
        spec = sampler.draw(pairs, keyed_generator("draw", number))
        start = np.rint(spec.centre - 4.5).astype(int)
        box = tuple(slice(max(0, a), a + 10) for a in start)
        held[spec.subject].append(bool(pairs[spec.subject].mask(TARGET)[box].any()))
    # every patient equally often, but that a positive draw of one without lesions is any patch
    assert min(len(draws) for draws in held.values()) > 1850
    assert np.mean(held[0]) == pytest.approx(0.8, abs=0.03)
    assert not any(held[1])


def test_the_rate_after_an_epoch_is_nine_tenths():
    found = config()["train"]
    optimizer = instantiate(found["optimizer"], partial=True)([nn.Parameter(torch.zeros(1))])
    scheduler = instantiate(found["scheduler"], partial=True)(optimizer)
    steps, rates = found["validate_every"], []
    assert steps == round(872 * 32 / found["batch_size"]) and found["steps"] == 40 * steps
    for step in range(3 * steps + 1):
        if step % steps == 0:
            rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0.004 * 0.9**epoch for epoch in range(4)])
