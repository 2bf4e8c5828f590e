"""S20: a network per rater, a consensus network on their maps, FiLM, weights by lesion size."""

from __future__ import annotations

import functools
import math

import nibabel as nib
import numpy as np
import pytest
import torch

from msseg_lightning.core.network import on_grid
from msseg_lightning.core.subject import BASELINE, FOLLOWUP, TARGET
from msseg_lightning.infer.sliding_window import SlidingWindow
from msseg_lightning.method.ensemble import EnsembleMethod
from msseg_lightning.network.blocks import InstanceNorm
from msseg_lightning.network.film import FilmNorm
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

NAME = "film_multirater_nnunet"
RATERS = [f"rater{number}" for number in (1, 2, 3, 4)]
MAPS = [f"{rater}_probability" for rater in RATERS]
HEAD = Phantom("raters", edge=22, margin=2, corners=(3, 9), spot=13)


@functools.cache
def paper():
    return compose_config(["read.root=nowhere"], NAME)


def mark_raters(folder, name, planted):
    """Every rater marks the consensus; the first alone a dark plant, the third nothing else."""
    truth = nib.load(folder / name / "ground_truth.nii.gz")
    plain = np.asarray(truth.dataobj).astype(np.uint8)
    if planted:
        plain[HEAD.place] = 0
    for number in (1, 2, 3, 4):
        mask = plain.copy()
        if planted and number == 1:
            mask[HEAD.place] = 1
        file = folder / name / f"ground_truth_expert{number}.nii.gz"
        nib.save(nib.Nifti1Image(mask, truth.affine), file)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """The system on four patients, the first one planted, the last without new lesions."""
    work = tmp_path_factory.mktemp("raters")
    HEAD.write_four(work / "data")
    for index in range(4):
        mark_raters(work / "data", f"00{index + 1}", planted=index == 0)
    config = compose_config(
        [
            *settings(work),
            "infer.size=16",
            "train.steps=2",
            "+stages.rater1.train.steps=120",
            "sample.positive_ratio=0.67",
            "train.optimizer.lr=0.05",
            "train.optimizer.momentum=0.9",
            "train.validate_every=2",
            "network.network.widths=[8,8]",
        ],
        NAME,
    )
    subjects = Msseg2(work / "data").subjects()
    method = build_method(config)
    method.fit(subjects, [], work / "fit")
    return method, subjects, config, work


def member(method):
    """One consensus network, unfitted, with the images of the stages before it."""
    return next(iter(method.last.members.values()))()


def test_the_map_of_a_planted_patient_comes_from_a_network_that_never_saw_it(fitted):
    method, subjects, _, _ = fitted
    prepared = with_images(member(method), subjects[0])
    spot = prepared.mask(f"{TARGET}_rater1") & ~prepared.mask(f"{TARGET}_rater2")
    assert spot.sum() == 125
    stage = method.fitted["rater1"]
    image = "rater1_probability"
    check_only_memory_marks(stage, stage.maps, prepared, spot, image, memorised=0.3)


def test_the_audit_tables_name_for_every_pair_a_network_that_left_it_out(fitted):
    """One table for each rater and consensus network; the four networks of a rater are the same."""
    _, subjects, _, work = fitted
    tables = sorted((work / "fit").rglob("audit_*.csv"))
    assert len(tables) == 4 * 2
    models = {}
    for table in tables:
        rows = check_audit(table, subjects)
        models.setdefault(table.name, []).append({row["pair"]: row["model"] for row in rows})
    assert sorted(models) == [f"audit_{name}.csv" for name in MAPS]
    assert all(one == other for one, other in models.values())


def test_a_rater_s_network_learns_that_rater_alone(fitted):
    method, subjects, _, _ = fitted
    for rater, stage in zip(RATERS, method.stages, strict=True):
        assert stage.name == rater
        network = stage.make({})
        prepared = network.cache.prepare([subjects[0]])[0]
        batch = network.patches([prepared]).batch(0)
        assert network.channels.images == (BASELINE, FOLLOWUP) and not network.derived
        assert network.channels.target == f"{TARGET}_{rater}"
        size = prepared.mask(f"{TARGET}_{rater}").sum() - prepared.mask(f"{TARGET}_rater2").sum()
        assert size == (125 if rater == "rater1" else 0)
        assert batch.images.shape[1:2] == (2,) and batch.target.shape[1] == 2
        assert network.patches([prepared]).sampler.target == network.channels.target


