import numpy as np

from msseg_lightning.core.subject import (
    BASELINE,
    BASELINE_LESIONS,
    FOLLOWUP,
    TARGET,
    LoadedSubject,
    LongitudinalSubject,
    Native,
)
from msseg_lightning.core.volume import Volume
from msseg_lightning.preprocess.affine_pair import AffineRegistration

SHAPE = (30, 34, 28)


def scan(stretch, shift):
    """A soft ellipsoid with four blobs, stretched about its middle and moved along x."""
    grid = np.indices(SHAPE).transpose(1, 2, 3, 0) - (np.array(SHAPE) - 1) / 2
    grid = (grid - [shift, 0, 0]) / stretch
    image = 100 / (1 + np.exp(8 * (np.linalg.norm(grid / [11, 13, 10], axis=-1) - 1)))
    for x, y, z, value in ((5, 0, 0, 60), (-4, 5, 2, -50), (0, -6, -4, 80), (0, 3, 5, -70)):
        image += value * np.exp(-(((grid - [x, y, z]) / 2) ** 2).sum(-1) / 2)
    return image.astype(np.float32)


def test_the_baseline_is_stretched_onto_the_followup_with_its_masks():
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    first, second = scan(1.06, 1.0), scan(1.0, 0.0)
    volumes = {
        BASELINE: Volume(first, affine),
        FOLLOWUP: Volume(second, affine),
        BASELINE_LESIONS: Volume((first > 120).astype(np.uint8), affine, "mask"),
        TARGET: Volume((second > 120).astype(np.uint8), affine, "mask"),
    }
    native = Native(volumes[FOLLOWUP].grid, b"")
    loaded = LoadedSubject(LongitudinalSubject("p", "p", {}), volumes, native)
    found = AffineRegistration()(loaded)
    moved = np.asarray(found.volumes[BASELINE].data)
    before, after = np.abs(first - second).mean(), np.abs(moved - second).mean()
    assert after < 0.6 * before
    sizes = [(image > 50).sum() / (second > 50).sum() for image in (first, moved)]
    assert sizes[0] > 1.15 and abs(sizes[1] - 1) < (sizes[0] - 1) / 2  # 0.4 voxels at its rim
    np.testing.assert_array_equal(found.volumes[FOLLOWUP].data, second)
    np.testing.assert_array_equal(found.volumes[TARGET].data, volumes[TARGET].data)
    old = np.asarray(found.volumes[BASELINE_LESIONS].data) > 0
    assert (old & (second > 120)).sum() > 0.8 * (second > 120).sum()
    np.testing.assert_array_equal(found.to_native, np.eye(4))
    alone = loaded.replace(volumes={FOLLOWUP: volumes[FOLLOWUP]})
    assert AffineRegistration()(alone) is alone
