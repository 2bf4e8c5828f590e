"""The official scorer: its own vectors, cases worked by hand, and a plain slow implementation."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from msseg_lightning.core.problem import MssegError
from msseg_lightning.evaluate.case_score import ScoreOptions
from msseg_lightning.evaluate.score import score_case

SHARED = Path(os.environ.get("MSSEG_SHARED", Path(__file__).parents[3] / "shared"))
VECTORS = SHARED / "anima_vectors" / "public"
NUMBERS = range(40)
OPTIONS = {
    "default": ScoreOptions(),
    "msseg2": ScoreOptions(),
    "minvol0": ScoreOptions(min_lesion_volume_mm3=0.0),
    "strict": ScoreOptions(10.0, 0.3, 0.4, 0.9),
}
UNIT = (1.0, 1.0, 1.0)


def line(*stretches, length=120):
    """A 5 x 5 x length mask whose middle line holds the given half-open stretches."""
    mask = np.zeros((5, 5, length), np.uint8)
    for low, high in stretches:
        mask[2, 2, low:high] = 1
    return mask


# ------------------------------------------------------------------------- the tool's own output


@pytest.mark.skipif(not VECTORS.is_dir(), reason="reference vectors lie in the shared folder")
@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("order", ["C", "F"])
def test_agrees_with_the_official_tool(number, order):
    # case_37 is decided by the order in which the tool's sort leaves equal overlaps, see tie_order
    case = json.loads((VECTORS / f"case_{number:02d}.json").read_text())
    with np.load(VECTORS / f"case_{number:02d}.npz") as arrays:
        prediction, reference = (np.asarray(arrays[name], order=order) for name in ("pred", "gt"))
        spacing = tuple(arrays["spacing"])
    for name, run in case["runs"].items():
        score = score_case(prediction, reference, spacing, OPTIONS[name])
        if name != "default":  # there the tool was not asked for distances and lesions
            assert set(score.official) == set(run["printed"])
        for measure, text in run["printed"].items():
            value = score.official[measure]
            if math.isnan(float(text)):
                assert value is None, (name, measure)
            else:
                assert value == pytest.approx(float(text), abs=1e-6), (name, measure)
        for measure, exact in run.get("exact", {}).items():
            expected = None if exact is None else pytest.approx(exact, rel=1e-9)
            assert score.official[measure] == expected, (name, measure)
        if "lesions" in run:
            assert lesion_record(score, run["lesions"]) == run["lesions"], name


def lesion_record(score, expected):
    true = [lesion for lesion in score.reference_lesions if lesion.counted]
    predicted = [lesion for lesion in score.predicted_lesions if lesion.counted]
    ours = {
        **{name: score.detection[name] for name in ("n_ref", "n_test", "tp_ref", "tp_test")},
        "ref_detected": [int(lesion.found) for lesion in true],
        "test_matched": [int(lesion.found) for lesion in predicted],
        "ref_sizes_voxels": [lesion.voxels for lesion in true],
        "test_sizes_voxels": [lesion.voxels for lesion in predicted],
        "overlap": [list(pair) for pair in score.overlaps],
    }
    if not (true and predicted):  # the tool makes no flags then
        assert not any(ours["ref_detected"] + ours["test_matched"])
        ours |= {name: expected[name] for name in ("ref_detected", "test_matched")}
    return ours


# ------------------------------------------------------------------------------------- by hand


@pytest.mark.parametrize(
    ("true", "predicted", "sensitivity", "precision", "f1", "dice"),
    [
        ([(0, 10)], [(0, 10)], 1, 1, 1, 1),
        ([(0, 3), (20, 30)], [(20, 30)], 1, 1, 1, 20 / 23),
        ([(0, 100)], [(0, 10)], 0, 0, 0, 20 / 110),
        ([(0, 100)], [(0, 11)], 1, 0, 0, 22 / 111),
        ([(0, 100)], [(0, 30)], 1, 1, 1, 60 / 130),
        ([(0, 100)], [(0, 29)], 1, 0, 0, 58 / 129),
        ([(0, 30)], [(0, 100)], 1, 1, 1, 60 / 130),
        ([(0, 30)], [(0, 101)], 0, 1, 0, 60 / 131),
        ([(0, 20), (40, 60)], [(0, 60)], 1, 1, 1, 0.8),
        ([(0, 40)], [(0, 12), (14, 26), (28, 40)], 1, 1, 1, 72 / 76),
        ([(0, 10)], [], 0, 0, 0, 0),
    ],
)
def test_lines(true, predicted, sensitivity, precision, f1, dice):
    official = score_case(line(*predicted), line(*true), UNIT).official
    assert official["SensL"] == sensitivity
    assert official["PPVL"] == precision
    assert official["F1_score"] == f1
    assert official["Dice"] == pytest.approx(dice)


def test_empty_reference_has_only_false_lesions():
    score = score_case(line((0, 3), (10, 14), (30, 40)), line(), UNIT)
    assert score.official == {"NbTestedLesions": 2.0, "VolTestedLesions": 14.0}
    assert not score.has_new_lesions
    assert score.surface == {
        "average_symmetric_surface_distance_mm": None,
        "hausdorff95_mm": None,
    }


def test_empty_reference_ignores_the_volume_option_as_the_tool_does():
    score = score_case(line((0, 3), (10, 14)), line(), UNIT, ScoreOptions(0.0))
    assert score.official["NbTestedLesions"] == 1.0
    assert score.detection["n_test"] == 2


def test_both_empty():
    score = score_case(line(), line(), UNIT)
    assert score.official == {"NbTestedLesions": 0.0, "VolTestedLesions": 0.0}
    assert score.dice == {
        "undefined_without_reference": None,
        "one_if_both_empty": 1.0,
        "zero_without_reference": 0.0,
        "modified": 1.0,
    }


def test_dice_conventions_differ_only_without_reference():
    false_voxels = score_case(line((0, 10)), line(), UNIT).dice
    assert false_voxels["one_if_both_empty"] == 0.0
    assert false_voxels["undefined_without_reference"] is None
    assert false_voxels["modified"] == pytest.approx(1e-7, rel=1e-3)
    half = score_case(line((0, 10)), line((5, 15)), UNIT).dice
    assert all(value == pytest.approx(0.5, abs=1e-6) for value in half.values())


def test_blocks_that_touch_along_an_edge_are_two_lesions():
    mask = np.zeros((6, 6, 6), np.uint8)
    mask[0:2, 0:2, 0:2] = 1
    mask[2:4, 2:4, 0:2] = 1
    assert score_case(mask, mask, UNIT).detection["n_ref"] == 2
    mask[2, 1, 0] = 1  # a face joins them
    assert score_case(mask, mask, UNIT).detection["n_ref"] == 1


def test_rows_do_not_join_across_the_image_border():
    mask = np.zeros((4, 5, 6), np.uint8)
    mask[0, 0, 5] = mask[0, 1, 0] = 1  # neighbours in memory, far apart in space
    mask[1, 4, 2] = mask[2, 0, 2] = 1  # last and first row of neighbouring slices
    score = score_case(mask, mask, UNIT, ScoreOptions(0.0))
    assert score.detection["n_ref"] == 4


def test_lesions_are_described():
    reference = np.zeros((9, 7, 5), np.uint8)
    reference[1:4, 2:4, 1] = 1  # 6 voxels
    reference[6, 5, 3] = 1  # 1 voxel, below 3 mm3
    prediction = np.zeros_like(reference)
    prediction[2:4, 2:4, 1] = 1
    score = score_case(prediction, reference, (1.0, 1.0, 1.5))
    large, small = score.reference_lesions
    assert (large.label, large.voxels, large.volume_mm3) == (1, 6, 9.0)
    assert large.centre_voxel == (2.0, 2.5, 1.0)
    assert large.box == ((1, 4), (2, 4), (1, 2))
    assert large.found and large.counted and large.overlap_voxels == 4
    assert not small.found and not small.counted and small.box == ((6, 7), (5, 6), (3, 4))
    assert score.overlaps == ((1, 1, 4),)
    assert score.reference_volume_mm3 == 7 * 1.5


def test_any_voxel_rates():
    # lesion 1 is covered by 5 %: not detected officially, but touched
    score = score_case(line((0, 5), (110, 115)), line((0, 100)), UNIT)
    assert score.official["SensL"] == 0.0
    assert score.detection["LTPR"] == 1.0
    assert score.detection["LFPR"] == 0.5


def test_distances_by_hand_on_anisotropic_voxels():
    reference, prediction = np.zeros((2, 12, 7, 5), np.uint8)
    reference[2, 3, 2] = 1
    prediction[2, 3, 2] = prediction[5, 3, 2] = prediction[2, 3, 4] = 1
    score = score_case(prediction, reference, (0.5, 1.0, 3.0), ScoreOptions(0.0))
    # true voxel: 0; predicted: 0, 3 * 0.5 = 1.5 and 2 * 3.0 = 6 mm
    assert score.official["HausdorffDistance"] == pytest.approx(6.0)
    assert score.official["ContourMeanDistance"] == pytest.approx(7.5 / 3)
    assert score.surface["average_symmetric_surface_distance_mm"] == pytest.approx(7.5 / 4)
    # sorted 0, 1.5, 6 at 95 %: place 1.9, so 1.5 + 0.9 * 4.5
    assert score.surface["hausdorff95_mm"] == pytest.approx(5.55)
    # in file order the first voxel of both contours is at distance 0
    assert score.official["SurfaceDistance"] == 0.0


def test_hausdorff_looks_below_the_surface():
    # the predicted ball surrounds nothing; its centre is farther from the reference, a shell around
    # it, than its surface is
    grid = np.indices((31, 31, 31)) - 15
    radius = np.sqrt((grid**2).sum(0))
    prediction = radius <= 6
    reference = (radius > 9) & (radius <= 10)
    score = score_case(prediction, reference, UNIT)
    edt = ndimage.distance_transform_edt
    expected = max(edt(~reference)[prediction].max(), edt(~prediction)[reference].max())
    assert score.official["HausdorffDistance"] == pytest.approx(expected)
    assert edt(~reference)[15, 15, 15] == expected  # it is the centre that decides


def test_spacing_is_rounded_as_in_a_header():
    # 0.6 is stored as 0.60000002, so 5 voxels of 0.6 mm3 are more than 3 mm3
    score = score_case(line((0, 5)), line((0, 5)), (1.0, 1.0, 0.6))
    assert score.detection["n_ref"] == 1


# --------------------------------------------------------------------- a plain implementation


def plain_score(prediction, reference, spacing, limit, alpha, beta, gamma):
    """All rules written out with whole-volume operations; ties in order of lesion number."""
    spacing = np.asarray(spacing, np.float32).astype(np.float64)
    voxel = spacing.prod()
    p, g = prediction != 0, reference != 0
    filtered = []
    for mask in (g, p):
        labels, count = ndimage.label(mask)
        flat = labels.ravel(order="F")
        items = [
            (-(flat == k).sum(), int(np.flatnonzero(flat == k)[0]), k) for k in range(1, count + 1)
        ]
        kept = [k for size, _, k in sorted(items) if -size > limit / voxel]
        new = np.zeros_like(labels)
        for rank, k in enumerate(kept, start=1):
            new[labels == k] = rank
        filtered.append((new, len(kept)))
    (lg, ng), (lp, np_) = filtered
    table = np.zeros((ng + 1, np_ + 1))
    np.add.at(table, (lg.ravel(), lp.ravel()), 1)

    def detections(o):
        flags = []
        for i in range(1, o.shape[0]):
            total = o[i, 1:].sum()
            ok = total / o[i].sum() > alpha
            explained = 0.0
            for j in sorted(range(1, o.shape[1]), key=lambda j: -o[i, j]):
                if not ok or explained >= gamma or o[i, j] == 0:
                    break
                ok = not o[0, j] / o[:, j].sum() > beta
                explained += o[i, j] / total
            flags.append(bool(ok))
        return flags

    def contour(mask):
        padded = np.pad(mask, 1, mode="edge")
        return mask & ~ndimage.binary_erosion(padded)[1:-1, 1:-1, 1:-1]

    def distance(mask):
        return ndimage.distance_transform_edt(~mask, sampling=spacing)

    def in_file_order(values, mask):
        return values.ravel(order="F")[mask.ravel(order="F")]

    cg, cp = contour(g), contour(p)
    a, b = in_file_order(distance(cp), cg), in_file_order(distance(cg), cp)
    return {
        "reference_found": detections(table),
        "prediction_found": detections(table.T),
        "Dice": 2 * (p & g).sum() / (p.sum() + g.sum()),
        "HausdorffDistance": max(distance(g)[p].max(), distance(p)[g].max()),
        "ContourMeanDistance": max(a.mean(), b.mean()),
        "SurfaceDistance": (np.minimum.accumulate(a).sum() + np.minimum.accumulate(b).sum())
        / (a.size + b.size),
        "average_symmetric_surface_distance_mm": (a.sum() + b.sum()) / (a.size + b.size),
        "hausdorff95_mm": max(np.percentile(a, 95), np.percentile(b, 95)),
    }


def random_pair(rng):
    shape = tuple(rng.integers(5, 40, 3))
    pair = []
    for _ in range(2):
        noise = ndimage.gaussian_filter(rng.standard_normal(shape), rng.uniform(0.4, 1.6))
        pair.append(noise > np.quantile(noise, rng.uniform(0.7, 0.99)))
    prediction, reference = pair
    if rng.random() < 0.7:  # related masks, so that lesions do match
        shared = rng.random(shape) < rng.uniform(0.5, 1)
        prediction = np.where(shared, reference, prediction)
    return prediction.astype(np.uint8), reference.astype(np.uint8)


@pytest.mark.parametrize("seed", range(60))
def test_agrees_with_the_plain_definition(seed):
    rng = np.random.default_rng(seed)
    prediction, reference = random_pair(rng)
    while not (prediction.any() and reference.any()):  # an empty mask has no distances
        prediction, reference = random_pair(rng)
    spacing = tuple(rng.choice([0.5, 0.7, 0.98, 1.0, 1.2, 3.0], 3))
    options = ScoreOptions(
        float(rng.choice([0.0, 3.0, 8.0])),
        *(float(rng.choice(values)) for values in ([0.1, 0.3], [0.4, 0.7], [0.65, 0.9])),
    )
    thresholds = (options.min_lesion_volume_mm3, options.alpha, options.beta, options.gamma)
    plain = plain_score(prediction, reference, spacing, *thresholds)
    order = rng.choice(["C", "F"])
    score = score_case(
        np.asarray(prediction, order=order), np.asarray(reference, order="C"), spacing, options
    )
    ours = {**score.official, **score.surface}
    for name in plain.keys() - {"reference_found", "prediction_found"}:
        assert ours[name] == pytest.approx(plain[name], rel=1e-9, abs=1e-12), name
    true = [lesion.found for lesion in score.reference_lesions if lesion.counted]
    predicted = [lesion.found for lesion in score.predicted_lesions if lesion.counted]
    if max(len(true), len(predicted)) <= 16:  # above, equal overlaps follow the tool's sort
        assert true == plain["reference_found"]
        assert predicted == plain["prediction_found"]


# ------------------------------------------------------------------------------------ bad input


def test_every_layout_and_type_gives_the_same_score():
    prediction, reference = random_pair(np.random.default_rng(5))
    expected = score_case(prediction, reference, UNIT)
    wide = np.zeros((*prediction.shape[:2], prediction.shape[2] * 2), np.uint8)
    wide[..., ::2] = prediction
    for other in (
        prediction.astype(bool),
        prediction.astype(np.int64) * 255,
        np.asfortranarray(prediction),
        wide[..., ::2],
    ):
        assert score_case(other, reference, UNIT) == expected


def test_all_ones_count_as_empty_with_a_note():
    ones = np.ones((4, 4, 4), np.uint8)
    some = np.zeros_like(ones)
    some[1:3, 1:3, 1:3] = 1
    score = score_case(ones, some, UNIT)
    assert score.official["Dice"] == 0.0 and score.official["PPV"] is None
    assert "ones only" in score.notes[0]


def test_refuses_what_is_no_pair_of_masks():
    mask = np.zeros((4, 4, 4), np.uint8)
    with pytest.raises(MssegError, match="one grid"):
        score_case(mask, mask[:3], UNIT)
    with pytest.raises(MssegError, match="whole numbers"):
        score_case(mask * 0.5, mask, UNIT)
    with pytest.raises(MssegError, match="positive lengths"):
        score_case(mask, mask, (1.0, 0.0, 1.0))


def test_score_is_json():
    score = score_case(line((0, 9)), line((2, 12)), UNIT)
    assert json.loads(json.dumps(score.as_dict(), allow_nan=False))["official"] == score.official
