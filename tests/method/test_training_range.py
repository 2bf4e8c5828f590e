"""Pairs that are unlike the training pairs are told apart, by the fact that differs."""

import numpy as np
import pytest

from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.subject import (
    BASELINE,
    BRAIN,
    FOLLOWUP,
    LoadedSubject,
    LongitudinalSubject,
    Native,
)
from msseg_lightning.core.volume import Grid, Volume
from msseg_lightning.method.training_range import FACTS, TrainingRange, facts_of

SHAPE = (16, 14, 12)


def pair(folder, name, edge=4.0, thick=4.0, contrast=1.0, noise=0.1, atlas=True):
    """Half of the brain is grey matter, ``contrast`` brighter than the white half."""
    draw, affine = np.random.default_rng(0), np.diag([10.0, 10.0, 10.0, 1.0])
    brain = np.zeros(SHAPE, bool)
    brain[2:-2, 2:-2, 2:-2] = True
    grey = np.zeros(SHAPE, np.float32)
    grey[:8] = 1
    visits = [
        np.where(brain, 2 + contrast * grey + draw.normal(0, noise, SHAPE), 0) for _ in range(2)
    ]
    volumes = {
        BASELINE: Volume(visits[0].astype(np.float32), affine),
        FOLLOWUP: Volume(visits[1].astype(np.float32), affine),
        BRAIN: Volume(brain, affine, "mask"),
    }
    if atlas:
        volumes["place_grey"] = Volume(grey, affine)
        volumes["place_white"] = Volume(1 - grey, affine)
    native = Native(Grid((20, 20, 20), np.diag([edge, edge, thick, 1.0])), b"")
    loaded = LoadedSubject(LongitudinalSubject(name, name, {}), volumes, native)
    return PreparedSubject.write(loaded, folder / name)


def test_facts_by_hand(tmp_path):
    facts = facts_of(pair(tmp_path, "p", edge=1.0, thick=3.0))
    assert list(facts) == list(FACTS)
    small, large, litres, contrast, correlation = facts.values()
    assert (small, large) == (1, 3)
    assert litres == pytest.approx(12 * 10 * 8 / 1000)
    # 1 over the deviation of two halves that are 1 apart, and noise: 1 / sqrt(1/4 + 1/100)
    assert contrast == pytest.approx(1 / np.sqrt(0.26), abs=0.02)
    assert correlation == pytest.approx(0.25 / 0.26, abs=0.01)
    assert list(facts_of(pair(tmp_path, "q", atlas=False))) == [*list(FACTS)[:3], list(FACTS)[4]]


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({}, None),
        ({"thick": 4.2}, None),
        ({"thick": 6.0}, "largest voxel edge in mm"),
        ({"edge": 2.0}, "smallest voxel edge in mm"),
        ({"contrast": -1.0}, "grey matter less white matter"),
        ({"noise": 0.5}, "correlation of the visits"),
        ({"noise": 0.01}, None),  # more alike than any: no fault
    ],
)
def test_what_lies_outside_is_named(tmp_path, changes, fact):
    known = TrainingRange.of([pair(tmp_path, "a"), pair(tmp_path, "b", noise=0.12)])
    told = known.warnings(pair(tmp_path, "new", **changes))
    if fact is None:
        assert told == ()
    else:
        assert [text for text in told if fact in text]
    assert TrainingRange().warnings(pair(tmp_path, "new", **changes)) == ()


def test_a_brain_of_another_size_is_told(tmp_path):
    known = TrainingRange.of([pair(tmp_path, "a")])
    wide = TrainingRange({**known.limits, "brain volume in litres": (1.2, 1.6)})
    (text,) = wide.warnings(pair(tmp_path, "a"))
    assert "brain volume in litres is 0.96, there 1.20 to 1.60" in text


def test_an_empty_pair_has_no_facts(tmp_path):
    given = pair(tmp_path, "p")
    dark = Volume(np.zeros(SHAPE, np.float32), given.grid.affine)
    volumes = {
        BASELINE: dark,
        FOLLOWUP: dark,
        BRAIN: Volume(given.mask(BRAIN), given.grid.affine, "mask"),
    }
    loaded = LoadedSubject(LongitudinalSubject("q", "q", {}), volumes, given.native)
    assert facts_of(PreparedSubject.write(loaded, tmp_path / "q")) == {}
