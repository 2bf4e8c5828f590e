import dataclasses
import multiprocessing

from msseg_lightning.track.journal import KINDS, Journal, Position, encode, run_key


def test_pending_survives_a_new_process_and_a_torn_line(tmp_path):
    journal = Journal(tmp_path)
    journal.begin()
    journal.append([{"do": "tags", "tags": {}, "n": 1}, {"do": "tags", "tags": {}, "n": 2}])
    (_, first), (_, second) = list(journal.pending(0))
    journal.confirm(Position("store", "id-1", first))
    with journal.lines.open("a") as stream:
        stream.write('{"do": "ta')  # killed while writing

    again = Journal(tmp_path)
    assert [record["n"] for record, _ in again.pending(first)] == [2]  # not the torn one
    again.begin()
    position = again.position("store")
    assert position == Position("store", "id-1", first)
    again.append([{"do": "tags", "tags": {}, "n": 3}])
    found = list(again.pending(position.sent))
    assert [record["n"] for record, _ in found] == [2, 3] and not again.complete("store")
    again.confirm(dataclasses.replace(position, sent=found[-1][1]))
    assert again.complete("store") and again.complete() and second < found[-1][1]
    assert again.position("another") == Position("another") and not again.complete("another")


def test_a_journal_knows_whether_its_run_was_closed(tmp_path):
    journal = Journal(tmp_path)
    journal.begin()
    assert journal.opened() is None and not journal.closed
    opening = {"do": "open"} | dict.fromkeys(KINDS["open"], "a")
    journal.append([opening, {"do": "tags", "tags": {}}])
    assert not journal.closed
    journal.append([{"do": "close", "status": "FINISHED", "time": 1}])
    assert journal.closed
    journal.append([opening | {"uri": "b"}])  # resumed
    assert journal.opened()["uri"] == "b" and not journal.closed


def test_a_damaged_record_is_left_out_and_the_others_are_sent(tmp_path, caplog):
    journal = Journal(tmp_path)
    with journal.lines.open("w") as stream:
        for line in ("no JSON", "[]", "{}", '{"do": "run"}', '{"do": "close", "time": 1}'):
            stream.write(line + "\n")
    journal.append([{"do": "tags", "tags": {"a": "1"}}])
    ((record, end),) = journal.pending(0)
    assert record["tags"] == {"a": "1"} and end == journal.lines.stat().st_size
    assert caplog.text.count("damaged record") == 5


def test_a_record_names_only_what_lies_in_its_run_folder(tmp_path):
    for folder in (tmp_path / "run" / "track", tmp_path / "run" / "track" / "stage"):
        journal = Journal(folder)
        assert journal.run_folder == tmp_path / "run"
        report = tmp_path / "run" / "report.html"
        assert journal.resolve(report, journal.run_folder) == report
        assert journal.resolve(tmp_path / "report.html", journal.run_folder) is None
        assert journal.resolve("/etc/passwd", journal.run_folder) is None


def test_all_processes_give_a_folder_the_same_key(tmp_path):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        keys = pool.map(run_key, [tmp_path / "new"] * 8)
    assert len(set(keys)) == 1 and run_key(tmp_path / "other") != keys[0]


def test_numbers_json_cannot_hold():
    assert [float(encode(v)) for v in (1.5, float("inf"))] == [1.5, float("inf")]
    assert str(float(encode(float("nan")))) == "nan"
