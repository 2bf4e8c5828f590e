"""Sending of a journal to MLflow; sending the same records again changes nothing."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import logging
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from msseg_lightning.track.journal import Journal, Record, run_key
from msseg_lightning.track.run_state import RunState, journals_of_run, state_of, worst_status
from msseg_lightning.track.store import ensure_experiment, open_client

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

LOG = logging.getLogger(__name__)

KEY_TAG = "msseg.key"
PARENT_TAG = "mlflow.parentRunId"
LEVEL_TAG = "level"
SUMMARY_LEVEL = "experiment"
"""Value of ``LEVEL_TAG`` of summary runs, which take the worst status of their child runs."""
PARAM_LENGTH = 6000
TAG_LENGTH = 5000
MAX_POINTS = 1000
"""Largest number of metric points that MLflow accepts in one request."""
AS_RECORDED = "of the journal"
REFUSED = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS")


class Sender:
    """Sends a journal's unsent records in order.

    Args:
        uri: tracking store.
        journal: the journal; its position is updated as the store confirms.
        artifacts: place of files (see `store.ensure_experiment`); by default the one that the
            journal names, which must then have been written by this process.
    """

    def __init__(self, uri: str, journal: Journal, artifacts: str | None = AS_RECORDED) -> None:
        self.uri, self.journal, self.artifacts = uri, journal, artifacts
        self._client: MlflowClient | None = None
        self._closed: bool | None = None

    @property
    def closed(self) -> bool:
        """Whether the last run that was opened by the sent records is closed."""
        if self._closed is None:
            self._closed = self.journal.closed and self.journal.complete(self.uri)
        return self._closed

    @property
    def client(self) -> MlflowClient:
        """MLflow client, created on first use, since importing MLflow takes seconds."""
        if self._client is None:
            self._client = open_client(self.uri)
        return self._client

    def deliver(self) -> dict[str, int]:
        """Send all pending records; the caller holds `Journal.sending_lock`.

        Returns:
            How many metric points (``points``) and other records were sent, by kind.

        Raises:
            Exception: any error of the client while the store is unavailable; the records stay.
        """
        position = self.journal.position(self.uri)
        sent: dict[str, int] = collections.Counter()
        try:
            for record, end in merge_metrics(self.journal.pending(position.sent)):
                run_id = self._send(position.run_id, record)
                if run_id is not None and record["do"] in ("open", "close"):
                    self._update_state(run_id)
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
            # A record that the store rejects is skipped, or it would block all later ones.
            if not _refused(error):
                raise
            LOG.warning("the tracking store refused a record (%s): %s", record["do"], error)
        return run_id

    def _open(self, record: Record) -> str:
        """Find the run by its key or create it."""
        client = self.client
        artifacts = record["artifacts"] if self.artifacts == AS_RECORDED else self.artifacts
        experiment = ensure_experiment(client, self.uri, record["experiment"], artifacts)
        tags = self._shortened({**record["tags"], KEY_TAG: record["key"]})
        if record["parent"] is not None and (
            parent := self._parent(experiment, record["parent"], record["time"])
        ):
            tags[PARENT_TAG] = parent
        with FileLock(self._key_folder(record["key"]) / "parent.lock"):
            run_id = self._find(experiment, record["key"])
            if run_id is None:
                run = client.create_run(
                    experiment, start_time=record["time"], tags=tags, run_name=record["name"]
                )
                return str(run.info.run_id)
        client.update_run(run_id, name=record["name"])
        self._tags(run_id, {"tags": tags})
        return run_id

    def _parent(self, experiment: str, parent: Record, start_ms: int) -> str | None:
        """Id of the parent run, which the first of its child runs creates."""
        with self._parent_lock(parent) as folder:
            if folder is None:
                return None
            key = run_key(folder)
            run_id = self._find(experiment, key)
            if run_id is None:
                tags = self._shortened({**parent["tags"], KEY_TAG: key})
                run_id = self.client.create_run(
                    experiment, start_time=start_ms, tags=tags, run_name=parent["name"]
                ).info.run_id
                if found := state_of(journals_of_run(folder, key)):
                    set_state(self.client, run_id, found)
        return str(run_id)

    @contextlib.contextmanager
    def _parent_lock(self, parent: Record) -> Iterator[Path | None]:
        """Lock that the child runs of one parent share; yields the folder of the parent's key."""
        folder = self.journal.resolve(parent["folder"], self.journal.run_folder.parent)
        if folder is None:
            yield None
            return
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "parent.lock"):
            yield folder

    def update_state(self, *, dead: bool = False) -> bool:
        """Set the state of the run that follows from the records on disk.

        Args:
            dead: the process that wrote the journal is known to be dead.

        Returns:
            Whether the store had another state.
        """
        run_id = self.journal.position(self.uri).run_id
        return run_id is not None and self._update_state(run_id, dead=dead)

    def _update_state(self, run_id: str, *, dead: bool = False) -> bool:
        """Set the state of a run, and that of its parent if the parent is a summary."""
        opened = self.journal.opened()
        if opened is None:
            return False
        try:
            changed = self._update_run_state(run_id, opened, dead)
            parent = self.client.get_run(run_id).data.tags.get(PARENT_TAG)
            if parent is not None and opened["parent"] is not None:
                with self._parent_lock(opened["parent"]):
                    changed |= update_summary_state(self.client, parent)
        except Exception as error:
            if not _refused(error, "RESOURCE_DOES_NOT_EXIST"):  # the user deleted a run in MLflow
                raise
            LOG.warning("the tracking store refused the state of a run: %s", error)
            return False
        return changed

    def _update_run_state(self, run_id: str, opened: Record, dead: bool) -> bool:
        folder = self._key_folder(opened["key"])
        with FileLock(folder / "parent.lock"):
            if opened["tags"].get(LEVEL_TAG) == SUMMARY_LEVEL:
                return update_summary_state(self.client, run_id)
            found = state_of(
                journals_of_run(folder, opened["key"]), self.journal.folder if dead else None
            )
            return found is not None and set_state(self.client, run_id, found)

    def _key_folder(self, key: str) -> Path:
        """Folder of a run's key: the journal's, or its parent if processes share the run."""
        own = self.journal.folder
        shared = (own.parent / "key.json").is_file() and run_key(own.parent) == key
        return own.parent if shared else own

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
        for start in range(0, len(metrics), MAX_POINTS):
            batch = metrics[start : start + MAX_POINTS]
            try:
                self.client.log_batch(run_id, metrics=batch)
            except Exception as error:
                if not _refused(error):
                    raise
                self._one_by_one(run_id, batch)

    def _one_by_one(self, run_id: str, metrics: list[Metric]) -> None:
        """Send metrics one at a time, so that one rejected name does not discard the others."""
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
        run_folder = self.journal.run_folder
        path = self.journal.resolve(record["path"], run_folder)
        if path is None:
            return
        if not path.exists():
            LOG.warning("%s is gone and was not recorded", path.name)
        files = filter(Path.is_file, sorted(path.rglob("*")) if path.is_dir() else [path])
        for file in files:
            if self.journal.resolve(file, run_folder) is not None:  # a link may lead out of it
                below = file.parent.relative_to(path) if path.is_dir() else Path()
                folder = (Path(record["folder"] or "") / below).as_posix()
                self.client.log_artifact(run_id, str(file), None if folder == "." else folder)

    def _text(self, run_id: str, record: Record) -> None:
        self.client.log_text(run_id, record["text"], record["file"])

    def _dataset(self, run_id: str, record: Record) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            record["name"],
            record["digest"][:36],  # MLflow's longest
            "local",
            json.dumps({"name": record["name"]}),
            profile=json.dumps(record["profile"]),
        )
        used = DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])
        self.client.log_inputs(run_id, [used])

    def _close(self, run_id: str, record: Record) -> None:
        """Do nothing; `deliver` sets the state from the records of all processes."""


