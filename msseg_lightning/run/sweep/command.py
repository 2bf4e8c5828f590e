"""From the words of ``msseg sweep`` to a sweep that runs and is tracked."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.run.assemble.system import instantiate
from msseg_lightning.run.config.compose import Config, compose_config, experiment_of
from msseg_lightning.run.config.keys import NAMES_RUN, decides
from msseg_lightning.run.folder import data_name
from msseg_lightning.run.sweep.answer import Answer, answer, export
from msseg_lightning.run.sweep.space import FALSE_ALARMS, Search, read_search
from msseg_lightning.run.sweep.study import SharedStudy
from msseg_lightning.run.sweep.tracking import SweepTracking
from msseg_lightning.run.sweep.worker import ExperimentTrial, Sweep, chosen_words
from msseg_lightning.run.train.experiment import labelled_subjects, make_split
from msseg_lightning.run.train.mlflow_run import NAMES

GOALS = (
    *NAMES.values(),
    "pooled_lesion_f1",
    "pooled_lesion_sensitivity",
    "pooled_lesion_precision",
    "clean_share_of_cases_without",
    FALSE_ALARMS,
    "false_volume_mm3_per_case_without",
)
"""Figures of a run that may be a goal."""


@dataclasses.dataclass(frozen=True)
class Words:
    """What the words of a command say.

    Args:
        experiment: name.
        overrides: of the experiment, the same for all trials.
        search: name of a file in ``conf/search``.
        changes: of that file.
        name: of the sweep; None for one made from the rest.
        store: database URL; None for a file.
    """

    experiment: str
    overrides: tuple[str, ...]
    search: str
    changes: dict[str, Any]
    name: str | None
    store: str | None

    @classmethod
    def of(cls, experiment: str, words: Sequence[str]) -> Words:
        """Sort ``search=NAME``, ``search.KEY=VALUE``, ``name=`` and ``store=`` from the rest.

        Raises:
            MssegError: a value of ``search.KEY`` is no YAML (exit 2).
        """
        own: dict[str, str | None] = {"search": "default", "name": None, "store": None}
        changes: dict[str, Any] = {}
        overrides = []
        for word in words:
            key, _, value = word.partition("=")
            key = key.removeprefix("+")
            if key in own:
                own[key] = value
            elif key.startswith("search."):
                changes[key.removeprefix("search.")] = _yaml(key, value)
            else:
                overrides.append(word)
        return cls(
            experiment, tuple(overrides), str(own["search"]), changes, own["name"], own["store"]
        )

    def config(self) -> Config:
        """The experiment, as all trials have it.

        Raises:
            MssegError: what every trial would refuse (exit 2).
        """
        return compose_config(self.overrides, self.experiment)

    def named(self, config: Config) -> str:
        """The sweep's name."""
        size = "" if config["size"] == "paper" else f"-{config['size']}"
        return self.name or f"{self.experiment}-{data_name(config)}{size}-{self.search}"

    def sweeps(self) -> Path:
        """Where sweeps lie."""
        given = [word.partition("=")[2] for word in self.overrides if "paths.sweeps=" in word]
        return Path(given[-1].strip("'\"")) if given else Path("sweeps")


def _yaml(key: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise MssegError(
            Problem(
                "sweep.search",
                "this value cannot be read",
                field=key,
                found=text,
                expected="YAML, such as '{type: int, low: 1, high: 3}'",
                remedy="close every bracket, and put the word between quotes of the shell",
                exit_code=ExitCode.CONFIG,
            )
        ) from error


def open_sweep(words: Words) -> tuple[Sweep, Config]:
    """The sweep that the words describe, begun or joined.

    Raises:
        MssegError: a search, fold or setting that cannot be used, a sweep of this name with other
            settings (exit 2), a store that cannot be reached (exit 8).
    """
    config = words.config()
    search = read_search(words.search, words.changes)
    check_search(search, words)
    name = words.named(config)
    folder = words.sweeps() / name
    if not folder.exists():
        check_folds(search, config)  # a study whose folds cannot be would refuse the right ones
    fixed = [word for word in words.overrides if decides(key_in(word))]
    sweep = Sweep(
        name,
        folder,
        search,
        ExperimentTrial(words.experiment, words.overrides),
        words.store,
        [f"experiment={words.experiment}", *fixed],
    )
    return sweep, config


def find_study(words: Words) -> SharedStudy:
    """A sweep that was begun, to look at; with ``name=`` nothing else is needed.

    Raises:
        MssegError: there is none (exit 2), the store is away (exit 8).
    """
    name = words.name or words.named(words.config())
    return SharedStudy.find(name, words.sweeps() / name, words.store)


def check_search(search: Search, words: Words) -> None:
    """Try the ends of every range and every choice before the first trial is trained.

    Raises:
        MssegError: a key that the experiment does not have, a value it does not take, a goal that
            no run has (exit 2).
    """
    for goal in search.objective:
        if goal.metric not in GOALS:
            raise MssegError(
                Problem(
                    "sweep.goal",
                    "no run has this figure",
                    field="search.objective",
                    found=goal.metric,
                    expected=", ".join(GOALS),
                    remedy="choose one of these",
                    exit_code=ExitCode.CONFIG,
                )
            )
    own = [key_in(word) for word in words.overrides]
    for one in search.space:
        if one.key in own or one.key in NAMES_RUN or not decides(one.key):
            raise MssegError(
                Problem(
                    "sweep.space",
                    "this setting cannot be searched",
                    field=f"search.space.{one.key}",
                    found="also given on the command line"
                    if one.key in own
                    else "part of how a search runs",
                    remedy="leave it out of one of the two",
                    exit_code=ExitCode.CONFIG,
                )
            )
    for values in search.corners():
        compose_config([*words.overrides, *chosen_words(values)], words.experiment)


def key_in(word: str) -> str:
    """The setting that a word of the command line changes."""
    return re.split(r"[=@]", word.lstrip("+~/"))[0]


def check_folds(search: Search, config: Config) -> None:
    """Divide the data once before the first trial trains on the first fold.

    Raises:
        MssegError: a fold that the division does not have (exit 2), or cannot have with these
            pairs (exit 3).
    """
    subjects = labelled_subjects(config)
    for fold in search.folds:
        make_split({**config, "fold": fold}, subjects)


def write_answer(study: SharedStudy) -> Answer:
    """Table, ``best.json``, plots and report of a sweep, also of one that still runs."""
    from msseg_lightning.run.sweep.report import build_sweep_report

    found = answer(study)
    export(found, study.folder)
    build_sweep_report(found, study.folder / "report.html")
    return found


def run_sweep(sweep: Sweep, config: Config) -> Answer:
    """Work on a sweep until it is finished, retrain the best few, write and track the answer."""
    tracking = instantiate(config.get("track")) or None
    sweep.study.free_abandoned()
    if tracking is None:
        sweep.run()
        sweep.retrain()
        return write_answer(sweep.study)
    tracked = SweepTracking(tracking, sweep.study, sweep.name, experiment_of(config))
    with tracked.whole() as tracker:
        sweep.run(tracked.trial)
        sweep.retrain()
        found = write_answer(sweep.study)
        tracked.log_answer(tracker, found)
    return found
