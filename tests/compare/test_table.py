import csv
import io
import json

import pytest

from msseg_lightning.compare.table import compare_runs, read_runs, table_csv, table_text
from msseg_lightning.core.problem import MssegError


def scored(f1, dice=0.5):
    return {"official": {"F1_score": f1, "SensL": f1, "PPVL": None, "Dice": dice}}


def clean(lesions):
    return {"official": {"NbTestedLesions": lesions, "VolTestedLesions": 10.0 * lesions}}


def write(folder, cases, **more):
    folder.mkdir(parents=True)
    content = {"protocol": "p", "options": {"alpha": 10}, "cases": cases} | more
    (folder / "scores.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def folders(tmp_path):
    return [
        write(tmp_path / "a" / "d-fold0-seed0", {"1": scored(0.2), "2": scored(0.4)}),
        write(tmp_path / "a" / "d-fold1-seed0", {"3": scored(0.9), "4": clean(2)}),
        write(
            tmp_path / "b" / "d-fold0-seed0",
            {"1": scored(0.3), "2": scored(0.5), "4": clean(0), "5": scored(1.0)},
        ),
    ]


def test_folds_are_pooled_and_groups_stay_apart(folders):
    rows = compare_runs(read_runs(folders))
    f1 = {row.run: row for row in rows if row.measure == "F1_score"}
    assert f1["a/d-seed0"].mean == pytest.approx(0.5)  # (0.2 + 0.4 + 0.9) / 3, case 4 is clean
    assert f1["a/d-seed0"].cases == 3
    assert f1["a/d-seed0"].difference is None
    assert f1["b/d-seed0"].mean == pytest.approx(0.6)  # (0.3 + 0.5 + 1.0) / 3
    # paired on cases 1 and 2 only, where b is better by 0.1 each time
    assert f1["b/d-seed0"].pairs == 2
    assert f1["b/d-seed0"].difference == pytest.approx(0.1)
    assert f1["b/d-seed0"].difference_interval == pytest.approx((0.1, 0.1))
    false = {row.run: row for row in rows if row.measure == "NbTestedLesions"}
    assert (false["a/d-seed0"].mean, false["a/d-seed0"].cases) == (2.0, 1)
    assert false["a/d-seed0"].interval is None  # one case has no interval
    assert false["b/d-seed0"].difference == -2.0


def test_intervals_are_seeded_and_hold_the_mean(folders):
    runs = read_runs(folders)
    assert compare_runs(runs, seed=1) == compare_runs(runs, seed=1)
    row = compare_runs(runs)[0]
    low, high = row.interval
    assert 0.2 <= low < row.mean < high <= 0.9


def test_undefined_values_are_left_out(folders):
    precision = [row for row in compare_runs(read_runs(folders)) if row.measure == "PPVL"]
    assert all(row.cases == 0 and row.mean is None for row in precision)


def test_text_and_csv(folders):
    rows = compare_runs(read_runs(folders))
    text = table_text(rows)
    assert text.index("Cases with new lesions") < text.index("Cases without new lesions")
    assert "difference +0.100 [+0.100, +0.100]  pairs=2" in text
    table = list(csv.DictReader(io.StringIO(table_csv(rows))))
    assert len(table) == 12 and float(table[0]["mean"]) == pytest.approx(0.5)
    assert table[0]["difference"] == ""


def test_the_same_case_twice_other_rules_and_no_scores_are_refused(folders, tmp_path):
    with pytest.raises(MssegError, match=r"compare\.folds"):
        read_runs([folders[0], folders[0]])
    other = write(tmp_path / "c" / "d-fold0-seed0", {}, options={"alpha": 0})
    with pytest.raises(MssegError, match=r"compare\.rules"):
        read_runs([folders[0], other])
    with pytest.raises(MssegError, match=r"compare\.no_scores"):
        read_runs([tmp_path])
