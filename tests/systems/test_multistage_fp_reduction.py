"""S03: four networks in a row, none of which is given what an earlier one has learned by heart."""

from __future__ import annotations

import itertools
from collections import Counter

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.networks.nets import resnet18
from safetensors.torch import load_file

from msseg_lightning.core.candidates import Candidates
from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP, TARGET
from msseg_lightning.evaluate.metric import lesion_sensitivity
from msseg_lightning.read.msseg2 import Msseg2
from msseg_lightning.run.assemble.system import build_method, instantiate
from msseg_lightning.run.config.compose import compose_config
from tests.preprocess.test_cord import head, pair
from tests.systems.planted import (
    Phantom,
    check_audit,
    check_only_memory_marks,
    rows_of,
    settings,
    with_images,
)

NAME = "multistage_fp_reduction"
MAPS = (
    "region_probability",
    "candidate_probability",
    "baseline_probability",
    "followup_probability",
)
HEAD = Phantom("multistage", edge=24, margin=3, corners=(4, 10), spot=14)


def composed(work, *words):
    return compose_config(
        [
            *settings(work),
            "preprocess.steps.resample=null",
            *words,
        ],
        NAME,
    )


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """The system on four patients, the first one planted, the last without new lesions."""
    work = tmp_path_factory.mktemp("multistage")
    HEAD.write_four(work / "data")
    config = composed(
        work,
        "train.optimizer.lr=0.02",
        "train.steps=2",
        "stages.region.network.widths=[8,8]",
        "stages.region.train.steps=10",
        "stages.candidates.network.widths=[8,8]",
        "stages.candidates.train.steps=80",
        "stages.candidates.train.batch_size=4",
        "stages.lesions.network.widths=[8,8]",
        "stages.lesions.train.steps=25",
    )
    subjects = Msseg2(work / "data", need_all_raters=False).subjects()
    method = build_method(config)
    method.fit(subjects, [], work / "fit")
    return method, subjects, config, work


def test_a_planted_lesion_reaches_the_classifier_through_no_network_that_saw_it(fitted):
    method, subjects, _, work = fitted
    prepared = with_images(method.last, subjects[0])
    stage = method.fitted["candidates"]
    spot = prepared.mask(TARGET) & (prepared.image(FOLLOWUP) < -2)
    assert spot.sum() > 60
    check_only_memory_marks(stage, stage.maps, prepared, spot, "candidate_probability")
    # so the plant is no candidate to learn from, but a lesion that was missed
    rows = rows_of(work / "fit" / "audit_training_table.csv")
    assert ("001", "missed lesion") in {(row["pair"], row["from"]) for row in rows}


def test_the_audit_tables_name_for_every_pair_a_network_that_left_it_out(fitted):
    _, subjects, _, work = fitted
    for name in MAPS:
        check_audit(work / "fit" / f"audit_{name}.csv", subjects)


def test_the_training_table_holds_the_false_positives_of_the_second_network(fitted):
    """Its rows are the components of the maps out of fold, labelled by the reference."""
    method, subjects, _, work = fitted
    rows = rows_of(work / "fit" / "audit_training_table.csv")
    told = Counter((r["pair"], r["from"], int(r["voxels"]), int(r["label"])) for r in rows)
    expected = Counter()
    for subject in subjects:
        prepared = with_images(method.last, subject)
        found = prepared.image("candidate_probability") > 0.5
        found &= prepared.image("region_probability") > 0.5
        candidates = Candidates.of(found, (3.0, 3.0, 3.0))
        target = prepared.mask(TARGET)
        true = candidates.count_in(target) > 0
        for size, label in zip(candidates.sizes, true, strict=True):
            expected[subject.id, "candidate", int(size), int(label)] += 1
        lesions = Candidates.of(target, (3.0, 3.0, 3.0))
        for size in lesions.sizes[lesions.count_in(found) == 0]:
            expected[subject.id, "missed lesion", int(size), 1] += 1
    assert told == expected
    assert any(label == 0 for *_, label in told) and any(label for *_, label in told)


