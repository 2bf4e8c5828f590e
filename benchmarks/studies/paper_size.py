"""Does every system run at its paper's own size, and what would it cost to train?

    python -m benchmarks.paper_size [--systems NAME,NAME] [--folder FOLDER]
                                    [--open-ms DATA/open_ms] [--short] [--status] [--page FILE]

Every system of ``msseg list`` is taken with ``size=paper`` on a simulated pair of 1 mm and on a
real pair of open_ms: the pair is prepared as the paper says, each network makes one optimiser step
with the paper's patch, and the pair is predicted. The batch is the paper's where it fits the
memory, else the largest part of it that does, and the rest is accumulated. Each part runs in a
process of its own with one thread; it is killed where it takes longer than ``--limit`` minutes of
the processor (or three times that in all: the machine may be busy, the process may wait) or holds
more than ``--memory`` GB (20, and never more than 70 % of what is free when it starts), and
the others go on. What is resident is read every 100 ms.

Every answer is kept below the folder, one JSON per system, pair and part. A stopped command goes
on; what failed is tried again, what did not end in time or was run in part only with larger limits.
Parts of two systems with equal settings are measured once. What runs in the processes lies in
``benchmarks.studies.paper_size_parts``.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks import harness
from benchmarks.harness import ROOT
from msseg_lightning.core.files import write_json

log = logging.getLogger("msseg.paper_size")

FOLDER = ROOT / "benchmarks" / "results" / "paper_size"
PAGE = ROOT / "docs" / "paper_size.md"
SHARED = Path(os.environ.get("MSSEG_SHARED", ROOT.parent / "shared"))
KINDS = ("simulated", "real")
PATIENT = 1
"""Of the cohort of ``conf/simulate/challenge.yaml``: it has two new lesions."""
ENDED = ("done", "nothing to train")
GB = 1e9
MOST_OF_FREE = 0.7
PR_SET_PDEATHSIG = 1  # of linux/prctl.h
POLL_S = 0.1
WALL = 3
"""A part may wait so many times its limit for the processor."""
OUT_OF_MEMORY = 77
"""Exit code of a process whose GPU has no more memory to give."""
DAY_S = 86400
SMALL = 4
"""A small batch is this part of the paper's."""


