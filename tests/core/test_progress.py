"""The progress bar does not change items and writes nothing to log files."""

from __future__ import annotations

import time

import pytest

from msseg_lightning.core.progress import stage, track


def test_every_item_comes_once_and_in_order(capsys):
    assert list(track([3, 1, 2], "counting", patience_s=0.0)) == [3, 1, 2]
    assert capsys.readouterr().err == ""


def test_an_error_in_the_work_comes_through():
    with pytest.raises(ZeroDivisionError):
        for item in track([1, 0], "dividing"):
            1 / item


def test_long_work_says_what_it_waits_for_and_short_work_nothing(caplog):
    caplog.set_level("INFO")
    with stage("reading", patience_s=0.01):
        time.sleep(0.1)
    with stage("writing", patience_s=10):
        pass
    time.sleep(0.02)
    assert caplog.messages == ["reading ..."]
