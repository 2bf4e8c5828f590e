"""The report of a search shows its result and escapes names."""

from __future__ import annotations

import pytest

from msseg_lightning.run.sweep.report import build_sweep_report
from msseg_lightning.run.sweep.result import sweep_result
from msseg_lightning.run.sweep.space import parse
from msseg_lightning.run.sweep.worker import Sweep

SEARCH = {
    "trials": 4,
    "folds": [0],
    "seed": 0,
    "sampler": "random",
    "pruner": "none",
    "objective": [{"metric": "dice"}],
    "space": {
        "a.lr": {"type": "float", "low": 0.1, "high": 1.0},
        "loss": {"type": "categorical", "choices": ["<b>x</b>"]},
    },
    "retrain": {"best": 2, "seeds": [1, 2]},
}


@pytest.fixture
def sweep(tmp_path):
    def toy(values, fold, seed, folder):
        return {"dice": values["a.lr"] - 0.05 * seed}

    return Sweep("toy", tmp_path, parse(SEARCH), toy)


def test_the_page_of_a_finished_search(sweep, tmp_path):
    sweep.run()
    sweep.retrain()
    found = sweep_result(sweep.study)
    page = build_sweep_report(found, tmp_path / "report.html").read_text()
    for text in found.paragraphs():
        assert text.replace("<b>x</b>", "&lt;b&gt;x&lt;/b&gt;") in page
    titles = ("trained again", "History", "Slices", "Parallel coordinates", "Trials")
    assert all(f"{title}</h2>" in page for title in titles)
    assert page.count("(winner)") == 1 and "<b>x</b>" not in page.replace('"', "'").split("<h2>")[0]
    assert "default-src 'none'" in page and "<script src" not in page


def test_the_page_of_a_search_that_has_just_begun(sweep, tmp_path):
    sweep.study.take()
    page = build_sweep_report(sweep_result(sweep.study), tmp_path / "report.html").read_text()
    assert "0 of 4 trials are finished" in page and "running" in page
