import functools
import importlib
import json
import math
import os
import sys
import time

import pytest

from benchmarks import __main__ as command
from benchmarks import harness
from benchmarks.harness import Row
from benchmarks.rows import rows_of


def test_rows_hold_or_fall_short():
    # 30 ms there, 10 ms here: three times as fast
    assert Row.faster("a", 10.0, 30.0, 3.0).holds is True
    assert Row.faster("a", 10.0, 29.0, 3.0).verdict == "FALLS SHORT"
    assert Row.faster("a", 10.0, None, 3.0).verdict == "not measured"
    assert Row.faster("a", 10.0, 30.0, None).verdict == ""
    assert Row.at_most("a", 15.0, 15.0, "ms").holds is True
    assert Row.at_most("a", 15.1, 15.0, "ms").holds is False
    assert Row.at_most("a", None, 15.0, "ms").verdict == "not measured"


def test_a_limit_may_be_a_multiple_of_bare_work():
    row = Row.at_most_times("start", 6.0, 4.0, 1.6, "CPU s", "bare import")
    assert (row.ratio, row.limit, row.verdict) == (1.5, "<= 1.6 x", "holds")
    assert Row.at_most_times("start", 6.5, 4.0, 1.6, "CPU s").verdict == "FALLS SHORT"
    assert Row.at_most_times("start", None, 4.0, 1.6, "CPU s").verdict == "not measured"
    assert Row.at_most_times("start", 6.0, 4.0, None, "CPU s").verdict == ""


def test_contenders_alternate_and_warm_up_is_not_counted():
    order = []
    found = harness.alternate(
        {"a": lambda: order.append("a"), "b": lambda: (order.append("b"), time.sleep(0.02))},
        rounds=3,
        units=2,
    )
    assert order == ["a", "b"] * 4
    assert found["b"].rounds == 3
    assert 0.01 <= found["b"].wall_s < 0.1  # 20 ms per call of two units
    assert found["b"].cpu_s < 0.01  # sleeping costs no processor time


def test_cpu_seconds_count_work():
    def work():
        end = time.process_time() + 0.02
        while time.process_time() < end:
            pass

    assert 0.02 <= harness.alternate({"a": work}, 1)["a"].cpu_s < 0.06


@pytest.mark.skipif(sys.platform != "linux", reason="high-water marks are those of Linux")
def test_peak_memory_is_that_of_the_call():
    freed = [bytearray(1 << 16) for _ in range(2000)]  # stays resident: the last one holds the top
    del freed[:-1]
    found = harness.peak_mib(lambda: bytearray(64 << 20).count(1))
    assert 60 < found < 80
    assert math.isnan(harness.peak_mib(lambda: 1 / 0))


def test_ratios_with_limits_in_their_names_become_rows():
    result = {
        "benchmark": "patches",
        "rows": {"ours": {"cpu_ms": 10, "spread": 0.25}, "peer": {"cpu_ms": 80, "spread": 1.0}},
        "ratios": {
            "peer (limit 7)": 8.0,
            "gone (limit 40)": None,
            "largest over smallest (limit 1.15 at most)": 1.3,
            "something else": 2.0,
        },
    }
    held, absent, growth, free = rows_of(result)
    assert (held.name, held.limit, held.holds) == ("patches, peer", ">= 7 x", True)
    assert held.note == "spread of ours 25%"
    assert (absent.holds, absent.note) == (None, "peer absent")
    assert (growth.limit, growth.holds) == ("<= 1.15 x", False)
    assert (free.limit, free.holds) == ("", None)


def test_cases_with_limits_become_rows():
    times = {"cpu_min_ms": 9.0, "cpu_max_ms": 11.0}
    case = {
        "size": 256,
        "lesions": 30,
        "rows": [
            {"name": "ours", "cpu_ms": 10.0, "ratio": 1.0, **times},
            {"name": "panoptica", "cpu_ms": 400.0, "ratio": 40.0, **times},
            {"name": "plain", "cpu_ms": 6300.0, "ratio": 630.0, **times},
        ],
        "absent": [{"name": "cc3d + MONAI", "reason": "no module"}],
        "limits": [
            {"what": "x panoptica", "found": 40.0, "limit": 50.0, "held": False},
            {"what": "x plain", "found": 630.0, "limit": 300.0, "held": True},
        ],
    }
    rows = {row.name.split(", ")[-1]: row for row in rows_of({"benchmark": "s", "cases": [case]})}
    assert (rows["against panoptica"].ratio, rows["against panoptica"].holds) == (40.0, False)
    assert rows["against plain"].holds is True
    assert "absent" in rows["against cc3d + MONAI"].note


def test_a_failing_benchmark_is_a_row_and_an_exit_code(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        command,
        "run_one",
        lambda name, rounds, tiny: (
            {"benchmark": name, "failed": "exit code 1"}
            if name == "scoring"
            else {"benchmark": name, "rows": [vars(Row.at_most("fast", 1.0, 2.0, "ms"))]}
        ),
    )
    output = tmp_path / "deep" / "result.json"
    assert command.main(["--only", "reading,scoring", "--json", str(output)]) == 1
    assert "FAILED: exit code 1" in capsys.readouterr().out
    content = json.loads(output.read_text(encoding="utf-8"))
    assert [row["name"] for row in content["table"]] == ["fast", "scoring"]
    assert content["versions"]["torch"] and content["machine"]["cores"] >= 1
    with pytest.raises(SystemExit):
        command.main(["--only", "nonsense"])


def test_a_contender_apart_has_its_own_process():
    there = harness.Apart(functools.partial(functools.partial, os.getpid))
    there.ready()
    assert there() == there() != os.getpid()
    found = harness.alternate({"there": there, "here": lambda: None}, rounds=2)
    assert found["there"].rounds == 2
    assert 0 <= found["there"].cpu_s <= 0.1


def test_a_contender_apart_says_what_it_lacks():
    there = harness.Apart(functools.partial(importlib.import_module, "no_such_peer"))
    with pytest.raises(ImportError, match="no_such_peer"):
        there.ready()
