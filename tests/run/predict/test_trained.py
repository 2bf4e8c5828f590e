"""A model folder from elsewhere: what is refused, before anything of it is built."""

from __future__ import annotations

import shutil
import sys

import pytest
import yaml

from msseg_lightning.cli.main import main
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.run.config.compose import compose_config
from msseg_lightning.run.predict.trained import changed_config, load_config, stored_config

CUDA = "msseg_lightning.train.task.torch.cuda.memory.CUDAPluggableAllocator"
HANDLER = "msseg_lightning.read.load.logging.FileHandler"


def attacks(victim):
    """Name of the form -> change of a configuration."""
    opened = {"_target_": HANDLER, "filename": str(victim), "mode": "w"}
    return {
        "re-exported module": {"postprocess": {"rules": {"a": opened}}},
        "submodule attribute": {"infer": {"_target_": CUDA, "path_to_so_file": "evil.so"}},
        "partial": {"method": {**opened, "_partial_": True}},
        "nested list": {"preprocess": {"steps": {"a": [[{"b": [opened]}]]}}},
        "interpolation": {"seed": "${oc.create:{_target_:os.mkdir,path:" + str(victim) + "2}}"},
        "class of a dependency": {
            "loss": {"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dir": str(victim)}
        },
        "side effects at import": {"network": {"_target_": "evil.Network"}},
        "tag": {},
    }


def hostile(folder, form, victim):
    """Put an attack of a form into the configuration of a folder."""
    file = folder / "config.yaml"
    config = yaml.safe_load(file.read_text())
    text = yaml.safe_dump({**config, **attacks(victim)[form]})
    if form == "tag":
        text += f"b: !!python/object/apply:os.remove [{victim}]\n"
    file.write_text(text)


@pytest.fixture
def victim(tmp_path, monkeypatch):
    """A file that is to stay; beside it a module that would change it when imported."""
    file = tmp_path / "victim.txt"
    file.write_text("whole")
    (tmp_path / "evil.py").write_text(f"open({str(file)!r}, 'w').close()\nclass Network: ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return file


@pytest.mark.parametrize("form", attacks("x"))
def test_a_foreign_folder_runs_nothing(form, trained_run, tiny_cohort, victim, tmp_path, capsys):
    """At predict from the model; at report and at train, which would continue it, from the run."""
    run = tmp_path / "runs" / "pre_unet" / trained_run.name
    shutil.copytree(trained_run, run)
    hostile(run / "model", form, victim)
    before = set(tmp_path.rglob("*"))
    scan = tiny_cohort / "003" / "flair_time01_on_middle_space.nii.gz"
    words = ["predict", str(run), "-t1", str(scan), "-t2", str(scan), "-o", "mask.nii.gz"]
    assert main(words) == ExitCode.SECURITY
    hostile(run, form, victim)
    assert main(["report", str(run)]) == ExitCode.SECURITY
    words = [f"read.root={tiny_cohort}", "split=file", f"split.path={tiny_cohort / 'split.json'}"]
    train = ["train", "pre_unet", *words, "size=tiny", "data.workers=1", "track=off"]
    assert main(train) == ExitCode.SECURITY
    assert victim.read_text() == "whole" and "evil" not in sys.modules
    assert set(tmp_path.rglob("*")) <= before
    capsys.readouterr()


@pytest.mark.parametrize(
    "change",
    [
        {"paths": {"cache": "/somewhere"}},
        {"uses": {"images.a/../../b": "stage"}},
        {"ensemble": {"folds": 1, "level": "probability", "rule": "mean", "configs": {"../x": {}}}},
        {"stages": {"../x": {}}},
        {"name": "../../x"},
    ],
    ids=str,
)
def test_a_model_that_names_a_place_is_refused(change, trained_run, tmp_path):
    saved = stored_config(trained_run / "model")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**saved, **change}))
    with pytest.raises(MssegError) as caught:
        load_config(tmp_path)
    assert caught.value.exit_code == ExitCode.SECURITY


