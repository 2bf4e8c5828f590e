"""RELIABILITY catalogue of bad images, masks and pairs: B00 to B64, one row each."""

from __future__ import annotations

import dataclasses
import gzip
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.core.subject import BASELINE as BASELINE_NAME
from msseg_lightning.core.subject import BRAIN as BRAIN_NAME
from msseg_lightning.core.subject import FOLLOWUP as FOLLOWUP_NAME
from msseg_lightning.core.subject import TARGET as TARGET_NAME
from msseg_lightning.read.gate import check_subject, inspect_subject
from msseg_lightning.read.load import load_subject
from msseg_lightning.read.msseg2 import Msseg2
from msseg_lightning.read.nifti import GateOptions
from tests.read import files
from tests.read.files import BASELINE, FOLLOWUP, TARGET


@dataclasses.dataclass(frozen=True)
class Row:
    """One bad input.

    ``damage`` gets the folder of a sound patient. ``code`` and ``field`` are those of the problem
    that must be named about ``file``; ``accepted`` inputs end with 0, silently where ``code`` is
    empty.
    """

    name: str
    damage: Callable[[Path], None]
    code: str = ""
    field: str = ""
    file: str = FOLLOWUP
    accepted: bool = False
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    found: str = ""
    brain: bool = False
    registered: bool = True
    also: tuple[str, ...] = ()


def cut(path: Path, keep: Callable[[int], int]) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: keep(len(content))])


def flip_byte(path: Path, place: Callable[[int], int], bit: int = 1) -> None:
    content = bytearray(path.read_bytes())
    content[place(len(content))] ^= bit
    path.write_bytes(content)


def edit(name: str, offset: int, form: str, *values: float) -> Callable[[Path], None]:
    return lambda folder: files.patch(folder / name, offset, form, *values)


def data_of(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj).copy()


