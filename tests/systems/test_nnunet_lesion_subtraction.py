"""S06: one network outlines each visit alone; what the baseline has already is taken away."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from msseg_lightning.core.prediction import Prediction
from msseg_lightning.core.subject import (
    BASELINE,
    BRAIN,
    FOLLOWUP,
    LoadedSubject,
    LongitudinalSubject,
    Native,
)
from msseg_lightning.core.volume import Grid, Volume
from msseg_lightning.read.msseg2 import Msseg2
from msseg_lightning.run.assemble.system import (
    build_cache,
    build_method,
    instantiate,
    postprocess_rules,
)
from msseg_lightning.run.config.compose import compose_config
from tests.systems.planted import settings

NAME = "nnunet_lesion_subtraction"
SHAPE = (24, 24, 24)


def boxes(*starts, size=4):
    mask = np.zeros(SHAPE, np.uint8)
    for x, y, z in starts:
        mask[x : x + size, y : y + size, z : z + size] = 1
    return mask


OLD, NEW, GROWING = boxes((5, 5, 5)), boxes((14, 14, 14)), boxes((5, 15, 5))
GROWN = GROWING | boxes((5, 15, 9))


def write(folder, earlier, later, masks=True, spacing=3.0):
    """A pair of noise with lesions 12 standard deviations above it."""
    folder.mkdir(parents=True)
    affine = np.diag([spacing] * 3 + [1.0])
    brain = np.zeros(SHAPE, np.uint8)
    brain[2:-2, 2:-2, 2:-2] = 1
    noise = np.random.default_rng(len(str(folder))).normal(100, 5, (2, *SHAPE))
    scans = [
        (brain * (texture + 60 * mask)).astype(np.float32)
        for texture, mask in zip(noise, (earlier, later), strict=True)
    ]
    images = {"flair_time01_on_middle_space": scans[0], "flair_time02_on_middle_space": scans[1]}
    images |= {"ground_truth": later & (1 - earlier), "brain_mask": brain}
    if masks:
        images |= {"lesions_time01": earlier, "lesions_time02": later}
    for name, data in images.items():
        nib.save(nib.Nifti1Image(data, affine), folder / f"{name}.nii.gz")


def config(work, *words):
    return compose_config(
        [
            *settings(work),
            "preprocess.steps.crop=null",
            "train.steps=1",
            "train.validate_every=1",
            "stages.lesions.train.steps=2",
            *words,
        ],
        NAME,
    )


class Bright(nn.Module):
    """A lesion is what is three standard deviations above the brain's mean; counts its calls."""

    def __init__(self):
        super().__init__()
        self.level = nn.Parameter(torch.tensor(3.0))
        self.calls = []

    def forward(self, images):
        self.calls.append(tuple(images.shape[:2]))
        return 8 * (images - self.level)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """The system on two pairs, one of which has all that may happen to a lesion."""
    work = tmp_path_factory.mktemp("subtraction")
    write(work / "data" / "001", OLD | GROWING, OLD | GROWN | NEW)
    write(work / "data" / "002", OLD, OLD | NEW)
    chosen = config(work)
    subjects = Msseg2(work / "data", need_all_raters=False).subjects()
    method = build_method(chosen)
    method.fit(subjects, [], work / "fit")
    return method, subjects, work


def test_the_second_stage_starts_with_the_final_weights_of_the_first(fitted):
    method, _, _ = fitted
    first = method.fitted["lesions"].network().state_dict()
    begun = method.make(method.fitted).task.network.state_dict()
    fresh = method.make({}).task.network.state_dict()
    assert begun.keys() == first.keys()
    for name, weight in first.items():
        assert torch.equal(begun[name], weight), name
    assert any(not torch.equal(fresh[name], weight) for name, weight in first.items())
    trained = method.last.task.network.state_dict()
    assert any(not torch.equal(trained[name], weight) for name, weight in first.items())
    kept = method.last.task.first.state_dict()
    assert all(torch.equal(kept[name], weight) for name, weight in first.items())


def test_only_a_lesion_that_the_baseline_does_not_have_is_found(fitted):
    """Of an old, a growing and a new lesion the new one, as one component of its own place."""
    method, subjects, _ = fitted
    network = Bright()
    last = method.make({})
    last.task.network = network
    prediction = last.predict(subjects[0])
    np.testing.assert_array_equal(prediction.mask, NEW)
    # one network, one channel, once for each visit
    assert network.calls == [(1, 1), (1, 1)]


