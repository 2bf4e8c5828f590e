import stat
import subprocess
import sys

import pytest
from sqlalchemy.engine import make_url

import msseg_lightning.track.store as store_module
from msseg_lightning.track.store import (
    DATABASE,
    ensure_experiment,
    ensure_store,
    open_client,
    store_folder,
    store_uri,
    sync_command,
    without_password,
)


def test_store_is_private_and_absolute(migrated_store):
    uri = ensure_store(migrated_store)
    assert uri == f"sqlite:///{(migrated_store / DATABASE).resolve()}"
    assert stat.S_IMODE(migrated_store.stat().st_mode) == 0o700
    assert stat.S_IMODE((migrated_store / DATABASE).stat().st_mode) == 0o600
    default = open_client(uri).get_experiment("0")
    assert default.artifact_location == f"{(migrated_store / 'artifacts').as_uri()}/0"
    assert store_folder(uri) == migrated_store.resolve()
    assert store_folder("http://127.0.0.1:5000") is None


@pytest.mark.parametrize("name", ["ru%41n", "run#1", "a?b", "a folder"])
def test_the_folder_of_an_address_is_the_folder_it_was_made_of(name, tmp_path):
    uri = store_uri(tmp_path / name)
    assert store_folder(uri) == tmp_path / name
    assert make_url(uri).database == str(tmp_path / name / DATABASE)  # what MLflow will open


def test_an_address_relative_or_with_options_has_an_absolute_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert store_folder("sqlite:///mlruns/mlflow.db?timeout=9") == tmp_path / "mlruns"


def test_a_folder_that_was_there_keeps_its_mode(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "_create", lambda database: database.touch())
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o775)
    ensure_store(shared)
    ensure_store(tmp_path / "new")
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (shared, tmp_path / "new")]
    assert modes == [0o775, 0o700]


def test_experiment_keeps_an_absolute_artifact_folder(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    client = open_client(store)
    first = ensure_experiment(client, store, "pre_unet")
    assert ensure_experiment(client, store, "pre_unet") == first
    location = client.get_experiment(first).artifact_location
    assert location == (tmp_path / "mlruns" / "artifacts").as_uri()
    client.delete_experiment(first)
    assert ensure_experiment(client, store, "pre_unet") == first  # restored, not refused


@pytest.mark.slow
def test_four_processes_on_an_empty_folder(tmp_path):
    # F19: MLflow alone loses all four and ruins the file.
    program = (
        "import sys; from pathlib import Path\n"
        "from msseg_lightning.track.store import *\n"
        "uri = ensure_store(Path(sys.argv[1])); client = open_client(uri)\n"
        "client.create_run(ensure_experiment(client, uri, 'shared'))\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "mlruns")]
    processes = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait(timeout=200) for process in processes] == [0, 0, 0, 0]
    uri = ensure_store(tmp_path / "mlruns")
    client = open_client(uri)
    experiment = client.get_experiment_by_name("shared")
    assert len(client.search_runs([experiment.experiment_id])) == 4


def test_importing_the_module_leaves_mlflow_alone():
    program = (
        "import sys, msseg_lightning.track.tracker, msseg_lightning.track.store\n"
        "sys.exit('mlflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_an_address_is_shown_without_its_password():
    assert without_password("postgresql://me:secret@host/db") == "postgresql://me@host/db"
    assert without_password("http://host:5000") == "http://host:5000"


def test_the_command_that_brings_in_what_is_unsent(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = sync_command("http://me:secret@host", tmp_path / "runs" / "a b")
    assert command == "msseg sync --uri http://me@host 'runs/a b'"
