"""The table of keys states owners and whether they affect results."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.run.assemble.system import build_method
from msseg_lightning.run.config import keys
from msseg_lightning.run.config.compose import compose_config
from msseg_lightning.run.config.preset_files import conf_dir, experiment_names
from msseg_lightning.run.folder import RunFolder, result_settings
from msseg_lightning.run.sweep.command import key_in
from msseg_lightning.run.train.mlflow_run import tracked_settings

PACKAGE = Path(keys.__file__).parents[1]

SHOWN_FIRST = ("always: ", "ALWAYS_TRACKED = ")
"""What MLflow shows first; decides nothing."""


def composed(*words, experiment="metric_learning_unet"):
    return compose_config(["read.root=.", "size=tiny", *words], experiment)


def test_every_root_key_of_the_configuration_is_in_the_table():
    content = yaml.safe_load((conf_dir() / "config.yaml").read_text(encoding="utf-8"))
    groups = {
        key.split()[-1] for entry in content.pop("defaults") if entry != "_self_" for key in entry
    }
    assert {*content, *groups} <= set(keys.KEYS)


@pytest.mark.parametrize("name", experiment_names())
def test_every_root_key_of_an_experiment_and_its_stages_is_in_the_table(name):
    config = compose_config(["read.root=."], name)
    inside = [
        *config["stages"].values(),
        *((config["ensemble"] or {}).get("configs") or {}).values(),
    ]
    assert {key for part in (config, *inside) for key in part} <= set(keys.KEYS)


def test_no_other_list_of_root_keys_remains():
    roots = {key for key in keys.KEYS if "." not in key}
    found = []
    for path in PACKAGE.rglob("*.py"):
        if path.name == "keys.py":
            continue
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if not isinstance(node, ast.Tuple | ast.List | ast.Set):
                continue
            texts = [one.value for one in node.elts if isinstance(one, ast.Constant)]
            names = {str(text).split(".")[0] for text in texts}
            line = text.splitlines()[node.lineno - 1]
            if any(name in line for name in SHOWN_FIRST):
                continue
            if len(names) >= 3 and len(texts) == len(node.elts) and names <= roots:
                found.append(f"{path.relative_to(PACKAGE)}:{node.lineno} {sorted(names)}")
    assert not found


REUSED = [
    "trainer.accelerator=cpu",
    "trainer.compile=true",
    "trainer.strategy=ddp",
    "profile=true",
    "data.workers=7",
    "paths.runs=elsewhere",
    "track=off",
    "postprocess=threshold_0_5_min_2_voxels",
]
FITTED_AGAIN = [
    "trainer.precision=bf16-mixed",
    "trainer.precision=16-mixed",
    "data.reading.strict=true",
    "seed=3",
    "train.clip_norm=0.5",
    "stages.metric.train.batch_size=3",
]


def stages(*words):
    words = ("trainer.precision=32-true", *words)
    return [stage.settings for stage in build_method(composed(*words)).stages]


@pytest.mark.parametrize("word", REUSED)
def test_a_fitted_stage_is_used_again_where_only_the_run_differs(word):
    assert stages(word) == stages()


@pytest.mark.parametrize("word", FITTED_AGAIN)
def test_a_stage_fitted_with_other_numbers_is_not_used_again(word):
    assert stages(word) != stages()


def test_batch_statistics_over_devices_count_where_there_are_several():
    assert stages("trainer.sync_batchnorm=true") == stages()
    two = "trainer.devices=2", "train.accumulate=1"
    assert stages(*two, "trainer.sync_batchnorm=true") != stages(*two)


@pytest.mark.parametrize("word", ["trainer.precision=bf16-mixed", "trainer.precision=16-mixed"])
def test_a_run_is_not_continued_in_another_precision(word, tmp_path):
    folder = RunFolder(tmp_path)
    folder.claim_config(composed("trainer.precision=32-true"))
    (tmp_path / "fit").mkdir()
    (tmp_path / "fit" / "last.ckpt").touch()
    folder.claim_config(composed("trainer.precision=32-true", "trainer.accelerator=cpu"))
    with pytest.raises(MssegError) as caught:
        folder.claim_config(composed(word))
    assert caught.value.exit_code == ExitCode.MODEL
    assert caught.value.problems[0].field == "trainer.precision"


def test_a_run_keeps_the_precision_that_auto_stood_for(tmp_path):
    folder = RunFolder(tmp_path)
    folder.claim_config(composed("trainer.accelerator=cpu"))
    assert folder.config()["trainer"]["precision"] == "32-true"
    assert result_settings(folder.config()) == result_settings(
        composed("trainer.precision=32-true")
    )


def test_every_setting_follows_the_longest_entry_it_lies_below():
    assert keys.affects_result("trainer.precision") and not keys.affects_result("trainer.devices")
    assert keys.affects_result("data.reading.strict") and not keys.affects_result("data.workers")
    assert not keys.affects_result("card.idea") and not keys.affects_result("paths.cache")
    assert keys.affects_result("unknown.key")


def test_processes_of_one_search_agree_in_what_decides():
    words = ["trainer.precision=16-mixed", "trainer.devices=2", "+data.reading.strict=true"]
    words += ["track=off", "paths.cache='a b'", "/loss=dice"]
    kept = [word for word in words if keys.affects_result(key_in(word))]
    assert kept == ["trainer.precision=16-mixed", "+data.reading.strict=true", "/loss=dice"]


def test_a_changed_precision_is_tracked_and_devices_are_not():
    found = tracked_settings(composed("trainer.precision=16-mixed", "trainer.compile=true"))
    assert found["trainer.precision"] == "16-mixed" and "trainer.compile" not in found
