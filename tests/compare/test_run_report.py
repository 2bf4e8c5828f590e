import json

from msseg_lightning.compare.run_report import score_from, shown_summary
from msseg_lightning.evaluate.summary import summarise
from tests.compare.phantom import pair


def test_a_score_survives_json():
    _, score = pair()
    assert score_from(json.loads(json.dumps(score.as_dict()))) == score


def test_headline_of_one_case_with_lesions():
    _, score = pair()
    shown = shown_summary(summarise({"a": score}).as_dict())
    assert list(shown) == ["with_new_lesions"]
    group = shown["with_new_lesions"]
    # one of two found, one of two predictions false; one case has no interval
    assert group["lesions detected"] == "1 of 2" and group["false lesions"] == 1
    assert group["lesion F1"] == {"mean": 0.5, "low": None, "high": None}
