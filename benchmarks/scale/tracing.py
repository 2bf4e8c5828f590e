"""Counts of how often a training and a prediction open, hash and decode each data file.

    python -m benchmarks.scale.tracing                     this checkout
    python -m benchmarks.scale.tracing --package FOLDER    the package in another checkout
    python -m benchmarks.scale.tracing --json FILE

A tiny ``pre_unet`` is trained on a simulated cohort in one process, its held-out pairs predicted,
scored and reported; then the run predicts one pair given by its files. Each is a process of its own
with an empty cache. Counted are calls of ``open`` for reading, SHA-256 digests of whole files, and
unpackings of all voxels, for every file of the cohort.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAIR = "003"
"""A held-out pair of the simulated cohort."""
KINDS = ("opened", "hashed", "decoded")
Counts = dict[str, dict[str, int]]


class Trace:
    """Counts of every file below a folder.

    Args:
        folder: files elsewhere are not counted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.counts: Counts = collections.defaultdict(lambda: dict.fromkeys(KINDS, 0))

    def count(self, kind: str, path: Any) -> None:
        """Count one event."""
        if isinstance(path, str | os.PathLike):
            real = Path(os.fsdecode(path)).resolve()
            if real.is_relative_to(self.folder) and real.suffix in (".gz", ".nii"):
                self.counts[real.relative_to(self.folder).as_posix()][kind] += 1

    @contextlib.contextmanager
    def counting(self) -> Iterator[Counts]:
        """Count what happens inside the block, in this process."""
        from msseg_lightning.read.stream import Stream

        counting = True

        def hook(event: str, arguments: tuple[Any, ...]) -> None:  # cannot be taken away again
            if counting and event == "open" and "r" in str(arguments[1] or "r"):
                self.count("opened", arguments[0])

        def opened(stream: Any, path: Path, *arguments: Any) -> None:
            stream.traced = path
            make(stream, path, *arguments)

        def unpacked(stream: Any, *arguments: Any) -> Any:
            self.count("decoded", stream.traced)
            return body(stream, *arguments)

        def digested(stream: Any, *arguments: Any) -> Any:
            self.count("hashed", stream.name)
            return digest(stream, *arguments)

        make, body, digest = Stream.__init__, Stream.body, hashlib.file_digest
        patches: list[tuple[Any, str, Callable[..., Any], Callable[..., Any]]] = [
            (Stream, "__init__", make, opened),
            (Stream, "body", body, unpacked),
            (hashlib, "file_digest", digest, digested),
        ]
        with contextlib.suppress(ImportError):  # of checkouts that hash what they have read
            from msseg_lightning.core.input_hash import Input

            content_digest = Input._digest

            def content_digested(read: Any) -> str:
                self.count("hashed", read.path)
                return content_digest(read)

            patches.append((Input, "_digest", content_digest, content_digested))
        sys.addaudithook(hook)
        for place, name, _, traced in patches:
            setattr(place, name, traced)
        try:
            yield self.counts
        finally:
            counting = False
            for place, name, original, _ in patches:
                setattr(place, name, original)


def traced_command(cohort: Path, words: Sequence[str]) -> Counts:
    """Counts of one command, run in this process.

    Raises:
        RuntimeError: it failed.
    """
    from msseg_lightning.cli.main import main

    with Trace(cohort).counting() as counts:
        if (code := main(list(words))) != 0:
            raise RuntimeError(f"msseg {words[0]} ended with {code}")
    return {name: dict(row) for name, row in sorted(counts.items())}


def training_words(cohort: Path, place: Path) -> list[str]:
    """The command of the tiny training."""
    words = ["train", "pre_unet", f"read.root={cohort}", "size=tiny", "data.workers=1"]
    words += ["split=file", f"split.path={cohort / 'split.json'}", "track=off"]
    return [*words, f"paths.runs={place / 'runs'}", f"paths.cache={place / 'cache'}"]


def prediction_words(cohort: Path, place: Path, run: Path) -> list[str]:
    """The command that predicts one pair."""
    scans = [cohort / PAIR / f"flair_time0{visit}_on_middle_space.nii.gz" for visit in (1, 2)]
    words = ["predict", str(run), "-t1", str(scans[0]), "-t2", str(scans[1])]
    return [*words, "-o", str(place / "new.nii.gz"), f"paths.cache={place / 'another_cache'}"]


def table(counts: Counts) -> str:
    """A line per kind of file: how many there are, and the least and the most of each count."""
    kinds: dict[str, list[dict[str, int]]] = collections.defaultdict(list)
    for name, row in counts.items():
        kinds[Path(name).name].append(row)
    lines = [f"{'file':<40}{'files':>6}" + "".join(f"{kind:>10}" for kind in KINDS)]
    for name, rows in sorted(kinds.items()):
        cells = [sorted({row[kind] for row in rows}) for kind in KINDS]
        shown = ["-".join(str(n) for n in dict.fromkeys((c[0], c[-1]))) for c in cells]
        lines.append(f"{name:<40}{len(rows):>6}" + "".join(f"{cell:>10}" for cell in shown))
    totals = [sum(row[kind] for row in counts.values()) for kind in KINDS]
    lines.append(f"{'all':<40}{len(counts):>6}" + "".join(f"{total:>10}" for total in totals))
    return "\n".join(lines)


def measure(package: Path) -> dict[str, Counts]:
    """Counts of a training and of the prediction of one pair, by the package of a checkout."""
    with tempfile.TemporaryDirectory(prefix="tracing-") as name:
        place = Path(name)
        cohort = place / "cohort"
        environment = {**os.environ, "PYTHONPATH": str(package)}

        def command(*words: str) -> None:
            subprocess.run([sys.executable, *words], cwd=place, env=environment, check=True)

        quiet = ["-m", "msseg_lightning", "simulate", str(cohort), "preset=tiny"]
        subprocess.run(
            [sys.executable, *quiet], cwd=place, env=environment, check=True, capture_output=True
        )
        found: dict[str, Counts] = {}
        for what in ("train", "predict"):
            file = place / f"{what}.json"
            command(str(Path(__file__).resolve()), "--one", what, str(cohort), str(file))
            found[what] = json.loads(file.read_text(encoding="utf-8"))
        return found


def one(what: str, cohort: Path, file: Path) -> None:
    """One traced command, in a process of its own."""
    place = file.parent
    if what == "train":
        words = training_words(cohort, place)
    else:
        (run,) = (place / "runs" / "pre_unet").iterdir()
        words = prediction_words(cohort, place, run)
    file.write_text(json.dumps(traced_command(cohort, words)), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--package", type=Path, default=ROOT, metavar="FOLDER")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(options.one[0], *map(Path, options.one[1:]))
        return
    found = measure(options.package.resolve())
    for what, counts in found.items():
        sys.stdout.write(f"\n{what}\n{table(counts)}\n")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
