import numpy as np
import pytest

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.postprocess.threshold import Threshold
from tests.postprocess.phantom import predicted


def cut(value, *probabilities, **settings):
    probability = np.array(probabilities, np.float32).reshape(-1, 1, 1)
    before = predicted(np.zeros_like(probability), probability=probability)
    after = Threshold(value, **settings)(before)
    assert after.mask.dtype == np.uint8 and after.probability is before.probability
    assert not before.mask.any()  # the given prediction is left alone
    return after.mask.ravel().tolist()


def test_s02_and_ties():
    assert cut(0.2, 0.21, 0.19, 0.2) == [1, 0, 0]
    assert cut(0.2, 0.21, 0.19, 0.2, strict=False) == [1, 0, 1]
    assert cut(0.5, 0.5, 0.5 + 1e-6, 1, 0) == [0, 1, 1, 0]


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), 50])
def test_a_threshold_is_a_probability(value):
    with pytest.raises(MssegError) as caught:
        Threshold(value)
    assert caught.value.exit_code == ExitCode.CONFIG


def test_nan_makes_no_mask():
    """R07"""
    with pytest.raises(MssegError, match="1 NaN voxels") as caught:
        cut(0.5, 0.1, float("nan"))
    assert caught.value.exit_code == ExitCode.NUMERICAL


def test_without_probabilities():
    with pytest.raises(MssegError, match="no probabilities") as caught:
        Threshold(0.5)(predicted(np.zeros((2, 2, 2))))
    assert caught.value.exit_code == ExitCode.CONFIG
