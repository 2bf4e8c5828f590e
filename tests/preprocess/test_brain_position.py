import numpy as np

from msseg_lightning.core.subject import (
    BASELINE,
    BRAIN,
    LoadedSubject,
    LongitudinalSubject,
    Native,
)
from msseg_lightning.core.volume import Volume
from msseg_lightning.preprocess.brain_position import POSITIONS, BrainPosition


def maps(brain, spacing=(1.0, 2.0, 3.0)):
    affine = np.diag([*spacing, 1.0])
    volumes = {
        BASELINE: Volume(np.ones(brain.shape, np.float32), affine),
        BRAIN: Volume(brain, affine, "mask"),
    }
    loaded = LoadedSubject(
        LongitudinalSubject("p", "p", {}), volumes, Native(volumes[BASELINE].grid, b"")
    )
    found = BrainPosition()(loaded).volumes
    return [np.asarray(found[name].data) for name in POSITIONS]


def test_from_the_surface_from_the_vertex_and_from_the_occiput():
    """A box of 7 x 11 x 5 voxels: axes run right, anterior and superior."""
    brain = np.zeros((9, 14, 8), np.uint8)
    brain[1:8, 2:13, 1:6] = 1
    depth, neck, nose = maps(brain)
    assert depth.max() == depth[4, 7, 3] == 1  # four voxels of 1 mm from the sides
    assert depth[1, 7, 3] == 0.25 and depth[2, 7, 3] == 0.5  # in mm of the nearest side
    assert depth[4, 7, 5] == 0.75  # 3 mm
    np.testing.assert_allclose(neck[4, 7, 1:6], [1, 0.75, 0.5, 0.25, 0])
    np.testing.assert_allclose(nose[4, 2:13, 3], np.linspace(0, 1, 11), atol=1e-6)
    assert not any(values[brain == 0].any() for values in (depth, neck, nose))


def test_one_slice_and_no_brain():
    flat = np.zeros((5, 5, 3), np.uint8)
    flat[1:4, 1:4, 1] = 1
    assert all(np.isfinite(values).all() for values in maps(flat))
    assert not any(values.any() for values in maps(np.zeros((4, 4, 4), np.uint8)))
