"""Leaderboard of every system on a simulated cohort, and on real pairs.

Makes a cohort of 20 training and 20 test patients (6 of them without new lesions), runs `msseg
benchmark` over every system with four CPU minutes of training each, and writes docs/leaderboard.md.
With `--open-ms` every system is trained once more for each real patient of open_ms that is held
out, on the simulated training patients and the other real ones.

    python -m benchmarks.studies.leaderboard --open-ms DATA/open_ms --limit-minutes 120

Stopped by the limit or by Ctrl-C, the same command goes on; any number of processes share it.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from msseg_lightning.compare import leaderboard_table as tables
from msseg_lightning.compare.benchmark import BenchmarkResult
from msseg_lightning.compare.leaderboard import paragraphs
from msseg_lightning.core.files import write_json
from msseg_lightning.core.problem import ExitCode
from msseg_lightning.core.subject import BRAIN
from msseg_lightning.run.benchmark.plan import Benchmark
from msseg_lightning.run.benchmark.state import state_of_job

log = logging.getLogger("msseg.leaderboard")

PAGE = Path("docs/leaderboard.md")
SHEET = "real_pair_systems.png"
HELD_OUT_REAL = "patient01"
HELD_OUT_FILE = f"real-{HELD_OUT_REAL}.nii.gz"
FIRST = 10
"""Number of leading systems that are trained with three seeds."""
RECIPE = ("train=20", "test=20", "lesions.stratum=20", "lesions.without_new=0.3")
"""Changes of the recipe `small`: of each 20 patients 6 have no new lesion."""
TRAITS = ("size", "contrast", "region")
STOPPED = (ExitCode.PREEMPTED, ExitCode.INTERRUPTED, ExitCode.TERMINATED, ExitCode.HUNG_UP)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing, then write the page of what is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("work/leaderboard"))
    parser.add_argument("--open-ms", type=Path, help="real scans for the second table")
    parser.add_argument("--minutes", type=float, default=4.0, help="CPU minutes of each system")
    parser.add_argument("--limit-minutes", type=float, help="stop after so many minutes")
    parser.add_argument("--only", nargs="+", default=["all"], help="systems; all by default")
    parser.add_argument("--page-only", action="store_true", help="train nothing")
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    code = ExitCode.OK if options.page_only else work(options)
    write_page(options.work, options.open_ms, options.page)
    log.info("wrote %s", options.page)
    return code


def work(options: argparse.Namespace) -> ExitCode:
    """Both benchmarks, as far as the time allows."""
    from msseg_lightning.run.data.simulate import load_recipe
    from msseg_lightning.simulate.cohort import write_cohort

    end = None if options.limit_minutes is None else time.monotonic() + 60 * options.limit_minutes
    cohort = write_cohort(options.work / "cohort", load_recipe("small", RECIPE), seed=0)
    systems = f"systems=[{','.join(options.only)}]"
    simulated = [
        "benchmark",
        "simulated",
        f"read.root={cohort}",
        "split=file",
        f"split.path={cohort / 'split.json'}",
    ]
    common = [
        "size=cpu",
        "data.workers=1",
        f"budget.minutes={options.minutes:g}",
        f"paths.leaderboards={options.work}",
        f"paths.cache={options.work / 'cache'}",
    ]
    code = run([*simulated, *common, systems], end)
    if code in STOPPED:
        return code
    leading = first_ten(options.work)
    code = run([*simulated, *common, f"systems=[{','.join(leading)}]", "seed=0,1,2"], end)
    if code in STOPPED or options.open_ms is None:
        return code
    reader = "msseg_lightning.read"
    real = [
        "benchmark",
        "real",
        "read=several",
        f"+read.sources.sim={{_target_:{reader}.msseg2.Msseg2,root:{cohort}}}",
        f"+read.sources.real={{_target_:{reader}.open_ms.OpenMs,root:{options.open_ms}}}",
        "split=file",
        f"split.path={real_folds(options.work, cohort, options.open_ms)}",
        "fold=all",
    ]
    return run([*real, *common, systems], end)


def run(words: Sequence[str], end: float | None) -> ExitCode:
    """One command of `msseg`, with what is left of the time."""
    from msseg_lightning.cli.main import main as msseg

    limit = [] if end is None else ["--limit-minutes", str(max(0.0, end - time.monotonic()) / 60)]
    try:
        return ExitCode(msseg([*words, *limit]))
    except SystemExit as stopped:  # by a signal
        return ExitCode(stopped.code)


def first_ten(folder: Path) -> list[str]:
    """The systems that have several seeds already, else those that lead with one."""
    benchmark = Benchmark.of_folder(folder / "simulated")
    chosen = list(dict.fromkeys(job.system for job in benchmark.jobs if job.seed))
    board = BenchmarkResult.read(benchmark).board
    return chosen or ([] if board is None else board.order[:FIRST])


def real_folds(work: Path, cohort: Path, open_ms: Path) -> Path:
    """A fold for every real patient: held out in both directions of time, the others trained on."""
    from msseg_lightning.read.open_ms import OpenMs

    pairs = OpenMs(open_ms).subjects()
    simulated = json.loads((cohort / "split.json").read_text(encoding="utf-8"))["train"]
    folds = [
        {
            "train": [f"sim-{name}" for name in simulated]
            + [f"real-{pair.id}" for pair in pairs if pair.patient != patient],
            "test": [f"real-{pair.id}" for pair in pairs if pair.patient == patient],
        }
        for patient in sorted({pair.patient for pair in pairs})
    ]
    write_json(work / "real_folds.json", {"folds": folds})
    return work / "real_folds.json"


INTRODUCTION = """\
# Leaderboard

