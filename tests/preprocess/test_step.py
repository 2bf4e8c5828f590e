"""What identifies a step, and what steps refuse."""

import numpy as np
import pytest

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP, TARGET
from msseg_lightning.core.volume import Volume
from msseg_lightning.preprocess.crop import CropToMask
from msseg_lightning.preprocess.intensity import ZScore
from msseg_lightning.preprocess.nyul import Nyul
from msseg_lightning.preprocess.step import (
    FittedStep,
    Step,
    common_grid,
    describe,
    image_names,
    map_images,
    mask_of,
)


def test_protocols_and_descriptions():
    assert isinstance(ZScore(), Step) and not isinstance(ZScore(), FittedStep)
    assert isinstance(Nyul(), FittedStep)
    record = describe(CropToMask(2.0))
    assert record == {
        "step": "msseg_lightning.preprocess.crop.CropToMask",
        "version": 1,
        "margin_mm": 2.0,
        "mask": "brain",
    }

    class Loose:
        version = 1

        def __call__(self, subject):
            return subject

    with pytest.raises(TypeError, match="dataclass"):
        describe(Loose())


def test_images_are_changed_and_masks_are_not(phantom):
    pair = phantom.pair(phantom.grid("canonical"))
    assert image_names(pair) == [BASELINE, FOLLOWUP]
    doubled = map_images(pair, lambda data: 2 * data)
    for name in (BASELINE, FOLLOWUP):
        np.testing.assert_array_equal(
            doubled.volumes[name].data, 2 * np.asarray(pair.volumes[name].data)
        )
    assert doubled.volumes[TARGET] is pair.volumes[TARGET]


def test_a_missing_mask_and_two_grids_are_refused(phantom):
    pair = phantom.pair(phantom.grid("canonical"), brain=False)
    step = ZScore()
    assert common_grid(pair, step).same_as(pair.grid)
    for name in (BRAIN, BASELINE):  # not there, and no mask
        with pytest.raises(MssegError, match="needs a mask") as caught:
            mask_of(pair, name, step)
        assert caught.value.exit_code == ExitCode.CONFIG
    moved = pair.volumes[FOLLOWUP].affine.copy()
    moved[0, 3] += 5
    away = pair.replace(
        volumes={**pair.volumes, FOLLOWUP: Volume(pair.volumes[FOLLOWUP].data, moved)}
    )
    with pytest.raises(MssegError, match="on one grid"):
        common_grid(away, step)


def test_a_soft_mask_is_cut_at_one_half(phantom):
    pair = phantom.pair(phantom.grid("canonical"))
    soft = np.zeros(pair.grid.shape, np.float32)
    soft[0, 0, :3] = (0.49, 0.5, 1.0)
    pair = pair.replace(volumes={"soft": Volume(soft, pair.grid.affine, "probability")})
    assert np.argwhere(mask_of(pair, "soft", ZScore())).tolist() == [[0, 0, 1], [0, 0, 2]]
