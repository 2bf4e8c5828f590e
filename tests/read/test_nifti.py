from __future__ import annotations

import gzip
import time

import nibabel as nib
import numpy as np
import pytest

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.core.volume import Grid
from msseg_lightning.read.header import TEXT_FIELDS
from msseg_lightning.read.nifti import (
    GATE_DEFAULTS,
    GateOptions,
    changed_options,
    gate_options,
    native_from_grid,
    read_header,
    read_volume,
    write_volume,
)
from msseg_lightning.read.stream import Limits, Stream
from tests.read import files

OBLIQUE = np.array(
    [[-0.9, 0.1, 0.0, 12.5], [0.1, 0.88, -0.3, -3.25], [0.02, 0.26, 1.15, 7.0], [0, 0, 0, 1.0]]
)


def right_angled(affine: np.ndarray) -> np.ndarray:
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    left, _, right = np.linalg.svd(affine[:3, :3] / sizes)
    straight = affine.copy()
    straight[:3, :3] = (left @ right) * sizes
    return straight


@pytest.mark.parametrize("handedness", [1.0, -1.0])
@pytest.mark.parametrize("forms", ["both", "qform", "sform"])
def test_affine_and_voxels_equal_those_of_nibabel(handedness, forms, tmp_path):
    affine = right_angled(OBLIQUE @ np.diag([handedness, 1, 1, 1]))
    data = np.random.default_rng(0).normal(size=(5, 7, 6)).astype(np.float32)
    image = nib.Nifti1Image(data, affine)
    image.set_qform(affine, int(forms != "sform"))
    image.set_sform(affine, int(forms != "qform"))
    nib.save(image, tmp_path / "a.nii.gz")
    volume = read_volume(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(volume.affine, nib.load(tmp_path / "a.nii.gz").affine, atol=1e-6)
    np.testing.assert_array_equal(volume.data, data)


def test_half_turn_quaternion(tmp_path):
    # a half turn about z stores a = 0: (b, c, d) = (0, 0, 1); x and y change sign
    affine = np.diag([-2.0, -3.0, 4.0, 1.0])
    image = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), None)
    image.set_qform(affine, 1)
    nib.save(image, tmp_path / "a.nii")
    np.testing.assert_allclose(read_volume(tmp_path / "a.nii").affine, affine, atol=1e-6)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
def test_every_real_number_type_is_read(dtype, tmp_path):
    data = np.arange(2 * 3 * 4).reshape(2, 3, 4).astype(dtype)
    nib.save(nib.Nifti1Image(data, np.eye(4), dtype=dtype), tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii.gz").data, data.astype(np.float32))


def test_two_gzip_members_are_one_file(tmp_path):
    path = files.save(tmp_path / "a.nii.gz", files.scans()[0])
    plain = bytes(files.unpack(path))
    path.write_bytes(gzip.compress(plain[:1000]) + gzip.compress(plain[1000:]))
    np.testing.assert_array_equal(read_volume(path).data, files.scans()[0])


def test_something_else_behind_the_stream_is_refused(tmp_path):
    path = files.save(tmp_path / "a.nii.gz", files.scans()[0])
    path.write_bytes(path.read_bytes() + b"<html>")
    with pytest.raises(MssegError, match=r"image.trailing"):
        read_volume(path)


def test_every_cut_is_noticed(tmp_path):
    path = files.save(tmp_path / "a.nii.gz", np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(MssegError) as caught:
            read_volume(path)
        assert caught.value.exit_code is ExitCode.DATA


def test_every_flipped_bit_is_refused_or_harmless(tmp_path):
    data = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    path = files.save(tmp_path / "a.nii.gz", data)
    whole = path.read_bytes()
    harmless = 0
    for place in range(len(whole)):
        for bit in (0, 5):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            try:
                volume = read_volume(path)
            except MssegError as error:
                assert error.exit_code is ExitCode.DATA
            else:  # in time stamp, name and unused codes; no voxel may change
                np.testing.assert_array_equal(volume.data, data)
                harmless += 1
    assert harmless < 0.15 * 2 * len(whole)


def test_stream_says_how_many_bytes_arrived(tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(bytes(range(200)) * 5))
    assert bytes(Stream(path, "a", Limits()).body(1000)[0]) == bytes(range(200)) * 5
    with pytest.raises(MssegError, match="1000 bytes; expected 1100 bytes"):
        Stream(path, "a", Limits()).body(1100)


def test_written_map_has_the_geometry_of_its_source_and_nothing_else(tmp_path):
    source = files.save(tmp_path / "a.nii.gz", files.scans()[0], right_angled(OBLIQUE))
    files.patch(source, files.DESCRIP, "12s", b"DOE^JANE 60Y")
    files.patch(source, 228, "8s", b"jane.txt")
    facts = {}
    read_volume(source, facts=facts)
    native = facts[source].native
    assert b"DOE" not in native.header and b"jane" not in native.header
    mask = files.scans()[2]
    write_volume(tmp_path / "m.nii.gz", mask, native)
    first = (tmp_path / "m.nii.gz").read_bytes()
    time.sleep(0.01)
    write_volume(tmp_path / "m.nii.gz", mask, native)
    assert (tmp_path / "m.nii.gz").read_bytes() == first
    assert b"DOE" not in gzip.decompress(first)
    written, original = nib.load(tmp_path / "m.nii.gz"), nib.load(source)
    assert written.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(written.dataobj), mask)
    for form in ("get_qform", "get_sform"):
        np.testing.assert_array_equal(getattr(written, form)(), getattr(original, form)())
    assert not any(written.header[field].item() for field in TEXT_FIELDS)
    again = read_volume(tmp_path / "m.nii.gz", "mask")
    assert again.grid.same_as(native.grid, 0.0) and again.data.dtype == np.uint8


def test_probability_is_written_as_float(tmp_path):
    native = native_from_grid(Grid((3, 4, 5), right_angled(OBLIQUE)))
    values = np.linspace(0, 1, 60, dtype=np.float32).reshape(3, 4, 5)
    write_volume(tmp_path / "p.nii", values, native, "probability")
    volume = read_volume(tmp_path / "p.nii", "probability")
    np.testing.assert_array_equal(volume.data, values)
    assert volume.grid.same_as(native.grid, 1e-5)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (np.zeros((3, 4, 4)), "mask"),
        (np.full((3, 4, 5), 2), "mask"),
        (np.full((3, 4, 5), np.nan), "probability"),
    ],
)
def test_unfit_maps_are_not_written(data, kind, tmp_path):
    native = native_from_grid(Grid((3, 4, 5), np.eye(4)))
    with pytest.raises(ValueError, match=r"p\.nii"):
        write_volume(tmp_path / "p.nii", data, native, kind)
    assert not list(tmp_path.iterdir())


