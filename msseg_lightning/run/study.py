"""The store of a search: any number of processes take trials from it, none is indispensable.

Trials live in an Optuna store: an SQLite file of this machine, or any database by URL. A process
takes a trial, marks it with who it is and when it was last seen alive, and says how it ended. A
process that dies leaves its trial RUNNING; whoever comes next finds that the owner is gone, queues
the same values again and fails the trial. Both are safe to be repeated: of several repetitions of
one trial only the first counts.

Of the trials that are finished or being worked on only as many count as are wanted. That is looked
at when a trial is taken and again when it ends, so that exactly the number asked for is finished.
No point of the space is tried twice: a trial that draws the values of another, which ended or is
being worked on, is failed as a duplicate and another is drawn. A space without further points ends
the search.
Optuna's own heartbeat belongs to ``Study.optimize``, which can neither wait for trials of others
nor end with an exact number.
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
from msseg_lightning.run.samplers import make_pruner, per_trial
from msseg_lightning.run.search import Search, parse, point
from msseg_lightning.run.study_store import (
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

BEAT_S = 20.0
LOST_S = 120.0
"""A process of another machine that was not seen alive for this long is taken for dead."""
MOST_LOST = 5
"""So often the values of a killed trial are queued again."""
MOST_DUPLICATES = 5
"""So often in a row the sampler may draw a known point before it is given another."""
MAY_DIFFER = ("trials", "retrain")
"""Parts of a search that later processes may change: they decide how long, not what."""


class SharedStudy:
    """One study in one store.

    Use ``begin`` to start or join one, ``find`` to look at one.

    Args:
        folder: of the sweep; holds the locks, and the store unless a URL is given.
        search: what is tried.
        study: Optuna's.
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
            search: what is tried.
            fixed: what all processes must agree on beside the search.
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
                sampler=per_trial(search),
                pruner=make_pruner(search),
                load_if_exists=True,
            )
            begun = study.user_attrs.get("settings")
            mine = {"search": search.content(), "fixed": sorted(fixed)}
            if begun is None:
                study.set_user_attr("id", uuid.uuid4().hex)
                study.set_user_attr("settings", mine)
            else:
                _refuse_changes(begun, mine, folder)
        return cls(folder, search, study)

    @classmethod
    def find(cls, name: str, folder: Path, store: str | None = None) -> SharedStudy:
        """A study that was begun, without joining it.

        Raises:
            MssegError: there is none of this name (exit 2), the store is away (exit 8).
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
                    remedy="give the words of its first command, or its name=, store= and the "
                    "folder it was started in",
                    exit_code=ExitCode.CONFIG,
                )
            )
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder, parse(settings["search"]), study)

    # ------------------------------------------------------------------ looking
    @property
    def id(self) -> str:
        """Tells this study from an earlier one of the same name."""
        return str(self.study.user_attrs["id"])

    def trials(self) -> list[FrozenTrial]:
        """All trials, also those that do not count, by number."""
        return self.study.get_trials(deepcopy=False)

    def trial(self, number: int) -> FrozenTrial:
        """One of them."""
        return self.trials()[number]

    def counted(self) -> list[FrozenTrial]:
        """The trials that count: finished or pruned, one per point, then those being worked on."""
        import optuna

        state = optuna.trial.TrialState
        trials = self.trials()
        ended = distinct(trial for trial in trials if trial.state in (state.COMPLETE, state.PRUNED))
        running = [trial for trial in trials if trial.state == state.RUNNING]
        return [*ended, *running][: self.search.trials]

    def done(self) -> bool:
        """Whether as many trials as wanted are finished, or all points of the space are tried."""
        counted = self.counted()
        if len(counted) >= self.search.trials:
            return all(trial.state.is_finished() for trial in counted)
        return self.exhausted() and all(trial.state.is_finished() for trial in self.trials())

    def exhausted(self) -> bool:
        """Whether every point of the space was tried."""
        tried = {point(trial.params) for trial in self.trials() if tried_to_its_end(trial)}
        return self.search.unseen(tried, 0) is None

    def failed(self) -> list[FrozenTrial]:
        """Trials that ended with an error, or whose process died every time."""
        known = [trial for trial in self.trials() if trial.state.name == "FAIL"]
        return distinct(trial for trial in known if tried_to_its_end(trial))

    def finished(self) -> list[FrozenTrial]:
        """Trials that went through all folds, best first (several goals: the Pareto front).

        Of several trials of one point, as older versions made them, only the first.
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
        """A trial of ours; None while others work on enough of them."""
        with self._lock():
            self.free_abandoned()
            if len(self.counted()) >= self.search.trials:
                return None
            trial = self.study.ask()
            trial.set_user_attr("owner", _me())
            trial.set_user_attr("alive", time.time())
        if self._repeated(trial) or not self._counts(trial):
            self.fail(trial, surplus=True)  # machines that share no lock took it at once
            return None
        return trial

    def next_point(self) -> tuple[optuna.Trial, dict[str, Any]] | None:
        """A trial of ours and its values, which no other trial has.

        None while others work on enough of them, or where no point is left.
        """
        import optuna

        with self._lock():
            for attempt in range(MOST_DUPLICATES + 2):
                self.free_abandoned()
                if len(self.counted()) >= self.search.trials:
                    return None
                trials = self.trials()
                waiting = any(one.state == optuna.trial.TrialState.WAITING for one in trials)
                known = {point(one.params) for one in trials if _occupies(one)}
                unseen = self.search.unseen(known, self._seed(len(trials)))
                if unseen is None and not waiting:
                    return None
                if attempt >= MOST_DUPLICATES and unseen is not None:
                    self.study.enqueue_trial(unseen)
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
        """Mark a trial's point as taken; a trial whose point is another's is failed."""
        trial.set_user_attr("claimed", True)
        other = self._same_point(trial.number, values)
        if other is not None:
            self.fail(trial, duplicate_of=other)
        return other is None

    def _same_point(self, number: int, values: Mapping[str, Any]) -> int | None:
        """The trial of the same point before which this one has to stand back."""
        mine = point(values)
        others = (one for one in self.trials() if one.number != number and _occupies(one))
        return next((one.number for one in others if point(one.params) == mine), None)

    def end(self, trial: optuna.Trial, values: Sequence[float] | None) -> None:
        """A trial went through all folds, or was pruned (None)."""
        import optuna

        state = optuna.trial.TrialState
        with self._lock():
            # machines that share no lock may have worked on one point
            mine = point(self.trial(trial.number).params)
            ended = (one for one in self.trials() if one.state in (state.COMPLETE, state.PRUNED))
            same = next(
                (one.number for one in ended if one.params and point(one.params) == mine), None
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
        """A trial that is not tried again, and does not count.

        Args:
            trial: which.
            why: ``error``, ``surplus`` or ``duplicate_of``.
        """
        import optuna

        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            for name, value in why.items():
                trial.set_user_attr(name, value)
        self._tell(trial.number, optuna.trial.TrialState.FAIL)

    def give_back(self, number: int) -> None:
        """Queue a trial's values again and fail it."""
        import optuna

        trial = self.trial(number)
        if all(other.user_attrs.get("retry_of") != number for other in self.trials()):
            times = int(trial.user_attrs.get("times_lost", 0)) + 1
            if trial.params and times <= MOST_LOST:
                kept = {"retry_of": number, "times_lost": times}
                self.study.enqueue_trial(dict(trial.params), user_attrs=kept)
            elif trial.params:
                log.warning("trial %d is given up after %d attempts", number, times)
        self._tell(number, optuna.trial.TrialState.FAIL)

    def _tell(
        self, number: int, state: optuna.trial.TrialState, values: Sequence[float] | None = None
    ) -> None:
        """End a trial unless others did: a machine that slept finds its trial given up."""
        import optuna

        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self.study.tell(number, values, state=state, skip_if_finished=True)

    def free_abandoned(self) -> list[int]:
        """Give back the trials whose process is gone.

        Returns:
            Their numbers.
        """
        import optuna

        freed = []
        with self._lock():
            for trial in self.trials():
                if trial.state == optuna.trial.TrialState.RUNNING and abandoned(trial):
                    log.warning("trial %d was left by a process that died", trial.number)
                    self.give_back(trial.number)
                    freed.append(trial.number)
        return freed

    @contextlib.contextmanager
    def heartbeat(self, trial: optuna.Trial) -> Iterator[None]:
        """Say every 20 s that the process that works on a trial is alive."""
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(BEAT_S):
                with contextlib.suppress(Exception):  # a store that is away must not end a training
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

        # one object per path and process, so that a holder may take it again
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


def tried_to_its_end(trial: FrozenTrial) -> bool:
    """Whether the point of a trial is not to be tried again."""
    known = trial.user_attrs
    if trial.state.name == "FAIL":
        given_up = int(known.get("times_lost", 0)) >= MOST_LOST
        return "error" in known or (given_up and not {"surplus", "duplicate_of"} & set(known))
    return trial.state.name in ("COMPLETE", "PRUNED")


def _occupies(trial: FrozenTrial) -> bool:
    """Whether the point of a trial was tried or is being worked on."""
    working = trial.state.name == "RUNNING" and "claimed" in trial.user_attrs
    return working or tried_to_its_end(trial)


def distinct(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The first trial of every point; all of those that have no values yet."""
    found: dict[str, FrozenTrial] = {}
    for trial in trials:
        found.setdefault(point(trial.params) if trial.params else f"trial {trial.number}", trial)
    return list(found.values())


def _me() -> str:
    import psutil

    return f"{platform.node()} {os.getpid()} {psutil.Process().create_time():.0f}"


def abandoned(trial: FrozenTrial) -> bool:
    """Whether the process that works on a trial is gone."""
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
    return time.time() - float(trial.user_attrs.get("alive", begun)) > LOST_S


def _refuse_changes(begun: Mapping[str, Any], mine: Mapping[str, Any], folder: Path) -> None:
    def flat(settings: Mapping[str, Any]) -> dict[str, str]:
        search = {k: v for k, v in settings["search"].items() if k not in MAY_DIFFER}
        space = {f"space.{key}": value for key, value in search.pop("space").items()}
        found = {f"search.{key}": json.dumps(value) for key, value in {**search, **space}.items()}
        return found | {word.partition("=")[0]: word for word in settings["fixed"]}

    old, new = flat(begun), flat(mine)
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
