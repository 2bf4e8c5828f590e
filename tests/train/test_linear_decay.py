import pytest
import torch

from msseg_lightning.train.linear_decay import ConstantThenLinear


def rates(steps, share, count):
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=2e-4)
    scheduler = ConstantThenLinear(optimizer, steps, share)
    found = []
    for _ in range(count + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_a_hundred_epochs_stay_and_three_hundred_fall():
    """S15, with one step per epoch: 2e-4 to epoch 100, half of it at 250, nothing at 400."""
    found = rates(400, 0.25, 410)
    assert found[0] == found[100] == 2e-4
    assert found[101] == pytest.approx(2e-4 * 299 / 300)
    assert found[250] == pytest.approx(1e-4)
    assert found[399] == pytest.approx(2e-4 / 300)
    assert found[400] == found[410] == 0


def test_without_a_constant_part_it_is_a_line():
    assert rates(4, 0.0, 4) == pytest.approx([2e-4, 1.5e-4, 1e-4, 0.5e-4, 0])


def test_the_state_is_plain_values():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = ConstantThenLinear(optimizer, 10, 0.5)
    assert scheduler.state_dict()["lr_lambdas"] == [None]


@pytest.mark.parametrize(("steps", "share"), [(0, 0.5), (10, 1.0), (10, -0.1)])
def test_bad_numbers(steps, share):
    with pytest.raises(ValueError, match="below 1"):
        rates(steps, share, 1)
