"""Method of systems with a network that is trained on patches."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from msseg_lightning.core.files import write_record
from msseg_lightning.core.method import NO_CONTEXT, FitContext
from msseg_lightning.core.network import on_grid
from msseg_lightning.core.prediction import Prediction
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject import BRAIN, TARGET, LongitudinalSubject
from msseg_lightning.infer.sliding_window import UNSEEN_LOGIT, SlidingWindow
from msseg_lightning.method.derived_image import DerivedImage, write_table
from msseg_lightning.network.initial_weights import InitialWeights
from msseg_lightning.network.weights import load_weights, save_weights
from msseg_lightning.preprocess.cache import PreparedCache
from msseg_lightning.preprocess.restore import restore
from msseg_lightning.train.datamodule import LongitudinalDataModule, PatchSource
from msseg_lightning.train.task import Task, Validator, WholeVolumeValidator
from msseg_lightning.train.training import Hardware, Training

log = logging.getLogger(__name__)

INITIAL_WEIGHTS = "initial_weights.json"
"""Record of the weights that a fit started from, in its folder."""

Postprocess = Sequence[Callable[[Prediction], Prediction]]


@dataclasses.dataclass(frozen=True)
class Channels:
    """Names of the images and the target of a network.

    Args:
        images: channels in order.
        target: the mask it learns; None for a stage that learns from the images alone.
        further: what the loss is given beside ``target``: a mask for each further output (S04), or
            a map of weights (S20); what is predicted and scored is the first output.
    """

    images: tuple[str, ...]
    target: str | None
    further: tuple[str, ...] = ()

    @property
    def targets(self) -> tuple[str, ...]:
        """Everything the loss is given; the predicted mask comes first."""
        return (*(() if self.target is None else (self.target,)), *self.further)


class Visits(Protocol):
    """Further scans of single visits; ``preprocess.visits.PreparedVisits`` is one."""

    def without(self, patients: Collection[str]) -> Visits:
        """The scans without those of some patients."""

    def patients(self) -> set[str]:
        """Patients of all scans."""


class Pairs(Protocol):
    """Further pairs; a reader is one."""

    def subjects(self) -> list[LongitudinalSubject]:
        """All pairs."""


class NetworkMethod:
    """Method that fits a task on patches and predicts by a sliding window.

    Args:
        cache: prepares pairs and keeps them on disk.
        channels: names of inputs and target.
        patches: prepared training pairs -> source of batches.
        task: network, loss, optimiser.
        training: how long; ``hardware``: on what (one device by default).
        infer: window rule; None for a stage that neither validates nor predicts.
        score: ``(mask, reference, spacing_mm) -> named scores`` for the choice of a checkpoint.
        name: of the system; kept with the weights.
        postprocess: rules applied in order to the map on the native grid.
        derived: images that earlier stages add to every prepared pair.
        train_on: ``all`` training pairs, or only those ``with_lesions``.
        needs_lesions: refuse training pairs of which none has a voxel of the target.
        callbacks: of Lightning's trainer.
        loggers: functions that make further loggers in the folder ``save_dir``.
        visits: scans of one visit, beside the pairs, that ``patches`` takes as ``visits``. Those of
            patients who are held out or validated with are not learned from.
        extra: reader of labelled pairs that are trained on beside those of ``fit``; likewise.
        initial: weights that the fit starts from; ``initial_weights.json`` tells which were taken.
    """

    def __init__(
        self,
        cache: PreparedCache,
        channels: Channels,
        patches: Callable[..., PatchSource],
        task: Task,
        training: Training,
        infer: SlidingWindow | None,
        score: Callable[..., dict[str, float]],
        name: str = "",
        postprocess: Postprocess = (),
        hardware: Hardware | None = None,
        derived: Sequence[DerivedImage] = (),
        train_on: Literal["all", "with_lesions"] = "all",
        callbacks: Sequence[object] = (),
        visits: Visits | None = None,
        extra: Pairs | None = None,
        needs_lesions: bool = True,
        initial: InitialWeights | None = None,
        loggers: Sequence[Callable[..., object]] = (),
    ) -> None:
        self.cache, self.channels, self.patches = cache, channels, patches
        self.task, self.training, self.hardware = task, training, hardware or Hardware()
        self.infer, self.score, self.postprocess = infer, score, tuple(postprocess)
        self.name, self.derived, self.train_on = name, tuple(derived), train_on
        self.callbacks, self.visits, self.extra = list(callbacks), visits, extra
        self.needs_lesions, self.initial, self.loggers = needs_lesions, initial, tuple(loggers)

    def fit(
        self,
        train: Sequence[LongitudinalSubject],
        val: Sequence[LongitudinalSubject],
        folder: Path,
        context: FitContext = NO_CONTEXT,
    ) -> None:
        """Prepare all pairs, then fit, or continue the fit in ``folder``.

        Raises:
            MssegError: the hardware is not here (exit 5), before anything is prepared.
        """
        self.hardware.require()
        train = [*train, *self._extra_pairs(context.held_out | {pair.patient for pair in val})]
        prepared = self.cache.prepare([*train, *val])
        target = self.channels.target
        for name in self.channels.targets:
            self._require_masks(prepared[: len(train)], name)
        if target is not None and self.needs_lesions:
            self._require_lesions(prepared[: len(train)], target)
        prepared = [self._with_images(pair) for pair in prepared]
        for image in self.derived:
            image.audit(prepared, folder / f"audit_{image.name}.csv")
        for_training, for_validation = prepared[: len(train)], prepared[len(train) :]
        if target is not None and self.train_on == "with_lesions":
            for_training = [pair for pair in for_training if len(pair.voxels(target))]
        if self.infer is None or target is None:
            for_validation = []
        else:
            self.task.validator = self._validator(self.infer, target)
        patches = self.patches
        if self.visits is not None:
            unseen = context.held_out | {subject.patient for subject in val}
            patches = functools.partial(patches, visits=self.visits.without(unseen))
        source = patches(for_training)
        if (table := getattr(source, "table", None)) is not None:
            write_table(table(), folder / "audit_training_table.csv")
        data = LongitudinalDataModule(
            source,
            for_validation,
            self.training.validate_every,
            self.training.accumulate,
        )
        if self.initial is not None:  # a fit that goes on loads its checkpoint over them
            self.initial.load_into(self.task.network)
            write_record(folder / INITIAL_WEIGHTS, self.initial.record())
            log.info("%s %s", self.name, self.initial)
        own = (make(save_dir=str(folder / "logs")) for make in self.loggers)
        loggers: list[Any] = [*context.loggers, *own]
        self.training.fit(
            self.task,
            data,
            folder,
            self.hardware,
            loggers,
            self.callbacks,  # type: ignore[arg-type]
        )

    def _validator(self, infer: SlidingWindow, target: str) -> Validator:
        """What scores a validation pair with the network as it is."""
        images = self.channels.images
        return WholeVolumeValidator(infer, infer.level, self.score, images, target)

    def _extra_pairs(self, unseen: Collection[str]) -> list[LongitudinalSubject]:
        if self.extra is None:
            return []
        found = [pair for pair in self.extra.subjects() if pair.patient not in unseen]
        log.info("%d extra pairs are trained on", len(found))
        return found

    def held_out_visits(self, held_out: frozenset[str]) -> list[str]:
        """Held-out patients with scans among ``visits``, which are left out of training."""
        return sorted(held_out & self.visits.patients()) if self.visits is not None else []

    def predict(
        self, subject: LongitudinalSubject, infer: SlidingWindow | None = None
    ) -> Prediction:
        """Predict on the working grid, resample to the native grid and apply the rules.

        Args:
            subject: the pair.
            infer: another window rule than the system's own, such as one of its ``views()``.
        """
        infer = infer or self.infer
        assert infer is not None, "this stage predicts nothing"
        device = self._device()
        prepared = self._with_images(self.cache.prepare([subject])[0])
        infer = on_grid(infer, prepared.grid.spacing_mm)
        network = on_grid(self.task.network.to(device), prepared.grid.spacing_mm)
        images = prepared.stack(self.channels.images)
        inside = prepared.inside(self.channels.images, getattr(infer, "region", None))
        logit = infer.level == "logit"
        outside = UNSEEN_LOGIT if logit else 0.0  # what the map is where no window looked
        found = np.full(inside.shape, outside, np.float32)
        several = getattr(infer, "maps", 1) > 1
        spread = np.zeros(inside.shape, np.float32) if several else None
        if inside.any():
            given = torch.from_numpy(images).to(device), torch.from_numpy(inside).to(device)
            if several:
                answer, differ = infer.with_spread(network, *given)  # type: ignore[attr-defined]  # of rules with maps
                spread = differ[0].float().cpu().numpy()
            else:
                answer = infer(network, *given)
            found = answer[0].float().cpu().numpy()
        restored = restore(
            found - outside,
            prepared.grid,
            prepared.native,
            prepared.to_native,
            "probability",
        )
        native = np.asarray(restored, np.float32) + np.float32(outside)
        probability = _sigmoid(native) if logit else np.clip(native, 0.0, 1.0)
        prediction = Prediction(
            subject=subject.id,
            mask=(probability > 0.5).astype(np.uint8),
            native=prepared.native,
            probability=probability.astype(np.float32),
            inside=self._brain(prepared),
            warnings=prepared.notes,
            spread=None if spread is None else self._native_spread(spread, prepared),
        )
        for rule in self.postprocess:
            prediction = rule(prediction)
        return prediction

    def save(self, folder: Path) -> None:
        """Write the weights as safetensors with a card."""
        save_weights(self.task.network, folder, self.name)

    def load(self, folder: Path) -> None:
        """Load weights and check them against their card."""
        load_weights(self.task.network, folder, self.name)

    @staticmethod
    def _native_spread(
        spread: NDArray[np.float32], prepared: PreparedSubject
    ) -> NDArray[np.float32]:
        """(X, Y, Z) standard deviations on the native grid."""
        transform = prepared.to_native
        restored = restore(spread, prepared.grid, prepared.native, transform, "probability")
        return np.clip(np.asarray(restored, np.float32), 0, None)

    @staticmethod
    def _brain(prepared: PreparedSubject) -> NDArray[np.bool_] | None:
        """(X, Y, Z) bool brain mask on the native grid; None if there is none."""
        if BRAIN not in prepared.mask_names:
            return None
        brain = prepared.mask(BRAIN)
        restored = restore(brain, prepared.grid, prepared.native, prepared.to_native, "mask")
        return np.asarray(restored) != 0

    def _with_images(self, prepared: PreparedSubject) -> PreparedSubject:
        for image in self.derived:
            prepared = image.add(prepared)
        return prepared

    def _device(self) -> torch.device:
        self.hardware.require(devices=1)
        gpu = self.hardware.accelerator != "cpu" and torch.cuda.is_available()
        return torch.device("cuda" if gpu else "cpu")

    @staticmethod
    def _require_masks(subjects: Sequence[PreparedSubject], target: str) -> None:
        missing = [subject.id for subject in subjects if target not in subject.mask_names]
        if missing:
            misspelt = all(TARGET in subject.mask_names for subject in subjects)
            raise MssegError(
                Problem(
                    "data.no_reference",
                    f"training pairs without a reference mask: {', '.join(missing[:10])}",
                    field=target,
                    expected="a mask for every training pair",
                    remedy=f"channels.target={TARGET}"
                    if misspelt
                    else "leave these pairs out: split=file split.path=FILE with the others",
                )
            )

    @staticmethod
    def _require_lesions(subjects: Sequence[PreparedSubject], target: str) -> None:
        if subjects and not any(len(subject.voxels(target)) for subject in subjects):
            raise MssegError(
                Problem(
                    "data.all_empty",
                    "no training pair has a single new lesion",
                    field=target,
                    found=f"{len(subjects)} empty masks",
                    remedy="train on pairs of which some have new lesions",
                    exit_code=ExitCode.DATA,
                )
            )


def _sigmoid(logit: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(logit, -60.0, 60.0))))
