"""Training over several folds and seeds, with one table and one model of all folds."""

from __future__ import annotations

import itertools
import logging
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from msseg_lightning.core.files import write_record, write_settings
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.evaluate.case_score import CaseScore
from msseg_lightning.run.assemble.system import instantiate
from msseg_lightning.run.config.compose import Config, compose_config, experiment_of
from msseg_lightning.run.config.keys import RUN_KEYS
from msseg_lightning.run.folder import RunFolder, result_settings
from msseg_lightning.run.predict.rater_scores import merged
from msseg_lightning.run.predict.scores import score_options, write_scores
from msseg_lightning.run.train.experiment import labelled_subjects, make_split, train_experiment
from msseg_lightning.run.train.initial_weights import with_initial_weights
from msseg_lightning.run.train.mlflow_run import end_unrecorded, without_paths
from msseg_lightning.run.train.shared_jobs import run_shared_jobs
from msseg_lightning.split.split import data_hash

log = logging.getLogger(__name__)


def is_multirun(words: Sequence[str]) -> bool:
    """Whether ``fold=all``, ``fold=0,1`` or ``seed=0,1,2`` asks for several runs."""
    return any(re.fullmatch(r"fold=(all|\d+(,\d+)+)|seed=\d+(,\d+)+", word) for word in words)


def train_multirun(experiment: str, words: Sequence[str]) -> list[Path]:
    """Train every fold with every seed; finished runs are skipped.

    Several processes may be started with the same arguments: they share the runs.

    Args:
        experiment: name or file of the experiment.
        words: overrides with several folds or seeds.

    Returns:
        One folder per seed with the scores of all held-out pairs (``scores.json``), the run of each
        (``out_of_fold.json``) and a model whose output is the mean of all folds.
    """
    rest = [word for word in words if not re.match(r"(fold|seed)=", word)]
    given = {word.split("=")[0]: word.split("=")[1] for word in words if word not in rest}
    seeds = list(dict.fromkeys(int(seed) for seed in given.get("seed", "0").split(",")))
    first = compose_config([*rest, "fold=0", f"seed={seeds[0]}"], experiment)
    if given.get("fold", "0") == "all":
        folds = list(range(count_folds(first)))
    else:
        folds = list(dict.fromkeys(int(fold) for fold in given.get("fold", "0").split(",")))
    runs = list(itertools.product(seeds, folds))
    configs = {
        (seed, fold): compose_config([*rest, f"fold={fold}", f"seed={seed}"], experiment)
        for seed, fold in runs
    }

    def train(run: tuple[int, int]) -> None:
        seed, fold = run
        config = with_initial_weights(configs[run])
        folder = RunFolder.from_config(config)
        if is_finished(folder, config) and not (config["track"] and end_unrecorded(folder)):
            log.info("fold %d, seed %d is finished", fold, seed)
            return
        log.info("fold %d, seed %d: run %d of %d", fold, seed, runs.index(run) + 1, len(runs))
        train_experiment(configs[run])

    run_shared_jobs(runs, train)
    return [
        combine_folds(
            experiment_of(first), [RunFolder.from_config(configs[seed, fold]) for fold in folds]
        )
        for seed in seeds
    ]


def count_folds(config: Config) -> int:
    """Number of folds of a split of these pairs: the first fold number that it refuses."""
    subjects = labelled_subjects(config)
    for fold in range(len(subjects) + 1):
        try:
            make_split({**config, "fold": fold}, subjects)
        except MssegError as error:
            if fold == 0 or error.exit_code != ExitCode.CONFIG:
                raise
            return fold
    raise MssegError(
        Problem(
            "product.endless",
            "this split has no last fold",
            field="fold",
            found="all",
            expected="folds that hold out every pair once",
            remedy="split=kfold, or name the folds: fold=0,1,2",
            exit_code=ExitCode.CONFIG,
        )
    )


def is_finished(folder: RunFolder, config: Config) -> bool:
    """Whether a run with equal settings on equal data is finished."""
    if config["overwrite"] or not folder.config_file.exists():
        return False
    try:
        record, _ = folder.record(), folder.scores()
    except MssegError as error:  # fitted models are kept; the rest is computed again
        log.warning("%s", error)
        return False
    if record.get("status") != "finished" or result_settings(folder.config()) != result_settings(
        config
    ):
        return False
    subjects = instantiate(config["read"]).subjects()
    return record.get("data_hash") == data_hash(one for one in subjects if one.labelled)


def combine_folds(experiment: str, runs: Sequence[RunFolder]) -> Path:
    """Write one table of all held-out pairs and one model of all folds.

    Raises:
        MssegError: a pair was held out by two folds (exit 3).
    """
    config = runs[0].config()
    folds = [run.config()["fold"] for run in runs]
    label = str(len(folds)) if folds == list(range(len(folds))) else "+".join(map(str, folds))
    name = re.sub(r"-fold\d+-seed", f"-folds{label}-seed", runs[0].path.name)
    folder = runs[0].path.with_name(name)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".assemble.lock"):  # several processes may end at the same time
        return _combine_folds(experiment, config, runs, folder)


def _combine_folds(
    experiment: str, config: Config, runs: Sequence[RunFolder], folder: Path
) -> Path:
    cases: dict[str, CaseScore] = {}
    origin: dict[str, dict[str, Any]] = {}
    commits = []
    pairs: dict[str, Any] = {}
    raters = []
    for run in runs:
        content = run.scores()
        pairs |= content.get("pairs", {})
        raters.append(content.get("raters", {}))
        commits.append(content.get("commit"))
        for case, row in content["cases"].items():
            if case in cases:
                raise MssegError(
                    Problem(
                        "product.twice",
                        "a pair was held out by two folds",
                        file=run.path,
                        field=case,
                        expected="every pair in one fold",
                        remedy="use a split whose folds do not overlap, such as split=kfold "
                        "split.folds=2",
                    )
                )
            cases[case] = CaseScore.from_dict(row)
            origin[case] = {"fold": content["split"]["fold"], "run": run.path.name}
    facts = {
        "split": {
            "kind": f"{len(runs)} folds, every pair scored by the run that held it out",
            "folds": [run.config()["fold"] for run in runs],
        },
        "seed": config["seed"],
        "commit": commits[0] if len(set(commits)) == 1 else commits,
        "pairs": pairs,
        "raters": merged(raters),
    }
    write_scores(folder, cases, score_options(config), facts)
    write_record(folder / "out_of_fold.json", origin)
    _one_model(experiment, config, runs, folder / "model")
    return folder


def _one_model(experiment: str, config: Config, runs: Sequence[RunFolder], model: Path) -> None:
    """Write a model folder whose output is the mean of all folds, postprocessed by the rules."""
    member = {key: value for key, value in config.items() if key not in RUN_KEYS}
    ensemble = {
        "folds": len(runs),
        "level": "probability",
        "rule": "mean",
        "configs": {experiment: member},
    }
    whole = {**config, "ensemble": ensemble, "stages": {}, "uses": {}}
    for index, run in enumerate(runs):
        target = model / "members" / f"{experiment}-fold{index}"
        shutil.copytree(run.model, target, dirs_exist_ok=True)
    write_settings(model / "config.yaml", without_paths(whole))
