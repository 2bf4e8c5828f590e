"""The image a stage makes of a pair never comes from a network that saw the patient."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.core.subject import (
    BASELINE,
    FOLLOWUP,
    LoadedSubject,
    LongitudinalSubject,
    Native,
)
from msseg_lightning.core.volume import Grid, Volume
from msseg_lightning.method.derived_image import DerivedImage, FittedNetwork


class Number(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value


def source(value, *patients):
    known = frozenset(patients) if patients else None
    return FittedNetwork(lambda: Number(value), f"model{value}", Path(), known)


def maps(network, prepared):
    return np.full(prepared.grid.shape, network.value, np.float32)


@pytest.fixture
def prepared(tmp_path):
    generator = np.random.default_rng(0)
    volumes = {
        name: Volume(generator.normal(size=(6, 5, 4)), np.eye(4)) for name in (BASELINE, FOLLOWUP)
    }
    subject = LongitudinalSubject(id="a", patient="p1", images={})
    loaded = LoadedSubject(subject, volumes, Native(Grid((6, 5, 4), np.eye(4)), b""))
    return PreparedSubject.write(loaded, tmp_path / "cache" / "pair-key")


def test_a_training_pair_gets_the_network_that_left_its_patient_out(prepared):
    image = DerivedImage("guess", maps, [source(0.25, "p1", "p2"), source(0.75, "p2", "p3")])
    added = image.add(prepared)
    np.testing.assert_allclose(added.image("guess"), 0.75, atol=1e-4)
    np.testing.assert_array_equal(added.image("baseline_flair"), prepared.image("baseline_flair"))
    assert added.layers.keys() == prepared.layers.keys() | {"guess"}
    added.verify()


def test_a_new_pair_gets_the_mean_of_all(prepared):
    image = DerivedImage("guess", maps, [source(0.25), source(0.75)])
    np.testing.assert_allclose(image.add(prepared).image("guess"), 0.5, atol=1e-4)


def test_a_patient_whom_every_network_saw_is_refused(prepared):
    with pytest.raises(MssegError, match="trained on this patient") as caught:
        DerivedImage("guess", maps, [source(1, "p1")]).add(prepared)
    assert caught.value.exit_code == ExitCode.DATA


def test_it_is_made_once_and_other_weights_make_it_anew(prepared):
    calls = []

    def counted(network, pair):
        calls.append(network.value)
        return maps(network, pair)

    for value in (1.0, 1.0, 2.0):
        DerivedImage("guess", counted, [source(value)]).add(prepared)
    assert calls == [1.0, 2.0]


def test_the_old_arrays_are_shared_not_copied(prepared):
    added = DerivedImage("guess", maps, [source(1)]).add(prepared)
    first = next(iter(prepared.sha256))
    assert (added.folder / first).samefile(prepared.folder / first)


def test_the_audit_names_every_pair_its_model_and_what_that_saw(prepared, tmp_path):
    image = DerivedImage("guess", maps, [source(0.2, "p1"), source(0.7, "p2", "p3")])
    image.audit([prepared], tmp_path / "audit.csv")
    with (tmp_path / "audit.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert row["patient"] == "p1"
    assert row["trained_on"] == "p2 p3"
    assert row["saw_this_patient"] == "False"


def test_several_images_one_after_the_other_do_not_hide_whose_they_are(prepared):
    """Names of folders grow with every image; cut off, other weights would find the first ones."""
    names = [f"probability_of_rater_number_{number}" for number in range(6)]
    for values in (range(6), range(10, 16)):
        pair = prepared
        for name, value in zip(names, values, strict=True):
            pair = DerivedImage(name, maps, [source(value)]).add(pair)
            assert len(pair.folder.name) < 240
        found = [float(pair.image(name).mean()) for name in names]
        assert found == pytest.approx(list(values), abs=1e-3)
