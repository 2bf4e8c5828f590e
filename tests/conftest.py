"""Cohorts that several tests read; made once per session and never changed."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import multiprocessing
import multiprocessing.context
import os
import pickle
import re
import shutil
import sqlite3
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pytest
import torch
from filelock import FileLock
from scipy import ndimage

from msseg_lightning.core.files import atomic_write
from msseg_lightning.run.data.simulate import load_recipe
from msseg_lightning.simulate.cohort import write_cohort
from msseg_lightning.simulate.warp import exponential, random_velocity


def pytest_xdist_make_scheduler(config, log):
    """A file's tests stay in one process, but each experiment goes to whichever is free."""
    from xdist.scheduler import LoadFileScheduling

    class ByFileAndExperiment(LoadFileScheduling):
        def _split_scope(self, nodeid):
            alone = "test_experiments.py" in nodeid
            return nodeid if alone else super()._split_scope(nodeid)

    return ByFileAndExperiment(config, log)


RELIABILITY = Path(__file__).parents[1] / "docs" / "reliability.md"


def reliability_tests() -> dict[str, list[str]]:
    """Item of the catalogue -> the tests that the page on reliability names for it."""
    rows = re.findall(
        r"^\| ([CDKRF]\d\d|attack [A-I]) \|(.*)$",
        RELIABILITY.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    return {item: re.findall(r"`(tests/[\w/.]+::test_\w+)`", row) for item, row in rows}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """The markers ``badinput`` and ``faults`` are those of the page on reliability."""
    markers: dict[str, set[str]] = {"tests/read/test_gate.py::test_row": {"badinput"}}
    for item, tests in reliability_tests().items():
        for test in tests:
            if not item.startswith("attack"):
                kind = "faults" if item.startswith("F") else "badinput"
                markers.setdefault(test, set()).add(kind)
    for item in items:
        for marker in sorted(markers.get(item.nodeid.partition("[")[0], ())):
            item.add_marker(marker)


@pytest.fixture(scope="session", autouse=True)
def few_lesions_drawn():
    """Tiny systems mark noise by the hundred: a report draws two lesions, not sixty.

    Tests of the report itself draw all, see ``tests/report/conftest.py``.
    """
    from msseg_lightning.report import run_page

    every = run_page.select
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_page, "select", lambda findings, limit: every(findings, min(limit, 2)))
        yield every


@pytest.fixture(scope="session", autouse=True)
def registered_once():
    """The template is registered once per process to a scan that many systems prepare."""
    from msseg_lightning.preprocess import atlas, brain

    register, known = atlas.affine_from_atlas, {}

    def remembered(scan, *levels_mm):
        data = np.ascontiguousarray(scan.data)
        content = hashlib.sha256(data.tobytes() + np.asarray(scan.affine).tobytes()).hexdigest()
        key = (content, data.dtype, data.shape, levels_mm)
        if key not in known:
            known[key] = register(scan, *levels_mm)
        return known[key].copy()

    with pytest.MonkeyPatch.context() as patch:
        for module in (atlas, brain):
            patch.setattr(module, "affine_from_atlas", remembered)
        yield


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    """A folder that one process of the session makes; the others wait for it and read it."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def folder(name: str, make: Callable[[Path], object]) -> Path:
        place, done = base / "shared" / name, base / f"{name}.done"
        place.mkdir(parents=True, exist_ok=True)
        with FileLock(base / f"{name}.lock"):
            if not done.exists():
                make(place)
                done.touch()
        return place

    return folder


@pytest.fixture(scope="session", autouse=True)
def stores_are_copies(made_once):
    """MLflow's migrations take seconds: one store is created, the others are copies of it.

    Tests of the creation itself use what this yields, see ``tests/track/conftest.py``.
    """
    from msseg_lightning.track import store

    create = store._create

    def copy(database: Path) -> None:
        template = made_once("store", lambda place: create(place / store.DATABASE))
        fresh = database.with_name(f".new-{store.DATABASE}")
        shutil.copy(template / store.DATABASE, fresh)
        place = f"{(database.parent / store.ARTIFACTS).as_uri()}/0"  # of experiment 0, "Default"
        with contextlib.closing(sqlite3.connect(fresh)) as content, content:
            content.execute("update experiments set artifact_location = ?", (place,))
        fresh.rename(database)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_create", copy)
        yield create


@pytest.fixture(scope="session", autouse=True)
def composed_once(made_once):
    """A choice of presets of this package takes Hydra 0.2 s: one process composes it for all."""
    from msseg_lightning.run.config import compose, preset_files

    hydra, place = compose._composed, made_once("compositions", lambda place: None)
    own = preset_files.root(), preset_files.conf_dir()

    @functools.lru_cache(maxsize=128)
    def composed(words, source):
        if source.stamps or (source.search, source.folder) != own:  # other files, which may change
            return hydra(words, source)
        file = place / f"{hashlib.sha256(repr(words).encode()).hexdigest()}.pickle"
        if not file.exists():
            with atomic_write(file) as temporary:
                temporary.write_bytes(pickle.dumps(hydra(words, source)))
        return pickle.loads(file.read_bytes())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compose, "_composed", composed)
        yield


@pytest.fixture(scope="session")
def forking() -> multiprocessing.context.ForkServerContext:
    """Starts processes by forking one that has imported the package, which takes seconds once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "pytest",
            "lightning.pytorch",
            "msseg_lightning.method.staged",
            "msseg_lightning.run.sweep.worker",
            "msseg_lightning.run.train.experiment",
            "msseg_lightning.train.training",
        ]
    )
    return context


