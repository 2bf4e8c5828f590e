"""Warps, flows along velocities, and the simulator's known deformations found again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from msseg_lightning.loss.registration import LocalCorrelation, Smoothness, SquaredDifference
from msseg_lightning.network.registration import (
    SpatialTransformer,
    VelocityIntegration,
    jacobian_determinant,
)


def test_an_image_is_sampled_at_the_displaced_place():
    image = torch.arange(60.0).view(1, 1, 3, 4, 5)
    field = torch.zeros(1, 3, 3, 4, 5)
    field[:, 0], field[:, 1], field[:, 2] = 1, -1, 0.5
    warped = SpatialTransformer()(image, field)
    # voxel (1, 2, 2) is read at (2, 1, 2.5): 2 * 20 + 1 * 5 + 2.5
    assert float(warped[0, 0, 1, 2, 2]) == pytest.approx(47.5, abs=1e-4)
    assert float(warped[0, 0, 2, 0, 4]) == 44  # the border continues
    assert torch.equal(SpatialTransformer("nearest")(image, field * 0), image)
    with pytest.raises(ValueError, match="cubic"):
        SpatialTransformer("cubic")


def test_no_displacement_gives_exactly_the_image_itself():
    """And what moves a voxel from there is told: the slope is that of the image."""
    image = torch.randn(2, 2, 3, 16, 17)
    field = torch.zeros(2, 3, 3, 16, 17, requires_grad=True)
    warped = SpatialTransformer()(image, field)
    assert torch.equal(warped, image)
    warped[0, 0, 1, 8, 8].backward()
    assert bool(field.grad[0, :, 1, 8, 8].all()) and int(field.grad.count_nonzero()) == 3
    slope = abs(float(field.grad[0, 1, 1, 8, 8]))  # of one of both sides, up to rounding
    sides = [abs(float(image[0, 0, 1, 8 + way, 8] - image[0, 0, 1, 8, 8])) for way in (-1, 1)]
    assert min(abs(slope - side) for side in sides) < 1e-3


def test_half_precision_does_not_touch_positions():
    """Column 700 of 800 has no number of its own in bfloat16."""
    image = torch.arange(800.0).view(1, 1, 1, 800)
    field = torch.full((1, 2, 1, 800), 0.5, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        warped = SpatialTransformer()(image, field)
    assert float(warped[0, 0, 0, 701]) == pytest.approx(701.5, abs=1e-2)


def test_a_layer_follows_its_images():
    """Nothing of an earlier call is kept: neither its lattice nor its device."""
    layer, flow = SpatialTransformer(), VelocityIntegration(7)
    with torch.inference_mode():
        layer(torch.rand(1, 1, 4, 4), flow(torch.rand(1, 2, 4, 4)))
    field = torch.rand(1, 2, 4, 4, requires_grad=True)
    layer(torch.rand(1, 1, 4, 4), flow(field)).sum().backward()
    assert bool(field.grad.any())
    assert layer.warp.ref_grid is None and flow.integrate.warp_layer.ref_grid is None


def test_the_flow_along_a_linear_velocity_is_exponential():
    """v = a x from a fixed point moves x to x e^a: the displacement is x (e^a - 1)."""
    x = torch.arange(33.0) - 16
    velocity = torch.zeros(1, 2, 33, 33)
    velocity[:, 0] = 0.3 * x.view(-1, 1)
    flow = VelocityIntegration(7)(velocity)[0, 0]
    inner = slice(8, 25)  # farther out it would leave the field
    expected = (np.exp(0.3) - 1) * x[inner].view(-1, 1).expand(-1, 33)
    torch.testing.assert_close(flow[inner], expected, rtol=2e-3, atol=1e-3)
    assert float(VelocityIntegration(7)(velocity)[0, 1].abs().max()) == 0


def test_the_flow_back_undoes_the_flow():
    torch.manual_seed(0)
    velocity = functional.interpolate(torch.randn(1, 3, 4, 4, 4) * 2, size=24, mode="trilinear")
    flow, warp = VelocityIntegration(7), SpatialTransformer()
    there, back = flow(velocity), flow(-velocity)
    inner = (..., slice(6, 18), slice(6, 18), slice(6, 18))
    left = (there + warp(back, there))[inner].norm(dim=1).mean()
    assert float(left) < 0.05 * float(there[inner].norm(dim=1).mean())


def test_the_jacobian_is_the_change_of_volume():
    x, y = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    field = torch.stack([0.5 * x + 0.25 * y, -0.25 * y])[None]
    # (1 + 0.5) * (1 - 0.25) - 0.25 * 0
    torch.testing.assert_close(jacobian_determinant(field), torch.full((1, 8, 8), 1.125))
    folded = torch.stack([-1.5 * x, 0 * y])[None]
    assert float(jacobian_determinant(folded).max()) == -0.5
    assert float(jacobian_determinant(torch.zeros(1, 3, 4, 5, 6)).min()) == 1


def register(baseline, followup, distance, steps, alpha):
    """Fit a velocity on every second voxel by descent; the displacement on every voxel."""
    shape = baseline.shape[2:]
    velocity = nn.Parameter(torch.zeros(1, 3, *(edge // 2 for edge in shape)))
    flow, warp, smooth = VelocityIntegration(7), SpatialTransformer(), Smoothness()
    descent = torch.optim.Adam([velocity], lr=0.2)

    def displacement():
        return functional.interpolate(flow(velocity), size=shape, mode="trilinear")

    for _ in range(steps):
        loss = distance(warp(baseline, displacement()), followup).mean() + alpha * smooth(velocity)
        descent.zero_grad()
        loss.backward()
        descent.step()
    return displacement().detach()


@pytest.mark.parametrize(
    ("distance", "alpha"),
    [(LocalCorrelation(9, noise=0.02), 0.01), (SquaredDifference(), 0.001)],
    ids=["correlation", "squared"],
)
def test_a_simulated_deformation_is_found_again(deformed, distance, alpha):
    """Mean error of the end points in the brain: at least halved, without folds."""
    baseline, followup, truth, brain = deformed
    found = register(baseline, followup, distance, 30, alpha)
    before = truth.norm(dim=1)[brain].mean()
    after = (found - truth).norm(dim=1)[brain].mean()
    print(f"mean end point error {6 * before:.2f} mm before, {6 * after:.2f} mm after")
    assert before > 0.5 and after < 0.5 * before
    assert float((jacobian_determinant(found) > 0).float().mean()) > 0.999
    assert bool((jacobian_determinant(truth)[brain] > 0).all())


def test_identical_visits_have_no_deformation(deformed):
    baseline, _, _, _ = deformed
    found = register(baseline, baseline, LocalCorrelation(9, noise=0.02), 3, 0.01)
    assert float(found.abs().max()) < 1e-3
