"""The tracking store: a local SQLite file with a folder of artifacts, or an MLflow server."""

from __future__ import annotations

import logging
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from filelock import FileLock

from msseg_lightning.core.files import flush_folder
from msseg_lightning.core.temporary import temporary_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient

DATABASE = "mlflow.db"
ARTIFACTS = "artifacts"
RUNS, SWEEPS = "msseg", "msseg-sweeps"
"""MLflow experiments of trained systems, and of searches with their trials."""

# Telemetry is on by default in MLflow, and its HTTP client keeps trying for minutes; the tracker
# has its own journal, so it may give up early. A setting of the user's own is respected.
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def quiet_mlflow() -> None:
    """Set environment variables that disable MLflow's telemetry and long retries; before import."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)


def open_client(uri: str) -> MlflowClient:
    """A client of the store, independent of MLflow's global state.

    A store with an address from `store_uri` is created if it is missing; any other must exist.
    """
    folder = store_folder(uri)
    if folder is not None and uri == store_uri(folder):
        ensure_store(folder)
    quiet_mlflow()
    from mlflow import MlflowClient

    _quiet_migrations()
    return MlflowClient(tracking_uri=uri)


def store_uri(folder: Path) -> str:
    """Address of the SQLite store of a folder, whether or not it exists.

    Returns:
        ``sqlite:////absolute/mlruns/mlflow.db``.
    """
    return _address(folder.expanduser().resolve() / DATABASE)


def _address(database: Path) -> str:
    """SQLAlchemy address of a database file, with ``%`` and ``?`` escaped."""
    return f"sqlite:///{str(database).replace('%', '%25').replace('?', '%3F')}"


def ensure_store(folder: Path) -> str:
    """Create the SQLite store of a folder if it is missing, and return its URI.

    Any number of processes may call this at once: the schema (some 5 s of migrations) is created
    under a lock, in a temporary file, and renamed when complete. MLflow itself leaves a damaged
    file when several processes open a missing database. Folder and file are created readable by
    their owner only (0700, 0600), since they hold results of patients; an existing folder keeps its
    mode.

    Args:
        folder: e.g. ``mlruns``; made absolute, so that it does not depend on the working folder.

    Returns:
        See `store_uri`.
    """
    folder = folder.expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / ARTIFACTS).mkdir(exist_ok=True, mode=0o700)
    database = folder / DATABASE
    if not database.exists():
        with FileLock(folder / ".mlflow.db.lock"):
            if not database.exists():
                _create(database)
    return store_uri(folder)


def _create(database: Path) -> None:
    quiet_mlflow()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    _quiet_migrations()
    with temporary_folder(database) as scratch:
        scratch.chmod(0o700)
        fresh = scratch / DATABASE
        # The artifact root is written into MLflow's "Default" experiment; without one it would be
        # the present working folder, wherever that is.
        store = SqlAlchemyStore(_address(fresh), (database.parent / ARTIFACTS).as_uri())
        store.engine.dispose()  # no open connection when the file is renamed
        fresh.chmod(0o600)
        with fresh.open("rb") as stream:
            os.fsync(stream.fileno())
        fresh.rename(database)
    flush_folder(database.parent)


def _quiet_migrations() -> None:
    """Hide the log lines ("Running upgrade ...") of database migrations."""
    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)


def store_folder(uri: str) -> Path | None:
    """The absolute folder of a SQLite store; None for a server or another database."""
    if not uri.startswith("sqlite:///"):
        return None
    file, _, _ = uri.removeprefix("sqlite:///").partition("?")
    return Path(unquote(file)).absolute().parent


def without_password(uri: str) -> str:
    """The address of a store without its password."""
    scheme, mark, rest = uri.partition("://")
    user, at, place = rest.rpartition("@")
    return f"{scheme}{mark}{user.partition(':')[0]}{at}{place}"


def sync_command(uri: str, folder: Path) -> str:
    """The command that sends all unsent records below a folder to a store."""
    place = os.path.relpath(folder.resolve())
    return shlex.join(["msseg", "sync", "--uri", without_password(uri), place])


def ensure_experiment(
    client: MlflowClient, uri: str, name: str, artifacts: str | None = None
) -> str:
    """Id of the experiment with that name, created if missing (safe for several processes).

    For a database the folder of artifacts is given as an absolute path: MLflow's default would be
    the working folder of the first run. A server has its own.

    Args:
        client: from `open_client`.
        uri: the store.
        name: of the experiment.
        artifacts: folder or URL for files, where the store is a database; None for ``artifacts``
            beside an SQLite file.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        folder = store_folder(uri)
        location = None if folder is None else (folder / ARTIFACTS).as_uri()
        if artifacts is not None and not uri.startswith("http"):
            location = artifacts
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another process was faster
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)
