"""Steps of a system: the choice that the remedy asks for, made and used."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import torch

from msseg_lightning.augment.fused import FusedAugment
from msseg_lightning.core.method import Prediction
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.subject import BASELINE, FOLLOWUP, LongitudinalSubject, Native
from msseg_lightning.core.volume import Grid, Volume
from msseg_lightning.evaluate.calibration import Calibration
from msseg_lightning.evaluate.operating_point import Marks, choose_operating_point
from msseg_lightning.infer.aggregate import combine
from msseg_lightning.infer.sliding_window import check_inside
from msseg_lightning.method.derived_image import DerivedImage, FittedNetwork
from msseg_lightning.method.staged import FittedStage, Stage
from msseg_lightning.network.correlation_unet import CorrelationUNet, PairAutoencoder
from msseg_lightning.preprocess.crop import CropToMask
from msseg_lightning.preprocess.otsu import OtsuBrain
from msseg_lightning.preprocess.register import HalfwayRegistration
from msseg_lightning.preprocess.step import common_grid
from msseg_lightning.run.assemble.system import instantiate, postprocess_rules
from msseg_lightning.run.config.compose import compose_config
from msseg_lightning.sample.candidate_boxes import CandidateBoxLoader
from msseg_lightning.sample.loader import PatchLoader
from msseg_lightning.sample.mask_pairs import Corruption
from msseg_lightning.sample.uniform import UniformSampler
from msseg_lightning.sample.visit import visits_of
from tests.method import test_derived_image, test_staged
from tests.preprocess import test_ratio_candidates
from tests.preprocess.conftest import centred, make_pair
from tests.remedies.place import Place, case
from tests.sample import test_mask_pairs, test_mixed
from tests.sample.conftest import prepare
from tests.sample.lesion_scans import prepared


def _part(key: str, *words: str) -> object:
    return instantiate(compose_config(["read.root=.", "size=tiny", *words], "pre_unet")[key])


@case("network.channels", "network.patch", "network.pretrained")
def images_that_a_network_takes(place: Place) -> None:
    images = torch.zeros(1, 2, 16, 16, 16)
    network = _part("network", "network.in_channels=3")
    refusal = place.raised("network.channels", lambda: network(images))  # type: ignore[operator]
    assert "network.in_channels" in refusal.remedy
    network = _part("network", "network.in_channels=2")
    refusal = place.raised("network.patch", lambda: network(images[..., :15]))  # type: ignore[operator]
    assert refusal.remedy == "choose patch and window sizes that are multiples of these"
    multiples, below, above = (
        [int(edge) for edge in size.split("x")]
        for size in re.findall(r"\d+x\d+x\d+", refusal.expected)
    )
    for edges in ([4 * edge for edge in multiples], below, above):
        network(torch.zeros(1, 2, *edges))  # type: ignore[operator]
    refusal = place.raised(
        "network.pretrained",
        lambda: CorrelationUNet([4, 8, 12], pretrained=PairAutoencoder([4, 8, 16, 16])),
    )
    assert refusal.remedy == "give both stages the same widths"
    CorrelationUNet([4, 8, 12], pretrained=PairAutoencoder([4, 8, 12]))


@case("network.slab")
def slabs_that_a_network_takes(place: Place) -> None:
    tiny = ("read.root=.", "size=tiny")
    network = instantiate(compose_config(tiny, "deepscan_longitudinal")["network"])
    refusal = place.raised("network.slab", lambda: network(torch.zeros(1, 2, 5, 8, 8)))
    *words, rest = refusal.remedy.split(", ")
    assert rest == "an even sample.size and 4 images under channels.images"
    config = compose_config([*tiny, *words[0].split()], "deepscan_longitudinal")
    slices = config["sample"]["loader"]["depth"]
    assert slices == config["infer"]["depth"]
    network(torch.zeros(1, 4, slices, 8, 8))


@case("infer.inside", "infer.no_members", "infer.window")
def what_an_inference_needs(place: Place) -> None:
    inside = torch.zeros(4, 4, 4)
    refusal = place.raised("infer.inside", lambda: check_inside(inside, (4, 4, 4)))
    assert refusal.remedy == "check the brain mask of this pair"
    check_inside(inside + 1, (4, 4, 4))
    refusal = place.raised("infer.no_members", lambda: combine([], "logit", "probability"))
    assert refusal.remedy.startswith("name the runs")
    combine([inside[None]], "logit", "probability")
    for wrong, right in (("infer.overlap=1", "0.5"), ("infer.batch_size=0", "1")):
        refusal = place.raised("infer.window", lambda wrong=wrong: _part("infer", wrong))
        key = refusal.remedy.removeprefix("change ")
        _part("infer", f"{key}={right}")


@case("sample.mask_pairs", "sample.mixed", "data.no_visits")
def what_a_loader_needs(place: Place) -> None:
    cohort = [prepare(place.folder, f"p{n}", lesions, n) for n, lesions in enumerate((2, 0, 3))]
    refusal = place.raised("sample.mask_pairs", lambda: test_mask_pairs.loader(cohort, edge=4))
    assert refusal.remedy.startswith("take larger patches, more lesions per pair, or fewer bins")
    test_mask_pairs.loader(cohort)
    few = Corruption(most_lesions=2, most_foreign=1)
    place.raised("sample.mask_pairs", lambda: test_mask_pairs.loader(cohort, corruption=few))
    test_mask_pairs.loader(cohort, corruption=few, bins=1)
    refusal = place.raised("data.no_visits", lambda: visits_of(cohort))
    assert refusal.remedy.startswith("give such scans")
    pairs = [prepared(place.folder, name, seed) for seed, name in enumerate("ab")]
    visits_of(pairs)
    refusal = place.raised("sample.mixed", lambda: test_mixed.mixed(pairs, batch_size=6))
    assert refusal.remedy == "change train.batch_size" and refusal.expected == "a multiple of 1 + 3"
    test_mixed.mixed(pairs, batch_size=8)


@case("sample.no_true_candidate")
def lesions_that_are_no_candidates(place: Place) -> None:
    brain = np.zeros((12, 12, 12), bool)
    brain[1:-1, 1:-1, 1:-1] = True
    baseline = np.where(brain, 5.0, 0.0)
    followup = baseline.copy()
    followup[6, 6, 5:7] = 8.0  # two voxels: opening removes them
    loaded = test_ratio_candidates.pair(baseline, followup, brain)
    target = Volume(followup > 6, loaded.grid.affine, "mask")
    loaded = loaded.replace(volumes={**loaded.volumes, "new_lesions": target})

    def loader(*words: str) -> CandidateBoxLoader:
        config = compose_config(["read.root=.", *words], "ratio_roi_cnn")
        step = instantiate(config["preprocess"]["steps"]["candidates"])
        made = PreparedSubject.write(step(loaded), place.folder / f"p{len(words)}")
        return CandidateBoxLoader([made], augment=FusedAugment(), position=FOLLOWUP)

    refusal = place.raised("sample.no_true_candidate", loader)
    (settings,) = refusal.settings()
    assert len(loader(*settings).own) == 1


@case("postprocess.no_probability", "postprocess.no_region")
def rules_that_a_system_cannot_have(place: Place) -> None:
    mask = np.zeros((4, 4, 4), np.uint8)
    prediction = Prediction("a", mask, Native(Grid((4, 4, 4), np.eye(4)), b""))

    def post(given: Prediction, *words: str) -> None:
        config = compose_config(["read.root=.", *words], "bsi_subtraction")
        for rule in postprocess_rules(config):
            given = rule(given)

    rule = "postprocess=threshold_0_5"
    refusal = place.raised("postprocess.no_probability", lambda: post(prediction, rule))
    assert refusal.remedy == "leave the threshold out for this system"
    post(prediction)
    rule = "postprocess=inside_off_boundary_min_4_voxels"
    known = dataclasses.replace(prediction, probability=mask.astype(np.float32))
    refusal = place.raised("postprocess.no_region", lambda: post(known, rule))
    assert refusal.remedy.startswith("leave the rule out, or use a preprocessing that makes")
    post(known)
    post(dataclasses.replace(known, inside=mask == 0), rule)


@case(
    "point.range",
    "point.no_patients",
    "point.too_few",
    "point.finds_nothing",
    "calibration.no_lesions",
)
def an_operating_point_and_its_patients(place: Place) -> None:
    def pairs(without: int, false: float) -> list[Marks]:
        one, none = np.ones(1), np.zeros(0)
        finds = np.zeros((1, 2), np.int64)
        found = [Marks("a", one / 2, one * 9, one > 0, 1, finds)]
        return found + [
            Marks(f"b{n}", one * false, one * 9, one < 0, 0, finds[:0])
            if false
            else Marks(f"b{n}", none, none, none > 0, 0, finds[:0])
            for n in range(without)
        ]

    refusal = place.raised("point.range", lambda: choose_operating_point(pairs(9, 0), 0))
    assert refusal.remedy.startswith("--false-lesions ")
    budget = float(refusal.remedy.split()[1])
    choose_operating_point(pairs(9, 0), budget)
    refusal = place.raised("point.range", lambda: choose_operating_point(pairs(9, 0), budget, 90))
    choose_operating_point(pairs(9, 0), budget, float(refusal.remedy.split()[1]))

    refusal = place.raised("point.no_patients", lambda: choose_operating_point(pairs(0, 0), budget))
    assert refusal.remedy.startswith("--population all ")
    choose_operating_point(pairs(0, 0), budget, population="all")

    refusal = place.raised(
        "point.too_few",
        lambda: choose_operating_point(pairs(9, 0), 0.05, too_few="refuse"),
    )
    larger = re.search(r"--false-lesions ([\d.]+)", refusal.remedy)
    assert larger is not None and "--too-few strictest" in refusal.remedy
    assert choose_operating_point(pairs(9, 0), float(larger[1]), too_few="refuse").certified
    assert not choose_operating_point(pairs(9, 0), 0.05, too_few="strictest").certified
    more = int(refusal.expected.split()[2])
    assert choose_operating_point(pairs(more, 0), 0.05, too_few="refuse").certified

    refusal = place.raised(
        "point.finds_nothing", lambda: choose_operating_point(pairs(60, 0.9), 0.5)
    )
    assert refusal.remedy.startswith("a larger budget: --false-lesions NUMBER")
    choose_operating_point(pairs(60, 0.9), 2.0)

    refusal = place.raised("calibration.no_lesions", lambda: Calibration.fit([], []))
    assert refusal.remedy == "train the system longer, or on more patients"
    Calibration.fit([0.5], [True])


@case("infer.slice")
def a_slice_that_is_not_taken_whole(place: Place) -> None:
    class Bright(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.full_like(images[:, :1], 9.0)

    def infer(*words: str) -> object:
        words = ("read.root=.", "size=tiny", *words)
        return instantiate(compose_config(words, "residual_attention_unet_2d")["infer"])

    size = max(infer().size)
    images = torch.ones(2, 3, 4, size + 1)
    refusal = place.raised("infer.slice", lambda: infer()(Bright(), images))
    first, *_ = refusal.settings()
    assert infer(*first)(Bright(), images).shape[-3:] == images.shape[-3:]


def _steps(*words: str) -> object:
    return compose_config(["read.root=.", *words], "pre_unet")["preprocess"]["steps"]


@case("preprocess.grid", "preprocess.mask", "preprocess.registration")
def a_chain_in_the_wrong_order(place: Place) -> None:
    """Both chains that a remedy names: the preset, and the steps in their right order."""
    pair = make_pair(centred(np.eye(3), (4.0, 4.0, 4.0), (24, 24, 20)), brain=False)
    cut = dict(pair.volumes)
    first = cut[BASELINE]
    cut[BASELINE] = Volume(np.asarray(first.data)[:-2], first.affine)
    raw = pair.replace(volumes=cut)
    refusal = place.raised("preprocess.grid", lambda: common_grid(raw, HalfwayRegistration()))
    (choice,) = refusal.settings()
    assert "HalfwayRegistration before this step" in refusal.remedy
    assert "HalfwayRegistration" in str(_steps(*choice))
    common_grid(HalfwayRegistration()(raw), None)

    refusal = place.raised("preprocess.mask", lambda: CropToMask()(pair))
    (choice,) = refusal.settings()
    assert "AtlasBrainExtraction" in str(_steps(*choice))
    CropToMask()(OtsuBrain(erosions=1, dilations=1, closing=1)(pair))

    register = HalfwayRegistration()
    volumes = {BASELINE: pair.volumes[BASELINE], FOLLOWUP: pair.volumes[FOLLOWUP]}
    empty = {**volumes, FOLLOWUP: Volume(np.zeros((24, 24, 20)), volumes[FOLLOWUP].affine)}
    refusal = place.raised("preprocess.registration", lambda: register._check(pair, empty))
    assert refusal.remedy.startswith("look at both scans; give a registered pair")
    register._check(pair, volumes)


@case("config.stage", "stage.no_data", "stage.leak")
def stages_out_of_fold(place: Place) -> None:
    """Each setting of a remedy changes the stage of an experiment, which is built from it."""
    network = torch.nn.Identity()
    one = FittedNetwork(lambda: network, "a", place.folder, frozenset("p"))
    other = FittedNetwork(lambda: network, "b", place.folder, frozenset("q"))

    def stage(*words: str) -> dict[str, Any]:
        config = compose_config(["read.root=.", "size=tiny", *words], "metric_learning_unet")
        found: dict[str, Any] = config["stages"]["metric"]
        return found

    refusal = place.raised("config.stage", FittedStage("metric", "k", (one, other)).network)
    (choice,) = refusal.settings()
    assert "uses.images" in refusal.remedy
    for given in ([], ["+stages.metric.out_of_fold=2"]):
        assert stage(*given, *choice)["out_of_fold"] == 1
    FittedStage("metric", "k", (one,)).network()

    refusal = place.raised("config.stage", lambda: FittedStage("metric", "k", (one,)).image("x"))
    quoted = re.match("'([^']+)', or use another stage", refusal.remedy)
    assert quoted is not None
    maps = instantiate(stage(quoted[1])["maps"])
    FittedStage("metric", "k", (one,), maps).image("x")

    pairs = [LongitudinalSubject(id=name, patient=name, images={}) for name in "ab"]

    def ensure(pairs: list[LongitudinalSubject], folds: int) -> FittedStage:
        made = Stage("metric", {}, lambda _: test_staged.Sum("metric", {}, {}),  # type: ignore
                     place.folder / "stages", "c", out_of_fold=folds)  # fmt: skip
        return made.ensure(pairs, {})

    refusal = place.raised("stage.no_data", lambda: ensure(pairs, 3))
    (choice,) = refusal.settings()
    ensure(pairs, stage(*choice)["out_of_fold"])
    more = LongitudinalSubject(id="c", patient="c", images={})
    assert "or more patients" in refusal.remedy
    ensure([*pairs, more], 3)
    refusal = place.raised("stage.no_data", lambda: ensure([], 1))
    quoted = re.search("'([^']+)'", refusal.remedy)
    assert quoted is not None
    cohort = place.fixture("coarse_cohort")
    reader = instantiate(stage(quoted[1].replace("FOLDER", str(cohort)))["read"])
    ensure(reader.subjects(), 1)

    pair = prepare(place.folder, "p", 1, 0)
    maps = test_derived_image.maps
    refusal = place.raised("stage.leak", lambda: DerivedImage("x", maps, [one]).add(pair))
    ((word,),) = refusal.settings(NAME="metric")
    assert stage(word)["out_of_fold"] == 4 and refusal.remedy.endswith("data of other patients")
    sources = [test_derived_image.source(1.0, pair.patient), test_derived_image.source(2.0, "q")]
    DerivedImage("x", maps, sources).add(pair)
    DerivedImage("y", maps, sources[1:]).add(pair)


@case("sample.memory")
def a_batch_that_memory_cannot_hold(place: Place) -> None:
    subject = prepare(place.folder, "a", 1, 0)

    def batch(size: int, count: int) -> None:
        sampler = UniformSampler((size, size, size))
        next(PatchLoader([subject], sampler, FusedAugment(), batch_size=count).iterate(0, 1))

    for size, count in ((8192, 1), (8, 10**10)):
        refusal = place.raised("sample.memory", lambda size=size, count=count: batch(size, count))
        assert refusal.settings() == [["train.batch_size=1"]]
        assert refusal.remedy.endswith("or a smaller sample.size")
    batch(8, 1)
