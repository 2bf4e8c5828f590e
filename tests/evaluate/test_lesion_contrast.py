import numpy as np
import pytest

from msseg_lightning.evaluate.lesion_contrast import lesion_contrasts
from msseg_lightning.evaluate.score import score_case


def scene(shape=(30, 20, 20)):
    image = np.full(shape, 100.0)
    mask = np.zeros(shape, np.uint8)
    return image, mask


def contrasts(image, mask, other=None, spacing=(1.0, 1.0, 1.0)):
    other = np.zeros_like(mask) if other is None else other
    lesions = score_case(mask, mask, spacing).reference_lesions
    return lesion_contrasts(lesions, mask, other, image, spacing)


def test_two_lesions_by_hand():
    image, mask = scene()
    mask[5:9, 5:9, 5:9] = 1
    image[5:9, 5:9, 5:9] = 150
    mask[20:23, 5:8, 5:8] = 1
    image[20:23, 5:8, 5:8] = 120
    assert contrasts(image, mask) == pytest.approx([1.5, 1.2])


def test_the_shell_leaves_out_the_border_the_other_mask_and_background():
    image, mask = scene()
    mask[5:9, 5:9, 5:9] = 1
    image[4:10, 4:10, 4:10] = 150  # drawn too tightly: the ring beside it is bright too
    other = np.zeros_like(mask)
    other[11:14, 4:10, 4:10] = 1
    image[11:14, 4:10, 4:10] = 900  # a lesion of the other mask beside it
    image[:, :, 12:] = 0  # outside of the head
    assert contrasts(image, mask, other) == pytest.approx([1.5])


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 3.0), (6.0, 6.0, 6.0)])
def test_the_shell_has_a_voxel_at_least_along_every_axis(spacing):
    image, mask = scene()
    mask[5:9, 5:9, 5:9] = 1
    image[mask > 0] = 130
    assert contrasts(image, mask, spacing=spacing) == pytest.approx([1.3])


def test_lesions_that_do_not_count_or_have_no_surroundings_have_none():
    image, mask = scene()
    mask[5, 5, 5] = 1
    assert contrasts(image, mask) == [None]
    image, mask = scene((4, 4, 4))
    mask[:2] = 1
    assert contrasts(image, mask) == pytest.approx([1.0])
    image[2:] = 0
    assert contrasts(image, mask) == [None]
