"""Scores tell contrast and region of lesions where scan and brain are there."""

import csv
import dataclasses

import numpy as np
import pytest

from msseg_lightning.core.subject import BRAIN, FOLLOWUP
from msseg_lightning.evaluate.lesion_regions import shipped_map
from msseg_lightning.evaluate.score import score_case
from msseg_lightning.read.msseg2 import Msseg2
from msseg_lightning.read.nifti import DEFAULT, GateOptions, read_volume
from msseg_lightning.read.reference import read_reference
from msseg_lightning.run.predict.lesion_traits import activity, with_traits


@pytest.fixture(scope="module")
def subject(coarse_cohort):
    return next(one for one in Msseg2(coarse_cohort).subjects() if read_reference(one).data.any())


def described(subject, prediction=None):
    reference = read_reference(subject)
    mask = reference.data if prediction is None else prediction
    score = score_case(mask, reference.data, reference.spacing_mm)
    return with_traits(score, subject, mask, reference, DEFAULT)


def test_lesions_of_both_masks_have_contrast_and_region(subject):
    found = described(subject)
    counted = [one for one in found.reference_lesions if one.counted]
    assert counted and all(one.contrast > 1 and one.region for one in counted)
    assert [one.contrast for one in found.predicted_lesions if one.counted] == [
        one.contrast for one in counted
    ]
    assert type(found).from_dict(found.as_dict()) == found


def test_regions_are_mostly_those_that_the_simulator_drew(coarse_cohort):
    with (coarse_cohort / "lesions.tsv").open() as stream:
        drawn = [row for row in csv.DictReader(stream, delimiter="\t") if row["class"] != "vessel"]
    same = []
    for pair in Msseg2(coarse_cohort).subjects():
        brain = read_volume(pair.masks[BRAIN], "mask", GateOptions(largest_mask_fraction=1.0))
        own = [row for row in drawn if row["participant_id"].endswith(pair.id)]
        points = np.array([[float(row[f"{axis}_mm"]) for axis in "xyz"] for row in own])
        found = shipped_map().regions_of(points, brain.data > 0, brain.affine)
        same += [row["class"] == region for row, region in zip(own, found, strict=True)]
    assert len(same) > 20 and np.mean(same) > 0.55


def test_without_a_brain_or_a_scan_on_the_grid_they_are_not_recorded(subject, tmp_path):
    no_brain = dataclasses.replace(
        subject, masks={name: file for name, file in subject.masks.items() if name != BRAIN}
    )
    found = described(no_brain).reference_lesions
    assert all(one.contrast for one in found if one.counted)
    assert {one.region for one in found} == {None}  # the head is there: zeros show no brain
    (tmp_path / "damaged.nii.gz").write_bytes(b"no image")
    damaged = dataclasses.replace(
        subject, images={**subject.images, FOLLOWUP: tmp_path / "damaged.nii.gz"}
    )
    assert {one.contrast for one in described(damaged).reference_lesions} == {None}


def test_activity_is_the_sum_of_the_probabilities():
    probability = np.full((2, 2, 2), 0.25, np.float32)
    assert activity(probability, 3.0) == {"probability_volume_mm3": 6.0}
    assert activity(None, 3.0) == {"probability_volume_mm3": None}
