"""Comparison of the uncertainty of correct and of false lesions of a system.

Reads the held-out predictions of a run: every mark (connected component of a mask) is right where
it shares a voxel with the reference, and its uncertainty is the mean of the map over its voxels.

    msseg simulate COHORT preset=small
    msseg train softseg_attention_mc_dropout size=cpu read.root=COHORT split=file
                split.path=COHORT/split.json
    python -m benchmarks.studies.uncertainty RUN
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.lesion import label_lesions
from msseg_lightning.read.nifti import GateOptions, read_volume
from msseg_lightning.read.reader import read_subjects
from msseg_lightning.run.assemble.system import build_load, instantiate
from msseg_lightning.run.folder import RunFolder
from msseg_lightning.run.predict.prediction_files import uncertainty_file


def marks(
    mask: NDArray[np.generic], reference: NDArray[np.generic], spread: NDArray[np.floating]
) -> tuple[list[float], list[float]]:
    """Mean uncertainty of each correct and of each false lesion."""
    labels, count = label_lesions(mask)
    right, wrong = [], []
    for number in range(1, count + 1):
        inside = labels == number
        kind = right if np.asarray(reference)[inside].any() else wrong
        kind.append(float(spread[inside].mean()))
    return right, wrong


def summary(right: Sequence[float], wrong: Sequence[float]) -> dict[str, Any]:
    """Numbers, means, and how often a false lesion is more uncertain than a correct one."""
    pairs = [(w > r) + 0.5 * (w == r) for w in wrong for r in right]
    return {
        "right marks": len(right),
        "wrong marks": len(wrong),
        "mean uncertainty of right marks": float(np.mean(right)) if right else None,
        "mean uncertainty of wrong marks": float(np.mean(wrong)) if wrong else None,
        "wrong above right, share of pairs": float(np.mean(pairs)) if pairs else None,
    }


def measure(run: RunFolder) -> dict[str, Any]:
    """``summary`` over the held-out pairs of a finished run."""
    config = run.config()
    subjects = {pair.id: pair for pair in read_subjects(instantiate(config["read"]))}
    load = build_load(config)
    right: list[float] = []
    wrong: list[float] = []
    for name in run.split()["test"]:
        file = run.predictions / f"{name}.nii.gz"
        mask = read_volume(file, "mask", GateOptions(largest_mask_fraction=1.0))
        spread = read_volume(uncertainty_file(file), "probability")
        reference = load(subjects[name]).volumes["new_lesions"]
        of_pair = marks(mask.data, reference.data, np.asarray(spread.data, float))
        right += of_pair[0]
        wrong += of_pair[1]
    return summary(right, wrong)


def main() -> None:
    """Print the summary of a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    found = measure(RunFolder(parser.parse_args().run))
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
