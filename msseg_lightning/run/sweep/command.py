"""The command ``msseg sweep``: its arguments, and running and tracking of a sweep."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from msseg_lightning.core.files import sha256_file
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.run.assemble.system import instantiate
from msseg_lightning.run.config.compose import Config, compose_config, experiment_of
from msseg_lightning.run.config.keys import NAMING_KEYS, affects_result
from msseg_lightning.run.config.preset_files import is_file_name
from msseg_lightning.run.folder import data_name
from msseg_lightning.run.sweep.result import SweepResult, export, status, sweep_result
from msseg_lightning.run.sweep.space import BUDGET_METRIC, Search, read_search
from msseg_lightning.run.sweep.study import SharedStudy
from msseg_lightning.run.sweep.tracking import SweepTracking
from msseg_lightning.run.sweep.worker import ExperimentTrial, Sweep, trial_overrides
from msseg_lightning.run.train.experiment import labelled_subjects, make_split
from msseg_lightning.run.train.mlflow_run import NAMES

GOALS = (
    *NAMES.values(),
    "pooled_lesion_f1",
    "pooled_lesion_sensitivity",
    "pooled_lesion_precision",
    "clean_share_of_cases_without",
    BUDGET_METRIC,
    "false_volume_mm3_per_case_without",
)
"""Metrics of a run that may be objectives."""


@dataclasses.dataclass(frozen=True)
class SweepArguments:
    """Arguments of ``msseg sweep``.

    Args:
        experiment: name or file of the experiment.
        overrides: overrides of the experiment, the same for all trials.
        search: name or file of a preset of ``conf/search``.
        changes: changed values of that file.
        name: name of the sweep; None for a name made from the other arguments.
        store: database URL; None for an SQLite file.
    """

    experiment: str
    overrides: tuple[str, ...]
    search: str
    changes: dict[str, Any]
    name: str | None
    store: str | None

    @classmethod
    def of(cls, experiment: str, words: Sequence[str]) -> SweepArguments:
        """Parse ``search=NAME``, ``search.KEY=VALUE``, ``name=``, ``store=`` and overrides.

        Raises:
            MssegError: a value of ``search.KEY`` is not YAML (exit 2).
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
        """The configuration that all trials share.

        Raises:
            MssegError: an invalid setting (exit 2).
        """
        return compose_config(self.overrides, self.experiment)

    def sweep_name(self, config: Config) -> str:
        """Name of the sweep."""
        size = "" if config["size"] == "paper" else f"-{config['size']}"
        search = Path(self.search).stem if is_file_name(self.search) else self.search
        return self.name or f"{experiment_of(config)}-{data_name(config)}{size}-{search}"

    def sweeps_folder(self) -> Path:
        """The folder of all sweeps, ``paths.sweeps``."""
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
                remedy="close every bracket, and put the argument between quotes of the shell",
                exit_code=ExitCode.CONFIG,
            )
        ) from error


def open_sweep(words: SweepArguments) -> tuple[Sweep, Config]:
    """Start the sweep that the arguments describe, or join it.

    Raises:
        MssegError: a search, fold or setting that cannot be used, a sweep of this name with other
            settings (exit 2), a store that cannot be reached (exit 8).
    """
    config = words.config()
    search = read_search(words.search, words.changes, words.experiment)
    check_search(search, words)
    name = words.sweep_name(config)
    folder = words.sweeps_folder() / name
    if not folder.exists():
        check_folds(search, config)  # before the study stores the folds
    fixed = [word for word in words.overrides if affects_result(key_in(word))]
    sweep = Sweep(
        name,
        folder,
        search,
        ExperimentTrial(words.experiment, words.overrides),
        words.store,
        [f"experiment={experiment_of(config)}{_content(config)}", *fixed],
    )
    return sweep, config


def _content(config: Config) -> str:
    """The hash of an experiment of the user, whose file may have changed; else empty."""
    file = str(config["experiment"])
    return f" {sha256_file(Path(file))}" if is_file_name(file) else ""


def find_study(words: SweepArguments) -> SharedStudy:
    """Find a sweep without joining it; ``name=`` is sufficient.

    Raises:
        MssegError: there is none (exit 2), the store is unavailable (exit 8).
    """
    name = words.name or words.sweep_name(words.config())
    return SharedStudy.find(name, words.sweeps_folder() / name, words.store)


def describe_sweeps(folder: Path) -> str:
    """Name and number of trials of every sweep in a folder, as text."""
    lines = []
    for place in sorted(path.parent for path in folder.glob("*/study.db")):
        counts = status(SharedStudy.find(place.name, place, None))
        wanted, done = counts.pop("wanted"), counts.pop("complete", 0)
        rest = "".join(f", {number} {name}" for name, number in sorted(counts.items()))
        lines.append(f"{place.name}  {done} of {wanted} trials complete{rest}\n")
    return "".join(lines) or f"no sweeps in {folder}; `msseg sweep EXPERIMENT` begins one\n"


def check_search(search: Search, words: SweepArguments) -> None:
    """Compose a configuration with the limits of every range and with every choice.

    Raises:
        MssegError: an unknown key, an invalid value, or an unknown objective (exit 2).
    """
    for goal in search.objective:
        if goal.metric not in GOALS:
            raise MssegError(
                Problem(
                    "sweep.goal",
                    "a run has no such metric",
                    field="search.objective",
                    found=goal.metric,
                    expected=", ".join(GOALS),
                    remedy="choose one of these",
                    exit_code=ExitCode.CONFIG,
                )
            )
    own = [key_in(word) for word in words.overrides]
    for one in search.space:
        if one.key in own or one.key in NAMING_KEYS or not affects_result(one.key):
            raise MssegError(
                Problem(
                    "sweep.space",
                    "this setting cannot be searched",
                    field=f"search.space.{one.key}",
                    found="also given on the command line"
                    if one.key in own
                    else "a setting that does not affect results, or part of the name of a run",
                    remedy="leave it out of one of the two",
                    exit_code=ExitCode.CONFIG,
                )
            )
    for values in search.extreme_points():
        compose_config([*words.overrides, *trial_overrides(values)], words.experiment)


def key_in(word: str) -> str:
    """The key of an override."""
    return re.split(r"[=@]", word.lstrip("+~/"))[0]


def check_folds(search: Search, config: Config) -> None:
    """Split the data for every fold of a search, to find errors before the first trial.

    Raises:
        MssegError: a fold that the split does not have (exit 2), or cannot have with these pairs
            (exit 3).
    """
    subjects = labelled_subjects(config)
    for fold in search.folds:
        make_split({**config, "fold": fold}, subjects)


def write_result(study: SharedStudy) -> SweepResult:
    """Write table, ``best.json``, plots and report of a sweep, also while it is running."""
    from msseg_lightning.run.sweep.report import build_sweep_report

    found = sweep_result(study)
    export(found, study.folder)
    build_sweep_report(found, study.folder / "report.html")
    return found


def run_sweep(sweep: Sweep, config: Config) -> SweepResult:
    """Run a sweep to its end, train the best candidates again, write and track the result."""
    tracking = instantiate(config.get("track")) or None
    sweep.study.requeue_abandoned()
    if tracking is None:
        sweep.run()
        sweep.retrain()
        return write_result(sweep.study)
    tracked = SweepTracking(tracking, sweep.study, sweep.name, experiment_of(config))
    with tracked.sweep_run() as tracker:
        sweep.run(tracked.trial)
        sweep.retrain()
        found = write_result(sweep.study)
        tracked.log_result(tracker, found)
    return found
