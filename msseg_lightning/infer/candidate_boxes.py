"""Prediction of candidate boxes by a network that takes any size (S22)."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from msseg_lightning.core.candidates import CANDIDATES, Candidates, merge_nearest_centre
from msseg_lightning.core.lesion import Connectivity
from msseg_lightning.infer.sliding_window import Progress


class CandidateBoxes:
    """A network judges the box of each candidate; of overlapping boxes the nearest centre counts.

    Args:
        margin: voxels by which the box around a candidate is wider on every side.
        connectivity: what is one candidate.
        region: the mask of the prepared pair whose components are the candidates.
    """

    level: Literal["logit", "probability"] = "probability"

    def __init__(
        self, margin: int = 2, connectivity: Connectivity = 26, region: str = CANDIDATES
    ) -> None:
        self.margin, self.region = margin, region
        self.connectivity: Connectivity = connectivity

    def __call__(
        self,
        network: nn.Module,
        images: Tensor,
        inside: Tensor,
        progress: Progress | None = None,
    ) -> Tensor:
        """Probabilities of a volume; 0 in no box.

        Args:
            network: (1, C, x, y, z) -> logits (1, 1, x, y, z), any size.
            images: (C, X, Y, Z).
            inside: (X, Y, Z) bool, the candidates.
            progress: called after every box.

        Returns:
            (1, X, Y, Z) float32.
        """
        mask = inside.cpu().numpy()
        candidates = Candidates.of(mask, (1.0, 1.0, 1.0), self.connectivity, self.margin)
        device = next((p.device for p in network.parameters()), images.device)
        training = network.training
        network.eval()
        values = []
        try:
            with torch.inference_mode():
                for number, box in enumerate(candidates.boxes, start=1):
                    logits = network(images[(None, slice(None), *box)].to(device))
                    values.append(logits[0, 0].float().sigmoid().cpu().numpy())
                    if progress is not None:
                        progress(number, len(candidates))
        finally:
            network.train(training)
        x, y, z = mask.shape
        merged = merge_nearest_centre((x, y, z), candidates.boxes, values)
        return torch.from_numpy(np.asarray(merged)[None]).to(images.device)
