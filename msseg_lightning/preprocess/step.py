"""Base class of preprocessing operators, and functions that several of them use."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject import LoadedSubject
from msseg_lightning.core.volume import Grid, Volume


@runtime_checkable
class Step(Protocol):
    """A preprocessing operator: a frozen dataclass, called with a pair, that returns a new one.

    ``version`` goes into the cache key with the class and its parameters: raise it whenever the
    result for the same input and parameters changes.
    """

    version: int

    def __call__(self, subject: LoadedSubject) -> LoadedSubject:
        """Apply the operator; the input is not changed."""


@runtime_checkable
class FittedStep(Protocol):
    """An operator that is fitted on the training subjects first."""

    @property
    def fitted(self) -> bool:
        """Whether ``fit`` was done."""

    def fit(self, subjects: Iterable[LoadedSubject]) -> Step:
        """The operator fitted on these subjects."""


def describe(step: Step) -> dict[str, Any]:
    """Class, version and parameters of an operator, as plain JSON values: its identity."""
    kind = type(step)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if not dataclasses.is_dataclass(step):
        raise TypeError(f"{name} is no dataclass: its parameters cannot be part of a cache key")
    return {"step": name, "version": step.version, **dataclasses.asdict(step)}


def image_names(subject: LoadedSubject) -> list[str]:
    """Names of the images, in order."""
    return [name for name, volume in subject.volumes.items() if volume.kind == "image"]


def map_images(
    subject: LoadedSubject, change: Callable[[NDArray[np.float32]], NDArray[np.float32]]
) -> LoadedSubject:
    """Apply a function to the values of every image."""
    volumes = {
        name: Volume(change(np.asarray(volume.data, np.float32)), volume.affine, volume.kind)
        if volume.kind == "image"
        else volume
        for name, volume in subject.volumes.items()
    }
    return subject.replace(volumes=volumes)


def common_grid(subject: LoadedSubject, step: object) -> Grid:
    """The common grid of all volumes; refused if grids differ.

    Raises:
        MssegError: they do not share one.
    """
    try:
        return subject.grid
    except ValueError as error:
        raise MssegError(
            Problem(
                "preprocess.grid",
                f"{type(step).__name__} needs the volumes of {subject.subject.id} on one grid",
                found="; ".join(
                    f"{name} {volume.grid.shape}" for name, volume in subject.volumes.items()
                ),
                expected="one grid",
                remedy="preprocess=nonzero_zscore_native, or put HalfwayRegistration before this "
                "step in a chain of your own",
                exit_code=ExitCode.CONFIG,
            )
        ) from error


def mask_of(subject: LoadedSubject, name: str, step: object) -> NDArray[np.bool_]:
    """A mask of the subject.

    Raises:
        MssegError: there is none of this name.
    """
    volume = subject.volumes.get(name)
    if volume is None or volume.kind == "image":
        raise MssegError(
            Problem(
                "preprocess.mask",
                f"{type(step).__name__} needs a mask that {subject.subject.id} does not have",
                field=name,
                found=", ".join(subject.volumes),
                expected=name,
                remedy="preprocess=brain_zscore, or put the step that makes this mask before this "
                "step in a chain of your own",
                exit_code=ExitCode.CONFIG,
            )
        )
    data = np.asarray(volume.data)
    return np.asarray(data != 0 if volume.kind == "mask" else data >= 0.5)
