"""Reading and writing of NIfTI files; all images are read by ``read_volume``."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import logging
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from msseg_lightning.core.files import atomic_write
from msseg_lightning.core.paths import resolve_file, shown
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject import Native
from msseg_lightning.core.volume import Grid, Kind, Volume
from msseg_lightning.read.header import TEXT_FIELDS, Header, Trust, parse_header
from msseg_lightning.read.stream import Limits, Stream

logger = logging.getLogger(__name__)

ROUNDING = 1e-3
"""Distance from 0 or 1 up to which a mask value counts as rounding of float storage."""


@dataclasses.dataclass(frozen=True)
class GateOptions:
    """Exceptions to the checks of input files; each exception that applies is logged.

    Args:
        strict: refuse also what is otherwise accepted with a warning about the file itself: a
            misleading file ending, negative intensity scaling.
        trust: which orientation to follow where qform and sform conflict.
        allow_nan_outside_brain: set non-finite voxels outside the brain mask to 0.
        confirm_mirrored: accept a pair whose content looks mirrored; a person has looked.
        soft_labels: masks may hold any value in [0, 1].
        label_values: what values of a reference mean, e.g. ``{255: 1}`` or ``{1: 0, 2: 1}``: true
            values (after ``scl_slope``) to 0 or 1. All are looked up at once in the mask as it is
            stored, so their order means nothing; values that are not named keep meaning 0 and 1
            (with ``soft_labels``: themselves), others are refused. References are the masks of new
            lesions, of raters and of change; masks of the brain and of all lesions of a visit are
            no references and hold 0 and 1.
        largest_mask_fraction: a lesion mask may cover this share of all voxels.
        allow_external_links: files may lie outside the data root.
        limits: sizes refused before anything is allocated.
    """

    strict: bool = False
    trust: Trust | None = None
    allow_nan_outside_brain: bool = False
    confirm_mirrored: bool = False
    soft_labels: bool = False
    label_values: Mapping[int, int] = dataclasses.field(default_factory=dict)
    largest_mask_fraction: float = 0.10
    allow_external_links: bool = False
    limits: Limits = dataclasses.field(default_factory=Limits)


DEFAULT = GateOptions()

LABEL_RULES = 2
"""Version of the rules for ``label_values``; part of cache keys."""
GATE_DEFAULTS = {
    field.name: getattr(DEFAULT, field.name)
    for field in dataclasses.fields(GateOptions)
    if field.name != "limits"
} | {"label_values": None}
"""Default settings, as in ``conf/config.yaml``."""


def gate_options(settings: Mapping[str, Any]) -> GateOptions:
    """``GateOptions`` from plain settings.

    Raises:
        MssegError: an unknown name or a value of the wrong form (exit 2).
    """
    problems = []
    values: dict[str, Any] = {}
    for name, value in changed_options(settings).items():
        expected = ""
        if name not in GATE_DEFAULTS:
            expected = ", ".join(
                difflib.get_close_matches(name, GATE_DEFAULTS, n=1) or GATE_DEFAULTS
            )
        elif name == "trust":
            expected = "" if value in (None, "sform", "qform") else "sform or qform"
        elif name == "label_values":
            try:
                value = label_meanings(value.items())
            except (AttributeError, TypeError, ValueError) as error:
                expected = "whole numbers that mean 0 or 1, each once, e.g. {255: 1}"
                if type(error) is ValueError:
                    expected += f" ({error})"
        elif isinstance(GATE_DEFAULTS[name], bool):
            expected = "" if isinstance(value, bool) else "true or false"
        elif not (isinstance(value, int | float) and 0 < value <= 1):
            expected = "a share between 0 and 1"
        if expected:
            problems.append(
                Problem(
                    "config.reading",
                    "no such option of data.reading"
                    if name not in GATE_DEFAULTS
                    else "invalid value",
                    field=f"data.reading.{name}",
                    found=str(value)[:60],
                    expected=expected,
                    remedy="`msseg check --help` lists the options",
                    exit_code=ExitCode.CONFIG,
                )
            )
        values[name] = value
    if problems:
        raise MssegError(problems)
    return GateOptions(**values)


def label_meanings(pairs: Iterable[tuple[Any, Any]]) -> dict[int, int]:
    """Stored value -> 0 or 1, in order of the values; texts of whole numbers count as numbers.

    Raises:
        ValueError: no whole number, another meaning than 0 or 1, or a value named twice.
    """
    meanings: dict[int, int] = {}
    for source, meaning in pairs:
        value, means = _whole(source), _whole(meaning)
        if means not in (0, 1):
            raise ValueError(f"{source} cannot mean {meaning}")
        if value in meanings:
            raise ValueError(f"{value} is named twice")
        meanings[value] = means
    return dict(sorted(meanings.items()))


def _whole(number: Any) -> int:
    if isinstance(number, str) and re.fullmatch(r"[+-]?[0-9]{1,20}", number):
        return int(number)
    if isinstance(number, bool) or not isinstance(number, int | float) or number != int(number):
        raise ValueError(f"{number} is no whole number")
    return int(number)


def changed_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that differ from the defaults; only these decide what is read.

    Equal ``label_values`` come out equal, however they were written.
    """
    changed = {
        name: value
        for name, value in settings.items()
        if name not in GATE_DEFAULTS
        or value != GATE_DEFAULTS[name]
        or type(value) is not type(GATE_DEFAULTS[name])
    }
    labels = changed.get("label_values")
    if isinstance(labels, Mapping):
        with contextlib.suppress(ValueError):  # ``gate_options`` refuses it as it is written
            changed["label_values"] = label_meanings(labels.items())
    if labels == {}:
        del changed["label_values"]
    return changed


