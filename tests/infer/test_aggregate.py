import gc
import math
import weakref

import pytest
import torch
from torch import nn

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.infer.aggregate import (
    Ensemble,
    Flipped,
    combine,
    convert,
    flip_sets,
    flips,
    mean_and_spread,
)
from msseg_lightning.infer.sliding_window import SlidingWindow


def maps(*values):
    return [torch.tensor(value).view(1, -1, 1, 1) for value in values]


def flat(tensor):
    return [round(value, 6) for value in tensor.flatten().tolist()]


def test_levels_by_hand():
    # logits 0, ln 3, -ln 3 are probabilities 0.5, 0.75, 0.25
    logits = maps([0.0, 1.0986123, -1.0986123])[0]
    assert flat(convert(logits, "logit", "probability")) == [0.5, 0.75, 0.25]
    assert flat(convert(logits, "logit", "binary")) == [0, 1, 0]
    assert flat(convert(logits, "logit", "binary", threshold=0.2)) == [1, 1, 1]
    with pytest.raises(ValueError, match="cannot become"):
        convert(logits, "binary", "logit")


def test_the_level_changes_the_answer():
    """One member sure of a lesion (logit 6), two mildly against (-1 each)."""
    three = maps([6.0], [-1.0], [-1.0])
    assert flat(combine(three, "logit", "logit")) == [1.333333]  # 4 / 3: lesion
    # (0.997527 + 0.268941 + 0.268941) / 3 = 0.511803: lesion
    assert flat(combine(three, "logit", "probability")) == [pytest.approx(0.511803, abs=1e-6)]
    assert flat(combine(three, "logit", "binary")) == [0.333333]  # one vote of three
    assert flat(combine(three, "logit", "binary", "majority")) == [0]


def test_majority_needs_more_than_half():
    votes = maps([1.0, 1.0, 1.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0])
    assert flat(combine(votes, "binary", "binary", "majority")) == [1, 0, 0]
    # two of three views keep a voxel
    assert flat(combine(votes[:3], "binary", "binary", "majority")) == [1, 1, 0]
    with pytest.raises(ValueError, match="binary level"):
        combine(votes, "binary", "probability", "majority")


def test_vote_then_average():
    """S14: three views vote in every fold, the folds' masks are averaged."""
    folds = [maps([0.9], [0.6], [0.1]), maps([0.9], [0.2], [0.1])]
    voted = (combine(views, "probability", "binary", "majority") for views in folds)
    assert flat(combine(voted, "binary", "binary")) == [0.5]
    views = (combine(views, "probability", "probability") for views in zip(*folds, strict=True))
    assert flat(combine(views, "probability", "probability")) == [0.466667]  # another order


def test_no_members():
    with pytest.raises(MssegError) as caught:
        combine([], "logit", "logit")
    assert caught.value.exit_code == ExitCode.CONFIG


def test_given_maps_are_left_alone():
    first, second = maps([1.0], [3.0])
    combine([first, second], "logit", "logit")
    assert first.item() == 1 and second.item() == 3


def test_memory_holds_one_member():
    alive = []

    def members():
        for value in range(6):
            answer = torch.full((1, 4, 4, 4), float(value))
            alive.append(weakref.ref(answer))
            yield answer
            del answer
            gc.collect()
            assert sum(ref() is not None for ref in alive) <= 1

    assert combine(members(), "logit", "logit").mean().item() == 2.5


def test_flip_sets():
    assert flip_sets([0]) == ((), (0,))
    assert len(set(flip_sets([0, 1, 2]))) == 8


def test_flips_undo_themselves():
    """A network that only looks at the voxel itself answers the same for every flip."""
    torch.manual_seed(0)
    network, images = nn.Conv3d(2, 1, 1), torch.randn(2, 12, 9, 8)
    inside = torch.zeros(12, 9, 8, dtype=torch.bool)
    inside[9:12, 6:, 5:] = True  # a corner, so that an unflipped mask would show
    answers = list(flips(SlidingWindow(8, 0.5), network, images, inside, flip_sets([0, 1, 2])))
    assert len(answers) == 8
    for answer in answers[1:]:
        torch.testing.assert_close(answer[0][inside], answers[0][0][inside])


