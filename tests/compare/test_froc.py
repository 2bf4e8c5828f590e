import dataclasses
import itertools

import nibabel
import numpy as np
import pytest

from msseg_lightning.compare.froc import OPERATING_POINTS, froc_curve, froc_curves, lesion_scores
from msseg_lightning.compare.systems import read_systems
from msseg_lightning.evaluate.case_score import ScoreOptions
from tests.compare import scored

CASES = ["p00", "p01", "p12"]  # the last without new lesions


def cube(mask, lesion, low=0):
    mask[6 * lesion : 6 * lesion + 4, 2 + low : 6 + low, 2 + low : 6 + low] = 1


def write_map(folder, case, data):
    image = nibabel.Nifti1Image(data.astype(np.float32), np.eye(4))
    image.header.set_xyzt_units("mm")
    nibabel.save(image, folder / f"{case}_probability.nii.gz")


@pytest.fixture
def system(tmp_path):
    """Two of five lesions are marked in both patients with them, sure and less sure; p12 has one
    false mark that is surer than the weak true ones, p00 a weak one."""
    found = {}
    run = tmp_path / "runs" / "net" / "toy-fold0-seed0"
    folder = run / "predictions"
    maps = {}
    for case in CASES:
        true = scored.reference(case)
        mask, probability = np.zeros_like(true), np.zeros(true.shape)
        if true.any():
            for lesion, value in ((0, 0.9), (1, 0.5)):
                block = slice(6 * lesion, 6 * lesion + 6)
                mask[block] = true[block]
                probability[block] = value
        if case == "p12":
            mask[20:24, 8:12, 8:12] = 1
            probability[20:24] = 0.7
        if case == "p00":
            mask[12:15, 10:13, 10:13] = 1
            probability[12:15, 9:, 9:] = 0.3
        found[case] = scored.score_case(mask, true, scored.SPACING)
        maps[case] = mask, probability
    scored.write_run(tmp_path / "runs", "net", found)
    scored.write_masks(folder, {case: mask for case, (mask, _) in maps.items()})
    for case, (_, probability) in maps.items():
        write_map(folder, case, probability)
    return read_systems([str(run)])[0]


def test_scores_are_the_means_inside_the_lesions(system):
    case = system.seeds[0]["p00"]
    found = lesion_scores(case, system.predictions[0]["p00"], "p00")
    # sizes: 27 (true, edge 3), 27 (false, later in the file), 8 (true, edge 2)
    assert [one.voxels for one in case.predicted_lesions] == [27, 27, 8]
    by_size = dict(zip([one.found for one in case.predicted_lesions], found, strict=False))
    assert by_size[False] == pytest.approx(0.3)
    assert sorted(found) == pytest.approx([0.3, 0.5, 0.9])


def test_the_curve_by_hand(system):
    """Ten true lesions, three patients; from the surest lesion down."""
    curve = froc_curve(system, ScoreOptions())
    #       above  0.9   0.7   0.5   0.3
    expected_false = [0, 0, 1 / 3, 1 / 3, 2 / 3]
    expected_found = [0, 0.2, 0.2, 0.4, 0.4]
    assert curve.false_per_patient == pytest.approx(expected_false, abs=1e-6)
    assert curve.sensitivity == pytest.approx(expected_found)
    # at 0.125 and 0.25 two lesions of ten, from 0.5 on four
    assert curve.at == pytest.approx([0.2, 0.2, 0.4, 0.4, 0.4, 0.4])
    assert len(curve.at) == len(OPERATING_POINTS) and curve.mean == pytest.approx(2 / 6)
    low, high = curve.interval
    assert 0 <= low <= curve.mean <= high <= 0.4


def test_the_end_of_the_curve_is_the_score_of_the_system(tmp_path):
    root, found = tmp_path / "runs", scored.scores(0.6, 3)
    run = scored.write_run(root, "net", found)
    masks = {case: scored.prediction(case, 0.6, 3) for case in found}
    scored.write_masks(run / "predictions", masks)
    rng = np.random.default_rng(0)
    for case, mask in masks.items():
        write_map(run / "predictions", case, mask * rng.random(mask.shape))
    curve = froc_curve(read_systems([str(run)])[0], ScoreOptions())
    detection = [one.detection for one in found.values()]
    true, right = sum(one["n_ref"] for one in detection), sum(one["tp_ref"] for one in detection)
    false = sum(one["n_test"] - one["tp_test"] for one in detection)
    assert curve.sensitivity[-1] == pytest.approx(right / true)
    assert curve.false_per_patient[-1] == pytest.approx(false / len(found))
    assert all(a <= b for a, b in itertools.pairwise(curve.sensitivity))


def test_systems_without_maps_of_their_masks_have_no_curve(system, caplog):
    assert list(froc_curves([system], ScoreOptions())) == ["net"]
    folder = system.predictions[0]["p00"]
    (folder / "p00_probability.nii.gz").unlink()
    assert froc_curves([system], ScoreOptions()) == {}
    assert "net has no free-response curve" in caplog.text and "p00" in caplog.text
    # a pair without a marked lesion needs no map
    nothing = dataclasses.replace(
        system.seeds[0]["p00"], detection={**system.seeds[0]["p00"].detection, "n_test": 0}
    )
    assert lesion_scores(nothing, folder, "p00").size == 0


def test_masks_that_were_not_those_scored_have_no_curve(system):
    folder = system.predictions[0]["p00"]
    scored.write_masks(folder, {"p00": scored.reference("p00")})
    assert lesion_scores(system.seeds[0]["p00"], folder, "p00") is None


def test_without_true_lesions_there_is_no_curve(system):
    assert froc_curve(system.only(["p12"]), ScoreOptions()) is None
