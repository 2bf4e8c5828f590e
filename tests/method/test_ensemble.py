"""Members are fitted on folds of patients and asked one by one."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import ClassVar

import numpy as np
import pytest

from msseg_lightning.core.method import NO_CONTEXT, FitContext
from msseg_lightning.core.prediction import Prediction
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.core.subject import LongitudinalSubject, Native
from msseg_lightning.core.volume import Grid
from msseg_lightning.method.ensemble import EnsembleMethod, inner_folds

NATIVE = Native(Grid((2, 1, 1), np.eye(4)), b"")


def pair(name: str, patient: str = "") -> LongitudinalSubject:
    return LongitudinalSubject(id=name, patient=patient or name, images={})


class Constant:
    """Answers with a fixed map; remembers who was alive at the same time."""

    alive = 0
    most = 0
    fitted: ClassVar[list[tuple[str, str, str]]] = []

    def __init__(self, values):
        self.values = values
        Constant.alive += 1
        Constant.most = max(Constant.most, Constant.alive)

    def __del__(self):
        Constant.alive -= 1

    def fit(self, train, val, folder, context=NO_CONTEXT):
        ids = ["".join(s.id for s in part) for part in (train, val)]
        Constant.fitted.append((folder.name, *ids))

    def save(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "values").write_text(" ".join(map(str, self.values)))

    def load(self, folder):
        self.values = [float(text) for text in (folder / "values").read_text().split()]

    def predict(self, subject):
        map_ = np.array(self.values, np.float32).reshape(2, 1, 1)
        return Prediction(
            subject.id, (map_ > 0.5).astype(np.uint8), NATIVE, map_, warnings=("note",)
        )


@pytest.fixture(autouse=True)
def fresh():
    Constant.fitted, Constant.most = [], 0


def build(values, folds=1, **settings):
    members = {name: lambda v=v: Constant(v) for name, v in values.items()}
    return EnsembleMethod(members, folds, lambda s: s.id in "abcd", **settings)


def test_the_mean_of_maps_and_the_share_of_votes(tmp_path):
    values = {"x": [0.9, 0.6], "y": [0.8, 0.0], "z": [0.1, 0.6]}
    mean = build(values)
    mean.fit([pair("a")], [], tmp_path / "mean")
    answer = mean.predict(pair("q"))
    np.testing.assert_allclose(answer.probability.ravel(), [0.6, 0.4], atol=1e-6)
    assert answer.mask.ravel().tolist() == [1, 0]
    assert answer.warnings == ("note",)
    vote = build(values, level="binary")
    vote.fit([pair("a")], [], tmp_path / "vote")
    np.testing.assert_allclose(vote.predict(pair("q")).probability.ravel(), [2 / 3, 2 / 3])
    majority = build(values, level="binary", rule="majority")
    majority.fit([pair("a")], [], tmp_path / "majority")
    assert majority.predict(pair("q")).probability.ravel().tolist() == [1, 1]


class ThreeViews(Constant):
    """A member whose three planes give different maps; ``values`` hold one map after another."""

    infer = type("Views", (), {"views": lambda: []})  # an unfitted member has them as well

    def load(self, folder):
        super().load(folder)
        maps, self.infer = self.values, type("Views", (), {})()
        self.infer.views = lambda: [maps[:2], maps[2:4], maps[4:]]

    def predict(self, subject, infer):
        self.values = infer
        return super().predict(subject)


def test_members_are_averaged_before_their_views_vote(tmp_path):
    """By hand, three planes of two members: the first voxel has means 0.75, 0.55, 0.3: two of three
    votes. Members voting first would say 0 (one of three planes) and 1 (two of three): a tie. The
    second voxel has means 1, 0.45, 0.4: one vote, although their mean exceeds one half."""
    values = {"x": [0.9, 1.0, 0.3, 0.4, 0.2, 0.5], "y": [0.6, 1.0, 0.8, 0.5, 0.4, 0.3]}
    members = {name: lambda v=v: ThreeViews(v) for name, v in values.items()}
    method = EnsembleMethod(members, 1, lambda s: True, level="view", rule="majority")
    method.fit([pair("a")], [], tmp_path)
    answer = method.predict(pair("q"))
    assert answer.mask.ravel().tolist() == [1, 0]
    assert answer.probability.ravel().tolist() == [1, 0]


def test_members_are_in_memory_one_at_a_time(tmp_path):
    method = build({"x": [0, 0], "y": [1, 1], "z": [0, 1]}, folds=2)
    method.fit([pair(name) for name in "abef"], [], tmp_path)
    method.predict(pair("q"))
    assert Constant.most <= 2  # the one that leaves and the one that comes


def test_stages_of_members_are_runs_of_their_own(tmp_path):
    """The same stage of two members learns from other patients: its curves are not one run's."""
    opened = []

    @contextlib.contextmanager
    def opens(name, tags):
        opened.append((name, tags["member"]))
        yield []

    class Staged(Constant):
        def fit(self, train, val, folder, context):
            assert context.held_out == {"tested"}
            with context.track("lesions", {"stage": "lesions"}):
                pass

    ensemble = EnsembleMethod(
        {"a": lambda: Staged([0.1, 0.9])}, folds=2, has_lesions=lambda subject: False
    )
    context = FitContext(frozenset({"tested"}), track=opens)
    ensemble.fit([pair("1"), pair("2")], [], tmp_path, context)
    names = ["a-fold0", "a-fold0-lesions", "a-fold1", "a-fold1-lesions"]
    assert [name for name, _ in opened] == names


