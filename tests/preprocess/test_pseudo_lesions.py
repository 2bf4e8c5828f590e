import numpy as np
import pytest

from msseg_lightning.core.problem import MssegError
from msseg_lightning.core.subject import (
    BASELINE,
    BASELINE_LESIONS,
    BRAIN,
    FOLLOWUP,
    FOLLOWUP_LESIONS,
    LoadedSubject,
    LongitudinalSubject,
    Native,
)
from msseg_lightning.core.volume import Volume
from msseg_lightning.preprocess.pseudo_lesions import PseudoLesions
from msseg_lightning.preprocess.white_matter import WHITE_MATTER

SHAPE = (30, 30, 20)
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])  # a voxel has 2 mm3


def subject(**more) -> LoadedSubject:
    """Tissue of 100 +- 10; 2 x 2 x 2 voxels (16 mm3) of 160, one of 160 alone, and a bright rim."""
    brain = np.zeros(SHAPE, np.uint8)
    brain[2:28, 2:28, 2:18] = 1
    data = np.random.default_rng(0).normal(100, 10, SHAPE).clip(70, 119) * brain
    data[2:4] = 180 * brain[2:4]  # two voxels of rim
    data[14:16, 14:16, 9:11] = 160
    data[20, 20, 10] = 160
    volumes = {
        BASELINE: Volume(data.astype(np.float32) - 1, AFFINE),
        FOLLOWUP: Volume(data.astype(np.float32), AFFINE),
        BRAIN: Volume(brain, AFFINE, "mask"),
        **more,
    }
    return LoadedSubject(
        LongitudinalSubject("a", "a", {}), volumes, Native(volumes[FOLLOWUP].grid, b"")
    )


def test_bright_places_inside_the_brain_are_marked():
    marked = PseudoLesions(deviations=4.0, smallest_mm3=10.0, rim_mm=4.0)(subject())
    for name in (BASELINE_LESIONS, FOLLOWUP_LESIONS):
        assert marked.volumes[name].kind == "mask"
        assert np.argwhere(marked.volumes[name].data).tolist() == [
            [x, y, z] for x in (14, 15) for y in (14, 15) for z in (9, 10)
        ]
    assert sum("pseudo-labels, 1 hyperintense" in note for note in marked.notes) == 2


def test_sizes_are_in_mm3_and_the_rim_in_mm():
    small = PseudoLesions(4.0, smallest_mm3=2.0)(subject()).volumes[FOLLOWUP_LESIONS].data
    assert small[20, 20, 10] and small.sum() == 9
    rim = PseudoLesions(4.0, rim_mm=0.5)(subject()).volumes[FOLLOWUP_LESIONS].data
    assert rim[2, 10, 10]


def test_masks_that_were_given_stay():
    given = Volume(np.zeros(SHAPE, np.uint8), AFFINE, "mask")
    marked = PseudoLesions(4.0)(subject(**{FOLLOWUP_LESIONS: given}))
    assert marked.volumes[FOLLOWUP_LESIONS] is given and marked.volumes[BASELINE_LESIONS].data.any()
    assert len(marked.notes) == 1
    both = subject(**{FOLLOWUP_LESIONS: given, BASELINE_LESIONS: given})
    assert PseudoLesions(4.0)(both) is both


def test_white_matter_limits_them_and_an_empty_brain_has_none():
    nowhere = Volume(np.zeros(SHAPE, np.uint8), AFFINE, "mask")
    marked = PseudoLesions(4.0)(subject(**{WHITE_MATTER: nowhere}))
    assert not marked.volumes[FOLLOWUP_LESIONS].data.any()
    empty = PseudoLesions(4.0)(subject(**{BRAIN: nowhere}))
    assert not empty.volumes[FOLLOWUP_LESIONS].data.any()


def test_it_needs_a_brain():
    without = subject()
    volumes = {name: v for name, v in without.volumes.items() if name != BRAIN}
    with pytest.raises(MssegError, match="brain"):
        PseudoLesions()(without.replace(volumes=volumes))


def test_a_tissue_to_compare_with_is_a_mean_and_a_standard_deviation():
    """Half of the brain is darker: its mean and SD, and not those of the brain, decide."""
    given = subject()
    tissue = np.zeros(SHAPE, np.uint8)
    tissue[5:12, 5:25, 5:15] = 1
    data = np.array(given.volumes[FOLLOWUP].data)
    data[12:27, 4:26, 4:16] = np.where(data[12:27, 4:26, 4:16] < 150, 130, 160)
    volumes = {FOLLOWUP: Volume(data, AFFINE), "grey_matter": Volume(tissue, AFFINE, "mask")}
    given = given.replace(volumes={**given.volumes, **volumes})
    values = data[tissue > 0]
    level = (160 - values.mean()) / values.std()
    for deviations, marked in ((level * 0.99, 8), (level * 1.01, 0)):
        step = PseudoLesions(deviations, tissue="grey_matter")
        assert step(given).volumes[FOLLOWUP_LESIONS].data.sum() == marked
    nowhere = {**given.volumes, "grey_matter": Volume(0 * tissue, AFFINE, "mask")}
    empty = PseudoLesions(tissue="grey_matter")(given.replace(volumes=nowhere))
    assert not empty.volumes[FOLLOWUP_LESIONS].data.any()
