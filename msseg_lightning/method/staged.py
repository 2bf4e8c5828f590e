"""Systems of several stages, of which later ones use the frozen networks of earlier ones.

A stage is a network with its own data, loss and length of training. What it leaves behind lies in a
folder named by a hash of all it was made from: its settings, the code, every prepared input and the
stages it builds upon. A changed value or file therefore means another folder, an unchanged one is
found again, and whatever was interrupted continues in its own folder.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from filelock import FileLock
from torch import nn

from msseg_lightning.core.files import DamagedFileError, read_record, sha256_file, write_record
from msseg_lightning.core.method import NO_CONTEXT, FitContext, Track
from msseg_lightning.core.prediction import Prediction
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject import LongitudinalSubject
from msseg_lightning.method.derived_image import DerivedImage, FittedNetwork, Maps
from msseg_lightning.method.ensemble import EnsembleMethod
from msseg_lightning.method.network_method import NetworkMethod
from msseg_lightning.network.weights import load_weights
from msseg_lightning.split.patients import deal, patients_of

log = logging.getLogger(__name__)

Pairs = Sequence[LongitudinalSubject]


@dataclasses.dataclass(frozen=True)
class FittedStage:
    """Networks of a fitted stage.

    Args:
        name: of the stage.
        key: hash of all it was made from.
        sources: its networks: one, or one per fold.
        maps: how its networks make an image of a pair, where they do.
    """

    name: str
    key: str
    sources: tuple[FittedNetwork, ...]
    maps: Maps | None = None

    def network(self) -> nn.Module:
        """The fitted network, frozen in evaluation mode.

        Raises:
            MssegError: the stage has a network per fold, of which none stands for all (exit 2).
        """
        if len(self.sources) > 1:
            raise MssegError(
                Problem(
                    "config.stage",
                    f"stage {self.name!r} is fitted out of fold and has no network of its own",
                    field=f"stages.{self.name}.out_of_fold",
                    found=str(len(self.sources)),
                    expected="1, where a later stage uses its network",
                    remedy=f"++stages.{self.name}.out_of_fold=1, or use the stage under "
                    "uses.images instead, as an image of every pair",
                    exit_code=ExitCode.CONFIG,
                )
            )
        return self.sources[0].network()

    def image(self, name: str) -> DerivedImage:
        """The image of pairs that the networks of this stage make."""
        if self.maps is None:
            raise MssegError(
                Problem(
                    "config.stage",
                    f"stage {self.name!r} makes no images",
                    field=f"stages.{self.name}.maps",
                    expected="a class that turns a network and a pair into an image",
                    remedy=f"'+stages.{self.name}.maps={{_target_: msseg_lightning.method."
                    "probability_difference.ProbabilityDifference, infer: ${infer}}', or use "
                    "another stage",
                    exit_code=ExitCode.CONFIG,
                )
            )
        for_image = getattr(self.maps, "for_image", None)  # of a stage that makes several
        maps = self.maps if for_image is None else for_image(name)
        return DerivedImage(name, maps, self.sources)


def _unknown(subject: LongitudinalSubject) -> None:
    """Default of ``has_lesions``: unknown for every pair."""


Make = Callable[[Mapping[str, FittedStage]], NetworkMethod]
MakeLast = Callable[[Mapping[str, FittedStage]], NetworkMethod | EnsembleMethod]


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage before the last one.

    Args:
        name: of the stage.
        settings: everything of the configuration that decides what it learns.
        make: fitted earlier stages -> unfitted method.
        store: folder of all fitted stages.
        code: hash of the program.
        subjects: its own pairs; None takes the training pairs of the run.
        out_of_fold: number of networks, each fitted without one part of the patients; 1 fits one
            network on all.
        has_lesions: whether a pair has new lesions, None where that is unknown; spreads patients
            over the parts that are left out.
        uses: earlier stages it builds upon.
        maps: turns a fitted network into an image of a pair; with ``for_image(name)`` into several,
            told apart by their names.
    """

    name: str
    settings: Mapping[str, Any]
    make: Make
    store: Path
    code: str
    subjects: Callable[[], Pairs] | None = None
    out_of_fold: int = 1
    has_lesions: Callable[[LongitudinalSubject], bool | None] = _unknown
    uses: tuple[str, ...] = ()
    maps: Maps | None = None

    def ensure(
        self,
        train: Pairs,
        fitted: Mapping[str, FittedStage],
        context: FitContext = NO_CONTEXT,
    ) -> FittedStage:
        """Fit the stage if it is not fitted yet.

        Args:
            train: training pairs of the run.
            fitted: earlier stages.
            context: the patients whom the run validates and tests with are held out; a tracked run
                is opened for each network that is fitted or taken as it is.

        Raises:
            MssegError: no pairs are left to fit on, or fewer patients than networks out of fold
                (exit 3).
        """
        own = self.subjects() if self.subjects is not None else train
        pairs = [subject for subject in own if subject.patient not in context.held_out]
        patients = {subject.patient for subject in pairs}
        if len(patients) < self.out_of_fold:
            raise MssegError(
                Problem(
                    "stage.no_data",
                    f"stage {self.name!r} has too few patients to be fitted on",
                    field=f"stages.{self.name}.read",
                    found=f"{len(own)} pairs, {len(patients)} patients whom the run does not test",
                    expected=f"{self.out_of_fold} or more: a network out of fold leaves some out",
                    remedy=f"++stages.{self.name}.out_of_fold={len(patients)}, or more patients"
                    if patients
                    else "give the stage data of its own: "
                    f"'+stages.{self.name}.read={{_target_: msseg_lightning.read.msseg2.Msseg2, "
                    "root: FOLDER}'",
                )
            )
        sources, keys = [], []
        for fold, left_out in enumerate(self._left_out(pairs)):
            part = [subject for subject in pairs if subject.patient not in left_out]
            unseen = context.held_out | left_out
            source = self._ensure_one(fold, part, unseen, fitted, context.track)
            sources.append(source)
            keys.append(source.key)
        return FittedStage(self.name, digest(keys), tuple(sources), self.maps)

    def _left_out(self, pairs: Pairs) -> list[frozenset[str]]:
        """Patients held out from each network, stratified by whether they have new lesions."""
        if self.out_of_fold == 1:
            return [frozenset()]
        known = {subject.id: self.has_lesions(subject) for subject in pairs}
        lesions = {name: found for name, found in known.items() if found is not None}
        groups = deal(patients_of(pairs, lesions), self.out_of_fold)
        return [frozenset(patient.name for patient in group) for group in groups]

    def _ensure_one(
        self,
        fold: int,
        pairs: Pairs,
        held_out: frozenset[str],
        fitted: Mapping[str, FittedStage],
        track: Track,
    ) -> FittedNetwork:
        method = self.make({name: fitted[name] for name in self.uses})
        key = self._key(method, pairs, held_out, fitted)
        folder = self.store / f"{self.name}-{key[:24]}"
        name = self.name if self.out_of_fold == 1 else f"{self.name}-fold{fold}"
        finished = folder / "stage.json"
        self.store.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            # a trial of a search in another process may need the same stage: it waits
            stack.enter_context(FileLock(self.store / f".{folder.name}.lock"))
            known = _is_finished(folder, key)
            tags = {"stage": self.name, "stage_key": key[:24], "reused": known}
            loggers = stack.enter_context(track(name, tags))
            if known:
                log.info("stage %s is fitted already (%s)", name, folder)
            else:
                log.info("stage %s is fitted on %d pairs (%s)", name, len(pairs), folder)
                start = time.monotonic()
                method.fit(pairs, [], folder / "fit", FitContext(held_out, tuple(loggers)))
                method.save(folder / "model")
                facts = {
                    "stage": self.name,
                    "key": key,
                    "patients": len({subject.patient for subject in pairs}),
                    "model": _hashes(folder / "model"),
                    "minutes": round((time.monotonic() - start) / 60, 2),
                }
                write_record(finished, facts)
        return FittedNetwork(
            functools.partial(frozen_network, self.make, folder / "model"),
            key,
            folder / "model",
            frozenset(subject.patient for subject in pairs),
        )

    def _key(
        self,
        method: NetworkMethod,
        pairs: Pairs,
        held_out: frozenset[str],
        fitted: Mapping[str, FittedStage],
    ) -> str:
        return digest(
            {
                "settings": self.settings,
                "code": self.code,
                "inputs": inputs(method, pairs, held_out),
                "stages": {name: fitted[name].key for name in self.uses},
            }
        )


