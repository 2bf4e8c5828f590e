import pytest
import torch

from msseg_lightning.core.problem import MssegError
from msseg_lightning.network.fc_densenet import FCDenseNet
from tests.contracts import check_network


def test_fc_densenet_57_has_the_card_s_parameters():
    network = FCDenseNet(6)
    assert sum(weight.numel() for weight in network.parameters()) == 1_376_161
    assert (network.first.in_channels, network.first.out_channels) == (6, 48)
    assert network.divisor == (32, 32)


def test_parameters_of_a_small_one_by_hand():
    """1 level of 1 layer, 3 first channels, growth 2, 1 channel in.

    first 1*3*9+3 = 30; encoder: norm 2*3, conv 3*2*9+2 = 56; down: norm 2*5, conv 5*5+5 = 30;
    bottleneck: norm 10, conv 5*2*9+2 = 92; up: 2*2*9+2 = 38; decoder on 2+5 = 7: norm 14,
    conv 7*2*9+2 = 128; head on 9: 10.
    """
    network = FCDenseNet(1, first_channels=3, growth=2, down=(1,), bottleneck=1)
    count = sum(weight.numel() for weight in network.parameters())
    assert count == 30 + 6 + 56 + 10 + 30 + 10 + 92 + 38 + 14 + 128 + 10


def test_the_probability_of_the_logits_is_half_of_tanh_plus_one():
    torch.manual_seed(0)
    network = FCDenseNet(6, growth=4, down=(1, 1), bottleneck=1).eval()
    images = torch.randn(2, 6, 16, 16)
    with torch.no_grad():
        logits, output = network(images), network.before_tanh(images).tanh()
    assert output.abs().max() < 1 and output.shape == (2, 1, 16, 16)
    torch.testing.assert_close(logits.sigmoid(), (output + 1) / 2)


def test_values_are_mapped_on_entering():
    """x / 2 - 1, so that 0 around a slice is air, as in a slice that has air there."""
    torch.manual_seed(0)
    mapped = FCDenseNet(2, growth=4, down=(1,), input_scale=0.5, input_shift=-1.0).eval()
    plain = FCDenseNet(2, growth=4, down=(1,)).eval()
    plain.load_state_dict(mapped.state_dict())
    images = torch.rand(1, 2, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(mapped(images), plain(images / 2 - 1))


def test_every_layer_sees_all_before_it():
    network = FCDenseNet(6)
    widths = [layer[0].num_features for layer in network.encoder[0].layers]
    assert widths == [48, 60, 72, 84]
    assert [block.layers[0][0].num_features for block in network.encoder] == [48, 96, 144, 192, 240]
    # upwards a block gets 48 new maps of the coarser one and all maps of its own level
    assert [block.layers[0][0].num_features for block in network.decoder] == [
        336,
        288,
        240,
        192,
        144,
    ]
    assert network.head.in_channels == 144 + 48


def test_contract():
    torch.manual_seed(0)
    network = FCDenseNet(6, first_channels=8, growth=4, down=(2, 2), bottleneck=2)
    check_network(network, torch.randn(2, 6, 16, 24))


@pytest.mark.parametrize("shape", [(1, 5, 32, 32), (1, 6, 32, 40)])
def test_what_does_not_fit_is_said(shape):
    with pytest.raises(MssegError, match="divisible by 32"):
        FCDenseNet(6)(torch.zeros(shape))
    with pytest.raises(ValueError, match="slices"):
        FCDenseNet(6, dims=3)
