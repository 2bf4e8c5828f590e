import numpy as np
import pytest

from msseg_lightning.simulate.head import load_head


@pytest.mark.parametrize(
    ("place", "point", "tissue"),
    [
        ("white matter", (-27, -20, 35), 0),
        ("insular cortex", (-38, 2, 8), 1),
        ("frontal horn", (-7, 18, 10), 2),
        ("body of the lateral ventricle", (-8, -2, 20), 2),
    ],
)
def test_tissue_at_known_places(place, point, tissue):
    levels = load_head().at(np.array([point], float))[0]
    assert np.argmax(levels[:3]) == tissue, (place, levels)


def test_distances():
    head = load_head()
    inside, outside, ventricle, far = head.at(
        np.array([(-27, -20, 35), (0, 0, 110), (-7, 18, 10), (-55, -30, 20)], float)
    )[:, 3:]
    assert inside[0] < -20 and outside[0] > 20
    assert ventricle[1] < 0 < far[1]


def test_brain_has_a_brains_volume():
    hull = (load_head().distances[..., 0] < 0).sum() * 8 / 1000  # 2 mm voxels, ml
    ventricles = (load_head().distances[..., 1] < 0).sum() * 8 / 1000
    assert 1700 < hull < 2000  # the template is larger than a brain, with its CSF
    assert 10 < ventricles < 60


def test_outside_the_template_the_border_counts():
    levels = load_head().at(np.array([[0.0, 0.0, 500.0]]))[0]
    assert levels[0] == 0 and levels[3] > 20
