import pytest
import torch
from torch import nn

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.infer.slices import SliceWise
from msseg_lightning.infer.sliding_window import UNSEEN_LOGIT

SHAPE = (7, 9, 5)


class Told(nn.Module):
    """Answers with a channel of its input and remembers the shapes it saw."""

    def __init__(self, channel=0, divisor=(1, 1)):
        super().__init__()
        self.channel, self.divisor, self.seen = channel, divisor, []

    def forward(self, images):
        self.seen.append(tuple(images.shape))
        return images[:, self.channel : self.channel + 1]


def volume(channels=2, shape=SHAPE):
    return torch.randn(channels, *shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("plane", ["sagittal", "coronal", "axial"])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_every_slice_comes_back_to_its_place(plane, batch_size):
    images = volume()
    infer = SliceWise([plane], combine_at="logit", batch_size=batch_size)
    torch.testing.assert_close(infer(Told(1), images), images[1:])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_channels_are_the_stack_of_the_first_visit_then_of_the_second(axis):
    """[B(k-1), B(k), B(k+1), F(k-1), F(k), F(k+1)], with zeros beyond the volume."""
    images, plane = volume(), ("sagittal", "coronal", "axial")[axis]
    count = SHAPE[axis]
    for channel in range(6):
        visit, offset = channel // 3, channel % 3 - 1
        expected = torch.zeros(SHAPE)
        keep = slice(max(0, -offset), count - max(0, offset))
        source = slice(max(0, offset), count + min(0, offset))
        expected.movedim(axis, 0)[keep] = images[visit].movedim(axis, 0)[source]
        found = SliceWise([plane], depth=3, combine_at="logit")(Told(channel), images)
        torch.testing.assert_close(found[0], expected)


def test_a_stack_can_keep_its_depth():
    class Middle(nn.Module):
        def forward(self, images):
            assert images.shape[1:3] == (2, 3)
            return images[:, 1:, 1]

    images = volume()
    found = SliceWise(["axial"], depth=3, layout="depth", combine_at="logit")(Middle(), images)
    torch.testing.assert_close(found, images[1:])


@pytest.mark.parametrize("plane", ["sagittal", "axial"])
def test_of_an_answer_for_every_slice_the_middle_one_is_kept(plane):
    images = volume()
    infer = SliceWise([plane], depth=3, layout="depth", combine_at="logit", batch_size=2)
    torch.testing.assert_close(infer(Told(1), images), images[1:])


class ByShape(nn.Module):
    """A logit per plane: sagittal slices are 9 x 5, coronal ones 7 x 5, axial ones 7 x 9."""

    def __init__(self, sagittal, coronal, axial):
        super().__init__()
        self.answers = {(9, 5): sagittal, (7, 5): coronal, (7, 9): axial}

    def forward(self, images):
        return images[:, :1] * 0 + self.answers[tuple(images.shape[2:])]


@pytest.mark.parametrize(
    ("votes", "kept"), [((3, 3, -9), 1), ((3, -1, -1), 0), ((9, -0.1, -0.1), 0), ((1, 1, 1), 1)]
)
def test_two_of_three_planes_decide(votes, kept):
    """S14: a voxel found in two views is kept; in one it is dropped, however sure that view is."""
    infer = SliceWise(combine_at="binary", rule="majority")
    assert infer.level == "probability"
    assert infer(ByShape(*votes), volume()).unique().tolist() == [kept]


def test_planes_are_averaged_at_the_level_asked_for():
    """S15 averages (tanh + 1) / 2, S23 logits."""
    network, logits = ByShape(4.0, 0.0, -1.0), torch.tensor([4.0, 0.0, -1.0])
    mean = SliceWise(combine_at="probability")(network, volume())
    assert mean.mean() == pytest.approx(float(logits.sigmoid().mean()), rel=1e-5)
    logit = SliceWise(combine_at="logit")
    assert logit.level == "logit"
    assert logit(network, volume()).mean() == pytest.approx(1.0)
    share = SliceWise(combine_at="binary")(network, volume())
    assert share.mean() == pytest.approx(1 / 3)


def test_mirrored_passes_are_turned_back():
    class FromTheLeft(nn.Module):
        """Gives the index along the first axis of a coronal or axial slice."""

        def forward(self, images):
            rows = torch.arange(images.shape[2]).float()
            return images[:, :1] * 0 + rows[:, None]

    found = SliceWise(["axial"], combine_at="logit", flips=[[], [0]])(FromTheLeft(), volume())
    torch.testing.assert_close(found, torch.full_like(found, 3.0))  # (i + (6 - i)) / 2


@pytest.mark.parametrize("divisor", [4, 8])
def test_whole_slices_are_padded_to_what_the_network_divides(divisor):
    network, images = Told(0, (divisor,) * 2), volume()
    found = SliceWise(combine_at="logit")(network, images)
    torch.testing.assert_close(found, images[:1])
    edges = {edge for shape in network.seen for edge in shape[2:]}
    assert edges <= {8, 12, 16} and all(edge % divisor == 0 for edge in edges)


def test_padding_is_even_and_zero():
    class Sum(nn.Module):
        divisor = (4, 4)

        def forward(self, images):
            assert not images[:, :, 0].any() and not images[:, :, -2:].any()
            return images[:, :1]

    images = volume(1, (5, 4, 2)) + 10
    assert SliceWise(["axial"], combine_at="logit")(Sum(), images).shape == (1, 5, 4, 2)


@pytest.mark.parametrize("size", [4, (3, 5), 16])
@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_windows_within_slices_are_averaged(size, overlap):
    images = volume()
    infer = SliceWise(size=size, overlap=overlap, combine_at="logit", batch_size=7)
    network = Told(0)
    torch.testing.assert_close(infer(network, images), images[:1])
    shape = (size, size) if isinstance(size, int) else size
    assert {seen[2:] for seen in network.seen} == {shape}


def test_overlapping_windows_share_by_hand():
    """Windows of 4 at 0, 2 and 3 on 7 rows; each answers with its own row number."""

    class Row(nn.Module):
        def forward(self, images):
            return images[:, :1] * 0 + torch.arange(4.0)[:, None]

    found = SliceWise(["axial"], size=(4, 9), overlap=0.5, combine_at="logit")(Row(), volume())
    rows = [0, 1, (2 + 0) / 2, (3 + 1 + 0) / 3, (2 + 1) / 2, (3 + 2) / 2, 3]
    torch.testing.assert_close(found[0, :, 0, 0], torch.tensor(rows))


@pytest.mark.parametrize(("combine_at", "unseen"), [("logit", UNSEEN_LOGIT), ("probability", 0.0)])
def test_slices_without_a_voxel_inside_are_skipped(combine_at, unseen):
    images, inside = volume(), torch.zeros(SHAPE, dtype=torch.bool)
    inside[2:4, 5, 1] = True
    network = Told()
    found = SliceWise(["sagittal"], combine_at=combine_at)(network, images, inside)
    assert sum(shape[0] for shape in network.seen) == 2
    assert (found[:, [0, 1, 4, 5, 6]] == unseen).all()
    expected = images[:1, 2:4] if combine_at == "logit" else images[:1, 2:4].sigmoid()
    torch.testing.assert_close(found[:, 2:4], expected)
    three = SliceWise(combine_at=combine_at)(network, images, inside)
    value = images[0, 2, 5, 1]
    assert three[0, 2, 5, 1] == pytest.approx(
        float(value if combine_at == "logit" else value.sigmoid()), rel=1e-5
    )


def test_the_network_is_left_as_it_was_and_progress_is_told():
    network, told = nn.Sequential(nn.Conv2d(2, 1, 1), nn.Dropout(0.9)), []
    network.train()
    infer = SliceWise(combine_at="logit", batch_size=4)
    first = infer(network, volume(), progress=lambda done, of: told.append((done, of)))
    assert network.training
    torch.testing.assert_close(first, infer(network, volume()))  # no dropout
    assert told[:2] == [(4, 7), (7, 7)] and told[-1] == (5, 5)


def test_an_answer_that_is_not_finite_is_refused():
    images = volume()
    images[0, 3, 3, 3] = float("nan")
    with pytest.raises(MssegError) as error:
        SliceWise()(Told(), images)
    assert error.value.problems[0].exit_code == ExitCode.NUMERICAL


@pytest.mark.parametrize(
    "bad",
    [
        {"planes": ["oblique"]},
        {"planes": []},
        {"depth": 2},
        {"overlap": 1.0},
        {"batch_size": 0},
        {"rule": "majority"},
        {"combine_at": "mask"},
        {"layout": "rows"},
        {"size": 0},
        {"precision": "fp8"},
    ],
)
def test_bad_settings(bad):
    with pytest.raises(MssegError) as error:
        SliceWise(**bad)
    assert error.value.problems[0].exit_code == ExitCode.CONFIG


def test_bad_images():
    with pytest.raises(ValueError, match="C, X, Y, Z"):
        SliceWise()(Told(), torch.zeros(4, 4, 4))
    with pytest.raises(MssegError, match="empty"):
        SliceWise()(Told(), volume(), torch.zeros(SHAPE, dtype=torch.bool))


def test_windows_at_every_step_reach_over_zeros_beyond_the_slice():
    """Slices of 7 x 9, windows of 4 at steps of 2: at 0 2 4 6 and 0 2 4 6 8, not pushed back."""
    images, network = volume(), Told(0)
    infer = SliceWise(["axial"], size=4, overlap=0.5, edges="padded", combine_at="logit")
    torch.testing.assert_close(infer(network, images), images[:1])
    assert sum(shape[0] for shape in network.seen) == SHAPE[2] * 4 * 5

    class Ends(nn.Module):
        """1 in windows that hold zeros alone in their last row."""

        def forward(self, stacks):
            return (stacks[:, :1, -1:] == 0).all(3, keepdim=True).float().expand(-1, 1, 4, 4)

    found = infer(Ends(), images + 10)
    assert not found[0, :4].any() and (found[0, 4:6] == 0.5).all() and (found[0, 6] == 1).all()


def test_other_edges_are_refused():
    with pytest.raises(MssegError, match="edges") as caught:
        SliceWise(edges="mirrored")
    assert caught.value.exit_code == ExitCode.CONFIG


def test_planes_tell_how_far_they_differ():
    """Probabilities 0.9, 0.9 and 0.3: mean 0.7, variance (0.04 + 0.04 + 0.16) / 3."""
    logits = [torch.logit(torch.tensor(value)).item() for value in (0.9, 0.9, 0.3)]
    images = volume(1)
    rule = SliceWise()
    mean, spread = rule.with_spread(ByShape(*logits), images)
    torch.testing.assert_close(mean, torch.full_like(mean, 0.7))
    torch.testing.assert_close(spread, torch.full_like(mean, 0.08**0.5))
    assert rule.maps == 3 and SliceWise(["axial"]).maps == 1
    assert SliceWise(flips=[[], [0]]).maps == 6
    assert not rule.with_spread(ByShape(1.0, 1.0, 1.0), images)[1].any()
