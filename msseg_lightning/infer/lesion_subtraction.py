"""Lesions of each visit alone, of which those that were there before are taken away (S06)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from msseg_lightning.core.lesion import Connectivity, label_lesions
from msseg_lightning.infer.aggregate import Window, times
from msseg_lightning.infer.sliding_window import require

NEIGHBOURS = {6: 1, 18: 2, 26: 3}
"""Connectivity -> rank of scipy's structuring element."""

ROUNDING = 1e-6
"""Relative tolerance of volumes, for rounding in headers."""


class LesionSubtraction:
    """Probability of lesions of the later visit that the earlier one does not have.

    One network of single scans is called on each visit alone. Both maps are cut, components that
    are too small are removed from both, and lesions of the later visit that the earlier one has
    already are removed:

    - ``components``: a component that shares a voxel with the earlier lesions, grown by
      ``dilation_voxels``, is removed as a whole; a lesion that grew is an old one.
    - ``voxels``: voxels of the earlier lesions, grown likewise, are removed; what grew stays.

    The answer is the later map within what is left and one voxel around it, 0 elsewhere.

    Args:
        window: slides the network over one scan.
        smallest_mm3: volume of the smallest component kept before the subtraction.
        dilation_voxels: growth of the earlier lesions, 0 or more.
        rule: ``components`` or ``voxels``.
        threshold: on the probability.
        connectivity: what is one lesion, and what is grown: by 6 faces, 18 edges or 26 corners.

    Attributes:
        level: ``probability``.
        spacing_mm: of the voxels; see ``on_grid``.

    Reference:
        S06, MSSEG-2 challenge proceedings, MICCAI 2021.
    """

    level: Literal["probability"] = "probability"

    def __init__(
        self,
        window: Window,
        smallest_mm3: float = 10.0,
        dilation_voxels: int = 1,
        rule: Literal["components", "voxels"] = "components",
        threshold: float = 0.5,
        connectivity: Connectivity = 26,
    ) -> None:
        require(smallest_mm3 >= 0, "smallest_mm3", smallest_mm3, "0 or more")
        require(dilation_voxels >= 0, "dilation_voxels", dilation_voxels, "0 or more")
        require(rule in ("components", "voxels"), "rule", rule, "components, voxels")
        require(0 <= threshold < 1, "threshold", threshold, "0 or more, below 1")
        require(connectivity in NEIGHBOURS, "connectivity", connectivity, "6, 18 or 26")
        self.window, self.smallest_mm3, self.threshold = window, smallest_mm3, threshold
        self.dilation_voxels, self.rule, self.connectivity = dilation_voxels, rule, connectivity
        self.spacing_mm = (1.0, 1.0, 1.0)

    def on_grid(self, spacing_mm: tuple[float, float, float]) -> Self:
        """The same rule for voxels of this size."""
        other = copy.copy(self)
        other.spacing_mm = spacing_mm
        return other

    def __call__(
        self,
        network: nn.Module,
        images: Tensor,
        inside: Tensor | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Predict one pair.

        Args:
            network: (B, 1, X, Y, Z) -> logits (B, 1, X, Y, Z).
            images: (2, X, Y, Z), the earlier visit first.
            inside: (X, Y, Z) bool, where an answer is wanted; None is everywhere.
            progress: called with (windows done, windows in all).

        Returns:
            (1, X, Y, Z) float32 probabilities.
        """
        if images.ndim != 4 or len(images) != 2:
            raise ValueError(f"images {tuple(images.shape)} are not (2, X, Y, Z)")
        told = times(progress, 2)
        earlier, later = (
            self._probability(network, images[visit : visit + 1], inside, told) for visit in (0, 1)
        )
        masks = [(map_ > self.threshold).cpu().numpy()[0] for map_ in (earlier, later)]
        kept = torch.from_numpy(self.around_new(*masks)).to(later.device)
        return torch.where(kept, later, 0.0)

    def around_new(self, earlier: NDArray[np.bool_], later: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Where the later map is kept: its new lesions and one voxel around them.

        Args:
            earlier: (X, Y, Z), all lesions of the earlier visit.
            later: (X, Y, Z), all of the later one.
        """
        earlier, later = self.large(earlier), self.large(later)
        structure = ndimage.generate_binary_structure(3, NEIGHBOURS[self.connectivity])
        old = earlier
        if self.dilation_voxels:
            old = ndimage.binary_dilation(earlier, structure, self.dilation_voxels)
        removed = later & old
        if self.rule == "components":
            labels, count = label_lesions(later, self.connectivity)
            seen = np.zeros(count + 1, bool)
            seen[labels[removed]] = True
            removed = seen[labels]
        around = ndimage.binary_dilation(later & ~removed, ndimage.generate_binary_structure(3, 3))
        return np.asarray(around & ~removed)

    def large(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The components of a mask of at least ``smallest_mm3``."""
        labels, _ = label_lesions(mask, self.connectivity)
        volumes = np.bincount(labels.ravel()) * math.prod(self.spacing_mm)
        keep = volumes >= self.smallest_mm3 * (1 - ROUNDING)
        keep[0] = False
        return np.asarray(keep[labels])

    def _probability(
        self,
        network: nn.Module,
        scan: Tensor,
        inside: Tensor | None,
        progress: Callable[[int, int], None] | None,
    ) -> Tensor:
        """(1, X, Y, Z) of one visit; 0 where it is 0 everywhere."""
        seen = scan[0] != 0
        seen = seen if inside is None else seen & inside
        if not seen.any():
            return torch.zeros_like(scan, dtype=torch.float32)
        answer = self.window(network, scan, seen, progress)[:1].float()
        if getattr(self.window, "level", "logit") == "logit":
            answer = answer.sigmoid()
        return answer.clamp(0, 1)
