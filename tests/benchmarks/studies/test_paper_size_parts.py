"""Parts of a system at paper size: its networks, and how long windows and steps take."""

from __future__ import annotations

import json
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from benchmarks.studies.paper_size_parts import (
    LAST,
    PartOfWindows,
    StepTimes,
    batch_plan,
    booster,
    composed,
    main,
    methods,
    networks,
    parameters,
    patch_of,
)
from msseg_lightning.infer.aggregate import Flipped
from msseg_lightning.infer.slices import SliceWise
from msseg_lightning.infer.sliding_window import SlidingWindow


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        ("pre_unet", [("pre_unet", "", 1)]),
        ("sc_unet_attention_maps", [("sc_unet_attention_maps", "", 5)]),  # five seeds
        (
            "cascaded_probability_difference",  # four folds, and out of fold four more in each
            [
                ("cascaded_probability_difference", "lesions", 16),
                ("cascaded_probability_difference", "", 4),
            ],
        ),
        (
            "film_multirater_nnunet",  # four folds of each; the raters' serve all others
            [
                *(("film_multirater_nnunet", f"rater{number}", 4) for number in (1, 2, 3, 4)),
                ("film_multirater_nnunet", "", 4),
            ],
        ),
        (
            "softseg_unet_ensemble",  # three of one kind, one of the other
            [("softseg_modified_unet", "", 3), ("softseg_attention_unet", "", 1)],
        ),
    ],
)
def test_every_network_of_a_system_counts(system, expected):
    found = networks(composed(system))
    assert [(one.member, one.stage, one.count) for one in found] == expected


def test_methods_without_gradients_have_no_step():
    (one,) = networks(composed("bsi_lightgbm"))
    assert not one.has_step and parameters(methods(one.config)[LAST]) is None


def test_stages_are_built_untrained_with_the_numbers_of_the_paper():
    made = methods(networks(composed("cascaded_probability_difference"))[-1].config)
    assert parameters(made["lesions"]) == 31_189_410
    assert parameters(made[LAST]) == 31_190_274
    (image,) = made[LAST].derived
    assert len(image.sources) == 1


def test_smaller_batches_add_up_to_the_same_step():
    assert batch_plan(4, 1) == [(4, 1), (2, 2), (1, 4)]
    assert batch_plan(2, 3) == [(2, 3), (1, 6)]
    assert all(batch * ways == 40 for batch, ways in batch_plan(40, 1))


def test_edges_of_patches():
    assert patch_of({"size": 64}) == [64, 64, 64]
    assert patch_of({"size": [1, 64, 64]}) == [64, 64]


