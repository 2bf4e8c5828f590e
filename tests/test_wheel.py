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


def test_the_wheel_marks_a_pair_without_a_trained_model(installed, tiny_cohort):
    for name in ("find_then_judge.zip", "find_then_judge.json"):
        assert (installed / "msseg_lightning" / "models" / name).exists()
    pair, mask = tiny_cohort / "003", installed.parent / "new.nii.gz"
    scans = [f"flair_time0{visit}_on_middle_space.nii.gz" for visit in (1, 2)]
    words = ["-t1", str(pair / scans[0]), "-t2", str(pair / scans[1]), "-o", str(mask)]
    words += ["--brain", str(pair / "brain_mask.nii.gz")]
    done = run(installed, "predict", *words, f"paths.cache={installed.parent / 'cache'}")
    assert "find_then_judge" in done.stdout and "mm3 of new lesions" in done.stdout
    side_car = json.loads((installed.parent / "new_msseg.json").read_text())
    assert side_car["packaged_model"].startswith("find_then_judge")
    assert any("smallest voxel edge" in text for text in side_car["warnings"])  # 3 mm


def test_it_lists_and_composes_outside_the_checkout(installed):
    cards = json.loads(run(installed, "list", "--json").stdout)
    assert "pre_unet" in {card["name"] for card in cards}
    assert "widths:" in run(installed, "show", "pre_unet", "read.root=data", "size=tiny").stdout
