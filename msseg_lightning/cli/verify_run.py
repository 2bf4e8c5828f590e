"""Compare two runs: which promise of determinism applies, and where they part."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msseg_lightning.core.problem import ExitCode

if TYPE_CHECKING:
    from msseg_lightning.run.predict.verify_run import RunComparison

EXAMPLES = """\
examples
  msseg verify-run runs/pre_unet/msseg2-fold0-seed0 again/pre_unet/msseg2-fold0-seed0
  msseg verify-run A B --json -             for programs: nothing else on standard output

Runs with the same settings, data, code, versions, type of processor and number of threads are equal
bit for bit on a CPU, however often they were interrupted and with any number of workers. On another
processor, with another number of threads or on a GPU they are equal statistically. The comparison
names what differs, and the first stage that differs: training, weights, maps, masks, scores.
exit codes: 0 the promise is kept, 4 no run, or a damaged one, 7 runs that must be equal differ
"""


def main(arguments: Sequence[str]) -> ExitCode:
    """Compare two runs; the exit code tells whether what is promised about them is kept."""
    parser = argparse.ArgumentParser(
        prog="msseg verify-run",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("first", metavar="A", help="folder of a run")
    parser.add_argument("second", metavar="B", help="folder of the other run")
    parser.add_argument("--json", metavar="FILE", help="the comparison; - is standard output")
    options = parser.parse_args(arguments)

    from msseg_lightning.run.folder import RunFolder
    from msseg_lightning.run.predict.verify_run import verify_runs

    file = None if options.json in (None, "-") else Path(options.json)
    if file is not None:
        from msseg_lightning.core.outputs import is_json_with, refuse_overwrites

        refuse_overwrites([(file, is_json_with("promise", "parted"))], field="--json")
    found = verify_runs(RunFolder.find(options.first), RunFolder.find(options.second))
    if options.json == "-":
        json.dump(found.as_dict(), sys.stdout, indent=2)
        sys.stdout.write("\n")
        return found.exit_code
    if file is not None:
        from msseg_lightning.core.files import write_json

        write_json(file, found.as_dict())
    sys.stdout.write("\n".join(lines(found)) + "\n")
    return found.exit_code


def lines(found: RunComparison) -> Iterator[str]:
    """The comparison as text."""
    from msseg_lightning.run.predict.verify_run import BIT_FOR_BIT, PROMISES

    yield f"promised  {PROMISES[found.promise]}"
    yield from (f"because   {fact}" for fact in found.why)
    for stage, count in found.compared.items():
        if stage in found.parted:
            yield f"{stage:<9} differ: {found.parted[stage]}"
        else:
            yield f"{stage:<9} " + (f"equal ({count} compared)" if count else "none in either run")
    if found.first_difference is None:
        yield "the runs are equal"
    elif found.promise == BIT_FOR_BIT:
        yield f"the promise is broken, first in: {found.first_difference}; please report it"
    else:
        yield f"the runs part in: {found.first_difference}"
