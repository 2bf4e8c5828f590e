"""A pair of visits on disk and in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from msseg_lightning.core.subject import (
    BASELINE,
    FOLLOWUP,
    LoadedSubject,
    LongitudinalSubject,
    Native,
)
from msseg_lightning.core.volume import Volume


def loaded(shift=0.0):
    affine = np.eye(4)
    moved = np.eye(4)
    moved[0, 3] = shift
    volumes = {
        BASELINE: Volume(np.zeros((3, 3, 3)), affine),
        FOLLOWUP: Volume(np.zeros((3, 3, 3)), moved),
    }
    subject = LongitudinalSubject("p1", "p1", {BASELINE: Path("b"), FOLLOWUP: Path("f")})
    return LoadedSubject(subject, volumes, Native(volumes[FOLLOWUP].grid, b""))


def test_a_pair_on_one_grid_has_a_grid():
    assert loaded().grid.shape == (3, 3, 3)


def test_a_pair_on_two_grids_has_none():
    with pytest.raises(ValueError, match="register first"):
        _ = loaded(shift=2.0).grid


def test_notes_are_added_and_the_original_stays():
    first = loaded()
    second = first.replace("cropped", to_native=2 * np.eye(4))
    assert second.notes == ("cropped",) and first.notes == ()
    assert second.to_native[0, 0] == 2
