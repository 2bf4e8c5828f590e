"""S21 and S21x: network, pool, rate and window as the card has them."""

import numpy as np
import pytest
import torch

from msseg_lightning.core.random import keyed_generator
from msseg_lightning.run.assemble.system import build_sampler, instantiate
from msseg_lightning.run.config.compose import compose_config
from tests.sample.conftest import prepare

NAMES = ("ohem_unet", "oversampled_unet")


@pytest.fixture(scope="module", params=NAMES)
def config(request):
    return compose_config(["read.root=."], request.param)


def test_parameters(config):
    with torch.device("meta"):
        network = instantiate(config["network"])
    assert sum(weight.numel() for weight in network.parameters()) == 354_353
    assert network.divisor == (4, 4, 4)


def test_rates(config):
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = instantiate(config["train"]["optimizer"], partial=True)([weight])
    schedule = instantiate(config["train"]["scheduler"], partial=True)(optimizer)
    steps = config["train"]["steps"]
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    for percent, rate in ((0, 1e-3), (49, 1e-3), (51, 1e-4), (79, 1e-4), (81, 1e-5)):
        assert rates[steps * percent // 100] == pytest.approx(rate, rel=1e-6)


def test_the_pool_and_what_is_kept():
    mining, plain = (compose_config(["read.root=."], name) for name in NAMES)
    task = instantiate(mining["train"]["task"], partial=True)(
        network=torch.nn.Conv3d(2, 1, 1),
        loss=instantiate(mining["loss"]),
        optimizer=torch.optim.Adam,
    )
    assert (mining["train"]["batch_size"], task.keep) == (128, 32)
    assert plain["train"]["batch_size"] == 32
    assert task.momentum == 0.99 and task.error == "loss"
    # nothing but mining and its budget tells the two apart
    differ = {key for key in mining if mining[key] != plain[key]} - {
        "card",
        "name",
        "experiment",
        "sizes",
    }
    assert differ == {"train"}


def test_three_patches_of_ten_are_centred_on_a_lesion(config, tmp_path):
    subjects = [prepare(tmp_path, f"case{i}", lesions, i) for i, lesions in enumerate((3, 0))]
    sampler = build_sampler(config)
    assert sampler.size == (32, 32, 32)
    drawn = [sampler.draw(subjects, keyed_generator("pool", i)) for i in range(2000)]
    assert 0.27 < np.mean([spec.positive for spec in drawn]) < 0.33  # SD 1 %


def test_window(config):
    window = instantiate(config["infer"])
    assert window.size == (32, 32, 32) and window.stride == (24, 24, 24)
