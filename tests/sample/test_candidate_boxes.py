import numpy as np
import pytest

from msseg_lightning.augment.fused import FusedAugment
from msseg_lightning.core.candidates import CANDIDATES
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.core.subject import (
    BASELINE,
    FOLLOWUP,
    TARGET,
    LoadedSubject,
    LongitudinalSubject,
    Native,
)
from msseg_lightning.core.volume import Volume
from msseg_lightning.sample.candidate_boxes import WITHIN, CandidateBoxLoader

SHAPE = (60, 60, 40)
IMAGES = (BASELINE, FOLLOWUP, "neck_map")


def pair(folder, name, true=True, seed=0):
    """Rods of one to four voxels on a lattice: every fifth is true, those below z = 12 are low."""
    generator = np.random.default_rng(seed)
    found, target = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    places = [(x, y, z) for x in range(1, 56, 6) for y in range(1, 58, 4) for z in range(1, 38, 4)]
    for number, (x, y, z) in enumerate(places):
        length = 1 + number % 4
        found[x : x + length, y, z] = 1
        if true and number % 5 == 0:
            target[x, y, z] = 1
    neck = np.broadcast_to(1 - np.arange(40, dtype=np.float32) / 39, SHAPE).copy()
    noise = [generator.normal(1, 1, SHAPE).astype(np.float32) for _ in range(2)]
    volumes = {
        BASELINE: Volume(noise[0], np.eye(4)),
        FOLLOWUP: Volume(noise[1], np.eye(4)),
        "neck_map": Volume(neck, np.eye(4)),
        TARGET: Volume(target, np.eye(4), "mask"),
        CANDIDATES: Volume(found, np.eye(4), "mask"),
    }
    native = Native(volumes[BASELINE].grid, b"")
    loaded = LoadedSubject(LongitudinalSubject(name, name, {}), volumes, native)
    return PreparedSubject.write(loaded, folder / name)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    return [pair(folder, "a"), pair(folder, "b", true=False, seed=1)]


def loader(pairs, **settings):
    named = {"image_names": IMAGES, "batch_size": 8, **settings}
    return CandidateBoxLoader(pairs, augment=FusedAugment(), **named)


def test_the_set_is_half_true_and_its_further_boxes_are_as_the_paper_says(pairs):
    """1500 rods a pair, 300 of them true: 600 boxes and 180 further ones; of these 85 % are low,
    and of the low ones 33 % are true."""
    made = loader(pairs)
    assert len(made.own) == 600 and sum(box.true for box in made.own) == 300
    assert len({(box.subject, str(box.box)) for box in made.own}) == 600  # none twice
    assert {box.subject for box in made.own if not box.true} == {0, 1}
    low = [box for box in made.extra if box.low]
    assert len(made.extra) == 180 and len(low) == 153
    assert sum(box.true for box in low) == 50
    assert not any(box.true for box in made.extra if not box.low)
    # below 1 - z / 39 > 0.65, so up to z = 13: of boxes with two voxels around
    assert {box.box[2].start + 2 for box in low if box.box[2].start} <= {5, 9, 13}
    assert loader(pairs, seed=1).own != made.own and loader(pairs).boxes == made.boxes
    assert len(loader(pairs, further=0.0).extra) == 0


def test_an_epoch_shows_every_box_once_in_an_order_of_its_own(pairs):
    made = loader(pairs)
    count = len(made.boxes)
    made.elements_per_step = 8
    epochs = [
        [made.element(*divmod(epoch * count + number, 8)) for number in range(count)]
        for epoch in range(2)
    ]
    key = lambda box: (box.subject, str(box.box))  # noqa: E731
    assert sorted(epochs[0], key=key) == sorted(epochs[1], key=key) == sorted(made.boxes, key=key)
    assert epochs[0] != epochs[1]


def test_a_batch_is_padded_to_its_largest_box(pairs):
    made = loader(pairs)
    batch = made.batch(3)
    chosen = [made.element(3, number) for number in range(8)]
    sizes = np.array([[part.stop - part.start for part in box.box] for box in chosen])
    assert batch.images.shape == (8, 3, *sizes.max(0)) and len(set(map(tuple, sizes))) > 1
    within = batch.extra[WITHIN]
    assert batch.target.shape == within.shape == (8, 1, *sizes.max(0))
    for box, size, images, target, own_voxels, name in zip(
        chosen, sizes, batch.images, batch.target, within, batch.subjects, strict=True
    ):
        own = made.subjects[box.subject]
        assert own.id == name
        corner = tuple(slice(0, edge) for edge in size)
        for image, channel in zip(IMAGES, images, strict=True):
            np.testing.assert_allclose(channel[corner], own.image(image)[box.box], atol=1e-6)
            outside = channel.clone()
            outside[corner] = 0
            assert not outside.any()
        np.testing.assert_array_equal(target[0][corner], own.mask(TARGET)[box.box])
        assert bool(target[0][corner].any()) or not box.true
        assert bool(own_voxels[0][corner].all()) and own_voxels.sum() == size.prod()
        rest = target[0].clone()
        rest[corner] = 0
        assert not rest.any()
    again = made.batch(3)
    assert bool((batch.images == again.images).all())
    assert made.shapes()[0] == (3, 8, 5, 5)


def test_without_a_true_candidate_there_is_nothing_to_learn(pairs):
    with pytest.raises(MssegError, match="no candidate") as refused:
        loader(pairs[1:])
    assert refused.value.exit_code == ExitCode.DATA
    shallow = loader(pairs, infratentorial_from=2.0)  # nothing is low
    assert len(shallow.extra) == 27 and not any(box.low for box in shallow.boxes)
