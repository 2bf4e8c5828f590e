"""A working directory for commands whose words name no cache: what they prepare goes there."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def working_directory(tmp_path_factory):
    """Shared by a module's tests: a pair is prepared once for all of them."""
    return tmp_path_factory.mktemp("working_directory")


@pytest.fixture(autouse=True)
def in_working_directory(working_directory, monkeypatch):
    monkeypatch.chdir(working_directory)