def read_volume(
    path: Path,
    kind: Kind = "image",
    options: GateOptions = DEFAULT,
    root: Path | None = None,
    brain: NDArray[np.generic] | None = None,
    facts: dict[Path, FileFacts] | None = None,
) -> Volume:
    """Read and check one file; warnings are logged.

    Args:
        path: a NIfTI-1 file, ``.nii`` or ``.nii.gz``.
        kind: images become float32; masks uint8 of 0 and 1; probabilities float32 in [0, 1].
        options: exceptions to the default rules.
        root: data root, cut from messages; the file must lie below it.
        brain: (X, Y, Z) mask for ``allow_nan_outside_brain``.
        facts: see :func:`inspect_volume`.

    Raises:
        MssegError: with everything that is wrong with the file.
    """
    volume, problems = inspect_volume(path, kind, options, root, brain, facts)
    if volume is None:
        raise MssegError([problem for problem in problems if problem.severity == "error"])
    for problem in problems:
        # a mask without lesions is as good as any other
        logger.log(
            logging.DEBUG if problem.code == "mask.empty" else logging.WARNING, "%s", problem
        )
    return volume


@dataclasses.dataclass(frozen=True)
class FileFacts:
    """Header and checksum of a file that was read.

    Args:
        native: its space.
        sha256: hex digest of the bytes that were unpacked.
    """

    native: Native
    sha256: str


