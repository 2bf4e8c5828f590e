import pytest
import torch

from msseg_lightning.network.blocks import Activation, Block, Norm
from msseg_lightning.network.fast_steps import run_fused, run_in_place

ORDERS = ["conv_norm_act", "norm_act_conv", "norm_conv_act"]


def unit_of(order, dropout=0.0):
    torch.manual_seed(0)
    block = Block(order, units=1, norm=Norm("instance"), dropout=dropout)
    (unit,) = block.build(3, 3, (3, 3, 3), (1, 1, 1))
    return unit


@pytest.mark.parametrize("order", ORDERS)
def test_without_gradients_the_result_is_bit_identical_and_the_input_stays(order):
    unit = unit_of(order)
    features = torch.randn(2, 3, 4, 5, 6)
    before = features.clone()
    plain = unit(features).detach()
    with torch.no_grad():
        assert torch.equal(run_in_place(unit, features, unit.steps), plain)
        assert torch.equal(unit(features), plain)
        assert torch.equal(run_in_place(unit, features, ("act",)), unit.act(features))
    assert torch.equal(features, before)


@pytest.mark.parametrize("order", ORDERS)
def test_fused_steps_agree_with_the_plain_ones(order):
    unit = unit_of(order)
    features = torch.randn(2, 3, 4, 5, 6)
    torch.testing.assert_close(run_fused(unit, features, unit.steps), unit(features))
    for steps in (("norm",), ("norm", "conv"), ("conv", "norm", "act")):
        torch.testing.assert_close(run_fused(unit, features, steps), unit.run(features, steps))


def test_the_activation_of_a_new_tensor_takes_no_memory():
    unit, seen = unit_of("conv_norm_act"), []
    unit.norm.register_forward_hook(lambda module, given, result: seen.append(result.data_ptr()))
    with torch.no_grad():
        assert unit(torch.randn(1, 3, 4, 4, 4)).data_ptr() == seen[0]


def test_relu_and_leaky_relu():
    for activation in (Activation("relu"), Activation("leaky_relu", 0.5)):
        unit = Block(units=1, activation=activation).build(2, 2, (1, 1), (1, 1))[0]
        features = torch.randn(1, 2, 3, 3)
        with torch.no_grad():
            assert torch.equal(unit(features), unit.act(unit.norm(unit.conv(features))))


@pytest.mark.parametrize("order", ORDERS)
def test_dropout_follows_the_convolution(order):
    unit = unit_of(order, dropout=0.5)
    steps = list(unit.steps)
    assert steps[steps.index("conv") + 1] == "dropout"
    assert [name for name, _ in unit.named_children()] == steps
    features = torch.randn(2, 3, 4, 4, 4)
    torch.manual_seed(1)
    plain = unit(features).detach()
    torch.manual_seed(1)
    with torch.no_grad():
        assert torch.equal(unit(features), plain)
