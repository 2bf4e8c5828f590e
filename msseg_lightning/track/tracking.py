"""The tracking settings of an experiment as one object."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.track.pseudonym import Pseudonyms
from msseg_lightning.track.store import ARTIFACTS, store_uri, without_password
from msseg_lightning.track.tracker import Parent, Tracker

DRIVERS = {"http": "mlflow", "https": "mlflow", "sqlite": "sqlite3", "postgresql": "psycopg"}
"""Scheme of a store -> its driver module, unless the address names one (``scheme+module``)."""


class Tracking:
    """Where and how runs are recorded.

    Args:
        folder: SQLite store and artifacts, created on first use.
        uri: an MLflow server (``http://host:5000``) or database (``postgresql://user@host/name``,
            ``sqlite:////absolute/file.db``) instead; None for the store in ``folder``.
        artifacts: folder or URL for files, where ``uri`` is a database (a server has its own); None
            for ``artifacts`` in ``folder``.
        plain_ids: record case ids as they are; otherwise keyed pseudonyms (see `Pseudonyms`).
        key_file: key of the pseudonyms; None for the user's own.
        system_metrics: sample processor, memory and GPU every 10 s.

    Raises:
        MssegError: a kind of store that is not known, or whose driver is not installed (exit 2).
    """

    def __init__(
        self,
        folder: Path | str = "mlruns",
        uri: str | None = None,
        artifacts: str | None = None,
        plain_ids: bool = False,
        key_file: Path | str | None = None,
        system_metrics: bool = True,
    ) -> None:
        self.folder = Path(folder)
        self.uri = checked_uri(uri) if uri else store_uri(self.folder)
        place = (self.folder.expanduser().resolve() / ARTIFACTS).as_uri()
        self.artifacts = artifacts or place
        self.pseudonyms = Pseudonyms(None if key_file is None else Path(key_file), plain_ids)
        self.system_metrics = system_metrics

    def start(
        self,
        experiment: str,
        run_name: str,
        *,
        spool: Path,
        parent: Parent | None = None,
        tags: Mapping[str, object] | None = None,
        params: Mapping[str, object] | None = None,
        key: str | None = None,
    ) -> Tracker:
        """Open or continue a run; see `Tracker.start`."""
        return Tracker.start(
            self.uri,
            experiment,
            run_name,
            spool=spool,
            parent=parent,
            tags=tags,
            params=params,
            key=key,
            artifacts=self.artifacts,
            system_metrics=self.system_metrics,
        )


def checked_uri(uri: str) -> str:
    """The address of a store with its driver, checked.

    Raises:
        MssegError: see `Tracking`.
    """
    scheme, mark, _ = uri.partition("://")
    kind, _, named = scheme.partition("+")
    missing = bool(mark) and kind in DRIVERS
    driver = named or DRIVERS.get(kind, "")
    if missing and importlib.util.find_spec(driver):
        # without a driver name SQLAlchemy would load psycopg2
        return uri.replace("postgresql://", "postgresql+psycopg://", 1)
    known = ", ".join(f"{name}://" for name in DRIVERS)
    raise MssegError(
        Problem(
            "track.uri",
            f"the driver {driver} is not installed"
            if missing
            else "this is not the address of a tracking store",
            field="track.uri",
            found=without_password(uri),
            expected=f"an address that begins with one of {known}",
            remedy="pip install 'msseg-lightning[postgres]'"
            if missing
            else "track.uri=null for a local store, or the address of a server or database",
            exit_code=ExitCode.CONFIG,
        )
    )
