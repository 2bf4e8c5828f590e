from __future__ import annotations

import dataclasses

from msseg_lightning.core.subject import BASELINE, FOLLOWUP
from msseg_lightning.split.split import data_hash
from tests.split.parts import names


def test_hash_sees_any_voxel_but_not_the_place(make, scan, tmp_path):
    subjects = make(names(2))
    before = data_hash(subjects)
    assert before == data_hash(subjects[::-1]) and len(before) == 16
    plain = tmp_path / "plain.nii"
    plain.write_bytes(bytes(100_000))
    one = [dataclasses.replace(subjects[0], images={BASELINE: plain, FOLLOWUP: scan})]
    first = data_hash(one)
    plain.write_bytes(bytes(50_000) + b"x" + bytes(49_999))
    assert data_hash(one) != first
    assert data_hash([dataclasses.replace(one[0], patient="other")]) != data_hash(one)