def test_every_patient_validates_exactly_one_fold(tmp_path):
    method = build({"x": [0, 0]}, folds=2)
    method.fit([pair(name) for name in "abce"], [pair("d"), pair("f")], tmp_path)
    assert len(Constant.fitted) == 2
    for _, train, val in Constant.fitted:
        assert not set(train) & set(val)
        assert sorted(train + val) == sorted("abcdef")
    assert sorted(Constant.fitted[0][2] + Constant.fitted[1][2]) == sorted("abcdef")


def test_pairs_of_one_patient_stay_together():
    pairs = [pair("a1", "a"), pair("a2", "a"), pair("b1", "b"), pair("e1", "e")]
    for train, val in inner_folds(pairs, 2, lambda s: s.patient in "ab"):
        assert not {s.patient for s in train} & {s.patient for s in val}


def test_too_few_patients_with_lesions_train_every_member(caplog):
    parts = inner_folds([pair(name) for name in "aef"], 2, lambda s: s.id == "a")
    assert all("a" in {s.id for s in train} for train, _ in parts)
    assert "train all and validate none" in caplog.text


def test_a_saved_ensemble_answers_as_the_fitted_one(tmp_path):
    method = build({"x": [0.2, 0.9], "y": [0.4, 0.9]}, folds=2)
    method.fit([pair(name) for name in "abef"], [], tmp_path / "fit")
    method.save(tmp_path / "model")
    assert sorted(p.name for p in (tmp_path / "model" / "members").iterdir()) == [
        "x-fold0",
        "x-fold1",
        "y-fold0",
        "y-fold1",
    ]
    again = build({"x": [0, 0], "y": [0, 0]}, folds=2)
    again.load(tmp_path / "model")
    np.testing.assert_allclose(again.predict(pair("q")).probability.ravel(), [0.3, 0.9], atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "field", "known"),
    [
        ({"rule": "median"}, "ensemble.rule", "mean"),
        ({"rule": "median", "level": "binary"}, "ensemble.rule", "mean, majority"),
        ({"level": "logit"}, "ensemble.level", "probability, binary, view"),
        ({"level": ["view"]}, "ensemble.level", "probability, binary, view"),
        ({"rule": "majority"}, "ensemble.rule", "mean"),  # of maps there is no majority
        ({"level": "view"}, "ensemble.rule", "majority"),
    ],
    ids=str,
)
def test_an_unknown_choice_is_refused_with_the_known(settings, field, known):
    with pytest.raises(MssegError) as caught:
        build({"x": [0, 0]}, **settings)
    (problem,) = caught.value.problems
    assert (problem.field, problem.expected) == (field, known)
    assert problem.exit_code == ExitCode.CONFIG and problem.remedy.startswith(f"{field}=")


def test_an_ensemble_of_nothing_is_refused():
    with pytest.raises(ValueError):
        build({"x": [0, 0]}, folds=0)


def test_views_of_members_without_views_are_refused_before_anything_is_fitted(tmp_path):
    method = build({"x": [0, 0]}, level="view", rule="majority")
    with pytest.raises(MssegError, match="inference of x has no views") as caught:
        method.fit([pair("a"), pair("b")], [], tmp_path)
    assert caught.value.problems[0].expected == "probability, binary"
    assert not list(tmp_path.iterdir())


class Unsure(Constant):
    """A member that says how far its own answers differ."""

    def __init__(self, values, own):
        super().__init__(values)
        self.own = np.array(own, np.float32).reshape(2, 1, 1)

    def predict(self, subject):
        return dataclasses.replace(super().predict(subject), spread=self.own)


def test_the_spread_is_that_of_all_answers_of_all_members(tmp_path):
    """Members 0.2 and 0.8 differ by 0.3 from their mean; within them 0.4 adds up: sqrt(.09+.16)."""
    members = {
        "a": lambda: Unsure([0.2, 0.6], [0.4, 0.0]),
        "b": lambda: Unsure([0.8, 0.6], [0.4, 0.0]),
    }
    ensemble = EnsembleMethod(members, 1, lambda _: True)
    ensemble.fit([pair("x")], [], tmp_path)
    assert ensemble.predict(pair("y")).spread.ravel().tolist() == pytest.approx([0.5, 0.0])


def test_members_that_agree_have_no_spread_and_a_single_answer_has_none(tmp_path):
    def fitted(count, folder):
        members = {str(number): lambda: Constant([1 / 3, 0.7]) for number in range(count)}
        ensemble = EnsembleMethod(members, 1, lambda _: True)
        ensemble.fit([pair("x")], [], folder)
        return ensemble.predict(pair("y")).spread

    assert not fitted(5, tmp_path / "five").any()
    assert fitted(1, tmp_path / "one") is None


def test_each_fold_may_have_a_member_of_its_own(tmp_path):
    members = {"plain": lambda: Constant([0.0, 0.6]), "gated": lambda: Constant([0.0, 0.2])}
    names = ["plain", "plain", "plain", "gated"]
    ensemble = EnsembleMethod(members, 4, lambda _: True, of_fold=names)
    ensemble.fit([pair(name) for name in "abcd"], [], tmp_path)
    assert ensemble.names == ["plain-fold0", "plain-fold1", "plain-fold2", "gated-fold3"]
    assert [name for name, *_ in Constant.fitted] == ensemble.names
    assert len({validated for *_, validated in Constant.fitted}) == 4
    assert ensemble.predict(pair("y")).probability.ravel().tolist() == pytest.approx([0, 0.5])
    with pytest.raises(ValueError, match="3 members for 4 folds"):
        EnsembleMethod(members, 4, lambda _: True, of_fold=names[1:])
    with pytest.raises(MssegError) as caught:
        EnsembleMethod(members, 1, lambda _: True, of_fold=["other"])
    assert caught.value.exit_code == ExitCode.CONFIG
