"""Layout of the network of S27: what reaches what, forwards and backwards."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from msseg_lightning.core.problem import MssegError
from msseg_lightning.network.blocks import Activation, Block, Down, Norm, Up
from msseg_lightning.network.joint_registration import (
    JointRegistration,
    RegisteredSegmentation,
    RegistrationUNet,
)
from msseg_lightning.network.unet import UNet


def joint(prior=None):
    torch.manual_seed(0)
    block = Block(norm=Norm("batch"), activation=Activation("relu"))
    branch = partial(UNet, widths=[4, 6], block=block, down=Down("max_pool"), up=Up(), heads=0)
    return JointRegistration(RegistrationUNet([4, 6, 6], [6, 5, 4], [4, 3]), branch, 4, prior)


def visits():
    return torch.rand(2, 2, 16, 8, 24, generator=torch.Generator().manual_seed(0))


def test_the_registration_has_the_layout_of_voxelmorph():
    """Strided encoder, enlargement after each convolution, the images as the last skip."""
    network = RegistrationUNet([16, 32, 32, 32], [32, 32, 32, 32], [32, 16, 16])
    assert sum(weight.numel() for weight in network.parameters()) == 301_411
    assert network.divisor == (16, 16, 16)
    sizes = {}
    for name, layer in network.named_modules():
        if isinstance(layer, torch.nn.Conv3d):
            layer.register_forward_hook(
                lambda layer, given, made, name=name: sizes.update(
                    {name.removesuffix(".conv"): (given[0].shape[1], made.shape[1], made.shape[2])}
                )
            )
    assert network(torch.rand(1, 2, 32, 32, 32)).shape == (1, 3, 32, 32, 32)
    assert list(sizes.values()) == [
        *((2, 16, 16), (16, 32, 8), (32, 32, 4), (32, 32, 2)),
        *((32, 32, 2), (64, 32, 4), (64, 32, 8), (48, 32, 16)),
        *((34, 32, 32), (32, 16, 32), (16, 16, 32), (16, 3, 32)),
    ]
    with pytest.raises(ValueError, match="levels"):
        RegistrationUNet([4, 4], [4], [4])


def test_a_new_network_moves_nothing():
    network, images = joint(), visits()
    found = network(images)
    assert isinstance(found, RegisteredSegmentation)
    assert found.displacement.shape == (2, 3, 16, 8, 24)
    assert float(found.displacement.detach().abs().max()) < 1e-3
    torch.testing.assert_close(found.warped, images[:, :1], atol=1e-3, rtol=0)
    assert torch.equal(found.fixed, images[:, 1:])


def test_the_baseline_is_moved_onto_the_follow_up():
    """A displacement of +2 along the first axis: voxel 5 of the answer is voxel 7."""
    network, images = joint(), visits()
    torch.nn.init.zeros_(network.registration.last[-1].weight)
    network.registration.last[-1].bias.data[:] = torch.tensor([2.0, 0.0, 0.0])
    warped = network(images).warped
    torch.testing.assert_close(warped[:, 0, :-2], images[:, 0, 2:], atol=1e-4, rtol=0)


def test_each_branch_has_its_images():
    network = joint()
    assert network.of_images.in_channels == 2 and network.of_field.in_channels == 3
    weights = {weight.data_ptr() for weight in network.of_images.parameters()}
    assert not weights & {weight.data_ptr() for weight in network.of_field.parameters()}
    assert network.classifier.in_channels == 2 * 4


def test_the_segmentation_teaches_the_registration_through_the_field_alone():
    network, images = joint(), visits()
    network(images).logits.square().mean().backward()
    gradients = [weight.grad for weight in network.registration.parameters()]
    assert all(gradient is not None and bool(gradient.any()) for gradient in gradients)
    network.zero_grad()
    with torch.no_grad():
        network.classifier.weight[:, 4:] = 0  # what comes from the field
    network(images).logits.square().mean().backward()
    assert not any(bool(weight.grad.any()) for weight in network.registration.parameters())


def test_the_deformed_baseline_is_no_image_of_the_segmentation():
    network, images = joint(), visits()
    before = network(images).logits
    network.transform.forward = lambda image, displacement: image * 0
    found = network(images)
    torch.testing.assert_close(found.logits, before)
    assert not found.warped.any()


def test_evaluation_gives_logits_and_a_new_network_its_prior():
    network = joint(prior=0.01).eval()
    with torch.no_grad():
        logits = network(visits())
    assert logits.shape == (2, 1, 16, 8, 24)
    assert 0.001 < float(logits.sigmoid().mean()) < 0.1


def test_the_largest_divisor_counts():
    network = joint()
    assert network.divisor == (8, 8, 8)
    with pytest.raises(MssegError, match="halved"):
        network(torch.rand(1, 2, 16, 12, 24))
    with pytest.raises(MssegError, match="number of images"):
        network(torch.rand(1, 3, 16, 8, 24))
