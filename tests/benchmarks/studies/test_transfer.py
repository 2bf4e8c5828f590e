"""Counting and comparing at equal numbers of false lesions, worked by hand."""

from __future__ import annotations

import numpy as np

from benchmarks.studies.transfer import (
    Point,
    Reference,
    at_budget,
    compared,
    draw,
    frontier,
    larger,
    lesion_by_lesion,
    markdown,
)
from msseg_lightning.core.subject import (
    BASELINE,
    BRAIN,
    FOLLOWUP,
    TARGET,
    LoadedSubject,
    LongitudinalSubject,
    Native,
)
from msseg_lightning.core.volume import Grid, Volume


def reference_of(lesions, brain, patient="a", rise=0.0):
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    subject = LongitudinalSubject(id=patient, patient=patient, images={})
    noise = np.random.default_rng(0).normal(100, 1, lesions.shape)
    volumes = {
        BASELINE: Volume(noise.astype(np.float32), affine),
        FOLLOWUP: Volume((noise + rise * lesions).astype(np.float32), affine),
        BRAIN: Volume(brain, affine, "mask"),
        TARGET: Volume(lesions, affine, "mask"),
    }
    return Reference.of(LoadedSubject(subject, volumes, Native(Grid(brain.shape, affine), b"")))


def case(true, detected, predicted, matched):
    """Every second lesion is distinct, and the detected ones are among the first."""
    counts = {"true": true, "detected": detected, "predicted": predicted, "matched": matched}
    distinct = {"distinct": true // 2, "distinct_detected": min(detected, true // 2)}
    return {**counts, **distinct, "found": list(range(detected))}


def test_what_lies_outside_the_brain_does_not_count():
    brain = np.zeros((20, 20, 6), bool)
    brain[2:18, 2:18, 1:5] = True
    lesions = np.zeros_like(brain)
    lesions[4:7, 4:7, 2:4] = True  # 18 voxels of 3 mm3
    lesions[12:14, 12:14, 2] = True  # four voxels, missed
    marked = np.zeros_like(brain)
    marked[4:7, 4:7, 2:4] = True
    marked[9:11, 4:6, 2] = True  # false
    marked[0:2, 0:2, 0] = True  # outside
    reference = reference_of(lesions, brain, rise=50.0)
    found = reference.match(marked.astype(np.uint8))
    assert {**found, "distinct": 1} == case(true=2, detected=1, predicted=2, matched=1)
    assert reference.rivals.tolist() == [0, 0]  # nothing else rises
    assert reference.volumes_mm3().tolist() == [54.0, 12.0]
    assert found["distinct"] == 2


def test_components_below_a_size_are_dropped():
    mask = np.zeros((8, 8, 4), bool)
    mask[1:3, 1:3, 1] = True  # four voxels
    mask[5, 5:7, 1:3] = True
    mask[6, 7, 3] = True  # touches nothing by a face
    assert larger(mask, 4).sum() == 8
    assert larger(mask, 1).sum() == 9
    assert not larger(mask, 5).any()


def points():
    """Two pairs of 10 and 30 lesions: (sensitivity, false per pair) (.5, 3), (.25, 1), (.2, 2)."""
    return [
        Point("loose", {"a": case(10, 8, 10, 6), "b": case(30, 12, 14, 12)}),
        Point("strict", {"a": case(10, 4, 5, 4), "b": case(30, 6, 7, 6)}),
        Point("bad", {"a": case(10, 2, 4, 2), "b": case(30, 6, 8, 6)}),
    ]


def test_lesions_are_pooled_and_false_ones_averaged_over_pairs():
    loose, strict, bad = points()
    assert (loose.sensitivity(), loose.false_per_pair()) == (0.5, 3.0)
    assert (strict.sensitivity(), strict.false_per_pair()) == (0.25, 1.0)
    assert (bad.sensitivity(), bad.false_per_pair()) == (0.2, 2.0)
    assert loose.sensitivity(["a"]) == 0.8
    assert frontier(points()) == [(1.0, 0.25), (3.0, 0.5)]  # `bad` is beaten at both


def test_a_budget_is_never_exceeded():
    assert at_budget(points(), 2.9).name == "strict"
    assert at_budget(points(), 3.0).name == "loose"
    assert at_budget(points(), 0.5) is None


def test_table_and_figure(tmp_path):
    empty = np.ones((4, 4, 4), bool)
    references = {name: reference_of(empty, empty, name) for name in ("a", "b")}
    rows = list(compared(points(), points()[1:2], references))
    two = next(row for row in rows if row["false_lesions_per_pair"] == 2.0)
    assert two["network"]["by_patient"] == {"a": 0.4, "b": 0.2}
    cell = "10 of 40 (0.25); 0.40, 0.20; 10 of 20"
    assert f"| 2 | {cell} | {cell} | 2 |" in markdown(rows)
    draw(points(), points(), "title", tmp_path / "froc.png")
    assert 2_000 < (tmp_path / "froc.png").stat().st_size < 200_000


def test_lesions_are_compared_one_by_one():
    """Volumes 54 and 12 mm3: one system finds the first, the other the second; one false each."""
    brain = np.zeros((20, 20, 6), bool)
    brain[2:18, 2:18, 1:5] = True
    first, second, false = (np.zeros_like(brain) for _ in range(3))
    first[4:7, 4:7, 2:4] = True
    second[12:14, 12:14, 2] = True
    false[9:11, 4:6, 2] = True
    reference = reference_of(first | second, brain)
    ours, theirs = (
        [Point(name, {"a": reference.match_inside((mask | false)[reference.box])})]
        for name, mask in (("ours", first), ("theirs", second))
    )
    answer = lesion_by_lesion(ours, theirs, {"a": reference})["1.0"]
    assert answer["by_network_alone"] == answer["by_bsi_subtraction_alone"] == 1
    assert (answer["median_mm3_found"], answer["median_mm3_missed"]) == (54.0, 12.0)
    assert answer["of_at_least_40_mm3"] == [1, 1, 0]
    assert lesion_by_lesion(ours, [], {"a": reference}) == {}
