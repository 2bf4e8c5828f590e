import copy

import pytest
import torch
from torch import nn

from msseg_lightning.core.network import on_grid
from msseg_lightning.network.blocks import Activation, Block, Down, InstanceNorm, Norm, Up
from msseg_lightning.network.film import AtVoxelSize, FilmNorm, VoxelSizeNetwork
from msseg_lightning.network.fused_norm import norm_activation
from msseg_lightning.network.unet import UNet
from tests.contracts import check_network

SPACING = torch.tensor([[1.0, 0.5, 0.5], [1.2, 0.8, 3.0]])


def unet(norm, heads=1):
    return UNet(2, [4, 8], Block(norm=norm), Down(), Up(), heads=heads)


def trained(norm):
    """The norm with numbers in its last layer."""
    torch.manual_seed(1)
    nn.init.normal_(norm.modulation[2].weight)
    nn.init.normal_(norm.modulation[2].bias)
    return norm


def test_a_new_one_is_an_instance_norm():
    torch.manual_seed(0)
    film, plain = FilmNorm(3), InstanceNorm(3)
    with torch.no_grad():
        for norm in (film, plain):
            norm.weight.copy_(torch.tensor([2.0, 0.5, -1.0]))
            norm.bias.copy_(torch.tensor([0.1, 0.0, 3.0]))
    film.spacing_mm = SPACING
    features = torch.randn(2, 3, 4, 5, 6)
    torch.testing.assert_close(film(features), plain(features), rtol=0, atol=0)
    assert not film.modulation[2].weight.any() and not film.modulation[2].bias.any()
    assert [part.out_features for part in film.modulation if isinstance(part, nn.Linear)] == [64, 6]


@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 5), (1, 1, 1)])
def test_scale_and_shift_are_those_of_the_formula(shape):
    norm = trained(FilmNorm(3, hidden=5))
    norm.spacing_mm = SPACING
    features = torch.randn(2, 3, *shape)
    answer = norm(features)
    for sample in range(2):
        gamma, beta = norm.modulation(SPACING[sample]).view(2, 3)
        for channel in range(3):
            z = features[sample, channel]
            z = (z - z.mean()) / (z.var(correction=0) + 1e-5).sqrt()
            expected = (1 + gamma[channel]) * z + beta[channel]
            torch.testing.assert_close(answer[sample, channel], expected, rtol=1e-4, atol=1e-5)


def test_the_fused_path_does_not_take_it_for_an_instance_norm():
    norm = trained(FilmNorm(3))
    norm.spacing_mm = SPACING
    features, act = torch.randn(2, 3, 4, 4, 4), nn.LeakyReLU(0.01)
    torch.testing.assert_close(norm_activation(norm, act, features), act(norm(features)))


def test_without_a_size_of_voxels_it_does_not_answer():
    with pytest.raises(ValueError, match="size of voxels"):
        unet(Norm("film"))(torch.randn(1, 2, 4, 4, 4))
    with pytest.raises(ValueError, match="kind film"):
        VoxelSizeNetwork(unet(Norm("instance")))


def test_the_network_keeps_the_contract():
    torch.manual_seed(0)
    network = VoxelSizeNetwork(unet(Norm("film"), heads=2))
    assert on_grid(network, (1.0, 1.0, 3.0)).divisor == network.divisor == (2, 2, 2)
    check_network(AtVoxelSize(network, (1.0, 1.0, 3.0)), torch.randn(2, 2, 8, 8, 8))


def test_every_norm_of_a_block_is_replaced():
    norms = [part for part in unet(Norm("film", hidden=7)).modules() if isinstance(part, FilmNorm)]
    assert len(norms) == 6
    assert {norm.modulation[0].out_features for norm in norms} == {7}
    assert not any(isinstance(part, InstanceNorm) for part in unet(Norm("film")).modules())


def fitted():
    """A network that learned for a few steps to answer by the size of voxels."""
    torch.manual_seed(0)
    network = VoxelSizeNetwork(unet(Norm("film", hidden=16)))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    images = torch.randn(2, 2, 8, 8, 8)
    target = torch.stack([torch.zeros(1, 8, 8, 8), torch.ones(1, 8, 8, 8)])
    for _ in range(15):
        loss = nn.functional.binary_cross_entropy_with_logits(network(images, SPACING), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network, images


def test_the_answer_changes_when_and_only_when_the_voxel_size_changes():
    network, images = fitted()
    network.eval()
    with torch.no_grad():
        thin, thick = (on_grid(network, size) for size in ((1.0, 0.5, 0.5), (1.2, 0.8, 3.0)))
        first = thin(images)
        assert (thick(images) - first).abs().max() > 0.5
        assert torch.equal(thin(images), first)
        assert torch.equal(on_grid(network, (1.0, 0.5, 0.5))(images), first)
        # of one batch each sample has its own
        both = network(images, SPACING)
        torch.testing.assert_close(both[:1], thin(images[:1]), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(both[1:], thick(images[1:]), rtol=1e-4, atol=1e-4)


def test_the_view_of_a_size_follows_the_mode_of_its_network():
    network = VoxelSizeNetwork(unet(Norm("film"))).eval()
    view = on_grid(network, (1.0, 1.0, 1.0))
    assert not view.training
    view.train(view.training)  # as an inference rule does at its end
    assert not network.training and not network.network.training
    network.train()
    assert on_grid(network, (1.0, 1.0, 1.0)).training
    assert copy.deepcopy(view).spacing_mm == (1.0, 1.0, 1.0)


def test_activations_are_recomputed_with_the_same_size():
    from msseg_lightning.train.recompute import recompute_blocks

    def gradients(recompute):
        torch.manual_seed(0)
        network = VoxelSizeNetwork(
            UNet(2, [4, 8], Block(norm=Norm("film"), activation=Activation("relu")), Down(), Up())
        )
        for part in network.modules():
            if isinstance(part, FilmNorm):
                trained(part)
        if recompute:
            assert recompute_blocks(network)
        network(torch.ones(2, 2, 4, 4, 4).cumsum(2), SPACING).square().mean().backward()
        return [weight.grad for weight in network.parameters()]

    for one, other in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(one, other)
