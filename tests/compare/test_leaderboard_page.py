import dataclasses
import re

import pytest

from msseg_lightning.compare.leaderboard import make_leaderboard
from msseg_lightning.compare.leaderboard_page import (
    FOLDER,
    check_output,
    page_of,
    write_leaderboard,
)
from msseg_lightning.compare.systems import read_systems
from msseg_lightning.core.problem import MssegError
from tests.compare import scored


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    runs = [
        scored.write_run(root, name, scored.scores(skill, 1))
        for name, skill in (("good", 0.9), ("poor", 0.2))
    ]
    return make_leaderboard(read_systems([str(run) for run in runs]))


def test_the_page_has_words_tables_and_pictures_and_needs_no_network(board):
    html = page_of(board, {"intervals": "<svg/>", "ranks": "<svg/>", "cost": "<svg/>"})
    assert "good is better than every other system" in html
    for title in (
        "Patients with new lesions",
        "Patients without",
        "F1 by size",
        "figures of the papers",
        "Not recorded",
        "Active patients",
    ):
        assert title in html
    assert html.count('<img alt="') == 3
    assert not re.findall(r'(?:src|href)="(?!data:)', html)
    assert "default-src 'none'" in html


def test_names_are_escaped(board):
    name = "<script>alert(1)</script>"
    lines = {**board.lines, name: board.lines["good"]}
    comparisons = {
        key: dataclasses.replace(
            found,
            systems=tuple(
                dataclasses.replace(one, system=name) if one.system == "good" else one
                for one in found.systems
            ),
        )
        for key, found in board.comparisons.items()
    }
    rules = {}
    html = page_of(
        dataclasses.replace(board, lines=lines, comparisons=comparisons, rules=rules), {}
    )
    assert name not in html and "&lt;script&gt;alert" in html


def test_a_folder_gets_everything_and_can_be_written_again(board, tmp_path):
    output = tmp_path / "board"
    files = write_leaderboard(board, output)
    names = {file.name for file in files}
    assert names == {*FOLDER, "intervals.svg", "ranks.svg", "cost.svg", "activity.svg"}
    assert all(file.stat().st_size for file in files)
    check_output(output, [])
    write_leaderboard(board, output)
    text = (output / "leaderboard.md").read_text()
    assert "(intervals.svg)" in text


@pytest.mark.parametrize("name", ["a.html", "a.md", "a.csv", "a.tex"])
def test_one_file_by_its_ending(board, tmp_path, name):
    check_output(tmp_path / name, [])
    assert write_leaderboard(board, tmp_path / name) == [tmp_path / name]
    assert [file.name for file in tmp_path.iterdir()] == [name]
    check_output(tmp_path / name, [])  # its own file may be written again


def test_other_endings_and_files_of_others_are_refused(tmp_path):
    with pytest.raises(MssegError, match=r"compare\.output.*--output \S*a\.html"):
        check_output(tmp_path / "a.pdf", [])
    for name in ("a.html", "a.md", "a.csv", "a.tex"):
        (tmp_path / name).write_text("of somebody else")
        with pytest.raises(MssegError, match=r"output\.overwrites"):
            check_output(tmp_path / name, [])
    (tmp_path / "pairs.csv").write_text("mine")
    with pytest.raises(MssegError, match=r"output\.overwrites"):
        check_output(tmp_path, [])
