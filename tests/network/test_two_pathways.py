import pytest
import torch
from torch import nn

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.network.two_pathways import TwoPathways


def small(**changes):
    torch.manual_seed(0)
    settings = {"in_channels": 1, "fine": [1] * 7, "coarse": [1] * 8, "joined": [2], **changes}
    return TwoPathways(**settings).eval()


def identity(network):
    """Every convolution of both pathways hands on the voxel in its middle."""
    with torch.no_grad():
        for layer in (*network.fine.modules(), *network.coarse.modules()):
            if isinstance(layer, nn.Conv3d):
                layer.weight.zero_()
                layer.weight[:, :, 1, 1, 1] = 1
                layer.bias.zero_()
            elif isinstance(layer, nn.BatchNorm3d):
                layer.eps = 0.0
            elif isinstance(layer, nn.PReLU):
                layer.weight.fill_(1)
    return network


def joined_features(network, images):
    seen = []
    network.joined.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    network(images)
    return seen[0]


def test_layers_and_parameters_of_the_paper():
    with torch.device("meta"):
        network = TwoPathways(out_channels=2)
    kernels = [layer for layer in network.modules() if isinstance(layer, nn.Conv3d)]
    assert [layer.out_channels for layer in kernels] == [
        *(30, 40, 50, 60, 70, 80, 90),
        *(30, 40, 50, 60, 70, 80, 90, 100),
        *(300, 300),
        2,
    ]
    assert [set(layer.kernel_size) for layer in kernels] == [{3}] * 15 + [{1}] * 3
    assert kernels[15].in_channels == 90 + 100
    plain = sum(weight.numel() for layer in kernels for weight in layer.parameters())
    assert plain == 1_648_182
    # a norm's weight and bias and a slope for each of 420 + 520 + 600 channels
    assert sum(weight.numel() for weight in network.parameters()) == plain + 3 * 1540
    assert (network.size, network.output) == (97, 19)
    drops = [layer.p for layer in network.joined.modules() if isinstance(layer, nn.Dropout)]
    assert drops == [0.5, 0.5]
    assert not [layer for layer in network.fine.modules() if isinstance(layer, nn.Dropout)]


def test_both_pathways_answer_for_the_same_place():
    """On a ramp along each axis both give the middle voxel's value, and 3 x 3 x 3 share one."""
    network = identity(small())
    places = torch.arange(97.0)
    for axis in range(3):
        shape = [97 if other == axis else 1 for other in range(3)]
        ramp = places.view(1, 1, *shape).expand(1, 1, 97, 97, 97).contiguous()
        with torch.no_grad():
            fine, coarse = joined_features(network, ramp)[0]
        along = [slice(None) if other == axis else 9 for other in range(3)]
        # the middle 19 voxels of 97 are 39 to 57; every third voxel is a multiple of 3
        torch.testing.assert_close(fine[tuple(along)], torch.arange(39.0, 58.0))
        nearest = torch.round(torch.arange(39.0, 58.0) / 3) * 3
        torch.testing.assert_close(coarse[tuple(along)], nearest)
        assert fine[9, 9, 9] == coarse[9, 9, 9] == 48


def test_only_the_coarse_pathway_sees_far():
    network = small(in_channels=2)
    images = torch.randn(1, 2, 97, 97, 97)
    changed = images.clone()
    changed[:, :, 88:91, 47:50, 47:50] += 5  # 40 to 42 voxels from the middle
    with torch.no_grad():
        torch.testing.assert_close(
            network.fine_features(changed), network.fine_features(images), rtol=0, atol=0
        )
        assert not torch.equal(network.coarse_features(changed), network.coarse_features(images))
        # what is kept of it reaches 33 voxels
        nearer = images.clone()
        nearer[:, :, 81, 48, 48] += 5
        assert not torch.equal(network(nearer), network(images))
        farther = images.clone()
        farther[:, :, 84] += 5
        torch.testing.assert_close(network(farther), network(images), rtol=0, atol=0)


def test_the_answer_is_the_middle_and_every_weight_learns():
    network = small(in_channels=2, out_channels=2).train()
    logits = network(torch.randn(2, 2, 97, 97, 97))
    assert tuple(logits.shape) == (2, 2, 19, 19, 19)
    logits.square().mean().backward()
    assert not [name for name, weight in network.named_parameters() if weight.grad is None]


def test_other_patches_and_settings_are_refused():
    with pytest.raises(MssegError, match="1x97x97x97") as caught:
        small()(torch.zeros(1, 1, 95, 97, 97))
    assert caught.value.exit_code == ExitCode.CONFIG
    with pytest.raises(MssegError):
        small()(torch.zeros(1, 2, 97, 97, 97))
    with pytest.raises(ValueError, match="odd"):
        small(edge=32)
    with pytest.raises(ValueError, match="leaves"):
        small(edge=15)
