"""TorchIO's transforms on training patches, and whole pairs as TorchIO subjects.

TorchIO draws from torch's global generator, which the training thread uses at the same time. Here
the draws of one patch come from a generator of that patch alone, so a batch depends on its step
only and the dropout of the network stays what it was.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torchio as tio
from numpy.typing import NDArray
from torch.overrides import TorchFunctionMode

from msseg_lightning.augment.fused import FusedAugment
from msseg_lightning.augment.parameters import visit_of
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.subject import LoadedSubject
from msseg_lightning.core.volume import Volume


class TorchioTransform:
    """Cut (and augment) with the fused engine, then apply TorchIO's transforms in order.

    The patch becomes a ``torchio.Subject``: one ``ScalarImage`` per visit, named ``baseline`` and
    ``followup``, whose channels are the images of that visit, and one ``LabelMap`` per mask by its
    name. A transform that moves voxels is drawn once for all of it; one that changes intensities is
    drawn for each visit (of several images of a visit TorchIO raises each to a power of its own).

    TorchIO sees the patch alone: what a rotation brings in from outside is its pad value, whereas
    the fused engine reads the volume there.

    Args:
        transforms: name -> transform of ``torchio.transforms``; ``OneOf`` and ``Compose`` too. A
            mask is cut at one half afterwards and a soft label kept, so soft labels want
            ``label_interpolation: linear``. The size of the patch must stay.
        first: makes the patch.
        per_visit: an intensity transform is called for each visit apart, so that its probability,
            too, is drawn for each; False calls it once with both, and TorchIO draws its strength
            for each visit. A group with a transform that moves voxels is always called once.
        visits: whose intensities may change; images of other names are moved with the masks and
            keep their values. None is all of them.
    """

    def __init__(
        self,
        transforms: Mapping[str, tio.Transform],
        first: FusedAugment | None = None,
        per_visit: bool = True,
        visits: Sequence[str] | None = None,
    ) -> None:
        self.transforms, self.per_visit = dict(transforms), per_visit
        self.visits = None if visits is None else tuple(visits)
        self.first = first if first is not None else FusedAugment()

    def fill(
        self,
        subject: PreparedSubject,
        centre: NDArray[np.float64],
        image_names: Sequence[str],
        label_names: Sequence[str],
        generator: np.random.Generator,
        images: NDArray[np.float32],
        labels: NDArray[np.float32],
    ) -> int:
        """Write one patch; see ``FusedAugment.fill``.

        Returns:
            The seed that ``apply`` was given.

        Raises:
            ValueError: a transform changed the size.
        """
        self.first.fill(subject, centre, image_names, label_names, generator, images, labels)
        seed = int(generator.integers(1 << 32))
        channels: dict[str, list[int]] = {}
        for channel, name in enumerate(image_names):
            channels.setdefault(visit_of(name), []).append(channel)
        affine = subject.grid.affine.copy()
        start = np.asarray(centre, float) - (np.array(images.shape[1:]) - 1) / 2
        affine[:3, 3] += affine[:3, :3] @ start
        parts: dict[str, tio.Image] = {
            visit: (tio.ScalarImage if self._changes(visit) else tio.LabelMap)(
                tensor=torch.tensor(images[own]), affine=affine
            )
            for visit, own in channels.items()
        }
        for name, label in zip(label_names, labels, strict=True):
            parts[name] = tio.LabelMap(tensor=torch.tensor(label[None]), affine=affine)
        changed = self.apply(tio.Subject(parts), seed)
        for visit, own in channels.items():
            images[own] = _same_size(changed[visit], images.shape[1:], visit)
        for name, label in zip(label_names, labels, strict=True):
            values = _same_size(changed[name], label.shape, name)[0]
            label[:] = values > 0.5 if subject.layer(name).kind == "mask" else values.clip(0, 1)
        return seed

    def _changes(self, visit: str) -> bool:
        """Whether the intensities of a visit's images may change."""
        return self.visits is None or visit in self.visits

    def apply(self, subject: tio.Subject, seed: int) -> tio.Subject:
        """Apply all transforms with random numbers as after ``torch.manual_seed``.

        Args:
            subject: is left as it is.
            seed: of all draws, one after the other.
        """
        with _own_draws(seed):
            for transform in self.transforms.values():
                visits = subject.get_images_dict(intensity_only=True)
                if not self.per_visit or _moves(transform):
                    subject = transform(subject)
                    continue
                rest = {name: image for name, image in subject.items() if name not in visits}
                done = [transform(tio.Subject({**rest, name: visits[name]})) for name in visits]
                changed = {name: part[name] for name, part in zip(visits, done, strict=True)}
                subject = tio.Subject({**changed, **rest})
        return subject


