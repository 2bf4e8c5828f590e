"""Every preset of ``conf/network`` and ``conf/loss`` keeps its contract."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from tests.contracts import check_loss, check_network

CONF = Path(__file__).parents[1] / "conf"


def presets(step):
    return sorted(path.stem for path in (CONF / step).glob("*.yaml"))


def build(step, name):
    return instantiate(OmegaConf.load(CONF / step / f"{name}.yaml"))


@pytest.mark.parametrize("name", presets("network"))
def test_network(name):
    torch.manual_seed(0)
    config = OmegaConf.load(CONF / "network" / f"{name}.yaml")
    dims = config.get("dims", 3)
    channels = config.get("in_channels") or config.network.in_channels
    network = instantiate(config)
    edge = max(getattr(network, "divisor", (16,)))
    check_network(network, torch.randn(2, channels, *(max(edge, 16),) * dims))


@pytest.mark.parametrize("name", presets("loss"))
def test_loss(name):
    loss = build("loss", name)
    check_loss(loss, resolutions=len(getattr(loss, "weights", (1,))))
