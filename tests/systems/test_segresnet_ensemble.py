"""What the card of S19 says of the members and of the whole."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from msseg_lightning.method.ensemble import EnsembleMethod
from msseg_lightning.run.assemble.system import instantiate
from msseg_lightning.run.config.compose import compose_config
from msseg_lightning.train.task import Task

MEMBERS = ("segresnet_shallow", "segresnet_deep")


def config(name, *words):
    return compose_config(("read.root=.", *words), name)


def test_ten_models_of_five_folds_and_two_types():
    found = config("segresnet_ensemble")
    ensemble = found["ensemble"]
    assert set(ensemble["configs"]) == set(MEMBERS)
    assert (ensemble["level"], ensemble["rule"]) == ("probability", "mean")
    methods = {name: object for name in ensemble["configs"]}
    names = EnsembleMethod(methods, ensemble["folds"], lambda _: True).names
    assert len(names) == len(set(names)) == 10
    for name in MEMBERS:
        member = ensemble["configs"][name]
        assert instantiate(member["infer"]).level == "probability"  # softmax maps are averaged
        assert (
            member["infer"]["size"] == member["sample"]["size"][0]
        )  # windows of the training size
        assert member["preprocess"]["steps"]["normalise"]["region"] == "nonzero"


@pytest.mark.parametrize("name", MEMBERS)
def test_decay_acts_on_convolution_kernels_alone(name):
    found = config(name, "network.network.init_filters=8")
    network = instantiate(found["network"])
    optimizer = instantiate(found["train"]["optimizer"], partial=True)
    settings = {k: v for k, v in found["train"]["task"].items() if k != "_target_"}
    task = Task(network, nn.Identity(), optimizer, **settings)
    built = task.configure_optimizers()
    decay = {id(p): g["weight_decay"] for g in built.param_groups for p in g["params"]}
    assert len(decay) == len(list(network.parameters()))
    for module in network.modules():
        for kind, weight in module.named_parameters(recurse=False):
            kernel = kind == "weight" and isinstance(module, nn.modules.conv._ConvNd)
            assert decay[id(weight)] == (1e-5 if kernel else 0.0), (type(module).__name__, kind)
    assert all(group["lr"] == 2e-4 for group in built.param_groups)


@pytest.mark.parametrize(("name", "levels"), [("segresnet_shallow", 2), ("segresnet_deep", 4)])
def test_every_skip_is_added(name, levels):
    network = instantiate(config(name, "network.network.init_filters=8")["network"]).network.eval()
    seen: dict[str, torch.Tensor] = {}

    def keep(key):
        return lambda module, given, answer: seen.update({key: answer.clone()})

    for level in range(levels - 1):
        network.down_layers[level].register_forward_hook(keep(f"skip{level}"))
        network.up_samples[level].register_forward_hook(keep(f"up{level}"))
        network.up_layers[level].register_forward_pre_hook(
            lambda module, given, key=f"joined{level}": seen.update({key: given[0].clone()})
        )
    with torch.no_grad():
        network(torch.randn(1, 2, 16, 16, 16))
    for level in range(levels - 1):
        skip = seen[f"skip{levels - 2 - level}"]
        assert skip.shape == seen[f"up{level}"].shape  # a sum, so the widths are equal
        torch.testing.assert_close(seen[f"joined{level}"], seen[f"up{level}"] + skip)
    strided = [m for m in network.modules() if isinstance(m, nn.Conv3d) and m.stride[0] == 2]
    assert len(strided) == levels - 1


def test_one_gpu_makes_steps_of_as_many_patches_as_four():
    shallow, deep = (config(name)["train"] for name in MEMBERS)
    assert deep["batch_size"] * deep["accumulate"] == 4
    assert shallow["batch_size"] * shallow["accumulate"] == 2048