def test_networks_of_raters_are_frozen_and_serve_all_consensus_networks(fitted):
    """2 folds of 4 raters and 2 consensus networks here: 10 models, of which 8 stay as they are."""
    method, _, config, work = fitted
    method.save(work / "model")
    models = {path.parent for path in (work / "model").rglob("weights.safetensors")}
    stages = {path for path in models if "stages" in path.parts}
    assert len(models) == 10 and len(stages) == 8
    for rater in RATERS:
        for source in method.fitted[rater].sources:
            network = source.network()
            assert not any(weight.requires_grad for weight in network.parameters())
            saved = (source.model / "weights.safetensors").read_bytes()
            copies = [path / "weights.safetensors" for path in stages if path.parent.name == rater]
            assert saved in [copy.read_bytes() for copy in copies]
    # the consensus network's optimiser has no weight of theirs
    network = member(method)
    assert sum(weight.numel() for weight in network.task.parameters()) == sum(
        weight.numel() for weight in network.task.network.parameters()
    )
    loaded = build_method(config)
    loaded.load(work / "model")
    HEAD.write(work / "new", "005", new=1)
    (new,) = Msseg2(work / "new").subjects()
    np.testing.assert_array_equal(loaded.predict(new).probability, method.predict(new).probability)


def test_twenty_networks_are_fitted_at_the_paper_s_size():
    method = build_method(paper())
    assert isinstance(method.make({}), EnsembleMethod) and method.joint
    assert [stage.out_of_fold for stage in method.stages] == [4] * 4
    assert sum(stage.out_of_fold for stage in method.stages) + method.make({}).folds == 20


def test_the_consensus_network_sees_six_channels_and_each_counts(fitted):
    method, subjects, _, work = fitted
    network = member(method)
    network.load(work / "fit" / f"{NAME}-fold0" / "model")
    assert network.channels.images == (BASELINE, FOLLOWUP, *MAPS)
    prepared = with_images(member(method), subjects[1])
    images = torch.from_numpy(prepared.stack(network.channels.images))[None, :, 2:18, 2:18, 2:18]
    asked = on_grid(network.task.network.eval(), prepared.grid.spacing_mm)
    with torch.no_grad():
        first = asked(images)
        for channel in range(6):
            changed = images.clone()
            changed[:, channel] = 0
            assert (asked(changed) - first).abs().max() > 1e-6, channel
    # soft maps, not masks
    assert len(np.unique(prepared.image("rater1_probability").round(3))) > 20


def test_a_changed_voxel_size_changes_the_prediction_and_nothing_else_does(fitted, monkeypatch):
    """Of the first rater's network, which was trained: patients with other voxels, same values."""
    method, subjects, _, work = fitted
    source = method.fitted["rater1"].sources[0]
    network = source.network()
    norms = [part for part in network.modules() if isinstance(part, FilmNorm)]
    assert norms and all(norm.modulation[2].weight.abs().max() > 0 for norm in norms)
    seen = []
    forward = type(network).forward

    def watched(self, images, spacing_mm):
        seen.append(spacing_mm)
        return forward(self, images, spacing_mm)

    monkeypatch.setattr(type(network), "forward", watched)
    folder = work / "other"
    answers = []
    for name, spacing, shift in (("same", 3.0, 10.0), ("thick", 4.5, 0.0)):
        (folder / name).mkdir(parents=True)
        for file in (work / "data" / "002").glob("*.nii.gz"):
            image = nib.load(file)
            affine = np.diag([3.0, 3.0, spacing, 1.0])
            affine[:3, 3] = image.affine[:3, 3] + shift
            nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), folder / name / file.name)
    maps = method.fitted["rater1"].maps
    for subject in (subjects[1], *Msseg2(folder).subjects()):
        prepared = member(method).cache.prepare([subject])[0]
        answers.append((maps(network, prepared), prepared.stack((BASELINE, FOLLOWUP))))
    (plain, images), (moved, same_images), (thick, thick_images) = answers
    assert np.array_equal(images, same_images) and np.array_equal(images, thick_images)
    np.testing.assert_array_equal(plain, moved)
    assert np.abs(thick - plain).max() > 1e-5
    assert {round(float(size[0, 2]), 3) for size in seen} == {3.0, 4.5}


