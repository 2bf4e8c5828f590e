"""A lopsided pair: every corner of the brain tells which side it is."""

import numpy as np

from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.volume import Volume
from msseg_lightning.evaluate.score import score_case
from msseg_lightning.report.picture import CaseVolumes

RAS = np.diag([2.0, 2.0, 3.0, 1.0])
LPS = np.array([[-2.0, 0, 0, 90], [0, -2, 0, 80], [0, 0, 3, -40], [0, 0, 0, 1]])
# sagittal acquisition: array axes are A, S, L
ASL = np.array([[0.0, 0, -3, 60], [2, 0, 0, -50], [0, 2, 0, -70], [0, 0, 0, 1]])


def oblique(degrees=20.0):
    turn = np.radians(degrees)
    rotation = np.array(
        [[1, 0, 0], [0, np.cos(turn), -np.sin(turn)], [0, np.sin(turn), np.cos(turn)]]
    )
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([-1.0, 1.0, 3.0])
    return affine


def pair(affine=RAS, shape=(40, 44, 30), brain=True):
    """A found, a missed and a false lesion of 3 x 3 x 3 voxels each in a box-shaped brain."""
    generator = keyed_generator(0, "test.phantom")
    inside = np.zeros(shape, bool)
    inside[4:-4, 4:-4, 3:-3] = True
    baseline = generator.normal(100, 4, shape).astype(np.float32)
    baseline[~inside] = 300  # a bright face that must not be seen
    followup = 1.5 * baseline + 20
    reference, prediction = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    found, missed, false = (
        np.s_[8:11, 8:11, 8:11],
        np.s_[20:23, 20:23, 10:13],
        np.s_[30:33, 30:33, 20:23],
    )
    for place in (found, missed):
        reference[place] = 1
        followup[place] += 80
    for place in (found, false):
        prediction[place] = 1
    volumes = CaseVolumes(
        baseline=Volume(baseline, affine),
        followup=Volume(followup, affine),
        prediction=Volume(prediction, affine, "mask"),
        reference=Volume(reference, affine, "mask"),
        probability=Volume(prediction.astype(np.float32) * 0.9, affine, "probability"),
        brain=Volume(inside.astype(np.uint8), affine, "mask") if brain else None,
    )
    return volumes, score_case(prediction, reference, volumes.followup.spacing_mm)