@dataclasses.dataclass(frozen=True)
class Part:
    """One measurement.

    Args:
        system: an experiment.
        kind: of the pair, of ``KINDS``.
        part: ``prepare``, ``step`` or ``predict``.
        member: of an ensemble, or the system; empty for ``prepare``.
        stage: before the last one, or empty.
        key: of the settings that decide the measurement: equal parts are measured once.
    """

    system: str
    kind: str
    part: str
    member: str = ""
    stage: str = ""
    key: str = ""

    def file(self, folder: Path) -> Path:
        """Where the answer lies."""
        name = "-".join(filter(None, (self.part, self.member, self.stage)))
        return folder / self.kind / self.system / f"{name}.json"


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a part may take, and how much of it is enough.

    Args:
        minutes: of the processor, after which a part is killed; of the wall three times as many.
        memory_gb: it may hold at most.
        whole_minutes: a prediction that takes longer is run in part.
        gpu: whether networks run on a GPU.
        short: of every step only one small batch is run.
    """

    minutes: float = 15.0
    memory_gb: float = 20.0
    whole_minutes: float = 10.0
    gpu: bool = False
    short: bool = False

    def bytes(self) -> int:
        """Memory that a part may hold now."""
        free = psutil.virtual_memory().available
        if self.gpu:
            return int(self.memory_gb * GB)
        return int(min(self.memory_gb * GB, MOST_OF_FREE * free))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, then write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper_size",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--systems", default="", help="names, separated by commas; all by default")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of answers and prepared pairs")
    parser.add_argument("--open-ms", type=Path, default=SHARED / "data" / "open_ms")
    parser.add_argument("--pairs", default=",".join(KINDS), help="simulated, real or both")
    parser.add_argument("--limit", type=float, default=15.0, help="CPU minutes of a part")
    parser.add_argument("--memory", type=float, default=20.0, help="GB of a part")
    parser.add_argument(
        "--whole", type=float, default=10.0, help="minutes: longer predictions run in part"
    )
    parser.add_argument(
        "--short", action="store_true", help="run one small batch of each step, for a first look"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--status", action="store_true", help="list what was measured, and end")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    folder = options.folder / options.device
    every = system_names()
    chosen = options.systems.split(",") if options.systems else every
    kinds = options.pairs.split(",")
    if unknown := sorted((set(chosen) - set(every)) | (set(kinds) - set(KINDS))):
        parser.error(f"unknown: {', '.join(unknown)}; systems are {', '.join(every)}")
    if options.status:
        sys.stdout.write("\n".join(status(every, folder)) + "\n")
        return 0
    gpu = options.device == "cuda"
    limits = Limits(options.limit, options.memory, options.whole, gpu, options.short)
    for kind in kinds:
        root = pair_root(kind, options.folder, options.open_ms)
        if root is None:
            log.info("no real pair: %s is not there", options.open_ms)
            continue
        for system in chosen:
            for part in parts(system, kind):
                measure(part, root, folder, limits)
                options.page.write_text(page(every, options.folder), encoding="utf-8")
    options.page.write_text(page(every, options.folder), encoding="utf-8")
    log.info("wrote %s", options.page)
    return 0


def system_names() -> list[str]:
    """The systems of ``msseg list``, in its order."""
    from msseg_lightning.run.config.cards import read_cards

    return [card["name"] for card in read_cards()]


def pair_root(kind: str, folder: Path, open_ms: Path) -> Path | None:
    """Where the pair lies; the simulated one is made where it is missing."""
    if kind == "real":
        return open_ms if open_ms.is_dir() else None
    from msseg_lightning.run.data.simulate import load_recipe
    from msseg_lightning.simulate.cohort import write_cohort

    return write_cohort(folder / "cohort", load_recipe("challenge"), seed=0, indices=[PATIENT])


def parts(system: str, kind: str) -> list[Part]:
    """All measurements of a system on a pair, in order."""
    from benchmarks.studies.paper_size_parts import composed, networks
    from msseg_lightning.method.staged import digest
    from msseg_lightning.run.config.keys import of_a_stage

    found = networks(composed(system))

    def key(part: str, *settings: Any) -> str:
        return digest([part, kind, *settings])[:24]

    def deciding(config: Mapping[str, Any]) -> Any:
        stages = {name: node for name, node in (config.get("stages") or {}).items()}
        postprocess = config.get("postprocess") if not stages else None
        own = {name: value for name, value in of_a_stage(config).items() if name != "seed"}
        return [own, stages, postprocess, config.get("trainer"), config.get("uses")]

    ways = sorted({digest([one.config["preprocess"], one.config["channels"]]) for one in found})
    made = [Part(system, kind, "prepare", key=key("prepare", ways))]
    for one in found:
        settings = deciding(one.config)
        made.append(Part(system, kind, "step", one.member, one.stage, key("step", settings)))
    for one in found:
        if not one.stage:
            settings = deciding(one.config)
            made.append(Part(system, kind, "predict", one.member, key=key("predict", settings)))
    return made


def measure(part: Part, root: Path, folder: Path, limits: Limits) -> None:
    """Run a part unless its answer is there."""
    file = part.file(folder)
    if is_known(answer(file), part, limits):
        return
    if part.part != "prepare":
        ready = answer(Part(part.system, part.kind, "prepare").file(folder))
        if ready is None or ready["outcome"] != "done":
            return  # it would only prepare the pair again
    if (twin := equal_answer(part, folder, limits)) is not None:
        write_json(file, twin)
        return
    log.info("%s, %s pair: %s %s %s", part.system, part.kind, part.part, part.member, part.stage)
    before = harness.record()
    facts = run_step(part, root, folder, limits) if part.part == "step" else None
    if facts is None:
        facts = run(part, root, folder, limits)
    facts |= {"key": part.key, "system": part.system, "limit_minutes": limits.minutes}
    facts |= {name: before[name] for name in ("date", "commit", "changed", "machine")}
    write_json(file, facts)
    log.info("  %s", facts["outcome"])


def answer(file: Path) -> dict[str, Any] | None:
    """What was measured; None where nothing was."""
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def is_known(found: Mapping[str, Any] | None, part: Part, limits: Limits) -> bool:
    """Whether a part need not be run (again)."""
    if found is None or found.get("key") != part.key:
        return False
    if found["outcome"] == "not in time":
        return bool(found["limit_minutes"] >= limits.minutes)
    if found.get("share_of_windows", 1) < 1 and found["seconds"] <= limits.whole_minutes * 60:
        return False  # all windows are wanted now
    if found.get("short") and not limits.short:
        return False
    return bool(found["outcome"] == "done")


def equal_answer(part: Part, folder: Path, limits: Limits) -> dict[str, Any] | None:
    """The finished answer of another system with equal settings."""
    for file in sorted(folder.glob(f"{part.kind}/*/{part.part}*.json")):
        found = answer(file)
        if is_known(found, part, limits):
            return found
    return None


def run_step(part: Part, root: Path, folder: Path, limits: Limits) -> dict[str, Any]:
    """A step with the largest batch that fits.

    Where a step does not end in time, one batch of at most a quarter of the paper's is run alone
    and counted as often as the step has batches; a short run does nothing else.
    """
    from benchmarks.studies.paper_size_parts import batch_plan, composed, networks

    found = networks(composed(part.system))
    train = next(
        one.config.get("train")
        for one in found
        if (one.member, one.stage) == (part.member, part.stage)
    )
    if train is None:
        return run(part, root, folder, limits)
    plan = batch_plan(train["batch_size"], train["accumulate"])
    small = max(1, train["batch_size"] // SMALL)
    facts: dict[str, Any] = {"outcome": "failed", "reason": "no batch"}
    if not limits.short:
        for batch, accumulate in plan:
            facts = run(part, root, folder, limits, batch=batch, accumulate=accumulate)
            facts |= {"batch": batch, "accumulate": accumulate, "times": 1}
            if facts["outcome"] != "too much memory":
                break
        if facts["outcome"] != "not in time":
            return facts
        small = min(small, facts["batch"])
    for batch, accumulate in plan:
        if batch <= small:
            facts = run(part, root, folder, limits, batch=batch, accumulate=1)
            facts |= {"batch": batch, "accumulate": accumulate, "times": accumulate}
            if facts["outcome"] != "too much memory":
                break
    return facts | {"short": limits.short and facts["times"] > 1}


def run(part: Part, root: Path, folder: Path, limits: Limits, **more: Any) -> dict[str, Any]:
    """Run a part in a process of its own.

    Returns:
        Its facts with ``outcome``: done, failed, not in time, or too much memory.
    """
    place = part.file(folder)
    place.parent.mkdir(parents=True, exist_ok=True)
    task_file, answer_file = place.with_suffix(".task"), place.with_suffix(".answer")
    answer_file.unlink(missing_ok=True)
    most = limits.bytes()
    accelerator = "gpu" if limits.gpu else "cpu"
    words = [f"read.root={root}", f"paths.cache={folder.parent / 'cache'}", "data.workers=1"]
    task = {
        **dataclasses.asdict(part),
        "data": part.kind,
        "root": str(root),
        "folder": str(place.parent),
        "words": [*words, f"trainer.accelerator={accelerator}"],
        "answer": str(answer_file),
        "model": str(place.parent / "model"),
        "threads": 1,
        "parent": os.getpid(),
        "gpu": limits.gpu,
        "limit_bytes": most,
        "most_s": limits.whole_minutes * 60,
        "part_s": min(60.0, limits.whole_minutes * 6),
        "enough_s": 10.0,
        **more,
    }
    write_json(task_file, task)
    single = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    single["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"
    command = [sys.executable, "-m", "benchmarks.studies.paper_size_parts", str(task_file)]
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
    with place.with_suffix(".log").open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            command,
            stdout=stream,
            stderr=stream,
            cwd=ROOT,
            env={**os.environ, **single, "PYTHONPATH": paths},
            start_new_session=True,
        )
        outcome, peak, seconds = watch(process, limits.minutes * 60, most, limits.gpu)
    facts = answer(answer_file) or {}
    task_file.unlink()
    answer_file.unlink(missing_ok=True)
    if outcome == "done" and not facts:
        outcome = "failed"
    facts |= {"outcome": outcome, "peak_bytes": peak, "limit_bytes": most, "wall_s": seconds}
    if outcome == "failed":
        lines = place.with_suffix(".log").read_text(encoding="utf-8").strip().splitlines()
        facts["reason"] = lines[-1][:300] if lines else "no word"
    return facts


def watch(
    process: subprocess.Popen[bytes], seconds: float, most: int, gpu: bool = False
) -> tuple[str, int, float]:
    """Wait for a process, and kill it with its children where it takes too much.

    Returns:
        Outcome, the most bytes that were resident, seconds of the wall.
    """
    began, peak, outcome = time.monotonic(), 0, ""
    try:
        while process.poll() is None and not outcome:
            time.sleep(POLL_S)
            held, used = resources(process.pid)
            peak = max(peak, held)
            if peak > most and not gpu:
                outcome = "too much memory"
            elif used > seconds or time.monotonic() - began > WALL * seconds:
                outcome = "not in time"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if not outcome:
        codes = {0: "done", OUT_OF_MEMORY: "too much memory"}
        outcome = codes.get(process.returncode, "failed")
    return outcome, peak, time.monotonic() - began


def end_with_parent(parent: int) -> None:
    """Let this process be killed when its parent ends, however that is ended (Linux)."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended already
        os.kill(os.getpid(), signal.SIGKILL)


