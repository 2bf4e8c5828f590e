"""Stages are refitted when, and only when, something they were made from changed."""

from __future__ import annotations

import contextlib
import dataclasses
import types
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

from msseg_lightning.core.method import FitContext
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.core.subject import LongitudinalSubject
from msseg_lightning.method.ensemble import EnsembleMethod
from msseg_lightning.method.staged import Stage, StagedMethod, frozen_network
from msseg_lightning.network.weights import load_weights, save_weights


def pair(patient: str) -> LongitudinalSubject:
    return LongitudinalSubject(id=patient.upper(), patient=patient, images={})


PAIRS = [pair(patient) for patient in "abcd"]


class Sum:
    """Learns the number of pairs it saw; as much of a NetworkMethod as a stage needs."""

    fits: ClassVar[list[tuple[str, str]]] = []
    stop_before: str | None = None

    def __init__(self, name, contents, earlier, scans=""):
        self.name, self.earlier = name, earlier
        self.scans, self.held_out = set(scans), frozenset()
        self.task = types.SimpleNamespace(network=nn.Linear(1, 1, bias=False))
        self.cache = types.SimpleNamespace(place=lambda s: Path(f"{s.id}-{contents.get(s.id, 0)}"))

    def fit(self, train, val, folder, context):
        self.held_out = context.held_out
        if self.name == Sum.stop_before:
            raise KeyboardInterrupt
        Sum.fits.append((self.name, "".join(s.id for s in train)))
        folder.mkdir(parents=True, exist_ok=True)
        with torch.no_grad():
            self.task.network.weight.fill_(len(train))

    def held_out_visits(self, held_out):
        return sorted(self.scans & held_out)

    def save(self, folder):
        save_weights(self.task.network, folder, self.name)

    def load(self, folder):
        load_weights(self.task.network, folder, self.name)

    def predict(self, subject):
        return float(self.task.network.weight)


@pytest.fixture
def system(tmp_path):
    """Makes a system of two stages whose values, inputs and folds can be chosen."""
    Sum.fits, Sum.stop_before = [], None

    def make(first=1, last=1, contents=None, code="c", scans="", **changes):
        contents = contents or {}
        stage = Stage(
            name="first",
            settings={"value": first},
            make=lambda fitted: Sum("first", contents, fitted, scans),
            store=tmp_path / "stages",
            code=code,
            **changes,
        )
        return StagedMethod(
            [stage],
            lambda fitted: Sum("last", contents, fitted),
            {"value": last},
            code,
            images={},
            maps={},
        )

    def fit(held_out="d", **changes):
        Sum.fits = []
        method = make(**changes)
        context = FitContext(held_out=frozenset(held_out))
        method.fit(PAIRS[:2], PAIRS[2:3], tmp_path / "fit", context)
        return [name for name, _ in Sum.fits], method

    return fit


def test_both_are_fitted_once_and_found_again(system):
    assert system()[0] == ["first", "last"]
    assert system()[0] == ["last"]  # the last stage resumes by itself in its own folder


def test_a_value_of_the_last_stage_refits_it_alone(system, tmp_path):
    system()
    marker = tmp_path / "fit" / "old"
    marker.touch()
    assert system(last=2)[0] == ["last"]
    assert not marker.exists()


@pytest.mark.parametrize(
    "change", [{"first": 2}, {"contents": {"A": 1}}, {"code": "other"}], ids=str
)
def test_a_value_of_the_first_an_input_or_the_code_refits_both(system, tmp_path, change):
    system()
    marker = tmp_path / "fit" / "old"
    marker.touch()
    assert system(**change)[0] == ["first", "last"]
    assert not marker.exists()


def test_a_validation_pair_is_an_input_of_the_last_stage_alone(system, tmp_path):
    system()
    marker = tmp_path / "fit" / "old"
    marker.touch()
    assert system(contents={"C": 1})[0] == ["last"]
    assert not marker.exists()