def replace(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    return lambda folder: files.save(folder / name, change(data_of(folder / name)))


def resave(name: str, affine: np.ndarray, shape: tuple[int, ...] | None = None):
    def damage(folder: Path) -> None:
        data = data_of(folder / name)
        if shape is not None:
            data = data[tuple(slice(size) for size in shape)]
        files.save(folder / name, data, affine)

    return damage


def unlabelled(damage: Callable[[Path], None]) -> Callable[[Path], None]:
    def both(folder: Path) -> None:
        damage(folder)
        (folder / TARGET).unlink()

    return both


def voxel(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(data: np.ndarray) -> np.ndarray:
        data = data.astype(np.float32)
        data[20, 24, 18] = value
        return data

    return change


def mirrored(affine: np.ndarray) -> np.ndarray:
    return np.diag([-1.0, 1, 1, 1]) @ affine


def turned(degrees: float) -> np.ndarray:
    angle = np.radians(degrees)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn @ files.AFFINE


def sheared() -> np.ndarray:
    affine = files.AFFINE.copy()
    affine[0, 1] = 0.15
    return affine


def moved(millimetres: float) -> np.ndarray:
    affine = files.AFFINE.copy()
    affine[0, 3] += millimetres
    return affine


def uncompressed(folder: Path) -> None:
    (folder / FOLLOWUP).write_bytes(files.unpack(folder / FOLLOWUP))


def fewer_voxels(folder: Path) -> None:
    files.pack(folder / FOLLOWUP, files.unpack(folder / FOLLOWUP)[:-5000])


def more_bytes(folder: Path) -> None:
    files.pack(folder / FOLLOWUP, files.unpack(folder / FOLLOWUP) + b"appendix")


def of_type(dtype: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        data = data_of(folder / FOLLOWUP)
        if dtype == "rgb":
            channels = np.repeat(np.clip(data, 0, 255).astype(np.uint8)[..., None], 3, -1)
            data = channels.copy().view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
        else:
            data = data.astype(dtype)
        files.save(folder / FOLLOWUP, data)

    return damage


def bomb(folder: Path) -> None:
    header = files.unpack(folder / FOLLOWUP)[:352]
    header[40:56] = np.array([3, 1000, 1000, 800, 1, 1, 1, 1], "<i2").tobytes()
    files.zeros_behind_header(folder / FOLLOWUP, bytes(header), 64 << 20)


def mirrored_forms(folder: Path) -> None:
    files.patch_sform(folder / FOLLOWUP, mirrored(files.AFFINE))


def shifted_forms(folder: Path) -> None:
    files.patch_sform(folder / FOLLOWUP, moved(12.0))


def no_orientation(folder: Path) -> None:
    files.patch(folder / FOLLOWUP, files.QCODE, "2h", 0, 0)


def mirrored_voxels(folder: Path) -> None:
    files.save(folder / FOLLOWUP, data_of(folder / FOLLOWUP)[::-1])


def other_axis_order(folder: Path) -> None:
    image = nib.load(folder / FOLLOWUP)
    order = np.array([[1, -1], [2, 1], [0, -1]])
    again = image.as_reoriented(order)
    files.save(folder / FOLLOWUP, np.asarray(again.dataobj), again.affine)


def copy_baseline(folder: Path) -> None:
    files.save(folder / FOLLOWUP, data_of(folder / BASELINE))


def swap_visits(folder: Path) -> None:
    baseline, followup = (folder / BASELINE).read_bytes(), (folder / FOLLOWUP).read_bytes()
    (folder / BASELINE).write_bytes(followup)
    (folder / FOLLOWUP).write_bytes(baseline)


def swap_with_dates(folder: Path) -> None:
    swap_visits(folder)
    table = "participant_id\tinterval_days\n013\t-400\n"
    (folder.parent / "participants.tsv").write_text(table)


def outside_brain(folder: Path) -> None:
    mask = np.zeros(files.SHAPE, np.uint8)
    mask[:3, :3, :3] = 1
    files.save(folder / TARGET, mask)


def big_endian(folder: Path) -> None:
    content = files.unpack(folder / FOLLOWUP)
    header = nib.Nifti1Header(bytes(content[:348]), check=False).as_byteswapped(">")
    voxels = np.frombuffer(bytes(content[352:]), "<f4").astype(">f4").tobytes()
    files.pack(folder / FOLLOWUP, header.binaryblock + bytes(4) + voxels)


def four_axes(last: int) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        data = data_of(folder / FOLLOWUP)
        files.save(folder / FOLLOWUP, np.stack([data] * last, -1))

    return damage


def reshaped(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        files.save(folder / FOLLOWUP, change(data_of(folder / FOLLOWUP)))

    return damage


def lines(text: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / FOLLOWUP).write_bytes(text) and None


DIMS = (files.DIM, "8h")
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 123\n"
ANNEX = b"/annex/objects/MD5E-s123--d41d8cd9.nii.gz\n"

ROWS = [
    Row("B00", lambda folder: None, accepted=True),
    Row("B01", lambda f: cut(f / FOLLOWUP, lambda n: n // 2), "image.truncated", "gzip stream"),
    Row("B02", lambda f: cut(f / FOLLOWUP, lambda n: n - 4), "image.truncated", "gzip stream"),
    Row("B03", lambda f: flip_byte(f / FOLLOWUP, lambda n: n - 6), "image.corrupt", "gzip stream"),
    Row("B04", lambda f: flip_byte(f / FOLLOWUP, lambda n: n // 2), "image.corrupt", "gzip stream"),
    Row("B05", lines(b""), "image.empty_file", "file size"),
    Row("B06", uncompressed, "image.file_ending", "file name", accepted=True),
    Row("B06-strict", uncompressed, "image.file_ending", "file name", options={"strict": True}),
    Row("B07", lines(gzip.compress(b"patient list\n" * 40)), "image.not_nifti", "first bytes",
        found="patient list"),
    Row("B08", lines(b"<!DOCTYPE html><html><title>Log in</title>"), "image.not_nifti",
        "first bytes", found="<!DOCTYPE html>"),
    Row("B09-lfs", lines(POINTER), "image.pointer", "first bytes"),
    Row("B09-annex", lines(ANNEX), "image.pointer", "first bytes"),
    Row("B10", fewer_voxels, "image.short", "dim", found="271832 bytes"),
    Row("B11", more_bytes, "image.extra_bytes", "file size", accepted=True),
    Row("B12", four_axes(1), "image.extra_axis", "dim", accepted=True),
    Row("B13", four_axes(2), "image.four_dimensional", "dim"),
    Row("B14", lambda f: files.save(f / FOLLOWUP, data_of(f / FOLLOWUP)[:, :, 18]), "image.flat",
        "dim"),
    Row("B14-channel", reshaped(lambda data: data[None]), "image.axis_of_one", "dim",
        found="1 x 40 x 48 x 36"),
    Row("B14-two-axes", reshaped(lambda data: data[None, :, :, :, None]), "image.axis_of_one",
        "dim"),
    Row("B14-series", reshaped(lambda data: data[:, :, None]), "image.axis_of_one", "dim"),
    Row("B14-channels", reshaped(lambda data: np.stack([data, data])), "image.channels_first",
        "dim", found="2 x 40 x 48 x 36"),
    Row("B14-row", reshaped(lambda data: data[None, :, 18]), "image.flat", "dim"),
    Row("B12-two", reshaped(lambda data: data[..., None, None]), "image.extra_axis", "dim",
        accepted=True),
    Row("B15", of_type("rgb"), "image.data_type", "datatype", found="RGB"),
    Row("B16", of_type(np.complex64), "image.data_type", "datatype", found="complex64"),
    Row("B17", edit(FOLLOWUP, *DIMS, 3, 32767, 32767, 32767, 1, 1, 1, 1), "image.too_large", "dim"),
    Row("B18", edit(FOLLOWUP, *DIMS, 3, -40, 48, 36, 1, 1, 1, 1), "image.size", "dim"),
    Row("B19", edit(FOLLOWUP, *DIMS, 3, 40, 0, 36, 1, 1, 1, 1), "image.size", "dim"),
    Row("B20", edit(FOLLOWUP, *DIMS, 9, 40, 48, 36, 1, 1, 1, 1), "image.axes", "dim"),
    Row("B21", bomb, "image.too_large", "dim"),
    Row("B22", edit(FOLLOWUP, files.PIXDIM + 4, "f", 0.0), "image.voxel_size", "pixdim"),
    Row("B23", edit(FOLLOWUP, files.PIXDIM + 4, "f", -1.0), "image.voxel_size", "pixdim"),
    Row("B24", edit(FOLLOWUP, files.PIXDIM + 4, "f", np.nan), "image.voxel_size", "pixdim"),
    Row("B25", edit(FOLLOWUP, files.SROW, "f", np.nan), "image.sform", "srow_x"),
    Row("B26", edit(FOLLOWUP, files.SROW, "12f", *[0.0] * 12), "image.sform", "srow_x"),
    Row("B27", no_orientation, "image.no_orientation", "qform_code"),
    Row("B28", shifted_forms, "image.form_conflict", "qform, sform", found="12.0 mm"),
    Row("B28-qform", shifted_forms, "image.form_conflict", "qform, sform", accepted=True,
        options={"trust": "qform"}),
    Row("B29", mirrored_forms, "image.mirrored_forms", "qform, sform"),
    Row("B29-trust", mirrored_forms, "image.mirrored_forms", "qform, sform",
        options={"trust": "qform"}),
    Row("B30", mirrored_voxels, "pair.mirrored", "voxel values"),
    Row("B30-confirmed", mirrored_voxels, "pair.mirrored", "voxel values", accepted=True,
        options={"confirm_mirrored": True}),
    Row("B31", resave(FOLLOWUP, mirrored(files.AFFINE)), "pair.grid", "origin"),
    Row("B32", other_axis_order, "pair.axis_order", "affine", accepted=True),
    Row("B33", resave(FOLLOWUP, files.AFFINE, (40, 48, 32)), "pair.grid", "dim"),
    Row("B33-raw", unlabelled(resave(FOLLOWUP, files.AFFINE, (40, 48, 32))), "pair.grid", "dim",
        accepted=True, registered=False),
    Row("B33-mask", resave(FOLLOWUP, files.AFFINE, (40, 48, 32)), "mask.grid", "dim", TARGET,
        registered=False),
    Row("B34", resave(FOLLOWUP, files.AFFINE @ np.diag([1.2, 1.2, 1.2, 1])), "pair.grid", "pixdim"),
    Row("B35", resave(FOLLOWUP, moved(20.0)), "pair.grid", "origin", found="20.0 mm"),
    Row("B36", resave(FOLLOWUP, turned(8.0)), "pair.grid", "orientation", found="8.0 degrees"),
    Row("B37", lambda f: files.patch_sform(f / FOLLOWUP, sheared()), "image.shear", "sform"),
    Row("B38", replace(FOLLOWUP, np.zeros_like), "image.constant", "voxel values"),
    Row("B39", replace(FOLLOWUP, lambda d: np.full_like(d, 7)), "image.constant", "voxel values",
        found="7 in every"),
    Row("B40", replace(FOLLOWUP, voxel(np.nan)), "image.not_finite", "voxel values", found="1 NaN"),
    Row("B40-outside", replace(FOLLOWUP, lambda d: np.where(files.head(), d, np.nan)),
        "image.not_finite", "voxel values", accepted=True, brain=True,
        options={"allow_nan_outside_brain": True}),
    Row("B40-inside", replace(FOLLOWUP, voxel(np.nan)), "image.not_finite", "voxel values",
        brain=True, options={"allow_nan_outside_brain": True}),
    Row("B41", replace(FOLLOWUP, voxel(np.inf)), "image.not_finite", "voxel values",
        found="1 infinite"),
    Row("B42", replace(FOLLOWUP, lambda d: np.full_like(d, np.nan)), "image.not_finite",
        "voxel values"),
    Row("B43", edit(FOLLOWUP, files.SLOPE, "2f", 0.0, 0.0), accepted=True),
    Row("B44", edit(FOLLOWUP, files.SLOPE, "2f", np.nan, np.nan), "image.slope_nan", "scl_slope",
        accepted=True),
    Row("B45", edit(FOLLOWUP, files.SLOPE, "2f", np.inf, 0.0), "image.slope", "scl_slope"),
    Row("B46", edit(FOLLOWUP, files.SLOPE, "2f", 1e38, 0.0), "image.overflow", "scl_slope"),
    Row("B47", edit(FOLLOWUP, files.SLOPE, "2f", -1.0, 300.0), "image.slope_negative", "scl_slope",
        accepted=True, also=("pair.swapped",)),
    Row("B47-strict", edit(FOLLOWUP, files.SLOPE, "2f", -1.0, 300.0), "image.slope_negative",
        "scl_slope", options={"strict": True}),
    Row("B48", copy_baseline, "pair.same_image", "voxel values"),
    Row("B49", swap_visits, "pair.swapped", "visit order", accepted=True),
    Row("B49-dates", swap_with_dates, "pair.interval", "interval_days", file="013"),
    Row("B50", replace(TARGET, lambda d: (d * 0.7).astype(np.float32)), "mask.values",
        "voxel values", TARGET),
    Row("B50-soft", replace(TARGET, lambda d: (d * 0.7).astype(np.float32)), accepted=True,
        options={"soft_labels": True}),
    Row("B51", replace(TARGET, lambda d: d * 255), "mask.values", "voxel values", TARGET),
    Row("B51-meaning", replace(TARGET, lambda d: d * 255), accepted=True,
        options={"label_values": {255: 1}}),
    Row("B52", replace(TARGET, lambda d: d * 2), "mask.values", "voxel values", TARGET),
    Row("B53", replace(TARGET, lambda d: -d.astype(np.int16)), "mask.values", "voxel values",
        TARGET),
    Row("B54", replace(TARGET, voxel(np.nan)), "mask.not_finite", "voxel values", TARGET),
    Row("B55", replace(TARGET, np.zeros_like), "mask.empty", "voxel values", TARGET, accepted=True),
    Row("B55-brain", replace(files.BRAIN, np.zeros_like), "mask.no_brain", "voxel values",
        files.BRAIN, brain=True),
    Row("B56", replace(TARGET, np.ones_like), "mask.too_full", "voxel values", TARGET,
        found="100%"),
    Row("B57", outside_brain, "mask.outside_brain", "voxel values", TARGET, accepted=True),
    Row("B58", resave(TARGET, files.AFFINE, (40, 48, 32)), "mask.grid", "dim", TARGET),
    Row("B59", resave(TARGET, mirrored(files.AFFINE)), "mask.mirrored", "affine", TARGET),
    Row("B60", replace(TARGET, lambda d: d * np.float32(1.000001)), "mask.rounded",
        "voxel values", TARGET, accepted=True),
    Row("B61", lambda f: files.save(f / TARGET, data_of(f / FOLLOWUP)), "mask.values",
        "voxel values", TARGET),
    Row("B62", edit(FOLLOWUP, files.UNITS, "B", 1), "image.units", "xyzt_units", accepted=True),
    Row("B63", big_endian, accepted=True),
    Row("B64", edit(FOLLOWUP, files.DESCRIP, "12s", b"DOE^JANE 60Y"), "image.text", "descrip",
        accepted=True),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row(row, tmp_path):
    folder = files.good_pair(tmp_path, brain=row.brain)
    row.damage(folder)
    subject = dataclasses.replace(Msseg2(tmp_path).subjects()[0], registered=row.registered)
    options = GateOptions(**row.options)
    problems = check_subject(subject, options)
    errors = [problem for problem in problems if problem.severity == "error"]
    text = "\n".join(map(str, problems))
    assert "DOE" not in text and str(tmp_path) not in text

    if row.code:
        named = [problem for problem in problems if problem.code == row.code]
        assert named, text
        problem = named[0]
        expected = row.file if row.file == "013" else f"013/{row.file}"
        assert str(problem.file) == expected
        assert row.field in problem.field
        assert problem.remedy
        assert row.found in problem.found
    if row.accepted:
        assert not errors, text
        assert [problem.code for problem in problems] == [
            *([row.code] if row.code else []),
            *row.also,
        ]
        load_subject(subject, options)
    else:
        assert [problem.code for problem in errors] == [row.code], text
        with pytest.raises(MssegError) as caught:
            load_subject(subject, options)
        assert caught.value.exit_code is ExitCode.DATA


def test_every_row_of_the_catalogue_is_here():
    assert {row.name[:3] for row in ROWS} == {f"B{number:02d}" for number in range(65)}


def test_centred_mirrored_header_is_seen_by_content(tmp_path):
    # the hole of row B31: about x = 0 the mirrored grid coincides with the true one
    folder = files.good_pair(tmp_path)
    centred = files.AFFINE.copy()
    centred[0, 3] = -19.5
    for name in (BASELINE, FOLLOWUP, TARGET):
        files.save(folder / name, data_of(folder / name), centred)
    subject = Msseg2(tmp_path).subjects()[0]
    assert not [p for p in check_subject(subject) if p.severity == "error"]
    files.save(folder / FOLLOWUP, data_of(folder / FOLLOWUP), mirrored(centred))
    files.save(folder / TARGET, data_of(folder / TARGET), mirrored(centred))
    assert "pair.mirrored" in {problem.code for problem in check_subject(subject)}


@pytest.mark.parametrize(
    "claimed", [(32767, 32767, 32767), (1000, 1000, 800), (600, 600, 600), files.SHAPE]
)
def test_no_memory_is_taken_for_what_a_file_claims(claimed, tmp_path):
    folder = files.good_pair(tmp_path)
    header = files.unpack(folder / FOLLOWUP)[:352]
    header[40:56] = np.array([3, *claimed, 1, 1, 1, 1], "<i2").tobytes()
    if claimed[0] == 600:  # many small voxels
        header[70:74] = np.array([2, 8], "<i2").tobytes()
    files.zeros_behind_header(folder / FOLLOWUP, bytes(header), 96 << 20)
    subject = Msseg2(tmp_path).subjects()[0]
    inspect_subject(subject)  # imports are not what is measured
    tracemalloc.start()
    problems = check_subject(subject)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    expected = "image.bomb" if claimed == files.SHAPE else "image.too_large"
    assert expected in {problem.code for problem in problems}
    assert peak < 16 << 20


def test_impossible_ratio_is_refused_before_unpacking(tmp_path):
    # 200 MB cannot come out of a few hundred bytes: deflate shrinks by 1032 at most
    folder = files.good_pair(tmp_path)
    header = files.unpack(folder / FOLLOWUP)[:352]
    header[40:56] = np.array([3, 400, 400, 300, 1, 1, 1, 1], "<i2").tobytes()
    files.pack(folder / FOLLOWUP, header + bytes(1000))
    codes = {problem.code for problem in check_subject(Msseg2(tmp_path).subjects()[0])}
    assert codes == {"image.short"}


def test_all_problems_of_a_pair_are_reported_together(tmp_path):
    folder = files.good_pair(tmp_path)
    files.patch(folder / FOLLOWUP, files.PIXDIM + 4, "f", 0.0)
    files.patch(folder / FOLLOWUP, files.DATATYPE, "h", 32)
    (folder / BASELINE).write_bytes(b"")
    replace(TARGET, lambda data: data * 255)(folder)
    codes = {problem.code for problem in check_subject(Msseg2(tmp_path).subjects()[0])}
    assert codes >= {"image.voxel_size", "image.data_type", "image.empty_file", "mask.values"}


def test_harmless_files_give_the_voxels_of_an_independent_reader(tmp_path):
    folder = files.good_pair(tmp_path)
    big_endian(folder)
    other = data_of(folder / BASELINE)
    integers = np.clip(other, 0, 30000).astype(np.int16)
    image = nib.Nifti1Image(integers, files.AFFINE)
    image.header.set_slope_inter(0.5, 3.0)
    nib.save(image, folder / BASELINE)
    loaded = load_subject(Msseg2(tmp_path).subjects()[0])
    for name, file in ((BASELINE_NAME, BASELINE), (FOLLOWUP_NAME, FOLLOWUP)):
        expected = nib.load(folder / file).get_fdata(dtype=np.float32)
        np.testing.assert_array_equal(loaded.volumes[name].data, expected)
        assert loaded.volumes[name].data.dtype == np.float32
    assert loaded.volumes[TARGET_NAME].data.dtype == np.uint8
    assert BRAIN_NAME not in loaded.volumes


def test_other_axis_order_keeps_every_voxel_in_its_place(tmp_path):
    folder = files.good_pair(tmp_path)
    expected = data_of(folder / FOLLOWUP)
    other_axis_order(folder)
    (folder / TARGET).unlink()
    loaded = load_subject(Msseg2(tmp_path).subjects()[0])
    # the native grid is now the follow-up's own; its voxel order holds for both scans
    volume = loaded.volumes[FOLLOWUP_NAME]
    back = nib.as_closest_canonical(nib.Nifti1Image(np.asarray(volume.data), volume.affine))
    np.testing.assert_array_equal(np.asarray(back.dataobj), expected)
    assert loaded.grid.same_as(loaded.native.grid)


@pytest.mark.parametrize("labels", [{1: 0, 2: 1}, {2: 1, 1: 0}])
def test_labels_speak_of_references_and_not_of_other_masks(labels, tmp_path):
    """New lesions are 2 and old ones 1; brain and all lesions of a visit are 0 and 1 as ever."""
    folder = files.good_pair(tmp_path, brain=True)
    mask = files.scans()[2]
    old = np.roll(mask, 6, axis=1)
    files.save(folder / TARGET, old + 2 * mask)
    for number in range(1, 5):
        files.save(folder / f"ground_truth_expert{number}.nii.gz", old + 2 * mask)
    files.save(folder / "lesions_time01.nii.gz", old)
    files.save(folder / "lesions_time02.nii.gz", old + mask)
    (subject,) = Msseg2(tmp_path).subjects()
    volumes = load_subject(subject, GateOptions(label_values=labels)).volumes
    for name in (TARGET_NAME, f"{TARGET_NAME}_rater3"):
        np.testing.assert_array_equal(volumes[name].data, mask)
    np.testing.assert_array_equal(volumes[BRAIN_NAME].data, files.head())
    np.testing.assert_array_equal(volumes["baseline_lesions"].data, old)
    np.testing.assert_array_equal(volumes["followup_lesions"].data, old + mask)


@pytest.mark.parametrize("file", [files.BRAIN, "lesions_time02.nii.gz"])
def test_the_remedy_for_labels_in_other_masks_is_not_one_for_references(file, tmp_path):
    folder = files.good_pair(tmp_path)
    files.save(folder / file, files.scans()[2] * 255)
    (subject,) = Msseg2(tmp_path).subjects()
    with pytest.raises(MssegError) as caught:
        load_subject(subject, GateOptions(label_values={255: 1}))
    (problem,) = caught.value.problems
    assert problem.code == "mask.values" and "label_values" not in problem.remedy
