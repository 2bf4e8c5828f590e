import json
import shutil

import numpy as np
import pytest

from msseg_lightning.compare.foreign import ForeignData
from msseg_lightning.compare.systems import read_systems, reported_figures
from msseg_lightning.core.files import write_record, write_settings
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.core.subject import TARGET
from msseg_lightning.evaluate.case_score import ScoreOptions
from tests.compare import scored


def words(*folders):
    return [str(folder) for folder in folders]


@pytest.fixture
def two(tmp_path):
    return [
        scored.write_run(tmp_path / "runs", "good", scored.scores(0.9, 1)),
        scored.write_run(tmp_path / "runs", "poor", scored.scores(0.4, 2)),
    ]


def test_runs_are_systems_with_names_of_their_experiments(two):
    good, poor = read_systems(words(*two))
    assert (good.name, poor.name) == ("good", "poor")
    assert good.pairs == set(scored.patients()) and good.patients["p03"] == "p03"
    assert good.cost.minutes == 4.0 and good.cost.parameters == 1_200_000
    assert good.known_training


def test_folds_and_seeds_of_one_experiment_are_one_system(tmp_path):
    cases = scored.patients()
    runs = [
        scored.write_run(
            tmp_path / "runs", "good", scored.scores(0.9, seed, part), seed, f"fold{fold}"
        )
        for seed in (0, 1)
        for fold, part in enumerate((cases[:9], cases[9:]))
    ]
    (one,) = read_systems(words(*runs))
    assert list(one.seeds) == [0, 1]
    assert one.pairs == set(cases)
    assert one.cost.minutes == 8.0  # two folds of one seed


def test_the_folder_of_all_folds_stands_for_them(tmp_path):
    root, cases = tmp_path / "runs", scored.patients()
    for fold, part in enumerate((cases[:9], cases[9:])):
        scored.write_run(root, "good", scored.scores(0.9, 0, part), 0, f"fold{fold}", minutes=1.5)
    whole = scored.write_run(root, "good", scored.scores(0.9, 0), 0, "folds2")
    origin = {case: {"fold": 0, "run": f"toy-fold{case > 'p08':d}-seed0"} for case in cases}
    write_record(whole / "out_of_fold.json", origin)
    (one,) = read_systems(words(whole))
    assert one.cost.minutes == 3.0
    assert one.name == "good"
    other = scored.write_run(root, "good", scored.scores(0.9, 5), 5, "folds2", minutes=None)
    seeds = whole.with_name("toy-folds2-seeds0+5")
    seeds.mkdir()
    (both,) = read_systems(words(seeds))
    assert list(both.seeds) == [0, 5] and both.folders == (whole, other)
    assert both.cost.minutes is None  # of one seed it is not recorded
    with pytest.raises(MssegError, match=r"compare\.twice"):
        read_systems(words(whole, whole))


def test_systems_of_one_name_are_told_by_more_of_their_place(tmp_path):
    one = scored.write_run(tmp_path / "a", "net", scored.scores(0.9, 1))
    two = scored.write_run(tmp_path / "b", "net", scored.scores(0.9, 2))
    names = [system.name for system in read_systems(words(one, two))]
    assert names == ["net (a, toy)", "net (b, toy)"]
    named = read_systems([f"first={one}", f"second={two}"])
    assert [system.name for system in named] == ["first", "second"]


def test_masks_of_another_tool_are_scored_by_the_same_rules(tmp_path, two):
    masks = {case: scored.prediction(case, 0.4, 2) for case in scored.patients()}
    folder = scored.write_masks(tmp_path / "nnunet", masks)
    truths = {case: scored.reference(case) for case in scored.patients()}
    truth = scored.write_masks(tmp_path / "truth", truths, "{}/ground_truth.nii.gz")
    systems = read_systems(words(*two, folder), ForeignData(truth))
    foreign = systems[2]
    assert foreign.name == "nnunet" and not foreign.known_training
    assert foreign.rules == systems[0].rules
    # the masks of the run "poor", from files: equal scores of the same reference
    for case, score in systems[1].seeds[0].items():
        again = foreign.seeds[0][case]
        assert again.detection == score.detection and again.dice == score.dice
        assert again.reference_hash == score.reference_hash
    twice = read_systems([f"n={folder}", f"n={folder}"], ForeignData(truth))
    assert list(twice[0].seeds) == [0, 1]


