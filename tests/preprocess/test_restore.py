from pathlib import Path

import hydra
import numpy as np
import pytest

from msseg_lightning.core.subject import BRAIN, TARGET
from msseg_lightning.core.volume import Grid
from msseg_lightning.preprocess import white_matter
from msseg_lightning.preprocess.bias import N4, Denoise, DifferentialBias
from msseg_lightning.preprocess.crop import CropToMask, CropToNonzero
from msseg_lightning.preprocess.intensity import MinMax, Percentile, ZScore
from msseg_lightning.preprocess.mask import ApplyMask
from msseg_lightning.preprocess.nyul import Nyul
from msseg_lightning.preprocess.otsu import OtsuBrain
from msseg_lightning.preprocess.pipeline import Preprocess
from msseg_lightning.preprocess.register import HalfwayRegistration
from msseg_lightning.preprocess.reorient import Reorient
from msseg_lightning.preprocess.resample import Resample
from msseg_lightning.preprocess.restore import restore
from msseg_lightning.run.config.compose import compose_config

CHAINS = Path(__file__).parents[2] / "conf" / "preprocess"
# these register an atlas or look for a brain by its shape: a phantom of 3 cm is none (slow tests)
NEEDS_A_HEAD = (
    "bsi",
    "challenge",
    "challenge_mode",
    "challenge_zscore",
    "mni_brain_unit_range",
    "near_1mm_percentiles",
    "otsu_zscore",
)

OPERATORS = {
    "nothing": (),
    "reorient": (Reorient(),),
    "register": (HalfwayRegistration(levels_mm=(3.0,)),),
    "crop": (CropToNonzero(),),
    "crop-mask": (Reorient(), CropToMask(margin_mm=3.0)),
    "resample-isotropic": (Reorient(), Resample(0.6)),
    "resample-near": (Reorient(), Resample((1.0, None, 1.0), tolerance_mm=0.15)),
    "resample-nearest": (Resample(0.8, mask_rule="nearest"),),
    "resample-soft": (Reorient(), Resample(0.6, mask_rule="soft")),
    "n4": (N4((2, 2)),),
    "differential-bias": (DifferentialBias(2),),
    "denoise": (Denoise(),),
    "apply-mask": (ApplyMask(),),
    "otsu": (OtsuBrain(1, 1, 2),),
    "z-score": (ZScore("mask"),),
    "percentile": (Percentile(),),
    "min-max": (MinMax(),),
    "nyul": (Nyul(landmarks=tuple(range(0, 110, 10))),),
    "all": (Reorient(), CropToMask(2.0), N4((2,)), ZScore("mask"), Resample(0.7)),
}


def come_back(subject, steps, phantom):
    working = Preprocess(steps).run(subject)
    volume = working.volumes[TARGET]
    kind = volume.kind
    back = restore(volume.data, working.grid, working.native, working.to_native, kind)
    return working, back


@pytest.mark.parametrize(
    "affine",
    ["oblique", "anisotropic", "left-handed", "canonical", "oblique-anisotropic-left-handed"],
)
@pytest.mark.parametrize("name", OPERATORS)
def test_the_mask_comes_back(phantom, affine, name):
    subject = phantom.pair(phantom.grid(affine))
    before = np.asarray(subject.volumes[TARGET].data)
    working, back = come_back(subject, OPERATORS[name], phantom)
    assert back.shape == subject.native.grid.shape
    assert phantom.dice(back >= 0.5, before) > 0.95
    if name in ("reorient", "crop", "crop-mask", "z-score", "nothing"):
        np.testing.assert_array_equal(back, before)
        assert (working.to_native == np.eye(4)).all()


def chain_steps(name):
    """The operators of a preset as an experiment gets them: a preset may extend another."""
    words = (f"preprocess={name}", "read.root=none", *FEWER_VOXELS.get(name, ()))
    config = compose_config(words, "pre_unet")
    nodes = config["preprocess"]["steps"].values()
    return [hydra.utils.instantiate(node, _convert_="all") for node in nodes if node]


COARSE_ATLAS = "+preprocess.steps.atlas.levels_mm=[6.0]"  # a phantom is no head to look at closely
FEWER_VOXELS = {  # the same chain on an eighth of the voxels
    "mni_256": ("preprocess.steps.atlas.shape=[128,128,128]", COARSE_ATLAS),
    "mni_unit_range": ("preprocess.steps.atlas.spacing_mm=2.0", COARSE_ATLAS),
    "softseg": (
        "preprocess.steps.register.spacing_mm=1.0",
        "preprocess.steps.resample.spacing_mm=1.0",
        "preprocess.steps.bend.iterations=[3,1,1]",
    ),
    "brain_and_cord": ("preprocess.steps.bias.iterations=[5]",),
    "brain_and_cord_coarse": ("preprocess.steps.bias.iterations=[5]",),
    "tissue_zscore": (
        "preprocess.steps.tissue.levels_mm=[6.0]",
        "preprocess.steps.tissue.voxels=20000",
    ),
}

COARSE = {
    "mni_256": 2.0,
    "mni_unit_range": 2.0,
    "brain_zscore": 2.0,
    "brain_mode": 2.0,
    "brain_zscore_thick_slices": 3.0,
    "brain_bias_thick_slices": 3.0,
    "brain_and_cord_coarse": 2.0,
}


