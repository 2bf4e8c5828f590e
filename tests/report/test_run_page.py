import dataclasses
import re

import numpy as np
import pytest
from markupsafe import Markup
from PIL import Image

from msseg_lightning.core.problem import MssegError
from msseg_lightning.core.volume import Volume
from msseg_lightning.evaluate.case_score import Lesion
from msseg_lightning.evaluate.score import score_case
from msseg_lightning.report.run_page import (
    Finding,
    ReportCase,
    ReportContext,
    findings_of,
    select,
    view_point,
    write_pictures,
    write_report,
)
from tests.report.phantom import RAS, pair


def lesion(volume_mm3, *, counted=True, box=((0, 1), (0, 1), (0, 1)), voxels=1):
    return Lesion(1, voxels, volume_mm3, (0.0, 0.0, 0.0), box, False, counted, 0)


def context(cases, **more):
    return ReportContext(
        setting={"experiment": "pre_unet", "fold": 0, "threshold": 0.5},
        card={"name": "pre_unet", "idea": "An idea", "paper": "A. Uthor 2021", "departures": ["x"]},
        cases=cases,
        **more,
    )


def scored_case(name="case-1", **options):
    volumes, score = pair(**options)
    return ReportCase(name, score, lambda: volumes)


def test_found_missed_and_false_each_get_a_card(tmp_path):
    curves = [{"step": s, "name": "train/loss", "value": 1 / (s + 1)} for s in range(5)]
    summary = {
        "with_new_lesions": {"lesion_f1": {"mean": 0.5, "low": 0.25, "high": 0.75}, "cases": 1},
        "without_new_lesions": {"false_lesions": None, "cases": 0},
    }
    path = write_report(
        context([scored_case()], curves=curves, summary=summary, notes=("too few cases",)),
        tmp_path / "report.html",
        progress=False,
    )
    text = path.read_text(encoding="utf-8")
    kinds = re.findall(r'<article class="lesion" data-kind="(\w+)"', text)
    assert kinds == ["missed", "false", "found"]
    assert "3 lesions, all shown (1 of 1 missed, 1 of 1 false, 1 of 1 found)." in text
    assert "Research use only" in text and "not a medical device" in text.lower()
    assert "324 mm³ (27 voxels)" in text  # 27 voxels of 2 x 2 x 3 mm
    assert "0.25 to 0.75" in text and "too few cases" in text and "A. Uthor 2021" in text
    assert text.count("<polyline") == 1
    assert text.count('src="data:image/png;base64,') == 6


def test_marks_that_count_in_no_figure_are_said(tmp_path):
    """The cards then show more false marks than the figures above them."""
    volumes, _ = pair()
    marked = np.array(volumes.prediction.data)
    marked[-2, -2, -2] = 1
    volumes = dataclasses.replace(volumes, prediction=Volume(marked, RAS, "mask"))
    truth = np.asarray(volumes.reference.data)
    for spacing, said in (((1.0, 1.0, 1.0), True), ((2.0, 2.0, 3.0), False)):
        case = ReportCase("case-1", score_case(marked, truth, spacing), lambda: volumes)
        text = write_report(context([case]), tmp_path / "r.html", progress=False).read_text()
        sentence = "1 of the 4 are too small to count in the figures above."
        assert (sentence in text) == said


def test_nothing_is_loaded_from_anywhere_and_names_are_harmless(tmp_path):
    text = write_report(
        context([scored_case('<script>alert("x")</script>')]), tmp_path / "r.html", progress=False
    ).read_text(encoding="utf-8")
    without_pictures = re.sub(r'"data:image[^"]*"', '""', text)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", without_pictures)
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text
    assert "default-src 'none'" in text
    assert str(tmp_path) not in text


def test_a_cap_is_said_and_no_kind_is_crowded_out(tmp_path):
    many = [Finding("missed", "a", lesion(volume)) for volume in (5.0, 9.0, 7.0, 1.0)]
    many += [Finding("found", "a", lesion(100.0)), Finding("false", "b", lesion(2.0))]
    chosen = select(many, 4)
    assert [(f.kind, f.lesion.volume_mm3) for f in chosen] == [
        ("missed", 9.0),
        ("missed", 7.0),
        ("false", 2.0),
        ("found", 100.0),
    ]
    text = write_report(
        context([scored_case()]), tmp_path / "r.html", max_lesions=2, progress=False
    ).read_text(encoding="utf-8")
    assert "2 of 3 lesions are shown: 1 of 1 missed, 1 of 1 false, 0 of 1 found" in text