def inspect_volume(
    path: Path,
    kind: Kind = "image",
    options: GateOptions = DEFAULT,
    root: Path | None = None,
    brain: NDArray[np.generic] | None = None,
    facts: dict[Path, FileFacts] | None = None,
) -> tuple[Volume | None, list[Problem]]:
    """Like :func:`read_volume`, with all problems returned; the volume is None after an error.

    Args:
        path: see :func:`read_volume`, as the next four.
        kind: see there.
        options: see there.
        root: see there.
        brain: see there.
        facts: where given, those of the file are put there, unless it cannot be unpacked.
    """
    try:
        stream, header, problems = _open(path, options, root)
        if header is None:
            return None, problems
        buffer, extra = stream.body(header.bytes_expected)
    except MssegError as error:
        return None, list(error.problems)
    if facts is not None:
        facts[path] = FileFacts(Native(header.grid, _geometry_only(header)), stream.sha256())
    if extra:
        problems.append(
            Problem(
                "image.extra_bytes",
                "further bytes after the voxels were ignored",
                file=stream.name,
                field="file size",
                found=f"{extra} bytes more",
                expected=f"{header.bytes_expected} bytes",
                remedy="nothing to do if the scan looks complete",
                severity="warning",
            )
        )
    stored = np.frombuffer(buffer, header.dtype, header.voxels, header.offset)
    values: NDArray[np.generic] | None
    if kind == "image":
        values, found = _image_values(stored, header, stream.name, options, brain)
    elif kind == "probability":
        values, found = _probability_values(stored, header, stream.name)
    else:
        values, found = _mask_values(stored, header, stream.name, options)
    problems += found
    if values is None or any(problem.severity == "error" for problem in problems):
        return None, problems
    shaped = values.reshape(header.grid.shape, order="F")
    soft = kind == "mask" and options.soft_labels
    return Volume(shaped, header.grid.affine, "probability" if soft else kind), problems


def read_header(
    path: Path, options: GateOptions = DEFAULT, root: Path | None = None
) -> tuple[Header, list[Problem]]:
    """The checked header of a file and warnings about it; voxels are not unpacked.

    Raises:
        MssegError: with everything that is wrong with the header.
    """
    _, header, problems = _open(path, options, root)
    if header is None:
        raise MssegError([problem for problem in problems if problem.severity == "error"])
    return header, problems


def native_from_grid(grid: Grid) -> Native:
    """``Native`` of a grid, for volumes without a file."""
    fields = nib.Nifti1Header()
    fields.set_data_shape(grid.shape)
    fields.set_qform(grid.affine, code=1, strip_shears=False)
    fields.set_sform(grid.affine, code=1)
    fields.set_xyzt_units("mm")
    return Native(grid, fields.binaryblock)


def write_volume(
    path: Path, data: NDArray[np.generic], native: Native, kind: Kind = "mask"
) -> None:
    """Write a map with the geometry of its native header; equal input gives equal bytes.

    Masks are stored as uint8, everything else as float32, unscaled. Text fields and extensions of
    the source are not carried over; the gzip stream has no time and no name. The file appears
    whole or not at all.

    Args:
        path: ends in ``.nii`` or ``.nii.gz``.
        data: (X, Y, Z) on the native grid.
        native: grid and header.
        kind: masks must be 0 or 1.

    Raises:
        ValueError: another shape than the native grid's, other mask values, not finite.
    """
    if data.shape != native.grid.shape:
        raise ValueError(f"{path.name}: shape {data.shape} is not {native.grid.shape}")
    if kind == "mask":
        if not np.isin(data, (0, 1)).all():
            raise ValueError(f"{path.name}: a mask holds 0 and 1 only")
        stored = np.asarray(data, np.uint8)
    else:
        stored = np.asarray(data, "<f4")
        if not np.isfinite(stored).all():
            raise ValueError(f"{path.name}: values are not finite")
    fields = nib.Nifti1Header(native.header, endianness="<", check=False)
    fields.set_data_dtype(stored.dtype)
    fields["dim"] = [3, *data.shape, 1, 1, 1, 1]
    fields["vox_offset"] = 352
    fields["scl_slope"], fields["scl_inter"] = 1, 0
    fields["cal_min"], fields["cal_max"] = 0, 0
    plain = fields.binaryblock + bytes(4) + stored.tobytes(order="F")
    with atomic_write(path) as temporary:
        temporary.write_bytes(_gzip(plain) if path.name.endswith(".gz") else plain)


def _gzip(plain: bytes) -> bytes:
    """Compress without time and name, so that equal input gives equal bytes."""
    packer = isal_zlib.compressobj(level=2, wbits=-15)
    body = packer.compress(plain) + packer.flush()
    head = b"\x1f\x8b\x08\x00" + bytes(4) + b"\x00\xff"
    checksum = isal_zlib.crc32(plain).to_bytes(4, "little")
    return head + body + checksum + (len(plain) & 0xFFFFFFFF).to_bytes(4, "little")


