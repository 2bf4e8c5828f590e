"""Found voxel by voxel, cut at peaks, judged as a whole; nothing learned by heart is passed on."""

import csv
import dataclasses

import numpy as np
import pytest

from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.core.subject import (
    BASELINE,
    BRAIN,
    FOLLOWUP,
    TARGET,
    LoadedSubject,
    LongitudinalSubject,
    Native,
)
from msseg_lightning.core.volume import Grid, Volume
from msseg_lightning.method.boosting import Boosting
from msseg_lightning.method.find_then_judge import AUDIT, FindThenJudge, Peaks
from msseg_lightning.method.lesion_judge import LesionJudge
from msseg_lightning.method.pair_features import PairFeatures
from msseg_lightning.sample.voxel_table import VoxelRows

SHAPE = (20, 18, 16)
PLANT = (slice(12, 16), slice(3, 7), slice(3, 7))
PLACES = ((4, 4, 4), (4, 10, 8), (11, 11, 5))


def write_pair(folder, number, lesions, planted=False):
    """Noise in a box of brain; some blocks of 3 rise by 3, and perhaps one of 4 only by 1.

    Others have blocks that rise by 1 as well, which are nothing new.
    """
    draw = np.random.default_rng(number)
    brain = np.zeros(SHAPE, bool)
    brain[2:18, 2:16, 2:14] = True
    baseline = np.where(brain, 5 + draw.normal(0, 0.2, SHAPE), 0)
    followup = np.where(brain, baseline + draw.normal(0, 0.2, SHAPE), 0)
    target = np.zeros(SHAPE, bool)
    for place in PLACES[:lesions]:
        target[tuple(slice(start, start + 3) for start in place)] = True
    followup[target] += 3
    baseline[PLANT] += 0 if planted else 2
    followup[PLANT] += 1 if planted else 3
    if planted:
        target[PLANT] = True
    volumes = {
        BASELINE: Volume(baseline.astype(np.float32), np.eye(4)),
        FOLLOWUP: Volume(followup.astype(np.float32), np.eye(4)),
        BRAIN: Volume(brain, np.eye(4), "mask"),
        TARGET: Volume(target, np.eye(4), "mask"),
    }
    name, flipped = f"p{number}", np.diag([-1.0, 1, 1, 1])  # the native scan runs right to left
    flipped[0, 3] = SHAPE[0] - 1
    subject = LongitudinalSubject(name, name, {})
    loaded = LoadedSubject(subject, volumes, Native(Grid(SHAPE, flipped), b""))
    return PreparedSubject.write(loaded, folder / name)


class Prepared:
    """Stands for the cache."""

    def __init__(self, folder):
        kinds = ((1, True), (2, False), (3, False), (0, False), (2, False), (1, False))
        self.pairs = {
            f"p{number}": write_pair(folder, number, *kind) for number, kind in enumerate(kinds)
        }

    def prepare(self, subjects):
        return [self.pairs[subject.id] for subject in subjects]


def subjects(count=6):
    return [LongitudinalSubject(f"p{number}", f"p{number}", {}) for number in range(count)]


def make(cache, **changes):
    parts = {
        "features": PairFeatures(scales_mm=[1.0, 2.0]),
        "rows": VoxelRows(negative_ratio=0.2),
        "find": Boosting(rounds=12, learning_rate=0.4, leaves=7, least_rows=5, least_weight=0.1),
        "peaks": Peaks(low=0.1),
        "judge": LesionJudge(Boosting(rounds=10, leaves=3, least_rows=2, least_weight=0.01)),
        "folds": 3,
        "name": "x",
    }
    return FindThenJudge(cache, **{**parts, **changes})


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("find then judge")
    cache = Prepared(folder / "prepared")
    method = make(cache)
    method.fit(subjects(5), subjects()[5:], folder / "fit")
    with (folder / "fit" / AUDIT).open(newline="") as stream:
        return cache, method, list(csv.DictReader(stream)), folder


def test_new_lesions_are_marked_on_the_native_grid_with_one_probability_each(fitted):
    cache, method, _, _ = fitted
    answer = method.predict(subjects()[1])
    target = cache.pairs["p1"].mask(TARGET)[::-1]
    assert (answer.mask[target] == 1).mean() > 0.8 and (answer.mask[~target] == 1).mean() < 0.005
    for place in PLACES[:2]:
        box = np.zeros(SHAPE, bool)
        box[tuple(slice(start, start + 3) for start in place)] = True
        values = answer.probability[box[::-1] & (answer.mask > 0)]
        assert len(np.unique(values)) == 1 and values[0] > method.judge.cut
    np.testing.assert_array_equal(answer.mask, answer.probability > method.judge.cut)
    np.testing.assert_array_equal(answer.inside, cache.pairs["p1"].mask(BRAIN)[::-1])
    assert list(answer.steps) == ["found", "proposed"]
    assert not method.predict(subjects()[3]).mask.any()


