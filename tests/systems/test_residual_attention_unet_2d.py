"""What the card of S07 says of the whole system."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import nn

from msseg_lightning.augment.slice_recipe import SliceRecipe
from msseg_lightning.core.problem import MssegError
from msseg_lightning.run.assemble.system import build_sampler, instantiate
from msseg_lightning.run.config.compose import compose_config


@functools.cache
def config():
    return compose_config(("read.root=.",), "residual_attention_unet_2d")


class Bright(nn.Module):
    """Finds what is bright in the second visit; keeps the slices it is given."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, images):
        self.seen.extend(images)
        return images[:, 1:] * 10 - 5


def test_one_network_is_given_every_slice_of_three_planes_padded_to_512():
    infer, network = instantiate(config()["infer"]), Bright()
    images = torch.rand(2, 6, 7, 8)
    found = infer(network, images)
    assert len(network.seen) == 6 + 7 + 8
    assert {tuple(seen.shape) for seen in network.seen} == {(2, 512, 512)}
    # cut out of the padding the slices are what they were, bit for bit
    for place, stack in enumerate((images, images.movedim(2, 1), images.movedim(3, 1))):
        first = (0, 6, 13)[place]
        height, width = stack.shape[2:]
        top, left = (512 - height) // 2, (512 - width) // 2
        for number in range(stack.shape[1]):
            seen = network.seen[first + number]
            part = seen[:, top : top + height, left : left + width]
            torch.testing.assert_close(part, stack[:, number], rtol=0, atol=0)
            assert seen.count_nonzero() == part.count_nonzero()
    # and what the network says returns to its voxel
    torch.testing.assert_close(found, (images[1:] > 0.5).float())


def test_two_of_three_planes_decide():
    """A network that finds its slice's lesion in the planes of the named sizes alone."""

    class Some(nn.Module):
        def __init__(self, sizes):
            super().__init__()
            self.sizes = sizes

        def forward(self, images):
            rows = images[:, 0].flatten(1).ne(0).sum(1)
            answers = [
                images[i, 1:] * (10 if int(rows[i]) in self.sizes else -10)
                for i in range(len(images))
            ]
            return torch.stack(answers)

    infer = instantiate(config()["infer"])
    images = torch.ones(2, 4, 5, 6)  # planes of 30, 24 and 20 pixels
    for sizes, expected in (({30, 24}, 1), ({24, 20}, 1), ({30}, 0), (set(), 0), ({20, 24, 30}, 1)):
        assert (infer(Some(sizes), images) == expected).all()


def test_a_slice_beyond_512_is_refused():
    infer = instantiate(config()["infer"])
    with pytest.raises(MssegError, match="larger") as caught:
        infer(Bright(), torch.ones(2, 3, 4, 513))
    assert "4x513" in str(caught.value) and "infer.whole=false" in str(caught.value)
    infer.whole = False
    assert infer(Bright(), torch.ones(2, 1, 1, 513)).all()


def test_only_patients_with_lesions_and_half_of_the_slices():
    found = config()
    assert found["method"]["train_on"] == "with_lesions"
    sampler = build_sampler(found)
    assert (sampler.size, sampler.positive_ratio) == ((512, 512), 0.5)
    assert set(sampler.axes) == {0, 1, 2}
    recipe = instantiate(found["augment"]).recipe
    assert recipe == SliceRecipe(flip=0.5, transpose=0.5)


def test_the_rate_and_the_loss():
    found = config()["train"]
    optimizer = instantiate(found["optimizer"], partial=True)([nn.Parameter(torch.zeros(1))])
    assert isinstance(optimizer, torch.optim.Adam) and optimizer.defaults["lr"] == 1e-4
    plateau = instantiate(found["scheduler"], partial=True)(optimizer)
    for _ in range(40):
        plateau.step(1.0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-5)  # a tenth, once, and no less
    assert (found["batch_size"], found["stop_after"]) == (8, 50)
    assert found["steps"] == 200 * found["validate_every"]
    loss = instantiate(config()["loss"])
    # by hand, probabilities of one half, one lesion pixel of four: Dice 1 - 2/4;
    # focal 0.25 ln 2 times the mean of 0.25 (one pixel) and 0.75 (three)
    target = torch.tensor([1.0, 0, 0, 0]).view(1, 1, 2, 2)
    expected = (1 - (2 * 0.5 + 1) / (2 + 1 + 1)) + 0.25 * np.log(2) * (0.25 + 3 * 0.75) / 4
    assert loss(torch.zeros(1, 1, 2, 2), target) == pytest.approx(expected)


def test_steps_are_the_organisers_then_values_from_0_to_1():
    steps = config()["preprocess"]["steps"]
    kinds = [step["_target_"].rpartition(".")[2] for step in steps.values()]
    assert kinds[-2:] == ["N4", "MinMax"] and "AtlasBrainExtraction" in kinds
    assert not {"Resample", "Resize"} & set(kinds)
