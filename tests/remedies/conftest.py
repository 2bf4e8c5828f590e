"""A finished run for the cases whose remedy is a command to it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def coarse_words(coarse_cohort) -> list[str]:
    """Arguments of a training of seconds: a small network, two steps, voxels of 6 mm."""
    return [
        "pre_unet",
        f"read.root={coarse_cohort}",
        "split=file",
        f"split.path={coarse_cohort / 'split.json'}",
        "preprocess=nonzero_zscore_native",
        "network.widths=[8,8,8]",
        "sample.size=[16,16,16]",
        "infer.size=16",
        "postprocess.rules.threshold.value=1.0",  # no false lesions, whose pictures take long
        "train.steps=2",
        "train.validate_every=1",
        "data.workers=1",
        "track=off",
    ]


@pytest.fixture(scope="session")
def coarse_run(coarse_words, tmp_path_factory) -> Path:
    """The folder in which ``msseg train`` was given these words; never changed, only copied."""
    from msseg_lightning.cli.main import main

    place = tmp_path_factory.mktemp("coarse_run")
    before = Path.cwd()
    os.chdir(place)
    try:
        assert main(["train", *coarse_words]) == 0
    finally:
        os.chdir(before)
    return place
