import csv
import io

import pytest

from msseg_lightning.compare.table import ScoredRun, compare_runs, table_csv


def scored(f1, dice=0.5):
    return {"F1_score": f1, "SensL": f1, "PPVL": None, "Dice": dice}


def clean(lesions):
    return {"NbTestedLesions": lesions, "VolTestedLesions": 10.0 * lesions}


@pytest.fixture
def runs():
    return [
        ScoredRun("a", {"1": scored(0.2), "2": scored(0.4), "3": scored(0.9), "4": clean(2)}),
        ScoredRun("b", {"1": scored(0.3), "2": scored(0.5), "4": clean(0), "5": scored(1.0)}),
    ]


def test_groups_stay_apart_and_differences_are_paired(runs):
    rows = compare_runs(runs)
    f1 = {row.run: row for row in rows if row.measure == "F1_score"}
    assert f1["a"].mean == pytest.approx(0.5)  # (0.2 + 0.4 + 0.9) / 3, case 4 is clean
    assert f1["a"].cases == 3
    assert f1["a"].difference is None
    assert f1["b"].mean == pytest.approx(0.6)  # (0.3 + 0.5 + 1.0) / 3
    # paired on cases 1 and 2 only, where b is better by 0.1 each time
    assert f1["b"].pairs == 2
    assert f1["b"].difference == pytest.approx(0.1)
    assert f1["b"].difference_interval == pytest.approx((0.1, 0.1))
    false = {row.run: row for row in rows if row.measure == "NbTestedLesions"}
    assert (false["a"].mean, false["a"].cases) == (2.0, 1)
    assert false["a"].interval is None  # one case has no interval
    assert false["b"].difference == -2.0


def test_intervals_are_seeded_and_hold_the_mean(runs):
    assert compare_runs(runs, seed=1) == compare_runs(runs, seed=1)
    row = compare_runs(runs)[0]
    low, high = row.interval
    assert 0.2 <= low < row.mean < high <= 0.9


def test_undefined_values_are_left_out(runs):
    precision = [row for row in compare_runs(runs) if row.measure == "PPVL"]
    assert all(row.cases == 0 and row.mean is None for row in precision)


def test_csv(runs):
    table = list(csv.DictReader(io.StringIO(table_csv(compare_runs(runs)))))
    assert len(table) == 12 and float(table[0]["mean"]) == pytest.approx(0.5)
    assert table[0]["difference"] == ""