def _open(
    path: Path, options: GateOptions, root: Path | None
) -> tuple[Stream, Header | None, list[Problem]]:
    real = resolve_file(path, root, options.allow_external_links)
    stream = Stream(real, shown(path, root), options.limits)
    header, problems = parse_header(stream.head(), stream.name, options.limits, options.trust)
    named_gzip = path.name.lower().endswith(".gz")
    if header is not None and named_gzip != stream.is_gzip:
        problems.append(
            Problem(
                "image.file_ending",
                "the file ending does not fit the content",
                file=stream.name,
                field="file name",
                found="a gzip stream" if stream.is_gzip else "an uncompressed file",
                expected="uncompressed" if stream.is_gzip else "a gzip stream",
                remedy=f"rename it to end in {'.nii.gz' if stream.is_gzip else '.nii'}",
                severity="error" if options.strict else "warning",
            )
        )
    if options.strict:
        problems = [
            dataclasses.replace(problem, severity="error")
            if problem.code == "image.slope_negative"
            else problem
            for problem in problems
        ]
    if any(problem.severity == "error" for problem in problems):
        header = None
    return stream, header, problems


def _geometry_only(header: Header) -> bytes:
    fields = nib.Nifti1Header(header.raw, endianness="<", check=False)
    for field in (*TEXT_FIELDS, "extents", "session_error", "regular", "dim_info"):
        fields[field] = np.zeros_like(fields[field])
    for field in ("intent_p1", "intent_p2", "intent_p3", "intent_code", "glmin", "glmax"):
        fields[field] = 0
    for field in ("slice_start", "slice_end", "slice_code", "slice_duration", "toffset"):
        fields[field] = 0
    fields["dim"] = [3, *header.grid.shape, 1, 1, 1, 1]
    fields["pixdim"][4:] = 0
    fields["xyzt_units"] = 2
    return fields.binaryblock


def _value_problem(
    code: str,
    name: str,
    message: str,
    found: str,
    expected: str,
    remedy: str,
    severity: Literal["error", "warning"] = "error",
) -> Problem:
    return Problem(
        code,
        message,
        file=name,
        field="voxel values",
        found=found,
        expected=expected,
        remedy=remedy,
        severity=severity,
    )


def _unscaled(header: Header) -> bool:
    return header.slope is None or (header.slope == 1 and header.intercept == 0)


def _scaled(stored: NDArray[np.generic], header: Header) -> NDArray[np.float32]:
    """Stored numbers as float32 true values; a copy unless the buffer already holds them."""
    if _unscaled(header):
        return np.require(stored, np.float32, ["ALIGNED", "WRITEABLE"])
    assert header.slope is not None and header.intercept is not None  # see _unscaled
    with np.errstate(over="ignore", invalid="ignore"):
        values = stored.astype(np.float64)
        values *= header.slope
        values += header.intercept
        return values.astype(np.float32)


def _image_values(
    stored: NDArray[np.generic],
    header: Header,
    name: str,
    options: GateOptions,
    brain: NDArray[np.generic] | None,
) -> tuple[NDArray[np.float32] | None, list[Problem]]:
    values = _scaled(stored, header)
    # unscaled 16-bit numbers are exact in float32: the same extremes in half the bytes or fewer
    plain = stored.dtype.kind in "iu" and stored.dtype.itemsize <= 2 and _unscaled(header)
    seen = stored if plain else values
    low, high = float(seen.min()), float(seen.max())
    if math.isfinite(low) and math.isfinite(high):
        if low == high:
            return None, [
                _value_problem(
                    "image.constant",
                    name,
                    "constant image",
                    f"{low:g} in every voxel",
                    "a scan",
                    "export the scan again; leave the subject out if it has no scan",
                )
            ]
        return values, []
    return _repair(values, stored, header, name, options, brain)


