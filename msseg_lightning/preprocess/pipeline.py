"""A chain of preprocessing operators, and the key of its result."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence

from msseg_lightning.core.input_hash import input_hash
from msseg_lightning.core.subject import LoadedSubject, LongitudinalSubject
from msseg_lightning.preprocess.step import FittedStep, Step, describe

Load = Callable[[LongitudinalSubject], LoadedSubject]
"""Reads and checks the files of a pair; given by ``read``."""


def file_hashes(subject: LongitudinalSubject) -> dict[str, str]:
    """SHA-256 of every file of a pair, by name."""
    return {name: input_hash(path) for name, path in subject.files().items()}


class Preprocess:
    """Operators applied in order.

    Args:
        steps: operators; an empty chain is allowed and changes nothing.
    """

    def __init__(self, steps: Sequence[Step] = ()) -> None:
        self.steps: tuple[Step, ...] = tuple(steps)

    def __repr__(self) -> str:
        return f"Preprocess({', '.join(type(step).__name__ for step in self.steps)})"

    def run(self, loaded: LoadedSubject) -> LoadedSubject:
        """Apply every operator."""
        for step in self.steps:
            loaded = step(loaded)
        return loaded

    def needs_fit(self) -> bool:
        """Whether an operator learns from the training subjects (Nyul)."""
        return any(isinstance(step, FittedStep) and not step.fitted for step in self.steps)

    def fit(self, subjects: Sequence[LongitudinalSubject], load: Load) -> Preprocess:
        """The chain with every ``FittedStep`` fitted on the output of the operators before it.

        Subjects are read again for every learning operator, one at a time: memory stays bounded.
        """
        fitted: list[Step] = []
        for step in self.steps:
            if isinstance(step, FittedStep):
                before = Preprocess(tuple(fitted))

                def volumes(before: Preprocess = before) -> Iterator[LoadedSubject]:
                    for subject in subjects:
                        yield before.run(load(subject))

                step = step.fit(volumes())
            fitted.append(step)
        return Preprocess(fitted)

    def recipe(self) -> list[dict[str, object]]:
        """Class, version and parameters of every operator, as JSON values."""
        return [describe(step) for step in self.steps]

    def key(self, subject: LongitudinalSubject, hashes: Mapping[str, str] | None = None) -> str:
        """Hex digest of everything that the result depends on.

        The bytes of every file, what the subject says about them, and the operators with their
        parameters, versions and landmarks. Paths are not part of it: a moved data set is not
        prepared again.

        Args:
            subject: the pair.
            hashes: SHA-256 of its files by name, where they are known.
        """
        hashes = file_hashes(subject) if hashes is None else hashes
        content = {
            "subject": subject.id,
            "patient": subject.patient,
            "reversed_time": subject.reversed_time,
            "facts": dataclasses.asdict(subject.facts),
            "files": dict(sorted(hashes.items())),
            "to_native": {
                name: transform.tolist() for name, transform in sorted(subject.to_native.items())
            },
            "steps": self.recipe(),
        }
        text = json.dumps(content, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()