def test_a_later_stage_is_made_from_the_earlier_ones_it_uses(system):
    _, method = system()
    (first,) = method.stages

    def second_fits(value):
        Sum.fits, fitted = [], {}
        for stage in (
            dataclasses.replace(first, settings={"value": value}),
            dataclasses.replace(first, name="second", uses=("first",)),
        ):
            fitted[stage.name] = stage.ensure(PAIRS[:2], fitted)
        return len(Sum.fits)

    assert [second_fits(1), second_fits(1), second_fits(2)] == [1, 0, 2]


def test_what_a_kill_left_without_its_record_is_not_continued(system, tmp_path):
    """Files may be deleted in any order: a checkpoint without a key belongs to nothing."""
    system()
    (tmp_path / "fit" / "stages.json").unlink()
    marker = tmp_path / "fit" / "last.ckpt"
    marker.touch()
    system()
    assert not marker.exists() and not (tmp_path / "fit.stale").exists()


def test_scans_left_out_of_a_stage_decide_what_it_learned(system):
    """Other patients are tested: the same pairs, but other scans of a further source are seen."""
    assert system(scans="dx")[0] == ["first", "last"]
    assert system(scans="dx")[0] == ["last"]
    assert system(scans="dx", held_out="dx")[0] == ["first", "last"]
    assert system(scans="dx", held_out="dy")[0] == ["last"]  # y has no scan there


def test_unchanged_means_that_the_last_stage_may_continue(system, tmp_path):
    system()
    marker = tmp_path / "fit" / "checkpoint"
    marker.touch()
    system()
    assert marker.exists()


def test_a_kill_between_stages_continues_with_the_last(system):
    Sum.stop_before = "last"
    with pytest.raises(KeyboardInterrupt):
        system()
    assert Sum.fits == [("first", "AB")]
    Sum.stop_before = None
    assert system()[0] == ["last"]


def test_no_stage_sees_patients_of_validation_or_test(system):
    system(subjects=lambda: PAIRS)
    assert Sum.fits[0] == ("first", "AB")  # c validates, d is held out
    assert system()[1].last.held_out == {"c", "d"}
    with pytest.raises(MssegError, match="too few patients") as caught:
        system(first=3, subjects=lambda: PAIRS[2:])
    assert caught.value.exit_code == ExitCode.DATA


def test_out_of_fold_networks_have_each_left_out_other_patients(system):
    _, method = system(out_of_fold=2)
    assert [fit for fit in Sum.fits if fit[0] == "first"] == [("first", "B"), ("first", "A")]
    sources = method.fitted["first"].sources
    assert [sorted(source.patients) for source in sources] == [["b"], ["a"]]
    with pytest.raises(MssegError, match="no network of its own"):
        method.fitted["first"].network()
    with pytest.raises(MssegError, match="too few patients") as caught:
        system(out_of_fold=3)
    assert caught.value.problems[0].expected.startswith("3 or more")


