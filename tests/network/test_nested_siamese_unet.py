import pytest
import torch
from torch import nn

from msseg_lightning.network.nested_siamese_unet import NestedSiameseUNet, NestedUNet


def small(**changes):
    torch.manual_seed(0)
    return NestedSiameseUNet(width=3, **changes).eval()


def count(module):
    return sum(weight.numel() for weight in module.parameters())


def test_parameters_of_both_parts():
    """By hand: a node of c inputs has 27 * 8 c + 8 + 16 and 27 * 64 + 8 + 16 parameters."""
    network = NestedSiameseUNet()
    inputs = [1, 8, 8, 8, *[16] * 3, *[24] * 2, 32]
    nodes = sum(216 * channels + 24 + 1728 + 24 for channels in inputs)
    assert count(network.segment) == nodes + 3 * 9 == 50_835
    refinement = (162 * 8 + 24) + 2 * (1728 + 24) + (216 * 5 + 5 + 10)
    assert count(network.refine) == refinement == 5_919
    assert count(network) == 56_754


def test_swapped_visits_swap_the_six_maps():
    network, images = small(), torch.randn(2, 2, 16, 8, 8)
    with torch.no_grad():
        maps, swapped = network.maps(images), network.maps(images.flip(1))
        first = network.segment(images[:, :1])
    assert torch.equal(maps[:, :3], first)  # of the baseline
    assert maps.shape == (2, 6, 16, 8, 8) and 0 <= maps.min() < maps.max() <= 1
    assert torch.equal(swapped, torch.cat([maps[:, 3:], maps[:, :3]], dim=1))
    assert not torch.allclose(maps[:, 3:], maps[:, :3])


def test_the_block_reads_the_maps_and_the_network_learns_through_it():
    network, images = small(), torch.randn(1, 2, 8, 8, 8)
    found = network(images)
    assert found.shape == (1, 5, 8, 8, 8)
    torch.testing.assert_close(found, network.refine(network.maps(images)))
    found[:, 0].sum().backward()
    assert all(weight.grad is not None for weight in network.segment.parameters())
    kinds = [type(layer).__name__ for layer in network.refine]
    couple = ["Conv3d", "BatchNorm3d"]
    assert kinds == ["Dropout", *couple, *["ReLU", *couple] * 3]


def test_every_decoder_reaches_the_answer_and_every_node_sees_its_row():
    network = NestedUNet(1, 4, 4, 0.1).eval()
    blocks = [[node[0][0].conv.in_channels for node in column] for column in network.nodes]
    assert blocks == [[1, 4, 4, 4], [8, 8, 8], [12, 12], [16]]
    assert [len(node[0]) for column in network.nodes for node in column] == [2] * 10
    images, seen = torch.randn(1, 1, 8, 8, 16), {}

    def remember(place):
        return lambda _, given, found: seen.update({place: (given[0], found)})

    for j, column in enumerate(network.nodes):
        for i, node in enumerate(column):
            node.register_forward_hook(remember((i, j)))
    with torch.no_grad():
        maps = network(images)
    for (i, j), (given, _) in seen.items():
        if j:
            row = [seen[i, earlier][1] for earlier in range(j)]
            below = nn.functional.interpolate(seen[i + 1, j - 1][1], scale_factor=2)
            assert torch.equal(given, torch.cat([*row, below], dim=1)), (i, j)
        elif i:
            assert torch.equal(given, nn.functional.max_pool3d(seen[i - 1, 0][1], 2))
    for number, head in enumerate(network.heads):
        assert torch.equal(maps[:, number : number + 1], head(seen[0, number + 1][1]).sigmoid())


@pytest.mark.parametrize("levels", [2, 3])
def test_fewer_levels_and_2d(levels):
    network = small(levels=levels, dims=2, out_channels=1)
    assert network.divisor == (2 ** (levels - 1),) * 2
    with torch.no_grad():
        assert network(torch.randn(1, 2, 8, 4)).shape == (1, 1, 8, 4)
        assert network.maps(torch.randn(1, 2, 8, 4)).shape[1] == 2 * (levels - 1)
