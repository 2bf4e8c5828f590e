"""The page of what systems learn says what the runs say."""

from __future__ import annotations

import json

from benchmarks.studies import learning


def finished(work, name, losses):
    run = work / "simulated" / name / "small-cpu-fold0-seed0"
    (run / "fit" / "member").mkdir(parents=True)
    rows = "".join(f"{step},train/loss,{loss}\n" for step, loss in enumerate(losses))
    (run / "fit" / "member" / "curves.csv").write_text("step,name,value\n" + rows)
    summary = {
        "with_lesions": {
            "lesions": {"detected": 3, "true": 7, "predicted": 9, "matched": 4},
            "measures": {"Dice": {"mean": 0.25}},
        },
        "without_lesions": {"cases": ["x"], "false_lesions": {"mean": 2.0}},
    }
    (run / "scores.json").write_text(json.dumps({"summary": summary, "commit": "0123456789"}))
    facts = {"cpu_minutes": 1.26, "peak_mib": 700, "finished": True}
    (work / f"simulated-{name}.json").write_text(json.dumps(facts))


def test_a_row_holds_the_figures_of_its_run(tmp_path):
    finished(tmp_path, "one", [1.0] * 5 + [0.8] * 10 + [0.5] * 5)
    row = learning.table_row("one", "simulated", tmp_path)
    assert row == "| `one` | 1.000 -> 0.500 | 3 of 7 | 5 | 2 | 0.250 | 1.3 | 700 | 0123456 |"


def test_what_is_missing_is_named(tmp_path):
    finished(tmp_path, "one", [1.0, 0.5])
    lines = learning.table(["one", "two"], "simulated", tmp_path)
    assert lines[-1] == "Not finished: two."
    assert sum(line.startswith("| `") for line in lines) == 1


def test_a_finished_training_is_not_repeated(tmp_path, monkeypatch):
    finished(tmp_path, "one", [1.0])
    monkeypatch.setattr(learning.subprocess, "Popen", None)
    learning.train("one", "simulated", tmp_path, tmp_path, None)
