"""Delivers a journal to MLflow; every delivery may be repeated without harm."""

from __future__ import annotations

import collections
import dataclasses
import logging
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from filelock import FileLock

from msseg_lightning.track.journal import Journal, Record, run_key
from msseg_lightning.track.store import ensure_experiment, open_client

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

LOG = logging.getLogger(__name__)

KEY_TAG = "msseg.key"
PARENT_TAG = "mlflow.parentRunId"
LEVEL_TAG = "level"
SUMMARY_LEVEL = "experiment"
"""Tag of runs that only sum up others: their state is the worst of those below."""
WORST_FIRST = ("FAILED", "KILLED", "RUNNING", "SCHEDULED", "FINISHED")
PARAM_LENGTH = 6000
TAG_LENGTH = 5000
MOST_POINTS = 1000
"""MLflow takes no more in one request."""
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
        self._closed: bool | None = None

    @property
    def closed(self) -> bool:
        """Whether the last run opened by what was sent is closed, too."""
        if self._closed is None:
            self._closed = self.journal.closed and self.journal.complete(self.uri)
        return self._closed

    @property
    def client(self) -> MlflowClient:
        """Made on first use: importing MLflow takes seconds, making a store some more."""
        if self._client is None:
            self._client = open_client(self.uri)
        return self._client

    def deliver(self) -> dict[str, int]:
        """Send all that is pending; the caller holds `Journal.sending`.

        Returns:
            How many metric points (``points``) and other records were sent, by kind.

        Raises:
            Exception: whatever the store's client raises while it is away; the records stay.
        """
        position = self.journal.position(self.uri)
        sent: dict[str, int] = collections.Counter()
        try:
            for record, end in merged(self.journal.pending(position.sent)):
                run_id = self._send(position.run_id, record)
                position = dataclasses.replace(position, run_id=run_id, sent=end, problem="")
                self.journal.confirm(position)
                if record["do"] in ("open", "close"):
                    self._closed = record["do"] == "close"
                points = record.get("points")
                sent["points" if points else record["do"]] += len(points) if points else 1
        except Exception as error:
            problem = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
            self.journal.confirm(dataclasses.replace(position, problem=problem, tried=time.time()))
            raise
        return sent

    def _send(self, run_id: str | None, record: Record) -> str | None:
        if record["do"] == "open":
            return self._open(record)
        try:
            if run_id is not None:
                getattr(self, f"_{record['do']}")(run_id, record)
        except Exception as error:
            # What the store calls wrong stays wrong: skip it, or it would block all others.
            if not _refused(error):
                raise
            LOG.warning("the tracking store refused a record (%s): %s", record["do"], error)
        return run_id

    def _open(self, record: Record) -> str:
        """Find the run by its key or create it; it is RUNNING then."""
        client = self.client
        experiment = ensure_experiment(client, self.uri, record["experiment"], record["artifacts"])
        tags = self._shortened({**record["tags"], KEY_TAG: record["key"]})
        if record["parent"] is not None:
            tags[PARENT_TAG] = self._parent(experiment, record["parent"], record["time"])
        run_id = self._find(experiment, record["key"])
        if run_id is None:
            run = client.create_run(
                experiment, start_time=record["time"], tags=tags, run_name=record["name"]
            )
            settle_parent(client, run.info.run_id)
            return str(run.info.run_id)
        info = client.get_run(run_id).info
        self._tags(run_id, {"tags": tags})
        if info.end_time is not None and info.end_time > record["time"]:
            return run_id  # another process went on with it and has closed it since
        client.update_run(run_id, status="RUNNING", name=record["name"])
        if client.get_run(run_id).data.tags.get("interrupted"):
            client.delete_tag(run_id, "interrupted")
        settle_parent(client, run_id)
        return run_id

    def _parent(self, experiment: str, parent: Record, start_ms: int) -> str:
        """The run that groups others; made by whichever of them is first."""
        folder = (self.journal.folder / parent["folder"]).resolve()
        key = run_key(folder)
        with FileLock(folder / "parent.lock"):
            run_id = self._find(experiment, key)
            if run_id is None:
                tags = self._shortened({**parent["tags"], KEY_TAG: key})
                run_id = self.client.create_run(
                    experiment, start_time=start_ms, tags=tags, run_name=parent["name"]
                ).info.run_id
                self.client.set_terminated(run_id, end_time=start_ms)
        return str(run_id)

    def _find(self, experiment: str, key: str) -> str | None:
        runs = self.client.search_runs([experiment], f"tags.`{KEY_TAG}` = '{key}'", max_results=1)
        return str(runs[0].info.run_id) if runs else None

    def _shortened(self, tags: Record) -> dict[str, str]:
        return {name: str(value)[:TAG_LENGTH] for name, value in tags.items()}

    def _metrics(self, run_id: str, record: Record) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(name, float(value), time, step) for name, value, time, step in record["points"]
        ]
        for start in range(0, len(metrics), MOST_POINTS):
            batch = metrics[start : start + MOST_POINTS]
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
        from mlflow.entities import Param

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
            self._tags(run_id, {"tags": changed})

    def _tags(self, run_id: str, record: Record) -> None:
        from mlflow.entities import RunTag

        tags = [RunTag(name, value) for name, value in self._shortened(record["tags"]).items()]
        self.client.log_batch(run_id, tags=tags)

    def _artifact(self, run_id: str, record: Record) -> None:
        path = (self.journal.folder / record["path"]).resolve()
        if path.is_dir():
            self.client.log_artifacts(run_id, str(path), record["folder"])
        elif path.is_file():
            self.client.log_artifact(run_id, str(path), record["folder"])
        else:
            LOG.warning("%s is gone and was not recorded", path.name)

    def _text(self, run_id: str, record: Record) -> None:
        self.client.log_text(run_id, record["text"], record["file"])

    def _close(self, run_id: str, record: Record) -> None:
        end = self.client.get_run(run_id).info.end_time
        if end is None or end <= record["time"]:  # else another process has closed it since
            close_run(self.client, run_id, record["status"], record["time"])


