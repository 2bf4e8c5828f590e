from __future__ import annotations

import numpy as np
import pytest

from msseg_lightning.evaluate.foreground_runs import find_runs
from msseg_lightning.evaluate.surface import surface_distances


def distances(prediction, reference, spacing=(1.0, 1.0, 1.0), order="C"):
    true = find_runs(np.asarray(reference, order=order))
    return surface_distances(find_runs(prediction, true.x_fastest), true, spacing)


def test_the_border_of_the_image_makes_no_contour():
    # a slab that fills x = 0..2 of the image: its only contour is the layer x = 2
    slab, voxel = np.zeros((2, 9, 5, 5), np.uint8)
    slab[:3] = 1
    voxel[0, 2, 2] = 1
    y, z = np.ogrid[-2:3, -2:3]
    layer = np.sqrt(2**2 + y**2 + z**2)  # distances of its 25 voxels; the voxel itself is 2 away
    for order in "CF":
        result = distances(voxel, slab, order=order)
        assert result.contour_mean_mm == pytest.approx(layer.mean())
        assert result.average_symmetric_mm == pytest.approx((layer.sum() + 2) / 26)
        assert result.hausdorff_mm == pytest.approx(np.sqrt(2**2 + 2**2 + 2**2))


def test_running_minimum_depends_on_file_order():
    reference, prediction = np.zeros((2, 20, 6, 6), np.uint8)
    reference[3, 3, 1] = reference[12, 3, 4] = 1
    prediction[3, 3, 1] = prediction[15, 3, 4] = 1
    meets_early = distances(prediction, reference)
    # file order: the shared voxel (z = 1) comes first and its distance 0 is carried on
    assert meets_early.running_minimum_mm == 0.0
    assert meets_early.average_symmetric_mm == pytest.approx(6 / 4)
    flipped = distances(prediction[:, :, ::-1], reference[:, :, ::-1])
    assert flipped.running_minimum_mm == pytest.approx(6 / 4)
    assert flipped.average_symmetric_mm == meets_early.average_symmetric_mm


def test_layout_does_not_matter():
    rng = np.random.default_rng(0)
    reference, prediction = (rng.random((2, 14, 9, 11)) < 0.05).astype(np.uint8)
    spacing = (0.5, 1.0, 3.0)
    ours = distances(prediction, reference, spacing, "C")
    theirs = distances(prediction, reference, spacing, "F")
    for name in vars(ours):
        assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=1e-12)
