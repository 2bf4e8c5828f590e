"""What a task validates with, and which weights decay."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from msseg_lightning.train.task import WholeVolumeValidator
from tests.train.test_training import network, task


@pytest.mark.parametrize(
    ("reference", "found", "expected"), [(1, 1, 1.0), (1, 0, 0.0), (0, 0, 1.0), (0, 1, 0.0)]
)
def test_an_empty_answer_to_an_empty_reference_counts_one(reference, found, expected):
    pair = SimpleNamespace(
        stack=lambda names: np.ones((2, 3, 3, 3), np.float32),
        inside=lambda names, region: np.ones((3, 3, 3), bool),
        mask=lambda name: np.full((3, 3, 3), bool(reference)),
        grid=SimpleNamespace(spacing_mm=(1.0, 1.0, 1.0)),
    )

    def infer(network, images, inside):
        return torch.full((1, 3, 3, 3), found - 0.5)

    def score(mask, reference, spacing_mm):  # undefined without a lesion, as in run.build
        return {"dice": float((mask == reference).mean())} if reference.any() else {}

    validate = WholeVolumeValidator(infer, "logit", score, ("a", "b"), "new_lesions")
    assert validate(nn.Identity(), pair)["dice_or_empty"] == expected
    probable = SimpleNamespace(level="probability")
    mirrored = SimpleNamespace(for_validation=probable)
    simpler = WholeVolumeValidator(mirrored, "logit", score, ("a", "b"), "new_lesions")
    assert (simpler.infer, simpler.level) == (probable, "probability")


ANISOTROPIC = SimpleNamespace(
    stack=lambda names: np.ones((1, 3, 3, 3), np.float32),
    inside=lambda names, region: np.ones((3, 3, 3), bool),
    mask=lambda name: np.ones((3, 3, 3), bool),
    grid=SimpleNamespace(spacing_mm=(2.0, 3.0, 4.0)),
)
"""A prepared pair, all of it lesion, as far as a validator looks at it."""


def test_a_rule_that_depends_on_the_size_of_voxels_is_told_it():
    """At 2 x 3 x 4 mm it answers as asked; asked without, it would fail."""

    def on_grid(spacing_mm):
        return lambda *given: torch.full((1, 3, 3, 3), float(spacing_mm == (2.0, 3.0, 4.0)))

    rule = SimpleNamespace(on_grid=on_grid, level="probability")
    score = lambda mask, *rest: {"dice": float(mask.mean())}  # noqa: E731 - share of what is found
    validate = WholeVolumeValidator(rule, "probability", score, ("a",), "x")
    assert validate(nn.Identity(), ANISOTROPIC)["dice"] == pytest.approx(1.0)


def test_a_network_that_depends_on_the_size_of_voxels_is_told_it():
    class Asks(nn.Module):
        def on_grid(self, spacing_mm):
            return lambda images: torch.full((1, 3, 3, 3), float(spacing_mm == (2.0, 3.0, 4.0)))

    infer = lambda network, images, inside: network(images)  # noqa: E731 - one window
    score = lambda mask, *rest: {"dice": float(mask.mean())}  # noqa: E731 - share of what is found
    validate = WholeVolumeValidator(infer, "probability", score, ("a",), "x")
    assert validate(Asks(), ANISOTROPIC)["dice"] == pytest.approx(1.0)


def test_decay_can_spare_all_but_convolution_kernels():
    groups = task(decay="convolution_kernels").parameter_groups(network())
    assert [parameter.dim() for parameter in groups[0]["params"]] == [5, 5]
    assert [parameter.dim() for parameter in groups[1]["params"]] == [1, 1]
    assert groups[1]["weight_decay"] == 0.0
