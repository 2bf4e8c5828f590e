"""Images and masks: each fault of the catalogue, mended as its remedy says."""

from __future__ import annotations

import dataclasses
import re
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import yaml

from msseg_lightning.core.problem import Problem
from msseg_lightning.core.volume import Volume
from msseg_lightning.read.content import check_visits
from msseg_lightning.read.gate import check_subject
from msseg_lightning.read.geometry import read_itk_affine
from msseg_lightning.read.msseg2 import Msseg2
from msseg_lightning.read.nifti import GateOptions, gate_options, read_header, read_volume
from msseg_lightning.read.stream import Limits, Stream
from tests.read import files
from tests.read.files import FOLLOWUP
from tests.read.test_content import ROWS as CONTENT_ROWS
from tests.read.test_gate import ROWS, Row, data_of, edit, lines
from tests.read.test_geometry import TRANSFORM
from tests.remedies.place import CASES, Case, Place, Refusal, case


def two_members(folder: Path) -> None:
    (folder / FOLLOWUP).write_bytes((folder / FOLLOWUP).read_bytes() + b"<html>")


def with_extension(folder: Path) -> None:
    content = files.unpack(folder / FOLLOWUP)
    struct.pack_into("<f", content, files.OFFSET, 368.0)
    files.pack(folder / FOLLOWUP, content[:348] + b"\1\0\0\0" + bytes(16) + content[352:])


def magic(text: bytes) -> Callable[[Path], None]:
    return edit(FOLLOWUP, 344, "4s", text)


def second_header(folder: Path) -> None:
    nib.save(nib.Nifti2Image(data_of(folder / FOLLOWUP), files.AFFINE), folder / FOLLOWUP)


def bomb(folder: Path) -> None:
    header = bytes(files.unpack(folder / FOLLOWUP)[:352])
    files.zeros_behind_header(folder / FOLLOWUP, header, 96 << 20)


MORE_ROWS = [
    Row("bits", edit(FOLLOWUP, files.BITPIX, "h", 8), "image.bits", accepted=True),
    Row("offset", edit(FOLLOWUP, files.OFFSET, "f", 12.5), "image.offset"),
    Row("extension", with_extension, "image.extension", accepted=True),
    Row("header_size", edit(FOLLOWUP, 0, "i", 999), "image.header_size"),
    Row("magic", magic(b"abc\0"), "image.magic"),
    Row("pair_file", magic(b"ni1\0"), "image.pair_file"),
    Row("nifti2", second_header, "image.nifti2"),
    Row("orientation_code", edit(FOLLOWUP, files.QCODE, "h", 99), "image.orientation_code"),
    Row("trailing", two_members, "image.trailing"),
    Row("bomb", bomb, "image.bomb"),
    Row("dicom", lines(bytes(128) + b"DICM" + bytes(400)), "image.not_nifti"),
    Row("zip", lines(b"PK\x03\x04" + bytes(400)), "image.not_nifti"),
    *CONTENT_ROWS,
]

NOTHING = re.compile(
    r"nothing to do|look at mask and scan|check the dates|it is never copied to outputs"
)
"""Remedies of warnings that leave the file as it is."""

SOUND_FILE = re.compile(
    r"(?:copy or download|write|export|convert|restore|download|extract|stack|resample|register|"
    r"save|make|correct|put|unpack|fetch|threshold|do not use this file; get it again|"
    r"check that this|check that lesions are bright; write|find out|"
    r"read as mm; correct|exchange|compare both scans)\b"
)
"""Remedies by which the sound file comes to stand in the place of the damaged one."""


def _check(row: Row, root: Path, options: GateOptions | None = None) -> list[Problem]:
    subject = dataclasses.replace(Msseg2(root).subjects()[0], registered=row.registered)
    return check_subject(subject, options or GateOptions(**row.options))


def _follow_row(row: Row) -> Callable[[Place], None]:
    def follow(place: Place) -> None:
        folder = files.good_pair(place.folder, brain=row.brain)
        sound = {path: path.read_bytes() for path in folder.iterdir()}
        row.damage(folder)
        refusal = place.among(row.code, _check(row, place.folder))
        ways = 0
        for choice in refusal.settings():
            ways += 1
            if not choice[0].startswith("read"):  # which `as_a_raw_pair` follows
                _with_setting(choice, row, place.folder)
        if named := re.match(r"rename it to end in (\S+)", refusal.remedy):
            ways += 1
            _rename(place, refusal, named[1])
        elif NOTHING.match(refusal.remedy):
            ways += 1
            assert row.code not in {
                p.code for p in _check(row, place.folder) if p.severity == "error"
            }
        elif SOUND_FILE.match(refusal.remedy):
            ways += 1
            for path, content in sound.items():
                path.write_bytes(content)
            (place.folder / "participants.tsv").unlink(missing_ok=True)
            after = _check(row, place.folder)
            assert row.code not in {p.code for p in after if p.severity == "error"}
        assert ways, f"nobody knows how to follow {refusal.remedy!r}"

    follow.__name__ = row.name
    return follow


