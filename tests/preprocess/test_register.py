import numpy as np
import pytest

from msseg_lightning.core.problem import MssegError
from msseg_lightning.core.subject import BASELINE, BASELINE_LESIONS, FOLLOWUP, TARGET, Native
from msseg_lightning.core.volume import Volume
from msseg_lightning.preprocess.register import (
    HalfwayRegistration,
    coarse,
    half_transform,
    linear_registration,
    motion_size,
    shift_between,
)


@pytest.fixture
def way(phantom):
    """Baseline world -> follow-up world: 9 degrees and some millimetres."""
    matrix = np.eye(4)
    matrix[:3, :3] = phantom.rotation(6, -5, 4)
    matrix[:3, 3] = (2.0, -1.5, 1.0)
    return matrix


@pytest.fixture
def raw(phantom, way):
    """A pair on two grids; its lesion masks, one per visit, are the same lesion."""
    grid, other = phantom.grid("left-handed"), phantom.grid("oblique")
    subject = phantom.pair(grid, brain=False)
    moved, _ = phantom.head(other, way, seed=4)
    old = phantom.lesion(other, way)
    volumes = {
        **subject.volumes,
        BASELINE: Volume(moved, other.affine),
        BASELINE_LESIONS: Volume(old, other.affine, "mask"),
    }
    return subject.replace(volumes=volumes)


def error_mm(found, true, radius=14):
    points = np.random.default_rng(0).normal(size=(500, 3))
    points *= radius / np.linalg.norm(points, axis=1, keepdims=True)
    gap = points @ (found - true)[:3, :3].T + (found - true)[:3, 3]
    return np.linalg.norm(gap, axis=1).max()


def test_half_done_twice_is_the_whole(way):
    half = half_transform(way)
    np.testing.assert_allclose(half @ half, way, atol=1e-12)
    np.testing.assert_allclose(half[:3, :3] @ half[:3, :3].T, np.eye(3), atol=1e-12)
    # trace of a rotation by 90 degrees about one axis is 1
    turn = np.array([[0.0, -1, 0, 3], [1, 0, 0, 0], [0, 0, 1, 4], [0, 0, 0, 1]])
    angle, distance = motion_size(turn, np.zeros(3))
    assert angle == pytest.approx(90) and distance == pytest.approx(5)


def test_a_known_motion_is_found_and_found_again(raw, way):
    fixed, moving = raw.volumes[BASELINE], raw.volumes[FOLLOWUP]
    guesses = [np.eye(4), shift_between(fixed, moving)]
    found = linear_registration(fixed, moving, "rigid", guesses, (4.0, 2.0, 1.0))
    assert error_mm(found, way) < 0.35
    np.testing.assert_allclose(found[:3, :3] @ found[:3, :3].T, np.eye(3), atol=1e-6)
    again = linear_registration(fixed, moving, "rigid", guesses, (4.0, 2.0, 1.0))
    np.testing.assert_array_equal(found, again)


def test_an_affine_is_found(phantom):
    true = np.diag([1.08, 0.95, 1.0, 1.0])
    true[0, 1], true[:3, 3] = 0.05, (1, -1, 0.5)
    grid = phantom.grid("canonical")
    fixed = Volume(phantom.head(grid, true, seed=1)[0], grid.affine)
    moving = Volume(phantom.head(grid, seed=2)[0], grid.affine)
    found = linear_registration(fixed, moving, "affine", [np.eye(4)], (3.0, 1.5), sampling=1.0)
    assert error_mm(found, true, 12) < 0.7


def test_both_visits_meet_halfway_and_masks_follow_their_visit(raw, phantom, way):
    step = HalfwayRegistration(levels_mm=(4.0, 2.0, 1.0))
    met = step(raw)
    assert met.grid.shape == met.volumes[FOLLOWUP].data.shape
    assert phantom.dice(met.volumes[BASELINE_LESIONS].data, met.volumes[TARGET].data) > 0.9
    assert error_mm(met.to_native, half_transform(way)) < 0.3
    assert "degrees" in met.notes[-1]
    # the finer of both along each axis of the world: 1 x 1 x 1 against 1.1 x 1 x 0.9 (permuted)
    assert max(met.grid.spacing_mm) <= 1.0


def test_predictions_may_belong_to_the_baseline(raw, phantom, way):
    raw = raw.replace(native=Native(raw.volumes[BASELINE].grid, b""))
    met = HalfwayRegistration(0.9, levels_mm=(4.0, 2.0, 1.0))(raw)
    np.testing.assert_allclose(met.grid.spacing_mm, [0.9] * 3)
    assert error_mm(met.to_native, np.linalg.inv(half_transform(way))) < 0.4


def test_a_pair_on_one_grid_is_left_alone(phantom):
    subject = phantom.pair(phantom.grid("oblique"))
    assert HalfwayRegistration()(subject) is subject


def test_scans_of_nothing_are_refused(raw):
    dark = Volume(np.zeros((8, 8, 8), np.float32), np.eye(4))
    with pytest.raises(MssegError, match="one value"):
        HalfwayRegistration(levels_mm=(3.0,))(raw.replace(volumes={**raw.volumes, BASELINE: dark}))


def test_coarse_keeps_place_and_mean(phantom):
    grid = phantom.grid("oblique-anisotropic-left-handed")
    data, _ = phantom.head(grid)
    small = coarse(Volume(data, grid.affine), 3.0)
    assert small.spacing_mm == (3.0, 3.0, 3.0)
    gap = shift_between(Volume(data, grid.affine), small)[:3, 3]
    assert np.linalg.norm(gap) < 0.2


def test_a_pair_that_looks_unlike_is_registered_by_information(raw, caplog):
    quick = HalfwayRegistration(levels_mm=(4.0, 2.0))
    quick(raw)
    assert "differ strongly" not in caplog.text
    followup = raw.volumes[FOLLOWUP]
    brightest = np.asarray(followup.data).max()
    negative = Volume(np.where(followup.data > 0, brightest - followup.data, 0), followup.affine)
    unlike = raw.replace(volumes={**raw.volumes, FOLLOWUP: negative})
    met = quick(unlike)
    assert "one head and one sequence" in caplog.text
    same = HalfwayRegistration(levels_mm=(4.0, 2.0), by="information")(unlike)
    np.testing.assert_array_equal(met.to_native, same.to_native)
    with pytest.raises(ValueError, match="difference or information"):
        HalfwayRegistration(by="luck")


def test_what_is_kept_of_a_fixed_image_changes_no_result(raw, way, monkeypatch):
    """The image is smoothed once for two registrations, which find what they find from new."""
    from msseg_lightning.preprocess import register

    fixed, moving = raw.volumes[BASELINE], raw.volumes[FOLLOWUP]
    inside = Volume(np.asarray(fixed.data) > 20, fixed.affine)
    smoothed = []

    def counted(volume, spacing_mm, coarse=register.coarse):
        smoothed.append(volume)
        return coarse(volume, spacing_mm)

    monkeypatch.setattr(register, "coarse", counted)
    kept = register.Fixed(fixed, inside)
    first, second, new = (
        linear_registration(one, moving, "rigid", [np.eye(4)], (4.0, 3.0))
        for one in (kept, kept, register.Fixed(fixed, inside))
    )
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, new)
    assert error_mm(first, way) < 3  # a voxel of the last level
    assert sum(one is fixed for one in smoothed) == 4 and len(smoothed) == 8 + 6
    whole = linear_registration(fixed, moving, "rigid", [np.eye(4)], (4.0, 3.0))
    assert (whole != first).any()  # the mask is looked at