def resources(process: int) -> tuple[int, float]:
    """Bytes that a process holds, and seconds of the processor that it has used."""
    try:
        one = psutil.Process(process)
        times = one.cpu_times()
        return int(one.memory_info().rss), float(times.user + times.system)
    except psutil.Error:  # it has ended meanwhile
        return 0, 0.0


def status(names: Sequence[str], folder: Path) -> list[str]:
    """One line for every part of every system."""
    lines = []
    for kind in KINDS:
        for system in names:
            for part in parts(system, kind):
                found = answer(part.file(folder))
                outcome = "not run" if found is None else str(found["outcome"])
                if found is not None and found.get("key") != part.key:
                    outcome = "of other settings, is run again"
                what = " ".join(filter(None, (part.part, part.member, part.stage)))
                lines.append(f"{kind:10} {system:32} {outcome:16} {what}")
    return lines


# ---------------------------------------------------------------------------- the page

INTRODUCTION = """\
# Every system at its paper's own size

Does every system of `msseg list` run with the sizes of its paper (`size=paper`), and what would its
training cost? One simulated pair of 1 mm and one real pair of open_ms are prepared as the paper
says, every network makes one optimiser step with the paper's patch, and the pair is predicted.

```bash
python -m benchmarks.paper_size            # hours; goes on where it stopped, then writes this page
python -m benchmarks.paper_size --status   # what was measured
python -m benchmarks.paper_size --short    # one small batch of each step, for a first look
python -m benchmarks.paper_size --systems pre_unet,ohem_unet
python -m benchmarks.paper_size --device cuda
```

The command is `benchmarks.studies.paper_size`; what runs in its processes lies in
`benchmarks/studies/paper_size_parts.py`.

- Seconds are CPU seconds of one thread, float32, without a compiler, as `msseg train` runs on a CPU
  unless told otherwise. GB are the most memory that was resident, Python and the libraries
  included (0.6 GB), read every 100 ms.
- **Batch.** The paper's where it fits 20 GB (and 70 % of what is free), else the largest part of it
  that does; the rest is accumulated: *2 x 10* adds up two batches of ten patches. Where a step
  takes longer than the limit of its process, or for a first look (`--short`), one small batch was
  run and counted as often as the step has it; the table says so (*1 of 4 run*), and memory is that
  of the small batch. Per patch a small batch can be much quicker on a CPU: `tiramisu_2_5d_plain`
  took 28.5 s for 16 at once, its twin 11.1 s for four times four.
- **Step.** Where three are quick, the mean of the later two, else the one; patches are drawn and
  augmented within. **Training** is that times the steps of the configuration times the networks
  that the paper trains; validation during training is not in it.
- **Prediction** is that of one trained system: of an ensemble, all members. Where all windows would
  take more than some minutes (`--whole`), a part of them was run (the percentage) and the rest is
  extrapolated. Networks are untrained, so their masks say nothing.
- Where an earlier stage makes an image of the pair, the step of the later stage is given an image
  of zeros; the prediction makes it.
- `bsi_subtraction` has rules alone and `bsi_lightgbm` boosters: neither has an optimiser step. The
  booster of the table was grown on the one pair, which says nothing about 40 patients.
- Parts that two systems share are measured once and stand in both rows.
"""

