"""What the card of S22 says of the whole system."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from msseg_lightning.core.candidates import CANDIDATES
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.subject import FOLLOWUP, TARGET, LongitudinalSubject
from msseg_lightning.core.volume import Volume
from msseg_lightning.run.assemble.system import build_loader, build_method, instantiate
from msseg_lightning.run.config.compose import compose_config
from msseg_lightning.sample.candidate_boxes import WITHIN
from msseg_lightning.train import padded
from tests.preprocess.test_ratio_candidates import pair

SHAPE = (40, 36, 30)


@functools.cache
def config(*words):
    return compose_config(("read.root=.", *words), "ratio_roi_cnn")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Blocks that rose by a level, of which every third is a lesion; made by the chain's end."""
    brain = np.zeros(SHAPE, bool)
    brain[1:-1, 1:-1, 1:-1] = True
    generator = np.random.default_rng(0)
    baseline = np.where(brain, generator.uniform(3.0, 3.2, SHAPE), 0)
    baseline[2, 2, 2:6] = [0.1, 6, 0.1, 6]
    followup, target = baseline.copy(), np.zeros(SHAPE, bool)
    places = [(x, y, z) for x in range(4, 34, 6) for y in range(4, 30, 6) for z in range(4, 24, 6)]
    for number, (x, y, z) in enumerate(places):
        block = np.s_[x : x + 3 + number % 2, y : y + 3, z : z + 3]
        followup[block] = 4.5
        target[block] = number % 3 == 0
    loaded = pair(baseline, followup, brain)
    mask = Volume(target, loaded.grid.affine, "mask")
    loaded = loaded.replace(volumes={**loaded.volumes, TARGET: mask})
    steps = config()["preprocess"]["steps"]
    for name in ("match", "candidates", "position"):
        loaded = instantiate(steps[name])(loaded)
    return PreparedSubject.write(loaded, tmp_path_factory.mktemp("pair") / "p")


def test_the_chain_leaves_levels_candidates_and_positions(prepared):
    assert set(np.unique(prepared.image(FOLLOWUP)).round(3)) <= {0, 1, 2, 3, 4, 5, 6}
    assert set(config()["channels"]["images"]) == set(prepared.image_names)
    found = prepared.mask(CANDIDATES)
    assert found.any() and not (found & (prepared.image(FOLLOWUP) == 0)).any()
    lesions = prepared.mask(TARGET)
    assert 0.2 < (found & lesions).sum() / lesions.sum() < 0.9  # opening takes corners
    names = list(config()["preprocess"]["steps"])
    order = ["bias", "register", "brain", "affine", "match", "candidates"]
    assert [name for name in names if name in order] == order


def test_batches_of_32_with_five_channels_of_which_only_the_visits_are_changed(prepared):
    made = build_loader(config())([prepared])
    true = sum(box.true for box in made.own)
    assert len(made.own) == 2 * true and len(made.extra) == round(0.3 * len(made.own))
    batch = made.batch(0)
    assert batch.images.shape[:2] == (32, 5)
    assert padded.WITHIN == WITHIN
    changed = 0
    for number in range(32):
        box = made.element(0, number).box
        corner = tuple(slice(0, part.stop - part.start) for part in box)
        for channel, name in enumerate(config()["channels"]["images"]):
            same = np.allclose(batch.images[number, channel][corner], prepared.image(name)[box])
            assert same or channel < 2, name
            changed += not same
    # of 64 visits 1 - 0.7^2 = 51 % are changed; SD 4 of them
    assert 20 < changed < 46


def test_the_loss_of_a_batch_is_that_of_its_boxes_alone(prepared):
    method = build_method(config("network.widths=[2,2,2,2,2,2,1]"))
    batch = build_loader(config())([prepared]).batch(1)
    within = batch.extra[WITHIN] > 0
    assert not bool(within.all())
    with torch.no_grad():
        logits = method.task.network(batch.images)[within]
        loss = method.task.step(batch).loss
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.target[within])
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)


def test_rates_fall_to_a_tenth_four_times(prepared):
    weight = torch.nn.Parameter(torch.zeros(1))
    train = config()["train"]
    optimizer = instantiate(train["optimizer"], partial=True)([weight])
    schedule = instantiate(train["scheduler"], partial=True)(optimizer)
    rates = []
    for _ in range(train["steps"]):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    epochs = [rates[train["steps"] * epoch // 20] for epoch in range(20)]
    np.testing.assert_allclose(epochs, np.repeat([1e-3, 1e-4, 1e-5, 1e-6, 1e-7], 4), rtol=1e-6)


def test_only_boxes_of_candidates_are_answered_and_three_quarters_are_needed(prepared):
    """A network that is sure by 0.74 or 0.76 everywhere: nothing, or every box; outside nothing."""

    class Cache:
        def prepare(self, subjects):
            return [prepared]

    class Sure(torch.nn.Module):
        def __init__(self, probability):
            super().__init__()
            self.logit = torch.nn.Parameter(torch.tensor(probability).logit())

        def forward(self, images):
            return self.logit.expand_as(images[:, :1])

    method = build_method(config("trainer.accelerator=cpu"))
    method.cache = Cache()
    answers = {}
    for probability in (0.74, 0.76):
        method.task.network = Sure(probability)
        answers[probability] = method.predict(LongitudinalSubject("p", "p", {}))
    assert not answers[0.74].mask.any()
    boxes = np.zeros(SHAPE, bool)
    from msseg_lightning.core.candidates import Candidates

    for box in Candidates.of(prepared.mask(CANDIDATES), (1, 1, 1), margin=2).boxes:
        boxes[box] = True
    assert boxes.any() and not boxes.all()
    np.testing.assert_array_equal(answers[0.76].mask > 0, boxes)
    np.testing.assert_allclose(answers[0.74].probability, 0.74 * boxes, atol=1e-5)


def test_validation_looks_at_candidates_alone(prepared):
    method = build_method(config("trainer.accelerator=cpu"))
    from msseg_lightning.train.task import WholeVolumeValidator

    seen = []

    def infer(network, images, inside):
        seen.append(inside)
        return torch.zeros(1, *SHAPE)

    infer.region = method.infer.region
    score = lambda *_: {"dice": 0.0}  # noqa: E731
    names = method.channels.images
    validator = WholeVolumeValidator(infer, "probability", score, names, TARGET)
    validator(method.task.network, prepared)
    np.testing.assert_array_equal(seen[0], prepared.mask(CANDIDATES))
