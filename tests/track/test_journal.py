from msseg_lightning.track.journal import Journal, encode


def test_pending_survives_a_new_process_and_a_torn_line(tmp_path):
    journal = Journal(tmp_path, "run")
    journal.append([{"do": "tags", "n": 1}, {"do": "tags", "n": 2}])
    (_, first), (_, second) = list(journal.pending())
    journal.confirm(first, "id-1")
    with journal.lines.open("a") as stream:
        stream.write('{"do": "ta')  # killed while writing

    again = Journal(tmp_path, "run")
    assert again.run_id == "id-1"
    assert [record["n"] for record, _ in again.pending()] == [2]
    again.append([{"do": "tags", "n": 3}])
    assert [record["n"] for record, _ in again.pending()] == [2, 3]
    assert not again.complete
    again.confirm(list(again.pending())[-1][1], "id-1")
    assert again.complete and second < again.sent


def test_numbers_json_cannot_hold():
    assert [float(encode(v)) for v in (1.5, float("inf"))] == [1.5, float("inf")]
    assert str(float(encode(float("nan")))) == "nan"