class StagedMethod:
    """Method that fits stages in order and predicts with the last one.

    The last one may be an ensemble, whose members then share the earlier stages.

    Args:
        stages: earlier ones, in the order they are fitted.
        make: fitted stages -> the last stage's method.
        settings: what decides the last stage, for its key.
        code: hash of the program.
        images: name of an image -> stage that makes it, for the last stage.
        maps: name of an image -> how; needed when a saved system is loaded.
        joint: the last stage is an ensemble over folds, which divides training and validation pairs
            anew; the earlier ones are fitted on both, so they must be fitted out of fold.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        make: MakeLast,
        settings: Mapping[str, Any],
        code: str,
        images: Mapping[str, str],
        maps: Mapping[str, Maps],
        joint: bool = False,
    ) -> None:
        self.stages, self.make, self.settings, self.code = tuple(stages), make, settings, code
        self.images, self.maps, self.joint = images, maps, joint
        self.last: NetworkMethod | EnsembleMethod | None = None
        self.fitted: dict[str, FittedStage] = {}

    def fit(self, train: Pairs, val: Pairs, folder: Path, context: FitContext = NO_CONTEXT) -> None:
        """Fit or reuse every stage, then fit the last one in ``folder``.

        A last stage that was made from other values, inputs or stages is fitted anew.
        """
        if self.joint:
            train, val = [*train, *val], []
        held_out = context.held_out | {subject.patient for subject in val}
        context = dataclasses.replace(context, held_out=held_out)
        for stage in self.stages:
            self.fitted[stage.name] = stage.ensure(train, self.fitted, context)
        self.last = self.make(self.fitted)
        key = digest(
            {
                "settings": self.settings,
                "code": self.code,
                "inputs": inputs(_network_of(self.last), [*train, *val], held_out),
                "stages": {name: stage.key for name, stage in self.fitted.items()},
            }
        )
        record = folder / "stages.json"
        stale = folder.with_name(f"{folder.name}.stale")
        shutil.rmtree(stale, ignore_errors=True)
        if folder.exists() and any(folder.iterdir()) and _key_of(record) != key:
            log.warning(
                "an earlier stage, an input or the code changed: the last stage is fitted again"
            )
            folder.rename(stale)  # at once: a checkpoint must never outlive the record of its key
            shutil.rmtree(stale)
        write_record(
            record,
            {"key": key, "stages": {name: stage.key for name, stage in self.fitted.items()}},
        )
        self.last.fit(train, val, folder, context)

    def predict(self, subject: LongitudinalSubject) -> Prediction:
        """Predict with the last stage."""
        assert self.last is not None, "fit or load comes first"
        return self.last.predict(subject)

    def save(self, folder: Path) -> None:
        """Write the weights of the last stage and of the stages that make its images."""
        assert self.last is not None, "nothing was fitted"
        self.last.save(folder)
        for stage in sorted(set(self.images.values())):
            for index, source in enumerate(self.fitted[stage].sources):
                shutil.copytree(
                    source.model, folder / "stages" / stage / str(index), dirs_exist_ok=True
                )

    def load(self, folder: Path) -> None:
        """Load the last stage and the stages that make its images."""
        known = {stage.name: stage for stage in self.stages}
        fitted = {}
        for stage in set(self.images.values()):
            models = sorted((folder / "stages" / stage).glob("*"), key=lambda path: int(path.name))
            sources = [
                FittedNetwork(
                    functools.partial(frozen_network, known[stage].make, model),
                    digest(
                        {
                            "weights": sha256_file(model / "weights.safetensors"),
                            "maps": known[stage].settings.get("maps"),
                            "code": self.code,
                        }
                    ),
                    model,
                    None,
                )
                for model in models
            ]
            fitted[stage] = FittedStage(stage, "", tuple(sources), self.maps.get(stage))
        self.fitted = fitted
        self.last = self.make(fitted)
        self.last.load(folder)


def frozen_network(make: Make, model: Path) -> nn.Module:
    """Load the network of a fitted stage, frozen in evaluation mode."""
    unfitted = _unfitted(make)
    network = copy.deepcopy(unfitted.task.network)
    load_weights(network, model, unfitted.name)
    return network.requires_grad_(False).eval()


@functools.lru_cache(maxsize=1)
def _unfitted(make: Make) -> NetworkMethod:
    """The method of a stage without weights; the networks out of fold are loaded in a row."""
    return make({})


def _hashes(model: Path) -> dict[str, str]:
    """SHA-256 of every file of a model folder."""
    files = sorted(file for file in model.rglob("*") if file.is_file())
    return {file.relative_to(model).as_posix(): sha256_file(file) for file in files}


def _is_finished(folder: Path, key: str) -> bool:
    """Whether a folder holds a complete stage with this key; otherwise it is fitted again."""
    try:
        record = read_record(folder / "stage.json", {"key": str, "model?": dict})
    except FileNotFoundError:
        return False
    except (OSError, DamagedFileError) as error:
        log.warning("%s is damaged (%s) and is made again", folder / "stage.json", error)
        return False
    model = _hashes(folder / "model")
    if record["key"] == key and record.get("model", model) == model:
        return True
    log.warning("the model of the stage in %s is damaged and is made again", folder)
    return False


def _key_of(record: Path) -> str | None:
    """Key of the fit in a folder; None if it is not known."""
    try:
        return str(read_record(record, {"key": str})["key"])
    except FileNotFoundError:
        return None
    except (OSError, DamagedFileError) as error:
        log.warning("%s is damaged (%s)", record, error)
        return None


def _network_of(method: NetworkMethod | EnsembleMethod) -> NetworkMethod:
    """The method itself; of an ensemble, an unfitted member."""
    if isinstance(method, EnsembleMethod):
        return cast(NetworkMethod, next(iter(method.members.values()))())
    return method


def inputs(method: NetworkMethod, subjects: Pairs, held_out: frozenset[str]) -> list[str]:
    """Keys of prepared pairs, and patients whose further scans are left out."""
    return sorted(
        [
            *(method.cache.place(subject).name for subject in subjects),
            *(f"without {patient}" for patient in method.held_out_visits(held_out)),
        ]
    )


def digest(content: Any) -> str:
    """SHA-256 of plain values."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
