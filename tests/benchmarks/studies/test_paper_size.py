"""Measurements at paper size: limits of processes, what is kept, and what the page says."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time

import psutil
import pytest

from benchmarks.studies import paper_size
from benchmarks.studies.paper_size import (
    Limits,
    Part,
    batch_words,
    edges,
    equal_answer,
    is_known,
    is_unfinished,
    measure,
    number_words,
    page,
    run_step,
    step_seconds,
    told,
    watch,
)

SYSTEM = "subtraction_unet_2d"
DONE = {
    "outcome": "done",
    "date": "2026-11-28T20:00",
    "commit": "abc1234",
    "machine": {"processor": "one", "cores": 2, "memory_gib": 24},
    "limit_minutes": 15.0,
    "limit_bytes": 16_000_000_000,
    "peak_bytes": 7_000_000_000,
}
STEP = {
    "seconds": [50.0, 40.0, 44.0],
    "steps": 86_400,
    "parameters": 1234567,
    "patch": [256, 256],
    "paper_batch": 32,
    "paper_accumulate": 1,
    "batch": 16,
    "accumulate": 2,
    "times": 1,
}


WORK = "from time import process_time as now\nwhile now() < 2: pass"


def started(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code], start_new_session=True)


def put(folder, part, **facts):
    file = part.file(folder)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(DONE | {"key": part.key} | facts))


def test_a_process_that_ends_is_done_and_its_memory_is_known():
    outcome, peak, _ = watch(
        started("x = bytearray(200_000_000); import time; time.sleep(0.4)"), 9, 10**9
    )
    assert outcome == "done"
    assert 200e6 < peak < 400e6


def test_a_process_that_hangs_is_killed_and_said_to_be_late():
    process = started("import time; time.sleep(60)")
    outcome, _, seconds = watch(process, 0.2, 10**9)
    assert outcome == "not in time" and 0.6 < seconds < 5
    assert process.returncode == -9


def test_a_process_that_works_is_killed_after_seconds_of_the_processor(monkeypatch):
    monkeypatch.setattr(paper_size, "WALL", 1000)
    assert watch(started(WORK), 0.2, 10**9)[0] == "not in time"


def test_a_process_that_takes_too_much_memory_is_killed():
    process = started("x = bytearray(300_000_000); import time; time.sleep(60)")
    assert watch(process, 9, 200_000_000)[0] == "too much memory"
    assert process.returncode == -9


def test_an_error_is_a_failure_and_a_full_gpu_is_not():
    assert watch(started("raise SystemExit(3)"), 9, 10**9)[0] == "failed"
    assert watch(started("raise SystemExit(77)"), 9, 10**9)[0] == "too much memory"


CHILD = """
import os, sys, time
from benchmarks.studies.paper_size import end_with_parent
end_with_parent(int(sys.argv[1]))
print("ready", os.getpid(), flush=True)
time.sleep(20)
"""
PARENT = f"""
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {CHILD!r}, str(os.getpid())], start_new_session=True)
time.sleep(20)
"""


def test_a_part_ends_with_the_command_that_started_it():
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline().split()[1])
        assert psutil.pid_exists(child)
        began = time.monotonic()
        parent.kill()
        assert parent.stdout.read() == ""  # waits until the child has closed it, too
        assert time.monotonic() - began < 10


def test_memory_is_limited_by_what_is_free(monkeypatch):
    free = dataclasses.make_dataclass("Free", ["available"])
    monkeypatch.setattr(paper_size.psutil, "virtual_memory", lambda: free(10 * 10**9))
    assert Limits().bytes() == 7 * 10**9
    assert Limits(memory_gb=5).bytes() == 5 * 10**9
    assert Limits(gpu=True).bytes() == 20 * 10**9


def test_what_is_tried_again():
    part = Part(SYSTEM, "real", "predict", key="k")
    known = {"key": "k", "limit_minutes": 15}
    assert is_known(known | {"outcome": "done"}, part, Limits())
    assert not is_known(known | {"outcome": "failed"}, part, Limits())
    assert not is_known(None, part, Limits())
    assert not is_known({"key": "other", "outcome": "done"}, part, Limits())
    late = known | {"outcome": "not in time"}
    assert is_known(late, part, Limits(minutes=15))
    assert not is_known(late, part, Limits(minutes=16))
    some = known | {"outcome": "done", "share_of_windows": 0.1, "seconds": 300.0}
    assert is_known(some, part, Limits(whole_minutes=4))
    assert not is_known(some, part, Limits(whole_minutes=5))


def test_an_equal_part_is_measured_once(tmp_path, monkeypatch):
    ready = Part("one", "real", "prepare", key="k")
    put(tmp_path, ready, seconds=12.0)
    monkeypatch.setattr(paper_size, "run", None)
    twin = Part("two", "real", "prepare", key="k")
    measure(twin, tmp_path, tmp_path, Limits())
    assert json.loads(twin.file(tmp_path).read_text())["seconds"] == 12
    assert equal_answer(Part("two", "simulated", "prepare", key="k"), tmp_path, Limits()) is None
    assert equal_answer(Part("two", "real", "prepare", key="other"), tmp_path, Limits()) is None


def test_nothing_follows_a_preparation_that_failed(tmp_path, monkeypatch):
    put(tmp_path, Part(SYSTEM, "real", "prepare"), outcome="not in time")
    monkeypatch.setattr(paper_size, "run", None)
    measure(Part(SYSTEM, "real", "step", SYSTEM, key="k"), tmp_path, tmp_path, Limits())


def answers(monkeypatch, outcome_of):
    """What runs of a step were asked for; ``outcome_of`` tells how each ended."""
    asked = []

    def run(part, root, folder, limits, batch, accumulate):
        asked.append((batch, accumulate))
        return {"outcome": outcome_of(batch, accumulate)}

    monkeypatch.setattr(paper_size, "run", run)
    return asked


def test_the_largest_batch_that_fits_is_found(tmp_path, monkeypatch):
    asked = answers(monkeypatch, lambda batch, _: "done" if batch <= 8 else "too much memory")
    found = run_step(Part(SYSTEM, "real", "step", SYSTEM), tmp_path, tmp_path, Limits())
    assert asked == [(32, 1), (16, 2), (8, 4)]
    assert (found["batch"], found["accumulate"], found["times"]) == (8, 4, 1)


def test_a_step_that_is_late_is_measured_by_one_of_its_batches(tmp_path, monkeypatch):
    asked = answers(monkeypatch, lambda batch, _: "done" if batch <= 8 else "not in time")
    found = run_step(Part(SYSTEM, "real", "step", SYSTEM), tmp_path, tmp_path, Limits())
    assert asked == [(32, 1), (8, 1)]
    assert (found["batch"], found["accumulate"], found["times"]) == (8, 4, 4)
    assert not found["short"]


def test_a_small_batch_is_never_larger_than_what_fits(tmp_path, monkeypatch):
    ends = {32: "too much memory", 16: "too much memory", 8: "too much memory", 4: "not in time"}
    asked = answers(
        monkeypatch, lambda batch, ways: ends[batch] if ways > 1 or batch > 4 else "done"
    )
    found = run_step(Part(SYSTEM, "real", "step", SYSTEM), tmp_path, tmp_path, Limits())
    assert asked == [(32, 1), (16, 2), (8, 4), (4, 8), (4, 1)]
    assert (found["batch"], found["accumulate"], found["times"]) == (4, 8, 8)


def test_a_batch_of_two_is_measured_by_its_half(tmp_path, monkeypatch):
    asked = answers(monkeypatch, lambda batch, _: "done" if batch == 1 else "not in time")
    part = Part("nnunet_pair_baseline", "real", "step", "nnunet_pair_baseline")
    assert run_step(part, tmp_path, tmp_path, Limits())["times"] == 2
    assert asked == [(2, 1), (1, 1)]


def test_a_short_run_takes_one_small_batch_and_is_done_again_by_a_full_one(tmp_path, monkeypatch):
    asked = answers(monkeypatch, lambda *_: "done")
    part = Part(SYSTEM, "real", "step", SYSTEM, key="k")
    found = run_step(part, tmp_path, tmp_path, Limits(short=True))
    assert asked == [(8, 1)] and (found["times"], found["short"]) == (4, True)
    assert is_known(found | {"key": "k"}, part, Limits(short=True))
    assert not is_known(found | {"key": "k"}, part, Limits())


def test_a_step_that_fails_is_not_tried_with_other_batches(tmp_path, monkeypatch):
    asked = answers(monkeypatch, lambda *_: "failed")
    assert run_step(Part(SYSTEM, "real", "step", SYSTEM), tmp_path, tmp_path, Limits())
    assert asked == [(32, 1)]


def test_seconds_of_a_step_leave_out_the_first_and_count_its_batches():
    assert step_seconds({"seconds": [50.0, 40.0, 44.0], "times": 1}) == 42
    assert step_seconds({"seconds": [50.0], "times": 4}) == 200


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"batch": 32, "accumulate": 1, "times": 1}, "32"),
        ({"batch": 16, "accumulate": 2, "times": 1}, "2 x 16 (paper: 32)"),
        ({"batch": 8, "accumulate": 4, "times": 4}, "4 x 8 (paper: 32), 1 of 4 run"),
    ],
)
def test_words_of_a_batch(facts, words):
    assert batch_words({"paper_batch": 32, "paper_accumulate": 1, **facts}) == words


def test_words_of_numbers_and_edges():
    assert [number_words(value) for value in (1234.4, 12.34, 1.234)] == ["1,234", "12.3", "1.23"]
    assert (edges([128, 128, 128]), edges([64, 160, 192])) == ("128^3", "64x160x192")
    assert edges([0.5, 0.5, 0.5]) == "0.5^3"


def test_why_there_is_no_figure():
    assert told(None) == "not run"
    assert told({"outcome": "not in time", "limit_minutes": 15.0}) == "did not end in 15 CPU min"
    assert told({"outcome": "too much memory", "limit_bytes": 16e9}) == "needs more than 16 GB"
    assert told({"outcome": "done"}) == ""


def test_the_page_has_costs_and_names_what_is_missing(tmp_path):
    folder = tmp_path / "cpu"
    grid = {"shape": [256, 256, 200], "spacing_mm": [1, 1, 1]}
    put(folder, Part(SYSTEM, "simulated", "prepare"), seconds=40.0, grids=[grid])
    put(folder, Part(SYSTEM, "simulated", "step", SYSTEM), **STEP)
    put(
        *(folder, Part(SYSTEM, "simulated", "predict", SYSTEM)),
        **{"seconds": 60.0, "share_of_windows": 0.25},
    )
    text = page([SYSTEM, "pre_unet"], tmp_path)
    training = (
        f"| `{SYSTEM}` | 1 | 1,234,567 | 256^2 | 2 x 16 (paper: 32) | 42.0 | 7.0 | 86400 | 42.0 |"
    )
    assert training in text  # 86,400 steps of 42 seconds are 42 days
    pair = (
        f"| `{SYSTEM}` | 40.0 | 7.0 | 256x256x200 of 1^3 mm | 42.0 | 60.0 (25.0% of the windows) |"
    )
    assert pair in text
    assert "--pairs simulated --systems pre_unet\n" in text
    assert f"--pairs real --systems {SYSTEM},pre_unet\n" in text
    assert "commits abc1234; one, 2 cores, 24 GiB; one thread" in text
    assert "No GPU was at hand" in text


def test_what_was_not_run_or_only_in_short_is_unfinished(tmp_path):
    ready = Part(SYSTEM, "real", "prepare")
    step, answered = (Part(SYSTEM, "real", part, SYSTEM) for part in ("step", "predict"))
    assert is_unfinished(SYSTEM, "real", tmp_path)
    put(tmp_path, ready, outcome="not in time")
    assert not is_unfinished(SYSTEM, "real", tmp_path)
    put(tmp_path, ready)
    put(tmp_path, step)
    assert is_unfinished(SYSTEM, "real", tmp_path)
    put(tmp_path, answered)
    assert not is_unfinished(SYSTEM, "real", tmp_path)
    put(tmp_path, step, short=True)
    assert is_unfinished(SYSTEM, "real", tmp_path)


def test_the_page_has_a_column_of_gpu_days_where_a_gpu_was_measured(tmp_path):
    put(tmp_path / "cpu", Part(SYSTEM, "simulated", "step", SYSTEM), **STEP)
    gpu = STEP | {"seconds": [1.0, 0.5, 0.5], "gpu": "NVIDIA H100"}
    put(tmp_path / "cuda", Part(SYSTEM, "simulated", "step", SYSTEM), **gpu)
    text = page([SYSTEM], tmp_path)
    assert "| training, NVIDIA H100 days |" in text
    assert "| 86400 | 42.0 | 0.50 |" in text