def run_command(words: Sequence[str], folder: Path) -> None:
    """Ends a process of ``forking`` with the exit code of the command, given in a folder."""
    from msseg_lightning.cli.main import main

    os.chdir(folder)
    sys.exit(main(words))


@pytest.fixture(scope="module", autouse=True)
def checkout_stays_clean():
    """Tests write to folders of their own: runs and caches in the checkout would pile up."""
    yield
    left = sorted(written_in_checkout() - THERE_BEFORE)
    assert not left, f"a test left {', '.join(left)} in the checkout: use tmp_path"


def written_in_checkout() -> set[str]:
    """Of the places where commands write by default those that are in the checkout."""
    checkout = Path(__file__).parents[1]
    places = ("cache", "cohorts", "demo", "mlruns/mlflow.db", "runs", "sweeps")
    return {name for name in places if (checkout / name).exists()}


THERE_BEFORE = written_in_checkout()


@pytest.fixture(scope="session")
def tiny_cohort(made_once) -> Path:
    """Two patients to train and two to test, of each kind one without new lesions; 3 mm."""
    return made_once(
        "tiny_cohort", lambda place: write_cohort(place / "tiny", load_recipe("tiny"), seed=0)
    ).joinpath("tiny")


@pytest.fixture(scope="session")
def coarse_cohort(made_once) -> Path:
    """The same patients in voxels of 6 mm: for what is about files and processes, not scores."""
    recipe = load_recipe("tiny", ["spacing_floor_mm=6.0", "sampling_mm=3.0"])
    return made_once(
        "coarse_cohort", lambda place: write_cohort(place / "coarse", recipe, seed=0)
    ).joinpath("coarse")


class Deformed(NamedTuple):
    """A simulated scan before and after a known deformation, in voxels of 6 mm.

    Args:
        baseline: (1, 1, X, Y, Z), 0 to 1.
        followup: the same scan sampled at ``x + field(x)``, with noise.
        field: (1, 3, X, Y, Z) in voxels.
        brain: (1, X, Y, Z).
    """

    baseline: torch.Tensor
    followup: torch.Tensor
    field: torch.Tensor
    brain: torch.Tensor


@pytest.fixture(scope="session")
def deformed(coarse_cohort) -> Deformed:
    """Most of a simulated brain, deformed by the simulator; for networks that register."""
    from msseg_lightning.network.registration import SpatialTransformer

    folder = coarse_cohort / "001"
    scan = nib.load(folder / "flair_time01_on_middle_space.nii.gz").get_fdata(dtype=np.float32)
    brain = np.asarray(nib.load(folder / "brain_mask.nii.gz").dataobj) > 0
    scan /= np.percentile(scan, 99.5)
    # from the simulator's lattice of 4 mm to the scan's voxels of 6 mm
    field = exponential(random_velocity(np.random.default_rng(1), smooth_mm=20.0, rms_mm=5.0))
    field = np.stack([ndimage.zoom(field[..., axis], 4 / 6, order=1) for axis in range(3)]) / 6
    field = torch.from_numpy(field)[None, :, : scan.shape[0], : scan.shape[1], : scan.shape[2]]
    baseline = torch.from_numpy(scan)[None, None]
    followup = SpatialTransformer()(baseline, field)
    noise = torch.Generator().manual_seed(0)
    noisy = followup + 0.01 * torch.randn(followup.shape, generator=noise)
    middle = (..., slice(4, 28), slice(2, 26), slice(4, 20))
    return Deformed(
        baseline[middle], noisy[middle], field[middle], torch.from_numpy(brain)[None][middle]
    )


@pytest.fixture(scope="session")
def open_ms() -> Path:
    """Real scans, read in place; skips where they are not at hand."""
    shared = Path(os.environ.get("MSSEG_SHARED", Path(__file__).parents[2] / "shared"))
    folder = shared / "data" / "open_ms"
    if not folder.is_dir():
        pytest.skip("the public open_ms scans are not beside the checkout (set MSSEG_SHARED)")
    return folder


@pytest.fixture(scope="session")
def trained_run(tiny_cohort, made_once) -> Path:
    """A finished run of a tiny pre_unet on the tiny cohort, made by the real command."""
    from msseg_lightning.cli.main import main

    def train(place: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(place)
            assert main(["train", "pre_unet", *tiny_words(tiny_cohort), "track=off"]) == 0

    (run,) = (made_once("trained_run", train) / "runs" / "pre_unet").iterdir()
    return run


@pytest.fixture(scope="session")
def foreseen_folds(coarse_cohort, made_once) -> Path:
    """Two folds of a system that is not fitted and marks known lesions: read only."""
    from tests.foreseen import train_foreseen

    made = made_once("foreseen_folds", lambda place: train_foreseen(coarse_cohort, place))
    (found,) = made.glob("runs/oversampled_unet/*-folds2-seed0")
    return found


@pytest.fixture
def product(foreseen_folds, tmp_path, monkeypatch) -> Path:
    """A copy of them that may be changed; what is missing is predicted as before."""
    from msseg_lightning.method.network_method import NetworkMethod
    from tests.foreseen import foreseen

    monkeypatch.setattr(NetworkMethod, "predict", foreseen)
    shutil.copytree(foreseen_folds.parent, tmp_path / "runs" / "oversampled_unet")
    return tmp_path / "runs" / "oversampled_unet" / foreseen_folds.name


def tiny_words(cohort: Path) -> list[str]:
    """Overrides that make any network experiment take seconds on the tiny cohort."""
    return [
        f"read.root={cohort}",
        "split=file",
        f"split.path={cohort / 'split.json'}",
        "size=tiny",
        "data.workers=1",
    ]
