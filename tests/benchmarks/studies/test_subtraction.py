"""The table of bright and faint lesions, worked by hand."""

from __future__ import annotations

import numpy as np

from benchmarks.studies.subtraction import drawn_contrasts, rises, table
from benchmarks.studies.transfer import Reference
from msseg_lightning.core.subject import (
    BASELINE,
    BRAIN,
    FOLLOWUP,
    TARGET,
    LoadedSubject,
    LongitudinalSubject,
    Native,
)
from msseg_lightning.core.volume import Grid, Volume


def loaded():
    """White matter of 100 and 200, a lesion of 27 and one of 8 mm3, centres 21 and 10 mm."""
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[:3, 3] = (-10, 0, 0)
    brain = np.zeros((40, 40, 40), np.uint8)
    brain[2:38, 2:38, 2:38] = 1
    target = np.zeros_like(brain)
    target[20:23, 20:23, 20:23] = 1
    target[10:12, 10:12, 10:12] = 1
    generator = np.random.default_rng(0)
    baseline = 100 + generator.normal(0, 1, brain.shape)
    followup = 200 + generator.normal(0, 1, brain.shape)
    followup[20:23, 20:23, 20:23] = 300
    followup[10:12, 10:12, 10:12] = 240
    volumes = {
        BASELINE: Volume(baseline.astype(np.float32), affine),
        FOLLOWUP: Volume(followup.astype(np.float32), affine),
        BRAIN: Volume(brain, affine, "mask"),
        TARGET: Volume(target, affine, "mask"),
    }
    subject = LongitudinalSubject(id="a", patient="a", images={})
    return LoadedSubject(subject, volumes, Native(Grid(brain.shape, affine), b""))


def test_lesions_keep_the_order_of_the_match_and_their_rise():
    pair = loaded()
    reference = Reference.of(pair, rivals=False)
    labels = reference.labels()
    assert np.bincount(labels.ravel())[1:].tolist() == [27, 8]
    np.testing.assert_allclose(rises(pair, reference), [0.5, 0.2], atol=0.03)


def test_a_lesion_takes_the_contrast_of_the_nearest_new_one():
    place = {"fate": "new", "y_mm": "21.5", "z_mm": "20"}
    rows = [
        {**place, "x_mm": "10", "contrast_time02": "1.4"},
        {**place, "x_mm": "11", "contrast_time02": "1.6", "fate": "stable"},
        {**place, "x_mm": "60", "contrast_time02": "1.9"},
    ]
    pair = loaded()
    found = drawn_contrasts(rows, pair, Reference.of(pair, rivals=False))
    assert found[0] == 1.4
    assert np.isnan(found[1])  # nothing was drawn within reach


def test_table_splits_at_the_median():
    pairs = [
        {"rise": [0.1, 0.4], "detected": [False, True], "touched": [True, True], "false": 10},
        {"rise": [0.2, 0.3], "detected": [False, False], "touched": [False, True], "false": 20},
    ]
    text = table({"some": (pairs, "rise")})
    assert "| some (2) | rise above 0.25 | 2 | 1 (0.50) | 2 (1.00) | 15 |" in text
    assert "| some (2) | rise up to 0.25 | 2 | 0 (0.00) | 1 (0.50) | 15 |" in text
