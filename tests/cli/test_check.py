from __future__ import annotations

import json
from pathlib import Path

import pytest

from msseg_lightning.cli.main import main
from msseg_lightning.core.problem import ExitCode
from tests.read import files


@pytest.fixture
def data(tmp_path):
    for name in ("013", "016"):
        files.good_pair(tmp_path / "data", name)
    return tmp_path / "data"


def arguments(data, *more):
    return ["check", "read=msseg2", f"read.root={data}", *more]


def test_sound_data_ends_with_zero(data, capsys):
    assert main(arguments(data)) == ExitCode.OK
    assert "2 pairs checked, 2 with a reference: 0 errors, 0 warnings - sound" in (
        capsys.readouterr().out
    )


def test_the_remedies_of_a_bids_data_set_work_to_the_letter(tmp_path, capsys):
    before, after, _ = files.scans()
    anat = {name: tmp_path / "sub-A" / f"ses-{name}" / "anat" for name in ("red", "blue")}
    files.save(anat["red"] / "sub-A_ses-red_FLAIR.nii.gz", before)
    files.save(anat["blue"] / "sub-A_ses-blue_run-01_FLAIR.nii.gz", after)
    files.save(anat["blue"] / "sub-A_ses-blue_run-02_FLAIR.nii.gz", after + 1)
    words = ["check", "read=bids", f"read.root={tmp_path}"]
    remedies = {}
    for code in ("bids.ambiguous", "bids.order"):
        assert main([*words, *remedies.values()]) == ExitCode.DATA
        text = capsys.readouterr().out
        (line,) = [line for line in text.splitlines() if code in line]
        remedies[code] = line.split(" -> ")[1].split("'")[1]
    assert main([*words, *remedies.values()]) == ExitCode.OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "order    sub-A: ses-blue, ses-red (read.session_order)"
    assert any("unused.image" in line and "run-02" in line for line in lines)
    assert main([*words, remedies["bids.order"], "+read.entities.run=1"]) == ExitCode.OK


def test_refused_data_is_named_for_people_and_programs(data, capsys, tmp_path):
    (data / "016" / files.FOLLOWUP).write_bytes(b"<html>")
    assert main(arguments(data)) == ExitCode.DATA
    text = capsys.readouterr().out
    assert f"016/{files.FOLLOWUP}" in text and "->" in text and "not usable" in text
    assert str(data) not in text
    assert main(arguments(data, "--json", "-")) == ExitCode.DATA
    record = json.loads(capsys.readouterr().out)
    assert record["problems"][0]["file"] == f"016/{files.FOLLOWUP}"
    assert main(arguments(data, "--json", str(tmp_path / "r.json"))) == ExitCode.DATA
    assert json.loads((tmp_path / "r.json").read_text()) == record


def test_the_report_overwrites_reports_only(data, tmp_path):
    (tmp_path / "FLAIR.json").write_text('{"EchoTime": 0.1}')
    for name, status in (("r.json", 0), ("r.json", 0), ("FLAIR.json", ExitCode.CONFIG)):
        assert main(arguments(data, "--json", str(tmp_path / name))) == status
    assert (tmp_path / "FLAIR.json").read_text() == '{"EchoTime": 0.1}'


def test_options_of_the_gate_are_settings(data, capsys):
    files.patch_sform(data / "013" / files.FOLLOWUP, files.AFFINE + 12 * (files.AFFINE == -19))
    assert main(arguments(data)) == ExitCode.DATA
    assert main(arguments(data, "data.reading.trust=qform")) == ExitCode.OK
    assert "the qform was followed" in capsys.readouterr().out
    assert main(arguments(data, "data.reading.trsut=qform")) == ExitCode.CONFIG


def test_frequent_warnings_are_summed_up(tmp_path, capsys):
    for number in range(5):
        folder = files.good_pair(tmp_path, f"{number:03d}")
        files.save(folder / files.TARGET, 0 * files.scans()[2])
    assert main(arguments(tmp_path)) == ExitCode.OK
    text = capsys.readouterr().out
    assert text.count("the mask is empty") == 1 and "and 4 more with [mask.empty]" in text


def test_no_root_is_a_matter_of_configuration(capsys):
    assert main(["check", "read=msseg2"]) == ExitCode.CONFIG


def test_link_out_of_the_root_is_a_security_matter(data, tmp_path):
    (data / "013" / files.FOLLOWUP).rename(tmp_path / "x.nii.gz")
    (data / "013" / files.FOLLOWUP).symlink_to(tmp_path / "x.nii.gz")
    assert main(arguments(data)) == ExitCode.SECURITY


def test_layouts_are_printed_and_stand_in_the_documentation(capsys):
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    assert main(["check", "--layout"]) == ExitCode.OK
    every = capsys.readouterr().out
    for name in ("bids", "msseg2", "open_ms", "several", "single_timepoint", "table"):
        assert main(["check", f"read={name}", "--layout"]) == ExitCode.OK
        one = capsys.readouterr().out
        assert f"read={name}" in one and one in every and one in page


def test_pairs_without_a_reference_are_counted_and_their_masks_named(data, capsys):
    for folder in data.iterdir():
        (folder / "ground_truth.nii.gz").rename(folder / "lesions.nii.gz")
    assert main(arguments(data)) == ExitCode.OK
    said = capsys.readouterr().out
    assert "note     2 of 2 have no reference" in said
    assert main(arguments(data, "read.files.new_lesions=lesions.nii.gz")) == ExitCode.OK
    assert "read.files.new_lesions='lesions.nii.gz'" in said
    assert "2 pairs checked, 2 with a reference" in capsys.readouterr().out
