import numpy as np

from msseg_lightning.core.subject import BASELINE, TARGET
from msseg_lightning.core.volume import Grid
from msseg_lightning.preprocess.reorient import Reorient, canonical_grid


def test_axes_point_right_anterior_superior_from_all_48_orientations(phantom):
    tilt = phantom.rotation(12, -8, 15)
    for directions in phantom.signed_permutations():
        affine = np.eye(4)
        affine[:3, :3] = tilt @ directions @ np.diag([0.5, 1.0, 2.0])
        grid = Grid((6, 7, 8), affine)
        turned = canonical_grid(grid)
        assert (np.diag(turned.affine)[:3] > 0).all()
        assert np.abs(turned.affine[:3, :3]).argmax(0).tolist() == [0, 1, 2]
        np.testing.assert_allclose(
            sorted(map(tuple, turned.corners_mm().round(6))),
            sorted(map(tuple, grid.corners_mm().round(6))),
        )


def test_values_stay_at_their_place_in_the_world(phantom):
    subject = phantom.pair(phantom.grid("oblique-anisotropic-left-handed"))
    turned = Reorient()(subject)
    for name in (BASELINE, TARGET):
        old, new = subject.volumes[name], turned.volumes[name]
        assert new.data.dtype == old.data.dtype
        where = np.argwhere(np.asarray(new.data) == np.asarray(new.data).max())[0]
        world = new.affine @ [*where, 1]
        index = np.linalg.solve(old.affine, world)[:3].round().astype(int)
        assert old.data[tuple(index)] == new.data[tuple(where)]
        assert np.sort(old.data, axis=None).tolist() == np.sort(new.data, axis=None).tolist()
