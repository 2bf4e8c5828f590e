"""Write a simulated cohort of FLAIR pairs in which every lesion is known."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.run.shard import SHARD_HELP, Shard

EXAMPLES = """\
examples
  msseg simulate cohorts/small preset=small             12 patients for the demo
  msseg simulate cohorts/c preset=challenge workers=2   100 patients at 1 mm, as the challenge
  msseg simulate cohorts/c preset=challenge             killed? the same line completes it
  msseg simulate out preset=tiny seed=7 train=4         any setting of the recipe: key=value
  msseg simulate out preset=challenge patients=1-10     only some of them, the same bytes
  msseg simulate cohorts/c preset=challenge --shard 1/4   a quarter of them, the same bytes
  msseg simulate out preset=challenge lesions.touching=0.3 change.misregistration_mm=0.5

presets: challenge, small, tiny (tests), stress (one factor at a time), unlabelled_pairs,
single_timepoint, thick_slices. Then read it: msseg check read=msseg2 read.root=OUT
The layout is the challenge's, with participants.tsv, lesions.tsv (every lesion of every kind) and
split.json beside the folders. The same preset, settings and seed give the same bytes on any number
of workers. A cohort begun by another version of the simulator is not continued.
exit codes: 0 complete, 2 wrong settings, 3 the folder holds another cohort
"""


def main(arguments: Sequence[str]) -> ExitCode:
    """Simulate a cohort."""
    parser = argparse.ArgumentParser(
        prog="msseg simulate",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the cohort")
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="key=value",
        help="preset, seed, workers, patients, or a setting of the recipe",
    )
    parser.add_argument("--shard", type=Shard.parse, metavar="I/N", help=SHARD_HELP)
    options = parser.parse_intermixed_args(arguments)

    from msseg_lightning.run.data.simulate import load_recipe
    from msseg_lightning.simulate.cohort import write_cohort

    own = {"preset": "challenge", "seed": "0", "workers": "1", "patients": ""}
    rest = []
    for item in options.settings:
        key, equals, value = item.partition("=")
        if not equals:
            raise _wrong("settings", item, "key=value")
        if key in own:
            own[key] = value
        else:
            rest.append(item)
    recipe = load_recipe(own["preset"], rest)
    if min(recipe.train, recipe.test) < 0 or recipe.size < 1:
        raise _wrong("train, test", f"{recipe.train}, {recipe.test}", "0 or more, one in all")
    seed, workers = _number("seed", own["seed"]), _number("workers", own["workers"])
    indices = _patients(own["patients"], recipe.size)
    if options.shard:
        indices = options.shard.of(range(recipe.size) if indices is None else indices)
    write_cohort(options.out, recipe, seed, max(workers, 1), indices)
    number = recipe.size if indices is None else len(indices)
    sys.stdout.write(f"{number} patients in {options.out}\n")
    return ExitCode.OK


def _number(key: str, text: str) -> int:
    if not text.isdigit():
        raise _wrong(key, text, "a whole number")
    return int(text)


def _patients(text: str, size: int) -> list[int] | None:
    """``1-3,7`` as 0-based indices."""
    if not text:
        return None
    chosen: list[int] = []
    for part in text.strip("[]").split(","):
        first, _, last = part.partition("-")
        low, high = _number("patients", first), _number("patients", last or first)
        if not 1 <= low <= high <= size:
            raise _wrong("patients", part, f"numbers from 1 to {size}")
        chosen += range(low - 1, high)
    return chosen


def _wrong(field: str, found: str, expected: str) -> MssegError:
    return MssegError(
        Problem(
            "simulate.argument",
            "The command line could not be read.",
            field=field,
            found=found,
            expected=expected,
            remedy="msseg simulate --help",
            exit_code=ExitCode.CONFIG,
        )
    )
