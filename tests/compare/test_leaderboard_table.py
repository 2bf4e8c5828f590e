import csv
import dataclasses
import io

import pytest

from msseg_lightning.compare import leaderboard_table as table
from msseg_lightning.compare.froc import FrocCurve
from msseg_lightning.compare.leaderboard import make_leaderboard
from msseg_lightning.compare.systems import read_systems
from tests.compare import scored


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    runs = [
        scored.write_run(root, "good_net", scored.scores(0.9, 1), raters=scored.rater_scores()),
        scored.write_run(root, "poor_net", scored.scores(0.3, 2), minutes=None, parameters=900),
    ]
    return make_leaderboard(read_systems([str(run) for run in runs]))


def test_the_row_of_a_system(board):
    heads, rows = table.with_lesions(board)
    row = dict(zip(heads, rows[0], strict=True))
    best = board.result("f1", "good_net")
    assert row["System"] == "good_net" and row["Rank"] == "1" and row["Group"] == best.letters
    low, high = best.interval
    assert row["Lesion F1"] == f"{best.mean:.3f} [{low:.2f}, {high:.2f}]"
    assert row["Found"].endswith(" of 60") and row["First"] == "100 %" and row["Ranks"] == "1"
    assert rows[2][0] == table.RATERS
    band = board.raters.band("f1")
    assert rows[2][3] == f"{band.mean:.3f} ({band.low:.2f} to {band.high:.2f})"


def test_costs_and_figures_of_papers_stand_beside_what_was_measured(board):
    lines = dict(board.lines)
    spent = dataclasses.replace(lines["good_net"].cost, cpu_minutes=3.25, peak_mib=1536)
    lines["good_net"] = dataclasses.replace(lines["good_net"], cost=spent, reported={"dice": 0.6})
    heads, rows = table.cost(dataclasses.replace(board, lines=lines))
    row, other = (dict(zip(heads, cells, strict=True)) for cells in rows)
    assert (row["CPU minutes"], row["Minutes"], row["Params"]) == ("3.2", "4.0", "1.2 M")
    assert (row["Peak memory"], row["Dice, paper"]) == ("1.5 GiB", "0.600")
    assert row["Lesion F1"] == f"{board.result('f1', 'good_net').mean:.3f}"
    assert row["Lesion F1, paper"] == other["Minutes"] == other["Peak memory"] == table.DASH
    assert other["Params"] == "0.0009 M"


def test_raters_have_a_table_with_the_naive_figure(board):
    heads, rows = table.raters(board)
    assert heads[:2] == ["Rater", "Lesion F1"] and heads[-1] == "Lesion F1 against the consensus"
    assert [row[0] for row in rows] == ["Rater 1", "Rater 2", "Rater 3", "Rater 4", "Mean"]
    assert all(float(row[-1]) > float(row[1].split()[0]) for row in rows)
    (words,) = table.rater_words(board)
    assert "12 with and 3 without new lesions" in words  # two raters agree on a false lesion


def test_what_no_score_holds_is_said(board):
    assert table.by_trait(board, "size")[1] and not table.by_trait(board, "region")[1]
    (text,) = table.not_recorded(board)
    assert text.startswith("Lesion F1 by contrast and by region: not recorded.")
    groups = {**board.lines["good_net"].groups, "region": board.lines["good_net"].groups["size"]}
    known = dataclasses.replace(board.lines["good_net"], groups=groups)
    one = dataclasses.replace(board, lines={**board.lines, "good_net": known})
    assert table.by_trait(one, "region")[1][1][:2] == ["poor_net", "not recorded"]
    assert table.not_recorded(one)[0].startswith("Lesion F1 by contrast: not recorded.")


def test_active_patients_have_a_table(board):
    heads, rows = table.activity(board)
    row = dict(zip(heads, rows[0], strict=True))
    assert row["With, marked"] == "12 of 12" and row["Without, marked"].endswith(" of 4")
    assert row["Area, sum of probabilities"] == "not recorded"
    assert row["Area, predicted volume"].startswith(("0.9", "1.0"))


