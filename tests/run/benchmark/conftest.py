"""Fixtures of the tests of benchmarks."""

from __future__ import annotations

import copy
import functools

import pytest

from msseg_lightning.run.benchmark import plan
from tests.run.benchmark.toy import toy  # noqa: F401  (a fixture)


@pytest.fixture(autouse=True)
def composed_once(monkeypatch):
    """Configurations differ in the folder of their runs only; composing one takes 0.3 s."""

    def compose(words=(), experiment=None, complete=True):
        runs = [word.split("=")[1].strip("'") for word in words if word.startswith("paths.runs=")]
        rest = tuple(word for word in words if not word.startswith("paths.runs="))
        config = copy.deepcopy(composed(rest, experiment, complete))
        if runs:
            config["paths"]["runs"] = runs[-1]
        return config

    monkeypatch.setattr(plan, "compose_config", compose)


@functools.cache
def composed(words, experiment, complete):
    from msseg_lightning.run.config.compose import compose_config

    return compose_config(words, experiment, complete)
