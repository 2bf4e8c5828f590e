"""Each experiment goes from files to a tracked, reported prediction, by the real command."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import sqlite3
from unittest import mock

import nibabel as nib
import numpy as np
import pytest

from msseg_lightning.cli.main import main
from msseg_lightning.core.problem import ExitCode
from msseg_lightning.method.ensemble import EnsembleMethod
from msseg_lightning.method.network_method import NetworkMethod
from msseg_lightning.method.staged import StagedMethod
from msseg_lightning.read.msseg2 import Msseg2
from msseg_lightning.run.assemble.system import build_method, number_of_maps
from msseg_lightning.run.config.compose import compose_config
from msseg_lightning.run.config.preset_files import experiment_names
from msseg_lightning.run.config.setting_checks import leaves
from msseg_lightning.run.folder import RunFolder
from msseg_lightning.run.train import experiment
from tests.contracts import check_batches, check_fit, check_method

SPACINGS = ("preprocess.steps.resample.spacing_mm", "preprocess.steps.atlas.spacing_mm")
"""Settings of the working grid, whose voxels are made as large as those of the scans."""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder in which all experiments share a cache and a tracking store."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def listed():
    """The words that ``msseg list`` prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(["list"]) == ExitCode.OK
    return out.getvalue().split()


@pytest.mark.parametrize("name", experiment_names())
def test_an_experiment_runs_to_its_report(
    name, workplace, tiny_cohort, coarse_cohort, listed, monkeypatch, capsys
):
    # where candidates are judged some must be true: none is in voxels of 6 mm
    cohort = tiny_cohort if name == "ratio_roi_cnn" else coarse_cohort
    monkeypatch.chdir(workplace)
    words = [
        "train",
        name,
        f"read.root={cohort}",
        "split=file",
        f"split.path={cohort / 'split.json'}",
        "track=mlflow_plain_ids",
        "data.workers=1",
        "size=tiny",
    ]
    config = compose_config(words[2:], name)
    # all windows, and none twice: that they overlap well is looked at where windows are tested
    words += ["infer.overlap=0"] if "overlap" in (config.get("infer") or {}) else []
    words += [f"{key}=6.0" for key in SPACINGS if isinstance(leaves(config).get(key), float)]
    with watched_fit(workplace) as fitted:
        assert main(words) == ExitCode.OK, capsys.readouterr().err
    (run,) = (workplace / "runs" / name).glob(f"{cohort.name}*")
    scores = json.loads((run / "scores.json").read_text())
    assert set(scores["cases"]) == {"003", "004"}
    assert scores["protocol"].startswith("MSSEG-2")
    for case in scores["cases"]:
        mask = nib.load(run / "predictions" / f"{case}.nii.gz")
        scan = nib.load(cohort / case / "flair_time02_on_middle_space.nii.gz")
        assert mask.shape == scan.shape
        np.testing.assert_allclose(mask.affine, scan.affine, atol=1e-5)
        assert set(np.unique(mask.dataobj)) <= {0, 1}
        side_car = run / "predictions" / f"{case}_msseg.json"
        assert json.loads(side_car.read_text())["system"] == name
    report = (run / "report.html").read_text(encoding="utf-8")
    assert "Research use only" in report
    several = number_of_maps(RunFolder(run).config()) > 1
    assert (run / "predictions" / "003_uncertainty.nii.gz").is_file() == several
    assert ("Mean uncertainty" in report) == several
    with sqlite3.connect(workplace / "mlruns" / "mlflow.db") as store:
        rows = store.execute(
            "select r.status from runs r join tags t on t.run_uuid = r.run_uuid "
            "where t.key = 'system' and t.value = ?",
            (name,),
        ).fetchall()
    assert len(rows) >= 2 and set(rows) == {("FINISHED",)}  # the run, its fold, stages, members
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "finished"
    check_predictions(run, cohort, workplace / f"{name}-predictions")
    check_contracts(run, *fitted, coarse_cohort, workplace / f"{name}-contract")
    assert main(["report", str(run), "--output", f"{name}.html"]) == ExitCode.OK
    assert "Research use only" in (workplace / f"{name}.html").read_text(encoding="utf-8")
    assert name in listed
    capsys.readouterr()
    assert main(["show", name]) == ExitCode.OK and f"name: {name}" in capsys.readouterr().out