Every system of `msseg list` at `size=cpu`, trained by [`msseg benchmark`](benchmark.md) for four
processor minutes on the same 20 simulated patients (recipe `small`, 1.75 mm), and tested on 20
others, of whom 6 have no new lesion. Systems without training by gradients run as they are. The
first ten have three seeds.

```bash
make leaderboard                                  # goes on where it stopped; then writes this page
make leaderboard ARGS="--limit-minutes 60"        # for an hour
make leaderboard ARGS="--open-ms ../shared/data/open_ms"   # the real pairs too
```

**What these figures are not**: the papers' systems are larger and were trained for days; sizes,
patches and resolution are cut down here, each in its own way (`sizes.cpu` of its file). The order
says which of these small systems learns most in four minutes, no more.
"""

FINDINGS = """
## What stood out while these sizes were chosen

Found in 2026-11 on eight training and four other patients of the same recipe:

- `iqda_unet` and `metric_learning_unet` once found 6 of 21 lesions. The reason: training patches
  had the lesion in their middle, and a network whose patch is this small knows where the middle is.
  `iqda_unet` found all 25 training lesions there and 67 % of them 10 voxels off it. With lesions
  anywhere in the patch (one factor changed) it found 25 of 39 lesions of ten further simulated
  patients instead of 16, with 32 false ones instead of 83.
- `cascaded_probability_difference` needs steps for two networks in a row, for what the first
  misses is lost to the second. With 250 and 200 steps it found none of the 25 lesions it was
  trained on; with 600 and 800 (nothing else changed) 15 of them, and 20 of 39 of ten further
  simulated patients, at the paper's threshold of 0.1.
- `metric_learning_unet`: in its test (a small metric network, 300 steps) the estimate correlates
  with the true lesion F1 of 480 held-out mask pairs by 0.96
  (`tests/systems/test_metric_learning_unet.py`; the test asks for 0.8).
- `ohem_unet` ranks patches by cross-entropy here: by Dice, as its card reads, it kept no patch with
  a lesion in 134 steps. Its authors suspect the same and find mining no better than over-sampling.
- Dice per patch with empty patches counted drove `iqda_unet` and `synthetic_lesions_unet` to the
  empty answer; they use Dice over the batch, or ignore empty patches (`[R]` in their files).
"""

REAL = """
## Real pairs

Trained on the same simulated patients and two of the three real patients of open_ms (each forwards
and backwards in time), tested on the third; each is held out once. Three patients decide nothing:
the line at work.
"""

SHEET_WORDS = f"""
![one row per system](images/{SHEET})

