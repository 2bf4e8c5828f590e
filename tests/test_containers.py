"""Containers keep the contract of the challenge: -t1 -t2 -o, not root, on CPUs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nibabel as nib
import pytest

from msseg_lightning import __version__
from msseg_lightning.cli.main import main
from msseg_lightning.core.problem import ExitCode
from msseg_lightning.run.predict.model_zip import write_zip
from tests.run.predict.test_model_zip import save

CONTAINERS = Path(__file__).parents[1] / "containers"
DESCRIPTOR = CONTAINERS / "boutiques.json"


def command():
    """What the image runs, without the program's name."""
    text = (CONTAINERS / "Dockerfile").read_text()
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)
    program, *words = json.loads(entry)
    assert program == "msseg"
    return words


def test_all_recipes_run_the_same_command():
    line = " ".join(["msseg", *command()])
    assert f"exec {line} " in (CONTAINERS / "apptainer.def").read_text()
    assert json.loads(DESCRIPTOR.read_text())["command-line"].startswith(f"{line} [BASELINE]")


def test_the_image_is_not_run_by_root_and_copies_what_exists():
    text = (CONTAINERS / "Dockerfile").read_text()
    user = re.findall(r"^USER (.*)$", text, re.MULTILINE)
    assert user == ["1000"] and text.index("USER 1000") < text.index("ENTRYPOINT")
    recipe = (CONTAINERS / "apptainer.def").read_text()
    copied = [name for line in re.findall(r"^COPY (\w.*)$", text, re.MULTILINE)
              for name in line.split()[:-1]]  # fmt: skip
    for name in copied:
        assert (CONTAINERS.parent / name).exists() and f"\n    {name} /src/" in recipe


def test_the_command_keeps_the_contract(coarse_cohort, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_zip(save(tmp_path / "model", "bsi_subtraction"), tmp_path / "system.zip")
    words = [word.replace("/opt/msseg/", "").replace("/tmp/msseg", "cache") for word in command()]
    case = coarse_cohort / "003"
    scans = [str(case / f"flair_time0{visit}_on_middle_space.nii.gz") for visit in (1, 2)]
    words += ["-t1", scans[0], "-t2", scans[1], "-o", "new.nii.gz"]
    assert main([*words, "--brain", str(case / "brain_mask.nii.gz")]) == ExitCode.OK
    assert nib.load("new.nii.gz").shape == nib.load(scans[1]).shape


def test_the_descriptor_names_options_that_exist(capsys):
    descriptor = json.loads(DESCRIPTOR.read_text())
    assert descriptor["tool-version"] == __version__
    with pytest.raises(SystemExit):
        main(["predict", "--help"])
    said = capsys.readouterr().out
    flags = {one["command-line-flag"] for one in descriptor["inputs"]}
    assert {"-t1", "-t2", "-o"} <= flags
    assert all(re.search(rf"(?<!\S){flag}\b", said) for flag in flags)
    keys = re.findall(r"\[[A-Z]+\]", descriptor["command-line"])
    assert keys == [one["value-key"] for one in descriptor["inputs"]]
    required = {one["id"] for one in descriptor["inputs"] if not one.get("optional")}
    assert required == {"baseline", "followup", "output"}


def test_the_descriptor_is_valid_by_its_own_tool():
    validator = pytest.importorskip(
        "boutiques.validator", reason="boutiques is not installed: pip install boutiques"
    )
    validator.validate_descriptor(json.loads(DESCRIPTOR.read_text()))