HEADER = (
    *("system", "networks", "parameters", "patch", "batch", "step, s", "step, GB"),
    *("steps", "training, CPU days"),
)
PAIR_HEADER = (
    *("system", "preparation, s", "GB", "grid", "step, s", "prediction, s", "GB", "commit"),
)


def page(names: Sequence[str], folder: Path) -> str:
    """The documentation page."""
    cpu = folder / "cpu"
    lines = [INTRODUCTION, *environment(names, cpu)]
    h100 = gpu_name(names, folder / "cuda")
    header = (*HEADER, *([f"training, {h100} days"] if h100 else []))
    lines += ["## Training", ""]
    if not h100:
        lines += [
            "No GPU was at hand, so there is no column of GPU days (`--device cuda` adds it).",
            "",
        ]
    lines += table(header, [row for name in names for row in training_rows(name, folder, h100)])
    for kind in KINDS:
        rows = [row for name in names if (row := pair_row(name, kind, cpu))]
        lines += ["", f"## The {kind} pair", "", *table(PAIR_HEADER, rows)]
    lines += ["", *left_out(names, cpu)]
    return "\n".join(lines) + "\n"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table."""
    return ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)]


def every_answer(names: Sequence[str], folder: Path) -> Iterator[dict[str, Any]]:
    for name in names:
        for file in sorted(folder.glob(f"*/{name}/*.json")):
            if (found := answer(file)) is not None:
                yield found


def environment(names: Sequence[str], folder: Path) -> list[str]:
    """When, where and with what the table was measured."""
    found = list(every_answer(names, folder))
    if not found:
        return ["Nothing was measured yet.", ""]
    dates = sorted(one["date"] for one in found)
    machines = sorted(
        {
            f"{m['processor']}, {m['cores']} cores, {m['memory_gib']} GiB"
            for m in (one["machine"] for one in found)
        }
    )
    commits = sorted({one["commit"] for one in found})
    limits = sorted({f"{one['limit_minutes']:g}" for one in found}, key=float)
    free = sorted(one["limit_bytes"] / GB for one in found if "limit_bytes" in one)
    return [
        f"Measured {dates[0]} to {dates[-1]}, commits {', '.join(commits)}; "
        f"{'; '.join(machines)}; one thread. "
        f"Limit of a part: {' or '.join(limits)} CPU min, {free[0]:.0f} to {free[-1]:.0f} GB.",
        "",
    ]


def gpu_name(names: Sequence[str], folder: Path) -> str:
    """The GPU that steps were measured on, if any."""
    return next((one["gpu"] for one in every_answer(names, folder) if one.get("gpu")), "")


def step_seconds(found: Mapping[str, Any]) -> float:
    """Seconds of one optimiser step of the paper: without the first where there are several."""
    values = sorted(found["seconds"][1:] or found["seconds"])
    middle = (values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2
    return float(middle * found["times"])


def told(found: Mapping[str, Any] | None) -> str:
    """In words, why there is no figure; empty where there is one."""
    if found is None:
        return "not run"
    if found["outcome"] == "not in time":
        return f"did not end in {found['limit_minutes']:g} CPU min"
    if found["outcome"] == "too much memory":
        return f"needs more than {found['limit_bytes'] / GB:.0f} GB"
    return "failed" if found["outcome"] == "failed" else ""


def training_rows(system: str, folder: Path, gpu: str) -> Iterator[list[str]]:
    """A row for every network of a system."""
    from benchmarks.studies.paper_size_parts import composed, networks

    if not any(folder.glob(f"*/*/{system}/step-*.json")):
        return
    days: list[float | None] = []
    several = networks(composed(system))
    for one in several:
        places = [
            Part(system, kind, "step", one.member, one.stage).file(folder / device)
            for device, kind in (("cpu", "simulated"), ("cpu", "real"), ("cuda", "simulated"))
        ]
        cpu, real, cuda = (answer(place) for place in places)
        found = cpu if cpu and not told(cpu) else real if real and not told(real) else cpu
        names = [f"`{system}`"]
        names += [one.member] if one.member != system else []
        names += [f"stage {one.stage}"] if one.stage else []
        name = ", ".join(names)
        if not one.has_step:
            fit = "no step: rules"
            if found and found.get("boosters"):
                fit = f"no step: a booster in {number_words(found['fit_s'])}"
            yield [name, "0", "-", "-", "-", fit, "-", "-", "-"] + (["-"] if gpu else [])
            continue
        if told(found):
            days.append(None)
            count = one.config["train"]["steps"]
            yield [name, str(one.count), "-", "-", "-", told(found), "-", str(count), "-"] + (
                ["-"] if gpu else []
            )
            continue
        assert found is not None
        seconds = step_seconds(found)
        days.append(seconds * found["steps"] * one.count / DAY_S)
        cells = [
            name,
            str(one.count),
            f"{found['parameters']:,}",
            edges(found["patch"]),
            batch_words(found),
            number_words(seconds),
            f"{found['peak_bytes'] / GB:.1f}",
            str(found["steps"]),
            number_words(days[-1]),
        ]
        if gpu:
            known = cuda is not None and not told(cuda)
            gpu_days = (
                step_seconds(cuda) * cuda["steps"] * one.count / DAY_S if known and cuda else None
            )
            cells.append("-" if gpu_days is None else number_words(gpu_days))
        yield cells
    if len(several) > 1 and all(value is not None for value in days):
        total = sum(value for value in days if value is not None)
        yield [f"`{system}`, all", *[""] * 7, number_words(total), *([""] if gpu else [])]


def edges(values: Sequence[float]) -> str:
    """64x160x192; equal edges as 128^3."""
    words = [f"{value:g}" for value in values]
    return f"{words[0]}^{len(words)}" if len(set(words)) == 1 else "x".join(words)


def batch_words(found: Mapping[str, Any]) -> str:
    """The batch as it was run, and how many of them make a step."""
    words = (
        f"{found['accumulate']} x {found['batch']}"
        if found["accumulate"] > 1
        else str(found["batch"])
    )
    paper = found["paper_batch"], found["paper_accumulate"]
    if (found["batch"], found["accumulate"]) != paper:
        given = f"{paper[1]} x {paper[0]}" if paper[1] > 1 else str(paper[0])
        words += f" (paper: {given})"
    return words + (f", 1 of {found['times']} run" if found["times"] > 1 else "")


def number_words(value: float) -> str:
    """Three digits."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def pair_row(system: str, kind: str, folder: Path) -> list[str] | None:
    """Preparation, step and prediction of one pair; None where nothing was run."""
    from benchmarks.studies.paper_size_parts import composed, members

    ready = answer(Part(system, kind, "prepare").file(folder))
    if ready is None:
        return None
    cells = [f"`{system}`"]
    if told(ready):
        return [*cells, told(ready), "-", "-", "-", "-", "-", ready["commit"] or "-"]
    grids = ", ".join(
        f"{edges(grid['shape'])} of {edges(grid['spacing_mm'])} mm" for grid in ready["grids"]
    )
    cells += [number_words(ready["seconds"]), f"{ready['peak_bytes'] / GB:.1f}", grids]
    steps = [answer(file) for file in sorted((folder / kind / system).glob("step-*.json"))]
    failed = next((told(one) for one in steps if told(one)), "not run" if not steps else "")
    seconds = [step_seconds(one) for one in steps if one and "seconds" in one]
    cells.append(failed or " + ".join(map(number_words, seconds)) or "none")
    total, share, peak = 0.0, 1.0, 0
    for member, (_, count) in members(composed(system)).items():
        found = answer(Part(system, kind, "predict", member).file(folder))
        if told(found):
            return [*cells, told(found), "-", ready["commit"] or "-"]
        assert found is not None
        total += count * found["seconds"]
        share, peak = min(share, found["share_of_windows"]), max(peak, found["peak_bytes"])
    part = "" if share == 1 else f" ({share:.1%} of the windows)"
    return [*cells, number_words(total) + part, f"{peak / GB:.1f}", ready["commit"] or "-"]


