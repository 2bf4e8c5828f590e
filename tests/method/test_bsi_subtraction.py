import numpy as np
import pytest

from msseg_lightning.core.method import Method
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.core.subject import (
    BASELINE,
    BRAIN,
    FOLLOWUP,
    LoadedSubject,
    LongitudinalSubject,
    Native,
)
from msseg_lightning.core.volume import Grid, Volume
from msseg_lightning.method.bsi_subtraction import BsiRule, BsiSubtraction

SHAPE = (32, 30, 28)


@pytest.fixture
def pair():
    """Noise in a box of brain with a small dark ventricle; no change."""
    generator = np.random.default_rng(0)
    brain = np.zeros(SHAPE, bool)
    brain[3:29, 3:27, 3:25] = True
    ventricles = np.zeros(SHAPE, bool)
    ventricles[20:26, 10:18, 10:16] = True
    baseline = np.where(brain, 100, 0) + generator.normal(0, 2, SHAPE)
    followup = baseline + generator.normal(0, 1, SHAPE)
    return {
        "baseline": baseline.astype(np.float32),
        "followup": followup.astype(np.float32),
        "brain": brain,
        "ventricles": ventricles,
    }


def run(pair, rule=None):
    rule = rule or BsiRule()
    inclusion = rule.inclusion(pair["baseline"], pair["brain"], pair["ventricles"])
    return rule.candidates(pair["baseline"], pair["followup"], pair["brain"], inclusion)


def test_a_new_bright_block_is_the_one_candidate(pair):
    block = (slice(8, 12), slice(8, 12), slice(8, 12))
    pair["followup"][block] += 60
    pair["baseline"][block] = 100  # away from the tail of the noise
    found = run(pair)
    expected = np.zeros(SHAPE, bool)
    expected[block] = True
    np.testing.assert_array_equal(found, expected)


def test_a_block_that_was_bright_already_is_none(pair):
    block = (slice(8, 12), slice(8, 12), slice(8, 12))
    pair["followup"][block] += 60
    pair["baseline"][block] += 60
    assert not run(pair)[6:14, 6:14, 6:14].any()
    pair["followup"][block] += 60  # even if it grew brighter still
    assert not run(pair)[block].any()
    assert run(pair, BsiRule(bright_sd=20.0))[block].all()


def plant(pair, voxels):
    """A change of exactly these voxels, on a pair without noise."""
    pair["baseline"] = np.where(pair["brain"], 100, 0).astype(np.float32)
    pair["baseline"][::2] += pair["brain"][::2]  # so that mean + SD is above the tissue
    pair["followup"] = pair["baseline"].copy()
    for voxel in voxels:
        pair["followup"][voxel] += 50
    return pair


def cross(x, y, z):
    """A voxel with its six neighbours: seven voxels, one of which survives an erosion."""
    return [
        (x, y, z),
        (x - 1, y, z),
        (x + 1, y, z),
        (x, y - 1, z),
        (x, y + 1, z),
        (x, y, z - 1),
        (x, y, z + 1),
    ]


def test_size_and_erosion(pair):
    rod = [(x, 8, 8) for x in range(6, 16)]  # ten voxels, none survives
    found = run(plant(pair, cross(9, 15, 9) + rod), BsiRule(bright_sd=2.0))
    assert np.argwhere(found).tolist() == sorted(map(list, cross(9, 15, 9)))
    eroded = run(pair, BsiRule(bright_sd=2.0, survives="eroded"))
    assert np.argwhere(eroded).tolist() == [[9, 15, 9]]
    kept = run(pair, BsiRule(bright_sd=2.0, survives="off"))
    assert kept.sum() == 17
    assert run(pair, BsiRule(bright_sd=2.0, survives="off", larger_than=7)).sum() == 10
    assert run(pair, BsiRule(bright_sd=2.0, survives="off", larger_than=6)).sum() == 17


def test_brain_edge_and_ventricles_are_excluded(pair):
    plant(pair, [])
    inclusion = BsiRule(bright_sd=2.0).inclusion(
        pair["baseline"], pair["brain"], pair["ventricles"]
    )
    edge = np.zeros(SHAPE, bool)
    edge[4:28, 4:26, 4:24] = True  # one voxel off the box of brain
    assert not (inclusion & ~edge).any()
    # 6 x 8 x 6 voxels eroded twice with the 6-neighbour element leave 2 x 4 x 2 in the middle
    hole = np.argwhere(edge & ~inclusion)
    assert hole.min(0).tolist() == [22, 12, 12] and hole.max(0).tolist() == [23, 15, 13]
    assert len(hole) == 16


