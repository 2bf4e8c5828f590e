"""Classification of candidates by windows of one size around them (S03)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from msseg_lightning.core.candidates import Box, middle, window_around
from msseg_lightning.infer.sliding_window import Progress, require, three


class CandidateWindows:
    """A network classifies a window around the middle of each candidate's box.

    Args:
        size: edge of the window in voxels, one for all axes or one per axis.
        batch_size: windows per forward pass.
    """

    def __init__(self, size: int | Sequence[int] = 32, batch_size: int = 32) -> None:
        require(batch_size >= 1, "batch_size", batch_size, "1 or more")
        self.size, self.batch_size = three(size, "size"), batch_size

    def __call__(
        self,
        network: nn.Module,
        images: NDArray[np.float32],
        boxes: Sequence[Box],
        progress: Progress | None = None,
    ) -> NDArray[np.float32]:
        """Probability of each candidate.

        Args:
            network: (B, C, *size) -> logits (B, 1); put into evaluation mode meanwhile.
            images: (C, X, Y, Z).
            boxes: n boxes around the candidates.
            progress: called after every batch.

        Returns:
            (n,) in [0, 1].
        """
        device = next((weight.device for weight in network.parameters()), torch.device("cpu"))
        training = network.training
        network.eval()
        scores = np.zeros(len(boxes), np.float32)
        try:
            with torch.inference_mode():
                for first in range(0, len(boxes), self.batch_size):
                    batch = boxes[first : first + self.batch_size]
                    windows = np.stack([window_around(images, middle(b), self.size) for b in batch])
                    logits = network(torch.from_numpy(windows).to(device))[:, 0]
                    scores[first : first + len(batch)] = logits.float().sigmoid().cpu().numpy()
                    if progress is not None:
                        progress(first + len(batch), len(boxes))
        finally:
            network.train(training)
        return scores
