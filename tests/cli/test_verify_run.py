from __future__ import annotations

import json
import shutil

import pytest

from msseg_lightning.cli.main import main
from msseg_lightning.cli.verify_run import lines
from msseg_lightning.core.files import write_record
from msseg_lightning.run.folder import RunFolder
from msseg_lightning.run.predict.verify_run import BIT_FOR_BIT, NOTHING, Fact, RunComparison


def test_two_runs_are_compared_by_the_command(trained_run, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(trained_run, other)
    scores = RunFolder(other).scores()
    scores["cases"]["003"]["official"]["Dice"] = 0.5
    write_record(other / "scores.json", scores)
    file = tmp_path / "found.json"
    code = main(["verify-run", str(trained_run), str(other), "--json", str(file)])
    said = capsys.readouterr().out
    assert "promised" in said and "weights   equal" in said and "scores    differ" in said
    found = json.loads(file.read_text())
    assert code == (0 if found["kept"] else 7) and found["first_difference"] == "scores"
    (tmp_path / "mine.json").write_text("{}")
    words = ["verify-run", str(trained_run), str(other), "--json", str(tmp_path / "mine.json")]
    assert main(words) == 2
    assert main(["verify-run", str(trained_run), str(tmp_path)]) == 4


@pytest.mark.parametrize(
    ("found", "last"),
    [
        (RunComparison(BIT_FOR_BIT, (), {}, {"scores": 1}), "the runs are equal"),
        (RunComparison(BIT_FOR_BIT, (), {"maps": "x"}, {"maps": 1}), "the promise is broken"),
        (RunComparison(NOTHING, (Fact("seed", "0", "1"),), {"maps": "x"}, {"maps": 1}), "part in"),
    ],
)
def test_the_last_line_tells_the_result(found, last):
    assert last in list(lines(found))[-1]
