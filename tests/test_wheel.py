"""An installed wheel works from any folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel's content, unpacked where no checkout is near."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(site, *words):
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-m", "msseg_lightning", *words]
    return subprocess.run(
        command, cwd=site.parent, env=environment, capture_output=True, text=True, check=True
    )


def test_the_wheel_carries_all_that_is_not_code(installed):
    package = installed / "msseg_lightning"
    assert (package / "conf" / "config.yaml").exists()
    names = {path.stem for path in (package / "experiments").glob("*.yaml")}
    assert names == {path.stem for path in (CHECKOUT / "experiments").glob("*.yaml")}
    for name in ("report/report.css", "report/report.js"):
        assert (package / name).exists()
    shipped = {p.name for p in (package / "simulate" / "lesion_prior").iterdir()}
    assert shipped >= {
        p.name for p in (CHECKOUT / "msseg_lightning/simulate/lesion_prior").glob("*.*")
    }


def test_it_lists_and_composes_outside_the_checkout(installed):
    cards = json.loads(run(installed, "list", "--json").stdout)
    assert "pre_unet" in {card["name"] for card in cards}
    assert "widths:" in run(installed, "show", "pre_unet", "read.root=data", "size=tiny").stdout