def _repair(
    values: NDArray[np.float32],
    stored: NDArray[np.generic],
    header: Header,
    name: str,
    options: GateOptions,
    brain: NDArray[np.generic] | None,
) -> tuple[NDArray[np.float32] | None, list[Problem]]:
    """Refuse non-finite voxels, or fill them outside the brain if that is allowed."""
    bad = ~np.isfinite(values)
    count = int(bad.sum())
    if header.dtype.kind != "f" or np.isfinite(stored[bad]).all():
        return None, [
            dataclasses.replace(
                _value_problem(
                    "image.overflow",
                    name,
                    "scaled values are too large for float32",
                    f"scl_slope {header.slope}",
                    "values below 3.4e38",
                    "write the file again without scaling",
                ),
                field="scl_slope",
            )
        ]
    outside = (
        options.allow_nan_outside_brain
        and brain is not None
        and brain.shape == header.grid.shape
        and not (bad & (brain.ravel(order="F") != 0)).any()
        and count < values.size
    )
    kinds = [
        word
        for word, has in (("NaN", np.isnan(values).any()), ("infinite", np.isinf(values).any()))
        if has
    ]
    found = f"{count} {' or '.join(kinds)} voxels"
    if not outside:
        return None, [
            _value_problem(
                "image.not_finite",
                name,
                "every voxel is NaN or infinite"
                if count == values.size
                else "voxels are NaN or infinite",
                found,
                "finite numbers",
                "export the scan again, or data.reading.allow_nan_outside_brain=true to fill with "
                "0 outside the brain mask",
            )
        ]
    values[bad] = 0
    return values, [
        _value_problem(
            "image.not_finite",
            name,
            "non-finite voxels outside the brain were set to 0",
            found,
            "finite numbers",
            "export the scan again",
            "warning",
        )
    ]


def _probability_values(
    stored: NDArray[np.generic], header: Header, name: str
) -> tuple[NDArray[np.float32] | None, list[Problem]]:
    values = _scaled(stored, header)
    low, high = float(values.min()), float(values.max())
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        return None, [
            _value_problem(
                "probability.range",
                name,
                "values are not probabilities",
                f"{low:g} to {high:g}",
                "0 to 1",
                "give the probability map, not logits or the scan",
            )
        ]
    return values.clip(0, 1), []


def _mask_values(
    stored: NDArray[np.generic], header: Header, name: str, options: GateOptions
) -> tuple[NDArray[np.generic] | None, list[Problem]]:
    labels = options.label_values
    values = _true_values(stored, header)
    plain = values.dtype.kind in "iu"
    if plain and not labels and values.min() >= 0 and values.max() <= 1:
        mask: NDArray[np.generic] = values.astype(np.float32 if options.soft_labels else np.uint8)
        return mask, _coverage(mask, name, options)
    if not plain and not np.isfinite(values).all():
        return None, [
            _value_problem(
                "mask.not_finite",
                name,
                "the mask holds NaN or infinity",
                f"{int((~np.isfinite(values)).sum())} voxels",
                "0 and 1",
                "write the mask again as uint8",
            )
        ]
    meanings = labels if options.soft_labels else {0: 0, 1: 1, **labels}
    mask = values.astype(np.float32) if options.soft_labels else np.zeros(values.shape, np.uint8)
    open_ones = np.ones(values.shape, bool)
    distance = 0.0
    for value, meaning in meanings.items():  # each against the mask as it is stored
        near = _is_label(values, value)
        mask[near] = meaning
        open_ones &= ~near
        if not plain and near.any():
            distance = max(distance, float(np.abs(values[near] - value).max()))
    rest = values[open_ones]
    fits = options.soft_labels and (
        rest.size == 0 or (rest.min() >= -ROUNDING and rest.max() <= 1 + ROUNDING)
    )
    if rest.size and not fits:
        return None, [_wrong_labels(values, name, labels, options.soft_labels)]
    found: list[Problem] = []
    if options.soft_labels:
        mask = mask.clip(0, 1)
    elif distance > 0:
        found.append(
            _value_problem(
                "mask.rounded",
                name,
                "mask values were rounded",
                f"up to {distance:g} off",
                "whole numbers",
                "nothing to do; save as uint8 to silence this",
                "warning",
            )
        )
    return mask, found + _coverage(mask, name, options, values)


