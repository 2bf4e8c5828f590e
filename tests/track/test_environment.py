import getpass
import json
import re
from pathlib import Path

import pytest

from msseg_lightning.track.environment import environment_record, git_record, shorten


def test_record_is_json_without_places_or_people():
    record = environment_record(["/opt/bin/msseg", "train", "pre_unet", "data=/secret/place/scans"])
    text = json.dumps(record, allow_nan=False)
    assert record["command"] == [".../msseg", "train", "pre_unet", "data=.../scans"]
    assert "secret" not in text and str(Path.home()) not in text
    assert not re.search(rf"\b{re.escape(getpass.getuser())}\b", text)
    assert "torch" in record["packages"] and record["python"].startswith("3.")


def test_no_commit_outside_a_checkout(tmp_path):
    assert git_record(tmp_path) == {"commit": None, "dirty": None}


def test_shorten():
    assert shorten("fold=0") == "fold=0"
    assert shorten("~/scans") == ".../scans"
    assert shorten("read.root=../alice/My Clinic/scans/") == "read.root=.../scans"
    assert shorten("+experiment/a=b") == ".../a=b"


@pytest.mark.parametrize(
    "word",
    [
        "track.uri=postgresql://u:hunter2@db/x",
        "++track.key_file=alice.key",
        "track={_target_: a.B, uri: 'sqlite:////home/alice/x.db'}",
        "+other.address=https://u:hunter2@db",
        "postgresql://u:hunter2@db",
        "+other={uri: 'https://u:{hunter2,hunter2@db'}",
        "+read.sources.real={_target_: a, root: /home/alice/hospital}",
        "+read.sources={a: {root: '/home/alice/h'}, b: [{manifest:../alice/x.csv}]}",
        "/home/alice=1/msseg",
    ],
)
def test_no_word_of_the_command_tells_a_place_or_a_password(word):
    assert not re.search("alice|hunter2", shorten(word))
    assert shorten("track=off") == "track=off"
    assert shorten("a={b: [1, 2], c: x:y}") == "a={b: [1, 2], c: x:y}"
