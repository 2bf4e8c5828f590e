"""What a stage's identity takes in of the program, and what it leaves out."""

import shutil

import pytest

from msseg_lightning.run.assemble import code
from msseg_lightning.run.assemble.code import BUILD_MODULE, code_hash, modules_of
from msseg_lightning.run.assemble.system import build_method
from msseg_lightning.run.config.compose import compose_config

UNET = {"network": {"_target_": "msseg_lightning.network.unet.UNet"}}
BOOSTER = {"method": {"_target_": "msseg_lightning.method.bsi_lightgbm.BsiLightGbm"}}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package that may be changed; the hash is taken of it."""
    folder = tmp_path / "msseg_lightning"
    shutil.copytree(code.PACKAGE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "PACKAGE", folder)
    yield folder
    forget()


def forget():
    for kept in (code._affects_result, code._content, code._imports, code._data_files):
        kept.cache_clear()


def append(file, text="\nADDED = 1\n"):
    before = file.read_text() if file.exists() else ""
    file.write_text(before + text)
    forget()


def test_an_added_module_changes_no_hash_of_what_does_not_name_it(package):
    forget()
    before = code_hash(UNET), code_hash(BOOSTER)
    append(package / "network" / "another_network.py")
    append(package / "method" / "another_method.py", "import msseg_lightning.network.unet\n")
    assert (code_hash(UNET), code_hash(BOOSTER)) == before


@pytest.mark.parametrize(
    "changed",
    [
        "network/unet.py",  # named
        "network/blocks.py",  # imported by what is named
        "core/random.py",  # imported by what assembles
        "run/assemble/system.py",  # seeds the weights
        "train/training.py",  # imported inside a function of what assembles
    ],
)
def test_a_change_of_what_is_named_imported_or_seeds_changes_the_hash(package, changed):
    forget()
    before = code_hash(UNET)
    append(package / changed)
    assert code_hash(UNET) != before


@pytest.mark.parametrize("changed", ["network/fc_densenet.py", "cli/main.py", "run/folder.py"])
def test_a_change_elsewhere_leaves_the_hash(package, changed):
    forget()
    before = code_hash(UNET)
    append(package / changed)
    assert code_hash(UNET) == before


def test_numbers_beside_a_module_count(package):
    forget()
    named = {"sample": {"_target_": "msseg_lightning.simulate.lesion_prior.statistics.LesionPrior"}}
    before = code_hash(named)
    (package / "simulate" / "lesion_prior" / "open_ms.npz").write_bytes(b"other numbers")
    forget()
    assert code_hash(named) != before


def test_targets_count_at_any_depth_and_trackers_do_not():
    nested = {"a": [{"b": {"terms": UNET}}], "track": {"_target_": "msseg_lightning.track.x.X"}}
    assert modules_of(nested) == modules_of(UNET)
    assert "msseg_lightning.network.unet" not in modules_of({}, (BUILD_MODULE,))


def test_imports_for_type_checking_alone_are_left_out(package):
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from {0} import x\n"
    append(package / "network" / "a.py", text.format("msseg_lightning.network.fc_densenet"))
    named = {"_target_": "msseg_lightning.network.a.A"}
    assert "msseg_lightning.network.fc_densenet" not in modules_of(named)
    append(package / "network" / "a.py", "else:\n    import msseg_lightning.network.fc_densenet\n")
    assert "msseg_lightning.network.fc_densenet" in modules_of(named)


def test_a_stage_keeps_its_identity_where_only_another_stage_names_what_changed(package):
    config = compose_config(("read.root=none", "size=tiny"), "metric_learning_unet")
    forget()
    before = build_method(config)
    only_last = set(modules_of(before.settings)) - set(modules_of(before.stages[0].settings))
    changed = next(name for name in sorted(only_last) if ".postprocess." not in name)
    append(package.joinpath(*changed.split(".")[1:]).with_suffix(".py"))
    after = build_method(config)
    assert after.stages[0].code == before.stages[0].code
    assert after.code != before.code
