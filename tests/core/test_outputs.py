"""A command writes new files and its own ones, and nothing else."""

from __future__ import annotations

import os

import pytest

from msseg_lightning.core.outputs import (
    is_json_with,
    is_text_with,
    refuse_inside_data,
    refuse_overwrites,
)
from msseg_lightning.core.problem import ExitCode, MssegError

ours = is_json_with("ours")


def refused(outputs, inputs=()):
    with pytest.raises(MssegError) as caught:
        refuse_overwrites([(path, ours) for path in outputs], inputs)
    assert caught.value.exit_code is ExitCode.CONFIG
    return [problem.message for problem in caught.value.problems]


def test_new_files_and_own_ones_may_be_written(tmp_path):
    (tmp_path / "own").write_text('[{"ours": 1}]')
    refuse_overwrites([(tmp_path / "new" / "a", ours), (tmp_path / "own", ours)], [tmp_path / "x"])


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"ours', "3", "text"])
def test_files_of_others_may_not(content, tmp_path):
    (tmp_path / "a").write_text(content)
    assert "did not write" in refused([tmp_path / "a"])[0]


def test_one_file_is_found_under_every_name(tmp_path):
    (tmp_path / "a").write_text('{"ours": 1}')
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "folder").symlink_to(tmp_path)
    os.link(tmp_path / "a", tmp_path / "hard")
    for name in ("./a", "folder/a", "link", "hard", "../" + tmp_path.name + "/a", "A"):
        assert refused([tmp_path / name], [tmp_path / "a"]) == [
            "the output would overwrite an input"
        ]
        assert refused([tmp_path / "a", tmp_path / name])[0].endswith("another output")


def test_neither_a_folder_nor_a_link_to_nowhere_is_replaced(tmp_path):
    (tmp_path / "link").symlink_to("nowhere")
    assert refused([tmp_path / "link"]) and "a folder" in refused([tmp_path])[0]


def test_text_is_known_by_its_beginning(tmp_path):
    (tmp_path / "a").write_text("case,new_lesions,F1\n")
    assert is_text_with("case,new_lesions,")(tmp_path / "a")
    assert not is_text_with("generator")(tmp_path / "a")


@pytest.mark.badinput
@pytest.mark.parametrize(
    ("place", "refused"),
    [
        ("data", True),
        ("data/runs", True),
        ("data/../data/runs/new", True),
        ("link/runs", True),
        ("runs", False),
        ("database", False),
        ("data/derivatives/new_lesions", False),
        (".", False),
    ],
)
def test_results_are_not_written_between_the_data(place, refused, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to("data")
    places = {"paths.runs": tmp_path / place, "paths.cache": tmp_path / "cache"}
    refuse_inside_data(None, places)
    if not refused:
        refuse_inside_data(tmp_path / "data", places)
        return
    with pytest.raises(MssegError) as caught:
        refuse_inside_data(tmp_path / "data", places)
    (problem,) = caught.value.problems
    found = (problem.code, problem.field, problem.exit_code)
    assert found == ("output.inside_data", "paths.runs", ExitCode.CONFIG)
