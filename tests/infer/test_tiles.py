import itertools

import pytest
import torch
from torch import nn

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.infer.tiles import DenseTiles


class Middle(nn.Module):
    """Answers with the second image in the middle 5 voxels of 11; keeps what it is given."""

    def __init__(self):
        super().__init__()
        self.patches = []

    def forward(self, images):
        assert tuple(images.shape[1:]) == (2, 11, 11, 11) and not self.training
        self.patches.extend(images)
        return images[:, 1:, 3:8, 3:8, 3:8]


def tiles(counts=(2, 3, 2), **changes):
    return DenseTiles(**{"size": 11, "output": 5, "counts": counts, "level": "logit", **changes})


@pytest.mark.parametrize("shape", [(9, 13, 7), (5, 5, 5), (4, 6, 3), (17, 8, 5)])
def test_the_map_covers_the_volume(shape):
    images = torch.randn(2, *shape)
    network = Middle().train()
    torch.testing.assert_close(tiles()(network, images), images[1:])
    assert network.training
    probability = tiles(level="probability", batch_size=3)(network, images)
    torch.testing.assert_close(probability, images[1:].sigmoid())


def test_patches_reach_over_the_ends():
    images = torch.ones(2, 5, 5, 5)
    network = Middle()
    tiles((1, 1, 1))(network, images)
    (patch,) = network.patches
    assert patch[0, 3:8, 3:8, 3:8].all() and patch[0].sum() == 125


def test_overlaps_are_averaged():
    """Tiles of 5 at 0 and 2 of 7 voxels: the answers 1 and 2 share voxels 2 to 4."""

    class Count(nn.Module):
        turn = 0

        def forward(self, images):
            answers = []
            for _ in images:
                self.turn += 1
                answers.append(torch.full((1, 5, 5, 5), float(self.turn)))
            return torch.stack(answers)

    found = tiles((2, 1, 1))(Count(), torch.zeros(2, 7, 5, 5))
    assert found[0, :, 0, 0].tolist() == [1, 1, 1.5, 1.5, 1.5, 2, 2]


def test_the_papers_grid_has_2304_centres_and_no_gaps():
    rule = DenseTiles(97, 19, [12, 16, 12])
    shape = (161, 193, 160)
    starts = rule.starts(shape)
    assert len(starts) == 2304
    for axis, length in enumerate(shape):
        places = sorted({start[axis] for start in starts})
        assert places[0] == 0 and places[-1] == length - 19
        assert max(b - a for a, b in itertools.pairwise(places)) <= 19
    # a volume that these would not cover is given more
    assert len(DenseTiles(97, 19, [1, 1, 2]).starts((40, 19, 19))) == 3 * 1 * 2


def test_tiles_without_brain_are_skipped():
    images = torch.randn(2, 20, 5, 5)
    inside = torch.zeros(20, 5, 5, dtype=torch.bool)
    inside[16] = True
    network, told = Middle(), []
    found = tiles((4, 1, 1))(network, images, inside, lambda *now: told.append(now))
    assert len(network.patches) == 1 and told == [(1, 1)]
    torch.testing.assert_close(found[0, 15:], images[1, 15:])
    assert (found[0, :15] == -20).all()
    assert not tiles((4, 1, 1), level="probability")(Middle(), images, inside)[0, :15].any()


def test_what_cannot_be_used_is_refused():
    for changes in ({"output": 4}, {"counts": (1, 2)}, {"level": "mask"}, {"batch_size": 0}):
        with pytest.raises(MssegError) as caught:
            tiles(**changes)
        assert caught.value.exit_code == ExitCode.CONFIG
    with pytest.raises(MssegError):
        tiles()(Middle(), torch.zeros(2, 9, 9, 9), torch.zeros(9, 9, 9, dtype=torch.bool))

    class Broken(Middle):
        def forward(self, images):
            return super().forward(images) * float("nan")

    with pytest.raises(MssegError) as caught:
        tiles()(Broken(), torch.randn(2, 9, 9, 9))
    assert caught.value.exit_code == ExitCode.NUMERICAL
