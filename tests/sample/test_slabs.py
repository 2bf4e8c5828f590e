"""Slabs with lesion come twice, others seldom; labels are those of every slice."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from msseg_lightning.augment.fused import FusedAugment
from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP, TARGET
from msseg_lightning.sample.slabs import SlabLoader
from msseg_lightning.sample.slices import SliceSampler
from tests.sample.conftest import SHAPE

WHOLE = SHAPE[:2]


def loader(cohort, size=WHOLE, depth=3, others=0.01, sampler=None, **changes):
    sampler = sampler or SliceSampler(size, planes=["axial"])
    settings = {"batch_size": 6, "seed": 3, **changes}
    return SlabLoader(cohort, sampler, FusedAugment(), depth, others, **settings)


def layer(subject, name, number):
    array = subject.image(name) if name in subject.image_names else subject.label(name)
    return array[:, :, number] if 0 <= number < SHAPE[2] else np.zeros(WHOLE, np.float32)


def test_images_and_labels_are_those_of_every_slice(cohort):
    made = loader(cohort, others=1.0)
    seen = set()
    for step in range(4):
        batch = made.batch(step)
        assert batch.images.shape == (6, 2, 3, *WHOLE)
        assert batch.target.shape == (6, 1, 3, *WHOLE)
        for element in range(6):
            spec, mirrored = made.choose(step, element)
            seen.add(mirrored)
            subject, middle = cohort[spec.subject], int(spec.voxel[2])
            turn = slice(None, None, -1) if mirrored else slice(None)
            for place, number in enumerate(range(middle - 1, middle + 2)):
                for channel, name in enumerate((BASELINE, FOLLOWUP)):
                    expected = layer(subject, name, number)[turn]
                    found = batch.images[element, channel, place]
                    np.testing.assert_allclose(found, expected, atol=1e-5)
                expected = layer(subject, TARGET, number)[turn]
                np.testing.assert_array_equal(batch.target[element, 0, place], expected)
            assert spec.positive == bool(batch.target[element].any())
    assert seen == {True, False}


def test_the_list_of_slabs_is_counted_by_hand(cohort):
    made = loader(cohort, others=0.01)
    lesional = plain = 0
    for subject in cohort:
        target, brain = subject.mask(TARGET).any((0, 1)), subject.mask(BRAIN).any((0, 1))
        held = [bool(target[max(0, k - 1) : k + 2].any()) for k in range(SHAPE[2])]
        lesional += sum(held)
        plain += sum(bool(brain[k]) and not held[k] for k in range(SHAPE[2]))
    assert len(made.lesional) == lesional > 0 and len(made.plain) == plain > 0
    assert made.lesional_share == pytest.approx(2 * lesional / (2 * lesional + 0.01 * plain))


def test_shares_are_those_of_the_list(cohort):
    """Half of the slabs with lesion are mirrored, none of the others; all are equally likely."""
    made = loader(cohort, others=0.5)
    drawn = [made.choose(step, 0) for step in range(3000)]
    share = np.mean([spec.positive for spec, _ in drawn])
    assert abs(share - made.lesional_share) < 0.04 and 0.2 < made.lesional_share < 0.95
    turned = [mirrored for spec, mirrored in drawn if spec.positive]
    assert abs(np.mean(turned) - 0.5) < 0.06
    assert not any(mirrored for spec, mirrored in drawn if not spec.positive)
    chosen = {(spec.subject, int(spec.voxel[2])) for spec, _ in drawn}
    assert chosen == {*made.lesional, *made.plain}


def test_without_others_only_slabs_with_lesion_come(cohort):
    made = loader(cohort, others=0.0)
    assert made.lesional_share == 1
    assert bool(made.batch(0).target.flatten(1).any(1).all())


def test_a_small_crop_shows_the_lesion(cohort):
    made = loader(cohort, size=(6, 6), others=0.0)
    for step in range(5):
        assert bool(made.batch(step).target.flatten(1).any(1).all())


def test_without_labels_every_slab_of_the_brain_is_drawn(cohort):
    sampler = SliceSampler(WHOLE, planes=["axial"], target="unknown")
    made = loader(cohort, sampler=sampler, target_names=())
    assert not made.lesional and made.lesional_share == 0
    batch = made.batch(0)
    assert batch.target.shape == (6, 0, 3, *WHOLE)
    assert {spec.positive for spec, _ in (made.choose(step, 0) for step in range(50))} == {False}


def test_a_batch_is_a_function_of_its_step(cohort):
    one, other = loader(cohort, threads=2), loader(cohort)
    other.batch(0)
    assert torch.equal(one.batch(7).images, other.batch(7).images)
    assert not torch.equal(one.batch(7).images, one.batch(8).images)


@pytest.mark.parametrize(
    "bad", [{"depth": 2}, {"others": 1.5}, {"mirror_axis": 2}, {"mirror_axis": 3}]
)
def test_bad_settings(cohort, bad):
    with pytest.raises(ValueError, match=r"depth|axis"):
        loader(cohort, **bad)