def test_ensemble_is_the_mean_over_members_and_flips():
    """S13: exactly 8 flips x 5 models."""
    torch.manual_seed(0)
    networks = [nn.Conv3d(2, 1, 3, padding=1) for _ in range(5)]
    images, calls = torch.randn(2, 8, 8, 8), []
    for network in networks:
        network.register_forward_hook(lambda m, i, o: calls.append(m))
    window = SlidingWindow(8, 0, precision="fp32")
    ensemble = Ensemble(window, "probability", flips=flip_sets([0, 1, 2]))
    result = ensemble(iter(networks), images)
    assert len(calls) == 40
    assert all(calls[8 * index] is network for index, network in enumerate(networks))  # in turn
    expected = torch.zeros(1, 8, 8, 8)
    with torch.no_grad():
        for network in networks:
            for axes in flip_sets([1, 2, 3]):
                expected += network(images.flip(axes)[None])[0].flip(axes).sigmoid() / 40
    torch.testing.assert_close(result, expected)


def test_flips_must_be_axes():
    with pytest.raises(ValueError, match="axes 0, 1, 2"):
        Ensemble(SlidingWindow(8, 0.5), "logit", flips=((3,),))


@pytest.mark.parametrize(("axes", "copies"), [((0, 1, 2), 8), ((0,), 2), ((), 1)])
def test_flipped_window_is_the_mean_over_its_copies(axes, copies):
    torch.manual_seed(0)
    network, images, calls = nn.Conv3d(2, 1, 3, padding=1), torch.randn(2, 8, 8, 8), []
    network.register_forward_hook(lambda m, i, o: calls.append(m))
    rule = Flipped(SlidingWindow(8, 0, level="probability"), axes)
    assert rule.level == "probability"
    told = []
    answer = rule(network, images, None, lambda done, total: told.append((done, total)))
    assert len(calls) == copies and told == [(i + 1, copies) for i in range(copies)]
    with torch.no_grad():
        expected = sum(
            network(images.flip(turn)[None])[0].flip(turn).sigmoid()
            for turn in ([1 + axis for axis in chosen] for chosen in flip_sets(axes))
        )
    torch.testing.assert_close(answer, expected / copies)


def test_flipped_majority_is_read_as_a_probability():
    network = nn.Conv3d(2, 1, 1)
    rule = Flipped(SlidingWindow(8, 0), level="binary", rule="majority")
    assert rule.level == "probability"
    answer = rule(network, torch.randn(2, 8, 8, 8))
    assert set(answer.unique().tolist()) <= {0.0, 1.0}
    assert Flipped(SlidingWindow(8, 0)).level == "logit"


def test_the_spread_is_the_standard_deviation_of_probabilities():
    """Logits 0, ln 3 and -ln 3 are probabilities 1/2, 3/4 and 1/4: variance (0 + 1 + 1) / 48."""
    maps = [torch.full((1, 1, 1, 2), value) for value in (0.0, math.log(3), -math.log(3))]
    mean, spread = mean_and_spread(iter(maps), "logit", "logit")
    torch.testing.assert_close(mean, torch.zeros(1, 1, 1, 2), atol=1e-6, rtol=0)
    torch.testing.assert_close(spread, torch.full((1, 1, 1, 2), math.sqrt(2 / 48)))
    assert torch.equal(mean, combine(maps, "logit", "logit"))
    votes = mean_and_spread(maps, "logit", "binary", "majority")[1]
    torch.testing.assert_close(votes, torch.full((1, 1, 1, 2), math.sqrt(2 / 9)))


def test_equal_maps_have_no_spread_at_all():
    """A third is no float: its square's mean less its mean's square would not be 0."""
    maps = [torch.full((1, 2, 2, 2), 1 / 3)] * 7
    assert not mean_and_spread(maps, "probability", "probability")[1].any()
    assert not mean_and_spread(maps[:1], "probability", "probability")[1].any()


def test_flips_tell_how_far_they_differ():
    """Two answers, 0.2 and 0.8 where the flip is not symmetric: standard deviation 0.3."""

    def window(network, images, inside=None, progress=None):
        return torch.where(torch.arange(4).view(1, 4, 1, 1) < 2, 0.2, 0.8).expand(1, 4, 1, 1)

    window.level = "probability"
    rule = Flipped(window, axes=[0])
    images = torch.zeros(1, 4, 1, 1)
    mean, spread = rule.with_spread(torch.nn.Identity(), images)
    torch.testing.assert_close(mean, torch.full((1, 4, 1, 1), 0.5))
    torch.testing.assert_close(spread, torch.full((1, 4, 1, 1), 0.3))
    assert rule.maps == 2 and torch.equal(rule(torch.nn.Identity(), images), mean)
    assert Flipped(window).maps == 8 and Flipped(window, axes=[]).maps == 1