def test_small_lesions_come_last_in_their_kind():
    tiny, big = lesion(1000.0, counted=False), lesion(5.0)
    chosen = select([Finding("missed", "a", tiny), Finding("missed", "a", big)], 5)
    assert [f.lesion for f in chosen] == [big, tiny]


def test_without_a_brain_mask_there_is_no_picture(tmp_path):
    text = write_report(
        context([scored_case(brain=False)]), tmp_path / "r.html", progress=False
    ).read_text(encoding="utf-8")
    assert "<img" not in text and text.count("without a brain mask") == 3


def test_without_a_reference_the_prediction_is_shown(tmp_path):
    volumes, _ = pair()
    case = ReportCase("new", None, lambda: volumes)
    text = write_report(context([case]), tmp_path / "r.html", progress=False).read_text()
    assert re.findall(r'data-kind="(\w+)" data-case', text) == ["predicted", "predicted"]


def test_empty_cohort(tmp_path):
    text = write_report(context([]), tmp_path / "r.html", progress=False).read_text()
    assert "No lesion in any reference or prediction" in text


def test_volumes_are_loaded_once_per_case_and_only_where_needed(tmp_path):
    loads = []
    volumes, score = pair()

    def load(name):
        loads.append(name)
        return volumes

    cases = [ReportCase(name, score, lambda name=name: load(name)) for name in ("a", "b")]
    write_report(context(cases), tmp_path / "r.html", max_lesions=1, progress=False)
    assert loads == ["a"]


def test_the_view_lies_in_a_crescent_although_its_centre_does_not():
    mask = np.zeros((20, 20, 9), np.uint8)
    mask[4:16, 4:16, 4] = 1
    mask[6:16, 6:16, 4] = 0  # an L
    mask[4:16, 4, 5] = 1
    part = lesion(1.0, box=((4, 16), (4, 16), (4, 6)), voxels=int(mask.sum()))
    x, y, z = (RAS[:3, :3] @ np.diag([1, 1, 1])).diagonal()
    assert view_point(Volume(mask, RAS, "mask"), part) == pytest.approx([4 * x, 4 * y, 4 * z])


def test_partners_follow_the_overlaps():
    _, score = pair()
    findings = {finding.kind: finding for finding in findings_of("a", score)}
    assert [partner.voxels for partner in findings["found"].partners] == [27]
    assert findings["missed"].partners == findings["false"].partners == ()
    places = {kind: finding.lesion.box[0] for kind, finding in findings.items()}
    assert places == {"found": (8, 11), "missed": (20, 23), "false": (30, 33)}


def test_each_lesion_is_also_a_picture_of_three_planes_and_four_columns(tmp_path):
    files = write_pictures(context([scored_case("c")]), tmp_path / "figures")
    assert {file.name.split("_")[1] for file in files} == {"missed", "false", "found"}
    for file in files:
        with Image.open(file) as picture:
            width, height = picture.size
        assert width * 3 == height * 4


def test_a_false_lesion_over_a_found_one_says_what_the_rule_says():
    # 5 of 20 voxels of the true lesion are covered: found (25 > 10 %, all of the prediction lies
    # in it), while 75 > 70 % of the true lesion lies outside the prediction: false
    reference, prediction = np.zeros((24, 8, 8), np.uint8), np.zeros((24, 8, 8), np.uint8)
    reference[2:22, 4, 4] = 1
    prediction[2:7, 4, 4] = 1
    score = score_case(prediction, reference, (1.0, 1.0, 1.0))
    found, false = findings_of("a", score)
    assert (found.kind, false.kind) == ("found", "false")
    assert "touches a true lesion" in false.why and "official rule" in false.why
    alone = dataclasses.replace(false.lesion, overlap_voxels=0)
    assert Finding("false", "a", alone).why == "predicted, touches no true lesion"
    assert "too small to count" in Finding("missed", "a", lesion(1.0, counted=False)).why


