"""A benchmark: which systems, folds and seeds are trained with which settings and budget."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from msseg_lightning.core.files import Fields, read_record, require_record, write_record
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.run.benchmark.budget import Budget
from msseg_lightning.run.config.cards import read_cards
from msseg_lightning.run.config.compose import Config, compose_config
from msseg_lightning.run.config.keys import affects_result
from msseg_lightning.run.config.overrides import override
from msseg_lightning.run.config.preset_files import known_experiment
from msseg_lightning.run.train.folds_and_seeds import count_folds

FOLDER = Path("leaderboards")
"""Folder of all benchmarks, unless ``paths.leaderboards`` names another."""

RECORD: Fields = {"name": str, "words": list, "budget": dict, "jobs": list}
"""Fields of ``benchmark.json``."""


@dataclasses.dataclass(frozen=True, order=True)
class Job:
    """One run of a benchmark.

    Args:
        seed: of the training.
        system: name or file of the experiment.
        fold: that is held out.
    """

    seed: int
    system: str
    fold: int

    def __str__(self) -> str:
        return f"{Path(self.system).stem}-fold{self.fold}-seed{self.seed}"


@dataclasses.dataclass(frozen=True)
class BenchmarkArguments:
    """Arguments of ``msseg benchmark``.

    Args:
        name: of the benchmark.
        systems: names of experiments; None where none are given.
        folds: numbers, or ``all``.
        seeds: of the trainings.
        budget: of every system.
        words: settings of all runs.
        folder: of all benchmarks.
    """

    name: str
    systems: tuple[str, ...] | None
    folds: tuple[int, ...] | None
    seeds: tuple[int, ...]
    budget: Budget
    words: tuple[str, ...]
    folder: Path

    @classmethod
    def of(cls, name: str, words: Sequence[str]) -> BenchmarkArguments:
        """Parse ``systems=``, ``fold=``, ``seed=``, ``budget.``, ``paths.leaderboards=`` and more.

        Raises:
            MssegError: a name, list or budget that is none (exit 2).
        """
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", name):
            raise _wrong("NAME", name, "letters, digits, _, . and -: a folder is named by it")
        own = {"systems": "", "fold": "0", "seed": "0", "paths.leaderboards": str(FOLDER)}
        budget: dict[str, str] = {}
        rest = []
        for word in words:
            key, _, value = word.partition("=")
            key = key.removeprefix("+")
            if key in own:
                own[key] = value.strip("'\"")
            elif key.startswith("budget."):
                budget[key.removeprefix("budget.")] = value
            else:
                rest.append(word)
        return cls(
            name=name,
            systems=_systems(own["systems"]),
            folds=None if own["fold"] == "all" else _numbers("fold", own["fold"]),
            seeds=_numbers("seed", own["seed"]),
            budget=Budget.parse(budget),
            words=tuple(rest),
            folder=Path(own["paths.leaderboards"]),
        )


def _systems(text: str) -> tuple[str, ...] | None:
    """Names of experiments; all of them in the order of ``msseg list``."""
    names = [name for name in re.split(r"[\[\],\s]+", text) if name]
    if names == ["all"]:
        names = [card["name"] for card in read_cards()]
    return tuple(dict.fromkeys(map(known_experiment, names))) or None


def _numbers(key: str, text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise _wrong(key, text, "numbers, such as 0,1" + (", or all" if key == "fold" else ""))
    return tuple(dict.fromkeys(map(int, text.split(","))))


def _wrong(field: str, found: str, expected: str) -> MssegError:
    return MssegError(
        Problem(
            "benchmark.argument",
            "this cannot be used for a benchmark",
            field=field,
            found=found,
            expected=expected,
            remedy="`msseg benchmark --help` shows examples",
            exit_code=ExitCode.CONFIG,
        )
    )


class Benchmark:
    """The folder of a benchmark.

    Args:
        path: ``leaderboards/NAME``.
        content: of ``benchmark.json``.
    """

    def __init__(self, path: Path, content: Mapping[str, Any]) -> None:
        self.path = path
        self.name = str(content["name"])
        self.words = tuple(content["words"])
        self.budget = Budget(**content["budget"])
        self.jobs = [Job(*one) for one in content["jobs"]]

    state = property(lambda self: self.path / "state")
    logs = property(lambda self: self.path / "logs")

    @property
    def systems(self) -> list[str]:
        """Names of all systems, in order."""
        return list(dict.fromkeys(job.system for job in self.jobs))

    @classmethod
    def find(cls, arguments: BenchmarkArguments) -> Benchmark:
        """A benchmark that was begun.

        Raises:
            MssegError: there is none of this name (exit 2).
        """
        path = arguments.folder / arguments.name
        file = path / "benchmark.json"
        if not file.exists():
            known = ", ".join(one.name for one in all_benchmarks(arguments.folder))
            raise MssegError(
                Problem(
                    "benchmark.missing",
                    "there is no benchmark of this name",
                    file=path,
                    field="NAME",
                    found=arguments.name,
                    expected=known or "a benchmark that was begun",
                    remedy="`msseg benchmark --status` lists them; systems=all read.root=FOLDER "
                    "begin one",
                    exit_code=ExitCode.CONFIG,
                )
            )
        return cls.of_folder(path)

    @classmethod
    def of_folder(cls, path: Path) -> Benchmark:
        """The benchmark in a folder.

        Raises:
            MssegError: its record is damaged (exit 4).
        """
        remedy = "delete it and give the whole command of the benchmark again"
        return cls(path, require_record(path / "benchmark.json", remedy, RECORD))

    @classmethod
    def begin(cls, arguments: BenchmarkArguments) -> Benchmark:
        """Begin a benchmark, join it, or add systems, folds and seeds to it.

        Raises:
            MssegError: it was begun with other settings or another budget (exit 2), or no system
                can be composed.
        """
        path = arguments.folder / arguments.name
        if arguments.systems is None:
            return cls.find(arguments)
        path.mkdir(parents=True, exist_ok=True)
        file = path / "benchmark.json"
        with _removed_if_empty(path), FileLock(path / "benchmark.lock"):
            known: dict[str, Any] = read_record(file, RECORD) if file.exists() else {}
            words, budget = list(arguments.words), arguments.budget.as_dict()
            if known:
                _refuse_other_settings(path, known, words, budget)
            folds = arguments.folds or tuple(range(_count_folds(arguments)))
            jobs = [
                [seed, system, fold]
                for seed in arguments.seeds
                for system in arguments.systems
                for fold in folds
            ]
            if not known:
                _first_config(arguments)
            added = [job for job in jobs if job not in known.get("jobs", ())]
            content = {
                "name": arguments.name,
                "words": words,
                "budget": budget,
                "jobs": [*known.get("jobs", ()), *added],
            }
            write_record(file, content)
        return cls(path, content)

    def config(self, job: Job) -> Config:
        """The configuration of a run, with its share of the budget.

        Raises:
            MssegError: a setting that this system does not have (exit 2).
        """
        words = [
            override("paths.runs", str(self.path / "runs")),
            *(word for word in self.words if not is_of_tracking(word)),
            f"fold={job.fold}",
            f"seed={job.seed}",
            "track=off",
        ]
        config = compose_config(words, job.system)
        further = self.budget.overrides(config)
        return compose_config([*words, *further], job.system) if further else config

    def shown(self, words: Sequence[str]) -> Benchmark:
        """The same benchmark with other settings and without its folder, to be shown to others."""
        jobs = [dataclasses.astuple(job) for job in self.jobs]
        content = {"name": self.name, "words": words, "budget": self.budget.as_dict(), "jobs": jobs}
        return Benchmark(FOLDER / self.name, content)

    def continued(self) -> str:
        """The command that continues the benchmark."""
        where = "" if self.path.parent == FOLDER else f" paths.leaderboards={self.path.parent}"
        return f"msseg benchmark {self.name}{where}"


def is_of_tracking(word: str) -> bool:
    """Whether a setting is one of ``track``, which is of the benchmark and not of its runs."""
    return re.split(r"[=.]", word.lstrip("+~"))[0] == "track"


def find_job(benchmark: Benchmark, text: str) -> Job:
    """The run of a benchmark with this name.

    Raises:
        MssegError: it has none (exit 2).
    """
    job = next((job for job in benchmark.jobs if str(job) == text), None)
    if job is None:
        named = ", ".join(map(str, benchmark.jobs[:10]))
        raise _wrong("--one", text, f"a run of the benchmark, such as {named}")
    return job


def all_benchmarks(folder: Path = FOLDER) -> list[Benchmark]:
    """The benchmarks in a folder, by name."""
    return [Benchmark.of_folder(file.parent) for file in sorted(folder.glob("*/benchmark.json"))]


@contextlib.contextmanager
def _removed_if_empty(path: Path) -> Iterator[None]:
    """Leave no folder behind where a benchmark was refused before it began."""
    try:
        yield
    finally:
        if [child.name for child in path.iterdir()] in ([], ["benchmark.lock"]):
            (path / "benchmark.lock").unlink(missing_ok=True)
            path.rmdir()


def _first_config(arguments: BenchmarkArguments) -> Config:
    """Settings of the first system that has them, to find wrong ones before anything is trained.

    Raises:
        MssegError: no system can be composed; the error of the first.
    """
    errors = []
    for system in arguments.systems or ():
        try:
            config = compose_config([*arguments.words, "fold=0"], system)
            arguments.budget.overrides(config)
            return config
        except MssegError as error:
            errors.append(error)
    raise errors[0]


def _count_folds(arguments: BenchmarkArguments) -> int:
    return count_folds(_first_config(arguments))


def _refuse_other_settings(
    path: Path, known: Mapping[str, Any], words: Sequence[str], budget: Mapping[str, float]
) -> None:
    def deciding(given: Sequence[str]) -> list[str]:
        return sorted(
            word for word in given if affects_result(re.split(r"[=@]", word.lstrip("+~"))[0])
        )

    then, now = deciding(known["words"]), deciding(words)
    if (then, known["budget"]) == (now, dict(budget)):
        return
    differ = sorted(set(then) ^ set(now))
    differ += [f"budget {known['budget']} and {dict(budget)}"] * (known["budget"] != dict(budget))
    raise MssegError(
        Problem(
            "benchmark.other",
            "the benchmark of this name was begun with other settings",
            file=path,
            field=", ".join(differ)[:300],
            found=" ".join(now),
            expected=" ".join(then),
            remedy="give its own settings, or another NAME; its NAME alone continues it",
            exit_code=ExitCode.CONFIG,
        )
    )
