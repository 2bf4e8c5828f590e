"""Cohorts that several tests read; made once per session and never changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from msseg_lightning.run.data.simulate import load_recipe
from msseg_lightning.simulate.cohort import write_cohort


def pytest_xdist_make_scheduler(config, log):
    """A file's tests stay in one process, but each experiment goes to whichever is free."""
    from xdist.scheduler import LoadFileScheduling

    class ByFileAndExperiment(LoadFileScheduling):
        def _split_scope(self, nodeid):
            alone = "test_experiments.py" in nodeid
            return nodeid if alone else super()._split_scope(nodeid)

    return ByFileAndExperiment(config, log)


@pytest.fixture(scope="session", autouse=True)
def few_lesions_drawn():
    """Tiny systems mark noise by the hundred: a report draws six lesions, not sixty.

    Tests of the report itself draw all, see ``tests/report/conftest.py``.
    """
    from msseg_lightning.report import run_page

    every = run_page.select
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_page, "select", lambda findings, limit: every(findings, min(limit, 6)))
        yield every


@pytest.fixture(scope="session")
def tiny_cohort(tmp_path_factory) -> Path:
    """Two patients to train and two to test, of each kind one without new lesions; 3 mm."""
    return write_cohort(tmp_path_factory.mktemp("cohort") / "tiny", load_recipe("tiny"), seed=0)


@pytest.fixture(scope="session")
def coarse_cohort(tmp_path_factory) -> Path:
    """The same patients in voxels of 6 mm: for what is about files and processes, not scores."""
    recipe = load_recipe("tiny", ["spacing_floor_mm=6.0", "sampling_mm=3.0"])
    return write_cohort(tmp_path_factory.mktemp("cohort") / "coarse", recipe, seed=0)


@pytest.fixture(scope="session")
def open_ms() -> Path:
    """Real scans, read in place; skips where they are not at hand."""
    shared = Path(os.environ.get("MSSEG_SHARED", Path(__file__).parents[2] / "shared"))
    folder = shared / "data" / "open_ms"
    if not folder.is_dir():
        pytest.skip("the public open_ms scans are not beside the checkout (set MSSEG_SHARED)")
    return folder


@pytest.fixture(scope="session")
def trained_run(tiny_cohort, tmp_path_factory) -> Path:
    """A finished run of a tiny pre_unet on the tiny cohort, made by the real command."""
    from msseg_lightning.cli.main import main

    place = tmp_path_factory.mktemp("trained")
    before = Path.cwd()
    os.chdir(place)
    try:
        assert main(["train", "pre_unet", *tiny_words(tiny_cohort), "track=off"]) == 0
    finally:
        os.chdir(before)
    (run,) = (place / "runs" / "pre_unet").iterdir()
    return run


def tiny_words(cohort: Path) -> list[str]:
    """Overrides that make any network experiment take seconds on the tiny cohort."""
    return [
        f"read.root={cohort}",
        "split=file",
        f"split.path={cohort / 'split.json'}",
        "size=tiny",
        "data.workers=1",
    ]
