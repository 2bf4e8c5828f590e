"""Benchmarks: the command is given again with the words of the remedy."""

from __future__ import annotations

import pytest

from msseg_lightning.compare.benchmark import benchmark_words
from msseg_lightning.run.benchmark.budget import Budget
from msseg_lightning.run.benchmark.plan import Benchmark, BenchmarkArguments
from msseg_lightning.run.benchmark.worker import Deadline, Worker
from tests.remedies.place import Place, case
from tests.run.benchmark.toy import begin, simulate

LEADERBOARDS = "leaderboards"


@case("benchmark.budget")
def a_budget_that_is_none(place: Place) -> None:
    refusal = place.raised("benchmark.budget", lambda: Budget.parse({"hours": "1"}))
    for words in refusal.settings():
        key, _, value = words[0].removeprefix("budget.").partition("=")
        assert Budget.parse({key: value}).as_dict() == {key: float(value)}


@case("benchmark.argument", "benchmark.missing")
def a_name_that_is_none(place: Place) -> None:
    refusal = place.raised("benchmark.argument", lambda: BenchmarkArguments.of("a/b", ()))
    (command,) = refusal.commands()
    with pytest.raises(SystemExit) as ended:
        from msseg_lightning.cli.main import main

        main(command)
    assert ended.value.code == 0
    refusal = place.refused("benchmark.missing", ["benchmark", "mine", "--status"])
    place.follow_commands(refusal)
    words = refusal.settings(FOLDER="data")[-1]
    begun = BenchmarkArguments.of("mine", ["systems=[bsi_subtraction]", words[-1]])
    assert Benchmark.begin(begun).systems == ["bsi_subtraction"]
    place.ends_well(["benchmark", "mine", "--status"])


@case("benchmark.other")
def other_settings(place: Place) -> None:
    begin(LEADERBOARDS, "bsi_subtraction")
    refusal = place.raised(
        "benchmark.other", lambda: begin(LEADERBOARDS, "bsi_subtraction", "size=cpu")
    )
    assert refusal.remedy.startswith("give its own settings, or another NAME")
    begin(LEADERBOARDS, "bsi_subtraction")
    begin(LEADERBOARDS, "bsi_subtraction", "size=cpu", name="other")
    assert Benchmark.begin(BenchmarkArguments.of("toy", ())).jobs


@case("benchmark.time", "benchmark.empty")
def the_time_is_over(place: Place) -> None:
    patch: pytest.MonkeyPatch = place.fixture("monkeypatch")
    trained = simulate(patch)
    benchmark = begin(LEADERBOARDS, "bsi_subtraction")
    work = Worker(benchmark)
    work.deadline = Deadline(0)
    refusal = place.raised("benchmark.time", work.run)
    empty = place.raised("benchmark.empty", lambda: benchmark_words("toy"))
    place.follow_commands(refusal)
    place.follow_commands(empty)
    assert trained == ["bsi_subtraction-fold0-seed0"] and benchmark_words("toy")
