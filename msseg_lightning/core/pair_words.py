"""Compiled decoding of packed voxels; a module of its own because numba is slow to import."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray


@numba.njit(cache=True, nogil=True)
def unpack_pair(
    words: NDArray[np.uint32],
    zeros: NDArray[np.float32],
    scales: NDArray[np.float32],
    values: NDArray[np.float32],
) -> None:
    """Write ``(bits - zero) * scale`` of the lower 16 and of the next 15 bits.

    Args:
        words: (x, y, z), any strides.
        zeros: (2,) of the two visits.
        scales: (2,) of the two visits.
        values: (2, x, y, z), written.
    """
    for x in range(words.shape[0]):
        for y in range(words.shape[1]):
            for z in range(words.shape[2]):
                word = words[x, y, z]
                first = np.int32(word & np.uint32(0xFFFF))
                second = np.int32((word >> np.uint32(16)) & np.uint32(0x7FFF))
                values[0, x, y, z] = (np.float32(first) - zeros[0]) * scales[0]
                values[1, x, y, z] = (np.float32(second) - zeros[1]) * scales[1]
