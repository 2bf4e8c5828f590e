"""Tests of the report draw every lesion that it shows."""

import pytest

from msseg_lightning.report import run_page


@pytest.fixture(autouse=True)
def all_lesions_drawn(few_lesions_drawn, monkeypatch):
    monkeypatch.setattr(run_page, "select", few_lesions_drawn)
