"""Lesions as connected components of a mask."""

from __future__ import annotations

from typing import Literal

import cc3d
import numpy as np
from numpy.typing import NDArray

Connectivity = Literal[6, 18, 26]


def label_lesions(
    mask: NDArray[np.generic], connectivity: Connectivity = 6
) -> tuple[NDArray[np.uint32], int]:
    """Number the connected components of a mask.

    Args:
        mask: (X, Y, Z), non-zero is lesion.
        connectivity: 6 faces (the official scorer), 18 edges, 26 corners.

    Returns:
        (X, Y, Z) labels, 0 for background and 1..n otherwise, and n. The order of numbers carries
        no meaning.
    """
    binary = np.ascontiguousarray(np.asarray(mask) != 0)
    labels, count = cc3d.connected_components(
        binary, connectivity=connectivity, return_N=True, binary_image=True, out_dtype=np.uint32
    )
    return np.asarray(labels), int(count)