class Ticks:
    """A clock that goes on by a second for every window (of the counted network)."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Counted(torch.nn.Module):
    """Answers zeros and lets the clock go on."""

    def __init__(self, clock):
        super().__init__()
        self.clock, self.shapes = clock, Counter()

    def forward(self, images):
        self.clock.now += len(images)
        return images[:, :1] * 0


WINDOWS = {
    "windows": (SlidingWindow(8, 0.0, batch_size=1, skip_empty=False), 8),
    "flips": (Flipped(SlidingWindow(8, 0.0, batch_size=1, skip_empty=False)), 64),
    "planes": (SliceWise(batch_size=1), 48),
}


@pytest.mark.parametrize(("rule", "windows"), WINDOWS.values(), ids=WINDOWS)
def test_windows_are_run_in_part_where_they_would_take_too_long(rule, windows):
    clock = Ticks()
    watched = PartOfWindows(rule, clock, most_s=windows - 1, part_s=2)
    images = torch.ones(2, 16, 16, 16)
    answer = watched(Counted(clock), images, torch.ones(16, 16, 16, dtype=torch.bool))
    assert answer.shape == (1, 16, 16, 16)
    assert watched.spent_s == 3  # the first count above two seconds
    assert watched.share == pytest.approx(3 / windows)
    assert watched.whole_s == pytest.approx(windows)


@pytest.mark.parametrize(("rule", "windows"), WINDOWS.values(), ids=WINDOWS)
def test_windows_are_run_whole_where_they_are_quick(rule, windows):
    clock = Ticks()
    watched = PartOfWindows(rule, clock, most_s=windows, part_s=2)
    images = torch.ones(2, 16, 16, 16)
    answer = watched(Counted(clock), images, torch.ones(16, 16, 16, dtype=torch.bool))
    assert (watched.spent_s, watched.whole_s, watched.share) == (windows, windows, 1.0)
    assert torch.equal(answer, rule(Counted(clock), images))


@pytest.fixture(scope="module")
def tiny(coarse_cohort, tmp_path_factory):
    """Runs one part of a system, at its tiny size."""
    folder = tmp_path_factory.mktemp("parts")
    words = ["size=tiny", f"read.root={coarse_cohort}", f"paths.cache={folder / 'cache'}"]
    words += ["data.workers=1", "trainer.accelerator=cpu"]

    def run(system, part, stage=LAST, **more):
        task = {
            **{"system": system, "part": part, "member": system, "stage": stage},
            **{"data": "simulated", "root": str(coarse_cohort), "words": words},
            **{"folder": str(folder), "answer": str(folder / "answer"), "threads": 1},
            **{"parent": 0},
            **{"model": str(folder / "model"), "gpu": False, "enough_s": 100.0},
            **{"most_s": 1e6, "part_s": 0.0, **more},
        }
        (folder / "task").write_text(json.dumps(task))
        assert main([str(folder / "task")]) == 0
        return json.loads((folder / "answer").read_text())

    return run


@pytest.mark.slow
def test_a_system_of_stages_is_measured_by_parts(tiny):
    system = "cascaded_probability_difference"
    ready = tiny(system, "prepare")
    assert ready["seconds"] > 0 and len(ready["grids"]) == 1
    first = tiny(system, "step", "lesions", batch=1, accumulate=2)
    assert len(first["seconds"]) == 3 and first["steps"] == 3
    last = tiny(system, "step", batch=2, accumulate=1, enough_s=0.0)
    assert len(last["seconds"]) == 1 and last["paper_batch"] == 2
    assert last["parameters"] > first["parameters"]
    found = tiny(system, "predict")
    assert found["share_of_windows"] == 1
    # two networks out of fold stand behind the image, one was run
    assert found["seconds"] > found["measured_s"]


@pytest.mark.slow
def test_rules_are_measured_without_a_step(tiny):
    tiny("bsi_subtraction", "prepare")
    assert tiny("bsi_subtraction", "step")["boosters"] == 0
    assert tiny("bsi_subtraction", "predict")["share_of_windows"] == 1


class Rules:
    """A method that learns nothing."""

    def __init__(self, texts=()):
        self.cache, self.texts = self, list(texts)

    def prepare(self, subjects):
        return subjects

    def fit(self, train, val, folder):
        assert len(train) == 1 and not val

    def save(self, folder):
        folder.mkdir()


@pytest.mark.parametrize("texts", [(), ("tree", "tree")])
def test_methods_without_gradients_are_fitted_for_the_prediction(tmp_path, texts):
    found = booster({"model": str(tmp_path / "model")}, Rules(texts), None)
    assert found["boosters"] == len(texts) and found["fit_s"] >= 0
    assert (tmp_path / "model").is_dir()


@pytest.mark.parametrize(("enough_s", "steps"), [(2.5, 2), (0.0, 1), (100.0, 3)])
def test_steps_are_timed_until_there_are_enough(enough_s, steps):
    clock = Ticks()
    times = StepTimes(clock, enough_s)
    trainer = SimpleNamespace(global_step=0, should_stop=False)
    while trainer.global_step < 3 and not trainer.should_stop:
        times.on_train_epoch_start(trainer)
        clock.now += 1.0
        times.on_train_batch_end(trainer)  # the first of two batches that make a step
        clock.now += 0.5
        trainer.global_step += 1
        times.on_train_batch_end(trainer)
        clock.now += 100  # beside the steps
    assert times.seconds == [1.5] * steps