def test_files_go_where_the_user_says(trained_run, tmp_path):
    """Not even a plain name is taken for a place, at any depth."""
    saved = stored_config(trained_run / "model")
    part = {key: saved[key] for key in ("preprocess", "method", "network", "loss", "train")}
    part |= {key: saved[key] for key in ("channels", "sample", "augment", "infer")}
    reader = {"_target_": "msseg_lightning.read.msseg2.Msseg2", "root": "theirs"}
    visits = {"_target_": "msseg_lightning.preprocess.visits.PreparedVisits", "steps": {}}
    visits |= {"folder": "theirs", "reader": reader}
    part |= {"paths": {"cache": "theirs"}, "read": reader}
    saved |= {
        "paths": {"cache": "theirs", "runs": "theirs"},
        "track": {"_target_": "msseg_lightning.track.tracking.Tracking", "folder": "theirs"},
        "read": reader,
        "sample": {**saved["sample"], "visits": visits},
        "stages": {"first": part},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(saved))
    assert "theirs" not in str({**load_config(tmp_path), "card": {}, "sizes": {}})
    mine = load_config(tmp_path, ["paths.cache=mine"])
    assert (
        mine["paths"]["cache"] == "mine" and mine["sample"]["visits"]["folder"] == "mine/prepared"
    )


@pytest.mark.parametrize("key", ["network", "preprocess", "train", "data", "method", "infer"])
@pytest.mark.parametrize("value", ["left out", 3])
def test_what_a_network_needs_must_be_there(key, value, trained_run, tmp_path):
    saved = stored_config(trained_run / "model")
    saved[key] = value
    if value == "left out":
        del saved[key]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(saved))
    with pytest.raises(MssegError) as caught:
        load_config(tmp_path)
    assert caught.value.exit_code == ExitCode.MODEL
    assert f"nothing usable under {key}" in str(caught.value)


@pytest.mark.parametrize(
    ("item", "value"),
    [
        ("postprocess.rules.threshold.value=2e-1", 0.2),
        ("postprocess.rules.threshold.value=.25", 0.25),
        ("+postprocess.rules.threshold.value=1", 1),
        ("postprocess.rules.threshold.strict=False", False),
        ("postprocess.rules.threshold=null", None),
        ("data.reading.label_values={255: 1}", {255: 1}),
        ("data.reading.trust='qform'", "qform"),
        ("infer.size=[8,8,16]", [8, 8, 16]),
    ],
)
def test_values_are_read_as_at_train(item, value, trained_run):
    found = changed_config(stored_config(trained_run / "model"), [item])
    for key in item.lstrip("+").partition("=")[0].split("."):
        found = found[key]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "item",
    [
        "postprocess.rules.threshold.value=high",
        "postprocess.rules.threshold.value='0.5'",
        "postprocess.rules.threshold.value=nan",
        "postprocess.rules.threshold.value=null",
        "postprocess.rules.threshold.value=true",
        "postprocess.rules.threshold.value=0.1,0.2",
        "postprocess.rules.threshold.strict=3",
        "postprocess.rules=3",
        "infer.level=3",
        "infer.overlap=[",
        "data.workers=two",
        "data=3",
        "infer",
    ],
)
def test_a_value_of_another_kind_is_refused(item, trained_run):
    with pytest.raises(MssegError) as caught:
        changed_config(stored_config(trained_run / "model"), [item])
    assert caught.value.exit_code == ExitCode.CONFIG
    assert all(problem.remedy for problem in caught.value.problems)


def test_a_class_given_as_a_setting_is_refused(trained_run):
    item = f"postprocess.rules.threshold._target_={HANDLER}"
    with pytest.raises(MssegError) as caught:
        changed_config(stored_config(trained_run / "model"), [item])
    assert caught.value.exit_code == ExitCode.SECURITY


@pytest.mark.parametrize(
    "name", ["bsi_subtraction", "bsi_lightgbm", "segresnet_ensemble", "tiramisu_2_5d"]
)
def test_a_system_holds_what_its_kind_needs(name, tmp_path):
    """No network, or members instead of one: of these no group may be asked for."""
    from msseg_lightning.run.train.mlflow_run import without_paths

    config = compose_config(["read.root=data", "size=tiny"], name)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(without_paths(config)))
    assert load_config(tmp_path)["name"] == name
    if config.get("ensemble"):
        member = next(iter(config["ensemble"]["configs"].values()))
        del member["loss"]
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(without_paths(config)))
        with pytest.raises(MssegError, match=r"ensemble\.configs\.\w+\.loss"):
            load_config(tmp_path)
