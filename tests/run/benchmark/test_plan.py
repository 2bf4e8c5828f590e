"""What a benchmark holds, how it grows, and what may not be added to it."""

from __future__ import annotations

import pytest

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.run.benchmark import plan
from msseg_lightning.run.benchmark.plan import Benchmark, BenchmarkArguments, Job, find_job
from msseg_lightning.run.config.cards import read_cards
from tests.run.benchmark.toy import WORDS, begin


def test_every_system_of_the_list_in_its_order():
    given = BenchmarkArguments.of("all", ["systems=all", "seed=0,2", "fold=1"])
    assert list(given.systems) == [card["name"] for card in read_cards()]
    assert (given.seeds, given.folds) == ((0, 2), (1,))


def test_a_run_finds_its_settings_and_its_share_of_the_budget(tmp_path):
    found = begin(tmp_path, "metric_learning_unet", "budget.minutes=3", "data.workers=1")
    (job,) = found.jobs
    assert str(job) == "metric_learning_unet-fold0-seed0" and find_job(found, str(job)) == job
    config = found.config(job)
    assert config["train"]["minutes"] == config["stages"]["metric"]["train"]["minutes"] == 1.5
    assert config["track"] is None or not config["track"]
    assert config["paths"]["runs"] == str(tmp_path / "toy" / "runs")


def test_settings_of_tracking_are_those_of_the_benchmark(tmp_path):
    words = ["systems=[ohem_unet]", "read.root=x", "track.uri=http://host"]
    found = Benchmark.begin(
        BenchmarkArguments.of("toy", [*words, f"paths.leaderboards={tmp_path}"])
    )
    assert not found.config(found.jobs[0])["track"]


def test_its_name_alone_continues_it_and_the_same_settings_add_to_it(tmp_path):
    begin(tmp_path)
    again = Benchmark.begin(BenchmarkArguments.of("toy", [f"paths.leaderboards={tmp_path}"]))
    assert again.systems == ["bsi_subtraction", "oversampled_unet"]
    more = begin(tmp_path, "oversampled_unet,ohem_unet", "seed=0,1", "data.workers=3")
    assert list(map(str, more.jobs)) == [
        "bsi_subtraction-fold0-seed0",
        "oversampled_unet-fold0-seed0",
        "ohem_unet-fold0-seed0",
        "oversampled_unet-fold0-seed1",
        "ohem_unet-fold0-seed1",
    ]


@pytest.mark.parametrize("word", ["budget.steps=5", "train.optimizer.lr=0.5", "++infer.size=8"])
def test_other_settings_are_refused(tmp_path, word):
    begin(tmp_path)
    with pytest.raises(MssegError, match=r"begun with other settings.*5|8") as caught:
        begin(tmp_path, "ohem_unet", word)
    assert caught.value.exit_code == ExitCode.CONFIG
    assert begin(tmp_path).systems == ["bsi_subtraction", "oversampled_unet"]


def test_what_no_system_has_leaves_no_folder(tmp_path):
    with pytest.raises(MssegError, match=r"train\.stepz"):
        begin(tmp_path, "oversampled_unet,ohem_unet", "train.stepz=3")
    with pytest.raises(MssegError, match="oversampled_unet"):  # it names what is near
        begin(tmp_path, "oversampled_unett")
    assert not list(tmp_path.iterdir())


def test_a_setting_that_one_system_lacks_stops_only_that_one(tmp_path):
    found = begin(tmp_path, "bsi_subtraction,oversampled_unet", "train.batch_size=2")
    with pytest.raises(MssegError):
        found.config(found.jobs[0])
    assert found.config(found.jobs[1])["train"]["batch_size"] == 2


def test_a_file_of_an_experiment_is_named_by_its_stem():
    assert str(Job(1, "mine/new_unet.yaml", 2)) == "new_unet-fold2-seed1"


def test_all_folds_are_those_of_the_split(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "count_folds", lambda config: 3)
    assert [job.fold for job in begin(tmp_path, "ohem_unet", "fold=all").jobs] == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "word"), [("a/b", ""), ("", ""), ("a", "seed=x"), ("a", "fold=some"), ("..", "")]
)
def test_what_is_no_name_or_number_is_refused(name, word):
    with pytest.raises(MssegError, match=r"benchmark\.argument"):
        BenchmarkArguments.of(name, [*WORDS, word])


def test_a_name_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    begin(tmp_path, name="first")
    with pytest.raises(MssegError, match=r"expected first"):
        Benchmark.find(BenchmarkArguments.of("second", [f"paths.leaderboards={tmp_path}"]))
