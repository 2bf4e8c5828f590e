import pytest
import torch

from msseg_lightning.train.schedule import DropAtShares


def optimizer(rate=1e-3):
    return torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=rate)


@pytest.mark.parametrize("steps", [100, 30_000])
def test_rates_at_shares_of_the_training(steps):
    moving = optimizer()
    schedule = DropAtShares(moving, steps, [0.5, 0.8])
    rates = []
    for _ in range(steps):
        rates.append(moving.param_groups[0]["lr"])
        moving.step()
        schedule.step()
    for share, rate in ((0.0, 1e-3), (0.49, 1e-3), (0.51, 1e-4), (0.79, 1e-4), (0.81, 1e-5)):
        assert rates[int(share * steps)] == pytest.approx(rate, rel=1e-6)
    assert rates.index(pytest.approx(1e-4, rel=1e-6)) == steps // 2


def test_state_survives_as_plain_values(tmp_path):
    """Checkpoints are loaded as tensors and plain values only."""
    moving = optimizer()
    schedule = DropAtShares(moving, 10, [0.5])
    for _ in range(6):
        moving.step()
        schedule.step()
    torch.save(schedule.state_dict(), tmp_path / "state.pt")
    again = DropAtShares(optimizer(), 10, [0.5])
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert again.last_epoch == 6 and again.get_last_lr() == pytest.approx([1e-4])


@pytest.mark.parametrize("shares", [[0.8, 0.5], [0.0], [1.0]])
def test_shares_rise_between_0_and_1(shares):
    with pytest.raises(ValueError, match="shares"):
        DropAtShares(optimizer(), 10, shares)
