from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from msseg_lightning.core.problem import MssegError
from msseg_lightning.core.volume import Grid, Volume
from msseg_lightning.read.geometry import in_order_of, read_itk_affine, resample_through


@pytest.mark.parametrize("codes", ["LPS", "RAS", "PIR", "SAL", "ILA"])
def test_reordering_equals_nibabel(codes):
    data = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    affine = np.array([[1.0, 0.1, 0, 5], [-0.1, 2, 0.2, 6], [0, -0.1, 3, 7], [0, 0, 0, 1]])
    target = nib.orientations.axcodes2ornt(codes)
    expected = nib.Nifti1Image(data, affine).as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(affine), target)
    )
    moved = in_order_of(Volume(data, affine), expected.affine)
    np.testing.assert_array_equal(moved.data, np.asarray(expected.dataobj))
    np.testing.assert_allclose(moved.affine, expected.affine)


def test_same_order_is_the_same_object():
    volume = Volume(np.zeros((2, 3, 4)), np.eye(4))
    assert in_order_of(volume, np.eye(4)) is volume


TRANSFORM = """#Insight Transform File V1.0
#Transform 0
Transform: MatrixOffsetTransformBase_double_3_3
Parameters: 0.99 0.02 -0.03 -0.01 1.01 -0.05 0.02 0.05 0.98 -1.5 2.25 4.0
FixedParameters: 0.5 13.0 -15.0
"""


def test_transform_maps_points_as_itk_does(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text(TRANSFORM)
    matrix = read_itk_affine(path, "t.txt")
    reference = SimpleITK.ReadTransform(str(path))
    point = np.array([10.0, -20.0, 30.0])  # RAS; ITK's x and y point the other way
    expected = np.array(reference.TransformPoint((-10.0, 20.0, 30.0))) * [-1, -1, 1]
    np.testing.assert_allclose((matrix @ [*point, 1])[:3], expected, atol=1e-9)


@pytest.mark.parametrize(
    "text", ["", "Parameters: 1 2 3", TRANSFORM.replace("0.99", "nan"), "\0" * 10, "é"]
)
def test_other_text_is_no_transform(text, tmp_path):
    (tmp_path / "t.txt").write_text(text, encoding="latin-1")
    with pytest.raises(MssegError, match=r"transform.unreadable"):
        read_itk_affine(tmp_path / "t.txt", "t.txt")


@pytest.mark.parametrize("order", [1, 3])
def test_resampling_reproduces_a_plane_through_a_transform(order):
    # splines of any order reproduce linear functions, so the value must be that of the mapped point
    source = np.diag([-0.9, -1.1, 2.0, 1.0])
    source[:3, 3] = [15.0, 20.0, -12.0]
    way = np.eye(4)
    angle = np.radians(4.0)
    way[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    way[:3, 3] = [0.4, -0.7, 1.1]
    index = np.stack(np.meshgrid(*map(np.arange, (34, 36, 14)), indexing="ij"), -1)
    world = index @ source[:3, :3].T + source[:3, 3]
    plane = (200 + world @ [1.0, 2.0, -3.0]).astype(np.float32)
    grid = Grid((9, 8, 7), np.diag([1.0, 1.2, 0.8, 1.0]))
    moved = resample_through(Volume(plane, source), grid, way, order)
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1)
    points = np.append(index @ grid.affine[:3, :3].T, np.ones((*grid.shape, 1)), -1) @ way.T
    expected = 200 + points[..., :3] @ [1.0, 2.0, -3.0]
    assert moved.data.dtype == np.float32
    np.testing.assert_allclose(moved.data, expected, atol=0.05 if order == 3 else 1e-3)
    assert moved.grid.same_as(grid, 0.0)
