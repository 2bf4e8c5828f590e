"""Raters are scored as systems are."""

import logging

import numpy as np
import pytest

from msseg_lightning.core.volume import Volume
from msseg_lightning.evaluate.score import ScoreOptions, score_case
from msseg_lightning.read.msseg2 import Msseg2
from msseg_lightning.read.nifti import DEFAULT
from msseg_lightning.run.predict.rater_scores import merged, score_raters, score_raters_of


def volume(*lesions: int) -> Volume:
    """Lesions of 8 voxels at these places along X."""
    mask = np.zeros((20, 6, 6), np.uint8)
    for x in lesions:
        mask[x : x + 2, 2:4, 2:4] = 1
    return Volume(mask, np.eye(4), "mask")


def test_every_rater_meets_the_majority_of_the_others():
    """Rater 1 alone marks the lesion at 12: right by a consensus that took it, else false."""
    marks = {
        "rater1": volume(2, 12),
        "rater2": volume(2, 7),
        "rater3": volume(2, 7),
        "rater4": volume(2),
    }
    scores = score_raters_of(marks, volume(2, 7, 12), ScoreOptions())
    # against the others (2 and 7): one of two found, one of two right
    assert scores["rater1"]["others"]["F1_score"] == pytest.approx(0.5)
    # against the consensus (2, 7, 12): two of three found, all right
    assert scores["rater1"]["consensus"]["F1_score"] == pytest.approx(0.8)
    # of raters 1, 3 and 4 one marks 7, which is no majority: a false lesion of rater 2
    assert scores["rater2"]["others"]["PPVL"] == pytest.approx(0.5)
    assert scores["rater4"]["others"]["SensL"] == pytest.approx(0.5)


def test_empty_references_give_false_lesions():
    marks = {"rater1": volume(2), "rater2": volume(), "rater3": volume()}
    scores = score_raters_of(marks, volume(), ScoreOptions())
    assert scores["rater1"]["others"] == {"NbTestedLesions": 1.0, "VolTestedLesions": 8.0}
    assert scores["rater2"]["others"] == {"NbTestedLesions": 0.0, "VolTestedLesions": 0.0}


def test_two_raters_have_no_majority_of_others():
    assert (
        score_raters_of({"rater1": volume(2), "rater2": volume()}, volume(2), ScoreOptions()) == {}
    )


def test_raters_of_a_data_set(coarse_cohort, caplog):
    subjects = Msseg2(coarse_cohort).subjects()
    scores = score_raters(subjects, DEFAULT, ScoreOptions())
    assert sorted(scores) == [f"rater{number}" for number in (1, 2, 3, 4)]
    assert all(set(rows) == {one.id for one in subjects} for rows in scores.values())
    assert not caplog.records


def test_a_refused_mask_is_told_and_refuses_nothing_else(coarse_cohort, tmp_path, caplog):
    (tmp_path / "damaged.nii.gz").write_bytes(b"no image")
    first, second = Msseg2(coarse_cohort).subjects()[:2]
    first.masks["new_lesions_rater2"] = tmp_path / "damaged.nii.gz"
    with caplog.at_level(logging.WARNING):
        scores = score_raters([first, second], DEFAULT, ScoreOptions())
    assert set(scores["rater1"]) == {second.id}
    assert f"{first.id}: its raters are not scored" in caplog.text and "damaged" in caplog.text


def test_without_distances_all_other_scores_are_equal():
    one, other = volume(2, 7).data, volume(2, 12).data
    full, fast = (score_case(one, other, (1, 1, 1), distances=wanted) for wanted in (True, False))
    assert fast.official["HausdorffDistance"] is None and full.official["HausdorffDistance"] > 0
    same = {name: value for name, value in full.official.items() if "Distance" not in name}
    assert same.items() <= fast.official.items()


def test_parts_are_joined_by_rater():
    assert merged([{"rater1": {"a": {}}}, {}, {"rater1": {"b": {}}, "rater2": {"b": {}}}]) == {
        "rater1": {"a": {}, "b": {}},
        "rater2": {"b": {}},
    }
