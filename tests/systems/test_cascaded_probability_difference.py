"""S18: two networks in a row, the first of which never judges what it learned from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from msseg_lightning.core.subject import BASELINE, FOLLOWUP, FOLLOWUP_LESIONS, TARGET
from msseg_lightning.network.weights import save_weights
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

NAME = "cascaded_probability_difference"
IMAGE = "lesion_probability_difference"
HEAD = Phantom("cascade", edge=32, margin=3, corners=(5, 15), spot=20)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """The system on four patients, the first one planted, the last without new lesions."""
    work = tmp_path_factory.mktemp("cascade")
    HEAD.write_four(work / "data")
    config = compose_config(
        [
            *settings(work),
            "ensemble=null",
            "train.steps=2",
            "train.batch_size=4",
            "train.optimizer.lr=0.02",
            "stages.lesions.train.steps=120",
            "network.network.widths=[8,8]",
            "infer.size=16",
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
    check_only_memory_marks(stage, stage.maps, prepared, spot, IMAGE)


def test_the_audit_table_names_for_every_pair_a_network_that_left_it_out(fitted):
    _, subjects, _, work = fitted
    check_audit(work / "fit" / f"audit_{IMAGE}.csv", subjects)


def test_the_first_channel_is_the_difference_of_the_frozen_first_stage(fitted):
    method, subjects, _, _ = fitted
    prepared = method.last.cache.prepare([subjects[1]])[0]
    stage = method.fitted["lesions"]
    (source,) = method.last.derived[0].allowed(prepared.patient)
    network = source.network()
    assert not any(weight.requires_grad for weight in network.parameters())
    later, earlier = (
        stage.maps.probability(network, prepared, name) for name in (FOLLOWUP, BASELINE)
    )
    image = method.last.derived[0].add(prepared).image(IMAGE)
    np.testing.assert_allclose(image, later - earlier, atol=1e-4)
    assert np.abs(image).max() <= 1 and np.abs(image).max() > 0.2
    assert method.last.channels.images == (IMAGE, FOLLOWUP)


def test_both_checkpoints_are_delivered_and_the_first_one_matters(fitted):
    method, subjects, config, work = fitted
    method.save(work / "model")
    assert (work / "model" / "weights.safetensors").exists()
    models = sorted((work / "model" / "stages" / "lesions").iterdir())
    assert len(models) == 2

    def predict():
        loaded = build_method(config)
        loaded.load(work / "model")
        return loaded.predict(subjects[3]).probability

    before = predict()
    for model, source in zip(models, method.fitted["lesions"].sources, strict=True):
        network = source.network()
        for weight in network.parameters():
            order = torch.randperm(weight.numel(), generator=torch.Generator().manual_seed(1))
            weight.data = weight.data.flatten()[order].view_as(weight)
        save_weights(network, model, "lesions")
    assert np.abs(predict() - before).max() > 1e-3


def test_patients_without_new_lesions_are_in_no_batch_of_the_second_stage(fitted, monkeypatch):
    method, subjects, _, work = fitted
    seen = []

    def record(prepared):
        seen.append([pair.id for pair in prepared])
        raise KeyboardInterrupt

    last = method.make(method.fitted)
    monkeypatch.setattr(last, "patches", record)
    with pytest.raises(KeyboardInterrupt):
        last.fit(subjects, [], work / "again")
    assert seen == [["001", "002", "003"]]
    stage = method.stages[0].make({})
    monkeypatch.setattr(stage, "patches", record)
    with pytest.raises(KeyboardInterrupt):
        stage.fit(subjects, [], work / "stage again")
    assert seen[1] == ["001", "002", "003", "004"]


@pytest.fixture(scope="module")
def paper():
    return compose_config(["read.root=nowhere"], NAME)


def bottleneck(node, channels):
    with torch.device("meta"):
        network = instantiate(node)
        shapes = []
        unet = network.network
        unet.encoder[-1].register_forward_hook(lambda *a: shapes.append(tuple(a[2].shape[1:])))
        pools = [m for m in unet.downs.modules() if isinstance(m, torch.nn.MaxPool3d)]
        logits = network(torch.empty(1, channels, 128, 128, 128))
    count = sum(weight.numel() for weight in network.parameters())
    return count, len(pools), shapes, tuple(logits.shape)


def test_both_networks_pool_five_times_down_to_four_voxels(paper):
    first = bottleneck(paper["stages"]["lesions"]["network"], 1)
    second = bottleneck(paper["network"], 2)
    expected = (5, [(320, 4, 4, 4)], (1, 1, 128, 128, 128))
    assert first == (31_189_410, *expected)
    assert second == (31_190_274, *expected)


def test_gamma_belongs_to_the_first_stage_alone(paper):
    first, second = (
        instantiate(node["augment"]).recipe for node in (paper["stages"]["lesions"], paper)
    )
    assert first.gamma is not None and first.gamma.gamma == [0.7, 1.5]
    assert second.gamma is None
    for name in ("flip", "affine", "elastic", "scale"):
        assert getattr(first, name) == getattr(second, name) and getattr(first, name) is not None


def test_the_stages_learn_what_the_paper_says(paper):
    stage = paper["stages"]["lesions"]
    assert stage["channels"]["target"] == FOLLOWUP_LESIONS and paper["channels"]["target"] == TARGET
    assert (paper["sample"]["target"], stage["sample"]["target"]) == ("new_lesions", "lesions")
    assert paper["ensemble"]["folds"] == 4 and stage["out_of_fold"] == 4
    rules = paper["postprocess"]["rules"]
    assert list(rules) == ["threshold"] and rules["threshold"]["value"] == 0.1
    assert paper["preprocess"]["steps"]["combine"]["rule"] == "followup"
