import json

from benchmarks import report
from benchmarks.harness import Row


def record(rows):
    return {
        "date": "2026-11-22T23:00",
        "commit": "abc1234",
        "changed": False,
        "machine": {"processor": "P", "cores": 2, "memory_gib": 24, "load": 0.1},
        "python": "3.11",
        "versions": {"torch": "2.13", "absent": None},
        "results": [{"benchmark": "reading"}],
        "table": [vars(row) for row in rows],
    }


def test_table_replaces_the_old_one_and_counts(tmp_path, monkeypatch):
    page = tmp_path / "performance.md"
    page.write_text(
        f"before\n{report.BEGIN}\n### patches\n\n| kept | 1 | 2 | 3 | 4 | holds | n |\n\n"
        f"### reading\n\nold\n{report.END}\nafter\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(report, "PAGE", page)
    rows = [
        Row.faster("held", 10.0, 30.0, 2.5),
        Row.faster("short", 10.0, 20.0, 2.5, note="peer 1.0"),
        Row.at_most("gpu", None, 22.0, "ms"),
        Row.faster("free", 10.0, 20.0, None),
    ]
    file = tmp_path / "a.json"
    file.write_text(json.dumps(record(rows)), encoding="utf-8")
    report.main([str(file)])
    report.main([str(file)])  # again: the same page
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("after\n") and "\nold\n" not in text
    assert "| held | 10 CPU ms | 30 CPU ms | 3.00 x | >= 2.5 x | holds |" in text
    assert text.index("### patches") < text.index("| kept |") < text.index("### reading")
    assert text.count("### reading") == 1
    assert "**FALLS SHORT** | peer 1.0 |" in text
    assert "2 limits hold, 1 fall short, 1 were not measured." in text
    assert text.count("commit abc1234") == 1 and "absent" not in text.split("Python")[1]
