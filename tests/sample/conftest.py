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

SHAPE = (30, 36, 24)


def prepare(folder, name: str, lesions: int, seed: int) -> PreparedSubject:
    """Noise in a box, with cubes of 3^3 voxels as lesions."""
    generator = np.random.default_rng(seed)
    brain = np.zeros(SHAPE, np.uint8)
    brain[4:-4, 4:-4, 3:-3] = 1
    target = np.zeros(SHAPE, np.uint8)
    for _ in range(lesions):
        x, y, z = (int(generator.integers(5, size - 8)) for size in SHAPE)
        target[x : x + 3, y : y + 3, z : z + 3] = 1
    affine = np.diag([1.0, 1.0, 1.5, 1.0])
    noise = [generator.normal(1, 1, SHAPE).astype(np.float32) * brain for _ in range(2)]
    volumes = {
        BASELINE: Volume(noise[0], affine),
        FOLLOWUP: Volume(noise[1] + 3 * target, affine),
        TARGET: Volume(target, affine, "mask"),
        BRAIN: Volume(brain, affine, "mask"),
    }
    loaded = LoadedSubject(
        LongitudinalSubject(name, name, {}), volumes, Native(volumes[BASELINE].grid, b"")
    )
    return PreparedSubject.write(loaded, folder / name)


@pytest.fixture(scope="session")
def cohort(tmp_path_factory) -> list[PreparedSubject]:
    """Five pairs, two of them without new lesions."""
    folder = tmp_path_factory.mktemp("prepared")
    return [prepare(folder, f"case{i}", lesions, i) for i, lesions in enumerate((2, 0, 1, 3, 0))]
