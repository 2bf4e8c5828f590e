"""Ensembles of systems, or of one system over several folds."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from msseg_lightning.core.method import NO_CONTEXT, FitContext, Method, Track
from msseg_lightning.core.prediction import Prediction
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject import LongitudinalSubject
from msseg_lightning.infer.aggregate import Spread
from msseg_lightning.split.patients import deal, patients_of

log = logging.getLogger(__name__)

Pairs = Sequence[LongitudinalSubject]


def inner_folds(
    subjects: Pairs, folds: int, has_lesions: Callable[[LongitudinalSubject], bool | None]
) -> list[tuple[list[LongitudinalSubject], list[LongitudinalSubject]]]:
    """Divide pairs into folds: training and validation pairs of each member.

    Patients with and without new lesions are dealt in turn, so that both spread evenly. Where fewer
    patients have new lesions than there are folds, those patients train every member and validate
    none: a member that never sees a lesion cannot be trained.

    Args:
        subjects: all training pairs.
        folds: how many; 1 is one member trained on everything.
        has_lesions: whether a pair shows new lesions.
    """
    patients = patients_of(
        subjects, {subject.id: bool(has_lesions(subject)) for subject in subjects}
    )
    positive = sum(bool(patient.positive) for patient in patients)
    if positive < folds and folds > 1:
        log.warning(
            "%d patients with new lesions for %d members: they train all and validate none",
            positive,
            folds,
        )
        patients = [patient for patient in patients if not patient.positive]
    groups = deal(patients, folds, by_vendor=False) if folds > 1 else []
    place = {patient.name: fold for fold, group in enumerate(groups) for patient in group}
    return [
        (
            [subject for subject in subjects if place.get(subject.patient) != fold],
            [subject for subject in subjects if place.get(subject.patient) == fold],
        )
        for fold in range(folds)
    ]


def _within(member: str, track: Track) -> Track:
    """A ``Track`` that prefixes the names of a member's stages with its own."""
    return lambda name, tags: track(f"{member}-{name}", {**tags, "member": member})


RULES = {"probability": ("mean",), "binary": ("mean", "majority"), "view": ("majority",)}
"""Combination rules that are valid at each level; a majority needs masks."""


