import numpy as np
import pytest
import torch

from msseg_lightning.augment.fused import FusedAugment
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.core.subject import BASELINE, FOLLOWUP, TARGET
from msseg_lightning.sample.loader import PatchLoader
from msseg_lightning.sample.mixed import MixedPairs
from msseg_lightning.sample.ratio import RatioSampler
from msseg_lightning.sample.synthetic_pairs import PairSynthesis
from tests.sample.lesion_scans import Filler, prepared
from tests.sample.test_visit import Folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    return [prepared(folder, name, seed) for seed, name in enumerate("ab")]


def mixed(pairs, **options):
    synthesis = PairSynthesis(RatioSampler(16, 1.0, target="lesions"), FusedAugment())
    options = {"batch_size": 4, "seed": 5, "inpainter": Filler(0.25), **options}
    return MixedPairs(pairs, RatioSampler(16, 1.0), FusedAugment(), synthesis, **options)


def test_one_real_patch_to_three_made_up_ones(pairs):
    batch = mixed(pairs).batch(0)
    assert batch.images.shape == (4, 2, 16, 16, 16) and batch.target.shape == (4, 1, 16, 16, 16)
    torch.testing.assert_close(batch.weight, torch.tensor([1, 1 / 3, 1 / 3, 1 / 3]))
    alone = PatchLoader(pairs, RatioSampler(16, 1.0), FusedAugment(), batch_size=1, seed=5).batch(0)
    torch.testing.assert_close(batch.images[:1], alone.images)
    torch.testing.assert_close(batch.target[:1], alone.target)
    assert batch.subjects[0] == alone.subjects[0] and len(batch.subjects) == 4
    torch.testing.assert_close(
        mixed(pairs, batch_size=8).batch(0).weight[:3], torch.tensor([1, 1, 1 / 3])
    )


def test_other_ratios_and_weights(pairs):
    batch = mixed(pairs, batch_size=6, synthetic_per_real=1, synthetic_weight=0.5).batch(0)
    assert batch.weight.tolist() == [1, 1, 1, 0.5, 0.5, 0.5]


def test_channels_follow_the_names_for_made_up_pairs_too(pairs):
    forwards = mixed(pairs).batch(1)
    backwards = mixed(pairs, image_names=(FOLLOWUP, BASELINE)).batch(1)
    assert torch.equal(forwards.images, backwards.images.flip(1))
    assert torch.equal(forwards.target, backwards.target)
    # lesions are erased from the first copy: there the follow-up is brighter
    new = forwards.target[1:, 0] > 0
    change = forwards.images[1:, 1] - forwards.images[1:, 0]
    assert bool(new.any()) and float(change[new].min()) > 1


def test_batches_are_a_function_of_step_and_rank(pairs):
    options = {"generator": Filler(3.0)}
    first, again = mixed(pairs, **options), mixed(pairs, **options)
    for batch, other in zip(first.iterate(3, 6), again.iterate(3, 6), strict=True):
        assert torch.equal(batch.images, other.images) and torch.equal(batch.target, other.target)
    ranks = [first.batch(3, rank, 2).images for rank in (0, 1)]
    assert not torch.equal(ranks[0][1:], ranks[1][1:])
    assert torch.equal(first.batch(3, 1, 2).images, again.batch(3, 1, 2).images)
    # elements are numbered across ranks: rank 0 of two makes what one process begins with
    assert torch.equal(first.batch(3, 0, 2).images, first.batch(3).images)


def test_scans_of_other_people_are_used_instead(pairs, tmp_path):
    other = prepared(tmp_path, "single-001", 9, pair=False)
    batch = mixed(pairs, visits=Folder([other])).batch(0)
    assert batch.subjects[1:] == ("single-001",) * 3 and batch.subjects[0] in "ab"


def test_networks_are_not_needed_to_load(pairs):
    loader = mixed(pairs, inpainter=None)
    assert loader.synthetic.donors is None and np.isfinite(loader.batch(0).images.numpy()).all()


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"batch_size": 6}, "train.batch_size"),
        ({"synthetic_per_real": 0}, "train.batch_size"),
        ({"image_names": (BASELINE,)}, "channels.images"),
        ({"target_names": ("brain",)}, "channels.target"),
    ],
)
def test_settings_that_cannot_be_mixed_are_refused(pairs, options, field):
    with pytest.raises(MssegError) as error:
        mixed(pairs, **options)
    assert error.value.exit_code == ExitCode.CONFIG
    assert [problem.field for problem in error.value.problems] == [field]


def test_patches_of_two_sizes_are_refused(pairs):
    synthesis = PairSynthesis(RatioSampler(8, target="lesions"), FusedAugment())
    with pytest.raises(MssegError, match="size"):
        MixedPairs(pairs, RatioSampler(16), FusedAugment(), synthesis, target_names=(TARGET,))
