from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from msseg_lightning.core.subject import BASELINE, FOLLOWUP
from msseg_lightning.core.volume import Volume
from msseg_lightning.read.gate import inspect_subject
from msseg_lightning.read.mirror import looks_mirrored
from msseg_lightning.read.open_ms import OpenMs
from tests.read import files


def test_lopsided_phantom_is_told_from_its_mirror_image():
    baseline, followup, _ = files.scans()
    first = Volume(baseline, files.AFFINE)
    assert not looks_mirrored(first, Volume(followup, files.AFFINE))[2]
    assert looks_mirrored(first, Volume(followup[::-1], files.AFFINE))[2]


def test_only_left_and_right_count():
    # upside down is not mirrored: the alarm is about left and right only
    baseline, followup, _ = files.scans()
    first = Volume(baseline, files.AFFINE)
    assert not looks_mirrored(first, Volume(followup[:, :, ::-1], files.AFFINE))[2]


def test_symmetric_head_raises_no_alarm():
    baseline, followup, _ = files.scans()
    both = [Volume(image + image[::-1], files.AFFINE) for image in (baseline, followup)]
    same, mirrored, fires = looks_mirrored(*both)
    assert same == pytest.approx(mirrored, abs=0.05) and not fires


def test_left_right_axis_is_found_from_the_affine():
    baseline, followup, _ = files.scans()
    turn = (2, 0, 1)
    affine = files.AFFINE[:, [2, 0, 1, 3]]
    first = Volume(baseline.transpose(turn), affine)
    assert not looks_mirrored(first, Volume(followup.transpose(turn), affine))[2]
    assert looks_mirrored(first, Volume(followup[::-1].transpose(turn), affine))[2]


def test_real_pairs_and_their_mirror_images(open_ms):
    # measured: match as it is 0.84 to 0.96, mirrored 0.48 to 0.58; flipped pairs the other way
    for subject in OpenMs(open_ms, reverse=False).subjects():
        volumes, _ = inspect_subject(subject, order=1)
        followup = volumes[FOLLOWUP]
        same, mirrored, fires = looks_mirrored(volumes[BASELINE], followup)
        assert same - mirrored > 0.25 and not fires
        flipped = dataclasses.replace(followup, data=np.flip(followup.data, 0))
        same, mirrored, fires = looks_mirrored(volumes[BASELINE], flipped)
        assert mirrored - same > 0.15 and fires
