"""Output of ``msseg show`` without a data set."""

from __future__ import annotations

import pytest
import yaml

from msseg_lightning.cli.main import main
from msseg_lightning.core.problem import ExitCode
from msseg_lightning.run.config.preset_files import experiment_names


@pytest.mark.parametrize("experiment", experiment_names())
def test_every_experiment_is_shown_without_data(experiment, capsys):
    assert main(["show", experiment]) == ExitCode.OK
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["name"] == experiment and shown["card"]["id"]
    assert shown["read"]["root"] == "???"
    assert shown["data"]["reading"]["confirm_mirrored"] is False


def test_what_is_given_is_shown(capsys):
    words = ["pre_unet", "size=cpu", "read.root=scans", "train.steps=7"]
    assert main(["show", *words]) == ExitCode.OK
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["read"]["root"], shown["size"], shown["train"]["steps"]) == ("scans", "cpu", 7)


@pytest.mark.parametrize(
    "words, code, text",
    [
        ([], "config.missing", "read.root=VALUE"),
        (["read=table"], "config.missing", "read.manifest=VALUE"),
        (["trainer.compile=maybe"], "config.type", "true or false"),
    ],
)
def test_training_needs_what_has_no_default(words, code, text, capsys):
    assert main(["train", "pre_unet", *words]) == ExitCode.CONFIG
    error = capsys.readouterr().err
    assert f"[{code}]" in error and text in error
