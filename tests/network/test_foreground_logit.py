from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from msseg_lightning.network.foreground_logit import ForegroundLogit

PRESETS = Path(__file__).parents[2] / "conf" / "network"


def preset(name):
    return instantiate(OmegaConf.load(PRESETS / f"{name}.yaml"))


def test_sigmoid_equals_softmax_and_sign_equals_argmax():
    torch.manual_seed(0)
    two = nn.Conv3d(2, 2, 3, padding=1)
    images = torch.randn(2, 2, 5, 6, 7) * 10
    logit, both = ForegroundLogit(two)(images), two(images)
    torch.testing.assert_close(logit.sigmoid()[:, 0], both.softmax(1)[:, 1])
    assert torch.equal(logit[:, 0] > 0, both.argmax(1) == 1)


def test_other_channel_counts_are_refused():
    with pytest.raises(ValueError, match="got 3 channels"):
        ForegroundLogit(nn.Conv3d(2, 3, 1))(torch.zeros(1, 2, 4, 4, 4))


@pytest.mark.parametrize(
    ("name", "parameters"), [("segresnet_shallow", 4_914_114), ("segresnet_deep", 18_969_122)]
)
def test_segresnet_parameters(name, parameters):
    with torch.device("meta"):
        network = preset(name)
    assert sum(weight.numel() for weight in network.parameters()) == parameters


def test_segresnet_skips_are_added():
    """A decoder block takes as many channels as one level has, not twice as many."""
    network = preset("segresnet_shallow").network
    assert network.up_layers[0][0].conv1.conv.in_channels == 64
    seen = {}
    network.up_samples[0].register_forward_hook(lambda m, i, o: seen.update(up=o))
    network.down_layers[0].register_forward_hook(lambda m, i, o: seen.update(skip=o))
    network.up_layers[0].register_forward_pre_hook(lambda m, i: seen.update(joined=i[0].clone()))
    network.eval()(torch.randn(1, 2, 4, 4, 4))
    torch.testing.assert_close(seen["joined"], seen["up"] + seen["skip"])


def test_shallow_segresnet_sees_less_than_40_voxels():
    """One downsampling only: a change 40 voxels away cannot reach, one 20 voxels away does."""
    torch.manual_seed(0)
    network = preset("segresnet_shallow").eval()
    images = torch.randn(1, 2, 84, 4, 4)
    with torch.no_grad():
        plain = network(images)[0, 0, 42]
        for distance, reaches in ((40, False), (20, True)):
            changed = images.clone()
            changed[:, :, 42 - distance] += 100
            changed[:, :, : 42 - distance] += 100
            assert torch.equal(network(changed)[0, 0, 42], plain) != reaches
    strided = [m for m in network.modules() if isinstance(m, nn.Conv3d) and m.stride[0] == 2]
    assert len(strided) == 1
