"""Cohorts that several tests read; made once per session and never changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from msseg_lightning.run.simulate import load_recipe
from msseg_lightning.simulate.cohort import write_cohort


@pytest.fixture(scope="session")
def tiny_cohort(tmp_path_factory) -> Path:
    """Two patients to train and two to test, of each kind one without new lesions; 3 mm."""
    return write_cohort(
        tmp_path_factory.mktemp("cohort") / "tiny", load_recipe("tiny"), seed=0, progress=False
    )


@pytest.fixture(scope="session")
def open_ms() -> Path:
    """Real scans, read in place; skips where they are not at hand."""
    shared = Path(os.environ.get("MSSEG_SHARED", Path(__file__).parents[2] / "shared"))
    folder = shared / "data" / "open_ms"
    if not folder.is_dir():
        pytest.skip("the public open_ms scans are not beside the checkout (set MSSEG_SHARED)")
    return folder