def test_pictures_overwrite_pictures_only(tmp_path):
    given = context([scored_case("c")])
    first, *rest = write_pictures(given, tmp_path)
    assert write_pictures(given, tmp_path) == [first, *rest]
    written = {file: file.read_bytes() for file in rest}
    for other in (b"a figure", Image.new("L", (2, 2))):
        if isinstance(other, bytes):
            first.write_bytes(other)
        else:
            other.save(first)
        before = first.read_bytes()
        with pytest.raises(MssegError, match="did not write"):
            write_pictures(given, tmp_path)
        assert first.read_bytes() == before
        assert {file: file.read_bytes() for file in rest} == written


def test_a_card_says_how_unsure_the_system_is_of_its_lesion(tmp_path):
    """The false lesion lacks a corner of its box; 8 of its 26 voxels have 0.4, the others 0."""
    volumes, _ = pair()
    prediction = np.array(volumes.prediction.data)
    prediction[30, 30, 20] = 0
    score = score_case(prediction, volumes.reference.data, volumes.followup.spacing_mm)
    affine = volumes.followup.affine
    volumes = dataclasses.replace(volumes, prediction=Volume(prediction, affine, "mask"))
    spread = np.ones(prediction.shape, np.float32)
    spread[8:11, 8:11, 8:11] = 0
    spread[20:23, 20:23, 10:13] = 0.1
    spread[30:33, 30:33, 20:23] = 0
    spread[30, 30:33, 20:23] = 0.4
    spread[30, 30, 20] = 1
    own = dataclasses.replace(volumes, uncertainty=Volume(spread, affine))
    cases = [ReportCase("a", score, lambda: own)]
    text = write_report(context(cases), tmp_path / "r.html", progress=False).read_text()
    assert re.findall(r"Mean uncertainty\D+([\d.]+)", text) == ["0.100", "0.123", "0.000"]
    cases = [ReportCase("a", score, lambda: volumes)]
    plain = write_report(context(cases), tmp_path / "p.html", progress=False).read_text()
    assert "Mean uncertainty" not in plain


def test_a_card_shows_every_step_and_where_a_missed_lesion_was_dropped(tmp_path):
    """The missed lesion is proposed and gone after the second rule; the found one stays."""
    volumes, score = pair()
    affine, shape = volumes.followup.affine, volumes.prediction.data.shape
    proposed = (np.asarray(volumes.reference.data) > 0).astype(np.uint8)
    last = np.array(volumes.prediction.data) & proposed
    image = np.zeros(shape, np.float32)
    steps = {
        "the_image": Volume(image, affine),
        "proposed": Volume(proposed, affine, "mask"),
        "size": Volume(proposed, affine, "mask"),
        "not_touching": Volume(last, affine, "mask"),
        "shape": Volume(last, affine, "mask"),
    }
    own = dataclasses.replace(volumes, steps=steps)
    cases = [ReportCase("a", score, lambda: own)]
    text = write_report(context(cases), tmp_path / "r.html", progress=False).read_text()
    assert re.findall(r"Not a candidate after\W+dt\W+dd\W([^<]+)", text) == ["not touching"]
    assert text.count("the steps of the system in axial planes") == 3
    cases = [ReportCase("a", score, lambda: volumes)]
    plain = write_report(context(cases), tmp_path / "p.html", progress=False).read_text()
    assert "candidate" not in plain and "steps of the system" not in plain


def test_calibrated_probabilities_stand_on_the_cards_of_predicted_lesions(tmp_path):
    volumes, score = pair()
    labels = [lesion.label for lesion in score.predicted_lesions]
    probabilities = {label: 0.1 * label for label in labels}
    found = findings_of("a", score, probabilities)
    by_kind = {one.kind: one.probability for one in found}
    (false,) = [one for one in found if one.kind == "false"]
    assert false.probability == probabilities[false.lesion.label]
    (hit,) = [one for one in found if one.kind == "found"]
    assert hit.probability == probabilities[hit.partners[0].label]
    assert by_kind["missed"] is None
    case = ReportCase("a", score, lambda: volumes, probabilities)
    section = Markup("<section>the point</section>")
    path = tmp_path / "report.html"
    write_report(context([case], operating_point=section), path, progress=False)
    text = path.read_text(encoding="utf-8")
    assert text.count("Calibrated probability") == 2 and section in text
    write_report(context([scored_case()]), path, progress=False)
    assert "Calibrated" not in path.read_text(encoding="utf-8")
