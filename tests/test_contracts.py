"""Every preset of networks, losses and steps keeps its contract."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from msseg_lightning.augment.slices import SliceAugment
from msseg_lightning.core.prediction import Prediction
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.subject import (
    BASELINE,
    BRAIN,
    FOLLOWUP,
    TARGET,
    LoadedSubject,
    LongitudinalSubject,
    Native,
)
from msseg_lightning.core.volume import Grid, Volume
from msseg_lightning.infer.slices import SliceWise
from msseg_lightning.loss.deep_supervision import DeepSupervision
from msseg_lightning.loss.non_correspondence import NonCorrespondence
from msseg_lightning.preprocess import atlas, brain
from msseg_lightning.preprocess.step import describe
from msseg_lightning.read.load import load_subject
from msseg_lightning.read.msseg2 import Msseg2
from msseg_lightning.read.nifti import gate_options
from tests.contracts import check_loss, check_maker, check_network, check_preprocessing, check_step

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"


def presets(step):
    return sorted(path.stem for path in (CONF / step).glob("*.yaml"))


def loaded(step, name):
    """A preset on the presets that it extends."""
    config = OmegaConf.load(CONF / step / f"{name}.yaml")
    bases = [base for base in config.pop("defaults", []) if base != "_self_"]
    return OmegaConf.merge(*(loaded(step, base) for base in bases), config)


def build(step, name, **settings):
    return instantiate(loaded(step, name), **settings)


@pytest.mark.parametrize("name", presets("network"))
def test_network(name):
    torch.manual_seed(0)
    config = loaded("network", name)
    dims = config.get("dims", 3)
    several = config.get("images") or sum(config.get("streams", ()))  # of S26
    channels = config.get("in_channels") or several or config.network.in_channels
    network = instantiate(config)
    edge = max(getattr(network, "divisor", (16,)))
    images = torch.randn(2, channels, *(max(edge, 16),) * dims)
    check_network(network, images, config.get("out_channels") or 1)


@pytest.mark.parametrize("name", presets("loss"))
def test_loss(name):
    loss = build("loss", name)
    if isinstance(loss, NonCorrespondence):
        return  # of a registration instead of logits: tests/loss/test_non_correspondence.py
    deep = isinstance(loss, DeepSupervision)
    check_loss(loss, resolutions=len(loss.weights) if deep else 1)


def chains():
    """Presets of preprocessing, and experiments that add steps to one."""
    found = {name: loaded("preprocess", name) for name in presets("preprocess")}
    for path in sorted((ROOT / "experiments").glob("*.yaml")):
        experiment = OmegaConf.load(path)
        if "steps" in (experiment.get("preprocess") or {}):
            chosen = {key: value for line in experiment.defaults for key, value in line.items()}
            preset = loaded("preprocess", chosen["override /preprocess"])
            found[path.stem] = OmegaConf.merge(preset, experiment.preprocess)
    return {name: coarse(OmegaConf.to_container(chain)["steps"]) for name, chain in found.items()}


def coarse(steps):
    """The same steps on large voxels and with few iterations."""
    for settings in steps.values():
        if settings.get("spacing_mm"):
            settings["spacing_mm"] = np.maximum(np.multiply(settings["spacing_mm"], 8), 8).tolist()
        if settings.get("shape"):
            settings["shape"] = [edge and edge // 8 for edge in settings["shape"]]
        if "control_mm" in settings:
            settings.update(levels=1, spacing_mm=8.0, iterations=3)
        if isinstance(settings.get("iterations"), list):
            settings["iterations"] = [min(3, number) for number in settings["iterations"]]
    return steps


@pytest.fixture(scope="module")
def scans(coarse_cohort):
    """A pair with new lesions, as it is read."""
    (subject,) = (pair for pair in Msseg2(coarse_cohort).subjects() if pair.id == "003")
    return load_subject(subject, gate_options({}))


CHAINS = chains()


@pytest.fixture(scope="module")
def checked():
    """Steps that were checked after the same steps before, and what they left."""
    return {}


@pytest.fixture(scope="module")
def quick_atlas():
    """The template is laid onto the middle of a scan and hardly bent: that takes seconds."""

    def middle(scan, *levels):
        way = np.eye(4)
        way[:3, 3] = scan.grid.corners_mm().mean(0) - atlas.mni152().grid.corners_mm().mean(0)
        return way

    with pytest.MonkeyPatch.context() as patch:
        for module in (atlas, brain):
            patch.setattr(module, "affine_from_atlas", middle)
        patch.setattr(brain, "ITERATIONS", 3)
        yield


@pytest.mark.parametrize("name", CHAINS)
def test_preprocess(name, scans, checked, quick_atlas):
    pair, before = scans, ""
    for settings in CHAINS[name].values():
        before += json.dumps(describe(instantiate(settings, _convert_="all")))
        if before not in checked:
            checked[before] = check_preprocessing(
                lambda settings=settings: instantiate(settings, _convert_="all"), pair
            )
        pair = checked[before]


SHAPE = (40, 44, 36)


@pytest.fixture(scope="module")
def body(tmp_path_factory):
    """The same body, bright in both visits and 1 in two masks; a third mask is empty."""
    place = (np.indices(SHAPE) - np.reshape(SHAPE, (3, 1, 1, 1)) / 2) / [
        [[[11]]],
        [[[13]]],
        [[[9]]],
    ]
    mask = ((place**2).sum(0) <= 1).astype(np.uint8)
    image = 0.1 + mask + np.random.default_rng(0).normal(0, 0.02, SHAPE)
    affine = np.eye(4)
    volumes = {name: Volume(image.astype(np.float32), affine) for name in (BASELINE, FOLLOWUP)}
    for name, values in (
        (TARGET, mask),
        ("copy", mask),
        ("nothing", 0 * mask),
        (BRAIN, 0 * mask + 1),
    ):
        volumes[name] = Volume(values, affine, "mask")
    subject = LongitudinalSubject("body", "body", {})
    loaded = LoadedSubject(subject, volumes, Native(volumes[BASELINE].grid, b""))
    return PreparedSubject.write(loaded, tmp_path_factory.mktemp("body") / "body")


def cut(maker, pair, key):
    """A patch, or the middle of a stack of slices, on the border of the body."""
    names, labels = (BASELINE, FOLLOWUP), (TARGET, "copy", "nothing")
    generator = keyed_generator(key)
    if isinstance(maker, SliceAugment):
        images, masks = (
            np.empty((n, *depth, 24, 24), np.float32) for n, depth in ((2, (3,)), (3, ()))
        )
        voxel = np.array([20, 30, 18])
        maker.fill_slices(pair, 2, voxel, False, names, labels, generator, images, masks)
        return images[:, 1], masks
    images, masks = (np.empty((count, 24, 24, 24), np.float32) for count in (2, 3))
    maker.fill(pair, np.array([19.5, 27.5, 17.5]), names, labels, generator, images, masks)
    return images, masks


@pytest.mark.parametrize("name", presets("augment"))
def test_augment(name, body):
    check_maker(lambda: build("augment", name, _convert_="all"), body, cut)


@pytest.mark.parametrize("name", presets("sample"))
def test_sample(name, body):
    """Boxes follow from the key alone, lie where the volume is, and need no lesion."""
    size = [8] * (3 if name == "ratio" else 2)
    config = OmegaConf.merge(loaded("sample", name), {"size": size})
    config.pop("loader")

    def draw(sampler, pairs, key):
        if name == "ratio":
            return sampler.draw(pairs, keyed_generator(key))
        return sampler.draw(pairs, sampler.axes[0], bool(key % 2), keyed_generator(key))

    for target in (TARGET, "nothing"):
        settings = {**config, "target": target}
        drawn = check_step(
            lambda settings=settings: instantiate(settings, _convert_="all"),
            [body, body],
            draw,
            range(8),
        )
        places = [spec.centre if name == "ratio" else spec.voxel for spec in drawn]
        assert len({tuple(place) for place in places}) > 4
        assert all(0 <= spec.subject <= 1 for spec in drawn)
        assert all((place >= 0).all() and (place < SHAPE).all() for place in places)


@pytest.mark.parametrize("name", presets("infer"))
def test_infer(name):
    """A rule gives every voxel its answer once, however much of the volume is inside."""
    config = loaded("infer", name)
    size = {"size": 16} if "size" in config or OmegaConf.is_missing(config, "size") else {}
    size |= {"stride": 12} if "stride" in config else {}

    class Brightest(torch.nn.Module):
        """The answer of a voxel is the mean of its images; of a stack, that of all slices."""

        def forward(self, images):
            return images.mean(1, keepdim=True)

    window = build("infer", name, _convert_="all", **size)
    assert window.level in ("logit", "probability")
    images = torch.randn(2, 20, 18, 17, generator=torch.Generator().manual_seed(0))
    whole = torch.ones(20, 18, 17, dtype=torch.bool)
    part = torch.zeros_like(whole)
    part[9, 9, 9] = True
    answers = []
    for inside in (whole, part):
        (answer,) = check_step(
            lambda: build("infer", name, _convert_="all", **size),
            [images, inside],
            lambda step, given, key: step(Brightest(), *given),
        )
        assert tuple(answer.shape) == (1, 20, 18, 17) and bool(torch.isfinite(answer).all())
        answers.append(answer)
    if isinstance(window, SliceWise):
        assert window.axes
        return
    expected = images.mean(0, keepdim=True)
    expected = expected if window.level == "logit" else expected.sigmoid()
    torch.testing.assert_close(answers[0], expected)
    torch.testing.assert_close(answers[1][0, 9, 9, 9], expected[0, 9, 9, 9])


@pytest.mark.parametrize("name", presets("postprocess"))
def test_postprocess(name):
    """Rules keep the grid, give 0 and 1 only, and add nothing to an empty map."""
    native = Native(Grid((6, 5, 4), np.diag([0.5, 0.5, 3.0, 1.0])), b"")
    empty = np.zeros((6, 5, 4), np.float32)
    random = np.random.default_rng(0).random((6, 5, 4), np.float32)
    for probability in (empty, random):
        mask = np.zeros((6, 5, 4), np.uint8)
        prediction = Prediction("p", mask, native, probability, inside=np.ones((6, 5, 4), bool))
        for rule in loaded("postprocess", name).rules.values():
            given = prediction
            (prediction,) = check_step(lambda rule=rule: instantiate(rule), given)
            assert prediction.mask.shape == (6, 5, 4) and prediction.mask.dtype == np.uint8
            assert prediction.probability is probability and prediction.native is native
        assert prediction.mask.max() <= 1 and (probability is random or not prediction.mask.any())