def test_a_saved_system_needs_no_first_stage(fitted, tmp_path):
    method, subjects, work = fitted
    method.save(tmp_path / "model")
    assert not (tmp_path / "model" / "stages").exists()
    loaded = build_method(config(work))
    loaded.load(tmp_path / "model")
    assert loaded.last.task.first is None
    expected = method.predict(subjects[1]).probability
    np.testing.assert_array_equal(loaded.predict(subjects[1]).probability, expected)


def test_without_masks_of_all_lesions_a_rule_marks_them_and_says_so(tmp_path):
    write(tmp_path / "data" / "001", OLD, OLD | NEW, masks=False)
    method = build_method(config(tmp_path))
    (subject,) = Msseg2(tmp_path / "data", need_all_raters=False).subjects()
    stage = method.stages[0].make({})
    (pair,) = stage.cache.prepare([subject])
    assert sum("pseudo-labels" in note for note in pair.notes) == 2
    batch = stage.patches([pair]).batch(0)
    assert batch.images.shape[1] == 1 and batch.target.any()
    last = method.make({})
    last.task.network = Bright()
    assert any("pseudo-labels" in text for text in last.predict(subject).warnings)


def test_a_folder_of_the_user_takes_the_place_of_the_training_pairs(tmp_path):
    write(tmp_path / "data" / "001", OLD, OLD | NEW)
    (tmp_path / "own" / "x").mkdir(parents=True)
    for target, source in (
        ("flair", "flair_time02_on_middle_space"),
        ("lesions", "lesions_time02"),
        ("brain_mask", "brain_mask"),
    ):
        file = tmp_path / "data" / "001" / f"{source}.nii.gz"
        (tmp_path / "own" / "x" / f"{target}.nii.gz").write_bytes(file.read_bytes())
    word = f"stages.lesions.sample.visits.reader.root={tmp_path / 'own'}"
    method = build_method(config(tmp_path, word))
    stage = method.stages[0].make({})
    assert stage.visits.patients() == {"single-x"}
    source = stage.patches([], visits=stage.visits)
    assert [visit.patient for visit in source.subjects] == ["single-x"]
    assert json.dumps(method.stages[0].settings["files"]).count("single-x") == 3


@pytest.fixture(scope="module")
def paper():
    return compose_config(["read.root=nowhere"], NAME)


@pytest.mark.parametrize(
    ("voxel_mm", "voxels", "kept"), [((1, 1, 1), 10, 1), ((1.1, 1, 1), 9, 0), ((1, 1, 1), 9, 0)]
)
def test_9_9_mm3_are_removed_and_10_kept(paper, voxel_mm, voxels, kept):
    probability = np.zeros((16, 4, 4), np.float32)
    probability[2 : 2 + voxels, 2, 2] = 0.9
    native = Native(Grid((16, 4, 4), np.diag([*voxel_mm, 1.0])), b"")
    prediction = Prediction("a", np.zeros((16, 4, 4), np.uint8), native, probability)
    for rule in postprocess_rules(paper):
        prediction = rule(prediction)
    assert prediction.mask.sum() == kept * voxels
    rule = instantiate(paper["infer"]).on_grid(tuple(map(float, voxel_mm)))
    assert rule.large(probability > 0.5).any() == bool(kept)


def test_prepared_scans_lie_within_0_and_1(paper, tmp_path):
    """The chain of the paper without what registers: air is 0, the brain fills the range."""
    steps = {name: step for name, step in paper["preprocess"]["steps"].items() if name != "atlas"}
    steps["brain"] = {**steps["brain"], "overwrite": False}
    steps["shape"] = {**steps["shape"], "shape": [40, 36, 16]}
    cache = build_cache({**paper, "preprocess": {"steps": steps}})
    generator = np.random.default_rng(0)
    brain = np.zeros((40, 30, 20), bool)
    brain[4:-4, 4:-4, 4:-4] = True
    volumes = {
        name: Volume(generator.gamma(9, 40, brain.shape).astype(np.float32), np.eye(4))
        for name in (BASELINE, FOLLOWUP)
    }
    native = Native(volumes[BASELINE].grid, b"")
    volumes[BRAIN] = Volume(brain, np.eye(4), "mask")
    loaded = LoadedSubject(LongitudinalSubject("a", "a", {}), volumes, native)
    done = cache.preprocess.run(loaded)
    assert done.grid.shape == (40, 36, 16)
    inside = np.asarray(done.volumes[BRAIN].data)
    assert inside.sum() == brain.sum()
    for name in (BASELINE, FOLLOWUP):
        data = np.asarray(done.volumes[name].data)
        assert data.min() == 0 and data.max() == 1
        assert not data[~inside].any() and data[inside].min() > 0
