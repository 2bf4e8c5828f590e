"""A preprocessed pair on disk, stored so that patches are read quickly.

The hot file is ``pair.npy``: one 32-bit word per voxel holds both visits (16 and 15 bits) and the
target (1 bit), so the eight neighbours of a point fetch everything at once and two visits with
their mask take 4 bytes per voxel. Nothing is compressed and nothing is kept in memory: arrays are
memory-mapped, processes share one copy through the page cache, and the resident set does not grow
with the number of subjects. NIfTI stays at the borders of the project.

Quantisation: ``value = (word - zero) * scale`` with an integer ``zero``, so that 0, the background
of a skull-stripped scan, is stored exactly; every other value is off by at most ``scale / 2``: 1
part in 131,068 of the range of values (0 included), and 1 in 65,532 for the second visit.
"""

from __future__ import annotations

import base64
import dataclasses
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.files import (
    atomic_write,
    flush_folder,
    read_record,
    sha256_file,
    write_record,
)
from msseg_lightning.core.problem import MssegError, Problem
from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP, TARGET, LoadedSubject, Native
from msseg_lightning.core.temporary import temporary_folder
from msseg_lightning.core.volume import Affine, Grid

FORMAT = 1
PAIR = "pair.npy"
CANDIDATES = 1 << 16
"""Largest number of candidate positions stored per mask; of more, a uniform sample is kept."""

MAX_FIRST, MAX_SECOND = 65535, 32767
TARGET_BIT = 31
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclasses.dataclass(frozen=True)
class Layer:
    """Location of one named volume: file, bits and scaling.

    Args:
        kind: ``image`` (linear), ``mask`` (one bit) or ``soft`` (a label between 0 and 1).
        file: array file in the subject's folder.
        shift: lowest bit of the value inside a word of that array.
        bits: number of bits.
        scale: value of one step; 1 for masks.
        zero: word that stands for 0.0.
    """

    kind: Literal["image", "mask", "soft"]
    file: str
    shift: int
    bits: int
    scale: float = 1.0
    zero: int = 0


def quantise(data: NDArray[np.generic], top: int) -> tuple[NDArray[np.uint32], float, int]:
    """Map values linearly to the integers 0..top, with 0.0 on an integer.

    Args:
        data: any shape, finite.
        top: largest integer.

    Returns:
        Words, scale and zero with ``data ~ (words - zero) * scale``; the error is at most
        ``scale / 2``, where ``scale = (max(data, 0) - min(data, 0)) / (top - 1)``.
    """
    low, high = min(0.0, float(data.min())), max(0.0, float(data.max()))
    scale = max((high - low) / (top - 1), 1e-30)
    zero = round(-low / scale)
    words = np.rint(np.asarray(data, np.float64) / scale)
    words += zero
    return np.clip(words, 0, top, out=words).astype(np.uint32), scale, zero