def test_every_norm_is_film_and_a_new_one_is_an_instance_norm():
    for node, channels in ((paper()["network"], 6), (paper()["stages"]["rater2"]["network"], 2)):
        with torch.device("meta"):
            network = instantiate(node)
            norms = [part for part in network.modules() if isinstance(part, FilmNorm)]
            assert len(norms) == 22 and network.network.in_channels == channels
            assert not any(isinstance(part, InstanceNorm) for part in network.modules())
            for norm in norms:
                shapes = [tuple(weight.shape) for weight in norm.modulation.parameters()]
                two = 2 * len(norm.weight)
                assert shapes == [(64, 3), (64,), (two, 64), (two,)]
            images = torch.empty(1, channels, 128, 128, 128)
            answer = on_grid(network.eval(), (1.0, 1.0, 3.0))(images)
            assert tuple(answer.shape) == (1, 1, 128, 128, 128)
    small = compose_config(["read.root=nowhere", "size=tiny"], NAME)
    network = instantiate(small["network"]).eval()
    images = torch.randn(1, 6, 8, 8, 8)
    with torch.no_grad():
        thin, thick = (on_grid(network, size)(images) for size in ((1, 1, 1), (1.0, 1.0, 3.0)))
    torch.testing.assert_close(thin, thick, rtol=0, atol=0)


@pytest.mark.parametrize(("voxels", "weight"), [((5, 1, 1), 21.0), ((10, 10, 5), 1.2)])
def test_lesions_of_5_and_500_voxels_weigh_21_and_1_2_and_background_1(fitted, voxels, weight):
    """Through the step, the store, the loader and the loss: of the finest logits of 0 each voxel
    costs its weight times ln 2. The patch holds a part of the lesion, V is that of the whole."""
    method, _, _, work = fitted
    folder = work / "sizes" / f"{voxels[0]}" / "001"
    folder.mkdir(parents=True)
    for file in (work / "data" / "002").glob("*.nii.gz"):
        image = nib.load(file)
        data = np.asarray(image.dataobj)
        if "ground_truth" in file.name:
            data = np.zeros_like(data)
            data[tuple(slice(6, 6 + edge) for edge in voxels)] = 1
        nib.save(nib.Nifti1Image(data, image.affine), folder / file.name)
    network = member(method)
    stage = method.stages[1].make({})
    prepared = stage.cache.prepare(Msseg2(folder.parent).subjects())[0]
    loader = stage.patches([prepared])
    loader.sampler.positive_ratio = 1.0
    loader.sampler.size = (4, 4, 4)
    found = set()
    for step in range(4):
        for target in loader.batch(step).target:
            for voxel in target.view(2, -1).T:
                cost = network.task.loss.loss(torch.zeros(1, 1, 1, 1, 1), voxel.view(1, 2, 1, 1, 1))
                found.add(round(cost.item() / math.log(2), 2))
    assert max(found) == weight and 1.0 in found
    assert found == {1.0, weight}


def test_a_pair_without_raters_is_learned_by_its_consensus_and_says_so(fitted):
    method, _, _, work = fitted
    folder = work / "without" / "001"
    folder.mkdir(parents=True)
    for file in (work / "data" / "001").glob("*.nii.gz"):
        if "expert" not in file.name:
            (folder / file.name).write_bytes(file.read_bytes())
    (subject,) = Msseg2(folder.parent).subjects()
    prepared = method.stages[2].make({}).cache.prepare([subject])[0]
    np.testing.assert_array_equal(prepared.mask(f"{TARGET}_rater3"), prepared.mask(TARGET))
    answer = method.predict(subject)
    assert any("the consensus stands for" in warning for warning in answer.warnings)
    assert "where a pair has none its consensus stands for each" in paper()["card"]["needs"][0]


def test_all_stages_share_one_preparation():
    """Else every pair would be bent onto its follow-up five times."""
    method = build_method(compose_config(["read.root=nowhere", "size=tiny"], NAME))
    caches = [stage.make({}).cache for stage in method.stages] + [
        next(iter(method.make({}).members.values()))().cache
    ]
    assert all(cache.raters >= {f"{TARGET}_{rater}" for rater in RATERS} for cache in caches)
    steps = paper()["preprocess"]["steps"]
    for rater in RATERS:
        assert paper()["stages"][rater]["preprocess"]["steps"] == steps
    assert not any("resample" in str(step["_target_"]) for step in steps.values())


def test_folds_and_windows_are_averaged_as_probabilities():
    assert paper()["ensemble"] == {
        "folds": 4,
        "share_stages": True,
        "level": "probability",
        "rule": "mean",
    }
    window = instantiate(paper()["infer"])
    assert isinstance(window, SlidingWindow) and window.level == "probability"
    assert instantiate(paper()["stages"]["rater4"]["maps"]).infer.level == "probability"
