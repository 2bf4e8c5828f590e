import numpy as np
import pytest

from msseg_lightning.core.random import keyed_generator
from msseg_lightning.simulate import render
from msseg_lightning.simulate.acquire import voxel_points
from msseg_lightning.simulate.head import load_head
from msseg_lightning.simulate.warp import LATTICE_ORIGIN_MM, LATTICE_SHAPE

STYLE = np.array([13.0, 0.3, 0.5, 0.0, 0.0, 0.0, 6.0, 6.0, 0.0])
SIGNALS = np.array([1.0, 1.2, 0.05, 0.4, 0.3, 0.2, 0.02, 0.2, 4.0])
STILL = np.zeros((*LATTICE_SHAPE, 3), np.float32)


def place(start, size, step=1.0):
    """Voxel index -> head for a small box that starts at an MNI point."""
    matrix = np.diag([step, step, step, 1.0])
    matrix[:3, 3] = start
    return size, matrix


def signal(start, size, flow=None, step=1.0):
    head = load_head()
    shape, matrix = place(start, size, step)
    points, weights = voxel_points((step,) * 3, 2, 0.5)
    return render.render_signal(
        shape, matrix, points, weights, STILL, LATTICE_ORIGIN_MM, np.eye(4), head.maps,
        head.distances, head.origin_mm, render.noise_tile(keyed_generator(0, "tile")), STYLE,
        SIGNALS, np.zeros(10) if flow is None else flow,
    )  # fmt: skip


def lesion(radius, centre=(-27.0, -20.0, 35.0), everywhere=False, **extra):
    head = load_head()
    size, step = 40, 0.5
    start = np.array(centre) - size * step / 2
    shape, matrix = place(start, (size,) * 3, step)
    points, weights = voxel_points((step,) * 3, 2, 0.25)
    options = {"irregular": 0.0, "core": 0.0, "halo": 0.0} | extra
    return render.render_lesion(
        np.zeros(3, np.int64), np.array(shape), matrix, points, weights, STILL, LATTICE_ORIGIN_MM,
        np.eye(4), head.maps, head.distances, head.origin_mm,
        render.noise_tile(keyed_generator(0, "tile")), STYLE, np.array(centre), np.eye(3) / radius,
        radius, options["irregular"], 0.5, options["core"], options["halo"], everywhere, 8.0,
    )  # fmt: skip


def test_known_places_have_their_tissues_signal():
    assert signal((-28, -22, 34), (3, 3, 3)).mean() == pytest.approx(1.0, abs=0.05)
    assert signal((-8, 16, 9), (2, 2, 2)).min() < 0.15  # frontal horn
    assert signal((0, 0, 125), (2, 2, 2)).max() == 0  # air


def test_a_profile_from_air_to_brain_crosses_scalp_and_skull():
    profile = signal((20, -20, 40), (1, 1, 80))[0, 0]  # upwards through white matter
    assert profile[:5].mean() > 0.8 and profile[-3:].max() == 0
    outer = np.flatnonzero(profile > 0.15)[-1]
    assert profile[outer - 14 : outer].min() < 0.08  # bone
    assert 85 < outer + 40 < 105


def test_inflow_brightens_csf_only():
    flow = np.zeros(10)
    flow[2] = 0.3  # third ventricle
    dry, wet = signal((-2, -14, -4), (4, 4, 4)), signal((-2, -14, -4), (4, 4, 4), flow)
    assert wet.max() > dry.max()
    assert signal((-28, -22, 34), (3, 3, 3), flow) == pytest.approx(
        signal((-28, -22, 34), (3, 3, 3))
    )


@pytest.mark.parametrize("radius", [1.5, 3.0])
def test_volume_of_a_sphere(radius):
    share, weight, level = lesion(radius, everywhere=True)
    # the border fades over 1 mm: the mean of r^3 over r - 0.5 .. r + 0.5 is r^3 + r / 4
    expected = 4 / 3 * np.pi * (radius**3 + radius / 4)
    assert share.sum() * 0.5**3 == pytest.approx(expected, rel=0.02)
    assert weight.sum() == pytest.approx(share.sum(), rel=0.15)  # uneven inside
    assert level.max() == pytest.approx(radius, abs=0.4)


def test_halo_core_and_bays():
    share, weight, _ = lesion(4.0, everywhere=True, halo=0.3, core=0.8)
    outside = share == 0
    assert weight[outside].max() > 0.05
    assert weight[20, 20, 20] == pytest.approx(0.2, abs=0.08)
    bays, _, _ = lesion(4.0, everywhere=True, irregular=0.3)
    assert np.abs(bays - share).sum() > 20


def test_a_lesion_does_not_grow_into_csf():
    in_tissue, _, level = lesion(6.0, centre=(-8.0, 16.0, 12.0))
    everywhere, _, _ = lesion(6.0, centre=(-8.0, 16.0, 12.0), everywhere=True)
    assert in_tissue.sum() < 0.7 * everywhere.sum()
    assert level.min() >= -4


def test_brain_mask_of_a_line():
    head = load_head()
    shape, matrix = place((0, -20, -90), (1, 1, 200))
    mask = render.render_brain(
        shape, matrix, STILL, LATTICE_ORIGIN_MM, np.eye(4), head.distances, head.origin_mm
    )[0, 0]
    inside = np.flatnonzero(mask)
    assert not mask[:18].any()  # below the template
    assert 65 < inside[-1] - 90 < 85  # the vertex
