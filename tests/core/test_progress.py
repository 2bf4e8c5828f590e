"""The progress bar does not change items and writes nothing to log files."""

from __future__ import annotations

import pytest

from msseg_lightning.core.progress import track


def test_every_item_comes_once_and_in_order(capsys):
    assert list(track([3, 1, 2], "counting", patience_s=0.0)) == [3, 1, 2]
    assert capsys.readouterr().err == ""


def test_an_error_in_the_work_comes_through():
    with pytest.raises(ZeroDivisionError):
        for item in track([1, 0], "dividing"):
            1 / item