def left_out(names: Sequence[str], folder: Path) -> list[str]:
    """What was not run or only in short, with the command that completes it, and what failed."""
    lines = []
    for kind in KINDS:
        missing = [name for name in names if is_unfinished(name, kind, folder)]
        if missing:
            lines += [
                f"Not run on the {kind} pair, or only in part: {', '.join(missing)}. To complete:",
                "",
                "```bash",
                f"python -m benchmarks.paper_size --pairs {kind} --systems {','.join(missing)}",
                "```",
                "",
            ]
    reasons = sorted(
        {
            f"- `{one['system']}`: {one['reason']}"
            for one in every_answer(names, folder)
            if "reason" in one
        }
    )
    return lines + (["What failed:", "", *reasons] if reasons else [])


def is_unfinished(system: str, kind: str, folder: Path) -> bool:
    """Whether a part of a system was not run, or only in short."""
    from benchmarks.studies.paper_size_parts import composed, networks

    ready = answer(Part(system, kind, "prepare").file(folder))
    if ready is None or told(ready):
        return ready is None
    found = []
    for one in networks(composed(system)):
        found.append(answer(Part(system, kind, "step", one.member, one.stage).file(folder)))
        if not one.stage:
            found.append(answer(Part(system, kind, "predict", one.member).file(folder)))
    return any(one is None or one.get("short", False) for one in found)


if __name__ == "__main__":
    sys.exit(main())
