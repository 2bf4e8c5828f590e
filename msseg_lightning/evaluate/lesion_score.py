"""Score of every predicted lesion, in the order of the scores of a case."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.evaluate.foreground_runs import describe_components, find_runs


def scores_by_size(
    mask: NDArray[np.generic],
    probability: NDArray[np.floating],
    reference: NDArray[np.generic],
    measure: Literal["mean", "max"] = "mean",
) -> NDArray[np.float64]:
    """(n,) mean or largest probability of the lesions of ``CaseScore.predicted_lesions``.

    Args:
        mask: (X, Y, Z) that was scored.
        probability: (X, Y, Z) in [0, 1].
        reference: (X, Y, Z) that it was scored with; equal sizes are ordered by its layout.
        measure: of the voxels of a lesion.
    """
    runs = find_runs(mask, x_fastest=find_runs(reference).x_fastest)
    components = describe_components(runs)
    values = np.asarray(probability).reshape(-1, order="F" if runs.x_fastest else "C")
    parts = [values[start:stop] for start, stop in zip(runs.start, runs.stop, strict=True)]
    inside = np.concatenate([*parts, np.zeros(0, values.dtype)]).astype(np.float64)
    owner = np.repeat(components.of_run, runs.stop - runs.start)
    count = len(components.voxels)
    if measure == "max":
        largest = np.zeros(count)
        np.maximum.at(largest, owner, inside)
        return largest
    return np.bincount(owner, weights=inside, minlength=count) / np.maximum(components.voxels, 1)
