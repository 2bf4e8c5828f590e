"""Check that searches lose and repeat no trials, with several workers, kills and both stores.

    python -m benchmarks.scale.sweep                  all, some twenty minutes on two cores
    python -m benchmarks.scale.sweep --only workers   seconds to minutes

``workers``: eight processes are started at once on an empty store and share 200 trials of a toy
objective. They go through ``run.sweep.worker.Sweep``, the same code as the command; only the
training of a fold is replaced by a formula. On PostgreSQL every worker has a folder of its own, as
machines without a shared disk have: no lock file helps them, only the database.

``kills``: the real command, 12 trials x 2 folds of a small network on the simulated tiny cohort,
its whole process group killed with SIGKILL at two random moments and given again each time.

``folds``: ``msseg train X fold=all seed=0,1`` of three folds, killed in its third run, given again.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import csv
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.harness import ROOT, Row
from benchmarks.scale import postgres

WORKERS, TOYS = 8, 200
TRIALS, FOLDS, KILLS = 12, 2, 2
LONGEST_S = 1500.0
MSSEG = (sys.executable, "-m", "msseg_lightning.cli.main")
EXPERIMENT = "oversampled_unet"


# ---------------------------------------------------------------------- eight workers at once
def toy_search(trials: int) -> Any:
    from msseg_lightning.run.sweep.space import parse

    return parse(
        {
            "trials": trials,
            "folds": [0, 1],
            "seed": 0,
            "sampler": "tpe",
            "pruner": "median",
            "objective": [{"metric": "score", "direction": "maximize"}],
            "space": {
                "x": {"type": "float", "low": 0.0, "high": 1.0},
                "kind": {"type": "categorical", "choices": ["a", "b"]},
                "k": {"type": "int", "low": 1, "high": 9, "when": {"kind": "b"}},
            },
            "retrain": {"best": 3, "seeds": [1, 2]},
        }
    )


def work(folder: Path, store: str | None, trials: int) -> None:
    """Run a worker until the study has the wanted number of trials."""
    from msseg_lightning.run.sweep.worker import Sweep

    def toy(values: Mapping[str, Any], fold: int, seed: int, place: Path) -> dict[str, float]:
        return {"score": values["x"] - 0.1 * values.get("k", 0) + 0.01 * fold + 0.1 * (seed > 0)}

    sweep = Sweep("toy", folder, toy_search(trials), toy, store)
    sweep.run()
    sweep.retrain()


def workers(store: str | None, trials: int) -> list[Row]:
    """Start workers together on an empty store and count the trials at the end."""
    from msseg_lightning.run.sweep.result import status, sweep_result
    from msseg_lightning.run.sweep.study import SharedStudy

    kind = "PostgreSQL" if store else "SQLite"
    with tempfile.TemporaryDirectory(prefix="sweep-") as name:
        folders = [Path(name) / (f"machine{n}" if store else "one") for n in range(WORKERS)]
        began = time.monotonic()
        words = ["--worker", "--trials", str(trials), *(["--store", store] if store else [])]
        crew = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.scale.sweep", *words, "--folder", str(folder)],
                cwd=ROOT,
                stderr=subprocess.PIPE,
                text=True,
            )
            for folder in folders
        ]
        said = [process.communicate(timeout=LONGEST_S)[1] for process in crew]
        took = time.monotonic() - began
        codes = [process.returncode for process in crew]
        for text, code in zip(said, codes, strict=True):
            sys.stderr.write(text[-2000:] if code else "")
        study = SharedStudy.find("toy", folders[0], store)
        counts, all_trials = status(study), study.trials()
        ended = [trial for trial in all_trials if trial.state.name in ("COMPLETE", "PRUNED")]
        places = {json.dumps(trial.params, sort_keys=True) for trial in ended}
        owners = collections.Counter(trial.user_attrs["owner"] for trial in ended)
        note = ", ".join(f"{count} {state}" for state, count in counts.items())
        spread = f"{len(owners)} workers with {min(owners.values())} to {max(owners.values())}"
        numbers = sorted(trial.number for trial in all_trials)
        return [
            exactly(f"{kind}: workers that ended with 0", codes.count(0), WORKERS),
            exactly(f"{kind}: finished trials", len(ended), trials, f"{note}; {took:.0f} s"),
            exactly(f"{kind}: different settings among them", len(places), trials, spread),
            exactly(f"{kind}: trial numbers given twice", len(numbers) - len(set(numbers)), 0),
            exactly(
                f"{kind}: trials left RUNNING or WAITING",
                counts.get("running", 0) + counts.get("waiting", 0),
                0,
            ),
            exactly(f"{kind}: candidates trained again", len(sweep_result(study).retrained), 3),
        ]


# ---------------------------------------------------------------------- killed and given again
def kills(store: str | None, folds: int, seed: int) -> list[Row]:
    """Kill the command twice, finish it, and check the study, the folders and MLflow."""
    kind = "PostgreSQL" if store else "SQLite"
    with tempfile.TemporaryDirectory(prefix="sweep-") as name:
        folder = Path(name)
        say(["simulate", str(folder / "tiny"), "preset=tiny"], folder)
        words = [EXPERIMENT, f"read.root={folder / 'tiny'}", "split=kfold", "split.folds=2"]
        words += ["split.validation=0", "size=tiny", "train.steps=2", "data.workers=1"]
        words += ["track=mlflow_plain_ids", "name=killed", f"search.trials={TRIALS}"]
        words += [f"search.folds={list(range(folds))}".replace(" ", ""), "search.pruner=none"]
        words += ["search.objective=[{metric: false_volume_mm3_per_case_without, "]
        words[-1] += "direction: minimize}]"
        words += ["search.retrain.best=1", "search.retrain.seeds=[1]"]
        words += [f"store={store}"] if store else []
        look = [EXPERIMENT, "name=killed", *([f"store={store}"] if store else [])]
        chance, began, looked, killed_at = random.Random(seed), time.monotonic(), 0, []
        for kill in range(KILLS):
            process = begin(["sweep", *words], folder)
            finished = 0
            # from a third to two thirds of the way, then some seconds into whatever is going on
            while finished < (1 + kill) * TRIALS // (KILLS + 1) and process.poll() is None:
                time.sleep(1.0)
                finished = finished_in(folder, look)
            if kill == 0:
                looked = sum(not say(["sweep", *look, f"--{way}"], folder) for way in LOOKS)
            time.sleep(chance.uniform(0.0, 6.0))
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                killed_at.append(finished_in(folder, look))
            process.wait()
        code = say(["sweep", *words], folder)
        looked += sum(not say(["sweep", *look, f"--{way}"], folder) for way in LOOKS)
        again = time.monotonic()
        say(["sweep", *words], folder)  # nothing is left to do
        repeated = time.monotonic() - again
        return [
            exactly(f"{kind}: kills that met a living search", len(killed_at), KILLS),
            exactly(f"{kind}: exit status of the last command", code, 0),
            exactly(f"{kind}: looks during and after that worked", looked, 2 * len(LOOKS)),
            *study_rows(kind, folder, store, killed_at, folds),
            *mlflow_rows(kind, folder),
            Row(f"{kind}: all of it", time.monotonic() - began, None, None, "", "s", None),
            Row(f"{kind}: the same command once more", repeated, None, None, "", "s", None),
        ]


LOOKS = ("status", "best", "export")


def study_rows(
    kind: str, folder: Path, store: str | None, killed_at: Sequence[int], folds: int
) -> list[Row]:
    from msseg_lightning.run.sweep.result import status
    from msseg_lightning.run.sweep.study import SharedStudy
    from msseg_lightning.run.sweep.worker import trial_name

    study = SharedStudy.find("killed", folder / "sweeps" / "killed", store)
    trials = study.trials()
    ended = [trial for trial in trials if trial.state.name == "COMPLETE"]
    places = [trial_name(trial.params) for trial in ended]
    lost = [trial for trial in trials if trial.state.name == "FAIL" and trial.params]
    retried = {trial.user_attrs.get("retry_of"): trial.params for trial in trials}
    whole = [
        place
        for place in places
        if len(list(study.folder.glob(f"trials/{place}/*/*-seed0/scores.json"))) == folds
    ]
    counts = ", ".join(f"{count} {state}" for state, count in status(study).items())
    note = f"{counts}; killed at {' and '.join(map(str, killed_at))} finished"
    return [
        exactly(f"{kind}: finished trials", len(ended), TRIALS, note),
        exactly(f"{kind}: different settings among them", len(set(places)), TRIALS),
        exactly(f"{kind}: trials with every fold on disk", len(whole), TRIALS),
        exactly(
            f"{kind}: killed trials tried again with their values",
            sum(retried.get(trial.number) == trial.params for trial in lost),
            len(lost),
        ),
        exactly(
            f"{kind}: trials neither finished nor failed", len(trials) - len(ended) - len(lost), 0
        ),
    ]


def mlflow_rows(kind: str, folder: Path) -> list[Row]:
    with sqlite3.connect(folder / "mlruns" / "mlflow.db") as base:
        found = base.execute(
            "select level.value, state.value, status, parent.value from runs "
            "join tags level on level.run_uuid = runs.run_uuid and level.key = 'level' "
            "left join tags state on state.run_uuid = runs.run_uuid and state.key = 'trial_state' "
            "left join tags parent on parent.run_uuid = runs.run_uuid "
            "and parent.key = 'mlflow.parentRunId'"
        ).fetchall()
    parents = [row for row in found if row[0] == "sweep"]
    children = [row for row in found if row[0] == "trial"]
    states = collections.Counter((state, status) for _, state, status, _ in children)
    note = ", ".join(f"{n} {state} {status}" for (state, status), n in sorted(states.items()))
    return [
        exactly(f"{kind}: MLflow runs of the sweep", len(parents), 1, parents[0][2]),
        exactly(
            f"{kind}: MLflow runs FINISHED below", states["complete", "FINISHED"], TRIALS, note
        ),
        exactly(
            f"{kind}: MLflow runs that are neither FINISHED nor KILLED",
            sum(row[2] not in ("FINISHED", "KILLED") for row in found),
            0,
        ),
        exactly(f"{kind}: parents they name", len({row[3] for row in children}), 1),
    ]


def finished_in(folder: Path, look: Sequence[str]) -> int:
    """Number of finished trials in the store."""
    from msseg_lightning.core.problem import MssegError
    from msseg_lightning.run.sweep.command import SweepArguments, find_study
    from msseg_lightning.run.sweep.result import status

    with contextlib.suppress(MssegError), contextlib.chdir(folder):
        return status(find_study(SweepArguments.of(look[0], look[1:]))).get("complete", 0)
    return 0


def begin(words: Sequence[str], folder: Path) -> subprocess.Popen[str]:
    """Start the command in its own process group, which can be killed as a whole."""
    with (folder / "log.txt").open("a") as log:
        return subprocess.Popen(
            [*MSSEG, *words],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
            stdout=log,
            stderr=log,
            text=True,
        )


def say(words: Sequence[str], folder: Path) -> int:
    code = begin(words, folder).wait(LONGEST_S)
    if code:
        sys.stderr.write((folder / "log.txt").read_text()[-3000:])
    return code


def exactly(name: str, found: int, wanted: int, note: str = "") -> Row:
    return Row(name, found, None, None, f"= {wanted}", "", found == wanted, note)


# ---------------------------------------------------------------------- folds times seeds
def folds(seed: int) -> list[Row]:
    """Kill ``msseg train X fold=all seed=0,1`` in its third run, and give it again."""
    with tempfile.TemporaryDirectory(prefix="folds-") as name:
        folder = Path(name)
        say(["simulate", str(folder / "six"), "preset=tiny", "train=4", "test=2"], folder)
        words = ["train", EXPERIMENT, f"read.root={folder / 'six'}", "split=kfold", "split.folds=3"]
        words += ["split.validation=0", "size=tiny", "train.steps=2", "data.workers=1"]
        words += ["track=mlflow_plain_ids", "fold=all", "seed=0,1"]
        runs = folder / "runs" / EXPERIMENT

        def finished() -> dict[str, int]:
            """Finished runs and the modification times of their weights."""
            records = {
                file.parent: json.loads(file.read_text()) for file in runs.glob("*/run.json")
            }
            return {
                run.name: (run / "model" / "weights.safetensors").stat().st_mtime_ns
                for run, record in records.items()
                if record.get("status") == "finished"
            }

        process = begin(words, folder)
        while len(finished()) < 2 and process.poll() is None:
            time.sleep(0.2)
        while len(list(runs.glob("*/run.json"))) < 3 and process.poll() is None:
            time.sleep(0.2)  # the third has begun
        time.sleep(random.Random(seed).uniform(0.0, 2.0))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        before = finished()
        code = say(words, folder)
        after = finished()
        tables = [json.loads(file.read_text()) for file in runs.glob("*-folds3-seed*/scores.json")]
        (page,) = runs.glob("*-folds3-seeds0+1/report.html")
        pair = next(path for path in sorted((folder / "six").iterdir()) if path.is_dir())
        scans = [str(pair / f"flair_time0{visit}_on_middle_space.nii.gz") for visit in (1, 2)]
        (model,) = runs.glob("*-folds3-seed0")
        one = ["predict", str(model), "--baseline", scans[0], "--followup", scans[1]]
        predicted = say([*one, "--output", str(folder / "mask.nii.gz")], folder)
        with (page.parent / "summary.csv").open(newline="") as stream:
            lines = [row for row in csv.DictReader(stream) if row["run"].endswith("all folds")]
        return [
            exactly("folds: runs finished when killed", len(before), 2),
            exactly("folds: exit status of the second command", code, 0),
            exactly("folds: finished runs", len(after), 6),
            exactly(
                "folds: of the first two left as they were", len(before.items() & after.items()), 2
            ),
            exactly("folds: tables of all pairs", sum(len(one["cases"]) == 6 for one in tables), 2),
            exactly("folds: means with an interval", sum(bool(one["low"]) for one in lines), 12),
            exactly("folds: exit status of the ensemble's prediction", predicted, 0),
        ]


@contextlib.contextmanager
def stores() -> Iterator[dict[str, str | None]]:
    """Name -> address; PostgreSQL only where it is installed."""
    if reason := postgres.absent():
        sys.stderr.write(f"without PostgreSQL: {reason}\n")
        yield {"SQLite": None}
        return
    with postgres.cluster() as address:
        yield {"SQLite": None, "PostgreSQL": address}


def run(
    rounds: int = 1, tiny: bool = False, only: str = "workers,kills,folds", seed: int = 0
) -> dict[str, Any]:
    """Measure; see the module.

    Args:
        rounds: not used; every part is a single story.
        tiny: fewer trials, one store and no kills.
        only: which parts.
        seed: of the moments of the kills.
    """
    began = time.perf_counter()
    rows: list[Row] = []
    with stores() as addresses:
        for name, store in addresses.items():
            if "workers" in only:
                rows += workers(store, 24 if tiny else TOYS)
            if "kills" in only and not tiny:
                rows += kills(store, FOLDS if name == "SQLite" else 1, seed)
    if "folds" in only and not tiny:
        rows += folds(seed)
    return {
        "benchmark": "sweep",
        "seed": seed,
        "tiny": tiny,
        "took_s": time.perf_counter() - began,
        "rows": [vars(row) for row in rows],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", default="workers,kills,folds")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--tiny", action="store_true", help="seconds, to see that it runs")
    parser.add_argument("--json", type=Path, help="also write the result there")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--trials", type=int, default=TOYS, help=argparse.SUPPRESS)
    parser.add_argument("--store", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.folder, options.store, options.trials)
        return
    result = {**harness.record(), **run(1, options.tiny, options.only, options.seed)}
    rows = [Row(**row) for row in result["rows"]]
    sys.stdout.write(f"{harness.table(rows)}\n")
    if options.json:
        harness.write_result(result, options.json)
    sys.exit(int(not all(row.holds is not False for row in rows)))


if __name__ == "__main__":
    main()
