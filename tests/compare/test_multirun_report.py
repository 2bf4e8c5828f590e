"""Folds and seeds in one table: a pair counts once, groups apart, intervals where they exist."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest
import yaml

from msseg_lightning.compare.multirun_report import build_multirun_report
from msseg_lightning.core.files import read_record, write_record
from msseg_lightning.evaluate.score import ScoreOptions, score_case
from msseg_lightning.run.predict.scores import write_scores


def score(*boxes, true=((1, 1, 1),)):
    """A prediction with 2 x 2 x 2 mm boxes at some corners, against a reference with others."""
    masks = [np.zeros((12, 12, 12), bool) for _ in range(2)]
    for mask, corners in zip(masks, (boxes, true), strict=True):
        for x, y, z in corners:
            mask[x : x + 2, y : y + 2, z : z + 2] = True
    return score_case(*masks, (1.0, 1.0, 1.0))


def seed_folder(runs, seed, first, second, empty):
    folder = runs / f"d-folds2-seed{seed}"
    (folder / "model").mkdir(parents=True)
    config = {"name": "toy", "size": "tiny", "card": {"idea": "a <toy>"}}
    (folder / "model" / "config.yaml").write_text(yaml.safe_dump(config))
    facts = {"split": {"kind": "kfold", "folds": [0, 1]}, "seed": seed, "commit": "c" * 40}
    write_scores(folder, {"a": first, "b": second, "e": empty}, ScoreOptions(), facts)
    origin = {case: {"fold": fold, "run": f"d-fold{fold}-seed{seed}"} for case, fold in FOLDS}
    (folder / "out_of_fold.json").write_text(json.dumps(origin))
    return folder


FOLDS = (("a", 0), ("b", 1), ("e", 1))
HIT, MISS = (1, 1, 1), (7, 7, 7)


@pytest.fixture
def folders(tmp_path):
    return [
        seed_folder(tmp_path, 0, score(HIT), score(MISS), score(true=())),
        seed_folder(tmp_path, 1, score(HIT), score(HIT), score(HIT, MISS, true=())),
    ]


def cells(page, line):
    (row,) = re.findall(rf'<tr><th scope="row">{line}</th>(.*?)</tr>', page)
    return re.findall(r">([^<]*)</td>", row)


def test_a_pair_counts_once_by_the_mean_of_its_seeds(folders):
    page = build_multirun_report(folders)
    assert page.parent.name == "d-folds2-seeds0+1"
    rows = list(csv.DictReader((page.parent / "summary.csv").open()))
    f1 = {row["run"]: row for row in rows if row["measure"] == "F1_score"}
    both = f1["mean of 2 seeds"]
    assert (both["cases"], float(both["mean"])) == ("2", 0.75)  # a: 1 and 1; b: 0 and 1
    assert 0.5 <= float(both["low"]) < float(both["high"]) <= 1.0
    assert float(f1["seed 0, all folds"]["mean"]) == 0.5
    assert f1["seed 1, fold 0"]["low"] == ""  # a single pair has no interval
    false = {row["run"]: row for row in rows if row["measure"] == "NbTestedLesions"}
    assert (false["mean of 2 seeds"]["cases"], false["mean of 2 seeds"]["mean"]) == ("1", "1.0")


def test_the_page_shows_both_groups_apart(folders):
    page = build_multirun_report(folders).read_text()
    present, absent = page.split("Cases without new lesions</h2>")
    present = present.split("Cases with new lesions</h2>")[1]
    absent = absent.split("Pairs</h2>")[0]
    assert cells(present, "Seed 0, all folds")[:3] == ["2", "1 of 2", "1"]
    assert cells(present, "Mean of 2 seeds")[:3] == ["2", "1.5 of 2", "0.5"]
    assert cells(absent, "Mean of 2 seeds") == ["1", "0.5 of 1", "1.00", "8"]
    assert cells(absent, "Seed 1, fold 1") == ["1", "0 of 1", "2.00", "16"]
    assert "fold 0" not in absent  # it has no pair without lesions
    assert "SD 0.354" in present  # of 0.5 and 1
    assert "a &lt;toy&gt;" in page and "too few to rank" in page and "size" in page
    assert '<a href="../d-fold1-seed1/report.html">' in page
    assert f"<code>msseg predict {folders[0]}</code>" in page  # it can be copied


def test_one_seed_is_reported_in_its_own_folder(folders):
    page = build_multirun_report(folders[:1])
    assert page.parent == folders[0] and "Mean of" not in page.read_text()


def test_the_raters_have_a_row(folders):
    file = folders[0] / "scores.json"
    content = read_record(file)
    content["raters"] = {
        name: {"a": {"others": {"F1_score": value}}, "e": {"others": {"NbTestedLesions": 1.0}}}
        for name, value in (("rater1", 0.9), ("rater2", 0.6))
    }
    write_record(file, content)
    page = build_multirun_report(folders).read_text()
    rows = re.findall(r">Raters against the others: mean \(range\)</th>(.*?)</tr>", page)
    assert "0.750 (0.600 to 0.900)" in rows[0] and "1.00 (1.00 to 1.00)" in rows[1]
