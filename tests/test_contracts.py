"""Every preset of networks, losses, windows and rules keeps its contract."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from msseg_lightning.core.prediction import Prediction
from msseg_lightning.core.subject import Native
from msseg_lightning.core.volume import Grid
from msseg_lightning.infer.slices import SliceWise
from msseg_lightning.loss.deep_supervision import DeepSupervision
from tests.contracts import check_loss, check_network

CONF = Path(__file__).parents[1] / "conf"


def presets(step):
    return sorted(path.stem for path in (CONF / step).glob("*.yaml"))


def loaded(step, name):
    """A preset on the presets that it extends."""
    config = OmegaConf.load(CONF / step / f"{name}.yaml")
    bases = [base for base in config.pop("defaults", []) if base != "_self_"]
    return OmegaConf.merge(*(loaded(step, base) for base in bases), config)


def build(step, name, **settings):
    return instantiate(loaded(step, name), **settings)


@pytest.mark.parametrize("name", presets("network"))
def test_network(name):
    torch.manual_seed(0)
    config = loaded("network", name)
    dims = config.get("dims", 3)
    channels = config.get("in_channels") or config.network.in_channels
    network = instantiate(config)
    edge = max(getattr(network, "divisor", (16,)))
    images = torch.randn(2, channels, *(max(edge, 16),) * dims)
    check_network(network, images, config.get("out_channels") or 1)


@pytest.mark.parametrize("name", presets("loss"))
def test_loss(name):
    loss = build("loss", name)
    deep = isinstance(loss, DeepSupervision)
    check_loss(loss, resolutions=len(loss.weights) if deep else 1)


@pytest.mark.parametrize("name", presets("infer"))
def test_infer(name):
    missing = OmegaConf.is_missing(loaded("infer", name), "size")
    window = build("infer", name, **({"size": 32} if missing else {}))
    window = getattr(window, "window", window)
    if isinstance(window, SliceWise):
        assert window.level in ("logit", "probability") and window.axes
        return
    assert all(1 <= step <= edge for step, edge in zip(window.stride, window.size, strict=True))


@pytest.mark.parametrize("name", presets("postprocess"))
def test_postprocess(name):
    """Rules keep the grid, give 0 and 1 only, and add nothing to an empty map."""
    native = Native(Grid((6, 5, 4), np.diag([0.5, 0.5, 3.0, 1.0])), b"")
    empty = np.zeros((6, 5, 4), np.float32)
    random = np.random.default_rng(0).random((6, 5, 4), np.float32)
    rules = build("postprocess", name)["rules"].values()
    for probability in (empty, random):
        mask = np.zeros((6, 5, 4), np.uint8)
        prediction = Prediction("p", mask, native, probability, inside=np.ones((6, 5, 4), bool))
        for rule in rules:
            prediction = rule(prediction)
        assert prediction.mask.shape == (6, 5, 4) and prediction.mask.dtype == np.uint8
        assert prediction.mask.max() <= 1 and (probability is random or not prediction.mask.any())