def _true_values(stored: NDArray[np.generic], header: Header) -> NDArray[Any]:
    """Numbers of a mask, scaled and exact: whole numbers as they are, others in float64."""
    if _unscaled(header):
        return stored if stored.dtype.kind in "iu" else stored.astype(np.float64)
    assert header.slope is not None and header.intercept is not None  # see _unscaled
    return stored.astype(np.float64) * header.slope + header.intercept


def _is_label(values: NDArray[Any], label: int) -> NDArray[np.bool_]:
    """Voxels that equal a whole number up to rounding of storage."""
    if values.dtype.kind in "iu":
        return np.asarray(values == label)  # exact, of any size
    return np.abs(values - label) <= max(ROUNDING, 1e-6 * abs(label))


def _say_what_it_means(meanings: Mapping[int, int]) -> str:
    labels = ", ".join(f"{value}: {meaning}" for value, meaning in meanings.items())
    return f"data.reading.label_values='{{{labels}}}'"


def _wrong_labels(
    values: NDArray[Any], name: str, labels: Mapping[int, int], soft: bool
) -> Problem:
    kinds = np.unique(values)
    rounded = kinds.round() if kinds.dtype.kind == "f" else kinds
    whole = kinds.size <= 64 and all(
        _is_label(kinds[[n]], int(value))[0] for n, value in enumerate(rounded)
    )
    numbers = sorted({int(value) for value in rounded}) if whole else []
    shown_values = ", ".join(f"{value:g}" for value in kinds[:6]) + (
        ", ..." if kinds.size > 6 else ""
    )
    if whole and len(numbers) <= 16:
        others = [value for value in numbers if value != 0 and value not in labels]
        meanings = {value: int(value == others[-1]) for value in others}
        several = len(numbers) != 2 or numbers[0] != 0
        if several:
            message = "mask values are not 0 and 1: several labels"
            request = "say which are lesion, e.g. "
        else:
            message = "mask values are 0 and one other number"
            request = "say what it means: "
        remedy = request + _say_what_it_means(dict(sorted({**labels, **meanings}.items())))
    elif not soft and kinds.min() >= 0 and kinds.max() <= 1:
        message = "the mask holds fractions: probabilities, not labels"
        remedy = "threshold it, or data.reading.soft_labels=true if raters were averaged"
    elif kinds.size > 16:
        message = "values are not 0 and 1: this looks like a scan, not a mask"
        remedy = "put the mask in its place"
    else:
        message = "mask values are not 0 and 1"
        remedy = "write the mask again with 1 for lesion and 0 elsewhere"
    return _value_problem(
        "mask.values", name, message, f"{kinds.size} values: {shown_values}", "0 and 1", remedy
    )


def _coverage(
    mask: NDArray[np.generic],
    name: str,
    options: GateOptions,
    stored: NDArray[np.generic] | None = None,
) -> list[Problem]:
    covered = np.count_nonzero(mask) / mask.size
    if covered == 0:
        return [
            _value_problem(
                "mask.empty",
                name,
                "the mask is empty",
                "no voxel"
                + (" as label_values say" if stored is not None and stored.any() else ""),
                "lesions, or none",
                "nothing to do if the pair has no new lesion",
                "warning",
            )
        ]
    if covered > options.largest_mask_fraction:
        return [
            _value_problem(
                "mask.too_full",
                name,
                "the mask covers too much",
                f"{covered:.0%} of all voxels",
                f"at most {options.largest_mask_fraction:.0%}",
                "check that this is the lesion mask and not inverted",
            )
        ]
    return []