@pytest.mark.parametrize(
    "chain",
    [p for p in sorted(CHAINS.glob("*.yaml")) if p.stem not in NEEDS_A_HEAD],
    ids=lambda path: path.stem,
)
@pytest.mark.parametrize("affine", ["oblique", "anisotropic", "left-handed"])
def test_every_chain_in_use_brings_the_mask_and_the_sides_back(phantom, affine, chain, monkeypatch):
    # where an atlas only marks white matter nothing moves, and no registration is waited for
    monkeypatch.setattr(white_matter, "affine_to_brain", lambda *_: (np.eye(4), ""))
    steps = chain_steps(chain.stem)
    # voxels of 1.75 or 3 mm cannot outline a lesion of 8 mm to 0.95: there the head is enlarged
    size = COARSE.get(chain.stem, 1.0)
    subject = phantom.pair(phantom.grid(affine, size), size=size)
    working, back = come_back(subject, steps, phantom)
    back = back >= 0.5  # masks may be kept soft
    assert phantom.dice(back, subject.volumes[TARGET].data) > 0.95
    right = phantom.world(subject.native.grid)[..., 0] > 0
    assert back[right].sum() > 0 and back[~right].sum() == 0
    # on the working grid, which is RAS+, the first axis runs to the right
    assert (np.diag(working.grid.affine)[:3] > 0).all()
    x = np.argwhere(np.asarray(working.volumes[TARGET].data) != 0)[:, 0].mean()
    brain = np.argwhere(np.asarray(working.volumes[BRAIN].data) != 0)[:, 0].mean()
    assert x > brain


def test_registered_raw_pair_comes_home_to_the_followup(phantom):
    from msseg_lightning.core.subject import BASELINE, FOLLOWUP
    from msseg_lightning.core.volume import Volume

    grid = phantom.grid("left-handed")
    subject = phantom.pair(grid, brain=False)
    way = np.eye(4)
    way[:3, :3] = phantom.rotation(6, -5, 4)
    way[:3, 3] = (2.0, -1.5, 1.0)
    other = phantom.grid("oblique")
    moved, _ = phantom.head(other, way, seed=4)
    volumes = {**subject.volumes, BASELINE: Volume(moved, other.affine)}
    subject = subject.replace(volumes=volumes)
    steps = (Reorient(), HalfwayRegistration(levels_mm=(3.0, 1.5)), Resample(0.8))
    working, back = come_back(subject, steps, phantom)
    assert phantom.dice(back, lesion := subject.volumes[TARGET].data) > 0.95
    assert lesion.any() and not np.allclose(working.to_native, np.eye(4), atol=1e-2)
    first, second = (np.asarray(working.volumes[n].data) for n in (BASELINE, FOLLOWUP))
    same = (second > 20) & (np.asarray(working.volumes[TARGET].data) == 0)
    assert np.corrcoef(first[same], second[same])[0, 1] > 0.9


def test_outside_the_working_grid_is_zero_and_shapes_are_checked(phantom):
    grid = phantom.grid("canonical")
    subject = phantom.pair(grid)
    affine = grid.affine.copy()
    affine[:3, 3] += 4
    ones = np.ones((10, 10, 10), np.float32)
    small = Grid((10, 10, 10), affine)
    back = restore(ones, small, subject.native, np.eye(4), "probability")
    assert back.sum() == 1000 and back.dtype == np.float32
    with pytest.raises(ValueError, match="do not lie"):
        restore(ones[1:], small, subject.native, np.eye(4), "probability")


@pytest.mark.slow
@pytest.mark.parametrize("turn", ["as-simulated", "left-handed", "oblique"])
@pytest.mark.parametrize("chain", NEEDS_A_HEAD)
def test_chains_that_register_an_atlas_bring_the_mask_back(tiny_cohort, phantom, chain, turn):
    from msseg_lightning.core.subject import Native
    from msseg_lightning.core.volume import Volume
    from msseg_lightning.read.load import load_subject
    from msseg_lightning.read.msseg2 import Msseg2

    subject = {one.id: one for one in Msseg2(tiny_cohort).subjects()}["003"]
    loaded = load_subject(subject)
    volumes = {}
    for name, volume in loaded.volumes.items():
        data, affine = np.asarray(volume.data), volume.affine.copy()
        if turn == "left-handed":  # the same head, stored from the other end of its second axis
            data = np.ascontiguousarray(data[:, ::-1])
            affine = affine @ np.array(
                [[1, 0, 0, 0], [0, -1, 0, data.shape[1] - 1], [0, 0, 1, 0], [0, 0, 0, 1.0]]
            )
        elif turn == "oblique":  # the head and its grid, tilted in the scanner
            way = np.eye(4)
            way[:3, :3] = phantom.rotation(8, -5, 10)
            affine = way @ affine
        volumes[name] = Volume(data, affine, volume.kind)
    native = Native(volumes[TARGET].grid, b"")
    turned = loaded.replace(volumes=volumes, native=native)
    working, back = come_back(turned, chain_steps(chain), phantom)
    before = np.asarray(volumes[TARGET].data)
    assert before.any() and phantom.dice(back, before) > 0.95
    # Dice would be 0 on the other side; the working grid itself runs to R, A and S
    assert (np.diag(working.grid.affine)[:3] > 0).all()