def close_run(client: MlflowClient, run_id: str, status: str, end_ms: int) -> None:
    """End a run, and let the run above it follow where that sums up what lies below."""
    client.set_terminated(run_id, status=status, end_time=end_ms)
    follow_children(client, run_id)
    settle_parent(client, run_id)


def settle_parent(client: MlflowClient, run_id: str) -> None:
    """Let the run above follow."""
    parent = client.get_run(run_id).data.tags.get(PARENT_TAG)
    if parent is not None:
        follow_children(client, parent)


def follow_children(client: MlflowClient, run_id: str) -> None:
    """Set the state of a run that sums up others to the worst of theirs; other runs are left."""
    run = client.get_run(run_id)
    if run.data.tags.get(LEVEL_TAG) != SUMMARY_LEVEL:
        return
    below = client.search_runs(
        [run.info.experiment_id], f"tags.`{PARENT_TAG}` = '{run_id}'", max_results=1000
    )
    states = {child.info.status for child in below}
    worst = next((state for state in WORST_FIRST if state in states), None)
    if worst is not None and worst != run.info.status:
        client.update_run(run_id, status=worst)


def merged(pending: Iterable[tuple[Record, int]]) -> Iterator[tuple[Record, int]]:
    """Neighbouring metric records as one request; after an outage there are hundreds."""
    waiting: tuple[Record, int] | None = None
    for record, end in pending:
        if waiting is not None:
            points = waiting[0]["points"]
            if record["do"] == "metrics" and len(points) + len(record["points"]) <= MOST_POINTS:
                waiting = ({"do": "metrics", "points": points + record["points"]}, end)
                continue
            yield waiting
            waiting = None
        if record["do"] == "metrics":
            waiting = (record, end)
        else:
            yield record, end
    if waiting is not None:
        yield waiting


def _refused(error: Exception) -> bool:
    """Whether the store is there and says that the request itself is wrong."""
    return getattr(error, "error_code", None) in REFUSED