def test_there_are_checkpoints_of_four_networks_and_all_are_asked(fitted):
    method, subjects, config, work = fitted
    method.save(work / "model")
    folders = sorted((work / "model" / "stages").glob("*/*"))
    assert [f"{folder.parent.name}/{folder.name}" for folder in folders] == [
        f"{stage}/{fold}" for stage in ("candidates", "lesions", "region") for fold in (0, 1)
    ]
    weights = [load_file(folder / "weights.safetensors") for folder in (*folders, work / "model")]
    for one, other in itertools.pairwise(weights):
        same = one.keys() == other.keys()
        assert not same or any(not torch.equal(one[name], other[name]) for name in one)
    assert "conv1.weight" in weights[-1]
    loaded = build_method(config)
    loaded.load(work / "model")
    assert tuple(image.name for image in loaded.last.derived) == MAPS
    found = loaded.predict(subjects[3])
    assert tuple(found.steps) == (*MAPS, "proposed", "classified", "consistent")
    prepared = with_images(loaded.last, subjects[3])
    stage = method.fitted["region"]
    mean = sum(stage.maps(source.network(), prepared) for source in stage.sources) / 2
    np.testing.assert_allclose(prepared.image("region_probability"), mean, atol=1e-4)


def test_the_second_network_alone_is_as_sensitive_as_all_steps_and_nothing_is_outside(fitted):
    method, subjects, _, _ = fitted
    lower = 0
    for subject in subjects:
        prepared, found = with_images(method.last, subject), method.predict(subject)
        region = found.steps["region_probability"] > 0.5
        proposed = found.steps["proposed"] > 0
        assert not (proposed & ~region).any()
        assert not (found.mask & ~region).any() and not (found.mask & ~proposed).any()
        np.testing.assert_array_equal(found.inside, region)
        if prepared.mask(TARGET).any():
            reference = np.asarray(nib.load(subject.masks[TARGET]).dataobj) > 0
            alone, all_steps = (
                lesion_sensitivity(mask, reference, (3.0, 3.0, 3.0))
                for mask in (proposed, found.mask > 0)
            )
            assert alone >= all_steps
            lower += proposed.sum() > found.mask.sum()
    assert lower


@pytest.fixture(scope="module")
def made_by_hand(tmp_path_factory):
    """A pair whose maps are drawn: an old, a new, a vanished and a false candidate, one outside."""
    work = tmp_path_factory.mktemp("by hand")
    HEAD.write(work / "data", "001", new=0)
    method = build_method(composed(work, "preprocess.steps.crop=null"))
    (subject,) = Msseg2(work / "data", need_all_raters=False).subjects()
    prepared = method.make({}).cache.prepare([subject])[0]
    cubes = {
        name: (slice(x, x + 3), slice(y, y + 3), slice(8, 11))
        for name, (x, y) in {
            "old": (4, 4),
            "new": (4, 12),
            "vanished": (10, 4),
            "false": (10, 12),
            "outside": (17, 8),
        }.items()
    }
    maps = {name: np.zeros(prepared.grid.shape, np.float32) for name in MAPS}
    maps["region_probability"][:17] = 0.9
    for cube in cubes.values():
        maps["candidate_probability"][cube] = 0.8
    for name in ("old", "vanished"):
        maps["baseline_probability"][cubes[name]] = 0.8
    for name in ("old", "new", "false", "outside"):
        maps["followup_probability"][cubes[name]] = 0.8
    for number, (name, data) in enumerate(maps.items()):
        prepared = prepared.with_image(name, data, work / str(number))
    return work, subject, prepared, cubes


def answered(made_by_hand, *words):
    """Names of the cubes that are left, with a classifier that rejects the false one alone."""
    work, subject, prepared, cubes = made_by_hand
    last = build_method(composed(work, "preprocess.steps.crop=null", *words)).make({})
    last._with_images = lambda _: prepared

    def classify(network, images, boxes):
        np.testing.assert_array_equal(images[:2], prepared.stack([BASELINE, FOLLOWUP]))
        return np.array([box != cubes["false"] for box in boxes], np.float32)

    last.infer = classify
    found = last.predict(subject)
    left = {name for name, cube in cubes.items() if found.mask[cube].all()}
    assert found.mask.sum() == 27 * len(left)
    return left


def test_only_what_is_new_to_all_networks_is_left(made_by_hand):
    assert answered(made_by_hand) == {"new"}


def test_without_the_classifier_the_planted_false_positive_stays(made_by_hand):
    assert answered(made_by_hand, "method.least_score=null") == {"new", "false"}


def test_without_the_rule_lesions_of_both_visits_and_vanished_ones_stay(made_by_hand):
    left = answered(made_by_hand, "method.rules.consistent=null")
    assert left == {"new", "old", "vanished"}


