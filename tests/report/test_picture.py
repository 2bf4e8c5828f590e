import base64
import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from msseg_lightning.core.volume import Volume
from msseg_lightning.report.picture import (
    BRIGHTER_COLOUR,
    CROP_MM,
    DARKER_COLOUR,
    PIXEL_MM,
    PREDICTION_COLOUR,
    REFERENCE_COLOUR,
    CasePictures,
    anatomical_axes,
    data_uri,
    plane_through,
    window_of,
)
from tests.report.phantom import ASL, LPS, RAS, oblique, pair

AFFINES = {"ras": RAS, "lps": LPS, "asl": ASL, "oblique": oblique()}


@pytest.mark.parametrize("name", AFFINES)
def test_each_side_of_the_head_appears_where_its_letter_stands(name):
    """A marker towards one side of the world is brightest on the letter's half of the picture."""
    affine = AFFINES[name]
    shape = (40, 40, 40)
    axes = anatomical_axes(affine)
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    middle = affine[:3, :3] @ (np.array(shape) / 2) + affine[:3, 3]
    for world_axis, letters in enumerate(("RL", "AP", "SI")):
        for sign, letter in zip((1, -1), letters, strict=True):
            marker = (sign * (world - middle)[..., world_axis] > 5).astype(np.float32)
            for plane_name in ("axial", "coronal", "sagittal"):
                plane = plane_through(plane_name, middle, axes, (40.0, 40.0), 1.0)
                edges = {shown: edge for edge, shown in plane.letters().items()}
                if letter not in edges:
                    continue
                picture = plane.sample(Volume(marker, affine))
                halves = {
                    "left": picture[:, :20],
                    "right": picture[:, 20:],
                    "top": picture[:20],
                    "bottom": picture[20:],
                }
                opposite = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
                edge = edges[letter]
                assert halves[edge].sum() > 2 * halves[opposite[edge]].sum() + 10


def test_radiological_convention():
    middle, axes = np.zeros(3), np.eye(3)
    assert plane_through("axial", middle, axes).letters() == {
        "left": "R",
        "right": "L",
        "top": "A",
        "bottom": "P",
    }
    assert plane_through("coronal", middle, axes).letters()["left"] == "R"
    assert plane_through("sagittal", middle, axes).letters()["left"] == "A"


def test_anisotropic_voxels_keep_their_aspect():
    # a cube of 24 mm is 12 x 12 x 8 voxels of 2 x 2 x 3 mm, and 24 x 24 pixels of 1 mm
    data = np.zeros((40, 40, 30), np.float32)
    data[14:26, 14:26, 11:19] = 1
    centre = np.array([2 * 19.5, 2 * 19.5, 3 * 14.5])
    for name in ("axial", "coronal", "sagittal"):
        plane = plane_through(name, centre, np.eye(3), (60.0, 60.0), 1.0)
        picture = plane.sample(Volume(data, RAS), nearest=True) > 0.5
        assert abs(picture.any(0).sum() - 24) <= 1 and abs(picture.any(1).sum() - 24) <= 1


def test_both_visits_share_one_grey_scale():
    volumes, _ = pair()
    window = window_of(volumes, volumes.brain)
    (median1, spread1), (median2, spread2) = window.baseline, window.followup
    assert median2 == pytest.approx(1.5 * median1 + 20, rel=1e-3)
    assert spread2 == pytest.approx(1.5 * spread1, rel=1e-2)


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_only_the_brain_is_shown(affine):
    volumes, _ = pair(affine)
    pictures = CasePictures(volumes)
    corner = affine[:3, :3] @ np.array([6, 6, 5]) + affine[:3, 3]
    for name in ("axial", "coronal", "sagittal"):
        plane = plane_through(name, corner, pictures.axes)
        inside = plane.sample(volumes.brain, nearest=True) > 0
        assert inside.any() and not inside.all()
        first, second, difference, _ = (np.asarray(panel) for panel in pictures._panels(plane))
        for panel in (first, second, difference):
            assert panel[~inside].max() == 0
        assert first[inside].max() > 0
    assert pictures.lesion(corner).shape == (600, 800, 3)


def test_outlines_lie_around_and_inside():
    volumes, _ = pair()
    pictures = CasePictures(volumes)
    point = RAS[:3, :3] @ np.array([9, 9, 9])  # middle of the found lesion
    plane = plane_through("axial", point, pictures.axes)
    overlay = np.asarray(pictures._panels(plane)[3])
    lesion = plane.sample(volumes.reference, nearest=True) > 0
    blue = (overlay == REFERENCE_COLOUR).all(-1)
    orange = (overlay == PREDICTION_COLOUR).all(-1)
    assert blue.any() and not (blue & lesion).any()
    assert orange.any() and not (orange & ~lesion).any()


def test_no_brain_mask_no_picture():
    volumes, _ = pair(brain=False)
    with pytest.raises(ValueError, match="face"):
        CasePictures(volumes)


def test_data_uri_is_a_png_with_the_same_picture():
    volumes, _ = pair()
    picture = CasePictures(volumes).locator(RAS[:3, :3] @ np.array([9, 9, 9]))
    uri = data_uri(picture)
    assert uri.startswith("data:image/png;base64,")
    again = np.asarray(
        Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")
    )
    assert np.abs(again.astype(int) - picture).max() < 30  # 256 colours


def test_steps_lie_four_in_a_row_with_masks_in_orange_and_images_in_two_colours():
    volumes, _ = pair()
    assert CasePictures(volumes).steps(np.zeros(3)) is None
    affine = volumes.followup.affine
    change = np.zeros(volumes.prediction.data.shape, np.float32)
    change[8:11, 8:11, 8:11], change[20:23, 20:23, 10:13] = 5, -2.5
    mask = Volume((change > 0).astype(np.uint8), affine, "mask")
    steps = {"change": Volume(change, affine), **{f"rule{n}": mask for n in range(4)}}
    shown = CasePictures(dataclasses.replace(volumes, steps=steps))
    point = affine[:3, :3] @ [9, 9, 9] + affine[:3, 3]
    picture = shown.steps(point)
    edge = round(CROP_MM / PIXEL_MM)
    assert picture.shape == (2 * edge, 4 * edge, 3)
    middle = edge // 2
    assert picture[middle, middle].tolist() == list(BRIGHTER_COLOUR)  # the largest change
    grey = picture[middle, edge + middle].astype(int)
    assert grey[0] > grey[1] > grey[2]  # orange on the follow-up
    assert not picture[edge:, edge:].any()  # the fifth stands alone in its row
    away = affine[:3, :3] @ [21, 21, 11] + affine[:3, 3]
    darker = shown.steps(away)[middle, middle].astype(int)
    assert np.abs(darker - np.array(DARKER_COLOUR) // 2).max() <= 1  # half of the largest
    outside = shown.steps(affine[:3, :3] @ [1, 21, 11] + affine[:3, 3])
    assert not outside[middle, middle].any() and not outside[middle, edge + middle].any()
