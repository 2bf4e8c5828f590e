"""What a configuration is refused for before any pair is prepared, and with which exit code."""

import dataclasses

import pytest

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.run.assemble import system
from msseg_lightning.run.assemble.system import (
    build_cache,
    build_loader,
    build_method,
    further_subjects,
    instantiate,
    reader_files,
)
from msseg_lightning.run.config.compose import compose_config
from msseg_lightning.run.train.experiment import refuse_copies
from msseg_lightning.sample.loader import PatchLoader

TINY = ("read.root=none", "size=tiny")


@pytest.mark.parametrize(
    "override",
    [
        "infer.overlap=1.0",
        "infer.overlap=1.5",
        "infer.overlap=-0.2",
        "train.optimizer.lr=-1",
        "train.batch_size=0",
        "+loss.unknown=3",
    ],
)
def test_a_setting_out_of_range_is_a_configuration_error_at_once(override):
    config = compose_config((*TINY, override), "pre_unet")
    with pytest.raises(MssegError) as caught:
        build_method(config)
    assert caught.value.exit_code == ExitCode.CONFIG
    assert all(problem.field and problem.remedy for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("name", "override", "field"),
    [
        ("ohem_unet", "train.task.keep=0", "train (MomentumMining)"),
        ("pre_unet", "+train.task.unknown=7", "train (Task)"),
        ("pre_unet", "+train.unknown=7", "train"),
        ("pre_unet", "+trainer.unknown=7", "trainer"),
        ("pre_unet", "+method.unknown=7", "method (NetworkMethod)"),
        ("bsi_subtraction", "+method.unknown=7", "method (BsiSubtraction)"),
        ("pre_unet", "ensemble={folds: 2, level: logit, rule: mean}", "ensemble.level"),
        ("pre_unet", "ensemble={folds: 2, level: binary, rule: median}", "ensemble.rule"),
    ],
)
def test_what_a_part_does_not_take_is_a_configuration_error(name, override, field):
    with pytest.raises(MssegError) as caught:
        build_method(compose_config((*TINY, override), name))
    assert caught.value.exit_code == ExitCode.CONFIG
    assert [problem.field for problem in caught.value.problems] == [field]


def test_what_the_object_itself_said_comes_through():
    node = compose_config((*TINY, "infer.overlap=2"), "pre_unet")["infer"]
    with pytest.raises(MssegError) as caught:
        instantiate(node)
    assert caught.value.problems[0].field == "overlap"
    assert caught.value.problems[0].found == "2"


def test_pairs_read_under_other_rules_are_not_taken_from_the_cache():
    """Prepared under trust=qform, a scan must not come back under trust=sform."""
    rules = [[], ["data.reading.trust=qform"], ["+data.reading.trust=sform"]]
    folders = [build_cache(compose_config([*TINY, *rule], "pre_unet")).folder for rule in rules]
    assert len(set(folders)) == 3
    assert folders[0].name == "prepared"


def test_scans_that_a_part_reads_on_its_own_are_known_by_their_bytes(tiny_cohort, tmp_path):
    """A stage learned from a user's folder is refitted when a scan there is replaced."""
    import shutil

    root = shutil.copytree(tiny_cohort, tmp_path / "own")
    reader = {"_target_": "msseg_lightning.read.msseg2.Msseg2", "root": str(root)}
    node = {"sample": {"visits": {"reader": reader}}, "read": {"reader": {"root": "elsewhere"}}}
    before = reader_files(node)
    assert len(before) > 8
    assert reader_files(node) == before
    scan = root / "001" / "flair_time01_on_middle_space.nii.gz"
    shutil.copy(root / "002" / "flair_time01_on_middle_space.nii.gz", scan)
    assert [name for name in before if reader_files(node)[name] != before[name]] == [
        "001/baseline_flair"
    ]
    assert reader_files({"reader": {**reader, "root": None}}) == {}


def test_a_stage_is_the_same_wherever_its_cache_lies(tiny_cohort):
    """S09 reads scans of its own: their place and the number of processes decide nothing."""

    def settings(*words):
        data = f"read.root={tiny_cohort}"
        staged = build_method(compose_config((data, "size=tiny", *words), "synthetic_lesions_unet"))
        return [staged.settings, *(stage.settings for stage in staged.stages)]

    here = settings()
    assert settings("paths.cache=elsewhere", "data.workers=5") == here
    assert settings("sample.loader.synthesis.painted=[0,2]")[0] != here[0]
    assert all(a != b for a, b in zip(settings("data.reading.trust=qform"), here, strict=True))
    assert settings("train.accumulate=2")[-1] == settings("trainer.devices=2")[-1] != here[-1]
    inpaint = settings("stages.inpaint.sample.loader.tries=3")
    assert [a != b for a, b in zip(inpaint, here, strict=True)] == [False, True, False]


