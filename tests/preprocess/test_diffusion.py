import numpy as np
import pytest

from msseg_lightning.core.subject import BASELINE, FOLLOWUP, TARGET
from msseg_lightning.core.volume import Volume
from msseg_lightning.preprocess.diffusion import AnisotropicDiffusion


@pytest.fixture
def step_edge(phantom):
    """Noise of SD 2 about 100 and 200, and the same ten times as bright; the target as it was."""
    subject = phantom.pair(phantom.grid("anisotropic"))
    data = np.full((30, 24, 20), 100, np.float32)
    data[15:] = 200
    data += np.random.default_rng(0).normal(0, 2, data.shape).astype(np.float32)
    affine = subject.volumes[BASELINE].affine
    volumes = {BASELINE: Volume(data, affine), FOLLOWUP: Volume(10 * data, affine)}
    return subject.replace(volumes=subject.volumes | volumes)


def test_flat_regions_are_smoothed_and_edges_stay(step_edge):
    before = step_edge.volumes[BASELINE].data
    after = AnisotropicDiffusion()(step_edge).volumes[BASELINE].data
    for flat in (np.s_[2:12, 2:-2, 2:-2], np.s_[18:28, 2:-2, 2:-2]):
        assert after[flat].std() < 0.8 * before[flat].std()
        assert after[flat].mean() == pytest.approx(before[flat].mean(), abs=0.1)
    rise = after[15].mean() - after[14].mean()
    assert rise > 90  # of 100


def test_the_scale_of_intensities_does_not_matter(step_edge):
    found = AnisotropicDiffusion()(step_edge).volumes
    np.testing.assert_allclose(found[FOLLOWUP].data, 10 * found[BASELINE].data, rtol=1e-4)
    np.testing.assert_array_equal(found[TARGET].data, step_edge.volumes[TARGET].data)


def test_an_empty_image_and_no_iterations_change_nothing(step_edge):
    empty = Volume(np.zeros((5, 4, 3), np.float32), np.eye(4))
    only = step_edge.replace(volumes={BASELINE: empty})
    assert not AnisotropicDiffusion()(only).volumes[BASELINE].data.any()
    same = AnisotropicDiffusion(iterations=0)(step_edge).volumes[BASELINE].data
    np.testing.assert_allclose(same, step_edge.volumes[BASELINE].data)
    with pytest.raises(ValueError, match="time_step"):
        AnisotropicDiffusion(time_step=0.1)