def test_nothing_from_nothing(pair):
    pair["followup"] = pair["baseline"].copy()
    assert not run(pair).any()
    empty = {**pair, "brain": np.zeros(SHAPE, bool)}
    assert not run(empty).any()


class Prepared:
    """Stands for the cache: hands out one pair written to disk."""

    def __init__(self, folder, loaded):
        self.prepared = PreparedSubject.write(loaded, folder)

    def prepare(self, subjects):
        return [self.prepared for _ in subjects]


@pytest.fixture
def method(pair, tmp_path):
    block = (slice(8, 12), slice(8, 12), slice(8, 12))
    pair["followup"][block] += 60
    volumes = {
        BASELINE: Volume(pair["baseline"], np.eye(4)),
        FOLLOWUP: Volume(pair["followup"], np.eye(4)),
        BRAIN: Volume(pair["brain"], np.eye(4), "mask"),
        "ventricles": Volume(pair["ventricles"], np.eye(4), "mask"),
    }
    flipped = np.diag([-1.0, 1, 1, 1])  # the native scan runs from right to left
    flipped[0, 3] = SHAPE[0] - 1
    subject = LongitudinalSubject("p1", "p1", {})
    loaded = LoadedSubject(subject, volumes, Native(Grid(SHAPE, flipped), b""))
    return BsiSubtraction(Prepared(tmp_path / "entry", loaded)), subject


def test_prediction_lies_on_the_native_grid(method, pair):
    method, subject = method
    assert isinstance(method, Method)
    prediction = method.predict(subject)
    assert prediction.mask.dtype == np.uint8 and prediction.probability is None
    there = np.argwhere(prediction.mask[::-1])
    assert there.min(0).tolist() == [8, 8, 8] and there.max(0).tolist() == [11, 11, 11]
    assert prediction.inside.any() and not (prediction.mask & ~prediction.inside).any()
    assert list(prediction.steps) == ["difference", "inclusion", "proposed"]
    np.testing.assert_array_equal(prediction.steps["proposed"], prediction.mask)
    np.testing.assert_array_equal(prediction.steps["inclusion"] > 0, prediction.inside)
    change = (pair["followup"] - pair["baseline"]) * pair["brain"]
    np.testing.assert_allclose(prediction.steps["difference"][::-1], change, atol=0.02)


def test_fit_leaves_nothing_and_a_saved_rule_is_checked(method, tmp_path):
    method, subject = method
    folder = tmp_path / "fit"
    method.fit([subject], [], folder)
    assert not folder.exists()
    method.save(tmp_path / "model")
    method.load(tmp_path / "model")
    other = BsiSubtraction(method.cache, BsiRule(larger_than=3))
    with pytest.raises(MssegError, match="larger_than") as caught:
        other.load(tmp_path / "model")
    assert caught.value.exit_code == ExitCode.MODEL
    with pytest.raises(MssegError, match="cannot be read"):
        other.load(tmp_path / "nowhere")


@pytest.mark.slow
def test_real_scans_both_ways(open_ms, tmp_path):
    from msseg_lightning.evaluate.score import score_case
    from msseg_lightning.preprocess.atlas import AffineToAtlas
    from msseg_lightning.preprocess.bias import N4, Denoise, DifferentialBias
    from msseg_lightning.preprocess.cache import PreparedCache
    from msseg_lightning.preprocess.pipeline import Preprocess
    from msseg_lightning.preprocess.reorient import Reorient
    from msseg_lightning.read.load import load_subject
    from msseg_lightning.read.open_ms import OpenMs

    chain = Preprocess(
        (
            Reorient(),
            AffineToAtlas(),
            N4((1000,), fwhm=0.05, convergence=1e-4),
            Denoise(),
            DifferentialBias(),
        )
    )
    subjects = OpenMs(open_ms).subjects()
    method = BsiSubtraction(PreparedCache(tmp_path, chain, load_subject))
    assert len(subjects) == 6  # three complete patients, each also with time reversed
    for subject in subjects:
        prediction = method.predict(subject)
        reference = load_subject(subject).volumes["new_lesions"]
        row = score_case(prediction.mask, reference.data, reference.spacing_mm)
        # a rule of 1 SD finds far too much in 3 mm slices: no claim about the score
        assert row.has_new_lesions and row.predicted_volume_mm3 > 0
        assert prediction.mask.shape == reference.data.shape
