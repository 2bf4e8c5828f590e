"""Check that four ways to process many subjects, with killed processes, give the same bytes.

    python -m benchmarks.scale.many_subjects --work work/many [--patients 200]

A simulated cohort (35 x 38 x 34 voxels) and a small network with its initial weights: what is
compared is files, not scores. The ways: one process; two ``--shard``s, with one scan cut off at
first and one process killed with -9 in the middle; ``launcher=local launcher.array=2`` (submitit),
one job killed with -9; the executor of a Dask client with two workers, one killed with -9. Compared
are all files of the prepared pairs, of the predictions (masks, maps, side-cars, scores, tables) and
of the evaluation (scores, tables); left out are locks (hidden files) and the logs of jobs. A way
that was finished is kept by the next call.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import yaml

log = logging.getLogger("msseg.many_subjects")

NETWORK = (
    "preprocess=nonzero_zscore_native",
    "network.widths=[8,8,8]",
    "sample.size=[16,16,16]",
    "infer.size=48",
)
COHORT = ("preset=tiny", "train=4", "spacing_floor_mm=5.0", "sampling_mm=5.0")
FOLDERS = ("cache", "predictions", "evaluation")


def main(arguments: Sequence[str] | None = None) -> int:
    """Process the subjects in all ways and compare the files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("work/many"))
    parser.add_argument("--patients", type=int, default=200)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    work = options.work.absolute()
    cohort = work / "cohort"
    side_by_side("simulate", str(cohort), *COHORT, f"test={options.patients - 4}")
    write_model(work / "model")
    ways: dict[str, Callable[[Way], None]] = {
        "serial": serial,
        "shards": shards,
        "submitit": submitit_array,
        "dask": dask_client,
    }
    for name, do in ways.items():
        way = Way(work / name, cohort, options.patients // 8)
        if (way.folder / "done").exists():
            continue
        if name != "serial":
            shutil.rmtree(way.folder, ignore_errors=True)
            way.folder.mkdir()
        began = time.monotonic()
        do(way)
        (way.folder / "done").touch()
        log.info("%s: %.0f s", name, time.monotonic() - began)
    reference = contents(work / "serial")
    sizes = ", ".join(f"{len([n for n in reference if n.startswith(f)])} {f}" for f in FOLDERS)
    log.info("serial: %d files (%s)", len(reference), sizes)
    bad = 0
    for name in list(ways)[1:]:
        found = contents(work / name)
        differ = sorted(
            file for file in reference.keys() | found if reference.get(file) != found.get(file)
        )
        log.info("%s: %d of %d files differ %s", name, len(differ), len(reference), differ[:5])
        bad += len(differ)
    return bool(bad)


class Way:
    """One way to do the work.

    Args:
        folder: of everything that is written.
        cohort: what is read.
        enough: masks after which something dies.
    """

    def __init__(self, folder: Path, cohort: Path, enough: int) -> None:
        self.folder, self.cohort, self.enough = folder, cohort, enough
        self.model = folder.parent / "model"
        self.folder.mkdir(parents=True, exist_ok=True)

    def data(self) -> list[str]:
        """Arguments that name the data set."""
        cache = f"paths.cache={self.folder / 'cache'}"
        return ["read=msseg2", f"read.root={self.cohort}", cache, "data.workers=1"]

    def prepare(self) -> list[str]:
        """The command that prepares the subjects."""
        return ["prepare", "pre_unet", *NETWORK, *self.data()]

    def predict(self) -> list[str]:
        """The command that predicts."""
        predictions = str(self.folder / "predictions")
        return ["predict", str(self.model), "--folder", predictions, *self.data()]

    def evaluate(self) -> list[str]:
        """The command that evaluates."""
        out = self.folder / "evaluation"
        words = ["evaluate", str(self.folder / "predictions"), str(self.cohort), "--workers", "1"]
        words += ["--cases", str(out / "cases"), "--csv", str(out / "all.csv")]
        return [*words, "--json", str(out / "all.json"), "--summary", str(out / "summary.json")]

    def masks(self) -> int:
        """Number of masks so far."""
        return len(list((self.folder / "predictions").glob("*_probability.nii.gz")))

    def wait(self) -> None:
        """Wait until enough masks exist to kill a process."""
        while self.masks() < self.enough:
            time.sleep(0.02)


def serial(way: Way) -> None:
    """Run in one process after the other."""
    for words in (way.prepare(), way.predict(), way.evaluate()):
        assert msseg(*words).wait() == 0


def shards(way: Way) -> None:
    """Two parts; one scan is damaged at first, one process dies."""
    damaged = sorted(way.cohort.glob("*/flair_time02*"))[len(list(way.cohort.glob("*/"))) // 2]
    sound = damaged.read_bytes()
    try:
        damaged.write_bytes(sound[: len(sound) // 2])
        log.info(
            "  prepare with %s cut off: exit codes %s", damaged.parent.name, _both(way.prepare)
        )
        parts = [msseg(*way.predict(), "--shard", f"{part}/2") for part in (1, 2)]
        way.wait()
        parts[0].kill()
        log.info("  predict, part 1 killed: exit codes %s", [part.wait() for part in parts])
    finally:
        damaged.write_bytes(sound)
    before = stamps(way.folder)
    log.info("  %d masks so far; repaired, the same commands again", way.masks())
    assert _both(way.prepare) == [0, 0] and _both(way.predict) == [0, 0]
    after = stamps(way.folder)
    again = [file for file, stamp in before.items() if after[file] != stamp]
    log.info("  files made again: %s", again)
    assert not [file for file in again if not _unfinished(file, before)]
    assert _both(way.evaluate) == [0, 0]


def submitit_array(way: Way) -> None:
    """An array of two jobs of submitit's local executor; one of them dies."""
    launcher = ["launcher=local", "launcher.array=2", f"launcher.folder={way.folder / 'jobs'}"]
    assert msseg(*way.prepare(), *launcher).wait() == 0
    array = msseg(*way.predict(), *launcher)
    way.wait()
    next(iter(commands_below(array.pid, "--shard"))).kill()
    log.info("  predict, a job killed at %d masks: exit code %d", way.masks(), array.wait())
    assert msseg(*way.predict(), *launcher).wait() == 0
    assert msseg(*way.evaluate(), *launcher).wait() == 0


def dask_client(way: Way) -> None:
    """From Python: the executor of a client with two workers; one of them dies."""
    from distributed import Client

    from msseg_lightning.evaluate.case_score import ScoreOptions
    from msseg_lightning.run.config.compose import compose_config
    from msseg_lightning.run.data.evaluate_files import evaluate_files, find_pairs
    from msseg_lightning.run.data.prepare import prepare_data_set
    from msseg_lightning.run.predict.data_set import predict_data_set

    with Client(n_workers=2, threads_per_worker=1, dashboard_address=None) as client:
        executor = client.get_executor(pure=False)
        config = compose_config([*NETWORK, *way.data()], "pre_unet")
        prepare_data_set(config, executor=executor, pieces=20).all_done()
        victim = min(client.run(os.getpid).values())

        def kill() -> None:
            way.wait()
            os.kill(victim, 9)
            log.info("  predict: a worker killed at %d masks", way.masks())

        killer = threading.Thread(target=kill)
        killer.start()
        where: dict[str, Any] = {"executor": executor, "pieces": 20}
        applied = predict_data_set(way.model, way.data(), way.folder / "predictions", **where)
        killer.join()
        assert not applied.refused, applied.refused
        pairs, _ = find_pairs(way.folder / "predictions", way.cohort)
        keep = way.folder / "evaluation" / "cases"
        evaluate_files(pairs, ScoreOptions(), keep=keep, executor=executor)
    assert msseg(*way.evaluate()).wait() == 0  # the tables, of the scores that are there


def msseg(*words: str) -> subprocess.Popen[bytes]:
    """Start a command."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "msseg_lightning", *words]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)


def side_by_side(*words: str) -> list[int]:
    """Exit codes of two parts at the same time."""
    parts = [msseg(*words, "--shard", f"{part}/2") for part in (1, 2)]
    return [part.wait() for part in parts]


def _both(command: Callable[[], list[str]]) -> list[int]:
    return side_by_side(*command())


def write_model(folder: Path) -> None:
    """A model folder as ``msseg train`` leaves it."""
    from msseg_lightning.run.assemble.system import build_method
    from msseg_lightning.run.config.compose import compose_config

    if not (folder / "config.yaml").exists():
        config = compose_config([*NETWORK, "read.root=unknown"], "pre_unet")
        build_method(config).save(folder)
        (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")


def commands_below(process: int, word: str) -> Iterator[psutil.Process]:
    """Descendants of a process that have the word on their command line."""
    for child in psutil.Process(process).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if word in child.cmdline():
                yield child


def files_of(folder: Path) -> Iterator[Path]:
    """All files except locks and logs."""
    for name in FOLDERS:
        for path in sorted((folder / name).rglob("*")):
            hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
            if path.is_file() and not hidden:
                yield path


def contents(folder: Path) -> dict[str, bytes]:
    """Content of all files by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in files_of(folder)}


def _unfinished(file: str, before: Mapping[str, int]) -> bool:
    """Whether a file is rightly made again: a table of all, or of the pair a process died on."""
    if file.startswith("predictions/scores."):
        return True
    folder, _, name = file.partition("/")
    pair = name.split(".")[0].removesuffix("_probability")
    return folder == "predictions" and f"predictions/scores/{pair}.json" not in before


def stamps(folder: Path) -> dict[str, int]:
    """Modification time of all files by name."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in files_of(folder)}


if __name__ == "__main__":
    sys.exit(main())
