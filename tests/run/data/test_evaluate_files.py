from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.evaluate.case_score import ScoreOptions
from msseg_lightning.evaluate.score import score_case
from msseg_lightning.run.data.evaluate_files import (
    SAME_FILE,
    MaskPair,
    evaluate_files,
    find_pairs,
)
from msseg_lightning.run.shard import Shard


def write(path, mask, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([1.0, 1.0, 1.2, 1.0]) if affine is None else affine
    image = nib.Nifti1Image(mask.astype(np.uint8), affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return path


def cube(low, shape=(24, 25, 26)):
    mask = np.zeros(shape, np.uint8)
    mask[low : low + 4, 5:9, 5:9] = 1
    return mask


def test_two_files_are_one_case(tmp_path):
    prediction, reference = (
        write(tmp_path / "013.nii.gz", cube(4)),
        write(tmp_path / "t" / "ground_truth.nii", cube(5)),
    )
    pairs, unmatched = find_pairs(prediction, reference)
    assert pairs == [MaskPair("013", prediction, reference)] and not unmatched
    score = evaluate_files(pairs, ScoreOptions())["013"]
    assert score.official == score_case(cube(4), cube(5), (1.0, 1.0, 1.2)).official


def test_folders_of_the_challenge_layout(tmp_path):
    truth, results = tmp_path / "truth", tmp_path / "results"
    for case in ("013", "015", "016"):
        write(truth / case / "ground_truth.nii.gz", cube(4))
        write(truth / case / "ground_truth_expert1.nii.gz", cube(6))
        write(truth / case / "flair_time01_on_middle_space.nii.gz", cube(1))
    write(results / "013.nii.gz", cube(4))
    write(results / "013_probability.nii.gz", cube(4))
    write(results / "015" / "new_lesions.nii.gz", cube(9))
    write(results / "099.nii.gz", cube(4))
    (results / "013.json").write_text("{}")
    pairs, unmatched = find_pairs(results, truth)
    assert [pair.case for pair in pairs] == ["013", "015"]
    assert [pair.reference.name for pair in pairs] == ["ground_truth.nii.gz"] * 2
    assert {problem.exit_code for problem in unmatched} == {ExitCode.PARTIAL}
    assert ["099 has no reference" in p.message or "016 has no prediction" in p.message
            for p in unmatched] == [True, True]  # fmt: skip
    scores = evaluate_files(pairs, ScoreOptions(), workers=2)
    assert list(scores) == ["013", "015"]
    assert [score.official["F1_score"] for score in scores.values()] == [1.0, 0.0]


def test_several_candidates_are_ambiguous(tmp_path):
    write(tmp_path / "p" / "013" / "one.nii.gz", cube(4))
    write(tmp_path / "p" / "013" / "two.nii.gz", cube(4))
    write(tmp_path / "g" / "013.nii.gz", cube(4))
    with pytest.raises(MssegError, match="several files could be the mask of case 013"):
        find_pairs(tmp_path / "p", tmp_path / "g")


def test_nothing_to_compare(tmp_path):
    write(tmp_path / "p" / "a.nii.gz", cube(4))
    write(tmp_path / "g" / "b.nii.gz", cube(4))
    with pytest.raises(MssegError, match="no case has both"):
        find_pairs(tmp_path / "p", tmp_path / "g")
    with pytest.raises(MssegError, match="file cannot be compared with a folder"):
        find_pairs(tmp_path / "p", tmp_path / "g" / "b.nii.gz")
    with pytest.raises(MssegError, match="no such file") as caught:
        find_pairs(tmp_path / "x", tmp_path / "y")
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(
    ("shape", "shift", "field"), [((24, 25, 27), 0.0, "dim"), ((24, 25, 26), 3.0, "affine")]
)
def test_another_grid_is_refused(tmp_path, shape, shift, field):
    affine = np.diag([1.0, 1.0, 1.2, 1.0])
    affine[0, 3] = shift
    prediction = write(tmp_path / "p.nii.gz", cube(4, shape), affine)
    reference = write(tmp_path / "g.nii.gz", cube(4))
    with pytest.raises(MssegError, match="do not lie on one grid") as caught:
        evaluate_files([MaskPair("p", prediction, reference)], ScoreOptions())
    assert caught.value.problems[0].field == field
    assert caught.value.exit_code is ExitCode.DATA


def test_problems_of_all_files_are_told_together(tmp_path):
    good = write(tmp_path / "good.nii.gz", cube(4))
    bad = [write(tmp_path / f"{k}.nii.gz", cube(4) * k) for k in (3, 7)]
    pairs = [MaskPair(path.stem, path, good) for path in bad]
    with pytest.raises(MssegError) as caught:
        evaluate_files(pairs, ScoreOptions())
    assert len(caught.value.problems) == 2


def test_labels_of_each_side_are_explained_on_their_own(tmp_path):
    prediction = write(tmp_path / "p.nii.gz", cube(4) * 255)
    reference = write(tmp_path / "g.nii.gz", cube(4) * 3)
    pairs = [MaskPair("p", prediction, reference)]
    with pytest.raises(MssegError) as caught:
        evaluate_files(pairs, ScoreOptions(), label_values={3: 1})
    (problem,) = caught.value.problems
    assert problem.remedy.endswith(": --prediction-label-value=255=1")
    labels = {"prediction_label_values": {255: 1}}
    with pytest.raises(MssegError, match=r"means: --label-value=3=1"):
        evaluate_files(pairs, ScoreOptions(), **labels)
    score = evaluate_files(pairs, ScoreOptions(), label_values={3: 1}, **labels)["p"]
    assert score.official["Dice"] == 1.0


def test_labels_of_references_leave_predictions_alone_and_their_order_means_nothing(tmp_path):
    """1 is an old lesion and 2 a new one; predictions are 0 and 1 as ever."""
    new, old = cube(4), cube(14)
    reference = write(tmp_path / "g.nii.gz", old + 2 * new)
    pairs = [MaskPair("p", write(tmp_path / "p.nii.gz", new), reference)]
    for labels in ({1: 0, 2: 1}, {2: 1, 1: 0}):
        score = evaluate_files(pairs, ScoreOptions(), label_values=labels)["p"]
        assert score.official["Dice"] == 1.0 and score.detection["n_ref"] == 1
    with pytest.raises(MssegError) as caught:
        evaluate_files(pairs, ScoreOptions())
    remedy = caught.value.problems[0].remedy
    assert remedy.endswith("--label-value=1=0 --label-value=2=1")


def test_kept_scores_belong_to_one_meaning_of_the_labels(tmp_path):
    mask = cube(4) + 2 * cube(14)
    pairs = [MaskPair("p", write(tmp_path / "p.nii.gz", cube(4)), write(tmp_path / "g.nii", mask))]

    def dice(labels, **more):
        keep = tmp_path / "kept"
        scores = evaluate_files(pairs, ScoreOptions(), label_values=labels, keep=keep, **more)
        return scores["p"].official.get("Dice")

    assert dice({2: 1, 1: 0}) == 0.0 and dice({1: 1, 2: 0}) == 1.0 and dice({1: 0, 2: 1}) == 0.0
    assert dice({1: 1, 2: 0}, prediction_label_values={1: 0}) == 0.0


def test_how_much_is_marked_is_no_reason_to_refuse(tmp_path):
    full = np.ones((6, 6, 6), np.uint8)
    half = full.copy()
    half[3:] = 0
    pairs = [MaskPair("p", write(tmp_path / "p.nii", half), write(tmp_path / "g.nii", half))]
    assert evaluate_files(pairs, ScoreOptions())["p"].official["Dice"] == 1.0
    pairs = [MaskPair("p", write(tmp_path / "p.nii", full), pairs[0].reference)]
    assert evaluate_files(pairs, ScoreOptions())["p"].notes


def test_spacing_comes_from_the_header_field(tmp_path):
    # voxels of 1 x 1 x 0.6 mm turned about an oblique axis: the affine's columns have the length
    # 0.6 only up to rounding, yet 5 voxels must stay just above 3 mm3 as they do in the tool
    from scipy.spatial.transform import Rotation

    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", (13, 27, 41), degrees=True).as_matrix() @ np.diag(
        [1.0, 1.0, 0.6]
    )
    mask = np.zeros((20, 20, 20), np.uint8)
    mask[3:8, 4, 4] = 1
    path = write(tmp_path / "g.nii.gz", mask, affine)
    score = evaluate_files([MaskPair("g", path, path)], ScoreOptions())["g"]
    assert score.spacing_mm == tuple(float(np.float32(value)) for value in (1.0, 1.0, 0.6))
    assert score.detection["n_ref"] == 1


def test_parts_meet_in_a_folder_and_nothing_is_scored_twice(tmp_path, monkeypatch):
    cases = ("a", "b", "c")
    for number, case in enumerate(cases):
        write(tmp_path / "p" / f"{case}.nii.gz", cube(4 + number))
        write(tmp_path / "t" / f"{case}.nii.gz", cube(5))
    pairs, _ = find_pairs(tmp_path / "p", tmp_path / "t")
    expected = evaluate_files(pairs, ScoreOptions())
    keep = tmp_path / "cases"
    first = evaluate_files(pairs, ScoreOptions(), keep=keep, shard=Shard(1, 2))
    assert list(first) == ["a", "c"]
    scored = []
    monkeypatch.setattr(
        "msseg_lightning.run.data.evaluate_files.score_case",
        lambda *masks: scored.append(1) or score_case(*masks),
    )
    assert evaluate_files(pairs, ScoreOptions(), keep=keep, shard=Shard(2, 2)) == expected
    assert len(scored) == 1
    assert evaluate_files(pairs, ScoreOptions(), keep=keep) == expected and len(scored) == 1
    (keep / "b.json").write_text("{")  # damaged: scored again, as is one with another mask
    write(tmp_path / "p" / "c.nii.gz", cube(9))
    changed = evaluate_files(pairs, ScoreOptions(), keep=keep)
    assert len(scored) == 3 and changed["b"] == expected["b"] and changed["c"] != expected["c"]
    evaluate_files(pairs, ScoreOptions(min_lesion_volume_mm3=5.0), keep=keep)
    assert len(scored) == 6


def test_a_refused_mask_leaves_the_others_for_the_next_call(tmp_path):
    for case in ("a", "b"):
        write(tmp_path / "p" / f"{case}.nii.gz", cube(4))
        write(tmp_path / "t" / f"{case}.nii.gz", cube(5))
    (tmp_path / "p" / "a.nii.gz").write_bytes(b"no image")
    pairs, _ = find_pairs(tmp_path / "p", tmp_path / "t")
    with pytest.raises(MssegError, match=r"a\.nii\.gz"):
        evaluate_files(pairs, ScoreOptions(), keep=tmp_path / "cases")
    assert [path.name for path in (tmp_path / "cases").iterdir()] == ["b.json"]


@pytest.mark.parametrize(
    "name",
    [
        "brain_mask",
        "lesions_time02",
        "lesions_time01",
        "brainmask",
        "sub-1_ses-2_label-brain_mask",
        "sub-1_ses-2_label-lesion_mask",
        "sub-1_ses-2_desc-rater1_label-newlesion_mask",
        "ground_truth_expert1",
        "new_lesions_rater2",
        "followup_lesions",
        "gt",
        "flair_time02_on_middle_space",
        "anything",
    ],
)
def test_no_other_file_is_taken_for_a_reference(name, tmp_path):
    """Neither where it is the only file of its case, nor beside cases with a reference."""
    for case in ("a", "b"):
        write(tmp_path / "p" / f"{case}.nii.gz", cube(4))
    write(tmp_path / "t" / "a" / f"{name}.nii.gz", cube(4))
    with pytest.raises(
        MssegError, match="2 cases have no reference and were skipped: a, b"
    ) as caught:
        find_pairs(tmp_path / "p", tmp_path / "t")
    assert f"{name}.nii.gz" in str(caught.value)
    write(tmp_path / "t" / "b" / "ground_truth.nii.gz", cube(4))
    pairs, unmatched = find_pairs(tmp_path / "p", tmp_path / "t")
    assert [pair.case for pair in pairs] == ["b"] and len(unmatched) == 1
    (tmp_path / "t" / "a" / f"{name}.nii.gz").rename(tmp_path / "t" / "a" / "ground_truth.nii.gz")
    assert len(find_pairs(tmp_path / "p", tmp_path / "t")[0]) == 2  # the remedy


@pytest.mark.parametrize("name", ["ground_truth", "new_lesions", "sub-1_label-newlesion_mask"])
def test_references_bear_the_names_of_the_layouts(name, tmp_path):
    write(tmp_path / "p" / "a.nii.gz", cube(4))
    write(tmp_path / "t" / "a" / f"{name}.nii.gz", cube(4))
    for other in ("brain_mask", "lesions_time02", "ground_truth_expert1"):
        write(tmp_path / "t" / "a" / f"{other}.nii.gz", cube(9))
    (pair,) = find_pairs(tmp_path / "p", tmp_path / "t")[0]
    assert pair.reference.name == f"{name}.nii.gz"


@pytest.mark.parametrize("name", ["brain_mask", "lesions_time02", "ground_truth", "sub-1_FLAIR"])
def test_no_other_file_is_taken_for_a_prediction(name, tmp_path, caplog):
    write(tmp_path / "p" / "a" / f"{name}.nii.gz", cube(4))
    write(tmp_path / "t" / "a.nii.gz", cube(4))
    with pytest.raises(MssegError, match="case a has no prediction"):
        find_pairs(tmp_path / "p", tmp_path / "t")
    write(tmp_path / "p" / "a" / "result.nii.gz", cube(4))
    (pair,) = find_pairs(tmp_path / "p", tmp_path / "t")[0]
    assert pair.prediction.name == "result.nii.gz" and "used as the prediction" in caplog.text


def test_files_of_other_names_beside_the_cases_are_no_cases(tmp_path):
    for side in ("p", "t"):
        for name in ("a", "brain_mask", "lesions_time02", "a_probability"):
            write(tmp_path / side / f"{name}.nii.gz", cube(4))
    assert [pair.case for pair in find_pairs(tmp_path / "p", tmp_path / "t")[0]] == ["a"]


def test_a_kept_score_never_overwrites_a_file_of_somebody_else(tmp_path):
    pairs = [MaskPair("p", write(tmp_path / "p.nii.gz", cube(4)), tmp_path / "p.nii.gz")]
    (tmp_path / "p.json").write_text('{"EchoTime": 0.1}')
    with pytest.raises(MssegError, match="did not write"):
        evaluate_files(pairs, ScoreOptions(), keep=tmp_path)
    assert "EchoTime" in (tmp_path / "p.json").read_text()


@pytest.mark.parametrize(
    "name", ["old_lesions_mask", "wmh", "001_wmh", "ventricles", "bet_mask", "001_csf-seg"]
)
def test_other_anatomy_is_no_prediction(tmp_path, name):
    for file in (f"p/001/{name}.nii.gz", "r/001/ground_truth.nii.gz"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).touch()
    with pytest.raises(MssegError, match=r"evaluate.nothing"):
        find_pairs(tmp_path / "p", tmp_path / "r")


@pytest.mark.parametrize("name", ["001_lesions_time02", "001_ground_truth_expert1", "001_wmh"])
def test_other_masks_with_the_case_before_their_name_are_no_case(tmp_path, name):
    for folder in ("p", "r"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{name}.nii.gz").touch()
    with pytest.raises(MssegError, match=r"evaluate.nothing"):
        find_pairs(tmp_path / "p", tmp_path / "r")


@pytest.mark.badinput
@pytest.mark.parametrize(("low", "kind"), [(4, "copy"), (4, "same"), (5, "other"), (None, "empty")])
def test_a_reference_that_is_scored_against_itself_is_remarked(low, kind, tmp_path):
    empty = np.zeros((24, 25, 26), np.uint8)
    truth = write(tmp_path / "t" / "a.nii", empty if low is None else cube(4))
    prediction = write(tmp_path / "p" / "a.nii", empty if low is None else cube(low))
    pair = MaskPair("a", truth if kind == "same" else prediction, truth)
    notes = evaluate_files([pair], ScoreOptions())["a"].notes
    assert (SAME_FILE in notes) == (kind in ("copy", "same"))


def test_missing_cases_are_named_in_one_line_each_way(tmp_path):
    for case in ("a", "b", "c", "d"):
        write(tmp_path / "t" / f"{case}.nii.gz", cube(4))
    write(tmp_path / "p" / "a.nii.gz", cube(4))
    write(tmp_path / "p" / "x.nii.gz", cube(4))
    pairs, unmatched = find_pairs(tmp_path / "p", tmp_path / "t")
    assert [pair.case for pair in pairs] == ["a"]
    assert [problem.message for problem in unmatched] == [
        "case x has no reference and was skipped",
        "3 cases have no prediction and were skipped: b, c, d",
    ]


@pytest.mark.parametrize(
    ("change", "advice"),
    [("shape", "by nearest neighbour"), ("affine", "with the header of the patient's own scan")],
)
def test_the_advice_for_another_grid_applies(change, advice, tmp_path):
    mask = cube(4)
    one = write(tmp_path / "one.nii.gz", mask[:-1] if change == "shape" else mask)
    two = write(tmp_path / "two.nii.gz", mask)
    if change == "affine":
        image = nib.load(one)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine + np.eye(4) * 0.5), one)
    with pytest.raises(MssegError, match=r"evaluate\.grid") as caught:
        evaluate_files([MaskPair("one", one, two)], ScoreOptions())
    assert advice in str(caught.value)
