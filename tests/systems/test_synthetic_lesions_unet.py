"""S09: what its card asks of the whole system, and networks that really learn to erase."""

import numpy as np
import pytest
import torch

from msseg_lightning.augment.fused import FusedAugment
from msseg_lightning.loss.reconstruction import Reconstruction
from msseg_lightning.run.assemble.system import instantiate, stage_config
from msseg_lightning.run.config.compose import compose_config
from msseg_lightning.sample.corrupted import LesionFreePatches, widened
from msseg_lightning.sample.mixed import MixedPairs
from msseg_lightning.sample.ratio import RatioSampler
from msseg_lightning.sample.synthetic_pairs import Fate
from msseg_lightning.sample.uniform import UniformSampler
from msseg_lightning.train.weighted import WeightedTask
from tests.sample.lesion_scans import LESION, prepared


@pytest.fixture(scope="module")
def config():
    return compose_config(["read.root=."], "synthetic_lesions_unet")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    return [prepared(folder, name, seed) for seed, name in enumerate("abc")]


def small(config, channels):
    """The experiment's network, narrow; weights are always the same."""
    torch.manual_seed(channels)
    dry = {**config["network"]["down"], "dropout": 0.0}
    recipe = {**config["network"], "widths": [8, 8], "down": dry, "in_channels": channels}
    return instantiate(recipe)


def loader(config, pairs, size, **networks):
    """The experiment's loader of mixed pairs, at another patch size."""
    node = dict(config["sample"]["loader"])
    sampler = {**node["synthesis"]["sampler"], "size": [size] * 3}
    node["synthesis"] = {**node["synthesis"], "sampler": sampler, "places": None}
    return instantiate(node, partial=True)(
        subjects=pairs,
        sampler=RatioSampler(size),
        augment=instantiate(config["augment"]),
        image_names=tuple(config["channels"]["images"]),
        target_names=(config["channels"]["target"],),
        batch_size=config["train"]["batch_size"],
        seed=0,
        **networks,
    )


def count(config) -> int:
    with torch.device("meta"):
        network = instantiate(config["network"])
    return sum(weight.numel() for weight in network.parameters())


def test_three_networks_of_one_kind(config):
    assert count(config) == 5_840_101
    # one channel less: 27 weights of each of 32 kernels, and two of the norm
    assert count(stage_config(config, "inpaint")) == 5_840_101 - 32 * 27 - 2
    assert count(stage_config(config, "generate")) == 5_840_101


def test_the_numbers_of_the_card(config):
    node = config["sample"]["loader"]
    assert node["synthetic_per_real"] == 3 and node["synthetic_weight"] == pytest.approx(1 / 3)
    assert node["synthesis"]["fates"] == [0.25] * 4 and config["sample"]["size"] == [64] * 3
    assert node["synthesis"]["sampler"]["size"] == [64] * 3
    for part in (config, stage_config(config, "inpaint"), stage_config(config, "generate")):
        optimizer = part["train"]["optimizer"]
        assert optimizer["_target_"] == "torch.optim.Adam"
        assert (optimizer["lr"], optimizer["betas"][0]) == (1e-4, 0.9)
    operations = node["synthesis"]["alter"]["recipe"]["one_of"]["operations"]
    assert set(operations) == {"noise", "blur", "edges", "axial"}
    assert config["uses"] == {
        "sample.loader.inpainter": "inpaint",
        "sample.loader.generator": "generate",
    }


def test_a_users_folder_is_one_key():
    words = ["read.root=.", "sample.visits.reader.root=there"]
    config = compose_config(words, "synthetic_lesions_unet")
    for part in (config, stage_config(config, "inpaint"), stage_config(config, "generate")):
        assert part["sample"]["visits"]["reader"]["root"] == "there"


def test_erasing_and_painting_networks_stay_as_they_are(config, pairs):
    frozen = [small(config, channels).requires_grad_(False).eval() for channels in (1, 2)]
    before = [{k: v.clone() for k, v in net.state_dict().items()} for net in frozen]
    source = loader(config, pairs, 16, inpainter=frozen[0], generator=frozen[1])
    task = WeightedTask(small(config, 2), instantiate(config["loss"]), torch.optim.Adam)
    optimizer = task.configure_optimizers()
    start = [weight.clone() for weight in task.network.parameters()]
    for batch in source.iterate(0, 3):
        assert batch.weight.tolist() == pytest.approx([1, 1 / 3, 1 / 3, 1 / 3])
        assert not batch.images.requires_grad and not batch.images.is_inference()
        optimizer.zero_grad()
        task.step(batch).loss.backward()
        optimizer.step()
    learned = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    for network, old in zip(frozen, before, strict=True):
        assert all(torch.equal(old[key], value) for key, value in network.state_dict().items())
        for weight in network.parameters():
            assert not weight.requires_grad and weight.grad is None and id(weight) not in learned
    assert any(
        not torch.equal(old, new) for old, new in zip(start, task.network.parameters(), strict=True)
    )


def test_a_trained_inpainter_brings_lesions_to_the_level_around_them(config, pairs):
    inpainter = small(config, 1)
    patches = LesionFreePatches(
        pairs, UniformSampler(12), FusedAugment(), batch_size=4, radius_voxels=(1.5, 3.0)
    )
    optimizer = torch.optim.Adam(inpainter.parameters(), lr=5e-3)
    loss, values = Reconstruction("l1", 1.0), []
    for batch in patches.iterate(0, 60):
        optimizer.zero_grad()
        value = loss(inpainter(batch.images), batch.target)
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert np.mean(values[-10:]) < 0.8 * np.mean(values[:5])
    source = loader(config, pairs, 16, inpainter=inpainter.requires_grad_(False).eval())
    assert isinstance(source, MixedPairs)
    made_up = source.synthetic
    made_up.synthesis.fates = tuple(float(fate == Fate.ERASED_FIRST) for fate in Fate)
    made_up.synthesis.alter = None
    left = []
    for step in range(4):
        plans = [
            made_up.synthesis.plan(made_up.visits, None, np.random.default_rng(10 * step + index))
            for index in range(3)
        ]
        images, new = made_up.synthesis.render(plans, made_up.inpainter, None)
        for plan, pair, mask in zip(plans, images, new, strict=True):
            lesions = plan.lesions > 0
            np.testing.assert_array_equal(mask[0] > 0, lesions)
            if not lesions.any():
                continue
            around = widened(lesions, 3) & ~widened(lesions, 1) & (pair[1] != 0)
            level = pair[1][around].mean()
            assert pair[1][lesions].mean() - level > LESION / 2
            left.append((pair[0][lesions].mean() - level) / (pair[1][lesions].mean() - level))
    assert len(left) > 4
    assert abs(np.mean(left)) < 0.15 and max(np.abs(left)) < 0.5  # 1 would be no change
