"""S08: a network that knows lesion-wise F1, and a segmentation that learns from it."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from msseg_lightning.augment.fused import FusedAugment
from msseg_lightning.core.random import keyed_generator
from msseg_lightning.loss.learned_metric import LearnedMetric, SquaredError
from msseg_lightning.loss.overlap import SoftDice
from msseg_lightning.network.blocks import Activation, Block, Down, Norm, Up
from msseg_lightning.network.mask_pair_regressor import MaskPairRegressor
from msseg_lightning.network.unet import UNet
from msseg_lightning.run.assemble.system import instantiate
from msseg_lightning.run.config.compose import compose_config
from msseg_lightning.sample.loader import PatchLoader
from msseg_lightning.sample.mask_pairs import Corruption, MaskPairLoader, lesion_f1
from msseg_lightning.sample.ratio import RatioSampler
from msseg_lightning.train.datamodule import LongitudinalDataModule
from msseg_lightning.train.task import Task
from msseg_lightning.train.training import Hardware, Training
from tests.sample.conftest import prepare

EDGE = 16
CPU = Hardware(accelerator="cpu", precision="32-true")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    return [prepare(folder, f"case{i}", lesions, i) for i, lesions in enumerate((2, 0, 1, 3))]


def pairs(cohort, seed):
    corruption = Corruption(most_lesions=4, most_foreign=3, most_steps=0)
    sampler = RatioSampler(EDGE, 0.5)
    return MaskPairLoader(
        cohort, sampler, FusedAugment(), batch_size=24, seed=seed, bins=5, corruption=corruption
    )


def fit(network, loss, source, folder, steps, rate):
    task = Task(network, loss, partial(torch.optim.Adam, lr=rate))
    data = LongitudinalDataModule(source, epoch_steps=steps)
    Training(steps=steps, batch_size=24, validate_every=steps).fit(task, data, folder, CPU)
    return task


@pytest.fixture(scope="module")
def metric(cohort, tmp_path_factory):
    """Trained as a stage is: task, loss and loader of the real thing, only smaller."""
    torch.manual_seed(0)
    block = Block(units=1, norm=Norm("group", groups=4), activation=Activation("leaky_relu", 0.01))
    network = MaskPairRegressor([8, 16], block, hidden=32)
    folder = tmp_path_factory.mktemp("metric")
    return fit(network, SquaredError(), pairs(cohort, 0), folder, 300, 3e-3).network.eval()


@pytest.fixture(scope="module")
def held_out(cohort, metric):
    """Pairs of another seed: (masks, true F1, estimate)."""
    batches = list(pairs(cohort, 99).iterate(0, 20))
    masks = torch.cat([batch.images for batch in batches])
    with torch.no_grad():
        estimate = metric(masks)[:, 0].numpy()
    return masks, torch.cat([batch.target for batch in batches])[:, 0].numpy(), estimate


def test_the_metric_network_knows_lesion_f1_on_held_out_pairs(held_out):
    _, true, estimate = held_out
    assert np.mean((true - estimate) ** 2) < true.var() / 2
    assert np.corrcoef(true, estimate)[0, 1] > 0.8


def test_a_lesion_taken_away_lowers_the_estimate(held_out, metric, cohort):
    source, whole, lost = pairs(cohort, 5), [], []
    for index, own in enumerate(held_out[0][:100, 1].numpy() > 0.5):
        more = np.zeros_like(own)
        source._place(more, own.copy(), keyed_generator("more", index))
        if own.any() and more.any():
            true = own | more  # predicted with and without one of its lesions
            assert lesion_f1(own, true) < lesion_f1(true, true) == 1
            whole.append(np.stack([true, true]))
            lost.append(np.stack([own, true]))
    assert len(whole) > 50
    with torch.no_grad():
        change = metric(torch.tensor(np.stack(lost), dtype=torch.float32))
        change -= metric(torch.tensor(np.stack(whole), dtype=torch.float32))
    assert float(change.mean()) < -0.03
    assert float((change < 0).float().mean()) > 0.8


def unet():
    torch.manual_seed(1)
    block = Block("norm_conv_act", norm=Norm("group", groups=1), activation=Activation("relu"))
    return UNet(2, [4, 8], block, Down("max_pool", dropout=0.5), Up("linear"))


def test_the_metric_stays_as_it_is_while_the_segmentation_learns(metric, cohort, tmp_path):
    before = {name: value.clone() for name, value in metric.state_dict().items()}
    patches = PatchLoader(cohort, RatioSampler(EDGE, 0.5), FusedAugment(), batch_size=4)
    loss = LearnedMetric(SoftDice(False, 1.0), 0.2, metric)
    task = fit(unet(), loss, patches, tmp_path, 6, 1e-2)
    moved = zip(unet().parameters(), task.network.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in moved)
    after = task.loss.metric.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(p.requires_grad or p.grad is not None for p in metric.parameters())


def test_its_gradient_reaches_the_map_and_differs_from_no_metric(metric, cohort):
    batch = PatchLoader(cohort, RatioSampler(EDGE, 1.0), FusedAugment(), batch_size=4).batch(0)
    probability = torch.rand_like(batch.target, requires_grad=True)
    slopes = {}
    for alpha in (0.0, 0.2):
        loss = LearnedMetric(SoftDice(False, 1.0), alpha, metric)
        value = loss(torch.logit(probability, eps=1e-6), batch.target)
        (slopes[alpha],) = torch.autograd.grad(value, probability)
    through = slopes[0.2] - slopes[0.0]
    assert float(through.abs().max()) > 1e-6
    assert float(through.abs().max()) > 1e-4 * float(slopes[0.0].abs().max())
    dice = SoftDice(False, 1.0)
    logits = torch.logit(probability, eps=1e-6)
    assert torch.equal(
        LearnedMetric(dice, 0.0, metric)(logits, batch.target), dice(logits, batch.target)
    )


def test_the_recipe():
    config = compose_config(["read.root=."], "metric_learning_unet")
    with torch.device("meta"):
        network = instantiate(config["network"])
    assert sum(weight.numel() for weight in network.parameters()) == 5_840_101
    assert config["loss"]["alpha"] == 0.2 and config["uses"] == {"loss.metric": "metric"}
    assert list(config["stages"]) == ["metric"] and config["stages"]["metric"]["infer"] is None
    stage = config["stages"]["metric"]
    regressor = instantiate(stage["network"])
    convolutions = [m for m in regressor.modules() if isinstance(m, nn.Conv3d)]
    assert [m.out_channels for m in convolutions] == [16, 32, 64, 128]
    assert isinstance(instantiate(stage["loss"]), SquaredError)
    # the metric judges patches of the size it was trained on
    assert stage["sample"]["size"] == config["sample"]["size"] == [64, 64, 64]
    optimizer = config["train"]["optimizer"]
    assert optimizer["_target_"] == "torch.optim.Adam" and optimizer["lr"] == 1e-4
    assert optimizer["betas"][0] == 0.9
