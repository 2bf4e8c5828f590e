"""A study that several processes share, any of which may be killed.

Trials are kept in an Optuna store: a local SQLite file, or any database by URL. A process takes a
trial, stores its identity and a heartbeat in it, and stores how it ended. A process that dies
leaves its trial RUNNING; another process finds that the owner is dead, queues the same values again
and fails the trial. Both may be repeated: of several repetitions of one trial only the first
counts.

At most the wanted number of finished and running trials counts. This is checked when a trial is
taken and again when it ends, so that exactly the wanted number is finished. No point of the space
is tried twice: a trial with the values of another finished or running trial is failed as a
duplicate and another point is drawn. If no point is left, the search ends.

Optuna's own heartbeat works only with ``Study.optimize``, which can neither wait for trials of
other processes nor end with an exact number of trials.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.random import keyed_seed
from msseg_lightning.run.sweep.samplers import make_pruner, reseeded_sampler
from msseg_lightning.run.sweep.space import Search, parse, point_key
from msseg_lightning.run.sweep.storage import (
    DATABASE,
    open_storage,
    reachable,
    refuse_pickles,
    shown_store,
)

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

log = logging.getLogger(__name__)

HEARTBEAT_S = 20.0
HEARTBEAT_TIMEOUT_S = 120.0
"""Seconds without a heartbeat after which a process of another machine counts as dead."""
MAX_RETRIES = 5
"""How often the values of a killed trial are queued again."""
MAX_DUPLICATES = 5
"""How often in a row the sampler may draw a known point before it is given a new one."""
CHANGEABLE_PARTS = ("trials", "retrain")
"""Parts of a search that later processes may change, since they only set its length."""


class SharedStudy:
    """An Optuna study that several processes share.

    Use ``begin`` to start or join one, ``find`` to read one.

    Args:
        folder: folder of the sweep; holds the locks, and the store unless a URL is given.
        search: definition of the search.
        study: the Optuna study.
    """

    def __init__(self, folder: Path, search: Search, study: optuna.Study) -> None:
        self.folder, self.search, self.study = folder, search, study

    @classmethod
    def begin(
        cls, name: str, folder: Path, search: Search, fixed: Sequence[str], store: str | None = None
    ) -> SharedStudy:
        """Start a study, or join the one of this name.

        Args:
            name: processes that give the same name and store work on the same trials.
            folder: see the class.
            search: definition of the search.
            fixed: further settings that must be equal in all processes.
            store: database URL; None for an SQLite file in ``folder``.

        Raises:
            MssegError: the store cannot be reached (exit 8), the study was begun with other
                settings (exit 2), CMA-ES on a store of others (exit 6).
        """
        import optuna
        from filelock import FileLock

        refuse_pickles(search, store, folder)
        folder.mkdir(parents=True, exist_ok=True)
        with reachable(store), FileLock(folder / ".study.lock"):
            study = optuna.create_study(
                study_name=name,
                storage=open_storage(store, folder),
                directions=[goal.direction for goal in search.objective],
                sampler=reseeded_sampler(search),
                pruner=make_pruner(search),
                load_if_exists=True,
            )
            begun = study.user_attrs.get("settings")
            own = {"search": search.as_dict(), "fixed": sorted(fixed)}
            if begun is None:
                study.set_user_attr("id", uuid.uuid4().hex)
                study.set_user_attr("settings", own)
            else:
                _refuse_changes(begun, own, folder)
        return cls(folder, search, study)

    @classmethod
    def find(cls, name: str, folder: Path, store: str | None = None) -> SharedStudy:
        """A study that was begun, without joining it.

        Raises:
            MssegError: there is none of this name (exit 2), the store is unavailable (exit 8).
        """
        import optuna

        names: list[str] = []
        study = settings = None
        if store is not None or (folder / DATABASE).is_file():
            with reachable(store):
                storage = open_storage(store, folder)
                names = optuna.get_all_study_names(storage)
                if name in names:
                    study = optuna.load_study(study_name=name, storage=storage)
                    settings = study.user_attrs.get("settings")
        if study is None or settings is None:
            raise MssegError(
                Problem(
                    "sweep.missing",
                    "no sweep of this name was begun here",
                    file=shown_store(store) if store else folder,
                    field="name",
                    found=name,
                    expected=", ".join(sorted(names)) or "a sweep",
                    remedy="give the arguments of its first command, or its name=, store= and the "
                    "folder it was started in",
                    exit_code=ExitCode.CONFIG,
                )
            )
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder, parse(settings["search"]), study)

    # ------------------------------------------------------------------ reading
    @property
    def id(self) -> str:
        """Unique id, which differs from that of an earlier study with the same name."""
        return str(self.study.user_attrs["id"])

    def trials(self) -> list[FrozenTrial]:
        """All trials by number, including those that do not count."""
        return self.study.get_trials(deepcopy=False)

    def trial(self, number: int) -> FrozenTrial:
        """The trial with a number."""
        return self.trials()[number]

    def counted(self) -> list[FrozenTrial]:
        """The trials that count: finished or pruned ones, one per point, then running ones."""
        import optuna

        state = optuna.trial.TrialState
        trials = self.trials()
        ended = distinct(trial for trial in trials if trial.state in (state.COMPLETE, state.PRUNED))
        running = [trial for trial in trials if trial.state == state.RUNNING]
        return [*ended, *running][: self.search.trials]

    def done(self) -> bool:
        """Whether the wanted number of trials is finished, or all points of the space are tried."""
        counted = self.counted()
        if len(counted) >= self.search.trials:
            return all(trial.state.is_finished() for trial in counted)
        return self.exhausted() and all(trial.state.is_finished() for trial in self.trials())

    def exhausted(self) -> bool:
        """Whether every point of the space was tried."""
        tried = {point_key(trial.params) for trial in self.trials() if is_final(trial)}
        return self.search.new_point(tried, 0) is None

    def failed(self) -> list[FrozenTrial]:
        """Trials that ended with an error, or whose process died every time."""
        known = [trial for trial in self.trials() if trial.state.name == "FAIL"]
        return distinct(trial for trial in known if is_final(trial))

    def finished(self) -> list[FrozenTrial]:
        """Trials that completed all folds, best first; with several objectives the Pareto front.

        Of several trials of one point, which older versions allowed, only the first is returned.
        """
        import optuna

        complete = [
            trial for trial in self.trials() if trial.state == optuna.trial.TrialState.COMPLETE
        ]
        if not complete or len(self.search.objective) > 1:
            return distinct(self.study.best_trials) if complete else []
        upwards = self.search.objective[0].direction == "maximize"
        return sorted(distinct(complete), key=lambda trial: trial.values[0], reverse=upwards)

    # ------------------------------------------------------------------ taking and ending trials
    def take(self) -> optuna.Trial | None:
        """Take a trial for this process; None if enough trials are finished or running."""
        with self._lock():
            self.requeue_abandoned()
            if len(self.counted()) >= self.search.trials:
                return None
            trial = self.study.ask()
            trial.set_user_attr("owner", _owner())
            trial.set_user_attr("alive", time.time())
        if self._repeated(trial) or not self._counts(trial):
            self.fail(trial, surplus=True)  # machines that share no lock took one at the same time
            return None
        return trial

    def next_point(self) -> tuple[optuna.Trial, dict[str, Any]] | None:
        """Take a trial with values that no other trial has.

        None if enough trials are finished or running, or if no point is left.
        """
        import optuna

        with self._lock():
            for attempt in range(MAX_DUPLICATES + 2):
                self.requeue_abandoned()
                if len(self.counted()) >= self.search.trials:
                    return None
                trials = self.trials()
                waiting = any(one.state == optuna.trial.TrialState.WAITING for one in trials)
                known = {point_key(one.params) for one in trials if _occupies(one)}
                new_point = self.search.new_point(known, self._seed(len(trials)))
                if new_point is None and not waiting:
                    return None
                if attempt >= MAX_DUPLICATES and new_point is not None:
                    self.study.enqueue_trial(new_point)
                trial = self.take()
                if trial is None:
                    return None
                values = self.search.suggest(trial)
                if self._claim(trial, values):
                    return trial, values
        return None

    def _seed(self, number: int) -> int:
        return keyed_seed(self.search.seed, "unseen", number)

    def _claim(self, trial: optuna.Trial, values: Mapping[str, Any]) -> bool:
        """Mark the point of a trial as taken; fails the trial if another has the same point."""
        trial.set_user_attr("claimed", True)
        other = self._same_point(trial.number, values)
        if other is not None:
            self.fail(trial, duplicate_of=other)
        return other is None

    def _same_point(self, number: int, values: Mapping[str, Any]) -> int | None:
        """Number of another finished or running trial with the same point; None without one."""
        own = point_key(values)
        others = (one for one in self.trials() if one.number != number and _occupies(one))
        return next((one.number for one in others if point_key(one.params) == own), None)

    def end(self, trial: optuna.Trial, values: Sequence[float] | None) -> None:
        """Store the values of a trial that completed all folds; None if it was pruned."""
        import optuna

        state = optuna.trial.TrialState
        with self._lock():
            # machines that share no lock may have tried the same point
            own = point_key(self.trial(trial.number).params)
            ended = (one for one in self.trials() if one.state in (state.COMPLETE, state.PRUNED))
            same = next(
                (one.number for one in ended if one.params and point_key(one.params) == own), None
            )
            if same is not None:
                self.fail(trial, duplicate_of=same)
                return
            if not self._counts(trial):
                self.fail(trial, surplus=True)
                return
            if values is None:
                self._tell(trial.number, state.PRUNED)
            else:
                self._tell(trial.number, state.COMPLETE, values)

    def fail(self, trial: optuna.Trial, **why: Any) -> None:
        """Fail a trial that is not tried again and does not count.

        Args:
            trial: the trial.
            why: ``error``, ``surplus`` or ``duplicate_of``.
        """
        import optuna

        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            for name, value in why.items():
                trial.set_user_attr(name, value)
        self._tell(trial.number, optuna.trial.TrialState.FAIL)

    def requeue(self, number: int) -> None:
        """Queue a trial's values again and fail it."""
        import optuna

        trial = self.trial(number)
        if all(other.user_attrs.get("retry_of") != number for other in self.trials()):
            times = int(trial.user_attrs.get("times_lost", 0)) + 1
            if trial.params and times <= MAX_RETRIES:
                kept = {"retry_of": number, "times_lost": times}
                self.study.enqueue_trial(dict(trial.params), user_attrs=kept)
            elif trial.params:
                log.warning("trial %d is not tried again after %d attempts", number, times)
        self._tell(number, optuna.trial.TrialState.FAIL)

    def _tell(
        self, number: int, state: optuna.trial.TrialState, values: Sequence[float] | None = None
    ) -> None:
        """End a trial unless another process has ended it."""
        import optuna

        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self.study.tell(number, values, state=state, skip_if_finished=True)

    def requeue_abandoned(self) -> list[int]:
        """Requeue the trials whose process is dead.

        Returns:
            Their numbers.
        """
        import optuna

        freed = []
        with self._lock():
            for trial in self.trials():
                if trial.state == optuna.trial.TrialState.RUNNING and abandoned(trial):
                    log.warning("trial %d is queued again: its process died", trial.number)
                    self.requeue(trial.number)
                    freed.append(trial.number)
        return freed

    @contextlib.contextmanager
    def heartbeat(self, trial: optuna.Trial) -> Iterator[None]:
        """Store every 20 s that the process that runs a trial is alive."""
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(HEARTBEAT_S):
                with contextlib.suppress(Exception):  # an outage must not end a training
                    trial.set_user_attr("alive", time.time())

        thread = threading.Thread(target=beat, daemon=True, name="sweep heartbeat")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        from filelock import FileLock

        # a singleton per path, so that the lock is reentrant
        with FileLock(self.folder / ".trials.lock", is_singleton=True):
            yield

    def _counts(self, trial: optuna.Trial) -> bool:
        return trial.number in {one.number for one in self.counted()}

    def _repeated(self, trial: optuna.Trial) -> bool:
        """Whether another repetition of the same lost trial was queued before this one."""
        of = trial.user_attrs.get("retry_of")
        if of is None:
            return False
        return any(
            one.number < trial.number and one.user_attrs.get("retry_of") == of
            for one in self.trials()
        )


