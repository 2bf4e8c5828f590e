import numpy as np
import pytest

from msseg_lightning.core.problem import MssegError
from msseg_lightning.core.subject import BASELINE, FOLLOWUP
from msseg_lightning.core.volume import Volume
from msseg_lightning.preprocess.nyul import Nyul


def with_images(subject, first, second):
    affine = np.eye(4)
    shaped = [np.asarray(v, np.float32).reshape(-1, 1, 1) for v in (first, second)]
    return subject.replace(
        volumes={BASELINE: Volume(shaped[0], affine), FOLLOWUP: Volume(shaped[1], affine)}
    )


def test_landmarks_and_map_by_hand(phantom):
    subject = phantom.pair(phantom.grid("canonical"))
    # minimum, median, maximum: 1 2 5 -> 0 25 100 and 10 18 20 -> 0 80 100; their means 0 52.5 100
    step = Nyul((0, 50, 100)).fit([with_images(subject, [1, 2, 5], [10, 18, 20])])
    np.testing.assert_allclose(step.landmarks, [0, 52.5, 100])
    # values 2 4 6: 2 -> 0, 4 -> 52.5, 6 -> 100; zeros are outside the region and stay
    mapped = step(with_images(subject, [0, 2, 4, 6], [1, 2, 3, 4]))
    np.testing.assert_allclose(np.ravel(mapped.volumes[BASELINE].data), [0, 0, 52.5, 100])


def test_beyond_the_landmarks_slopes_go_on(phantom):
    subject = phantom.pair(phantom.grid("canonical"))
    step = Nyul((25, 75), landmarks=(0.0, 10.0), region="volume")
    mapped = step(with_images(subject, [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]))
    np.testing.assert_allclose(np.ravel(mapped.volumes[FOLLOWUP].data), [-5, 0, 5, 10, 15])


def test_a_linear_change_of_brightness_disappears(phantom):
    subject = phantom.pair(phantom.grid("canonical"))
    image = np.random.default_rng(0).gamma(3, 2, 5000) + 1
    pair = with_images(subject, image, 3.5 * image + 20)
    mapped = Nyul().fit([pair])(pair)
    first, second = (np.ravel(mapped.volumes[n].data) for n in (BASELINE, FOLLOWUP))
    np.testing.assert_allclose(first, second, atol=1e-2)


def test_problems(phantom):
    subject = phantom.pair(phantom.grid("canonical"))
    flat = with_images(subject, [0, 3, 3], [0, 0, 0])
    with pytest.raises(MssegError, match="not been fitted"):
        Nyul()(subject)
    with pytest.raises(MssegError, match="no training image"):
        Nyul().fit([flat])
    with pytest.raises(ValueError, match="ascending"):
        Nyul((10, 10))
    assert "one value" in Nyul(landmarks=tuple(range(11)))(flat).notes[-1]
