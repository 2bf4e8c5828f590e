import numpy as np
import pytest
import torch

from msseg_lightning.augment.fused import FusedAugment
from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.subject import FOLLOWUP, TARGET
from msseg_lightning.sample.centres import MiddleLoader, ReinforcedCentres, grid_starts


def sampler(reinforced=0.5, **changes):
    settings = {"size": 11, "output": 5, "counts": [2, 3, 2], "reinforced_counts": [7, 8, 6]}
    return ReinforcedCentres(reinforced=reinforced, **(settings | changes))


def middle(spec, output=5):
    start = np.rint(spec.centre - (output - 1) / 2).astype(int)
    return tuple(slice(a, a + output) for a in start)


def draws(chosen, subjects, count=300):
    return [chosen.draw(subjects, keyed_generator("centres", i)) for i in range(count)]


def test_a_grid_runs_from_end_to_end():
    """29 voxels, cubes of 5, four of them: 0, 8, 16, 24. One that is too short starts at 0."""
    starts = grid_starts((29, 5, 4), 5, (4, 1, 2))
    assert starts.tolist() == [[x, 0, 0] for x in (0, 8, 16, 24) for _ in range(2)]
    paper = grid_starts((181, 217, 181), 19, (6, 8, 6))
    assert len(paper) == 288 and paper[-1].tolist() == [162, 198, 162]
    assert len(grid_starts((181, 217, 181), 19, (12, 16, 12))) == 2304


def test_without_reinforcement_centres_are_those_of_the_grid(cohort):
    specs = draws(sampler(0.0), cohort)
    starts = {tuple(spec.centre - 2) for spec in specs}
    assert starts == {tuple(map(float, start)) for start in grid_starts((30, 36, 24), 5, (2, 3, 2))}
    assert {spec.subject for spec in specs} == {0, 1, 2, 3, 4}
    assert not any(spec.positive for spec in specs)


def test_reinforced_centres_hold_lesion_where_it_counts(cohort):
    specs = draws(sampler(1.0), cohort)
    assert all(cohort[spec.subject].mask(TARGET)[middle(spec)].any() for spec in specs)
    assert {spec.subject for spec in specs} == {0, 2, 3}
    counts = np.bincount([spec.subject for spec in specs], minlength=5)
    available = np.array([len(sampler().with_target(subject)) for subject in cohort])
    # every such centre of any subject is equally likely
    np.testing.assert_allclose(counts / 300, available / available.sum(), atol=0.1)
    reached = {tuple(spec.centre) for spec in specs if spec.subject == 3}
    assert len(reached) == available[3]


def test_reinforcement_raises_the_share_of_patches_with_lesion(cohort):
    shares = []
    for reinforced in (0.0, 0.5):
        specs = draws(sampler(reinforced), cohort)
        shares.append(
            np.mean([cohort[spec.subject].mask(TARGET)[middle(spec)].any() for spec in specs])
        )
    assert shares[0] < 0.1 and 0.4 < shares[1] < 0.65


def test_subjects_without_lesions_give_any_centre(cohort):
    assert {spec.subject for spec in draws(sampler(1.0), [cohort[1], cohort[4]])} == {0, 1}


def test_settings_without_a_middle_are_refused():
    with pytest.raises(ValueError, match="middle"):
        sampler(output=4)
    with pytest.raises(ValueError, match="is not between 0 and 1"):
        sampler(1.5)


def test_targets_are_the_middle_of_their_patches(cohort):
    loader = MiddleLoader(
        cohort, sampler(1.0), FusedAugment(), batch_size=6, extra_names=("brain",)
    )
    batch = loader.batch(3)
    assert tuple(batch.images.shape) == (6, 2, 11, 11, 11)
    assert tuple(batch.target.shape) == tuple(batch.extra["brain"].shape) == (6, 1, 5, 5, 5)
    assert batch.target.flatten(1).any(1).all()
    for element in range(6):
        subject, centre, _ = loader.element(3, element)
        start = np.rint(centre - 2).astype(int)
        box = tuple(slice(a, a + 5) for a in start)
        expected = torch.from_numpy(subject.mask(TARGET)[box]).float()
        torch.testing.assert_close(batch.target[element, 0], expected)
        seen = torch.from_numpy(subject.image(FOLLOWUP)[box])
        torch.testing.assert_close(batch.images[element, 1, 3:8, 3:8, 3:8], seen)
