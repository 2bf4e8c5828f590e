"""Storage of weights as safetensors with a JSON card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from msseg_lightning.core.files import (
    DamagedFileError,
    atomic_write,
    read_record,
    sha256_file,
    write_record,
)
from msseg_lightning.core.problem import ExitCode, MssegError, Problem

WEIGHTS_NAME = "weights.safetensors"
CARD_NAME = "card.json"
FORMAT_VERSION = 1
AGAIN = "copy the whole model folder again from where it came from, or train again"


def save_weights(
    network: nn.Module, folder: Path, system: str = "", facts: Mapping[str, Any] | None = None
) -> Path:
    """Write ``weights.safetensors`` and ``card.json`` atomically.

    The weights come first: a card never describes a missing file, and a crash between
    the two leaves a hash that does not fit, which ``load_weights`` refuses.

    Args:
        network: whose state dict is written.
        folder: made if missing.
        system: name of the experiment, kept in the card and compared on loading.
        facts: what else the card should tell, as plain JSON values.

    Raises:
        MssegError: exit 7 if a weight is NaN or infinite: such a network is never saved.
    """
    state = {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
    broken = not_finite(state)
    if broken:
        raise problem(
            "weights.not_finite",
            "The network has weights that are not finite numbers; they are not saved.",
            folder / WEIGHTS_NAME,
            found=", ".join(broken[:5]),
            expected="finite numbers",
            remedy="training diverged: lower the learning rate, go back to the last checkpoint",
            exit_code=ExitCode.NUMERICAL,
        )
    target = folder / WEIGHTS_NAME
    with atomic_write(target) as temporary:
        # clones: tensors that share storage may not be written twice
        save_file({name: tensor.contiguous().clone() for name, tensor in state.items()}, temporary)
    card = {
        **(facts or {}),
        "format": FORMAT_VERSION,
        "system": system,
        "sha256": sha256_file(target),
        "parameters": sum(weight.numel() for weight in network.parameters()),
    }
    write_record(folder / CARD_NAME, card)
    return target


def load_weights(network: nn.Module, folder: Path, system: str = "") -> dict[str, Any]:
    """Load weights into a network; nothing in the files is executed.

    Args:
        network: changed only if every check passes.
        folder: as written by ``save_weights``.
        system: name of the experiment that asks, for the message when weights do not fit.

    Returns:
        The card.

    Raises:
        MssegError: exit 4 for a missing, truncated or malformed file, a newer format, weights of
            another architecture (the first five differing names with shapes), NaN or infinite
            weights; exit 6 if the file is not the one the card describes.
    """
    path = folder / WEIGHTS_NAME
    card = read_card(folder / CARD_NAME)
    if not path.is_file():
        raise problem("weights.missing", "The weights are missing.", path, remedy="train first")
    try:
        # opened first: a truncated file is better called truncated than tampered with
        state = load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise problem(
            "weights.unreadable",
            "The file is not a complete safetensors file.",
            path,
            found=str(error)[:200],
            expected="safetensors",
            remedy="copy it again from where it came from, or train again",
        ) from error
    found = sha256_file(path)
    if found != card["sha256"]:
        raise problem(
            "weights.hash",
            "The weights are not those the model card describes.",
            path,
            field="sha256",
            found=found,
            expected=str(card["sha256"]),
            remedy="get weights and card again from a source you trust",
            exit_code=ExitCode.SECURITY,
        )
    refuse_other_architecture(network, state, path, str(card.get("system", "")), system)
    broken = not_finite(state)
    if broken:
        raise problem(
            "weights.not_finite",
            "The file holds weights that are not finite numbers.",
            path,
            found=", ".join(broken[:5]),
            expected="finite numbers",
            remedy="use an earlier checkpoint",
        )
    network.load_state_dict(state)
    return card


def read_card(path: Path) -> dict[str, Any]:
    """The card as a dictionary with at least ``sha256``."""
    try:
        card = read_record(path)
    except FileNotFoundError:
        raise problem("weights.card", "The model card is missing.", path, remedy=AGAIN) from None
    except (OSError, DamagedFileError) as error:
        raise problem(
            "weights.card",
            "The model card was changed or damaged.",
            path,
            found=str(error)[:200],
            expected="the card as it was written",
            remedy=AGAIN,
        ) from error
    if not isinstance(card.get("sha256"), str):
        raise problem(
            "weights.card", "The model card names no hash.", path, field="sha256", remedy=AGAIN
        )
    version = card.get("format")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise problem(
            "weights.format",
            "The model was written by a newer version.",
            path,
            field="format",
            found=str(version),
            expected=f"{FORMAT_VERSION} or less",
            remedy=f"install a version that reads format {version}",
        )
    return card


def refuse_other_architecture(
    network: nn.Module, state: Mapping[str, Tensor], path: Path, written_by: str, asked_by: str
) -> None:
    """Refuse weights whose names or shapes differ from those of the network."""
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    differing = [
        f"{name}: file {given.get(name, 'nothing')}, network {wanted.get(name, 'nothing')}"
        for name in [*wanted, *(name for name in given if name not in wanted)]
        if wanted.get(name) != given.get(name)
    ]
    if differing:
        names = f" ({written_by or 'unnamed'} -> {asked_by or 'this network'})"
        raise problem(
            "weights.architecture",
            f"The weights belong to another network{names}.",
            path,
            field=f"{len(differing)} weights",
            found="; ".join(differing[:5]),
            expected="the same names and shapes",
            remedy="use the configuration that was saved with the model",
        )


def not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors with a NaN or an infinity."""
    return [name for name, tensor in state.items() if not bool(torch.isfinite(tensor).all())]


def problem(code: str, message: str, path: Path, **details: Any) -> MssegError:
    """An error about a model file, exit 4 unless said otherwise."""
    return MssegError(Problem(code, message, path, **{"exit_code": ExitCode.MODEL, **details}))
