"""Loader of batches of patches, as a function of the step.

There is no state: batch ``n`` is computed from (seed, n), so a resumed run sees what an
uninterrupted one would, in any order, with any number of threads. Elements are numbered across
ranks, so ranks differ and the same global batch arises for any split of it.
"""

from __future__ import annotations

import abc
import collections
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, runtime_checkable

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from msseg_lightning.core.batch import Batch
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.subject import BASELINE, FOLLOWUP, TARGET
from msseg_lightning.sample.patch import PatchSampler


class PatchMaker(Protocol):
    """Protocol of objects that cut and augment one patch, as ``augment.fused.FusedAugment``."""

    def fill(
        self,
        subject: PreparedSubject,
        centre: NDArray[np.float64],
        image_names: Sequence[str],
        label_names: Sequence[str],
        generator: np.random.Generator,
        images: NDArray[np.float32],
        labels: NDArray[np.float32],
    ) -> Any:
        """Write the patch into ``images`` (C, X, Y, Z) and ``labels`` (L, X, Y, Z)."""


@runtime_checkable
class BatchMaker(Protocol):
    """Protocol of objects that cut and augment a batch, as ``augment.batched.BatchedAugment``."""

    def make(
        self,
        subjects: Sequence[PreparedSubject],
        centres: Sequence[NDArray[np.float64]],
        size: tuple[int, int, int],
        image_names: Sequence[str],
        label_names: Sequence[str],
        generators: Sequence[np.random.Generator],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (B, C, X, Y, Z) and labels (B, L, X, Y, Z), one entry of each list per element."""


class Loader(abc.ABC):
    """Makes batches element by element; a subclass gives shapes and writes one element.

    Args:
        subjects: prepared pairs; they stay on disk.
        image_names: channels of ``Batch.images``.
        target_names: channels of ``Batch.target``; the first is the main one.
        extra_names: further masks, put into ``Batch.extra`` by name.
        batch_size: elements per rank.
        seed: of the run.
        threads: that make elements; 1 makes ``batch`` run in the caller.
    """

    def __init__(
        self,
        subjects: Sequence[PreparedSubject],
        image_names: Sequence[str] = (BASELINE, FOLLOWUP),
        target_names: Sequence[str] = (TARGET,),
        extra_names: Sequence[str] = (),
        batch_size: int = 2,
        seed: int = 0,
        threads: int = 1,
    ) -> None:
        if not subjects:
            raise ValueError("no subjects to take patches from")
        if batch_size < 1 or threads < 1:
            raise ValueError("batch_size and threads must be at least 1")
        self.subjects = list(subjects)
        self.image_names, self.target_names = tuple(image_names), tuple(target_names)
        self.extra_names = tuple(extra_names)
        self.batch_size, self.seed, self.threads = batch_size, seed, threads
        self.elements_per_step = batch_size
        """On all ranks together, as last asked for."""

    @abc.abstractmethod
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of one element's images and labels."""

    @abc.abstractmethod
    def make(
        self, step: int, element: int, images: NDArray[np.float32], labels: NDArray[np.float32]
    ) -> Any:
        """Write one element into its place of the batch.

        Args:
            step: global step.
            element: number of the element in this step, across ranks.
            images: of the shape of ``shapes``; filled here.
            labels: likewise.

        Returns:
            What ``assemble`` is told of it: the id of its pair.
        """

    def assemble(self, images: torch.Tensor, labels: torch.Tensor, made: Sequence[Any]) -> Batch:
        """The batch of finished elements.

        Args:
            images: (B, ...) of all elements.
            labels: (B, targets + extras, ...); split into their places.
            made: what ``make`` returned for each.
        """
        targets = len(self.target_names)
        return Batch(
            images=images,
            target=labels[:, :targets].contiguous() if self.extra_names else labels,
            subjects=tuple(made),
            weight=torch.ones(self.batch_size, device=images.device),
            extra={
                name: labels[:, targets + place : targets + place + 1].contiguous()
                for place, name in enumerate(self.extra_names)
            },
        )

    def whole(self, step: int, first: int) -> Batch | None:
        """A batch that is made at once on a device; None if elements are made one by one.

        Args:
            step: global step.
            first: number of this rank's first element.
        """
        return None

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        """Batch of one training step.

        Args:
            step: global step, counted from 0 over the whole run.
            rank: process of a distributed run.
            world_size: number of processes.
        """
        first = self._first(rank, world_size)
        if (made := self.whole(step, first)) is not None:
            return made
        pending = _Pending(self, step, first)
        if self.threads == 1 or self.batch_size == 1:
            for index in range(self.batch_size):
                pending.fill(index)
            return pending.batch()
        with ThreadPoolExecutor(min(self.threads, self.batch_size)) as pool:
            return pending.begin(pool).result()

    def iterate(
        self, start: int, stop: int, rank: int = 0, world_size: int = 1, ahead: int = 2
    ) -> Iterator[Batch]:
        """Batches of the steps ``start .. stop - 1`` in order, made in the background.

        At most ``ahead`` finished batches wait beside the one being used, which bounds memory.
        Leaving the iterator early stops its threads. A device works ahead on its own.
        """
        first = self._first(rank, world_size)
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="patches")
        waiting: collections.deque[Future[Batch]] = collections.deque()
        try:
            following = start
            while waiting or following < stop:
                if not waiting and (made := self.whole(following, first)) is not None:
                    following += 1
                    yield made
                    continue
                while following < stop and len(waiting) <= ahead:
                    waiting.append(_Pending(self, following, first).begin(pool))
                    following += 1
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _first(self, rank: int, world_size: int) -> int:
        """Number of a rank's first element in the global batch.

        Raises:
            ValueError: there is no such rank.
        """
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} of {world_size}")
        self._refuse_size()
        self.elements_per_step = self.batch_size * world_size
        return rank * self.batch_size

    def _refuse_size(self) -> None:
        """Refuse batches of which not four fit into the memory.

        Raises:
            MssegError: a batch is too large (exit 5); nothing was reserved for it.
        """
        voxels = sum(math.prod(shape) for shape in self.shapes())
        needed, there = 4 * voxels * self.batch_size, psutil.virtual_memory().total
        if needed > there / 4:
            raise MssegError(
                Problem(
                    "sample.memory",
                    "a batch does not fit into the memory",
                    field="train.batch_size, sample.size",
                    found=f"{needed / 1e9:.1f} GB for {self.batch_size} elements",
                    expected=f"at most {there / 4e9:.1f} GB, a quarter of the memory",
                    remedy="train.batch_size=1, or a smaller sample.size",
                    exit_code=ExitCode.ENVIRONMENT,
                )
            )