def test_patients_without_lesions_have_a_table_of_their_own(board):
    heads, rows = table.without_lesions(board)
    assert heads[3] == "False lesions per patient" and rows[2][0] == table.RATERS
    assert all(row[4].endswith("of 4") for row in rows[:2])


def test_markdown_holds_every_table_and_no_broken_row(board):
    text = table.markdown(board, ["intervals.svg"])
    assert text.startswith(table.MARKDOWN_MARK) and "![intervals.svg](intervals.svg)" in text
    for title in (
        "with new lesions",
        "without new lesions",
        "F1 by size",
        "lesion rules",
        "Raters",
    ):
        assert title in text
    for block in text.split("\n\n"):
        if block.startswith("| "):
            assert len({line.count("|") for line in block.splitlines()}) == 1
    named = table.markdown_table((["a"], [["x|y"]]))
    assert r"x\|y" in named


def test_the_text_of_a_terminal_has_no_long_tables(board):
    text = table.short_text(board)
    assert "| good_net |" in text and "told apart" in text and "p (Holm)" not in text


def test_csv_has_all_numbers(board):
    text = table.csv_table(board)
    assert text.startswith(table.CSV_HEAD)
    rows = list(csv.DictReader(io.StringIO(text)))
    best = board.result("f1", "good_net")
    assert float(rows[0]["f1"]) == best.mean and float(rows[0]["f1_low"]) == best.interval[0]
    assert rows[1]["minutes"] == "" and rows[1]["parameters"] == "900"
    pairs = list(csv.DictReader(io.StringIO(table.csv_pairs(board))))
    assert {row["measure"] for row in pairs} == set(board.comparisons)
    assert float(pairs[0]["p_holm"]) == board.comparisons["f1"].pairs[0].p_holm


def test_latex_escapes_what_latex_reads(board):
    text = table.latex(board)
    assert text.startswith(table.LATEX_MARK) and r"good\_net" in text and r"100 \%" in text
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2
    for line in text.splitlines():
        if line.endswith(r"\\"):
            assert line.count("&") in (9, 5)


def test_words_tell_how_far_a_rule_moves_the_ranking(board):
    texts = table.rule_words(board)
    assert len(texts) == 4 and all("the same ranking" in text for text in texts)
    turned = dataclasses.replace(
        board,
        rules={
            "official": board.comparisons["f1"],
            "other": dataclasses.replace(
                board.comparisons["f1"],
                systems=tuple(
                    dataclasses.replace(one, rank=3 - one.rank, mean=1 - one.mean)
                    for one in board.comparisons["f1"].systems
                ),
            ),
        },
    )
    (text,) = table.rule_words(turned)
    assert (
        text.startswith("Other: 2 of 2 systems move")
        and "by 1 place" in text
        and "tau -1.00" in text
    )
    assert "first is poor_net" in text


def test_curves_have_a_table_if_there_are_any(board):
    assert table.froc(board) == ([], [])
    curve = FrocCurve((0.0, 0.5), (0.2, 0.4), (0.2, 0.2, 0.4, 0.4, 0.4, 0.4), 1 / 3, (0.1, 0.4))
    heads, rows = table.froc(dataclasses.replace(board, froc={"poor_net": curve}))
    assert heads[:4] == ["System", "Mean", "At 0.125", "At 0.25"]
    assert rows == [["poor_net", "0.333 [0.10, 0.40]", "0.200", "0.200", *["0.400"] * 4]]


def test_small_p_values_are_shown_with_more_digits(board):
    (row,) = table.pairs(board)[1]
    pair = board.comparisons["f1"].pairs[0]
    assert row[:2] == ["good_net", "poor_net"] and row[5] == "yes"
    assert float(row[3]) == pytest.approx(pair.p, abs=6e-6)
