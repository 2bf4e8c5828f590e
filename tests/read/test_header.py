"""Headers are read as their standard says, or refused by field."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from msseg_lightning.read.header import parse_header
from msseg_lightning.read.stream import Limits
from tests.read import files


def test_damaged_headers_never_end_in_another_error(tmp_path):
    content = bytes(files.unpack(files.save(tmp_path / "a.nii.gz", files.scans()[0])))
    rng = np.random.default_rng(3)
    limits = Limits()
    for _ in range(2000):
        head = bytearray(content[:352])
        for place in rng.integers(0, 352, rng.integers(1, 8)):
            head[place] = rng.integers(0, 256)
        header, problems = parse_header(bytes(head), "a.nii.gz", limits)
        assert (header is None) == any(problem.severity == "error" for problem in problems)
        if header is not None:
            expected = nib.Nifti1Header(bytes(head[:348]), check=False)
            np.testing.assert_allclose(
                header.grid.affine, expected.get_best_affine(), atol=1e-3, rtol=1e-5
            )


def head_of(slope=2.0, order="<", shape=(4, 5, 6)):
    """352 bytes of a header of int16 voxels of 1 x 2 x 3 mm, in a byte order."""
    fields = nib.Nifti1Header(endianness=order)
    fields.set_data_shape(shape)
    fields.set_data_dtype(np.int16)
    fields.set_zooms((1.0, 2.0, 3.0, *(1.0,) * (len(shape) - 3)))
    fields.set_sform(np.diag([1.0, 2.0, 3.0, 1.0]), 1)
    fields.set_qform(np.diag([1.0, 2.0, 3.0, 1.0]), 1)
    fields.set_xyzt_units("mm")
    fields["scl_slope"], fields["scl_inter"] = slope, 7.0
    fields["vox_offset"], fields["magic"] = 352, b"n+1"
    return fields.binaryblock + bytes(4)


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders_mean_the_same(order):
    header, problems = parse_header(head_of(order=order), "a.nii", Limits())
    assert not problems and header.grid.shape == (4, 5, 6)
    assert header.grid.spacing_mm == (1.0, 2.0, 3.0) and (header.slope, header.intercept) == (2, 7)
    assert header.dtype == np.dtype(f"{order}i2")
    assert header.voxels == 120 and header.bytes_expected == 352 + 240


@pytest.mark.parametrize("slope", [0.0, float("nan")])
def test_without_a_slope_there_is_no_intercept(slope):
    header, _ = parse_header(head_of(slope), "a.nii", Limits())
    assert header.slope is None and header.intercept == 0.0


def test_lengths_of_one_beyond_the_third_axis_are_dropped_and_others_refused():
    header, _ = parse_header(head_of(shape=(4, 5, 6, 1)), "a.nii", Limits())
    assert header.grid.shape == (4, 5, 6)
    header, problems = parse_header(head_of(shape=(4, 5, 6, 2)), "a.nii", Limits())
    assert header is None and "dim" in {problem.field for problem in problems}


def test_what_is_no_header_is_refused():
    for head in (b"", bytes(352), head_of()[:300], head_of().replace(b"n+1", b"ni1")):
        header, problems = parse_header(head, "a.nii", Limits())
        assert header is None and problems and all(problem.remedy for problem in problems)
