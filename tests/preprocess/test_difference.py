import numpy as np
import pytest

from msseg_lightning.core.problem import MssegError
from msseg_lightning.core.subject import BASELINE, FOLLOWUP, TARGET
from msseg_lightning.core.volume import Volume
from msseg_lightning.preprocess.difference import DIFFERENCE, RISES, Difference, RiseProducts


def test_what_became_brighter_is_positive(phantom):
    subject = phantom.pair(phantom.grid("canonical"))
    baseline = np.asarray(subject.volumes[BASELINE].data)
    brighter = Volume(baseline + 50 * subject.volumes[TARGET].data, subject.grid.affine)
    found = Difference()(subject.replace(volumes=subject.volumes | {FOLLOWUP: brighter}))
    change = np.asarray(found.volumes[DIFFERENCE].data)
    inside = np.asarray(subject.volumes[TARGET].data) != 0
    np.testing.assert_allclose(change[inside], 50, atol=1e-4)
    assert not change[~inside].any()
    assert list(found.volumes) == [*subject.volumes, DIFFERENCE]


def test_identical_visits_differ_by_nothing(phantom):
    subject = phantom.pair(phantom.grid("canonical"))
    same = subject.replace(volumes=subject.volumes | {FOLLOWUP: subject.volumes[BASELINE]})
    assert not Difference()(same).volumes[DIFFERENCE].data.any()


def test_visits_on_two_grids_are_refused(phantom):
    subject = phantom.pair(phantom.grid("canonical"))
    apart = Volume(subject.volumes[FOLLOWUP].data, np.diag([2.0, 1, 1, 1]))
    with pytest.raises(MssegError, match="one grid"):
        Difference()(subject.replace(volumes=subject.volumes | {FOLLOWUP: apart}))


def test_products_with_the_rise_by_hand(phantom):
    """Baseline 1 2 3, follow-up 4 1 5: the rise is 3 0 2."""
    scans = {
        name: Volume(np.array(values, np.float32).reshape(3, 1, 1), np.eye(4))
        for name, values in ((BASELINE, [1, 2, 3]), (FOLLOWUP, [4, 1, 5]))
    }
    subject = phantom.pair(phantom.grid("canonical")).replace(volumes=scans)
    found = RiseProducts()(subject).volumes
    assert list(found) == [BASELINE, FOLLOWUP, *RISES]
    assert np.ravel(found[RISES[0]].data).tolist() == [3, 0, 6]
    assert np.ravel(found[RISES[1]].data).tolist() == [12, 0, 10]
