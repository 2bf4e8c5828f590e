"""Weights of an earlier training from which another one starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from msseg_lightning.core.files import sha256_file
from msseg_lightning.core.problem import ExitCode
from msseg_lightning.network.weights import CARD_NAME, WEIGHTS_NAME, problem, read_card


@dataclasses.dataclass(frozen=True)
class InitialWeights:
    """The weights of a trained network whose names and shapes are those of another network.

    Args:
        source: name of the trained system, and the folder of its network if it has several.
        sha256: of the whole file of weights.
        taken: name -> weights that fit.
        left: name of each other weight of the new network -> why it starts anew.
        unused: names of the given weights that the new network has no place for.
    """

    source: str
    sha256: str
    taken: Mapping[str, Tensor]
    left: Mapping[str, str]
    unused: tuple[str, ...]

    @classmethod
    def match(cls, network: nn.Module, folder: Path) -> InitialWeights | None:
        """The best fitting weights below a folder; None where no kernel fits.

        Of several networks, such as members of an ensemble, the one counts of which most weights
        fit; of equals the first by name.

        Raises:
            MssegError: a file is damaged (exit 4) or not the one that its card describes (exit 6).
        """
        found = None
        for file in sorted(folder.rglob(WEIGHTS_NAME)):
            one = cls._of_file(network, file, folder)
            kernels = any(tensor.ndim > 1 for tensor in one.taken.values())  # more than biases
            if kernels and (found is None or one.values > found.values):
                found = one
        return found

    @classmethod
    def _of_file(cls, network: nn.Module, file: Path, folder: Path) -> InitialWeights:
        sha256 = sha256_file(file)
        if (stated := read_card(file.with_name(CARD_NAME))["sha256"]) != sha256:
            raise problem(
                "weights.hash",
                "The weights are not those the model card describes.",
                file,
                field="sha256",
                found=sha256,
                expected=str(stated),
                remedy="get weights and card again from a source you trust",
                exit_code=ExitCode.SECURITY,
            )
        given = load_file(file)
        taken, left = {}, {}
        for name, own in network.state_dict().items():
            if name not in given:
                left[name] = "not in the given weights"
            elif given[name].shape != own.shape:
                left[name] = f"{_shape(given[name])} given, {_shape(own)} here"
            elif not bool(torch.isfinite(given[name]).all()):
                left[name] = "not finite"
            else:
                taken[name] = given[name]
        place = file.parent.relative_to(folder).as_posix()
        source = folder.name if place == "." else f"{folder.name}/{place}"
        unused = tuple(name for name in sorted(given) if name not in network.state_dict())
        return cls(source, sha256, taken, left, unused)

    @property
    def values(self) -> int:
        """Number of weights that are taken, counted one by one."""
        return sum(tensor.numel() for tensor in self.taken.values())

    def load_into(self, network: nn.Module) -> None:
        """Copy the weights that fit; the others stay as they are."""
        network.load_state_dict(dict(self.taken), strict=False)
        own = network.state_dict()
        wrong = [name for name, given in self.taken.items() if not own[name].cpu().equal(given)]
        assert not wrong, f"the fit would not start from the given weights: {wrong[:5]}"

    def record(self) -> dict[str, Any]:
        """What was taken and what not, as JSON values."""
        return {
            "source": self.source,
            "sha256": self.sha256,
            "taken": len(self.taken),
            "taken_values": self.values,
            "taken_names": list(self.taken),
            "left": dict(self.left),
            "unused": list(self.unused),
        }

    def __str__(self) -> str:
        total = len(self.taken) + len(self.left)
        text = (
            f"starts from {self.source} ({self.sha256[:12]}): {len(self.taken)} of {total} tensors "
            f"taken, {self.values} values"
        )
        if self.left:
            text += f"; new: {_listed([f'{name} ({why})' for name, why in self.left.items()])}"
        if self.unused:
            text += f"; not used: {_listed(list(self.unused))}"
        return text


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "one value"


def _listed(names: list[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
