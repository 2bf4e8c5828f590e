"""Maps of how far a system's answers differ: by every command, refused where there is one."""

from __future__ import annotations

import csv
import json

import nibabel as nib
import numpy as np
import pytest
import yaml

from msseg_lightning.cli.main import main
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.run.assemble.system import build_method, number_of_maps
from msseg_lightning.run.config.compose import compose_config
from msseg_lightning.run.predict.uncertainty import require_uncertainty
from msseg_lightning.run.train.mlflow_run import without_paths


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Model folders of an untrained network: one pass, three passes, three that are equal."""
    place = tmp_path_factory.mktemp("models")
    words = ["size=tiny", "preprocess=brain_zscore", "preprocess.steps.resample.spacing_mm=6.0"]
    for name, experiment, more in (
        ("one", "softseg_modified_unet", []),
        ("passes", "softseg_attention_mc_dropout", []),
        ("equal", "softseg_attention_mc_dropout", ["network.dropout=0.0"]),
    ):
        chosen = [word for word in words if not word.startswith("size")]
        sizes = compose_config(["read.root=unknown", "size=tiny"], experiment)
        small = [f"sample.size={sizes['sample']['size']}", "network.width=2", "data.workers=1"]
        small += ["infer.size=32"] if name == "one" else ["infer.window.size=32", "infer.passes=3"]
        config = compose_config(["read.root=unknown", *chosen, *small, *more], experiment)
        build_method(config).save(place / name)
        text = yaml.safe_dump(without_paths(config), sort_keys=False)
        (place / name / "config.yaml").write_text(text)
    return place


@pytest.fixture
def predict(models, tiny_cohort, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    case = tiny_cohort / "003"
    scans = [str(case / f"flair_time0{visit}_on_middle_space.nii.gz") for visit in (1, 2)]

    def run(model, *words):
        where = ["-t1", scans[0], "-t2", scans[1], "--brain", str(case / "brain_mask.nii.gz")]
        return main(["predict", str(models / model), *where, "-o", "new.nii.gz", *words])

    return run


def values(file):
    return np.asarray(nib.load(file).dataobj)


def test_the_map_lies_on_the_follow_up_s_grid_and_in_the_side_car(predict, tiny_cohort, tmp_path):
    assert predict("passes", "--uncertainty", "u.nii.gz") == ExitCode.OK
    scan = nib.load(tiny_cohort / "003" / "flair_time02_on_middle_space.nii.gz")
    found = nib.load("u.nii.gz")
    assert found.shape == scan.shape
    np.testing.assert_allclose(found.affine, scan.affine, atol=1e-5)
    spread = values("u.nii.gz")
    brain = values(tiny_cohort / "003" / "brain_mask.nii.gz") > 0
    assert spread.dtype == np.float32 and spread.min() == 0 and 0.05 < spread.max() <= 0.5
    assert spread[brain].mean() > 2 * spread[~brain].mean()
    record = json.loads((tmp_path / "new_msseg.json").read_text())
    assert set(record["files"]) == {"new.nii.gz", "u.nii.gz"}
    mean = spread[values("new.nii.gz") > 0].mean()
    assert record["uncertainty"]["mean_in_mask"] == pytest.approx(mean, abs=1e-3)
    assert "standard deviation" in record["uncertainty"]["is"]


def test_it_is_0_where_all_answers_agree(predict):
    assert predict("equal", "--uncertainty", "u.nii.gz") == ExitCode.OK
    assert not values("u.nii.gz").any() and values("new.nii.gz").any()


def test_without_the_option_no_map_is_written(predict, tmp_path):
    assert predict("passes") == ExitCode.OK
    assert sorted(file.name for file in tmp_path.glob("*.nii.gz")) == ["new.nii.gz"]


def test_a_system_with_one_answer_is_refused_and_others_are_named(predict, tmp_path, capsys):
    assert predict("one", "--uncertainty", "u.nii.gz") == ExitCode.CONFIG
    error = capsys.readouterr().err
    assert "predict.one_answer" in error and "softseg_attention_mc_dropout" in error
    assert not list(tmp_path.iterdir())
    assert predict("one") == ExitCode.OK


def test_a_file_of_somebody_else_is_never_overwritten(predict, tmp_path, capsys):
    (tmp_path / "u.nii.gz").write_bytes(b"a scan")
    assert predict("passes", "--uncertainty", "u.nii.gz") == ExitCode.CONFIG
    assert "output.overwrites" in capsys.readouterr().err
    assert (tmp_path / "u.nii.gz").read_bytes() == b"a scan"
    assert predict("passes", "--uncertainty", "new.nii.gz") == ExitCode.CONFIG  # one with the mask
    assert predict("passes", "--uncertainty", "v.nii.gz") == ExitCode.OK
    assert predict("passes", "--uncertainty", "v.nii.gz") == ExitCode.OK  # its own


def test_a_table_and_a_data_set_have_a_map_beside_each_mask(models, tiny_cohort, tmp_path):
    case = tiny_cohort / "003"
    names = [f"flair_time0{visit}_on_middle_space.nii.gz" for visit in (1, 2)]
    cells = ["one", *(str(case / name) for name in (*names, "brain_mask.nii.gz")), "own/mask.nii"]
    table = tmp_path / "pairs.csv"
    with table.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["id", "baseline_flair", "followup_flair", "brain", "output"])
        rows.writerow(cells)
    (tmp_path / "own").mkdir()
    cache = f"paths.cache={tmp_path / 'cache'}"
    words = ["predict", str(models / "passes"), "--folder", str(tmp_path / "t"), cache]
    assert main([*words, "--table", str(table)]) == ExitCode.OK
    assert not (tmp_path / "own" / "mask_uncertainty.nii.gz").exists()
    # asked for afterwards it is made, although the mask is there
    assert main([*words, "--table", str(table), "--uncertainty"]) == ExitCode.OK
    first = values(tmp_path / "own" / "mask_uncertainty.nii.gz")
    manifest = tmp_path / "bare.csv"
    manifest.write_text(table.read_text().replace(",output", "").replace(",own/mask.nii", ""))
    words = ["predict", str(models / "passes"), "--folder", str(tmp_path / "set"), cache]
    data = ["read=table", f"read.manifest={manifest}", "read.root=/"]
    assert main([*words, "--uncertainty", *data]) == ExitCode.OK
    np.testing.assert_array_equal(values(tmp_path / "set" / "one_uncertainty.nii.gz"), first)
    record = json.loads((tmp_path / "set" / "one_msseg.json").read_text())
    assert "one_uncertainty.nii.gz" in record["files"]
    words[1] = str(models / "one")
    assert main([*words, "--uncertainty", *data]) == ExitCode.CONFIG


def test_a_name_is_for_one_pair_alone(models, predict, capsys):
    with pytest.raises(SystemExit, match="2"):
        predict("passes", "--uncertainty")
    words = ["predict", str(models / "passes"), "--table", "pairs.csv"]
    with pytest.raises(SystemExit, match="2"):
        main([*words, "--uncertainty", "u.nii.gz"])
    assert "stands alone" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("experiment", "maps"),
    [
        ("softseg_modified_unet", 1),
        ("bsi_subtraction", 1),
        ("softseg_attention_mc_dropout", 20),
        ("softseg_unet_ensemble", 4),
        ("residual_attention_unet_2d", 3),  # views
        ("triplanar_unet", 15),  # views of five folds
        ("antialiased_unet_ensemble", 40),  # flips of five folds
        ("segresnet_ensemble", 10),
    ],
)
def test_answers_of_members_views_flips_and_passes_count(experiment, maps):
    assert number_of_maps(compose_config(["read.root=."], experiment)) == maps


def test_what_is_refused_names_the_system():
    config = {"name": "rules", "infer": None}
    with pytest.raises(MssegError, match="rules has a single output") as caught:
        require_uncertainty(config)
    assert caught.value.exit_code == ExitCode.CONFIG
