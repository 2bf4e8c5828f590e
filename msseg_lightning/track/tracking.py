"""The tracking settings of an experiment as one object."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msseg_lightning.track.pseudonym import Pseudonyms
from msseg_lightning.track.store import ensure_store
from msseg_lightning.track.tracker import Tracker


class Tracking:
    """Where and how runs are recorded.

    Args:
        folder: SQLite store and artifacts, created on first use.
        uri: an MLflow server or database instead; None for the store in ``folder``.
        plain_ids: record case ids as they are; otherwise keyed pseudonyms (see `Pseudonyms`).
        key_file: key of the pseudonyms; None for the user's own.
        system_metrics: sample processor, memory and GPU every 10 s.
    """

    def __init__(
        self,
        folder: Path | str = "mlruns",
        uri: str | None = None,
        plain_ids: bool = False,
        key_file: Path | str | None = None,
        system_metrics: bool = True,
    ) -> None:
        self.folder = Path(folder)
        self._uri = uri
        self.pseudonyms = Pseudonyms(None if key_file is None else Path(key_file), plain_ids)
        self.system_metrics = system_metrics

    def uri(self) -> str:
        """The store's URI; creates a local store where absent (some 5 s, once)."""
        return self._uri if self._uri is not None else ensure_store(self.folder)

    def start(
        self,
        experiment: str,
        run_name: str,
        *,
        spool: Path,
        parent: Tracker | str | None = None,
        tags: Mapping[str, object] | None = None,
        params: Mapping[str, object] | None = None,
        resume_run_id: str | None = None,
    ) -> Tracker:
        """Open or continue a run; see `Tracker.start`."""
        return Tracker.start(
            self.uri(),
            experiment,
            run_name,
            spool=spool,
            parent=parent,
            tags=tags,
            params=params,
            resume_run_id=resume_run_id,
            system_metrics=self.system_metrics,
        )
