import html
import json

import nibabel
import numpy as np

from msseg_lightning.core.subject import (
    BASELINE,
    FOLLOWUP,
    LoadedSubject,
    LongitudinalSubject,
    Native,
)
from msseg_lightning.core.volume import Grid, Volume
from msseg_lightning.evaluate.summary import summarise
from msseg_lightning.read.nifti import GateOptions, write_volume
from msseg_lightning.run.folder import RunFolder
from msseg_lightning.run.predict.operating_point import read_point
from msseg_lightning.run.train.choose_point import Choice, choose_for_folds
from msseg_lightning.run.train.run_report import (
    _brain,
    _kept_step,
    _loader,
    point_section,
    report_context,
    shown_card,
    shown_summary,
)
from tests.report.phantom import pair


def test_an_ensemble_is_told_with_its_folds_and_seeds():
    from msseg_lightning.run.train.run_report import _ensemble

    told = {"folds": 5, "level": "probability", "rule": "mean"}
    assert _ensemble(told) == "5 folds, mean of probability"
    assert _ensemble({**told, "seeds": 3}) == "5 folds, 3 seeds each, mean of probability"


def test_a_score_survives_json():
    _, score = pair()
    assert type(score).from_dict(json.loads(json.dumps(score.as_dict()))) == score


def test_headline_of_one_case_with_lesions():
    _, score = pair()
    shown = shown_summary(summarise({"a": score}).as_dict(), {})
    assert list(shown) == ["with_new_lesions"]
    group = shown["with_new_lesions"]
    # one of two found, one of two predictions false; one case has no interval
    assert group["lesions detected"] == "1 of 2" and group["false lesions"] == 1
    assert group["lesion F1"] == {"mean": 0.5, "low": None, "high": None}


def test_the_raters_stand_beside_the_system():
    _, score = pair()
    raters = {
        name: {"a": {"others": {"F1_score": value, "Dice": 0.5}}}
        for name, value in (("rater1", 0.9), ("rater2", 0.6), ("rater3", 0.75))
    }
    shown = shown_summary(summarise({"a": score}).as_dict(), raters)["with_new_lesions"]
    (range_of_f1,) = [value for name, value in shown.items() if name.startswith("lesion F1 of rat")]
    assert range_of_f1 == {"mean": 0.75, "low": 0.6, "high": 0.9}


def head(radius_mm, spacing_mm=4.0):
    """A ball in air of zeros, 60 voxels wide, seen twice."""
    place = (np.indices((60, 60, 60)) - 29.5) * spacing_mm
    data = 100.0 * (np.sqrt((place**2).sum(0)) < radius_mm)
    affine = np.diag([spacing_mm] * 3 + [1.0])
    scan = Volume(data.astype(np.float32), affine)
    subject = LongitudinalSubject("a", "a", {})
    return LoadedSubject(subject, {BASELINE: scan, FOLLOWUP: scan}, Native(scan.grid, b""))


def test_what_is_too_large_for_a_brain_is_not_taken_for_one():
    stripped = _brain(head(70.0))  # 1.4 litres
    assert stripped is not None
    assert np.count_nonzero(stripped.data) == np.count_nonzero(head(70.0).volumes[FOLLOWUP].data)
    assert _brain(head(100.0)) is None  # 4.2 litres: a head in zero air


def test_a_system_that_marks_everything_is_shown_not_refused(tmp_path):
    grid = Grid((6, 6, 6), np.eye(4))
    scan = Volume(np.ones(grid.shape, np.float32), grid.affine)
    run = RunFolder(tmp_path)
    header = nibabel.Nifti1Image(scan.data, np.eye(4)).header
    native = Native(grid, header.binaryblock)
    write_volume(run.predictions / "a.nii.gz", np.ones(grid.shape, np.uint8), native, "mask")
    subject = LongitudinalSubject(id="a", patient="a", images={})
    loaded = LoadedSubject(subject, {BASELINE: scan, FOLLOWUP: scan}, native)
    volumes = _loader(subject, lambda _: loaded, GateOptions(), run)()
    assert volumes.prediction.data.all()


def test_a_smaller_run_does_not_pass_for_the_paper():
    config = {"name": "n", "size": "cpu", "card": {"idea": "26.3 M-parameter U-Net"}}
    said = "In the paper: 26.3 M-parameter U-Net. This run: size=cpu, "
    assert shown_card(config, 409_603)["idea"] == said + "0.4 M parameters."
    assert shown_card(config)["idea"] == said + "smaller than the paper's."
    assert shown_card(config | {"size": "paper"})["idea"] == "26.3 M-parameter U-Net"


def test_the_kept_step_counts_from_zero_like_the_curves(tmp_path):
    run = RunFolder(tmp_path)
    assert _kept_step(run) is None
    run.fit.mkdir()
    (run.fit / "done.json").write_text('{"best_step": 900}')
    assert _kept_step(run) == 899


def test_the_report_shows_the_operating_point_and_its_probabilities(product, coarse_cohort):
    (first, _) = sorted(product.parent.glob("*-fold[01]-seed0"))
    choice = Choice(budget=1.5, thresholds=(), smallest_mm3=(0.0,))
    stored = choose_for_folds(product, choice).stored
    context = report_context(RunFolder(first), str)
    assert "Operating point" in context.operating_point
    assert "other folds" in context.operating_point
    point = read_point(first / "model")
    for case in context.cases:
        expected = point.calibration([0.6, 0.9])  # the scores of all that is marked
        found = [case.probabilities[lesion.label] for lesion in case.score.predicted_lesions]
        assert found and all(abs(expected - one).min() < 1e-4 for one in found)
    section = point_section(product, product / "model")
    assert "Held-out pairs at the point: with new lesions" in section
    assert html.escape(stored.chosen_on) in section
    (product / "model" / "more.txt").touch()  # another model
    assert point_section(product, product / "model") == ""
