"""S23: maps of either visit, from networks that never saw the patient, help the second network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from msseg_lightning.core.subject import BASELINE, FOLLOWUP, TARGET
from msseg_lightning.read.msseg2 import Msseg2
from msseg_lightning.run.assemble.system import build_method, instantiate
from msseg_lightning.run.config.compose import compose_config
from tests.systems.planted import (
    Phantom,
    check_audit,
    check_only_memory_marks,
    settings,
    with_images,
)

NAME = "deepscan_longitudinal"
MAPS = ("baseline_probability", "followup_probability")
HEAD = Phantom("deepscan", edge=22, margin=2, corners=(3, 9), spot=13)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """The system on four patients, the first one planted, the last without new lesions."""
    work = tmp_path_factory.mktemp("deepscan")
    HEAD.write_four(work / "data")
    config = compose_config(
        [
            *settings(work),
            "sample.size=[18,18]",
            "infer.planes=[axial]",
            "train.steps=1",
            "train.validate_every=1",
            "train.batch_size=6",
            "train.optimizer.lr=0.01",
            "network.slab_width=8",
            "network.width=8",
            "network.growth=8",
            "stages.lesions.train.steps=70",
            "train.scheduler.T_0=70",
            "loss.gamma=0",  # surer answers after few steps
        ],
        NAME,
    )
    subjects = Msseg2(work / "data", need_all_raters=False).subjects()
    method = build_method(config)
    method.fit(subjects, [], work / "fit")
    return method, subjects, config, work


def test_the_map_of_a_planted_patient_comes_from_a_network_that_never_saw_it(fitted):
    method, subjects, _, _ = fitted
    prepared = with_images(method.last, subjects[0])
    stage = method.fitted["lesions"]
    spot = prepared.mask(TARGET) & (prepared.image(FOLLOWUP) < -2)
    assert spot.sum() > 60
    maps = stage.maps.for_image("followup_probability")
    check_only_memory_marks(stage, maps, prepared, spot, "followup_probability", memorised=0.3)
    # the last stage begins with weights of its own, from no network that saw a patient
    begun, fresh = (method.make(given).task.network for given in (method.fitted, {}))
    for name, weight in fresh.state_dict().items():
        assert torch.equal(begun.state_dict()[name], weight), name


def test_the_audit_tables_name_for_every_pair_a_network_that_left_it_out(fitted):
    _, subjects, _, work = fitted
    for name in MAPS:
        check_audit(work / "fit" / f"audit_{name}.csv", subjects)


def test_the_second_network_sees_both_scans_and_the_soft_maps_of_each(fitted):
    method, subjects, _, _ = fitted
    prepared = with_images(method.last, subjects[1])
    assert method.last.channels.images == (BASELINE, FOLLOWUP, *MAPS)
    stage = method.fitted["lesions"]
    (source,) = method.last.derived[0].allowed(prepared.patient)
    network = source.network()
    assert not network.training
    assert not any(weight.requires_grad for weight in network.parameters())
    for name, scan in zip(MAPS, (BASELINE, FOLLOWUP), strict=True):
        image = prepared.image(name)
        images = np.zeros((3, *prepared.grid.shape), np.float32)
        images[2] = prepared.image(scan)
        inside = torch.from_numpy(prepared.inside([scan]))
        expected = stage.maps.infer(network, torch.from_numpy(images), inside)[0].sigmoid()
        np.testing.assert_allclose(image, expected, atol=1e-4)
        assert len(np.unique(image.round(3))) > 20  # soft
    lesion = prepared.mask(TARGET)
    assert prepared.image(MAPS[1])[lesion].mean() > prepared.image(MAPS[0])[lesion].mean() + 0.2


def test_all_networks_are_delivered_and_asked_again(fitted):
    method, subjects, config, work = fitted
    method.save(work / "model")
    assert len(list((work / "model" / "stages" / "lesions").iterdir())) == 2
    loaded = build_method(config)
    loaded.load(work / "model")
    assert [image.name for image in loaded.last.derived] == list(MAPS)
    prepared = with_images(loaded.last, subjects[3])
    one, other = (prepared.image(name) for name in MAPS)
    stage = method.fitted["lesions"]
    for name, image in ((MAPS[0], one), (MAPS[1], other)):
        maps = stage.maps.for_image(name)
        mean = sum(maps(source.network(), prepared) for source in stage.sources) / 2
        np.testing.assert_allclose(image, mean, atol=1e-4)
    assert np.isfinite(loaded.predict(subjects[3]).probability).all()


@pytest.fixture(scope="module")
def paper():
    return compose_config(["read.root=nowhere"], NAME)


class Logged(nn.Module):
    """A logit that depends on the place in the slab and in the slice; counts its calls."""

    divisor = (2, 2)

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, images):
        self.calls.append(tuple(images.shape[1:]))
        middle, before = images[:, 1, 3], images[:, 2, 2]
        weight = torch.linspace(-3, 3, images.shape[-1])
        return (middle * weight + 2 * before).unsqueeze(1)


def test_six_volumes_of_logits_are_averaged_before_the_sigmoid(paper):
    rule = instantiate(paper["infer"])
    assert rule.maps == 6 and rule.level == "logit"
    images = torch.randn(4, 6, 8, 10)
    total = torch.zeros(1, 6, 8, 10)
    for axis in (0, 1, 2):
        for mirrored in (False, True):
            given = images.flip(1) if mirrored else images
            volume = given.movedim(1 + axis, 1)
            stack = nn.functional.pad(volume, (0, 0, 0, 0, 3, 3))
            slabs = torch.stack([stack[:, n : n + 7] for n in range(volume.shape[1])])
            logits = Logged()(slabs)[:, 0].movedim(0, axis)
            total += logits.flip(0) if mirrored else logits
    network = Logged()
    torch.testing.assert_close(rule(network, images), total / 6)
    assert {call[:2] for call in network.calls} == {(4, 7)}
    assert {call[2:] for call in network.calls} == {(8, 10), (6, 10), (6, 8)}


def test_the_rate_begins_anew_after_every_epoch(paper):
    """1e-5 at each restart, 1e-7 at the end of each of 20 epochs of 5000 batches."""
    weight = nn.Parameter(torch.zeros(1))
    optimizer = instantiate(paper["train"]["optimizer"], partial=True)([weight])
    scheduler = instantiate(paper["train"]["scheduler"], partial=True)(optimizer)
    epoch = paper["train"]["scheduler"]["T_0"]
    assert paper["train"]["steps"] == 20 * epoch
    assert optimizer.param_groups[0]["lr"] == 1e-5
    rates = {}
    for step in (1, epoch // 2, epoch - 1, epoch, 3 * epoch - 1, 3 * epoch, 20 * epoch - 1):
        scheduler.step(step)
        rates[step] = optimizer.param_groups[0]["lr"]
    assert rates[epoch] == rates[3 * epoch] == pytest.approx(1e-5)
    assert rates[epoch // 2] == pytest.approx((1e-5 + 1e-7) / 2)
    for step in (epoch - 1, 3 * epoch - 1, 20 * epoch - 1):
        assert rates[step] == pytest.approx(1e-7, rel=1e-3)


def test_the_first_network_answers_with_two_of_three_channels_dropped():
    chosen = compose_config(["read.root=nowhere", "size=tiny"], NAME)
    network = instantiate(chosen["stages"]["lesions"]["network"]).eval()
    images = torch.randn(2, 3, 7, 12, 12)
    answers = []
    for kept in range(3):
        given = torch.zeros_like(images)
        given[:, kept] = images[:, kept]
        answers.append(network(given))
        assert answers[-1].shape == (2, 1, 12, 12) and torch.isfinite(answers[-1]).all()
    assert not torch.allclose(answers[0], answers[1])
    assert torch.isfinite(network(torch.zeros_like(images))).all()


def test_a_folder_of_the_user_with_other_contrasts_takes_the_place_of_the_pairs(tmp_path):
    HEAD.write(tmp_path / "data", "001", new=1)
    own = tmp_path / "own" / "x"
    own.mkdir(parents=True)
    names = {"flair": "flair_time02_on_middle_space", "t1": "flair_time01_on_middle_space"}
    names |= {"lesions": "lesions_time02", "brain_mask": "brain_mask"}
    for target, source in names.items():
        file = tmp_path / "data" / "001" / f"{source}.nii.gz"
        (own / f"{target}.nii.gz").write_bytes(file.read_bytes())
    words = [
        "size=tiny",
        f"read.root={tmp_path / 'data'}",
        f"paths.cache={tmp_path / 'cache'}",
        "track=off",
        "data.workers=1",
        f"stages.lesions.sample.visits.reader.root={tmp_path / 'own'}",
    ]
    stage = build_method(compose_config(words, NAME)).stages[0].make({})
    assert stage.visits.patients() == {"single-x"}
    source = stage.patches([], visits=stage.visits)
    (visit,) = source.scans
    assert visit.patient == "single-x"
    assert source.names_of(visit) == ["followup_t1", None, "followup_flair"]
    assert not any("pseudo-labels" in note for note in visit.notes)
    assert source.batch(0).images.shape[1:3] == (3, 7)
