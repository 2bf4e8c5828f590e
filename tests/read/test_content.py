"""What scans show is checked: another person, one scan twice, parts missing, impossible values."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from msseg_lightning.core.subject import BASELINE as BASELINE_NAME
from msseg_lightning.core.subject import BRAIN as BRAIN_NAME
from msseg_lightning.core.subject import FOLLOWUP as FOLLOWUP_NAME
from msseg_lightning.core.volume import Volume
from msseg_lightning.read import content
from msseg_lightning.read.content import check_images, check_visits
from msseg_lightning.read.gate import check_subject, inspect_subject
from msseg_lightning.read.msseg2 import Msseg2
from msseg_lightning.read.open_ms import OpenMs
from tests.read import files
from tests.read.files import BASELINE, BRAIN, FOLLOWUP
from tests.read.test_gate import Row, data_of, replace, voxel


def copy(change):
    return lambda folder: files.save(folder / FOLLOWUP, change(data_of(folder / BASELINE)))


def zeroed(*part):
    def change(data):
        data = data.copy()
        data[part] = 0
        return data

    return change


def stripped(data):
    return np.where(ndimage.binary_erosion(files.head(), iterations=6), data, 0)


ALL = slice(None)
ROWS = [
    Row("rescaled", copy(lambda d: 2.5 * d + 7), "content.same_scan", "voxel values"),
    Row("rounded", copy(lambda d: np.round(d / 3).astype(np.int16)), "content.same_scan"),
    Row("gamma", copy(lambda d: (d / d.max()) ** 1.7), "content.same_scan"),
    Row("inverse", copy(lambda d: d.max() - d), "content.same_scan"),
    Row("top", replace(FOLLOWUP, zeroed(ALL, ALL, slice(18, None))), "content.empty_part"),
    Row("every-other", replace(FOLLOWUP, zeroed(slice(None, None, 2))), "content.empty_part"),
    Row("baseline", replace(BASELINE, zeroed(ALL, slice(20))), "content.empty_part",
        file=BASELINE),
    Row("skull-stripped", replace(FOLLOWUP, stripped), "content.masking", accepted=True),
    Row("large", replace(FOLLOWUP, voxel(3e38)), "content.range", found="3e+38"),
    Row("negative", replace(BASELINE, voxel(-1e9)), "content.range", file=BASELINE),
    Row("inverted-brain", replace(BRAIN, lambda d: 1 - d), "content.brain_mask", file=BRAIN,
        brain=True),
]  # fmt: skip


@pytest.mark.badinput
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row(row, tmp_path):
    folder = files.good_pair(tmp_path, brain=row.brain)
    row.damage(folder)
    problems = check_subject(Msseg2(tmp_path).subjects()[0])
    (problem,) = (one for one in problems if one.code.startswith("content."))
    assert problem.code == row.code and problem.remedy and problem.expected
    assert str(problem.file) == f"013/{row.file}" and row.found in problem.found
    assert problem.severity == ("warning" if row.accepted else "error")
    assert row.accepted or problem.exit_code == 3


@pytest.mark.badinput
@pytest.mark.parametrize(("likeness", "codes"), [(0.45, ["content.other_person"]), (0.84, [])])
def test_another_person(likeness, codes):
    # measured on open_ms: 0.84 to 0.96 between visits, 0.38 to 0.45 between patients (of six)
    baseline, followup, _ = (Volume(data, files.AFFINE) for data in files.scans())
    found = list(check_visits(baseline, followup, likeness, str))
    assert [problem.code for problem in found] == codes
    assert all(problem.severity == "warning" and problem.remedy for problem in found)


def test_an_inverted_or_tightly_cut_scan_is_no_masked_one():
    baseline, followup, _ = files.scans()
    visits = [Volume(data, files.AFFINE) for data in (baseline, 300 - followup)]
    assert list(check_visits(*visits, 0.1, str)) == []


def test_a_sound_pair_with_a_planted_lesion_is_no_copy(tmp_path):
    folder = files.good_pair(tmp_path, brain=True)
    data = data_of(folder / BASELINE)
    data[data_of(folder / files.TARGET) > 0] += 60
    files.save(folder / FOLLOWUP, data)
    assert not [p for p in check_subject(Msseg2(tmp_path).subjects()[0]) if p.severity == "error"]


def test_few_voxels_are_compared_before_all(tmp_path, monkeypatch):
    monkeypatch.setattr(content, "SAMPLE", 100)
    compared = []
    function = content._is_function
    monkeypatch.setattr(
        content, "_is_function", lambda a, b: (compared.append(a.size), function(a, b))[1]
    )
    first, second, _ = files.scans()
    assert not content._is_rescaled(first, second) and max(compared) < 200
    assert content._is_rescaled(first, 3 * first) and compared[-1] == first.size


def test_real_pairs_raise_no_alarm_and_their_damage_does(open_ms):
    # measured: correlation 0.84 to 0.96, at most 3 % of a head empty in the other visit
    subject = OpenMs(open_ms, reverse=False).subjects()[0]
    volumes, problems = inspect_subject(subject, order=1)
    assert not [problem for problem in problems if problem.code.startswith("content.")]
    first, second = volumes[BASELINE_NAME], volumes[FOLLOWUP_NAME]
    brain = volumes[BRAIN_NAME]

    def found(data):
        damaged = dataclasses.replace(second, data=np.asarray(data, np.float32))
        return [problem.code for problem in check_visits(first, damaged, 0.9, str)]

    half = np.array(second.data)
    half[:, :, : half.shape[2] * 4 // 10] = 0
    assert found(half) == ["content.empty_part"]
    assert found(np.where(np.asarray(brain.data) > 0, second.data, 0)) == ["content.masking"]
    assert found(np.asarray(first.data) * 0.3) == ["content.same_scan"]
    inverted = Volume((np.asarray(brain.data) == 0).astype(np.uint8), brain.affine, "mask")
    (problem,) = check_images({**volumes, BRAIN_NAME: inverted}, str)
    assert problem.code == "content.brain_mask"