def _with_setting(choice: list[str], row: Row, root: Path) -> None:
    values = {}
    for word in choice:
        key, _, value = word.partition("=")
        assert key.startswith("data.reading."), f"{key} is no setting of a command"
        values[key.removeprefix("data.reading.")] = yaml.safe_load(value)
    if "allow_nan_outside_brain" in values:  # what the remedy says it needs: a brain mask
        files.save(root / "013" / files.BRAIN, files.head().astype(np.uint8))
        row = dataclasses.replace(row, damage=lambda folder: None)
        data = data_of(root / "013" / FOLLOWUP)
        if not np.isfinite(data[files.head()]).all():
            return  # inside the brain only the first half of the remedy helps
    errors = [p for p in _check(row, root, gate_options(values)) if p.severity == "error"]
    assert row.code not in {p.code for p in errors}, [str(p) for p in errors]


def _rename(place: Place, refusal: Refusal, ending: str) -> None:
    old = next(place.folder.rglob(FOLLOWUP))
    new = old.with_name(old.name.removesuffix(".gz").removesuffix(".nii") + ending)
    old.rename(new)
    _, problems = read_header(new, GateOptions(strict=True))
    assert refusal.code not in {problem.code for problem in problems}


CASES.extend(
    Case((row.code if row.code not in ("image.sform", "image.qform") else "image.{form}",),
         _follow_row(row))
    for row in (*ROWS, *MORE_ROWS)
    if row.code
)  # fmt: skip


@case("mask.values")
def by_the_command_line(place: Place) -> None:
    """The setting of the remedy is taken by a command, quotes and all."""
    folder = files.good_pair(place.folder / "data")
    files.save(folder / files.TARGET, data_of(folder / files.TARGET) * 255)
    words = ["check", "read=msseg2", "read.root=data", "--workers", "1"]
    refusal = place.refused("mask.values", words)
    place.follow_settings(refusal, words)
    mask = folder / files.TARGET
    words = ["evaluate", mask, mask]
    for _ in ("prediction", "reference"):  # which are told one after the other
        refusal = place.refused("mask.values", words)
        options = re.findall(r"--\S+", refusal.remedy)
        assert options, refusal.remedy
        words += options
    place.ends_well(words)


@case("pair.grid")
def as_a_raw_pair(place: Place) -> None:
    """The settings that the remedy names for readers of raw pairs are settings of these."""
    row = next(row for row in ROWS if row.name == "B33")
    folder = files.good_pair(place.folder / "data")
    row.damage(folder)
    (folder / files.TARGET).unlink()
    (place.folder / "pairs.csv").write_text(
        "id,baseline_flair,followup_flair\n"
        f"013,data/013/{files.BASELINE},data/013/{files.FOLLOWUP}\n"
    )
    words = ["check", "read=table", "read.manifest=pairs.csv", "read.registered=true"]
    refusal = place.refused("pair.grid", words)
    choice = next(c for c in refusal.settings() if "read=table" in c)
    place.ends_well([*words[:1], *words[2:3], *choice])


@case("content.other_person")
def the_scan_of_another_person(place: Place) -> None:
    visits = [Volume(data, files.AFFINE) for data in files.scans()[:2]]
    refusal = place.among("content.other_person", list(check_visits(*visits, 0.4, str)))
    assert refusal.remedy.startswith("put the scan of this person in its place")
    files.good_pair(place.folder)
    found = check_subject(Msseg2(place.folder).subjects()[0])
    assert "content.other_person" not in {problem.code for problem in found}


@case("probability.range")
def logits(place: Place) -> None:
    path = files.save(place.folder / "map.nii.gz", np.full(files.SHAPE, 3.0, np.float32))
    refusal = place.raised("probability.range", lambda: read_volume(path, "probability"))
    assert refusal.remedy.startswith("give the probability map")
    files.save(path, 1 / (1 + np.exp(-data_of(path))))
    read_volume(path, "probability")


@case("image.too_large", "image.unreadable")
def by_the_size_of_the_file(place: Place) -> None:
    path = files.good_pair(place.folder) / FOLLOWUP
    small = dataclasses.replace(Limits(), packed_bytes=10)
    refusal = place.raised("image.too_large", lambda: Stream(path, "a", small))
    assert refusal.remedy == "check that this is one 3D scan"
    gone = path.with_name("gone.nii.gz")
    refusal = place.raised("image.unreadable", lambda: Stream(gone, "a", Limits()))
    assert "check the disk" in refusal.remedy
    gone.write_bytes(path.read_bytes())
    Stream(gone, "a", Limits())


@case("transform.unreadable")
def other_text(place: Place) -> None:
    path = place.folder / "t.txt"
    path.write_text("<html>")
    refusal = place.raised("transform.unreadable", lambda: read_itk_affine(path, "t.txt"))
    assert refusal.remedy == "download the file again"
    path.write_text(TRANSFORM)
    read_itk_affine(path, "t.txt")
