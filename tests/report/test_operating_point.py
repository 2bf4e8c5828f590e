from __future__ import annotations

import base64
import re

from msseg_lightning.report.operating_point import operating_point_section, reliability_picture

BINS = [
    {"lesions": 5, "probability": 0.2, "right": 0.1},
    {"lesions": 5, "probability": 0.8, "right": 0.9},
]


def test_the_section_tells_the_point_and_shows_its_lesions():
    known = {"lesions": 10, "true": 5, "brier_before": 0.25, "brier_after": 0.1234}
    text = operating_point_section("score <0.5", {**known, "before": BINS, "after": BINS[:1]})
    assert "score &lt;0.5." in text
    assert "0.250 of the scores, 0.123 of the calibrated" in text and "5 of them true" in text
    picture = base64.b64decode(re.search(r"base64,([^\"]+)", text)[1]).decode()
    assert picture == reliability_picture(BINS, BINS[:1])
    assert picture != reliability_picture(BINS, BINS)


def test_without_lesions_there_is_no_picture():
    text = operating_point_section("a point", {"lesions": 0, "before": [], "after": []})
    assert "a point" in text and "img" not in text