def test_probability_outside_its_range_is_refused(tmp_path):
    path = files.save(tmp_path / "p.nii.gz", files.scans()[0])
    with pytest.raises(MssegError, match=r"probability.range"):
        read_volume(path, "probability")


def test_header_alone(tmp_path):
    header, problems = read_header(files.save(tmp_path / "a.nii.gz", files.scans()[0]))
    assert header.grid.shape == files.SHAPE and not problems
    assert header.bytes_expected == 352 + 4 * 40 * 48 * 36


def test_options_by_name():
    assert gate_options({"trust": "qform", "label_values": {"255": 1}}) == GateOptions(
        trust="qform", label_values={255: 1}
    )
    assert gate_options(GATE_DEFAULTS) == GateOptions() and not changed_options(GATE_DEFAULTS)
    assert changed_options({**GATE_DEFAULTS, "trust": "qform", "strict": False}) == {
        "trust": "qform"
    }
    for wrong in ({"trsut": "qform"}, {"trust": "best"}, {"strict": 0}, {"label_values": 3}):
        with pytest.raises(MssegError) as caught:
            gate_options(wrong)
        assert caught.value.exit_code is ExitCode.CONFIG


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.float32, np.float64])
@pytest.mark.parametrize(
    ("values", "labels", "expected"),
    [
        ((0, 1, 0, 1), {1: 0, 2: 1}, (0, 0, 0, 0)),  # old lesions only
        ((0, 1, 2, 1), {1: 0, 2: 1}, (0, 0, 1, 0)),
        ((0, 1, 2, 1), {2: 1, 1: 0}, (0, 0, 1, 0)),
        ((0, 1, 0, 1), {0: 1, 1: 0}, (1, 0, 1, 0)),
        ((0, 1, 255, 4), {255: 1, 4: 0}, (0, 1, 1, 0)),
        ((0, 1, 0, 1), {255: 1}, (0, 1, 0, 1)),
    ],
)
def test_all_labels_are_looked_up_in_the_stored_mask(
    values, labels, expected, dtype, soft, tmp_path
):
    stored = np.repeat(np.array(values).astype(dtype), 4).reshape(4, 2, 2)
    options = GateOptions(label_values=labels, soft_labels=soft, largest_mask_fraction=1.0)
    image = nib.Nifti1Image(stored, np.eye(4), dtype=dtype)
    image.header.set_xyzt_units("mm")
    nib.save(image, tmp_path / "m.nii")
    mask = read_volume(tmp_path / "m.nii", "mask", options).data
    np.testing.assert_array_equal(mask[:, 1, 1], expected)