def test_patients_who_are_tested_are_kept_out_of_every_part(tiny_cohort, tmp_path):
    """A further source of scans leaves out who is tested."""
    import shutil

    for name in ("001", "003"):
        source = tiny_cohort / name
        (tmp_path / name).mkdir()
        shutil.copy(
            source / "flair_time01_on_middle_space.nii.gz", tmp_path / name / "flair.nii.gz"
        )
    words = (f"read.root={tiny_cohort}", f"paths.cache={tmp_path / 'cache'}", "size=tiny")
    config = compose_config(
        (*words, f"sample.visits.reader.root={tmp_path}", "+sample.visits.reader.prefix=''"),
        "synthetic_lesions_unet",
    )
    staged = build_method({**config, "ensemble": None})
    method = staged.stages[0].make({})
    assert method.held_out_visits(frozenset({"003"})) == ["003"]
    assert sorted(method.visits.patients()) == ["001", "003"]
    assert len(method.visits.without(["003"]).subjects()) == 1
    with pytest.raises(MssegError, match="every scan"):
        method.visits.without(["001"]).without(["003"]).subjects()
    assert [subject.id for subject in further_subjects(config)] == ["001", "003"]
    named_otherwise = [dataclasses.replace(one, patient="x") for one in further_subjects(config)]
    with pytest.raises(MssegError, match="two patients"):
        refuse_copies([*instantiate(config["read"]).subjects(), *named_otherwise])
    refuse_copies([*instantiate(config["read"]).subjects(), *further_subjects(config)])
    before = staged.stages[0].settings["files"]
    shutil.copy(tmp_path / "001" / "flair.nii.gz", tmp_path / "003" / "flair.nii.gz")
    changed = build_method({**config, "ensemble": None}).stages[0].settings["files"]
    assert changed != before


def test_masks_of_raters_are_prepared_where_a_setting_names_them():
    words = ["read.root=unknown", "data.workers=1"]
    config = compose_config(words, "pre_unet")
    assert build_cache(config).raters == frozenset()
    rater = "new_lesions_rater2"
    named = {**config, "channels": {**config["channels"], "target": rater}}
    assert build_cache(named).raters == {rater}
    steps = {**config["preprocess"]["steps"], "keep": None}
    listed = {**config, "uses": {"a": ["b", rater]}, "preprocess": {"steps": steps}}
    assert build_cache(listed).raters == {rater}


@pytest.mark.parametrize(
    "name", ["double_pathway_cnn", "residual_attention_unet_2d", "triplanar_unet"]
)
def test_validation_batches_are_cut_where_training_patches_lie(name):
    method = build_method({**compose_config(["read.root=.", "size=tiny"], name), "ensemble": None})
    cut, patches = method.task.cut.keywords["sampler"], method.patches.keywords["sampler"]
    assert type(cut) is type(patches) and cut is not patches
    assert cut.size == patches.size and not hasattr(cut, "loader")


def test_a_sampler_without_a_loader_makes_patches():
    """As of a stage that replaces the sampler, and with it the loader that belonged to it."""
    config = compose_config(["read.root=.", "size=tiny"], "triplanar_unet")
    sampler = {"_target_": "msseg_lightning.sample.uniform.UniformSampler", "size": 8}
    made = build_loader({**config, "sample": sampler, "augment": None})
    assert made.func.func is PatchLoader and made.keywords["sampler"].size == (8, 8, 8)
    assert (made.keywords["batch_size"], made.keywords["seed"]) == (4, 0)


def seeds_of(*words):
    method = build_method(compose_config((*TINY, *words), "pre_unet"))
    return {name: make().task.seed for name, make in method.members.items()}


def test_members_of_several_seeds_have_each_their_own_made_from_the_runs():
    ensemble = "ensemble={folds: 2, seeds: 3, level: probability, rule: mean}"
    first, again, other = (seeds_of(ensemble, f"seed={seed}") for seed in (0, 0, 1))
    assert list(first) == ["pre_unet-seed0", "pre_unet-seed1", "pre_unet-seed2"]
    assert first == again
    assert len({*first.values(), *other.values()}) == 6
    method = build_method(compose_config((*TINY, ensemble), "pre_unet"))
    assert len(method.names) == 6
    plain = "ensemble={folds: 2, level: probability, rule: mean}"
    assert seeds_of(plain) == {"pre_unet": 0}  # one member is the system with the run's own seed


def test_loggers_have_short_names_and_w_and_b_stays_offline(tmp_path, monkeypatch):
    config = compose_config(["read.root=.", "size=tiny", "loggers=[csv]"], "pre_unet")
    (make,) = build_method(config).loggers
    assert make(save_dir=str(tmp_path)).save_dir == str(tmp_path)
    with pytest.raises(MssegError, match="csv, tensorboard, wandb") as caught:
        build_method({**config, "loggers": ["comet"]})
    assert caught.value.exit_code == ExitCode.CONFIG
    monkeypatch.setattr(system.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MssegError, match="wandb is not installed") as caught:
        build_method({**config, "loggers": ["wandb"]})
    assert caught.value.exit_code == ExitCode.ENVIRONMENT
    monkeypatch.setattr(system.importlib.util, "find_spec", lambda name: object())
    (make,) = build_method({**config, "loggers": ["wandb"]}).loggers
    assert make.keywords["offline"] is True