def set_state(client: MlflowClient, run_id: str, found: RunState) -> bool:
    """Set the state of a run; returns whether it had another one."""
    run = client.get_run(run_id)
    known = run.info.end_time
    changed = run.info.status != found.status
    if found.end is None:
        if changed:
            client.update_run(run_id, status=found.status)
    else:
        # the time of a kill is that of the last record, or when the kill was first noticed
        changed |= known is None or (known < found.end if found.interrupted else known != found.end)
        if changed:
            client.set_terminated(run_id, status=found.status, end_time=found.end)
    if found.interrupted != ("interrupted" in run.data.tags):
        changed = True
        if found.interrupted:
            client.set_tag(run_id, "interrupted", "true")
        else:
            client.delete_tag(run_id, "interrupted")
    return changed


def update_summary_state(client: MlflowClient, run_id: str) -> bool:
    """Set a summary run to the worst status of its child runs; other runs are not changed.

    Of several runs of one fold only the latest counts.

    Returns:
        Whether it had another state.
    """
    run = client.get_run(run_id)
    if run.data.tags.get(LEVEL_TAG) != SUMMARY_LEVEL:
        return False
    children = client.search_runs(
        [run.info.experiment_id],
        f"tags.`{PARENT_TAG}` = '{run_id}'",
        order_by=["attributes.start_time ASC"],
        max_results=1000,
    )
    latest = {child.data.tags.get("fold", child.info.run_id): child.info for child in children}
    if not latest:
        return False
    status = worst_status(child.status for child in latest.values())
    ended = max((child.end_time or 0 for child in latest.values()), default=0)
    return set_state(client, run_id, RunState(status, None if status == "RUNNING" else ended))


def merge_metrics(pending: Iterable[tuple[Record, int]]) -> Iterator[tuple[Record, int]]:
    """Merge consecutive metric records into one request each of at most ``MAX_POINTS``."""
    waiting: tuple[Record, int] | None = None
    for record, end in pending:
        if waiting is not None:
            points = waiting[0]["points"]
            if record["do"] == "metrics" and len(points) + len(record["points"]) <= MAX_POINTS:
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


def _refused(error: Exception, *more: str) -> bool:
    """Whether the store was reached and rejected the request itself."""
    return getattr(error, "error_code", None) in (*REFUSED, *more)
