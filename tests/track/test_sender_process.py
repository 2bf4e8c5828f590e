"""The real process: it is started once here, importing MLflow takes seconds."""

import os
import subprocess
import sys
import time

from msseg_lightning.track.sender_process import JournalSender, SenderProcess
from msseg_lightning.track.store import open_client
from msseg_lightning.track.tracker import Tracker

KILLED = """
import os, sys
from pathlib import Path
from msseg_lightning.track.tracker import Tracker
run = Tracker.start(sys.argv[1], "e", "r", spool=Path(sys.argv[2]), system_metrics=False)
run.log_metrics({"train/loss": 0.5}, 3)
while not run.run_id:
    run.sender_process.notify(run.uri, run.journal, urgent=True)
    run._thread.join(0.05)
run.log_metrics({"train/loss": 0.25}, 4)
while sum(1 for _ in run.journal.pending(0)) < 3:
    run._thread.join(0.05)
assert "mlflow" not in sys.modules
os.kill(os.getpid(), 9)
"""


def test_a_killed_process_is_marked_and_loses_nothing(store, tmp_path):
    subprocess.run(
        [sys.executable, "-c", KILLED, store, str(tmp_path / "track")],
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    client = open_client(store)
    experiment = client.get_experiment_by_name("e").experiment_id
    end = time.monotonic() + 20
    while (found := client.search_runs([experiment])[0]).info.status == "RUNNING":
        assert time.monotonic() < end
        time.sleep(0.05)
    assert found.info.status == "KILLED" and found.data.tags["interrupted"] == "true"
    history = client.get_metric_history(found.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(3, 0.5), (4, 0.25)]


def test_it_is_started_late_or_urgently_and_again_should_it_die(store, tmp_path):
    sender_process = SenderProcess(start_after_s=100.0)
    run = Tracker.start(
        store,
        "e",
        "r",
        spool=tmp_path / "track",
        sender_process=sender_process,
        system_metrics=False,
    )
    sender_process.notify(run.uri, run.journal)
    assert not sender_process.alive  # training comes first
    sender_process.notify(run.uri, run.journal, urgent=True)
    assert sender_process.alive
    sender_process._process.kill()
    sender_process._process.wait()
    assert run.finish()
    assert open_client(store).get_run(run.run_id).info.status == "FINISHED"
    late = JournalSender(
        store, str(run.journal.folder)
    )  # told once more, of a run that said how it ended
    late.send_pending(urgent=True)
    late.end()
    assert open_client(store).get_run(run.run_id).info.status == "FINISHED"
