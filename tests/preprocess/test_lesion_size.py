import dataclasses

import numpy as np
import pytest

from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.subject import (
    BASELINE,
    FOLLOWUP,
    TARGET,
    LoadedSubject,
    LongitudinalSubject,
    Native,
)
from msseg_lightning.core.volume import Volume
from msseg_lightning.preprocess.lesion_size import LesionSizes

SHAPE = (24, 20, 16)


def loaded(spacing=(1.0, 1.0, 1.0), **masks):
    affine = np.diag([*spacing, 1.0])
    image = np.ones(SHAPE, np.float32)
    volumes = {BASELINE: Volume(image, affine), FOLLOWUP: Volume(image, affine)}
    volumes |= {name: Volume(mask, affine, "mask") for name, mask in masks.items()}
    subject = LongitudinalSubject("a", "a", {})
    return LoadedSubject(subject, volumes, Native(volumes[BASELINE].grid, b""))


def lesions():
    """One of 5 voxels, one of 500, and one voxel that touches the first by a corner."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:7, 2, 2] = 1
    mask[7, 3, 3] = 1
    mask[10:20, 5:15, 4:9] = 1
    return mask


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 0.5, 3.0)])
def test_the_value_is_one_over_the_voxels_of_the_lesion(spacing):
    found = LesionSizes([TARGET])(loaded(spacing, **{TARGET: lesions()}))
    values = np.asarray(found.volumes[f"{TARGET}_inverse_size"].data)
    assert found.volumes[f"{TARGET}_inverse_size"].kind == "probability"
    np.testing.assert_allclose(values[2:7, 2, 2], 1 / 5)
    np.testing.assert_allclose(values[10:20, 5:15, 4:9], 1 / 500)
    assert values[7, 3, 3] == 1  # alone by faces
    joined = LesionSizes([TARGET], connectivity=26)(loaded(**{TARGET: lesions()}))
    joined = np.asarray(joined.volumes[f"{TARGET}_inverse_size"].data)
    assert joined[7, 3, 3] == pytest.approx(1 / 6) == joined[2, 2, 2]


def test_it_goes_on_around_a_lesion_and_is_0_elsewhere():
    values = LesionSizes().inverse_sizes(lesions() != 0)
    np.testing.assert_allclose(values[20:22, 10, 6], 1 / 500)
    assert values[22, 10, 6] == 0 and values[0, 19, 15] == 0
    assert values[2, 0, 2] == pytest.approx(1 / 5)


def test_each_mask_has_its_own_and_a_missing_one_none():
    other = np.zeros(SHAPE, np.uint8)
    other[1, 1, 1:3] = 1
    given = loaded(**{TARGET: lesions(), f"{TARGET}_rater1": other})
    names = (TARGET, f"{TARGET}_rater1", f"{TARGET}_rater2")
    found = LesionSizes(names)(given).volumes
    assert set(found) - set(given.volumes) == {f"{name}_inverse_size" for name in names[:2]}
    assert np.asarray(found[f"{TARGET}_rater1_inverse_size"].data).max() == 0.5
    empty = LesionSizes(names)(loaded(**{TARGET: 0 * other})).volumes
    assert not np.asarray(empty[f"{TARGET}_inverse_size"].data).any()
    assert set(LesionSizes(names)(loaded()).volumes) == {BASELINE, FOLLOWUP}


def test_a_prepared_pair_keeps_it(tmp_path):
    found = LesionSizes([TARGET])(loaded(**{TARGET: lesions()}))
    pair = PreparedSubject.write(found, tmp_path / "a")
    values = pair.label(f"{TARGET}_inverse_size")
    inside = lesions() != 0
    weights = (1 + 100 * values)[inside]
    assert sorted(set(weights.round(2))) == [1.2, 21.0, 101.0]
    assert dataclasses.replace(found).volumes[TARGET].data.sum() == 506
