import numpy as np

from msseg_lightning.simulate.plan import draw_participant, plan_patient, scan_spacing
from msseg_lightning.simulate.recipe import CohortRecipe
from msseg_lightning.simulate.scanner import SCANNERS


def test_ge_only_in_the_test_part():
    recipe = CohortRecipe()
    rows = [draw_participant(recipe, 0, index) for index in range(100)]
    train, test = rows[:40], rows[40:]
    assert not any("GE" in (row["vendor"], row["followup_vendor"]) for row in train)
    assert any(row["vendor"] == "GE" for row in test)
    assert all(365 <= row["interval_days"] <= 1095 for row in rows)


def test_the_floor_limits_the_finest_voxel():
    recipe = CohortRecipe(spacing_floor_mm=1.0)
    assert scan_spacing(recipe, SCANNERS["philips_04"]) == (1.0, 1.0, 1.0)
    assert scan_spacing(recipe, SCANNERS["slices_02"]) == (1.0, 1.0, 4.0)
    native = CohortRecipe(spacing_floor_mm=0.0)
    assert scan_spacing(native, SCANNERS["philips_04"]) == (0.6, 0.5, 0.5)


def test_halfway_space_lies_in_the_middle_of_the_poses(tiny):
    plan = plan_patient(tiny, 0, 1)
    back = [np.linalg.inv(plan.middle) @ visit.pose for visit in plan.visits]
    # one pose is the half motion, the other its inverse
    assert np.abs(back[0] @ back[1] - np.eye(4)).max() < 1e-9
    assert np.abs(back[0] - np.eye(4)).max() > 1e-3


def test_the_visits_differ_by_little(tiny):
    first, second = plan_patient(tiny, 0, 0).visits
    change = np.linalg.norm(second.warp.displacement - first.warp.displacement, axis=-1)
    assert 0.05 < change.mean() < 1.5
    assert np.linalg.norm(first.warp.displacement, axis=-1).mean() > 1.5
