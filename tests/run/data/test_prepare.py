"""Parts prepared anywhere are what one process prepares; only what is missing is made."""

from __future__ import annotations

import shutil

import pytest

from msseg_lightning.cli.main import main
from msseg_lightning.core.problem import ExitCode
from msseg_lightning.run.config.compose import compose_config
from msseg_lightning.run.data.prepare import preprocessing_chains


@pytest.fixture
def prepare(coarse_cohort, tmp_path):
    """Runs the command on a copy of the cohort; gives the bytes of every file it left."""
    data = tmp_path / "tiny"
    shutil.copytree(coarse_cohort, data)

    def run(cache, *options):
        words = ["pre_unet", "preprocess=nonzero_zscore_native", f"read.root={data}"]
        words += ["data.workers=1", f"paths.cache={tmp_path / cache}"]
        code = main(["prepare", *words, *options])
        files = (path for path in sorted((tmp_path / cache).rglob("*")) if path.is_file())
        found = {
            str(path.relative_to(tmp_path / cache)): path.read_bytes()
            for path in files
            if not path.name.startswith(".")
        }
        return code, found

    run.data = data
    return run


def test_two_parts_are_the_whole(prepare):
    code, whole = prepare("one")
    assert code == ExitCode.OK and len({name.split("/")[1] for name in whole}) == 4
    code, half = prepare("two", "--shard", "1/2")
    assert code == ExitCode.OK and len({name.split("/")[1] for name in half}) == 2
    assert prepare("two", "--shard", "2/2") == (ExitCode.OK, whole)


def test_a_damaged_pair_is_listed_and_made_after_repair(prepare, capsys):
    scan = prepare.data / "002" / "flair_time02_on_middle_space.nii.gz"
    sound = scan.read_bytes()
    scan.write_bytes(sound[: len(sound) // 2])
    code, some = prepare("cache")
    assert code == ExitCode.PARTIAL
    assert "left out: 002" in capsys.readouterr().err
    folder = prepare.data.parent / "cache"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    scan.write_bytes(sound)
    code, everything = prepare("cache")
    assert code == ExitCode.OK and {name: everything[name] for name in some} == some
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert {path: after[path] for path in before if path.suffix == ".npy"} == {
        path: time for path, time in before.items() if path.suffix == ".npy"
    }
    assert {name.split("/")[1][:3] for name in everything.keys() - some} == {"002"}


def test_every_chain_of_an_experiment_is_prepared_once():
    config = compose_config(["read.root=x"], "pre_unet")
    other = {**config, "preprocess": {"steps": {}}}
    staged = {**config, "stages": {"a": other, "b": config}}
    assert [part["preprocess"] for part in preprocessing_chains(staged)] == [
        {"steps": {}},
        config["preprocess"],
    ]
    elsewhere = {**other, "read": {"root": "y"}}
    assert len(list(preprocessing_chains({**config, "stages": {"a": elsewhere}}))) == 1
