import getpass
import json
import re
from pathlib import Path

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