def test_what_one_patient_teaches_does_not_reach_its_own_candidates(fitted):
    """The plant is marked by the boosters that saw it, and is no candidate to learn from."""
    cache, method, audit, _ = fitted
    voxels = method.features.of_voxels(cache.pairs["p0"])
    saw = {
        number: float(method._map(voxels, [number])[PLANT].mean())
        for number in range(len(method.texts))
    }
    left_out = method._folds(list(cache.pairs.values()))
    (without,) = (number for number, patients in enumerate(left_out) if "p0" in patients)
    assert saw[without] < 0.05 < 0.5 < min(saw[n] for n in saw if n != without)
    assert {row["saw_this_patient"] for row in audit} == {"False"}
    for row in audit:
        (part,) = (part for part in left_out if row["patient"] in part)
        assert set(row["trained_on"].split()) == set(cache.pairs) - part
    # one candidate, the common lesion: the plant of 64 voxels is none
    volumes = [float(row["volume_mm3"]) for row in audit if row["pair"] == "p0" and row["label"]]
    assert volumes and max(volumes) < 40


def test_candidates_are_true_by_the_share_that_lies_in_the_reference(fitted):
    cache, method, _, _ = fitted
    proposal = method._proposal(cache.pairs["p2"], [0, 1, 2])
    assert proposal.lesions == 3 and proposal.patient == "p2"
    assert proposal.true.sum() == 3
    met = dict(proposal.met.tolist())
    assert set(met) == set(np.flatnonzero(proposal.true)) and sorted(met.values()) == [0, 1, 2]
    strict = make(cache, true_share=1.01)
    strict._take(method.texts)
    assert not strict._proposal(cache.pairs["p2"], [0, 1, 2]).true.any()


def test_loaded_it_answers_the_same_and_a_second_fit_is_the_same(fitted):
    cache, method, _, folder = fitted
    method.save(folder / "model")
    loaded = make(cache)
    loaded.load(folder / "model")
    again = make(cache)
    again.fit(subjects(5), subjects()[5:], folder / "again")
    for other in (loaded, again):
        for one, two in zip(
            dataclasses.astuple(other.predict(subjects()[2]))[1:2],
            dataclasses.astuple(method.predict(subjects()[2]))[1:2],
            strict=True,
        ):
            np.testing.assert_array_equal(one, two)
    assert again.judge.record() == method.judge.record()


def test_peaks_cut_each_region_at_a_share_of_its_own_highest_value():
    found = np.zeros((12, 3, 3), np.float32)
    found[0:5, 1, 1] = (0.15, 0.45, 0.8, 0.45, 0.15)  # cut at 0.4
    found[6:9, 1, 1] = (0.12, 0.2, 0.05)  # cut at 0.1
    found[10, 1, 1] = 0.1  # not above low
    candidates = Peaks(low=0.1, share=0.5, most=0.5)(found, (1.0, 1.0, 1.0))
    assert sorted(candidates.sizes) == [2, 3]
    assert np.flatnonzero(candidates.mask[:, 1, 1]).tolist() == [1, 2, 3, 6, 7]
    lower = Peaks(low=0.1, share=0.5, most=0.3)(found, (1.0, 1.0, 1.0))
    assert sorted(lower.sizes) == [2, 3]
    whole = Peaks(low=0.1, share=0.0)(found, (1.0, 1.0, 1.0))
    assert sorted(whole.sizes) == [2, 5]
    none = Peaks()(np.zeros((3, 3, 3), np.float32), (1.0, 1.0, 1.0))
    assert len(none) == 0 and not none.mask.any()


def test_it_refuses_pairs_without_reference_or_without_a_lesion(fitted, tmp_path):
    cache, _, _, _ = fitted
    with pytest.raises(MssegError, match="single new lesion") as refused:
        make(cache).fit([subjects()[3]], [], tmp_path)
    assert refused.value.problems[0].exit_code == ExitCode.DATA
    with pytest.raises(MssegError, match="no boosters"):
        make(cache).predict(subjects()[0])