*{HELD_OUT_REAL}, held out. Baseline, follow-up, difference, overlay: reference blue, prediction
orange, both green; the largest reference lesion.*
"""


def write_page(folder: Path, open_ms: Path | None, page: Path) -> None:
    """Write the documentation page and its pictures."""
    images = page.parent / "images"
    parts = [INTRODUCTION, *section(folder / "simulated", images, "simulated"), FINDINGS]
    if (folder / "real" / "benchmark.json").exists():
        parts += [REAL, *section(folder / "real", images, "real")]
        if open_ms is not None:
            contact_sheet(Benchmark.of_folder(folder / "real"), open_ms, images / SHEET)
        if (images / SHEET).exists():
            parts.append(SHEET_WORDS)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(parts) + "\n", encoding="utf-8")


def section(folder: Path, images: Path, name: str) -> list[str]:
    """Words, tables and pictures of a benchmark."""
    if not (folder / "benchmark.json").exists():
        return ["Nothing is trained yet.\n"]
    found = BenchmarkResult.read(Benchmark.of_folder(folder))
    board = found.board
    if board is not None:
        found.write()
    found = found.for_others()
    counts = ", ".join(f"{number} {state}" for state, number in found.counts().items())
    parts = [f"State: {counts}. {found.protocol()}\n"]
    if board is not None:
        parts += [f"{text}\n" for text in paragraphs(board)]
        for title, table in (
            ("Patients with new lesions", tables.with_lesions(board)),
            ("Patients without new lesions", tables.without_lesions(board)),
            ("Raters", tables.raters(board)),
            *((f"Lesion F1 by {name}", tables.by_trait(board, name)) for name in TRAITS),
            ("Active patients", tables.activity(board)),
            ("Other lesion rules", tables.by_rule(board)),
            ("Cost, and figures of the papers", tables.cost(board)),
        ):
            if table[1]:
                parts.append(f"### {title}\n\n{tables.markdown_table(table)}\n")
            if title == "Patients with new lesions":
                parts += picture_lines(folder, images, name)
    for title, words, table in found.sections():
        if table[1]:
            text = "\n\n".join(words)
            parts.append(f"### {title}\n\n{text}\n\n{tables.markdown_table(table)}\n")
    return parts


def picture_lines(folder: Path, images: Path, name: str) -> list[str]:
    """Copies the pictures of a leaderboard to the documentation."""
    lines = []
    for picture in ("intervals", "ranks"):
        if (folder / f"{picture}.svg").exists():
            images.mkdir(parents=True, exist_ok=True)
            copy = images / f"leaderboard_{name}_{picture}.svg"
            shutil.copy(folder / f"{picture}.svg", copy)
            lines.append(f"![{picture} of all systems](images/{copy.name})\n")
    return lines


def contact_sheet(benchmark: Benchmark, open_ms: Path, file: Path) -> None:
    """One row per system: the largest lesion of a held-out real pair."""
    from PIL import Image, ImageDraw, ImageFont

    from msseg_lightning.core.subject import BASELINE, FOLLOWUP, TARGET
    from msseg_lightning.read.load import load_subject
    from msseg_lightning.read.nifti import GateOptions, read_volume
    from msseg_lightning.read.open_ms import OpenMs
    from msseg_lightning.report.picture import CasePictures, CaseVolumes
    from msseg_lightning.report.run_page import predicted_findings, view_point

    (pair,) = [pair for pair in OpenMs(open_ms).subjects() if pair.id == HELD_OUT_REAL]
    volumes = load_subject(pair).volumes
    reference = volumes[TARGET]
    lesions = [finding.lesion for finding in predicted_findings("", reference)]
    lesion = max(lesions, key=lambda one: one.voxels)
    point = view_point(reference, lesion)
    font, small = (ImageFont.load_default(size=size) for size in (17, 15))
    header = Image.new("RGB", (260 + 4 * 200, 30), "white")
    for column, title in enumerate(
        ("baseline", "follow-up", "difference", "reference, prediction")
    ):
        ImageDraw.Draw(header).text((268 + 200 * column, 5), title, fill="black", font=font)
    rows = [np.asarray(header)]
    for job in benchmark.jobs:
        folder, name = state_of_job(benchmark, job).folder, job.system
        prediction = Path() if folder is None else folder / "predictions" / HELD_OUT_FILE
        if not prediction.is_file():
            continue
        mask = read_volume(
            prediction,
            "mask",
            GateOptions(largest_mask_fraction=1.0),
        )
        pictures = CasePictures(
            CaseVolumes(volumes[BASELINE], volumes[FOLLOWUP], mask, reference, None, volumes[BRAIN])
        )
        panel = pictures.lesion(point)[:200]
        label = Image.new("RGB", (260, 200), "white")
        ImageDraw.Draw(label).text((8, 84), name, fill="black", font=small)
        rows.append(np.concatenate([np.asarray(label), panel], axis=1))
    if len(rows) > 1:
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.concatenate(rows)).quantize(128).save(file, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
