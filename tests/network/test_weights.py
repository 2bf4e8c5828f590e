import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from msseg_lightning.core.files import sha256_file, write_record
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.network.weights import load_weights, save_weights


def network(channels=2, width=3):
    return nn.Sequential(nn.Conv3d(channels, width, 3), nn.BatchNorm3d(width))


def refused(folder, model=None, **settings):
    model = model or network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(MssegError) as caught:
        load_weights(model, folder, **settings)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), "a refused file must not change the network"
    return caught.value


def rewrite_hash(folder):
    card = json.loads((folder / "card.json").read_text())
    card["sha256"] = sha256_file(folder / "weights.safetensors")
    write_record(folder / "card.json", card)


def test_round_trip_is_exact(tmp_path):
    first, second = network(), network()
    path = save_weights(first, tmp_path / "model", "pre_unet", {"seed": 3})
    card = load_weights(second, tmp_path / "model")
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])
    assert card["system"] == "pre_unet" and card["seed"] == 3
    assert card["sha256"] == sha256_file(path)
    assert card["parameters"] == 2 * 3 * 27 + 3 + 6  # 171
    assert sorted(p.name for p in path.parent.iterdir()) == ["card.json", "weights.safetensors"]


def test_other_architecture_names_both_and_five_keys(tmp_path):
    """K01"""
    save_weights(network(), tmp_path, "pre_unet")
    other = nn.Sequential(*(nn.Linear(2, 2) for _ in range(4)))
    error = refused(tmp_path, other, system="segresnet_shallow")
    assert error.exit_code == ExitCode.MODEL
    assert "pre_unet -> segresnet_shallow" in str(error)
    assert error.problems[0].found.count("; ") == 4  # five entries
    assert "0.weight: file (3, 2, 3, 3, 3), network (2, 2)" in str(error)
    assert error.problems[0].field == "11 weights"  # 8 wanted, 3 more in the file


def test_other_number_of_inputs(tmp_path):
    """K02"""
    save_weights(network(channels=2), tmp_path)
    error = refused(tmp_path, network(channels=4))
    assert error.exit_code == ExitCode.MODEL
    assert "0.weight: file (3, 2, 3, 3, 3), network (3, 4, 3, 3, 3)" in str(error)


def test_changed_file_is_a_security_matter(tmp_path):
    """K06"""
    path = save_weights(network(), tmp_path)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    error = refused(tmp_path)
    assert error.exit_code == ExitCode.SECURITY and error.problems[0].field == "sha256"


def test_nan_is_refused_on_both_ways(tmp_path):
    """K07"""
    model = network()
    save_weights(model, tmp_path)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["0.bias"][1] = float("nan")
    save_file(state, tmp_path / "weights.safetensors")
    rewrite_hash(tmp_path)
    error = refused(tmp_path)
    assert error.exit_code == ExitCode.MODEL and "0.bias" in str(error)
    model.load_state_dict(state)
    with pytest.raises(MssegError, match=r"0\.bias") as caught:
        save_weights(model, tmp_path / "new")
    assert caught.value.exit_code == ExitCode.NUMERICAL
    assert not (tmp_path / "new").exists()


def test_newer_format(tmp_path):
    """K08"""
    save_weights(network(), tmp_path)
    card = json.loads((tmp_path / "card.json").read_text())
    write_record(tmp_path / "card.json", {**card, "format": 99})
    error = refused(tmp_path)
    assert error.exit_code == ExitCode.MODEL and "reads format 99" in str(error)


@pytest.mark.parametrize("damage", ["half", "empty", "huge header", "no safetensors"])
def test_damaged_file(tmp_path, damage):
    """K10 and truncation; the hash is made to fit so that the reader itself must notice."""
    path = save_weights(network(), tmp_path)
    content = path.read_bytes()
    path.write_bytes(
        {
            "half": content[: len(content) // 2],
            "empty": b"",
            "huge header": (200 * 2**20).to_bytes(8, "little") + content[8:],
            "no safetensors": b"PK\x03\x04" + b"x" * 200,
        }[damage]
    )
    assert refused(tmp_path).exit_code == ExitCode.MODEL  # with the hash still of the whole file
    rewrite_hash(tmp_path)
    error = refused(tmp_path)
    assert error.exit_code == ExitCode.MODEL and "weights.safetensors" in str(error)


@pytest.mark.parametrize("card", [None, "{", "[]", '{"format": 1}'])
def test_missing_or_broken_card(tmp_path, card):
    save_weights(network(), tmp_path)
    (tmp_path / "card.json").unlink()
    if card is not None:
        (tmp_path / "card.json").write_text(card)
    error = refused(tmp_path)
    assert error.exit_code == ExitCode.MODEL and "card.json" in str(error)


def test_missing_weights(tmp_path):
    save_weights(network(), tmp_path).unlink()
    assert refused(tmp_path).exit_code == ExitCode.MODEL


def test_shared_weights_survive(tmp_path):
    shared = nn.Linear(2, 2)
    save_weights(nn.Sequential(shared, shared), tmp_path)
    load_weights(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), tmp_path)