def is_final(trial: FrozenTrial) -> bool:
    """Whether the point of a trial is finished or failed and is not tried again."""
    known = trial.user_attrs
    if trial.state.name == "FAIL":
        given_up = int(known.get("times_lost", 0)) >= MAX_RETRIES
        return "error" in known or (given_up and not {"surplus", "duplicate_of"} & set(known))
    return trial.state.name in ("COMPLETE", "PRUNED")


def _occupies(trial: FrozenTrial) -> bool:
    """Whether the point of a trial was tried or is running."""
    working = trial.state.name == "RUNNING" and "claimed" in trial.user_attrs
    return working or is_final(trial)


def distinct(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The first trial of every point, and all trials without values."""
    found: dict[str, FrozenTrial] = {}
    for trial in trials:
        found.setdefault(
            point_key(trial.params) if trial.params else f"trial {trial.number}", trial
        )
    return list(found.values())


def _owner() -> str:
    import psutil

    return f"{platform.node()} {os.getpid()} {psutil.Process().create_time():.0f}"


def abandoned(trial: FrozenTrial) -> bool:
    """Whether the process that runs a trial is dead."""
    import psutil

    owner = str(trial.user_attrs.get("owner", "")).split()
    if len(owner) == 3 and owner[0] == platform.node():
        try:
            process = psutil.Process(int(owner[1]))
            same = abs(process.create_time() - float(owner[2])) <= 2
            return not same or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True
    begun = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
    return time.time() - float(trial.user_attrs.get("alive", begun)) > HEARTBEAT_TIMEOUT_S


def _refuse_changes(begun: Mapping[str, Any], own: Mapping[str, Any], folder: Path) -> None:
    def flat(settings: Mapping[str, Any]) -> dict[str, str]:
        search = {k: v for k, v in settings["search"].items() if k not in CHANGEABLE_PARTS}
        space = {f"space.{key}": value for key, value in search.pop("space").items()}
        found = {f"search.{key}": json.dumps(value) for key, value in {**search, **space}.items()}
        return found | {word.partition("=")[0]: word for word in settings["fixed"]}

    old, new = flat(begun), flat(own)
    different = [key for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)]
    if different:
        raise MssegError(
            Problem(
                "sweep.changed",
                "a sweep of this name was begun with other settings",
                file=folder,
                field=", ".join(different)[:300],
                found="; ".join(f"{k}: {old.get(k)} -> {new.get(k)}" for k in different)[:600],
                remedy="give the first command's settings, or name=OTHER",
                exit_code=ExitCode.CONFIG,
            )
        )
