"""Images of pairs that networks of an earlier stage make, out of fold."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from msseg_lightning.core.files import atomic_write
from msseg_lightning.core.network import on_grid
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.problem import ExitCode, MssegError, Problem

Maps = Callable[[nn.Module, PreparedSubject], NDArray[np.float32]]
"""Makes the image of a pair: (network, prepared pair) -> (X, Y, Z) float32."""

MOST = 200
"""Characters of the name of a folder; file systems allow 255."""

Window = Callable[..., Tensor]
"""``(network, images, inside) -> (1, X, Y, Z)`` with ``level``: e.g. ``SlidingWindow``."""


def probability(
    infer: Window,
    network: nn.Module,
    prepared: PreparedSubject,
    images: NDArray[np.float32],
    inside: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """The probability map of a network, which is told the size of voxels if it asks for it.

    Args:
        infer: slides the network over the images.
        network: of an earlier stage.
        prepared: the pair that the images belong to.
        images: (C, X, Y, Z), the network's channels.
        inside: (X, Y, Z), where it is asked.

    Returns:
        (X, Y, Z) float32 in [0, 1]; 0 everywhere if nothing is inside.
    """
    if not inside.any():
        return np.zeros(inside.shape, np.float32)
    device = next((weight.device for weight in network.parameters()), torch.device("cpu"))
    spacing = prepared.grid.spacing_mm
    answer = on_grid(infer, spacing)(
        on_grid(network, spacing),
        torch.from_numpy(images).to(device),
        torch.from_numpy(inside).to(device),
    )[0].float()
    if getattr(infer, "level", "logit") == "logit":
        answer = answer.sigmoid()
    return answer.clamp(0, 1).cpu().numpy()


@dataclasses.dataclass(frozen=True)
class FittedNetwork:
    """A fitted network of an earlier stage.

    Args:
        network: loads it, frozen.
        key: names its weights.
        model: the folder they lie in.
        patients: whose scans it was trained on; None where that is not recorded (a delivered
            model applied to new pairs).
    """

    network: Callable[[], nn.Module]
    key: str
    model: Path
    patients: frozenset[str] | None


class DerivedImage:
    """Adds one image to prepared pairs.

    A pair gets the mean of the maps of those networks that have not seen its patient: for a
    training pair of a stage fitted out of fold that is one network, for a new pair it is all.

    Args:
        name: of the image.
        maps: makes it.
        sources: the fitted networks.
    """

    def __init__(self, name: str, maps: Maps, sources: Sequence[FittedNetwork]) -> None:
        self.name, self.maps, self.sources = name, maps, tuple(sources)
        self._networks: dict[str, nn.Module] = {}

    def add(self, prepared: PreparedSubject) -> PreparedSubject:
        """Return the pair with the image, which is computed once and stored.

        Raises:
            MssegError: every network was trained on this patient (exit 3).
        """
        chosen = self.allowed(prepared.patient)
        if not chosen:
            raise MssegError(
                Problem(
                    "stage.leak",
                    f"every model of the stage behind {self.name!r} was trained on this patient",
                    file=prepared.id,
                    field="out_of_fold",
                    found=f"{len(self.sources)} model(s)",
                    expected="one that has not seen the patient",
                    remedy="fit the stage out of fold, ++stages.NAME.out_of_fold=4, or give it "
                    "data of other patients",
                    exit_code=ExitCode.DATA,
                )
            )
        key = hashlib.sha256("-".join(source.key for source in chosen).encode()).hexdigest()[:24]
        name = f"{prepared.folder.name}-{self.name}-{key}"
        if len(name) > MOST:  # of several images, one after the other
            name = f"{name[:100]}-{hashlib.sha256(name.encode()).hexdigest()[:24]}"
        folder = prepared.folder.with_name(name)
        try:
            known = PreparedSubject.open(folder)
            known.verify()
            return known
        except MssegError:
            pass
        total = np.zeros(prepared.grid.shape, np.float32)
        with torch.inference_mode():
            for source in chosen:
                total += self.maps(self._network(source), prepared)
        return prepared.with_image(self.name, total / len(chosen), folder)

    def allowed(self, patient: str) -> list[FittedNetwork]:
        """Networks that were not trained on a patient."""
        return [
            source
            for source in self.sources
            if source.patients is None or patient not in source.patients
        ]

    def audit(self, prepared: Sequence[PreparedSubject], file: Path) -> None:
        """Write a table of the networks that made each image and the patients they were trained on.

        Args:
            prepared: the pairs.
            file: a CSV: pair, patient, model, patients it was trained on, saw this patient.
        """
        stream = io.StringIO()
        table = csv.writer(stream)
        table.writerow(["pair", "patient", "model", "trained_on", "saw_this_patient"])
        for pair in prepared:
            for source in self.allowed(pair.patient):
                seen = source.patients or frozenset()
                row = [pair.id, pair.patient, source.key[:12], " ".join(sorted(seen))]
                table.writerow([*row, pair.patient in seen])
        with atomic_write(file) as temporary:
            temporary.write_text(stream.getvalue(), encoding="utf-8")

    def _network(self, source: FittedNetwork) -> nn.Module:
        if source.key not in self._networks:
            self._networks = {source.key: source.network()}  # one in memory at a time
        return self._networks[source.key]