def to_torchio(loaded: LoadedSubject) -> tio.Subject:
    """A pair in memory as a TorchIO subject: images as scalar images, masks as label maps.

    Maps of probabilities become label maps of type float, which a transform moves with the masks.
    """
    return tio.Subject(
        {
            name: (tio.ScalarImage if volume.kind == "image" else tio.LabelMap)(
                tensor=torch.tensor(np.asarray(volume.data)[None]), affine=volume.affine
            )
            for name, volume in loaded.volumes.items()
        }
    )


def from_torchio(subject: tio.Subject, loaded: LoadedSubject) -> LoadedSubject:
    """The pair with the voxels and affines of a TorchIO subject.

    A transform that gives the volumes another lattice (crop, resample, orientation) keeps their
    place in the world, so predictions are still returned to the original grid. One that moves the
    tissue inside the lattice (affine, elastic, flip) is for training pairs.

    Args:
        subject: of ``to_torchio``, changed or not.
        loaded: what ``to_torchio`` was given.

    Raises:
        ValueError: a volume is missing, or has more than one channel.
    """
    volumes = {}
    for name, volume in loaded.volumes.items():
        image: Any = subject.get(name)
        if image is None or image.num_channels != 1:
            raise ValueError(f"{name}: expected a volume of one channel, found {image}")
        volumes[name] = Volume(image.numpy()[0], np.asarray(image.affine), volume.kind)
    return loaded.replace(volumes=volumes)


def _same_size(image: Any, size: Sequence[int], name: str) -> NDArray[np.float32]:
    if tuple(image.spatial_shape) != tuple(size):
        found = tuple(image.spatial_shape)
        raise ValueError(f"{name} has shape {found} after TorchIO, expected {tuple(size)}")
    return np.asarray(image.numpy(), np.float32)


def _moves(transform: tio.Transform) -> bool:
    """Whether more than the intensities of the images may change."""
    if isinstance(transform, tio.OneOf):
        return any(_moves(each) for each in transform.transforms_dict)
    if isinstance(transform, tio.Compose):
        return any(_moves(each) for each in transform.transforms)
    if isinstance(transform, tio.RandomAnisotropy):
        return not transform.scalars_only
    return not isinstance(transform, tio.transforms.IntensityTransform)


_RANDOM = frozenset(
    {
        torch.rand,
        torch.randn,
        torch.randint,
        torch.randperm,
        torch.normal,
        torch.bernoulli,
        torch.multinomial,
        torch.Tensor.uniform_,
        torch.Tensor.normal_,
        torch.Tensor.random_,
        torch.Tensor.bernoulli_,
    }
)


class _Draws(TorchFunctionMode):
    """Context in which torch's random functions of this thread use one generator."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Pass the generator to functions that draw random numbers."""
        named = dict(kwargs or {})
        if func in _RANDOM:
            named.setdefault("generator", self.generator)
        return func(*args, **named)


class _Current(threading.local):
    draws: _Draws | None = None


_current = _Current()


@contextlib.contextmanager
def _own_draws(seed: int) -> Iterator[None]:
    before, draws = _current.draws, _Draws(seed)
    _current.draws = draws
    try:
        with draws:
            yield
    finally:
        _current.draws = before


_seed_global: Callable[[int], Any] = tio.Transform._use_seed


@contextlib.contextmanager
def _seed(seed: int) -> Iterator[None]:
    """Context for TorchIO's noise, which seeds a generator; it seeds that of the patch."""
    draws = _current.draws
    if draws is None:
        with _seed_global(seed):
            yield
        return
    before = draws.generator.get_state()
    draws.generator.manual_seed(seed)
    try:
        yield
    finally:
        draws.generator.set_state(before)


# the one place where TorchIO sets the state of torch's global generator, for every thread
tio.Transform._use_seed = staticmethod(_seed)  # type: ignore[method-assign]  # see above
