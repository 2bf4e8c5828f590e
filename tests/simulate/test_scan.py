import dataclasses

import numpy as np
import pytest

from msseg_lightning.simulate.plan import plan_patient
from msseg_lightning.simulate.scan import Renderer, lesion_signal, scan_visit
from msseg_lightning.simulate.scanner import SCANNERS


def test_contrast_on_the_reference_scanner_is_the_nominal_one():
    assert lesion_signal(1.3, SCANNERS["siemens_03"]) == pytest.approx(1.3, abs=1e-3)
    assert lesion_signal(1.3, SCANNERS["siemens_01"]) > 1.3  # 1.5 T, longer TR: more contrast


def test_brighter_nominal_contrast_is_brighter_on_every_scanner():
    for scanner in SCANNERS.values():
        signals = [lesion_signal(contrast, scanner) for contrast in (1.1, 1.3, 1.5, 1.8)]
        assert signals == sorted(signals) and signals[0] > 1


def test_an_absent_lesion_renders_nothing(tiny):
    plan = plan_patient(tiny, 0, 0)
    lesion = next(lesion for lesion in plan.lesions if lesion.fate == "stable")
    renderer = Renderer(plan, 1, plan.grid, plan.middle)
    box = renderer.lesion(lesion)
    assert box.share.max() > 0 and box.share.shape == tuple(s.stop - s.start for s in box.where)
    assert renderer.lesion(dataclasses.replace(lesion, scales=(1.0, 0.0))) is None


def test_a_scan_has_the_scanners_gain_and_no_negative_value(tiny):
    plan = plan_patient(tiny, 0, 0)
    grid, image = scan_visit(plan, 0)
    assert image.shape == grid.shape and image.min() >= 0
    white = np.median(image[image > 0.5 * np.percentile(image, 99)])
    assert white == pytest.approx(plan.visits[0].scanner.gain, rel=0.5)
