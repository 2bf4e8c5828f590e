"""What the card of S27 says of the whole system."""

from __future__ import annotations

import functools

import pytest
import torch

from msseg_lightning.core.batch import Batch
from msseg_lightning.network.registration import SpatialTransformer, jacobian_determinant
from msseg_lightning.run.assemble.system import build_loader, build_method, instantiate
from msseg_lightning.run.config.compose import compose_config

SMALL = (
    "network.registration.encoder=[8,16,16]",
    "network.registration.decoder=[16,16,16]",
    "network.registration.last=[]",
    "network.branch.widths=[4,4]",
    "network.width=4",
)


@functools.cache
def config(*words):
    return compose_config(("read.root=.", "track=off", *words), "msdetector")


def built(*words):
    """Network and loss of the experiment with small widths."""
    torch.manual_seed(0)
    return instantiate(config(*SMALL, *words)["network"]), instantiate(config()["loss"])


def images():
    return torch.rand(2, 2, 16, 16, 16, generator=torch.Generator().manual_seed(0))


def test_the_gradient_of_the_cross_entropy_alone_reaches_the_registration():
    network, loss = built()
    target = (images()[:, 1:] > 0.9).float()
    loss.parts(network(images()), target)["segmentation"].backward()
    for name, weight in network.registration.named_parameters():
        assert weight.grad is not None and bool(weight.grad.any()), name


def test_where_nothing_moves_the_baseline_stays_exactly_what_it_is():
    network, loss = built()
    for weight in network.registration.last[-1].parameters():
        torch.nn.init.zeros_(weight)
    found = network(images())
    assert not found.displacement.any() and torch.equal(found.warped, images()[:, :1])
    same = images()[:, :1].expand(-1, 2, -1, -1, -1)
    parts = loss.parts(network(same), torch.zeros(2, 1, 16, 16, 16))
    assert not parts["distance"].any() and not parts["deformation"].any()


def test_the_branches_see_both_visits_and_the_three_components_of_the_field():
    network, _ = built()
    seen = {}
    for name in ("of_images", "of_field"):
        getattr(network, name).register_forward_hook(
            lambda part, given, made, name=name: seen.update({name: given[0]})
        )
    found = network(images())
    assert torch.equal(seen["of_images"], images())
    assert torch.equal(seen["of_field"], found.displacement)
    assert network.of_field.in_channels == 3 == found.displacement.shape[1]


def test_the_loss_is_the_sum_of_three_logged_terms():
    torch.manual_seed(0)
    task = build_method(config(*SMALL)).task
    torch.nn.init.normal_(task.network.registration.last[-1].weight)  # moves by some voxels
    target = (images()[:, 1:] > 0.9).float()
    step = task.step(Batch(images(), target, ("a", "b"), torch.ones(2)))
    assert set(step.logs) == {"segmentation", "distance", "deformation"}
    torch.testing.assert_close(step.loss, sum(step.logs.values()))
    with torch.no_grad():
        found = task.network(images())
    expected = torch.nn.functional.binary_cross_entropy_with_logits(found.logits, target)
    torch.testing.assert_close(step.logs["segmentation"], expected)
    apart = (images()[:, 1:] - SpatialTransformer()(images()[:, :1], found.displacement)) ** 2
    torch.testing.assert_close(step.logs["distance"], apart.mean())
    slopes = torch.gradient(found.displacement, dim=[2, 3, 4])
    expected = 0.01 * sum(slope.square().mean() for slope in slopes)
    torch.testing.assert_close(step.logs["deformation"], expected)


@pytest.fixture(scope="module")
def registered(deformed):
    """The registration after a short training by the experiment's loss without its segmentation.

    It learns from a simulated pair with a known deformation, and from the baseline given twice.
    """
    network, loss = built()
    network = network.registration
    inner = (..., slice(4, 20), slice(4, 20), slice(0, 16))
    baseline, followup = deformed.baseline[inner], deformed.followup[inner]
    pairs = torch.cat([torch.cat([baseline, each], 1) for each in (followup, baseline)])
    descent = torch.optim.Adam(network.parameters(), lr=3e-3)
    warp = SpatialTransformer()
    for _ in range(90):
        field = network(pairs)
        value = loss.distance(warp(pairs[:, :1], field), pairs[:, 1:]).mean()
        value = value + loss.smoothness * loss.slope(field)
        descent.zero_grad()
        value.backward()
        descent.step()
    with torch.no_grad():
        return network(pairs), deformed.field[inner], deformed.brain[inner]


def test_the_registration_finds_a_simulated_deformation(registered):
    """Mean error of the end points in the brain: at least halved, without folds."""
    fields, truth, brain = registered
    before = truth.norm(dim=1)[brain].mean()
    after = (fields[:1] - truth).norm(dim=1)[brain].mean()
    print(f"mean end point error {6 * before:.2f} mm before, {6 * after:.2f} mm after")
    assert before > 0.5 and after < 0.5 * before
    assert float((jacobian_determinant(fields) > 0).float().mean()) > 0.999


def test_identical_visits_are_left_where_they_are(registered):
    fields, truth, brain = registered
    still = fields[1:].norm(dim=1)[brain].mean()
    print(f"mean displacement of identical visits {6 * still:.3f} mm")
    assert still < 0.1 * truth.norm(dim=1)[brain].mean()


@pytest.mark.parametrize("share", [None, 0.7])
def test_patches_are_split_by_patient_or_as_the_paper_does(share):
    words = [] if share is None else [f"sample.loader.patch_split={share}"]
    assert build_loader(config(*words))([object()]).patch_split == share
    task = build_method(config(*words)).task
    assert task.cut.keywords["sampler"].stride == (16, 16, 16) and task.batches == 16