def test_masks_are_scored_against_a_data_set(tmp_path, coarse_cohort):
    data = ForeignData.of_data_set(["read=msseg2", f"read.root={coarse_cohort}"], {})
    folder = tmp_path / "copies"
    folder.mkdir()
    for one in data.subjects:
        shutil.copy(one.masks[TARGET], folder / f"{one.id}.nii.gz")
    (perfect,) = read_systems(words(folder), data)
    assert perfect.pairs == {one.id for one in data.subjects} and len(perfect.pairs) == 4
    assert perfect.patients == {one.id: one.patient for one in data.subjects}
    with_lesions = [score for score in perfect.seeds[0].values() if score.has_new_lesions]
    assert with_lesions and all(score.official["Dice"] == 1 for score in with_lesions)


def refused(code, *arguments, **more):
    with pytest.raises(MssegError) as caught:
        read_systems(*arguments, **more)
    (problem,) = caught.value.problems
    assert problem.code == code, problem
    assert problem.remedy and problem.message
    return problem


def test_other_rules_never_meet(tmp_path, two):
    other = scored.write_run(
        tmp_path / "runs", "other", scored.scores(0.9, 3), options=ScoreOptions(alpha=0.2)
    )
    problem = refused("compare.rules", words(*two, other))
    assert "0.2" in problem.found and "0.1" in problem.expected and problem.file == "other"
    content = json.loads((two[1] / "scores.json").read_text())
    write_record(two[1] / "scores.json", {**content, "protocol": "another"})
    assert "another" in refused("compare.rules", words(*two)).found


def test_other_versions_of_a_reference_never_meet(tmp_path, two):
    found = scored.scores(0.9, 3)
    rater = scored.reference("p04")
    rater[0, 0, 0] = 1  # one voxel
    found["p04"] = scored.score_case(rater, rater, scored.SPACING)
    other = scored.write_run(tmp_path / "runs", "other", found)
    problem = refused("compare.reference", words(*two, other))
    assert problem.field == "reference_hash of p04" and "1 pairs" in problem.message
    refused("compare.reference", words(*two, other), common=True)


def test_patients_of_some_systems_are_named_and_left_out_on_request(tmp_path, two):
    fewer = scored.write_run(
        tmp_path / "runs", "fewer", scored.scores(0.9, 3, scored.patients()[2:])
    )
    problem = refused("compare.patients", words(*two, fewer))
    assert problem.found == "fewer lacks p00, p01" and "--common" in problem.remedy
    systems = read_systems(words(*two, fewer), common=True)
    assert {len(system.pairs) for system in systems} == {14}
    assert all("p00" not in cases for one in systems for cases in one.seeds.values())
    none = scored.write_run(tmp_path / "runs", "none", scored.scores(0.9, 3, ["p90"]))
    refused("compare.no_common", words(two[0], none), common=True)


def test_a_seed_that_lacks_patients_is_named(tmp_path, two):
    second = scored.write_run(
        tmp_path / "runs", "good", scored.scores(0.9, 8, scored.patients()[1:]), seed=1
    )
    problem = refused("compare.patients", words(*two, second))
    assert problem.found == "good seed 1 lacks p00"


def test_other_splits_never_meet(tmp_path, two):
    other = scored.write_run(
        tmp_path / "runs", "other", scored.scores(0.9, 3), trained_on=("t1", "t2")
    )
    refused("compare.split", words(*two, other))
    refused("compare.split", words(*two, other), common=True)
    unknown = scored.write_run(tmp_path / "runs", "unknown", scored.scores(0.9, 3), trained_on=None)
    systems = read_systems(words(*two, unknown))
    assert [one.known_training for one in systems] == [True, True, False]


def test_folds_with_other_settings_are_no_one_system(tmp_path):
    cases = scored.patients()
    runs = []
    for fold, part in enumerate((cases[:9], cases[9:])):
        run = scored.write_run(tmp_path, "net", scored.scores(0.9, 0, part), 0, f"fold{fold}")
        config = {"name": "net", "fold": fold, "seed": 0, "train": {"steps": 10 + fold}}
        write_settings(run / "config.yaml", config)
        runs.append(run)
    problem = refused("compare.settings", words(*runs))
    assert (problem.field, problem.found, problem.expected) == ("train.steps", "11", "10")
    assert len(read_systems([f"a={runs[0]}"])) == 1


def test_folders_without_scores_are_refused(tmp_path, two):
    masks = scored.write_masks(tmp_path / "masks", {"p00": scored.reference("p00")})
    assert refused("compare.no_reference", words(masks)).exit_code == ExitCode.CONFIG
    refused("compare.missing", ["nowhere"])
    refused("compare.missing", ["name=nowhere"])
    (two[0] / "scores.json").write_text("{")
    refused("compare.no_scores", words(*two))


