"""Mirrored copies and another threshold, at the last step of every kind of system."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from msseg_lightning.cli.main import main
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.run.assemble.system import number_of_maps
from msseg_lightning.run.config.compose import compose_config
from msseg_lightning.run.predict.operating_point import operated
from msseg_lightning.run.predict.switches import apply_switches, split_switches
from msseg_lightning.run.predict.trained import load_config
from tests.run.predict.test_model_zip import save


@pytest.mark.parametrize(
    ("experiment", "mirror", "maps"),
    [
        ("pre_unet", "left-right", 2),
        ("pre_unet", "all", 8),
        ("nnunet_pair_baseline", "left-right", 8),  # mirrored already
        ("residual_attention_unet_2d", "left-right", 3 * 2),  # slices of three planes
        ("deepscan_longitudinal", "left-right", 3 * 2),  # stages; each plane mirrored already
        ("deepscan_longitudinal", "all", 3 * 8),
        ("segresnet_ensemble", "all", 10 * 8),  # every member
        ("triplanar_unet", "left-right", 15 * 2),
    ],
)
def test_each_network_that_gives_the_map_sees_mirrored_copies(experiment, mirror, maps):
    config = compose_config(["read.root=."], experiment)
    changed = apply_switches(config, {"mirror": mirror})
    assert number_of_maps(changed) == maps
    assert config == compose_config(["read.root=."], experiment)
    assert changed["stages"] == config["stages"]


@pytest.mark.parametrize("value", ["0", "0.25", "1"])
@pytest.mark.parametrize("experiment", ["pre_unet", "segresnet_ensemble", "deepscan_longitudinal"])
def test_the_threshold_is_that_of_the_final_map(experiment, value):
    config = compose_config(["read.root=."], experiment)
    changed = apply_switches(config, {"threshold": value})
    assert changed["postprocess"]["rules"]["threshold"]["value"] == float(value)


@pytest.mark.parametrize(
    ("experiment", "switch"),
    [
        ("pre_unet", {"mirror": "both"}),
        ("pre_unet", {"threshold": "high"}),
        ("pre_unet", {"threshold": "nan"}),
        ("pre_unet", {"threshold": "1.1"}),
        ("bsi_subtraction", {"mirror": "all"}),
        ("bsi_subtraction", {"threshold": "0.3"}),
        ("ratio_roi_cnn", {"mirror": "all"}),  # boxes of candidates
    ],
)
def test_what_a_system_does_not_have_is_refused(experiment, switch):
    config = compose_config(["read.root=."], experiment)
    with pytest.raises(MssegError, match=r"predict\.switch") as caught:
        apply_switches(config, switch)
    assert caught.value.exit_code == ExitCode.CONFIG


def test_switches_are_told_from_settings():
    words = ["infer.overlap=0.5", "mirror=all", "read.root=/mirror=x", "threshold=0.2"]
    assert split_switches(words) == (
        ["infer.overlap=0.5", "read.root=/mirror=x"],
        {"mirror": "all", "threshold": "0.2"},
    )


def test_they_act_and_stand_in_the_side_car(tiny_cohort, tmp_path, capsys):
    words = ["preprocess=brain_zscore", "preprocess.steps.resample.spacing_mm=6.0"]
    model = save(tmp_path / "model", "pre_unet", *words, "infer.size=16")
    case = tiny_cohort / "003"
    scans = [str(case / f"flair_time0{visit}_on_middle_space.nii.gz") for visit in (1, 2)]
    words = ["predict", str(model), "-t1", scans[0], "-t2", scans[1]]
    words += ["--brain", str(case / "brain_mask.nii.gz"), "-o"]
    for name, more in {
        "plain": ["--probability", str(tmp_path / "p.nii.gz")],
        "low": ["--threshold", "0.01"],
        "mirror": ["--mirror", "left-right", "--probability", str(tmp_path / "m.nii.gz")],
    }.items():
        assert main([*words, str(tmp_path / f"{name}.nii.gz"), *more]) == ExitCode.OK
    masks = {
        name: np.asarray(nib.load(tmp_path / f"{name}.nii.gz").dataobj) for name in ("plain", "low")
    }
    probability = nib.load(tmp_path / "p.nii.gz").get_fdata(dtype=np.float32)
    np.testing.assert_array_equal(masks["low"], probability > np.float32(0.01))
    assert masks["low"].sum() > masks["plain"].sum()
    assert not np.array_equal(probability, nib.load(tmp_path / "m.nii.gz").get_fdata())
    for name, settings in {"low": ["threshold=0.01"], "mirror": ["mirror=left-right"]}.items():
        assert json.loads((tmp_path / f"{name}_msseg.json").read_text())["settings"] == settings
    assert main([*words, str(tmp_path / "x.nii.gz"), "--threshold", "2"]) == ExitCode.CONFIG
    assert "predict.switch" in capsys.readouterr().err


def test_a_given_threshold_wins_over_the_operating_point(tmp_path):
    (tmp_path / "operating_point.json").touch()
    config, point, told = operated(tmp_path, {"name": "x"}, ["threshold=0.3"], "auto")
    assert config == {"name": "x"} and point is None
    assert told == {"used": False, "why": "settings were given: threshold=0.3"}


def test_the_stored_settings_stay(tmp_path):
    model = save(tmp_path / "model", "pre_unet")
    before = (model / "config.yaml").read_bytes()
    assert load_config(model, ["mirror=all"])["infer"]["axes"] == [0, 1, 2]
    assert (model / "config.yaml").read_bytes() == before