class PreparedSubject:
    """One prepared pair, read through memory maps.

    Attributes:
        id: id of the pair.
        patient: who it is.
        folder: where the arrays lie.
        grid: working grid of every array; axes are RAS+ after preprocessing.
        native: where predictions belong.
        to_native: (4, 4), world of the working grid -> world of the native grid.
        notes: what preprocessing did.
        layers: name -> place, of every volume.
    """

    def __init__(self, folder: Path, meta: Mapping[str, Any]) -> None:
        self.folder = folder
        self.id: str = meta["id"]
        self.patient: str = meta["patient"]
        self.grid = _grid_from(meta["grid"])
        self.native = Native(
            _grid_from(meta["native"]["grid"]), base64.b64decode(meta["native"]["header"])
        )
        self.to_native: Affine = np.array(meta["to_native"], float)
        self.notes: tuple[str, ...] = tuple(meta["notes"])
        self.layers: dict[str, Layer] = {
            name: Layer(**layer) for name, layer in meta["layers"].items()
        }
        self.sha256: dict[str, str] = dict(meta["sha256"])
        self._arrays: dict[str, NDArray[Any]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the folder itself; arrays stay on disk."""
        return PreparedSubject.open, (self.folder.absolute(),)

    @property
    def image_names(self) -> tuple[str, ...]:
        """Names of the images."""
        return tuple(name for name, layer in self.layers.items() if layer.kind == "image")

    @property
    def mask_names(self) -> tuple[str, ...]:
        """Names of masks and soft labels."""
        return tuple(name for name, layer in self.layers.items() if layer.kind != "image")

    def image(self, name: str) -> NDArray[np.float32]:
        """(X, Y, Z) float32 of one image."""
        return self._values(name, ("image",))

    def stack(self, names: Sequence[str]) -> NDArray[np.float32]:
        """(C, X, Y, Z) float32 of several images."""
        return np.stack([self.image(name) for name in names])

    def inside(
        self, names: Sequence[str] | None = None, region: str | None = None
    ) -> NDArray[np.bool_]:
        """(X, Y, Z) bool, where any of some images differs from 0: where systems predict.

        It holds no voxel where all of them are 0, e.g. in the difference of two equal visits;
        nothing is found in such images.

        Args:
            names: of the images; None takes all.
            region: a mask outside of which nothing is sought, such as candidates.
        """
        found = np.zeros(self.grid.shape, bool)
        for name in self.image_names if names is None else names:
            layer = self.layer(name)
            if layer.kind != "image":
                raise self._unknown(name, "image")
            found |= _bits(self.array(layer.file), layer) != layer.zero
        return found if region is None else found & self.mask(region)

    def patch(self, names: Sequence[str], box: tuple[slice, slice, slice]) -> NDArray[np.float32]:
        """(C, x, y, z) float32 of several images inside a box; reads only that box.

        Args:
            names: images, in order.
            box: one slice with steps of 1 per axis.
        """
        layers = [self.layer(name) for name in names]
        for name, layer in zip(names, layers, strict=True):
            if layer.kind != "image":
                raise self._unknown(name, "image")
        inside = [self.array(layer.file)[box] for layer in layers]
        values = np.empty((len(layers), *inside[0].shape), np.float32)
        if [(layer.file, layer.shift) for layer in layers] == [(PAIR, 0), (PAIR, 16)]:
            from msseg_lightning.core.pair_words import unpack_pair

            zeros, scales = np.array([(layer.zero, layer.scale) for layer in layers], np.float32).T
            unpack_pair(inside[0], zeros.copy(), scales.copy(), values)
            return values
        for words, layer, part in zip(inside, layers, values, strict=True):
            _decode(words, layer, part)
        return values

    def label(self, name: str) -> NDArray[np.float32]:
        """(X, Y, Z) float32 in [0, 1] of a mask or soft label."""
        return self._values(name, ("mask", "soft"))

    def mask(self, name: str) -> NDArray[np.bool_]:
        """(X, Y, Z) bool of a mask; a soft label is thresholded at one half."""
        return np.asarray(self.label(name) >= 0.5)

    def voxels(self, name: str, limit: int = CANDIDATES) -> NDArray[np.int32]:
        """Positions of voxels of a mask, as candidate centres of patches.

        Args:
            name: a mask, or ``brain``, which every subject has: where no brain mask was given it
                is where any image differs from 0.
            limit: at most this many.

        Returns:
            (n, 3) voxel indices, in random order where a mask has more than ``CANDIDATES``
            voxels, else in array order; (0, 3) for an empty mask.
        """
        file = _voxel_file(name)
        if file not in self.sha256:
            raise self._unknown(name, "mask")
        positions = self.array(file)
        if len(positions) <= limit:
            return positions
        return positions[np.linspace(0, len(positions) - 1, limit).astype(np.int64)]

    def layer(self, name: str) -> Layer:
        """Location of a volume, for code that decodes the words itself.

        Raises:
            MssegError: there is none of this name.
        """
        layer = self.layers.get(name)
        if layer is None:
            raise self._unknown(name, "volume")
        return layer

    def array(self, file: str) -> NDArray[Any]:
        """A stored array as a read-only memory map, opened once.

        Raises:
            MssegError: the file is missing or is no array of the expected shape.
        """
        known = self._arrays.get(file)
        if known is None:
            try:
                known = np.asarray(np.load(self.folder / file, mmap_mode="r", allow_pickle=False))
                if file.startswith("voxels_"):
                    fits = known.ndim == 2 and known.shape[1] == 3
                else:
                    fits = known.shape == self.grid.shape and known.flags.c_contiguous
                if not fits:
                    raise ValueError(f"shape {known.shape}, expected {self.grid.shape}")
            except (OSError, ValueError) as error:
                raise MssegError(_broken(self.folder / file, str(error))) from error
            self._arrays[file] = known
        return known

    def with_image(self, name: str, data: NDArray[np.floating], folder: Path) -> PreparedSubject:
        """The pair with one more image, stored in a new folder that shares the other arrays.

        Args:
            name: of the image.
            data: (X, Y, Z) on the working grid, finite.
            folder: appears whole or not at all.

        Raises:
            MssegError: the name is taken or values are not finite.
            ValueError: another shape.
        """
        if data.shape != self.grid.shape:
            raise ValueError(f"image of shape {data.shape} for a grid of {self.grid.shape}")
        if name in self.layers or not _NAME.fullmatch(name) or not np.isfinite(data).all():
            raise MssegError(
                Problem(
                    "prepared.name",
                    f"{self.id}: this image cannot be added",
                    field=name,
                    expected="a new name of letters, digits and _, finite values",
                    remedy="give the stage's image another name",
                )
            )
        words, scale, zero = quantise(data, MAX_FIRST)
        layer, file = Layer("image", f"{name}.npy", 0, 16, scale, zero), f"{name}.npy"
        with temporary_folder(folder) as temporary:
            for known in self.sha256:
                try:
                    (temporary / known).hardlink_to(self.folder / known)
                except OSError:  # another disk, or one without links
                    with atomic_write(temporary / known) as copy:
                        shutil.copyfile(self.folder / known, copy)
            with atomic_write(temporary / file) as part, part.open("wb") as stream:
                np.save(stream, words.astype(np.uint16), allow_pickle=False)
            meta = read_record(self.folder / "meta.json", sealed=True)
            meta["layers"][name] = dataclasses.asdict(layer)
            meta["sha256"][file] = sha256_file(temporary / file)
            write_record(temporary / "meta.json", meta)
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
            flush_folder(folder.parent)
        return PreparedSubject.open(folder)

    def verify(self) -> None:
        """Verify the checksum of every array.

        Raises:
            MssegError: with all files that are missing or differ.
        """
        problems = []
        for file, expected in self.sha256.items():
            path = self.folder / file
            found = sha256_file(path) if path.is_file() else "missing"
            if found != expected:
                problems.append(_broken(path, f"checksum {found[:12]}, written {expected[:12]}"))
        if problems:
            raise MssegError(problems)

    def _values(self, name: str, kinds: tuple[str, ...]) -> NDArray[np.float32]:
        layer = self.layer(name)
        if layer.kind not in kinds:
            raise self._unknown(name, " or ".join(kinds))
        words = self.array(layer.file)
        values = np.empty(words.shape, np.float32)
        _decode(words, layer, values)
        return values

    def _unknown(self, name: str, kind: str) -> MssegError:
        return MssegError(
            Problem(
                "prepared.name",
                f"prepared subject {self.id} has no {kind} of this name",
                file=self.folder,
                field=name,
                expected=", ".join(self.layers),
                remedy="name a volume that preprocessing keeps",
            )
        )

    @staticmethod
    def open(folder: Path) -> PreparedSubject:
        """Open a pair stored by ``write``; reads one small file.

        Raises:
            MssegError: nothing complete lies there, or another version wrote it.
        """
        path = folder / "meta.json"
        try:
            meta = read_record(path, sealed=True)
            if meta["format"] != FORMAT:
                raise ValueError(f"format {meta['format']}, this version reads {FORMAT}")
            return PreparedSubject(folder, meta)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise MssegError(_broken(path, repr(error))) from error

    @staticmethod
    def write(loaded: LoadedSubject, folder: Path) -> PreparedSubject:
        """Store a preprocessed pair.

        Every array is replaced atomically and ``meta.json`` comes last, so an interrupted write is
        seen as absent.

        Raises:
            MssegError: an image has values that are not finite, or a name cannot be a file name.
            ValueError: the volumes lie on different grids.
        """
        grid = loaded.grid
        _check(loaded)
        # of a pair being replaced: without it a crash between arrays would leave old meta, new data
        (folder / "meta.json").unlink(missing_ok=True)
        layers: dict[str, Layer] = {}
        sha256: dict[str, str] = {}

        def save(file: str, array: NDArray[Any]) -> None:
            with atomic_write(folder / file) as temporary, temporary.open("wb") as stream:
                np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
            sha256[file] = sha256_file(folder / file)

        images = {n: v.data for n, v in loaded.volumes.items() if v.kind == "image"}
        masks = {
            n: np.asarray(v.data) >= 0.5 for n, v in loaded.volumes.items() if v.kind == "mask"
        }
        soft = {n: v.data for n, v in loaded.volumes.items() if v.kind == "probability"}
        packed = []
        if BASELINE in images and FOLLOWUP in images:
            word = np.zeros(grid.shape, np.uint32)
            for name, shift, top in ((BASELINE, 0, MAX_FIRST), (FOLLOWUP, 16, MAX_SECOND)):
                part, scale, zero = quantise(images[name], top)
                word |= part << np.uint32(shift)
                layers[name] = Layer("image", PAIR, shift, top.bit_length(), scale, zero)
            if TARGET in masks:
                word |= masks[TARGET].astype(np.uint32) << np.uint32(TARGET_BIT)
                layers[TARGET] = Layer("mask", PAIR, TARGET_BIT, 1)
            save(PAIR, word)
            packed = [BASELINE, FOLLOWUP, TARGET]
        for name, data in images.items():
            if name not in packed:
                words, scale, zero = quantise(data, MAX_FIRST)
                layers[name] = Layer("image", f"{name}.npy", 0, 16, scale, zero)
                save(f"{name}.npy", words.astype(np.uint16))
        for name, data in soft.items():
            words = np.rint(np.clip(np.asarray(data, np.float64), 0, 1) * MAX_FIRST)
            layers[name] = Layer("soft", f"{name}.npy", 0, 16, 1 / MAX_FIRST)
            save(f"{name}.npy", words.astype(np.uint16))
        planes = [name for name in masks if name not in layers]
        for start in range(0, len(planes), 8):
            file = f"masks{start // 8}.npy"
            plane = np.zeros(grid.shape, np.uint8)
            for bit, name in enumerate(planes[start : start + 8]):
                plane |= masks[name].astype(np.uint8) << np.uint8(bit)
                layers[name] = Layer("mask", file, bit, 1)
            save(file, plane)
        found = dict(masks) | {name: np.asarray(data) >= 0.5 for name, data in soft.items()}
        if BRAIN not in found:
            found[BRAIN] = np.any([np.asarray(data) != 0 for data in images.values()], axis=0)
        for name, mask in found.items():
            save(_voxel_file(name), _candidates(mask, loaded.subject.id, name))
        write_record(
            folder / "meta.json",
            {
                "format": FORMAT,
                "id": loaded.subject.id,
                "patient": loaded.subject.patient,
                "grid": _grid_to(grid),
                "native": {
                    "grid": _grid_to(loaded.native.grid),
                    "header": base64.b64encode(loaded.native.header).decode(),
                },
                "to_native": np.asarray(loaded.to_native, float).tolist(),
                "notes": list(loaded.notes),
                "layers": {name: dataclasses.asdict(layer) for name, layer in layers.items()},
                "sha256": sha256,
            },
        )
        return PreparedSubject.open(folder)


def _bits(words: NDArray[Any], layer: Layer) -> NDArray[Any]:
    """Return the integers of one layer; the last axis of ``words`` is contiguous."""
    shift = layer.shift
    if words.itemsize == 4 and shift % 16 == 0 and layer.bits <= 16:
        # a visit is half of a word: converted from where it lies, without a shifted copy
        words, shift = words.astype("<u4", copy=False).view("<u2")[..., shift // 16 :: 2], 0
    if shift:
        words = words >> words.dtype.type(shift)
    if shift + layer.bits < 8 * words.itemsize:
        words = words & words.dtype.type((1 << layer.bits) - 1)
    return words


def _decode(words: NDArray[Any], layer: Layer, values: NDArray[np.float32]) -> None:
    """Write the float32 values of one layer into ``values``; see ``_bits``."""
    words = _bits(words, layer)
    np.subtract(words, np.float32(layer.zero), out=values, dtype=np.float32, casting="unsafe")
    values *= np.float32(layer.scale)


def _voxel_file(name: str) -> str:
    return f"voxels_{name}.npy"


def _candidates(mask: NDArray[np.bool_], subject: str, name: str) -> NDArray[np.int32]:
    flat = np.flatnonzero(mask)
    if len(flat) > CANDIDATES:
        flat = keyed_generator("candidates", subject, name).choice(flat, CANDIDATES, replace=False)
    return np.stack(np.unravel_index(flat, mask.shape), axis=1).astype(np.int32)


def _check(loaded: LoadedSubject) -> None:
    problems = []
    for name, volume in loaded.volumes.items():
        if not _NAME.fullmatch(name) or name.startswith(("voxels_", "masks", "pair")):
            problems.append(
                Problem(
                    "prepared.name",
                    "this name cannot be stored",
                    field=name,
                    found=name,
                    expected="1 to 64 letters, digits, _ and -; not voxels_, masks or pair first",
                    remedy="give the volume another name",
                )
            )
        elif volume.kind != "mask" and not np.isfinite(volume.data).all():
            problems.append(
                Problem(
                    "prepared.finite",
                    f"{loaded.subject.id}: not every voxel is a finite number",
                    field=name,
                    found=f"{int((~np.isfinite(volume.data)).sum())} voxels",
                    expected="0",
                    remedy="preprocessing must replace them",
                )
            )
    if problems:
        raise MssegError(problems)


def _grid_to(grid: Grid) -> dict[str, Any]:
    return {"shape": list(grid.shape), "affine": np.asarray(grid.affine, float).tolist()}


def _grid_from(record: Mapping[str, Any]) -> Grid:
    x, y, z = (int(size) for size in record["shape"])
    return Grid((x, y, z), np.array(record["affine"], float))


def _broken(path: Path, found: str) -> Problem:
    return Problem(
        "prepared.unreadable",
        "a prepared subject cannot be read",
        file=path,
        found=found,
        remedy="delete its folder and prepare it again",
    )
