"""The benchmarks of ``benchmarks/speed`` against their peers: one table, one JSON file.

    python -m benchmarks                       all, at full size (an hour on two cores)
    python -m benchmarks --tiny                all, sizes of seconds, to see that they run
    python -m benchmarks --only scoring,reading

Each benchmark runs in a process of its own. Peers that the product does not depend on lie in
``benchmarks/.peers`` (``make bench`` puts them there from ``peers.txt``); those that cannot be
imported are reported as absent. The exit code is 0 when every benchmark ran, whether or not its
limits hold: a table that falls short is a result.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.harness import PEERS, ROOT, Row
from benchmarks.rows import rows_of

BENCHMARKS = (
    *("patches", "training_step", "inference", "scoring"),
    *("reading", "preprocessing", "startup", "gpu"),
)
RESULTS = ROOT / "benchmarks" / "results"


def environment() -> dict[str, str]:
    """One thread per contender; the peers' folder behind the repository."""
    paths = [str(ROOT), str(PEERS), os.environ.get("PYTHONPATH", "")]
    single = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    return {**os.environ, **single, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def run_one(name: str, rounds: int | None, tiny: bool) -> dict[str, Any]:
    """Result of one benchmark, or ``{"benchmark": name, "failed": reason}``."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        file = Path(folder) / "result.json"
        command = [sys.executable, "-m", f"benchmarks.speed.{name}", "--json", str(file)]
        command += ["--rounds", str(rounds)] if rounds else []
        command += ["--tiny"] if tiny else []
        done = subprocess.run(command, cwd=ROOT, env=environment(), check=False)
        if done.returncode or not file.exists():
            return {"benchmark": name, "failed": f"exit code {done.returncode}"}
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return {**content, "benchmark": name}


def collect(results: Sequence[dict[str, Any]]) -> list[Row]:
    """All rows; a benchmark that failed is a row too."""
    rows = []
    for result in results:
        if "failed" in result:
            note = f"FAILED: {result['failed']}"
            rows.append(Row(result["benchmark"], None, None, None, "", "", None, note))
        else:
            rows += rows_of(result)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tiny", action="store_true", help="sizes of seconds")
    parser.add_argument("--only", default="", help="names, separated by commas")
    parser.add_argument("--rounds", type=int, help="counted rounds; each has its own default")
    parser.add_argument("--json", type=Path, help="default benchmarks/results/latest.json")
    options = parser.parse_args(arguments)
    chosen = options.only.split(",") if options.only else list(BENCHMARKS)
    unknown = [name for name in chosen if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    output = options.json or RESULTS / ("tiny.json" if options.tiny else "latest.json")
    before = harness.record()
    results = []
    for name in chosen:
        sys.stdout.write(f"\n== {name}\n")
        sys.stdout.flush()
        results.append(run_one(name, options.rounds, options.tiny))
        rows = collect(results)
        # after each, so that an interrupted run leaves what it measured
        harness.write_result(
            {
                **before,
                "tiny": options.tiny,
                "table": [vars(row) for row in rows],
                "results": results,
            },
            output,
        )
    sys.stdout.write(f"\n{harness.table(rows)}\n\nwritten to {output}\n")
    return int(any("failed" in result for result in results))


if __name__ == "__main__":
    sys.exit(main())
