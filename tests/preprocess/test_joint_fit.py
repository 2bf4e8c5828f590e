import numpy as np
import pytest

from msseg_lightning.core.problem import MssegError
from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP
from msseg_lightning.core.volume import Volume
from msseg_lightning.preprocess.joint_fit import JointLinearFit


@pytest.fixture
def pair_of(phantom):
    def make(baseline, followup, brain):
        volumes = {
            name: Volume(np.array(values, np.float32).reshape(-1, 1, 1), np.eye(4), kind)
            for name, values, kind in (
                (BASELINE, baseline, "image"),
                (FOLLOWUP, followup, "image"),
                (BRAIN, brain, "mask"),
            )
        }
        return phantom.pair(phantom.grid("canonical")).replace(volumes=volumes)

    return make


def values(subject, name=FOLLOWUP):
    return np.ravel(subject.volumes[name].data)


def test_the_line_by_hand(pair_of):
    """F 1 2 3 against B 2 2 5: slope 3/2, shift 0; a zero outside the brain stays 0, another value
    there moves along."""
    found = JointLinearFit()(pair_of([2, 2, 5, 9, 9], [1, 2, 3, 0, 4], [1, 1, 1, 0, 0]))
    np.testing.assert_allclose(values(found), [1.5, 3, 4.5, 0, 6], atol=1e-6)
    assert values(found, BASELINE).tolist() == [2, 2, 5, 9, 9]
    assert found.notes[-1] == "follow-up scan times 1.5 plus 0"


@pytest.mark.parametrize("trim", [0.0, 0.02])
def test_the_regression_of_the_brains_is_the_diagonal(pair_of, trim):
    generator = np.random.default_rng(0)
    tissue = generator.gamma(20, 5, 4000)
    first = tissue + generator.normal(0, 4, 4000)
    second = 2.5 * tissue + 30 + generator.normal(0, 8, 4000)
    found = JointLinearFit(trim=trim)(pair_of(first, second, np.ones(4000)))
    slope, shift = np.polyfit(values(found).astype(float), first, 1)
    assert slope == pytest.approx(1, abs=0.02)
    assert shift == pytest.approx(0, abs=0.02 * first.mean())


def test_new_lesions_do_not_decide_where_they_are_left_out(pair_of):
    """One voxel of a hundred became much brighter; the others are alike."""
    first = np.arange(1.0, 101)
    second = first.copy()
    second[9] += 500
    pair = pair_of(first, second, np.ones(100))
    others = np.delete(np.arange(100), 9)
    fitted = values(JointLinearFit(trim=0.02)(pair))
    np.testing.assert_allclose(fitted[others], first[others], rtol=1e-4)
    assert np.abs(values(JointLinearFit()(pair))[others] - first[others]).max() > 10


def test_one_value_is_not_fitted(pair_of):
    pair = pair_of([1, 2], [3, 3], [1, 1])
    found = JointLinearFit()(pair)
    assert values(found).tolist() == [3, 3] and "one value" in found.notes[-1]
    with pytest.raises(ValueError, match="trim"):
        JointLinearFit(trim=1.0)


def test_visits_on_two_grids_are_refused(pair_of):
    pair = pair_of([1, 2], [3, 4], [1, 1])
    apart = Volume(pair.volumes[FOLLOWUP].data, np.diag([2.0, 1, 1, 1]))
    with pytest.raises(MssegError, match="one grid"):
        JointLinearFit()(pair.replace(volumes={**pair.volumes, FOLLOWUP: apart}))
