"""A system that is not fitted and marks known lesions, for what follows a prediction."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from msseg_lightning.cli.main import main
from msseg_lightning.core.prediction import Prediction
from msseg_lightning.core.subject import Native
from msseg_lightning.method.network_method import NetworkMethod
from msseg_lightning.read.nifti import read_volume
from msseg_lightning.read.reference import read_reference
from msseg_lightning.run.train import run_report


def foreseen(self, subject):
    """True lesions with 0.9, every third with 0.4, and in every pair a false one with 0.6.

    It stands for ``NetworkMethod.predict``. A pair without a reference has one lesion of 0.9.
    """
    followup = subject.images["followup_flair"]
    grid = read_volume(followup).grid
    x, y, z = grid.shape
    probability = np.full(grid.shape, 0.01, np.float32)
    if subject.labelled:
        labels, count = ndimage.label(read_reference(subject).data)
        for label in range(1, count + 1):
            probability[labels == label] = 0.9 if label % 3 else 0.4
    else:
        probability[x // 2, y // 2, z // 2] = 0.9
    probability[x // 2 : x // 2 + 2, y // 2, 0:2] = 0.6
    native = Native(grid, nib.load(followup).header.binaryblock)
    prediction = Prediction(subject.id, np.zeros(grid.shape, np.uint8), native, probability)
    for rule in self.postprocess:
        prediction = rule(prediction)
    return prediction


def fold_words(cohort):
    """The command of its folds, without the fold."""
    return [
        *("oversampled_unet", f"read.root={cohort}", "size=tiny", "data.workers=1", "track=off"),
        *("split=kfold", "split.folds=2", "split.validation=0.5"),
    ]


def train_foreseen(cohort, place):
    """Two folds, without reports."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(NetworkMethod, "fit", lambda *_: None)
        patch.setattr(NetworkMethod, "predict", foreseen)
        patch.setattr(run_report, "build_report", lambda *_: None)
        assert main(["train", *fold_words(cohort), "fold=all"]) == 0