def test_nothing_outside_of_brain_and_cord_is_left_whatever_the_others_say(made_by_hand):
    words = ("method.least_score=null", "method.rules.consistent=null")
    assert answered(made_by_hand, *words) == {"new", "old", "vanished", "false"}
    assert "outside" in answered(made_by_hand, *words, "method.propose.region_threshold=-1")


@pytest.fixture(scope="module")
def paper():
    return compose_config(["read.root=nowhere"], NAME)


def test_the_first_network_learns_brain_and_cord_in_scans_with_a_head_around(paper):
    steps = paper["preprocess"]["steps"]
    chain = [instantiate(steps[name]) for name in ("combine", "cord", "joint", "normalise")]
    given = pair()
    for step in chain:
        given = step(given)
    _, brain, cord = head()
    mask = np.asarray(given.volumes[BRAIN].data)
    assert 2 * (mask & (brain | cord)).sum() / (mask.sum() + (brain | cord).sum()) > 0.95
    assert mask[cord].mean() > 0.9 and paper["stages"]["region"]["channels"]["target"] == BRAIN
    for name in (BASELINE, FOLLOWUP):
        assert given.volumes[name].data[~mask].std() > 1  # the head is not set to 0


def test_networks_have_the_layouts_of_the_card(paper):
    counts = {}
    for name, stage in (*paper["stages"].items(), ("classify", paper)):
        with torch.device("meta"):
            network = instantiate(stage["network"])
        counts[name] = sum(weight.numel() for weight in network.parameters())
    with torch.device("meta"):
        known = resnet18(spatial_dims=3, n_input_channels=3, num_classes=1)
    assert str(known) == str(instantiate(paper["network"]))
    assert counts["classify"] == sum(weight.numel() for weight in known.parameters())
    assert counts["region"] == counts["candidates"] == counts["lesions"] + 27 * 32


def test_a_lesion_voxel_weighs_five_times_in_the_second_network_alone(paper):
    logits, lesion = torch.zeros(1, 1, 4, 4, 4), torch.ones(1, 1, 4, 4, 4)
    found = {}
    for name, stage in paper["stages"].items():
        loss = instantiate(stage["loss"])
        found[name] = float(loss.parts(logits, lesion)["cross_entropy"]) / np.log(2)
        assert float(loss.parts(logits, 1 - lesion)["cross_entropy"]) == pytest.approx(np.log(2))
    assert found == pytest.approx({"region": 1, "candidates": 5, "lesions": 1})


def test_without_masks_of_all_lesions_a_rule_marks_them_and_says_so(tmp_path):
    HEAD.write(tmp_path / "data", "001", new=1)
    for name in ("lesions_time01", "lesions_time02"):
        (tmp_path / "data" / "001" / f"{name}.nii.gz").unlink()
    method = build_method(composed(tmp_path))
    (subject,) = Msseg2(tmp_path / "data", need_all_raters=False).subjects()
    stage = method.stages[2].make({})
    (prepared,) = stage.cache.prepare([subject])
    assert sum("pseudo-labels" in note for note in prepared.notes) == 2
    batch = stage.patches([prepared]).batch(0)
    assert batch.images.shape[1] == 1
    last = method.make({})
    for name in MAPS:
        image = np.zeros(prepared.grid.shape, np.float32)
        prepared = prepared.with_image(name, image, tmp_path / name)
    last._with_images = lambda _: prepared
    assert any("pseudo-labels" in text for text in last.predict(subject).warnings)


def test_a_folder_of_the_user_takes_the_place_of_the_training_pairs(tmp_path):
    HEAD.write(tmp_path / "data", "001", new=1)
    own = tmp_path / "own" / "x"
    own.mkdir(parents=True)
    for target, source in (
        ("flair", "flair_time02_on_middle_space"),
        ("lesions", "lesions_time02"),
        ("brain_mask", "brain_mask"),
    ):
        file = tmp_path / "data" / "001" / f"{source}.nii.gz"
        (own / f"{target}.nii.gz").write_bytes(file.read_bytes())
    word = f"stages.lesions.sample.visits.reader.root={tmp_path / 'own'}"
    stage = build_method(composed(tmp_path, word)).stages[2].make({})
    assert stage.visits.patients() == {"single-x"}
    source = stage.patches([], visits=stage.visits)
    assert [visit.patient for visit in source.subjects] == ["single-x"]
    assert source.batch(0).target.any()
