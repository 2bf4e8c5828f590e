"""What the card of S02 says of the whole system."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import nn

from msseg_lightning.augment.parameters import draw
from msseg_lightning.core.prediction import Prediction
from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP, Native
from msseg_lightning.core.volume import Grid, Volume
from msseg_lightning.run.assemble.system import instantiate, postprocess_rules
from msseg_lightning.run.config.compose import compose_config


@functools.cache
def config():
    return compose_config(("read.root=.",), "nnunet_standardised_pair")


def test_the_plan_of_an_anisotropic_patch():
    with torch.device("meta"):
        network = instantiate(config()["network"])
    weights = sum(weight.numel() for weight in network.parameters())
    assert weights == pytest.approx(31.16e6, rel=0.02)
    kernels = [[unit.conv.kernel_size for unit in block] for block in network.encoder]
    assert kernels == [[(1, 3, 3)] * 2, *[[(3, 3, 3)] * 2] * 5]
    strides = [block[0].conv.stride for block in network.encoder]
    assert strides == [(1, 1, 1), (1, 2, 2), *[(2, 2, 2)] * 4]
    size = config()["sample"]["size"]
    assert [edge % part for edge, part in zip(size, network.divisor, strict=True)] == [0, 0, 0]
    for block in (*network.encoder, *network.decoder):
        assert all(unit.dropout.p == 0.2 for unit in block)


def test_both_visits_are_on_one_scale(phantom_pair):
    """The line first, then one map of both onto the landmarks: a follow-up scan of another
    brightness ends as the baseline does."""
    steps = config()["preprocess"]["steps"]
    fitted = instantiate(steps["fit"])(phantom_pair)
    brain = np.asarray(phantom_pair.volumes[BRAIN].data) > 0
    both = [np.asarray(fitted.volumes[name].data)[brain] for name in (FOLLOWUP, BASELINE)]
    slope, shift = np.polyfit(*both, 1)
    assert slope == pytest.approx(1, abs=0.02) and shift == pytest.approx(0, abs=2)
    found = instantiate(steps["histogram"])(fitted)
    for name in (BASELINE, FOLLOWUP):
        values = np.asarray(found.volumes[name].data)
        points = np.percentile(values[values != 0], steps["histogram"]["percentiles"])
        np.testing.assert_allclose(points, steps["histogram"]["landmarks"], atol=1.0)


@pytest.fixture
def phantom_pair():
    from msseg_lightning.core.subject import LoadedSubject, LongitudinalSubject

    generator = np.random.default_rng(0)
    tissue = generator.gamma(20, 5, (20, 20, 20))
    brain = np.zeros(tissue.shape, np.uint8)
    brain[3:-3, 3:-3, 3:-3] = 1
    noise = [generator.normal(0, 3, tissue.shape) for _ in range(2)]
    volumes = {
        BASELINE: Volume(((tissue + noise[0]) * brain).astype(np.float32), np.eye(4)),
        FOLLOWUP: Volume(((0.4 * tissue + 70 + noise[1]) * brain).astype(np.float32), np.eye(4)),
        BRAIN: Volume(brain, np.eye(4), "mask"),
    }
    native = Native(volumes[BASELINE].grid, b"")
    return LoadedSubject(LongitudinalSubject("p", "p", {}), volumes, native)


def test_only_left_and_right_are_ever_exchanged():
    """In training, whatever way the array runs, and in prediction."""
    recipe = instantiate(config()["augment"]).first.recipe
    size = tuple(config()["sample"]["size"])
    turned = 0
    for number in range(60):
        matrix = draw(recipe, Grid(size, np.eye(4)), size, ["a"], keyed_generator(number)).matrix
        signs = np.sign(np.diag(matrix))
        assert signs[1] == signs[2] == 1
        turned += signs[0] < 0
        scales = np.linalg.norm(matrix, axis=0)
        assert scales.min() >= 0.85 - 1e-9 and scales.max() <= 1.25 + 1e-9
        assert np.ptp(scales) < 1e-9  # isotropic
    assert 20 < turned < 40

    seen = []

    class Keep(nn.Module):
        def forward(self, images):
            seen.extend(image.clone() for image in images)
            return images[:, :1]

    images = torch.rand(2, 64, 160, 192)
    instantiate(config()["infer"])(Keep(), images)
    assert [tuple(window.shape) for window in seen] == [(2, 64, 160, 192)] * 2
    assert torch.equal(seen[0], images) and torch.equal(seen[1], images.flip(1))


def found(probability, spacing_mm):
    """The mask of a map."""
    affine = np.diag([*spacing_mm, 1.0])
    native = Native(Grid(probability.shape, affine), b"")
    empty = np.zeros(probability.shape, np.uint8)
    answer = Prediction("p", empty, native, probability.astype(np.float32), inside=empty == 0)
    for rule in postprocess_rules(config()):
        answer = rule(answer)
    return answer.mask


def test_more_than_a_fifth_and_more_than_four_cubic_millimetres():
    """Voxels of 0.25 mm3: 16 are dropped, 17 kept; two blobs of 9 with a common corner are one."""
    spacing, probability = (1.0, 0.5, 0.5), np.zeros((30, 12, 12))
    probability[2, 0:4, 0:4] = 0.9
    probability[8, 0:4, 0:4] = probability[8, 4, 0] = 0.9
    probability[14, 0:3, 0:3] = probability[15, 3:6, 3:6] = 0.9
    probability[20, 0:6, 0:6] = 0.21
    probability[26, 0:6, 0:6] = 0.19
    mask = found(probability, spacing)
    planes = {plane: int(mask[plane].sum()) for plane in (2, 8, 14, 15, 20, 26)}
    assert planes == {2: 0, 8: 17, 14: 9, 15: 9, 20: 36, 26: 0}