def test_labels_are_true_values_of_any_size(tmp_path):
    large = 2**24 + 1  # float32 has no such number
    path = tmp_path / "m.nii"

    def read(values, dtype, labels, slope=1.0, soft=False):
        image = nib.Nifti1Image(np.repeat(np.array(values, dtype), 4).reshape(4, 2, 2), np.eye(4))
        image.header.set_xyzt_units("mm")
        nib.save(image, path)
        content = bytearray(path.read_bytes())
        content[112:120] = np.array([slope, 0], "<f4").tobytes()
        path.write_bytes(content)
        options = GateOptions(label_values=labels, soft_labels=soft, largest_mask_fraction=1.0)
        return read_volume(path, "mask", options).data[:, 0, 1].tolist()

    sizes = {large: 1, large - 1: 0}
    assert read([0, large, large - 1, 1], np.int32, sizes) == [0, 1, 0, 1]
    assert read([0, -3, 2, 1], np.int16, {-3: 1, 2: 0}) == [0, 1, 0, 1]
    assert read([0, 1.9996, 1, 254.9999], np.float32, {2: 1, 1: 0, 255: 1}) == [0, 1, 0, 1]
    assert read([0, 0.5, 2, 1], np.float32, {2: 1}, soft=True) == [0, 0.5, 1, 1]
    assert read([0, 10, 20, 10], np.int16, {1: 0, 2: 1}, slope=0.1) == [0, 0, 1, 0]
    assert read([0, 1, 2, 1], np.uint8, {255: 1, 510: 0}, slope=255) == [0, 1, 0, 1]


def test_values_without_a_meaning_are_refused_and_the_remedy_keeps_the_known_ones(tmp_path):
    path = files.save(tmp_path / "m.nii.gz", np.array([[[0, 1], [2, 9]]] * 2, np.uint8))
    with pytest.raises(MssegError) as caught:
        read_volume(path, "mask", GateOptions(label_values={2: 1}))
    assert caught.value.problems[0].remedy.endswith("label_values='{1: 0, 2: 1, 9: 1}'")


@pytest.mark.parametrize(
    "labels",
    [{1: 2}, {1.5: 1}, {True: 1}, {"1": 0, 1: 1}, {2: None}, {"x": 1}, [1, 2], {float("nan"): 1}],
)
def test_labels_that_contradict_or_mean_nothing_are_refused(labels):
    with pytest.raises(MssegError) as caught:
        gate_options({"label_values": labels})
    assert caught.value.exit_code is ExitCode.CONFIG


def test_one_meaning_has_one_key():
    same = [{1: 0, 2: 1}, {2: 1, 1: 0}, {"2": 1, "1": 0}, {1.0: 0, "2": "1"}]
    assert {str(changed_options({"label_values": labels})) for labels in same} == {
        "{'label_values': {1: 0, 2: 1}}"
    }
    assert changed_options({"label_values": {}}) == {}


def test_unpacking_is_faster_than_the_common_reader(tmp_path):
    # 2.8 times on a 182 x 218 x 182 float32 scan; a loose bound keeps busy machines quiet
    rng = np.random.default_rng(0)
    data = rng.normal(100, 20, (96, 96, 96)).astype(np.int16)
    path = files.save(tmp_path / "a.nii.gz", data)

    def seconds(action) -> float:
        took = []
        for _ in range(5):
            began = time.process_time()
            action()
            took.append(time.process_time() - began)
        return min(took)

    own = seconds(lambda: read_volume(path))
    theirs = seconds(lambda: nib.load(path).get_fdata(dtype=np.float32))
    assert own < theirs


@pytest.mark.parametrize(
    ("shape", "code"),
    [
        ((1, *files.SHAPE), "image.axis_of_one"),
        ((*files.SHAPE[:2], 1, files.SHAPE[2]), "image.axis_of_one"),
        ((1, *files.SHAPE, 1), "image.axis_of_one"),
        ((2, *files.SHAPE), "image.channels_first"),
    ],
)
def test_the_remedy_for_an_axis_too_many_is_code_that_works(tmp_path, shape, code):
    whole = np.broadcast_to(files.scans()[0], (2, *files.SHAPE)) if shape[0] == 2 else None
    data = files.scans()[0].reshape(shape) if whole is None else whole
    path = files.save(tmp_path / "scan.nii.gz", data)
    with pytest.raises(MssegError) as caught:
        read_volume(path)
    (problem,) = caught.value.problems
    assert problem.code == code and "slices" not in problem.remedy
    words = {"nibabel": nib, "numpy": np, "image": nib.load(path), "CHANNEL": 1}
    nib.save(eval(problem.remedy.split(": ")[1], words), path)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.data, files.scans()[0])
    np.testing.assert_allclose(volume.affine, files.AFFINE)