class PatchLoader(Loader):
    """Makes training batches of patches.

    Args:
        subjects: prepared pairs; they stay on disk.
        sampler: where patches lie.
        augment: cuts and changes them, patch by patch in threads or batch by batch on a device;
            both get the same generators, so they make the same patches.
        others: see ``Loader``. Masks of ``extra_names`` are moved along with the targets.
    """

    def __init__(
        self,
        subjects: Sequence[PreparedSubject],
        sampler: PatchSampler,
        augment: PatchMaker | BatchMaker,
        image_names: Sequence[str] = (BASELINE, FOLLOWUP),
        target_names: Sequence[str] = (TARGET,),
        **others: Any,
    ) -> None:
        super().__init__(subjects, image_names, target_names, **others)
        self.sampler, self.augment = sampler, augment

    def element(
        self, step: int, element: int
    ) -> tuple[PreparedSubject, NDArray[np.float64], np.random.Generator]:
        """Subject, centre and augmentation draws of one element, numbered across ranks."""
        generator = keyed_generator(self.seed, "sample", step, element)
        spec = self.sampler.draw(self.subjects, generator)
        changes = keyed_generator(self.seed, "augment", step, element)
        return self.subjects[spec.subject], spec.centre, changes

    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Images (C, X, Y, Z), and labels of targets and extras."""
        labels = len(self.target_names) + len(self.extra_names)
        return (len(self.image_names), *self.sampler.size), (labels, *self.sampler.size)

    def make(
        self, step: int, element: int, images: NDArray[np.float32], labels: NDArray[np.float32]
    ) -> str:
        """Write one patch into its place of the batch; returns the id of its pair."""
        assert not isinstance(self.augment, BatchMaker)
        subject, centre, generator = self.element(step, element)
        names = self.target_names + self.extra_names
        self.augment.fill(subject, centre, self.image_names, names, generator, images, labels)
        return subject.id

    def whole(self, step: int, first: int) -> Batch | None:
        """The batch that ``augment`` makes at once; None if it makes single patches."""
        if not isinstance(self.augment, BatchMaker):
            return None
        elements = [self.element(step, first + index) for index in range(self.batch_size)]
        subjects, centres, generators = zip(*elements, strict=True)
        names, size = self.target_names + self.extra_names, self.sampler.size
        images, labels = self.augment.make(
            subjects, centres, size, self.image_names, names, generators
        )
        return self.assemble(images, labels, [subject.id for subject in subjects])


class _Pending:
    """A batch under construction: buffers, and one job per element that writes its part."""

    def __init__(self, loader: Loader, step: int, first: int) -> None:
        self.loader, self.step, self.first = loader, step, first
        pinned = torch.cuda.is_available()
        images, labels = ((loader.batch_size, *shape) for shape in loader.shapes())
        self.images = torch.empty(images, pin_memory=pinned)
        self.labels = torch.empty(labels, pin_memory=pinned)
        self.made: list[Any] = [None] * loader.batch_size

    def begin(self, pool: ThreadPoolExecutor) -> Future[Batch]:
        """Submit all elements to threads.

        Jobs begin in the order they were handed in, so the last one waits for none that has not
        begun.
        """
        jobs = [pool.submit(self.fill, index) for index in range(self.loader.batch_size)]
        return pool.submit(self.batch, jobs)

    def fill(self, index: int) -> None:
        """Write one element."""
        self.made[index] = self.loader.make(
            self.step,
            self.first + index,
            self.images[index].numpy(),
            self.labels[index].numpy(),
        )

    def batch(self, jobs: Sequence[Future[None]] = ()) -> Batch:
        """The batch, once all elements are written; an error of any is raised here."""
        for job in jobs:
            job.result()
        return self.loader.assemble(self.images, self.labels, self.made)
