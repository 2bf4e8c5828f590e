"""Contrasts of one visit: those that are missing and those that are dropped are 0."""

import numpy as np
import pytest

from msseg_lightning.augment.fused import FusedAugment
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.subject import (
    BASELINE,
    BASELINE_LESIONS,
    BRAIN,
    FOLLOWUP,
    FOLLOWUP_LESIONS,
    LoadedSubject,
    LongitudinalSubject,
    Native,
)
from msseg_lightning.core.volume import Volume
from msseg_lightning.sample.single_visit_slices import SingleVisitSlices
from msseg_lightning.sample.slices import SliceSampler
from msseg_lightning.sample.visit import LESIONS

SHAPE = (14, 12, 10)
NAMES = ("followup_t1", "followup_t2", "followup_flair")


def subject(folder, brightness):
    """Images of one value each; both visits have the same lesion."""
    lesions = np.zeros(SHAPE, np.uint8)
    lesions[4:7, 5:8, 4:7] = 1
    affine = np.eye(4)
    volumes = {
        name: Volume(np.full(SHAPE, value, np.float32), affine)
        for name, value in brightness.items()
    }
    for name in (BASELINE_LESIONS, FOLLOWUP_LESIONS):
        if name.replace("lesions", "flair") in brightness:
            volumes[name] = Volume(lesions, affine, "mask")
    volumes[BRAIN] = Volume(np.ones(SHAPE, np.uint8), affine, "mask")
    grid = next(iter(volumes.values())).grid
    made = LoadedSubject(LongitudinalSubject("a", "a", {}), volumes, Native(grid, b""))
    return PreparedSubject.write(made, folder)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return subject(tmp_path_factory.mktemp("pair") / "a", {BASELINE: 1.0, FOLLOWUP: 2.0})


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    values = {FOLLOWUP: 3.0, "followup_t1": 4.0, "followup_t2": 5.0}
    return subject(tmp_path_factory.mktemp("scan") / "a", values)


def loader(subjects, **settings):
    sampler = SliceSampler([6, 8], 0.5, target=LESIONS)
    settings = {"batch_size": 60, "image_names": NAMES, "depth": 3, "layout": "depth"} | settings
    return SingleVisitSlices(subjects, sampler, FusedAugment(), **settings)


def test_of_a_pair_with_flair_alone_the_other_channels_are_0(pair):
    source = loader([pair])
    assert source.target_names == (LESIONS,)
    assert [source.names_of(visit) for visit in source.scans] == [
        [None, None, BASELINE],
        [None, None, FOLLOWUP],
    ]
    batch = source.batch(0)
    assert batch.images.shape == (60, 3, 3, 6, 8) and batch.target.shape == (60, 1, 6, 8)
    assert not batch.images[:, :2].any()
    brightest = batch.images[:, 2].amax((1, 2, 3)).numpy()
    assert set(brightest.round(3)) == {1.0, 2.0}  # either visit, never dropped
    assert 20 <= batch.target.flatten(1).any(1).sum() <= 50


def test_one_or_two_of_three_channels_are_dropped_and_any_may_stay(scan):
    batch = loader([scan]).batch(3)
    kept = batch.images.amax((2, 3, 4)).numpy().round(2)
    assert set(kept[:, 0]) == {0, 4} and set(kept[:, 1]) == {0, 5} and set(kept[:, 2]) == {0, 3}
    counts = (kept > 0).sum(1)
    assert set(counts) == {1, 2}
    assert 18 < (counts == 1).sum() < 42
    alone = kept[counts == 1] > 0
    assert alone.any(0).all()
    batch = loader([scan], dropped=[0, 0]).batch(3)
    assert (batch.images.amax((2, 3, 4)) > 0).all()


def test_batches_are_those_of_their_step_and_seed(scan):
    one, again, other = (loader([scan], seed=seed).batch(5) for seed in (1, 1, 2))
    assert (one.images == again.images).all() and (one.images != other.images).any()


def test_it_never_drops_as_many_channels_as_there_are(scan):
    for dropped in ([1, 3], [2, 1], [-1, 1]):
        with pytest.raises(ValueError, match="dropped"):
            loader([scan], dropped=dropped)
