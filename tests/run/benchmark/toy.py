"""A benchmark whose runs take milliseconds: scores are simulated instead of trained."""

from __future__ import annotations

import pytest

from msseg_lightning.cli.main import main
from msseg_lightning.compare import leaderboard_page
from msseg_lightning.core.problem import MssegError, Problem
from msseg_lightning.evaluate.case_score import ScoreOptions
from msseg_lightning.run.benchmark import worker
from msseg_lightning.run.benchmark.plan import Benchmark, BenchmarkArguments
from msseg_lightning.run.folder import RunFolder
from msseg_lightning.run.predict.scores import pair_facts, write_scores
from tests.compare import scored

CASES = scored.patients()[6:]  # six with new lesions, four without
SKILLS = {"bsi_subtraction": 0.2, "oversampled_unet": 0.9, "ohem_unet": 0.6}
WORDS = ("size=tiny", "read.root=/data/toy", "split=file", "split.path=split.json", "track=off")


def begin(folder, systems="bsi_subtraction,oversampled_unet", *words, name="toy"):
    given = [f"systems=[{systems}]", f"paths.leaderboards={folder}", *WORDS, *words]
    return Benchmark.begin(BenchmarkArguments.of(name, given))


def simulate(monkeypatch, act=lambda config: None):
    """Replace training by simulated scores; returns the names of runs that were trained.

    Args:
        act: called before each, to fail or to stop.
    """
    trained = []

    def train(config, with_report=True):
        folder = RunFolder.from_config(config)
        trained.append(f"{config['name']}-fold{config['fold']}-seed{config['seed']}")
        act(config)
        found = scored.scores(SKILLS[config["name"]], 3 + config["seed"], CASES)
        pairs = [
            scored.LongitudinalSubject(id=case, patient=case, images={}, masks={}) for case in found
        ]
        facts = {"seed": config["seed"], "pairs": pair_facts(pairs, scored.TRAINED_ON)}
        folder.path.mkdir(parents=True, exist_ok=True)
        write_scores(folder.path, found, ScoreOptions(), facts | {"commit": "abc"})
        folder.update_record(
            status="finished",
            fit_minutes=4.2,
            fit_cpu_minutes=3.9,
            peak_mib=700,
            parameters=1234,
            device="cpu",
            commit="0123456789",
        )

    drawn = {"intervals": "<svg/>", "ranks": "<svg/>"}
    monkeypatch.setattr(leaderboard_page, "pictures", lambda board: drawn)
    monkeypatch.setattr(worker, "train_experiment", train)
    monkeypatch.setattr(worker, "_prepare", lambda config: 0.5)
    monkeypatch.setattr(worker, "run_apart", lambda words, file, deadline: int(main(list(words))))
    return trained


def refuse(config):
    if config["name"] == "ohem_unet":
        raise MssegError(Problem("train.device", "this system cannot be trained here"))


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """Trained runs by name, and the folder of benchmarks."""
    return simulate(monkeypatch), tmp_path
