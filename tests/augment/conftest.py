import numpy as np
import pytest

from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.subject import (
    BASELINE,
    BRAIN,
    FOLLOWUP,
    TARGET,
    LoadedSubject,
    LongitudinalSubject,
    Native,
)
from msseg_lightning.core.volume import Volume

SHAPE = (44, 52, 38)


@pytest.fixture(scope="session")
def pair(tmp_path_factory) -> PreparedSubject:
    """Smooth random pair with 1 x 1 x 2 mm voxels, a lopsided target and two further masks."""
    generator = np.random.default_rng(3)
    grid = np.indices(SHAPE)
    shape = np.reshape(SHAPE, (3, 1, 1, 1))
    inside = (((grid - (shape - 1) / 2) / (shape * 0.42)) ** 2).sum(0) <= 1
    target = np.zeros(SHAPE, np.uint8)
    target[12:17, 20:24, 10:13] = 1
    target[30:32, 30:40, 20:30] = 1
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    images = [
        np.where(inside, generator.normal(0, 1, SHAPE) + grid[axis] / 20, 0).astype(np.float32)
        for axis in (0, 1, 2)
    ]
    volumes = {
        BASELINE: Volume(images[0], affine),
        FOLLOWUP: Volume(images[1], affine),
        "baseline_ratio": Volume(images[2], affine),
        TARGET: Volume(target, affine, "mask"),
        BRAIN: Volume(inside.astype(np.uint8), affine, "mask"),
        "followup_lesions": Volume(np.roll(target, 3, 0), affine, "mask"),
        "soft": Volume(generator.random(SHAPE).astype(np.float32), affine, "probability"),
    }
    subject = LongitudinalSubject("pair", "pair", {})
    loaded = LoadedSubject(subject, volumes, Native(volumes[BASELINE].grid, b""))
    return PreparedSubject.write(loaded, tmp_path_factory.mktemp("prepared") / "pair")