@contextlib.contextmanager
def watched_fit(workplace):
    """Holds the run's one fit to the contract of methods; gives a list of the method it fitted."""
    fitted = []

    def build_watched(config):
        method = build_method(config)
        fit = method.fit

        def watched(train, val, folder, context):
            fitted.append(method)
            runs = folder.absolute().parents[
                1
            ]  # where the run and its tracking keep records meanwhile
            check_fit(fit, train, val, folder, context, workplace, [runs, *shared])

        method.fit = watched
        return method

    shared = [workplace / "mlruns", workplace / "cache"]
    with mock.patch.object(experiment, "build_method", build_watched):
        yield fitted
    assert len(fitted) == 1


def check_contracts(run, fitted, cohort, place):
    """The method answers as all must, and so do the loaders of its networks."""
    config = RunFolder(run).config()
    (pair,) = (pair for pair in Msseg2(cohort).subjects() if pair.id == "003")
    place.mkdir()
    make = functools.partial(build_method, config)
    check_method(make, run / "model", pair, place, place.parent / "cache")
    for network in networks(fitted):
        (prepared,) = network.cache.prepare([pair])
        for image in network.derived:
            prepared = image.add(prepared)
        more = {} if network.visits is None else {"visits": network.visits}
        loader = functools.partial(network.patches, [prepared], **more)
        check_batches(loader, [prepared], len(network.channels.targets))


def networks(method):
    """The networks of a fitted system that predict: those of members too."""
    if isinstance(method, NetworkMethod):
        yield method
    elif isinstance(method, StagedMethod):
        yield from networks(method.last)
    elif isinstance(method, EnsembleMethod):
        for name, make in method.members.items():
            member = make()
            member.load(next(method.models.glob(f"{name}-fold*")) / "model")
            if not isinstance(member, StagedMethod):  # its loaders may need networks of stages
                yield from networks(member)


def check_predictions(run, cohort, out):
    """Bare files, a table and a data set give mask, map and scores of the run itself."""
    case = "003"  # of the held-out pairs the one with new lesions
    place = cohort / case
    scans = [f"flair_time0{visit}_on_middle_space.nii.gz" for visit in (1, 2)]
    out.mkdir()
    bare = out / "bare.nii.gz"
    words = [str(place / scan) for scan in scans]
    words = ["-t1", words[0], "-t2", words[1], "--brain", str(place / "brain_mask.nii.gz")]
    words += ["-o", str(bare), "--probability", str(out / "bare_probability.nii.gz")]
    assert main(["predict", str(run), *words]) == ExitCode.OK
    header = "id,baseline_flair,followup_flair,brain,new_lesions\n"
    cells = [f"{case}/{name}" for name in (*scans, "brain_mask.nii.gz", "ground_truth.nii.gz")]
    (out / "pairs.csv").write_text(header + ",".join(["one", *cells]) + "\n")
    (out / "bare.csv").write_text(
        header.replace(",new_lesions", "")
        + ",".join(["one", *(f"{cohort}/{cell}" for cell in cells[:3])])
        + "\n"
    )
    words = ["--table", str(out / "bare.csv"), "--folder", str(out / "table")]
    assert main(["predict", str(run), *words]) == ExitCode.OK
    words = ["read=table", f"read.manifest={out / 'pairs.csv'}", f"read.root={cohort}"]
    assert main(["predict", str(run), "--folder", str(out / "set"), *words]) == ExitCode.OK

    ways = ("bare", "table/one", "set/one")
    own = voxels(run / "predictions" / f"{case}.nii.gz")
    maps = [out / f"{way}_probability.nii.gz" for way in ("bare", "set/one")]
    for way in ways:
        np.testing.assert_array_equal(voxels(out / f"{way}.nii.gz"), own)
    if not any(file.exists() for file in maps):  # rules alone
        assert own.any()
        maps = []
    for file in maps:  # not empty where a mask may be
        np.testing.assert_array_equal(voxels(file), voxels(maps[0]))
    scores = json.loads((run / "scores.json").read_text())["cases"][case]["official"]
    of_set = json.loads((out / "set" / "scores.json").read_text())["cases"]["one"]["official"]
    words = [str(bare), str(place / "ground_truth.nii.gz"), "--json", str(out / "scores.json")]
    assert main(["evaluate", *words]) == ExitCode.OK
    (of_files,) = json.loads((out / "scores.json").read_text())
    assert of_set == of_files["official"] == scores


def voxels(file):
    """The numbers of a mask or map."""
    return np.asarray(nib.load(file).dataobj)
