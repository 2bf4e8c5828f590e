"""Delivers a journal to MLflow; every delivery may be repeated without harm."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from msseg_lightning.track.journal import Journal, Record
from msseg_lightning.track.store import ensure_experiment, open_client

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

LOG = logging.getLogger(__name__)

KEY_TAG = "msseg.key"
PARENT_TAG = "mlflow.parentRunId"
PARAM_LENGTH = 6000
REFUSED = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS")


class Sender:
    """Sends a journal's unsent records in order.

    Args:
        uri: tracking store.
        journal: what to send; its position moves as the store confirms.
    """

    def __init__(self, uri: str, journal: Journal) -> None:
        self.uri, self.journal = uri, journal
        self._client: MlflowClient | None = None

    @property
    def client(self) -> MlflowClient:
        """Made on first use: importing MLflow takes seconds."""
        if self._client is None:
            self._client = open_client(self.uri)
        return self._client

    def deliver(self) -> None:
        """Send all that is pending.

        Raises:
            Exception: whatever the store's client raises while it is away; the records stay.
        """
        for record, position in self.journal.pending():
            run_id = self.journal.run_id
            try:
                if record["do"] == "open":
                    run_id = self._open(record)
                elif run_id is not None:
                    getattr(self, f"_{record['do']}")(run_id, record)
            except Exception as error:
                # What the store calls wrong stays wrong: skip it, or it would block all others.
                if not _refused(error):
                    raise
                LOG.warning("the tracking store refused a record (%s): %s", record["do"], error)
            self.journal.confirm(position, run_id)

    def _open(self, record: Record) -> str:
        from mlflow.entities import RunTag

        client = self.client
        experiment = ensure_experiment(client, self.uri, record["experiment"])
        run_id = record["resume"] or self.journal.run_id or self._find(self.journal.key)
        tags = {**record["tags"], KEY_TAG: self.journal.key}
        parent = record.get("parent") or (
            self._find(record["parent_key"]) if "parent_key" in record else None
        )
        if parent is not None:
            tags[PARENT_TAG] = parent
        if run_id is None:
            run = client.create_run(
                experiment, start_time=record["time"], tags=tags, run_name=record["name"]
            )
            return str(run.info.run_id)
        client.update_run(run_id, status="RUNNING")
        client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
        if client.get_run(run_id).data.tags.get("interrupted"):
            client.delete_tag(run_id, "interrupted")
        return str(run_id)

    def _find(self, key: str) -> str | None:
        """The run a journal opened before a kill kept it from noting the id."""
        client = self.client
        experiments = [found.experiment_id for found in client.search_experiments()]
        runs = client.search_runs(experiments, f"tags.`{KEY_TAG}` = '{key}'", max_results=1)
        return str(runs[0].info.run_id) if runs else None

    def _metrics(self, run_id: str, record: Record) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(name, float(value), time, step) for name, value, time, step in record["points"]
        ]
        for start in range(0, len(metrics), 1000):
            batch = metrics[start : start + 1000]
            try:
                self.client.log_batch(run_id, metrics=batch)
            except Exception as error:
                if not _refused(error):
                    raise
                self._one_by_one(run_id, batch)

    def _one_by_one(self, run_id: str, metrics: list[Metric]) -> None:
        """One bad name must not take its neighbours with it."""
        for metric in metrics:
            try:
                self.client.log_batch(run_id, metrics=[metric])
            except Exception as error:
                if not _refused(error):
                    raise
                LOG.warning("the tracking store refused the metric %r", metric.key)

    def _params(self, run_id: str, record: Record) -> None:
        from mlflow.entities import Param, RunTag

        known = self.client.get_run(run_id).data.params
        wanted = {name: value[:PARAM_LENGTH] for name, value in record["params"].items()}
        new = [Param(name, value) for name, value in wanted.items() if name not in known]
        for start in range(0, len(new), 100):
            self.client.log_batch(run_id, params=new[start : start + 100])
        changed = {
            f"resumed.{name}": value
            for name, value in wanted.items()
            if name in known and known[name] != value
        }
        if changed:
            self.client.log_batch(run_id, tags=[RunTag(k, v) for k, v in changed.items()])

    def _tags(self, run_id: str, record: Record) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(run_id, tags=[RunTag(k, v) for k, v in record["tags"].items()])

    def _artifact(self, run_id: str, record: Record) -> None:
        path = Path(record["path"])
        if path.is_dir():
            self.client.log_artifacts(run_id, str(path), record["folder"])
        elif path.is_file():
            self.client.log_artifact(run_id, str(path), record["folder"])
        else:
            LOG.warning("%s is gone and was not recorded", path.name)

    def _text(self, run_id: str, record: Record) -> None:
        self.client.log_text(run_id, record["text"], record["file"])

    def _close(self, run_id: str, record: Record) -> None:
        self.client.set_terminated(run_id, status=record["status"], end_time=record["time"])


def _refused(error: Exception) -> bool:
    """Whether the store is there and says that the request itself is wrong."""
    return getattr(error, "error_code", None) in REFUSED
