"""What a fit is told cannot be changed, and a method is known by what it can do."""

from __future__ import annotations

import dataclasses

import pytest

from msseg_lightning.core.method import NO_CONTEXT, FitContext, Method, untracked


def test_what_a_fit_is_told_cannot_be_changed():
    context = FitContext(held_out=frozenset({"p1"}))
    with pytest.raises(dataclasses.FrozenInstanceError):
        context.held_out = frozenset()
    assert FitContext(frozenset(), (), untracked) == NO_CONTEXT


def test_without_tracking_there_are_no_loggers():
    with NO_CONTEXT.track("member", {"member": "one"}) as loggers:
        assert loggers == ()


def test_a_method_can_do_all_four():
    class Rules:
        def fit(self, train, val, folder, context=NO_CONTEXT): ...

        def predict(self, subject): ...

        def save(self, folder): ...

    assert not isinstance(Rules(), Method)
    Rules.load = lambda self, folder: None
    assert isinstance(Rules(), Method)
