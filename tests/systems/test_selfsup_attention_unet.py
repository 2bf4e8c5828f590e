"""S25: an encoder that learned from unlabelled pairs starts the network that is taught."""

from __future__ import annotations

import shutil

import pytest
import torch

from msseg_lightning.core.method import FitContext
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.subject import BRAIN, TARGET
from msseg_lightning.loss.self_supervised import PairReconstruction
from msseg_lightning.read.msseg2 import Msseg2
from msseg_lightning.run.assemble.system import build_method, instantiate
from msseg_lightning.run.config.compose import compose_config

NAME = "selfsup_attention_unet"


@pytest.fixture(scope="module")
def paper():
    return compose_config(["read.root=nowhere"], NAME)


def unlabelled_copy(cohort, folder):
    """The cohort's scans and brain masks; no mask of any lesion."""
    for place in sorted(path for path in cohort.iterdir() if path.is_dir()):
        (folder / place.name).mkdir(parents=True)
        for name in ("flair_time01_on_middle_space", "flair_time02_on_middle_space", "brain_mask"):
            shutil.copyfile(place / f"{name}.nii.gz", folder / place.name / f"{name}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def fitted(tiny_cohort, tmp_path_factory):
    """Pre-trained on unlabelled copies of two patients, then fitted on two other ones."""
    work = tmp_path_factory.mktemp("selfsup")
    folder = unlabelled_copy(tiny_cohort, work / "unlabelled")
    reader = f"{{_target_: msseg_lightning.read.msseg2.Msseg2, root: {folder}}}"
    config = compose_config(
        [
            "size=tiny",
            f"read.root={tiny_cohort}",
            f"+stages.pretrain.read={reader}",
            f"paths.cache={work / 'cache'}",
            "track=off",
            "ensemble=null",
            "data.workers=1",
            "trainer.accelerator=cpu",
            "stages.pretrain.train.steps=60",
            "stages.pretrain.train.optimizer.lr=0.003",
            "train.steps=1",
        ],
        NAME,
    )
    subjects = Msseg2(tiny_cohort).subjects()
    method = build_method(config)
    context = FitContext(held_out=frozenset({"003", "004"}))
    method.fit(subjects[:2], [], work / "fit", context)
    return method, subjects, config


def test_pretraining_on_unlabelled_pairs_brings_the_visits_together(fitted):
    """By more than half on tissue of a patient it did not see, relative to the features' spread."""
    method, subjects, config = fitted
    prepared: PreparedSubject = method.last.cache.prepare([subjects[2]])[0]
    assert TARGET in prepared.mask_names
    stable = ~prepared.mask(TARGET) & prepared.mask(BRAIN)
    images = torch.from_numpy(prepared.stack(config["channels"]["images"]))[None]
    images = images[..., :32, :32, :32]
    inside = torch.from_numpy(stable)[:32, :32, :32]
    torch.manual_seed(0)
    fresh = instantiate(config["stages"]["pretrain"]["network"])
    distances, losses = [], []
    for network in (fresh, method.fitted["pretrain"].network()):
        with torch.no_grad():
            drawn = network(images)
        first, second = drawn.first[0][0, :, inside], drawn.second[0][0, :, inside]
        distances.append(float((first - second).square().mean() / first.var()))
        losses.append(float(PairReconstruction()(drawn)))
    assert distances[1] < 0.5 * distances[0], distances
    assert losses[1] < 0.5 * losses[0], losses


def test_the_second_stage_starts_from_the_pretrained_encoder_and_moves_it(fitted):
    method, _, _ = fitted
    pretrained = method.fitted["pretrain"].network().encoder.state_dict()
    started = method.make(method.fitted).task.network.encoder.state_dict()
    for name, weight in pretrained.items():
        torch.testing.assert_close(started[name], weight)
    moved = method.last.task.network.encoder.state_dict()
    assert any((moved[name] != weight).any() for name, weight in pretrained.items())
    assert all(weight.requires_grad for weight in method.last.task.network.parameters())
    fresh = method.make({}).task.network.encoder.state_dict()
    assert any((fresh[name] != weight).any() for name, weight in pretrained.items())


def test_the_pairs_of_the_pretraining_are_its_own(fitted, tiny_cohort):
    method, _, _ = fitted
    own = method.stages[0].subjects()
    assert all(TARGET not in subject.masks for subject in own)
    (source,) = method.fitted["pretrain"].sources
    assert source.patients == {"001", "002"}, "patients that are tested stay out"


def test_sizes_as_the_card_has_them(paper):
    def count(node):
        return sum(weight.numel() for weight in instantiate(node).parameters())

    assert count(paper["network"]) == 8_930_833
    assert count(paper["stages"]["pretrain"]["network"]) == 12_227_904 + 68
    assert paper["stages"]["pretrain"]["train"]["batch_size"] == 4 * paper["train"]["batch_size"]
    assert paper["train"]["stop_after"] == 5 and paper["ensemble"]["folds"] == 5


def test_windows_and_rules_as_the_card_has_them(paper):
    window = instantiate(paper["infer"])
    assert (window.size, window.stride, window.level) == ((32,) * 3, (8,) * 3, "probability")
    rules = [instantiate(rule) for rule in paper["postprocess"]["rules"].values()]
    names = [type(rule).__name__ for rule in rules]
    assert names == ["Threshold", "InsideMask", "NotOnBoundary", "MinSize"]
    assert (rules[2].voxels, rules[3].least_voxels(1.0), rules[3].connectivity) == (1, 4, 26)


def test_preprocessing_as_the_code_has_it(paper):
    steps = [instantiate(step) for step in paper["preprocess"]["steps"].values()]
    names = [type(step).__name__ for step in steps]
    assert names[2:] == ["N4", "OtsuBrain", "ZScore", "CropToMask"]
    bias, brain, scale = steps[2:5]
    assert (bias.iterations, bias.mask) == ((400, 400, 400), "otsu")
    assert (brain.erosions, brain.dilations, brain.closing, brain.slice_closing) == (5, 5, 20, 5)
    assert (brain.empty_below, brain.close_above) == (0.01, 0.3)
    assert (scale.region, scale.outside) == ("mask", "scale")
