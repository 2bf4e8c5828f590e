import numpy as np

from msseg_lightning.cli.list import headline
from msseg_lightning.evaluate.score import score_case
from msseg_lightning.report import page
from tests.report.phantom import pair


def test_the_table_has_a_row_per_case_and_a_dash_for_no_value():
    _, score = pair()
    table = page.case_table([("a", score), ("b", None)])
    assert table.count('<th scope="row">') == 1
    # one of two lesions found, one of two predictions right: F1 = 0.5
    assert '<td data-value="0.5">0.500</td>' in table
    assert table.count('scope="col"') == len(page.CASE_COLUMNS)
    clean = page.piece("case_row", *page._case_row("c", _empty_score()))
    assert "without" in clean and '<td data-value="">' in clean


def _empty_score():
    empty = np.zeros((8, 8, 8), np.uint8)
    return score_case(empty, empty, (1.0, 1.0, 1.0))


def test_found_lesions_without_a_right_prediction_are_explained():
    reference, prediction = np.zeros((2, 12, 12, 12), np.uint8)
    reference[1:11, 2:8, 2:8] = 1
    prediction[1:3, 2:8, 2:8] = 1  # a fifth of the lesion: found, but the lesion lies outside it
    score = score_case(prediction, reference, (1.0, 1.0, 1.0))
    assert score.official["SensL"] == 1.0 and score.official["PPVL"] == 0.0
    remark = page.one_sided("013", score)
    assert remark.startswith("013: 1 of 1 true lesion found, but 0 of 1 predicted lesion right.")
    assert remark in page.case_table([("013", score)])
    assert page.one_sided("a", pair()[1]) == page.one_sided("b", _empty_score()) == ""
    assert page.one_sided("c", score_case(reference, prediction, (1.0, 1.0, 1.0)))


def test_groups_stand_apart():
    text = page.headline(
        {"with_new_lesions": {"dice": 0.5}, "without_new_lesions": {"false_lesions": 2.0}}
    )
    assert text.count('class="group"') == 2
    assert "Cases without new lesions" in text and "<b>0.5</b>" in text
    assert page.headline({}) == ""


def test_setting_leaves_out_what_is_unknown():
    text = page.header({"name": "n"}, {"commit": None, "fold": 0, "dirty": False}, ())
    assert "Commit" not in text and "<dd>0</dd>" in text and "<dd>no</dd>" in text


def test_texts_of_an_interval_are_escaped():
    text = page.headline({"g": {"dice": {"mean": "<b>", "low": "<i>", "high": "<u>"}}})
    assert not any(mark in text for mark in ("<i>", "<u>", "<b><b>"))


def test_what_is_not_known_is_a_dash_and_sorts_as_nothing():
    score = _empty_score()
    score.official["Dice"] = float("nan")
    score.detection["n_test"] = None
    row = page.piece("case_row", *page._case_row("c", score))
    assert "nan" not in row
    false = 6  # cells after group: Dice, F1, sensitivity, precision, true, found, false
    assert row.split("<td data-value=")[1 + false].startswith('"">\u2013')
    texts = ["x", "infinity war", "0.61 [0.50, 0.70]", "1,234", ""]
    table = page.text_table(["Name", "a", "b", "c", "d"], [texts])
    assert "<td>infinity war</td>" in table and '<td data-value=""></td>' in table
    assert '<td data-value="0.61">0.61' in table and '<td data-value="1234.0">1,234' in table


def test_what_a_paper_reports_is_text():
    reported = {"dice_percent": {"mean": 62.46, "sd": 36.11, "q1": 39.05}, "f1": 0.7}
    reported["fold_means"] = {"threshold_50_percent": 53.3, "folds": [0.5, 0.25]}
    text = page.header({"name": "n", "reported": reported}, {}, ())
    assert "<li>Dice percent: 62.46 (SD 36.11, Q1 39.05)</li><li>F1: 0.7</li>" in text
    assert "threshold 50 percent 53.3, folds 0.5, 0.25" in text
    assert headline(reported) == (
        "dice percent 62.46 (SD 36.11), f1 0.7, "
        "fold means threshold 50 percent 53.3, folds 0.5, 0.25"
    )
    assert headline({"protocol": "p"}) == "none reported"
