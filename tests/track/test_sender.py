from msseg_lightning.track.journal import Journal
from msseg_lightning.track.sender import Sender
from msseg_lightning.track.store import open_client


def test_open_metrics_close(store, tmp_path):
    journal = Journal(tmp_path / "track", "key1")
    base = {"experiment": "e", "name": "r", "time": 1000, "tags": {"fold": "1"}, "resume": None}
    journal.append([{"do": "open", **base}])
    journal.append([{"do": "metrics", "points": [["test/dice", 0.5, 1000, 0]] * 1200}])
    journal.append([{"do": "artifact", "path": str(tmp_path / "gone"), "folder": None}])
    journal.append([{"do": "close", "status": "FAILED", "time": 2000}])
    Sender(store, journal).deliver()
    found = open_client(store).get_run(journal.run_id)
    assert (found.info.status, found.info.start_time, found.info.end_time) == ("FAILED", 1000, 2000)
    assert found.data.metrics == {"test/dice": 0.5} and journal.complete
