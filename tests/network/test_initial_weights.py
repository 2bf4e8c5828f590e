"""Which of some given weights a network takes, and which it does not."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from msseg_lightning.core.files import sha256_file
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.network.initial_weights import InitialWeights
from msseg_lightning.network.weights import save_weights


def network(channels=2, outputs=1, more=False):
    torch.manual_seed(channels + 10 * outputs)
    parts = {"first": nn.Conv3d(channels, 4, 3), "last": nn.Conv3d(4, outputs, 1)}
    return nn.ModuleDict({**parts, **({"extra": nn.Linear(2, 2)} if more else {})})


def test_equal_networks_take_everything(tmp_path):
    given, new = network(), network()
    nn.init.zeros_(new["last"].weight)
    save_weights(given, tmp_path, "some")
    found = InitialWeights.match(new, tmp_path)
    found.load_into(new)
    for name, value in given.state_dict().items():
        assert new.state_dict()[name].equal(value)
    assert (len(found.taken), found.left, found.unused) == (4, {}, ())
    assert found.values == 4 * 2 * 27 + 4 + 4 + 1
    assert found.sha256 == sha256_file(tmp_path / "weights.safetensors")


def test_other_shapes_and_names_start_anew_and_are_named(tmp_path):
    save_weights(network(channels=2, more=True), tmp_path, "some")
    new = network(channels=3)
    before = new["first"].weight.clone()
    found = InitialWeights.match(new, tmp_path)
    found.load_into(new)
    assert new["first"].weight.equal(before)
    assert found.left == {"first.weight": "4x2x3x3x3 given, 4x3x3x3x3 here"}
    assert found.unused == ("extra.bias", "extra.weight")
    text = str(found)
    assert "3 of 4 tensors taken, 9 values" in text
    assert "first.weight (4x2x3x3x3 given, 4x3x3x3x3 here)" in text and "extra.bias" in text
    assert json.loads(json.dumps(found.record()))["taken_names"] == [
        "first.bias",
        "last.weight",
        "last.bias",
    ]


def test_nothing_in_common_is_none(tmp_path):
    save_weights(nn.Linear(3, 3), tmp_path)
    assert InitialWeights.match(network(), tmp_path) is None
    save_weights(network(channels=3, outputs=2), tmp_path)
    assert len(InitialWeights._of_file(network(), tmp_path / "weights.safetensors", tmp_path).taken)
    assert InitialWeights.match(network(), tmp_path) is None  # a bias alone is nothing


def test_of_several_networks_the_best_fitting_is_taken(tmp_path):
    save_weights(network(channels=1), tmp_path / "members" / "a", "some")
    save_weights(network(channels=2), tmp_path / "members" / "b", "some")
    save_weights(network(channels=2), tmp_path / "members" / "c", "some")
    found = InitialWeights.match(network(channels=2), tmp_path)
    assert found.source == f"{tmp_path.name}/members/b" and not found.left


def test_weights_that_their_card_does_not_describe_are_refused(tmp_path):
    save_weights(network(), tmp_path / "x")
    save_weights(network(outputs=2), tmp_path / "y")
    (tmp_path / "y" / "card.json").rename(tmp_path / "x" / "card.json")
    with pytest.raises(MssegError, match=r"weights\.hash") as caught:
        InitialWeights.match(network(), tmp_path / "x")
    assert caught.value.exit_code == ExitCode.SECURITY
