import numpy as np
import pytest

from msseg_lightning.augment.fused import FusedAugment
from msseg_lightning.augment.recipe import Flip, Recipe
from msseg_lightning.core.candidates import window_around
from msseg_lightning.core.subject import BASELINE, FOLLOWUP, TARGET
from msseg_lightning.sample.candidate_windows import AboveThreshold, CandidateWindowLoader
from tests.sample.conftest import SHAPE, prepare

PROPOSE = AboveThreshold("candidate_probability", "region_probability")


def with_maps(pair, folder, *found, inside=slice(None)):
    """The pair with cubes of 0.9 from some corners on, and a region."""
    region, candidates = np.zeros(SHAPE, np.float32), np.full(SHAPE, 0.1, np.float32)
    region[inside] = 0.9
    for x, y, z in found:
        candidates[x : x + 3, y : y + 3, z : z + 3] = 0.9
    pair = pair.with_image("region_probability", region, folder / f"{pair.id}-1")
    return pair.with_image("candidate_probability", candidates, folder / f"{pair.id}-2")


@pytest.fixture
def pairs(tmp_path):
    """One with a hit, a false positive and a missed lesion; one with a false positive alone."""
    some, none = prepare(tmp_path, "some", 2, 0), prepare(tmp_path, "none", 0, 1)
    lesions = np.argwhere(some.mask(TARGET)).reshape(-1, 3)
    hit = lesions.min(0)
    return [
        with_maps(some, tmp_path, hit, (25, 2, 18)),
        with_maps(none, tmp_path, (5, 30, 5)),
    ]


def loader(pairs, recipe=None, **settings):
    return CandidateWindowLoader(
        pairs, PROPOSE, FusedAugment(recipe), size=8, batch_size=4, **settings
    )


def test_only_what_lies_inside_the_region_is_proposed(tmp_path):
    pair = prepare(tmp_path, "a", 1, 0)
    pair = with_maps(pair, tmp_path, (4, 4, 4), (10, 4, 4), (20, 20, 4), inside=np.s_[:11])
    proposal = PROPOSE(pair)
    assert sorted(proposal.candidates.sizes) == [9, 27]  # one plane of the second
    assert proposal.inside[:11].all() and not proposal.inside[11:].any()
    sure = AboveThreshold("candidate_probability", "region_probability", threshold=0.95)
    assert len(sure(pair).candidates) == 0
    assert len(AboveThreshold(PROPOSE.image, PROPOSE.region, 0.5, 0.95)(pair).candidates) == 0


def test_the_table_holds_every_false_positive_with_its_label(pairs):
    made = loader(pairs)
    rows = [(row["pair"], row["from"], row["label"], row["voxels"]) for row in made.table()]
    assert sorted(rows) == [
        ("none", "candidate", 0, 27),
        ("some", "candidate", 0, 27),
        ("some", "candidate", 1, 27),
        ("some", "missed lesion", 1, 27),
    ]
    assert all((row["shared_with_target"] > 0) == row["label"] for row in made.table())
    assert {row["patient"] for row in made.table()} == {"some", "none"}


def test_a_window_is_what_will_be_judged_and_its_label(pairs):
    """Uncut, as ``infer.candidate_windows`` cuts it; of a missed lesion the target is the mask."""
    made = loader(pairs)
    kinds = set()
    for step in range(6):
        batch = made.batch(step)
        assert batch.images.shape == (4, 3, 8, 8, 8) and batch.target.shape == (4, 1)
        for element in range(4):
            chosen = made.element(step, element)
            pair = pairs[chosen.subject]
            images = pair.stack([BASELINE, FOLLOWUP])
            mask = pair.mask(TARGET) if chosen.missed else PROPOSE(pair).candidates.mask
            images = np.concatenate([images, mask[None]]).astype(np.float32)
            expected = window_around(images, chosen.voxel, (8, 8, 8))
            np.testing.assert_allclose(batch.images[element], expected, atol=1e-4)
            assert batch.images[element, 2, 4, 4, 4] == 1
            assert float(batch.target[element]) == (chosen.shared > 0)
            kinds.add((chosen.missed, chosen.shared > 0))
    assert kinds == {(True, True), (False, True), (False, False)}


def test_half_of_the_windows_are_true_or_as_many_as_are_asked_for(pairs):
    for ratio in (0.5, 0.2):
        made = loader(pairs, positive_ratio=ratio)
        drawn = [made.element(step, 0).shared > 0 for step in range(2000)]
        assert np.mean(drawn) == pytest.approx(ratio, abs=0.03)
    with pytest.raises(ValueError, match="between 0 and 1"):
        loader(pairs, positive_ratio=1.5)


def test_the_mask_is_turned_with_the_scans(pairs):
    made = loader(pairs, Recipe(flip=Flip(probability=1.0)), positive_ratio=0.0)
    batch, plain = made.batch(0), loader(pairs, positive_ratio=0.0).batch(0)
    np.testing.assert_allclose(batch.images, plain.images.flip(2, 3, 4), atol=1e-4)


def test_without_false_positives_it_says_so_and_without_anything_it_ends(pairs, tmp_path, caplog):
    pair = with_maps(prepare(tmp_path, "clean", 1, 3), tmp_path)
    made = loader([pair])
    assert "no false positives" in caplog.text
    assert all(made.element(step, 0).missed for step in range(20))
    with pytest.raises(ValueError, match="no candidate and no lesion"):
        loader([with_maps(prepare(tmp_path, "empty", 0, 3), tmp_path)])
