"""What the card of S24 says of the whole system."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import nn

from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.subject import (
    BASELINE,
    BRAIN,
    FOLLOWUP,
    TARGET,
    LoadedSubject,
    LongitudinalSubject,
    Native,
)
from msseg_lightning.core.volume import Grid, Volume
from msseg_lightning.preprocess.difference import DIFFERENCE
from msseg_lightning.preprocess.pipeline import Preprocess
from msseg_lightning.preprocess.restore import restore
from msseg_lightning.run.assemble.system import build_loader, instantiate
from msseg_lightning.run.config.compose import compose_config


@functools.cache
def config():
    return compose_config(("read.root=.",), "subtraction_unet_2d")


def ball(radius, centre, grid):
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), -1)
    points = index * grid.spacing_mm
    return ((points - np.array(centre)) ** 2).sum(-1) < radius**2


@pytest.fixture(scope="module")
def raw():
    """Two visits of 0.9 x 0.9 x 1.2 mm; a lesion of 5 mm in the second, a rim of air around."""
    grid = Grid((70, 80, 50), np.diag([0.9, 0.9, 1.2, 1.0]))
    brain = ball(25, (31, 36, 30), grid)
    lesion = ball(5, (36, 30, 32), grid)
    draws = np.random.default_rng(0)
    scans = [((100 + draws.normal(0, 2, grid.shape)) * brain).astype(np.float32) for _ in range(2)]
    scans[1][lesion] += 80
    volumes = {
        BASELINE: Volume(scans[0], grid.affine),
        FOLLOWUP: Volume(scans[1], grid.affine),
        BRAIN: Volume(brain, grid.affine, "mask"),
        TARGET: Volume(lesion, grid.affine, "mask"),
    }
    return LoadedSubject(LongitudinalSubject("p", "p", {}), volumes, Native(grid, b""))


def chain():
    """The steps after the organisers', which are tested where they are."""
    steps = config()["preprocess"]["steps"]
    names = list(steps)
    return Preprocess([instantiate(steps[name]) for name in names[names.index("resample") :]])


@pytest.fixture(scope="module")
def prepared(raw):
    return chain().run(raw)


def test_steps_in_the_order_of_the_card():
    steps = config()["preprocess"]["steps"]
    kinds = [step["_target_"].rpartition(".")[2] for step in steps.values()]
    assert kinds[-6:] == [
        "Resample",
        "AnisotropicDiffusion",
        "ApplyMask",
        "SliceZScore",
        "Resize",
        "Difference",
    ]
    assert kinds.index("N4") == len(kinds) - 7
    assert {"AtlasBrainExtraction", "CombineMasks"} <= set(kinds)


def test_one_channel_that_is_zero_for_identical_visits(raw):
    assert config()["channels"]["images"] == [DIFFERENCE]
    assert config()["network"]["in_channels"] == 1
    same = raw.replace(volumes=raw.volumes | {FOLLOWUP: raw.volumes[BASELINE]})
    assert not np.asarray(chain().run(same).volumes[DIFFERENCE].data).any()


def test_a_new_lesion_is_positive_and_slices_are_256_pixels(prepared):
    assert prepared.grid.shape == (256, 256, 60)
    change = np.asarray(prepared.volumes[DIFFERENCE].data)
    inside = np.asarray(prepared.volumes[TARGET].data) != 0
    rest = (np.asarray(prepared.volumes[BRAIN].data) != 0) & ~inside
    assert np.percentile(change[inside], 25) > 0.5 > change[rest].mean()
    # slices without brain are empty, and no slice of them is ever drawn
    beside = ~np.asarray(prepared.volumes[BRAIN].data).any((0, 1))
    assert beside.sum() >= 8 and not change[:, :, beside].any()


def test_the_mask_goes_home(raw, prepared):
    mask = np.asarray(prepared.volumes[TARGET].data)
    home = restore(mask, prepared.grid, raw.native, np.eye(4), "mask") != 0
    truth = np.asarray(raw.volumes[TARGET].data)
    assert 2 * (home & truth).sum() / (home.sum() + truth.sum()) > 0.9


def test_whole_axial_slices_with_brain_are_drawn_with_lesion_or_not(prepared, tmp_path):
    found = config()
    subject = PreparedSubject.write(prepared, tmp_path / "p")
    loader = build_loader(found)([subject])
    batch = loader.batch(0)
    assert tuple(batch.images.shape) == (32, 1, 256, 256) == tuple(batch.target.shape)
    stored = subject.image(DIFFERENCE)
    numbers = set()
    for element in range(32):
        spec = loader.choose(0, element)
        assert spec.axis == 2 and subject.mask(BRAIN)[:, :, spec.voxel[2]].any()
        numbers.add(int(spec.voxel[2]))
        torch.testing.assert_close(
            batch.images[element, 0], torch.from_numpy(stored[:, :, spec.voxel[2]])
        )
    lesion = subject.mask(TARGET).any((0, 1))
    assert len(numbers) > 12 and any(not lesion[number] for number in numbers)


def test_every_axial_slice_is_predicted_whole_and_cut_at_one_half():
    infer = instantiate(config()["infer"])
    shapes = []

    class Network(nn.Module):
        divisor = (16, 16)

        def forward(self, images):
            shapes.append(tuple(images.shape))
            return images

    images = torch.randn(1, 256, 256, 5)
    answer = infer(Network(), images)
    assert shapes == [(5, 1, 256, 256)]
    torch.testing.assert_close(answer, images.sigmoid())
    (rule,) = config()["postprocess"]["rules"].values()
    assert (rule["value"], rule["strict"]) == (0.5, True)


def test_the_numbers_of_the_card():
    found = config()["train"]
    optimizer = instantiate(found["optimizer"], partial=True)([nn.Parameter(torch.zeros(1))])
    assert isinstance(optimizer, torch.optim.Adam) and optimizer.defaults["lr"] == 1e-3
    assert found["batch_size"] == 32 and found["scheduler"] is None
    # an epoch: 140 slices of each of 32 patients, 80 % of 40
    assert found["validate_every"] == 32 * 140 / 32 and found["steps"] == 60 * 140
    loss = instantiate(config()["loss"])
    # by hand: ln 2 for every pixel of a network that answers one half
    assert loss(torch.zeros(1, 1, 2, 2), torch.eye(2)[None, None]) == pytest.approx(np.log(2))
