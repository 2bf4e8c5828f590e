import copy
import pickle

import numpy as np
import pytest

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.core.subject import (
    BASELINE,
    BASELINE_LESIONS,
    BRAIN,
    FOLLOWUP,
    FOLLOWUP_LESIONS,
)
from msseg_lightning.sample.visit import FLAIR, LESIONS, visits_of
from tests.sample.lesion_scans import prepared


class Folder:
    def __init__(self, found):
        self.found = found

    def subjects(self):
        return self.found


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("pair"), "a", 0)


def test_a_pair_is_two_visits_with_their_own_scan_and_lesions(pair):
    first, second = visits_of([pair])
    for visit, image, lesions in (
        (first, BASELINE, BASELINE_LESIONS),
        (second, FOLLOWUP, FOLLOWUP_LESIONS),
    ):
        np.testing.assert_array_equal(visit.image(FLAIR), pair.image(image))
        np.testing.assert_array_equal(visit.mask(LESIONS), pair.mask(lesions))
        np.testing.assert_array_equal(visit.voxels(LESIONS), pair.voxels(lesions))
        np.testing.assert_array_equal(visit.voxels(BRAIN), pair.voxels(BRAIN))
        assert visit.id == visit.patient == "a"
    assert first.mask(LESIONS).sum() == 3 * 64 and second.mask(LESIONS).sum() == 4 * 64
    assert FLAIR not in pair.layers  # the pair itself is as it was


@pytest.mark.parametrize(
    "again", [copy.deepcopy, copy.copy, lambda one: pickle.loads(pickle.dumps(one))]
)
def test_a_visit_in_another_process_keeps_its_names(pair, again):
    for visit in visits_of([pair]):
        other = again(visit)
        assert other.scan == visit.scan
        np.testing.assert_array_equal(other.image(FLAIR), visit.image(FLAIR))
        np.testing.assert_array_equal(other.voxels(LESIONS), visit.voxels(LESIONS))


def test_a_visit_alone_is_one(tmp_path):
    (visit,) = visits_of([prepared(tmp_path, "b", 1, pair=False)])
    assert visit.scan == FOLLOWUP and visit.mask(LESIONS).sum() == 4 * 64


def test_scans_from_elsewhere_stand_in_for_the_pairs(pair, tmp_path):
    other = prepared(tmp_path, "b", 1, pair=False)
    assert [visit.id for visit in visits_of([pair], Folder([other]))] == ["b"]
    assert [visit.id for visit in visits_of([pair], Folder([]))] == ["a", "a"]


def test_without_a_mask_of_lesions_it_says_what_to_do(cohort):
    with pytest.raises(MssegError) as error:
        visits_of(cohort)
    assert error.value.exit_code == ExitCode.DATA
    assert "PseudoLesions" in str(error.value)