def _spread(between: Spread, within: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Standard deviation of all outputs, between members and within each member."""
    variance = between.variance().numpy()
    return np.sqrt(variance if within is None else variance + within / np.float32(between.count))


def _refuse_unknown(name: str, value: object, known: Sequence[str], where: str = "") -> None:
    if value not in known:
        raise MssegError(
            Problem(
                "config.ensemble",
                f"an ensemble has no such {name}{where}",
                field=f"ensemble.{name}",
                found=str(value),
                expected=", ".join(known),
                remedy=f"ensemble.{name}={known[0]}",
                exit_code=ExitCode.CONFIG,
            )
        )


class EnsembleMethod:
    """Ensemble whose members are fitted and applied one after the other.

    Each member answers on the pair's native grid; answers are combined there (averages commute with
    the linear resampling that brought them).

    Args:
        members: name -> maker of an unfitted system.
        folds: every member is fitted once per fold of the training patients.
        of_fold: the one member of each fold (S17b: three of one kind and one of another, each with
            patients of its own set aside); None fits every member on every fold.
        has_lesions: whether a pair shows new lesions; spreads patients over folds.
        level: ``probability`` combines maps, ``binary`` the members' final masks. ``view`` averages
            each view's maps over the members first; then views are cut at one half and vote (S14's
            ``average_then_vote``). Members need an inference rule with ``views()``.
        rule: ``mean``, or ``majority``: more than half of the masks, the only rule for views.
        postprocess: rules applied to the combined map.

    Raises:
        MssegError: no such level, or no such rule at it (exit 2).
    """

    def __init__(
        self,
        members: Mapping[str, Callable[[], Method]],
        folds: int,
        has_lesions: Callable[[LongitudinalSubject], bool | None],
        level: Literal["probability", "binary", "view"] = "probability",
        rule: Literal["mean", "majority"] = "mean",
        postprocess: Sequence[Callable[[Prediction], Prediction]] = (),
        of_fold: Sequence[str] | None = None,
    ) -> None:
        if of_fold is not None and len(of_fold) != folds:
            raise ValueError(f"of_fold names {len(of_fold)} members for {folds} folds")
        for name in of_fold or ():
            _refuse_unknown("of_fold", name, tuple(members))
        if folds < 1 or not members:
            raise ValueError("an ensemble needs at least one member and one fold")
        _refuse_unknown("level", level, tuple(RULES))
        _refuse_unknown("rule", rule, RULES[level], f" at the level {level}")
        self.members, self.folds, self.has_lesions = dict(members), folds, has_lesions
        self.level, self.rule, self.postprocess = level, rule, tuple(postprocess)
        self.of_fold = None if of_fold is None else tuple(of_fold)
        self.models: Path | None = None

    @property
    def names(self) -> list[str]:
        """Names of the fitted members."""
        return [
            f"{name}-fold{fold}" for fold in range(self.folds) for name in self._members_of(fold)
        ]

    def _members_of(self, fold: int) -> dict[str, Callable[[], Method]]:
        if self.of_fold is None:
            return self.members
        return {self.of_fold[fold]: self.members[self.of_fold[fold]]}

    def fit(self, train: Pairs, val: Pairs, folder: Path, context: FitContext = NO_CONTEXT) -> None:
        """Fit every member that is not finished in ``folder``.

        Each member validates on the fold it leaves out, so the pairs set aside for validation join
        the others first. A single fold keeps the two apart.
        """
        if self.level == "view":  # said before the hours of training, not at the first prediction
            for name, make in self.members.items():
                if not hasattr(getattr(make(), "infer", None), "views"):
                    where = f": inference of {name} has no views"
                    _refuse_unknown("level", self.level, ("probability", "binary"), where)
        parts = [(list(train), list(val))]
        if self.folds > 1:
            parts = inner_folds([*train, *val], self.folds, self.has_lesions)
        for fold, (fitted_on, validated_on) in enumerate(parts):
            for name, make in self._members_of(fold).items():
                place = folder / f"{name}-fold{fold}"
                log.info("member %s, one of %d", place.name, len(self.names))
                method = make()
                with context.track(place.name, {"member": name, "member_fold": fold}) as loggers:
                    own = FitContext(
                        context.held_out, tuple(loggers), _within(place.name, context.track)
                    )
                    method.fit(fitted_on, validated_on, place, own)
                method.save(place / "model")
        self.models = folder

    def predict(self, subject: LongitudinalSubject) -> Prediction:
        """Predict by the mean or majority of all members."""
        assert self.models is not None, "fit or load comes first"
        totals: dict[int, NDArray[np.float32]] = {}
        warnings: dict[str, None] = {}
        between = Spread()
        within: NDArray[np.float32] | None = None
        for fold in range(self.folds):
            for name, make in self._members_of(fold).items():
                method = make()
                method.load(self._model(self.models, f"{name}-fold{fold}"))
                for view, answer in enumerate(self._answers(method, subject)):
                    values: NDArray[Any] = answer.mask
                    if self.level != "binary" and answer.probability is not None:
                        values = answer.probability  # a member without a map votes with its mask
                    totals[view] = totals.get(view, np.float32(0)) + values.astype(np.float32)
                    between.add(torch.from_numpy(values.astype(np.float32)))
                    if answer.spread is not None:
                        within = answer.spread**2 + (0 if within is None else within)
                    warnings |= dict.fromkeys(answer.warnings)
        means = [total / np.float32(len(self.names)) for total in totals.values()]
        mean = means[0]
        if self.level == "view":
            mean = np.mean([each > 0.5 for each in means], axis=0, dtype=np.float32)
        if self.rule == "majority":
            mean = (mean > 0.5).astype(np.float32)
        prediction = Prediction(
            subject=subject.id,
            mask=(mean > 0.5).astype(np.uint8),
            native=answer.native,
            probability=mean,
            inside=answer.inside,
            warnings=tuple(warnings),
            spread=_spread(between, within) if between.count > 1 or within is not None else None,
        )
        for rule in self.postprocess:
            prediction = rule(prediction)
        return prediction

    def _answers(self, method: Method, subject: LongitudinalSubject) -> Iterator[Prediction]:
        """Predictions of a member: one, or one per view."""
        if self.level != "view":
            yield method.predict(subject)
            return
        for infer in method.infer.views():  # type: ignore[attr-defined]  # see the class
            yield method.predict(subject, infer)  # type: ignore[call-arg]

    def save(self, folder: Path) -> None:
        """Write the models of all members below ``folder/members``."""
        assert self.models is not None, "nothing was fitted"
        for name in self.names:
            source = self._model(self.models, name)
            if source != (target := folder / "members" / name):
                shutil.copytree(source, target, dirs_exist_ok=True)

    def load(self, folder: Path) -> None:
        """Load an ensemble; each member is loaded and checked when it is used."""
        self.models = folder / "members"

    @staticmethod
    def _model(folder: Path, name: str) -> Path:
        fitted = folder / name / "model"
        return fitted if fitted.is_dir() else folder / name