@pytest.mark.parametrize(
    ("positive", "networks"), [("dhl", 3), ("adg", 3), ("abcd", 4), ("acegik", 2), ("f", 3)]
)
def test_each_network_out_of_fold_leaves_its_share_of_lesions_out(system, positive, networks):
    """In order of name a, d, g and j would be left out together, and with them all lesions."""
    _, method = system()
    stage = dataclasses.replace(
        method.stages[0],
        name=f"{positive}{networks}",
        out_of_fold=networks,
        has_lesions=lambda subject: subject.patient in positive,
    )
    everyone = [pair(patient) for patient in "abcdefghijkl"]
    seen = [source.patients for source in stage.ensure(everyone, {}).sources]
    left_out = [{one.patient for one in everyone} - patients for patients in seen]
    assert sorted(name for names in left_out for name in names) == list("abcdefghijkl")
    lesions = [len(names & set(positive)) for names in left_out]
    assert sorted(lesions) == sorted(len(positive[part::networks]) for part in range(networks))
    assert {len(names) for names in left_out} == {12 // networks}


def test_what_is_handed_down_is_frozen(system):
    _, method = system()
    network = method.last.earlier["first"].network()
    assert float(network.weight) == 2
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_each_stage_is_a_run_of_its_own(system):
    opened = []

    @contextlib.contextmanager
    def track(name, tags):
        opened.append((name, tags["reused"]))
        yield []

    for _ in range(2):
        _, method = system()
        stage = method.stages[0]
        stage.ensure(PAIRS[:2], {}, FitContext(track=track))
    assert opened == [("first", True), ("first", True)]
    other = dataclasses.replace(stage, settings={"value": 9})
    other.ensure(PAIRS[:2], {}, FitContext(track=track))
    assert opened[-1] == ("first", False)


def test_a_stage_without_maps_makes_no_image(system):
    _, method = system()
    with pytest.raises(MssegError, match="makes no images"):
        method.fitted["first"].image("x")


def test_a_delivered_stage_s_image_is_known_by_how_it_is_made(tmp_path):
    """Prepared pairs keep such images under this key: other windows must not find them."""
    Sum("last", {}, {}).save(tmp_path)
    Sum("first", {}, {}).save(tmp_path / "stages" / "first" / "0")

    def key(maps):
        first = Stage("first", {"maps": maps}, lambda given: Sum("first", {}, given), tmp_path, "c")
        last = StagedMethod(
            [first], lambda given: Sum("last", {}, given), {}, "c", {"image": "first"}, {}
        )
        last.load(tmp_path)
        return last.last.earlier["first"].sources[0].key

    assert key({"overlap": 0.5}) == key({"overlap": 0.5}) != key({"overlap": 0.25})


def test_networks_that_are_loaded_in_a_row_share_no_weights(tmp_path):
    made = []

    def make(fitted):
        made.append(Sum("first", {}, fitted))
        return made[-1]

    for value in (3, 5):
        network = nn.Linear(1, 1, bias=False)
        nn.init.constant_(network.weight, value)
        save_weights(network, tmp_path / str(value), "first")
    three, five = (frozen_network(make, tmp_path / str(value)) for value in (3, 5))
    assert (float(three.weight), float(five.weight)) == (3, 5)
    assert len(made) == 1, "built once for both"
    assert not three.training and not three.weight.requires_grad


def test_members_of_an_ensemble_share_the_stages_before_them(tmp_path):
    """Two networks out of fold, fitted once, and three members, each without its fold; also the
    validation pair is divided. They are saved and loaded together."""
    Sum.fits, Sum.stop_before = [], None
    positive = {"a", "b", "c"}

    def build(folds=3, last=1, contents=None):
        contents = contents or {}
        first = Stage(
            "first",
            {},
            lambda fitted: Sum("first", contents, fitted),
            tmp_path / "stages",
            "c",
            out_of_fold=3,
            maps=lambda network, pair: None,
        )
        return StagedMethod(
            [first],
            lambda fitted: EnsembleMethod(
                {"last": lambda: Sum("last", contents, fitted)},
                folds,
                lambda subject: subject.patient in positive,
            ),
            {"value": last},
            "c",
            images={"image": "first"},
            maps={},
            joint=folds > 1,
        )

    def fit(method):
        Sum.fits = []
        context = FitContext(held_out=frozenset("d"))
        method.fit(PAIRS[:2], PAIRS[2:3], tmp_path / "fit", context)
        return sorted(Sum.fits)

    method = build()
    parts = ["AB", "AC", "BC"]
    assert fit(method) == [(name, part) for name in ("first", "last") for part in parts]
    assert not any("d" in source.patients for source in method.fitted["first"].sources)
    assert fit(build()) == [("last", part) for part in parts]  # each resumes in its own folder
    marker = tmp_path / "fit" / "old"
    marker.touch()
    assert fit(build(last=2)) == [("last", part) for part in parts] and not marker.exists()
    changed = fit(build(last=2, contents={"C": 1}))  # network AB of the first stage saw no c
    assert changed == [("first", "AC"), ("first", "BC"), *(("last", part) for part in parts)]
    method.save(tmp_path / "model")
    assert len(list((tmp_path / "model").rglob("weights.safetensors"))) == 3 + 3
    loaded = build()
    loaded.load(tmp_path / "model")
    assert loaded.last.models == tmp_path / "model" / "members"