def test_scores_without_the_hash_of_their_reference_are_refused(two):
    content = json.loads((two[0] / "scores.json").read_text())
    del content["cases"]["p00"]["reference_hash"]
    write_record(two[0] / "scores.json", content)
    problem = refused("compare.no_scores", words(*two))
    assert "hash of their reference" in problem.found


def test_a_run_that_is_not_finished_has_no_scores(tmp_path, two):
    (two[0] / "scores.json").unlink()
    write_settings(two[0] / "config.yaml", {"name": "good"})
    refused("compare.no_scores", words(*two))


def test_only_keeps_other_pairs_out(two):
    one = read_systems(words(two[0]))[0].only(["p00"])
    assert one.pairs == {"p00"} and np.isfinite(one.seeds[0]["p00"].official["Dice"])


def test_damaged_files_of_a_run_are_refused_by_name(two):
    (two[0] / "model" / "card.json").write_text("{")
    with pytest.raises(MssegError, match=r"file\.damaged.*card\.json"):
        read_systems(words(*two))
    content = json.loads((two[1] / "scores.json").read_text())
    write_record(two[1] / "scores.json", {**content, "pairs": {"p00": {}}})
    refused("compare.no_scores", words(two[1]))
    write_record(two[1] / "scores.json", {**content, "options": {"other": 1}})
    refused("compare.no_scores", words(two[1]))


def test_memory_and_minutes_of_processors_are_read_where_they_are_recorded(tmp_path):
    root, cases = tmp_path / "runs", scored.patients()
    runs = [
        scored.write_run(root, "net", scored.scores(0.9, 0, part), 0, f"fold{fold}")
        for fold, part in enumerate((cases[:9], cases[9:]))
    ]
    for number, run in enumerate(runs):
        cost = {"fit_minutes": 1.0, "fit_cpu_minutes": 2.5, "peak_mib": 100 + number}
        write_record(run / "run.json", {"status": "finished", **cost})
    (one,) = read_systems(words(*runs))
    assert (one.cost.minutes, one.cost.cpu_minutes, one.cost.peak_mib) == (2.0, 5.0, 101)
    write_record(runs[1] / "run.json", {"status": "finished", "fit_minutes": 1.0})
    (one,) = read_systems(words(*runs))
    assert (one.cost.cpu_minutes, one.cost.peak_mib) == (None, None)


def test_figures_of_the_paper_come_from_the_card(tmp_path):
    run = scored.write_run(tmp_path / "runs", "net", scored.scores(0.9, 1))
    card = {"reported": {"protocol": "5 folds", "dice_percent": {"mean": 62.46}, "f1": 0.7}}
    write_settings(run / "config.yaml", {"name": "net", "card": card})
    (one,) = read_systems(words(run))
    assert one.reported == pytest.approx({"dice": 0.6246, "f1": 0.7})
    stages = {"dice_percent": {"threshold_50_percent": 53.3}, "finding": "no figure"}
    assert reported_figures(stages) == {} == reported_figures({})


def test_stored_masks_are_scored_against_another_version(tmp_path, coarse_cohort):
    settings = ["read=msseg2", f"read.root={coarse_cohort}"]
    data = ForeignData.of_data_set(settings, {})
    folder = tmp_path / "second"
    folder.mkdir()
    for one in data.subjects:
        shutil.copy(one.masks["new_lesions_rater2"], folder / f"{one.id}.nii.gz")
    (rater,) = read_systems(words(folder), data, version="rater2")
    with_lesions = [score for score in rater.seeds[0].values() if score.has_new_lesions]
    assert with_lesions and all(score.official["Dice"] == 1 for score in with_lesions)
    assert json.loads(rater.rules)["options"]["reference"] == "rater2"
    (other,) = read_systems(words(folder), data, version="without_rater2")
    assert any(
        score.official["Dice"] < 1
        for score in other.seeds[0].values()
        if score.official.get("Dice")
    )
    assert set(rater.raters) == {"rater1", "rater2", "rater3", "rater4"}


def test_two_versions_never_meet(tmp_path):
    runs = [
        scored.write_run(tmp_path, name, scored.scores(0.9, 1), options=options)
        for name, options in (("a", ScoreOptions()), ("b", ScoreOptions(reference="rater1")))
    ]
    assert "rater1" in refused("compare.rules", words(*runs)).found
