"""Processor time and memory of what has one entry per patient or run: tables, splits, records.

Work that grows with the square shows as a rate that doubles when the number does, so each is
measured at two sizes.

    python -m benchmarks.scale.records           10,000 and 20,000 rows and patients, 1,000 runs
    python -m benchmarks.scale.records --tiny    a tenth
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from msseg_lightning.core.subject import BASELINE, FOLLOWUP, LongitudinalSubject
from msseg_lightning.read.table import TableReader
from msseg_lightning.run.folder import RunFolder
from msseg_lightning.split.hold_out import HoldOut
from msseg_lightning.split.kfold import KFold

Work = Callable[[Path, int], Callable[[], object]]


def table(place: Path, count: int) -> Callable[[], object]:
    """Read a table of pairs, whose files are not there."""
    file = place / f"{count}.csv"
    rows = (f"p{n},scans/{n}_1.nii.gz,scans/{n}_2.nii.gz\n" for n in range(count))
    file.write_text(f"id,{BASELINE},{FOLLOWUP}\n" + "".join(rows))
    return lambda: TableReader(file).subjects()


def split(kind: HoldOut | KFold) -> Work:
    """Deal patients; files are empty, so that no time goes into their bytes."""

    def prepare(place: Path, count: int) -> Callable[[], object]:
        scan = place / "scan.nii.gz"
        scan.touch()
        images = {BASELINE: scan, FOLLOWUP: scan}
        subjects = [LongitudinalSubject(f"p{n}", f"p{n}", images) for n in range(count)]
        lesions = {subject.id: n % 3 > 0 for n, subject in enumerate(subjects)}
        return lambda: kind.split(subjects, 0, lesions)

    return prepare


def runs(place: Path, count: int) -> Callable[[], object]:
    """Read the records of runs."""
    folders = [RunFolder(place / "runs" / str(n)) for n in range(count)]
    for folder in folders:
        if not folder.record_file.exists():
            folder.update_record(status="finished", values=list(range(100)))
    return lambda: [folder.record() for folder in folders]


WORK: dict[str, tuple[Work, int]] = {
    "table of pairs": (table, 10_000),
    "hold-out": (split(HoldOut()), 10_000),
    "five folds": (split(KFold()), 10_000),
    "records of runs": (runs, 500),
}


def main() -> int:
    """Measure everything at two sizes and print a table."""
    scale = 10 if "--tiny" in sys.argv[1:] else 1
    print("| work | entries | CPU s | twice as many: CPU s | ratio |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, (prepare, count) in WORK.items():
            seconds = []
            for entries in (count // scale, 2 * count // scale):
                work = prepare(Path(folder), entries)
                began = time.process_time()
                work()
                seconds.append(time.process_time() - began)
            ratio = seconds[1] / max(seconds[0], 1e-9)
            print(
                f"| {name} | {count // scale} | {seconds[0]:.2f} | {seconds[1]:.2f} | {ratio:.1f} |"
            )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"\nlargest memory of the process: {peak:.2f} GB, libraries included")
    return 0


if __name__ == "__main__":
    sys.exit(main())
