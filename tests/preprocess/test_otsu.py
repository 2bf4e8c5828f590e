import numpy as np

from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP
from msseg_lightning.core.volume import Volume
from msseg_lightning.preprocess.otsu import OtsuBrain


def test_brain_without_scalp_and_with_ventricles(phantom):
    subject = phantom.pair(phantom.grid("canonical"))
    inside = np.asarray(subject.volumes[BRAIN].data)
    index = phantom.world(subject.grid)
    radius = np.sqrt((index**2).sum(-1))
    scalp = (radius > 19.5) & (radius < 20.6)  # thin: the erosions take it away
    volumes = {}
    for name in (BASELINE, FOLLOWUP):
        data = np.where(scalp, 120, np.asarray(subject.volumes[name].data))
        volumes[name] = Volume(data.astype(np.float32), subject.grid.affine)
    found = OtsuBrain(2, 2, 4)(subject.replace(volumes=volumes)).volumes[BRAIN]
    assert phantom.dice(found.data, inside) > 0.9
    ventricle = inside & (np.asarray(subject.volumes[BASELINE].data) < 40)
    assert np.asarray(found.data)[ventricle].mean() > 0.8


def test_thin_axial_slices_are_emptied_wherever_that_axis_lies(phantom):
    for name in ("canonical", "left-handed"):
        grid = phantom.grid(name)
        subject = phantom.pair(grid, brain=False)
        x, y, z = np.moveaxis(phantom.world(grid), -1, 0)
        # a column through all heights and a wide slab: 1 % of a slice is about 20 mm2
        data = (
            ((abs(x) < 2) & (abs(y) < 2)) | ((abs(z) < 5) & (abs(x) < 12) & (abs(y) < 12))
        ) * 9.0
        data = data.astype(np.float32)
        volumes = {n: Volume(data, grid.affine) for n in (BASELINE, FOLLOWUP)}
        found = OtsuBrain(0 + 1, 1, 1, empty_below=0.05)(subject.replace(volumes=volumes))
        mask = np.asarray(found.volumes[BRAIN].data)
        assert mask[abs(z) < 4].any() and not mask[abs(z) > 7].any()


def test_flat_images_give_an_empty_mask(phantom):
    subject = phantom.pair(phantom.grid("canonical"), brain=False)
    flat = Volume(np.full(subject.grid.shape, 5, np.float32), subject.grid.affine)
    found = OtsuBrain()(subject.replace(volumes={BASELINE: flat, FOLLOWUP: flat}))
    assert not np.asarray(found.volumes[BRAIN].data).any() and "empty" in found.notes[-1]


def test_large_slices_are_filled_although_the_hole_is_open_above(phantom):
    """A cup: in 3D its inside is open, in each axial slice it is a hole."""
    grid = phantom.grid("canonical")
    x, y, z = np.moveaxis(phantom.world(grid), -1, 0)
    cup = (abs(x) < 14) & (abs(y) < 14) & (abs(z) < 14)
    hollow = (abs(x) < 5) & (abs(y) < 5) & (z > -8)
    data = (cup & ~hollow).astype(np.float32)
    subject = phantom.pair(grid, brain=False)
    volumes = {name: Volume(data, grid.affine) for name in (BASELINE, FOLLOWUP)}
    subject = subject.replace(volumes=volumes)
    inside = hollow & (abs(z) < 7)

    def filled(**options):
        found = OtsuBrain(1, 1, 1, slice_closing=1, **options)(subject)
        return np.asarray(found.volumes[BRAIN].data)[inside].mean()

    assert filled(close_above=0.1) == 1 and filled(close_above=0.99) < 0.1


def test_components_that_touch_at_a_corner_are_one(phantom):
    grid = phantom.grid("canonical")
    data = np.zeros(grid.shape, np.float32)
    x, y, z = (size // 2 for size in grid.shape)
    data[x - 4 : x, y - 4 : y, z - 4 : z] = 1
    data[x : x + 4, y : y + 4, z : z + 4] = 1
    volumes = {name: Volume(data, grid.affine) for name in (BASELINE, FOLLOWUP)}
    subject = phantom.pair(grid, brain=False).replace(volumes=volumes)
    found = np.asarray(OtsuBrain(0, 0, 1, empty_below=0)(subject).volumes[BRAIN].data)
    assert found[data > 0].all()
    assert not np.asarray(OtsuBrain(1, 1, 1)(subject).volumes[BRAIN].data)[data > 0].all()
