"""Parsing and checking of NIfTI-1 headers."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Literal

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from msseg_lightning.core.problem import Problem
from msseg_lightning.core.volume import Affine, Grid
from msseg_lightning.read.stream import HEADER_BYTES, Limits, recognise

REAL_TYPES = {
    2: "uint8",
    4: "int16",
    8: "int32",
    16: "float32",
    64: "float64",
    256: "int8",
    512: "uint16",
    768: "uint32",
    1024: "int64",
    1280: "uint64",
}
"""NIfTI code -> number type. Colours, complex and 128-bit numbers are refused."""

OTHER_TYPES = {
    1: "binary",
    32: "complex64",
    128: "RGB",
    1536: "float128",
    1792: "complex128",
    2048: "complex256",
    2304: "RGBA",
}

PLAUSIBLE_EXTENT_MM = (20.0, 1000.0)
"""Plausible range of the field of view along each axis, in mm."""

MOST_CHANNELS = 8
"""First axes below this size, before three axes of at least this size, are channels."""

LARGEST_CONFLICT_VOXELS = 0.5
"""Tolerance between qform and sform, and for shear: displacement of any corner. Element-wise
comparison refuses good files, because the qform is stored rounded (Spinal Cord Toolbox #4745)."""

LARGEST_FORM_CODE = 5
"""Largest valid form code of NIfTI."""

TEXT_FIELDS = ("descrip", "aux_file", "intent_name", "db_name", "data_type")
# what programs write about themselves; anything else may be about a person
_SOFTWARE = re.compile(
    r"^(fsl|spm|itk|ants|anima|nibabel|freesurfer|mrtrix|niftyreg|minc|msseg|simpleitk|afni|"
    r"[0-9.]+(:[0-9a-f]+)?|te=[0-9.]+)[\w.:/ -]{0,24}$",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True)
class Header:
    """The checked fields of a header.

    Args:
        grid: lattice; sizes of 1 beyond the third axis are dropped.
        dtype: stored number type with byte order.
        offset: byte at which voxels start.
        slope: factor from stored to true values, None without scaling.
        intercept: added after the factor.
        raw: the 348 bytes, in native byte order.
    """

    grid: Grid
    dtype: np.dtype[np.generic]
    offset: int
    slope: float | None
    intercept: float
    raw: bytes

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return math.prod(self.grid.shape)

    @property
    def bytes_expected(self) -> int:
        """Size of the unpacked file."""
        return self.offset + self.voxels * self.dtype.itemsize


Trust = Literal["sform", "qform"]


def parse_header(
    head: bytes, name: str, limits: Limits, trust: Trust | None = None
) -> tuple[Header | None, list[Problem]]:
    """Parse a header; None, with at least one error, if it cannot be used.

    Args:
        head: the first 352 bytes of the unpacked file.
        name: how messages call the file.
        limits: largest numbers of voxels and bytes, checked before any allocation.
        trust: which orientation to follow where qform and sform differ; by default a conflict is
            refused. Mirror images of each other are refused always.
    """
    if len(head) < 348 or head[344:348] not in (b"n+1\0", b"ni1\0"):
        return None, [_not_this_format(head, name)]
    if head[344:348] == b"ni1\0":
        return None, [
            _problem(
                name,
                "image.pair_file",
                "header and voxels lie in two files (.hdr/.img)",
                "magic",
                "ni1",
                "n+1, one file",
                "convert: nib-convert or fslchfiletype NIFTI_GZ",
            )
        ]
    swapped = int.from_bytes(head[:4], "little") != 348
    if swapped and int.from_bytes(head[:4], "big") != 348:
        return None, [
            _problem(
                name,
                "image.header_size",
                "the header's own size is wrong",
                "sizeof_hdr",
                str(int.from_bytes(head[:4], "little", signed=True)),
                "348",
                "write the file again",
            )
        ]
    # check=False: nibabel would repair negative and zero voxel sizes silently
    fields = nib.Nifti1Header(head[:348], endianness=">" if swapped else "<", check=False)
    if swapped:
        fields = fields.as_byteswapped("<")
    problems = [
        *_check_sizes(fields, name, limits),
        *_check_type(fields, name),
        *_check_offset(fields, name),
        *_check_voxel_size(fields, name),
        *_check_scaling(fields, name),
        *_check_text(fields, head, name),
    ]
    # without sizes there are no corners, and the qform is built from the voxel size
    sized = not any(p.severity == "error" and p.field in ("dim", "pixdim") for p in problems)
    affine: Affine | None = None
    if sized:
        shape = _shape(fields)
        affine, found = _orientation(fields, shape, name, trust)
        problems += found
        if affine is not None:
            problems += _check_units(fields, Grid(shape, affine), name)
    if affine is None or any(problem.severity == "error" for problem in problems):
        return None, problems
    slope = float(fields["scl_slope"])
    unscaled = slope == 0 or math.isnan(slope)
    header = Header(
        grid=Grid(shape, affine),
        dtype=np.dtype(REAL_TYPES[int(fields["datatype"])]).newbyteorder(">" if swapped else "<"),
        offset=int(fields["vox_offset"]),
        slope=None if unscaled else slope,
        intercept=0.0 if unscaled else float(fields["scl_inter"]),
        raw=fields.binaryblock,
    )
    if header.bytes_expected - header.offset > limits.unpacked_bytes:
        problems.append(
            _problem(
                name,
                "image.too_large",
                "the voxels would take more memory than allowed",
                "dim",
                f"{header.bytes_expected} bytes",
                f"at most {limits.unpacked_bytes} bytes",
                "check that this is one 3D scan",
            )
        )
        return None, problems
    return header, problems


def _problem(
    name: str,
    code: str,
    message: str,
    field: str,
    found: str,
    expected: str,
    remedy: str,
    severity: Literal["error", "warning"] = "error",
) -> Problem:
    return Problem(
        code,
        message,
        file=name,
        field=field,
        found=found,
        expected=expected,
        remedy=remedy,
        severity=severity,
    )


def _not_this_format(head: bytes, name: str) -> Problem:
    if len(head) >= 12 and head[4:8] == b"n+2\0":
        return _problem(
            name,
            "image.nifti2",
            "NIfTI-2 is not read",
            "magic",
            "n+2",
            "NIfTI-1 (n+1)",
            "write it as NIfTI-1: a scan of this size fits",
        )
    if len(head) >= 348 and 348 in (
        int.from_bytes(head[:4], "little"),
        int.from_bytes(head[:4], "big"),
    ):
        return _problem(
            name,
            "image.magic",
            "not NIfTI: an Analyze header or a damaged one",
            "magic",
            ascii(head[344:348].decode("latin-1")),
            "n+1",
            "convert it to NIfTI-1",
        )
    return recognise(head, name)


def _shape(fields: nib.Nifti1Header) -> tuple[int, int, int]:
    _, x, y, z = (int(size) for size in fields["dim"][:4])
    return x, y, z


def _check_sizes(fields: nib.Nifti1Header, name: str, limits: Limits) -> Iterator[Problem]:
    dim = [int(size) for size in fields["dim"]]
    if not 1 <= dim[0] <= 7:
        yield _problem(
            name,
            "image.axes",
            "the number of axes is impossible",
            "dim",
            f"dim[0] = {dim[0]}",
            "3",
            "write the file again from its source",
        )
        return
    sizes = dim[1 : dim[0] + 1]
    text = " x ".join(map(str, sizes))
    if any(size <= 0 for size in sizes):
        yield _problem(
            name,
            "image.size",
            "a size is zero or negative",
            "dim",
            text,
            "sizes of 1 or more",
            "write the file again from its source",
        )
    elif 1 in sizes[:3] and sum(size > 1 for size in sizes) == 3:
        place = ("first", "second", "third")[sizes.index(1)]
        yield _problem(
            name,
            "image.axis_of_one",
            "an axis of size 1 stands before the axes of space"
            + (", as of channels" if sizes[0] == 1 else ""),
            "dim",
            text,
            "X x Y x Z, or X x Y x Z x 1",
            f"write it again without its {place} axis: "
            "nibabel.Nifti1Image(numpy.squeeze(image.dataobj), image.affine)",
        )
    elif len(sizes) == 4 and 2 <= sizes[0] < MOST_CHANNELS <= min(sizes[1:]):
        yield _problem(
            name,
            "image.channels_first",
            "the first axis looks like one of channels: need one 3D volume",
            "dim",
            text,
            "X x Y x Z",
            "write the one channel that is meant: "
            "nibabel.Nifti1Image(image.dataobj[CHANNEL], image.affine)",
        )
    elif dim[0] < 3 or min(sizes[:3]) < 2:
        yield _problem(
            name,
            "image.flat",
            "a slice, not a volume",
            "dim",
            text,
            "a 3D volume",
            "stack the slices of the scan into one 3D file",
        )
    elif any(size > 1 for size in sizes[3:]):
        yield _problem(
            name,
            "image.four_dimensional",
            "more than one volume: need one 3D volume",
            "dim",
            text,
            "X x Y x Z",
            "extract the one scan that is meant, e.g. fslroi or nib-roi",
        )
    elif math.prod(sizes) > limits.voxels:
        yield _problem(
            name,
            "image.too_large",
            "more voxels than allowed",
            "dim",
            text,
            f"at most {limits.voxels} voxels",
            "check that this is one 3D scan",
        )
    elif dim[0] > 3:
        yield _problem(
            name,
            "image.extra_axis",
            "further axes of size 1 were dropped",
            "dim",
            text,
            " x ".join(map(str, sizes[:3])),
            "nothing to do; save as 3D to silence this",
            "warning",
        )


def _check_type(fields: nib.Nifti1Header, name: str) -> Iterator[Problem]:
    code = int(fields["datatype"])
    if code not in REAL_TYPES:
        yield _problem(
            name,
            "image.data_type",
            "voxels of this type are not allowed",
            "datatype",
            OTHER_TYPES.get(code, f"code {code}"),
            "one real number in each voxel",
            "export the magnitude image as integer or float32",
        )
        return
    bits = np.dtype(REAL_TYPES[code]).itemsize * 8
    if int(fields["bitpix"]) != bits:
        yield _problem(
            name,
            "image.bits",
            "bits per voxel disagree with the data type, which was followed",
            "bitpix",
            str(int(fields["bitpix"])),
            str(bits),
            "write the file again",
            "warning",
        )


def _check_offset(fields: nib.Nifti1Header, name: str) -> Iterator[Problem]:
    offset = float(fields["vox_offset"])
    if not (HEADER_BYTES <= offset <= 1 << 24 and offset == int(offset)):
        yield _problem(
            name,
            "image.offset",
            "the offset of the voxels is invalid",
            "vox_offset",
            f"{offset:g}",
            "352, or more with extensions",
            "write the file again from its source",
        )


def _check_voxel_size(fields: nib.Nifti1Header, name: str) -> Iterator[Problem]:
    sizes = [float(size) for size in fields["pixdim"][1:4]]
    if not all(math.isfinite(size) and size > 0 for size in sizes):
        yield _problem(
            name,
            "image.voxel_size",
            "a voxel size is zero, negative or not a number",
            "pixdim",
            " x ".join(f"{size:g}" for size in sizes),
            "positive sizes in mm",
            "restore the true voxel size from the source; it is never guessed",
        )


def _check_scaling(fields: nib.Nifti1Header, name: str) -> Iterator[Problem]:
    slope, intercept = float(fields["scl_slope"]), float(fields["scl_inter"])
    if slope == 0:
        return  # the standard: no scaling
    if math.isnan(slope):
        yield _problem(
            name,
            "image.slope_nan",
            "scaling is not a number and was taken as none",
            "scl_slope",
            "nan",
            "a number, or 0 for no scaling",
            "nothing to do if the values look right",
            "warning",
        )
    elif not (math.isfinite(slope) and math.isfinite(intercept)):
        field = "scl_inter" if math.isfinite(slope) else "scl_slope"
        yield _problem(
            name,
            "image.slope",
            "the intensity scaling is not finite",
            field,
            f"{float(fields[field]):g}",
            "a finite number",
            "write the file again from its source",
        )
    elif slope < 0:
        yield _problem(
            name,
            "image.slope_negative",
            "negative scaling: dark becomes bright",
            "scl_slope",
            f"{slope:g}",
            "a positive number",
            "check that lesions are bright; write the file again without scaling",
            "warning",
        )


def _check_text(fields: nib.Nifti1Header, head: bytes, name: str) -> Iterator[Problem]:
    # the text itself is never repeated: it may name the patient
    full = []
    for field in TEXT_FIELDS:
        text = bytes(fields[field].tobytes()).split(b"\0")[0].decode("latin-1").strip()
        if text and not _SOFTWARE.match(text):
            full.append(field)
    if full:
        yield _problem(
            name,
            "image.text",
            "free text in the header may identify the patient",
            full[0],
            f"text (not shown) in {', '.join(full)}",
            "empty text fields",
            "it is never copied to outputs; blank it before sharing the data",
            "warning",
        )
    if len(head) >= HEADER_BYTES and head[348] != 0:
        yield _problem(
            name,
            "image.extension",
            "header extensions may identify the patient",
            "extension",
            "an extension (not shown)",
            "none",
            "it is never copied to outputs; remove it before sharing the data",
            "warning",
        )


def _check_units(fields: nib.Nifti1Header, grid: Grid, name: str) -> Iterator[Problem]:
    code = int(fields["xyzt_units"]) & 7
    if code in (0, 2):
        return
    unit = {1: "metres", 3: "micrometres"}.get(code, f"code {code}")
    extents = [n * size for n, size in zip(grid.shape, grid.spacing_mm, strict=True)]
    low, high = PLAUSIBLE_EXTENT_MM
    plausible = all(low <= extent <= high for extent in extents)
    found = f"{unit}, sizes {' x '.join(f'{extent:g}' for extent in extents)}"
    if plausible:
        yield _problem(
            name,
            "image.units",
            "the stated unit is not mm, yet as mm the size fits a head",
            "xyzt_units",
            found,
            "mm",
            "read as mm; correct the unit in the header",
            "warning",
        )
    else:
        yield _problem(
            name,
            "image.units",
            "the stated unit is not mm and the size fits no head",
            "xyzt_units",
            found,
            f"mm, {low:g} to {high:g} along each axis",
            "write the file again in mm",
        )


def _orientation(
    fields: nib.Nifti1Header, shape: tuple[int, int, int], name: str, trust: Trust | None
) -> tuple[Affine | None, list[Problem]]:
    codes = {"qform": int(fields["qform_code"]), "sform": int(fields["sform_code"])}
    for form, code in codes.items():
        if not 0 <= code <= LARGEST_FORM_CODE:
            return None, [
                _problem(
                    name,
                    "image.orientation_code",
                    "the code of the orientation is not one of NIfTI",
                    f"{form}_code",
                    str(code),
                    "0 to 5",
                    "write the file again from its source",
                )
            ]
    if not any(code > 0 for code in codes.values()):
        return None, [
            _problem(
                name,
                "image.no_orientation",
                "no orientation: left and right are unknown",
                "qform_code, sform_code",
                "both 0",
                "1 or more in one of them",
                "convert the scan again from DICOM with dcm2niix",
            )
        ]
    problems: list[Problem] = []
    found: dict[str, Affine] = {}
    for form, code in codes.items():
        if code <= 0:
            continue
        matrix = _sform(fields) if form == "sform" else _qform(fields)
        if matrix is None:
            problems.append(
                _problem(
                    name,
                    f"image.{form}",
                    f"the {form} is not a valid affine",
                    "srow_x, srow_y, srow_z" if form == "sform" else "quatern_b, _c, _d",
                    "not finite"
                    if form == "qform" or not np.isfinite(_rows(fields)).all()
                    else "a matrix without volume",
                    "a finite matrix with three directions",
                    "restore the orientation from the source",
                )
            )
        else:
            found[form] = matrix
            problems += _check_shear(matrix, shape, name, form)
    if problems:
        return None, problems
    if len(found) == 2:
        problems += _conflict(Grid(shape, found["qform"]), Grid(shape, found["sform"]), name, trust)
        if any(problem.severity == "error" for problem in problems):
            return None, problems
    chosen = trust if trust in found else ("sform" if "sform" in found else "qform")
    return found[chosen], problems


def _rows(fields: nib.Nifti1Header) -> NDArray[np.float64]:
    return np.array([fields[f"srow_{axis}"] for axis in "xyz"], np.float64)


def _usable(matrix: NDArray[np.float64]) -> bool:
    if not np.isfinite(matrix).all() or np.abs(matrix).max() > 1e6:
        return False
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    if lengths.min() <= 1e-9:
        return False
    return bool(abs(np.linalg.det(matrix[:3, :3] / lengths)) > 1e-3)


def _sform(fields: nib.Nifti1Header) -> Affine | None:
    matrix = np.vstack([_rows(fields), [0, 0, 0, 1]])
    return matrix if _usable(matrix) else None


def _qform(fields: nib.Nifti1Header) -> Affine | None:
    """The quaternion as a matrix (NIfTI-1 standard, method 2)."""
    b, c, d = (float(fields[f"quatern_{axis}"]) for axis in "bcd")
    rest = 1.0 - (b * b + c * c + d * d)
    if not math.isfinite(rest) or rest < -1e-3:
        return None
    if rest < 1e-7:  # a half turn; stored as float32, so renormalise as the standard does
        length = math.sqrt(b * b + c * c + d * d)
        a, b, c, d = 0.0, b / length, c / length, d / length
    else:
        a = math.sqrt(rest)
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    sizes = np.array([float(size) for size in fields["pixdim"][1:4]])
    if float(fields["pixdim"][0]) < 0:
        sizes[2] = -sizes[2]
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * sizes
    matrix[:3, 3] = [float(fields[f"qoffset_{axis}"]) for axis in "xyz"]
    return matrix if _usable(matrix) else None


def _check_shear(
    matrix: Affine, shape: tuple[int, int, int], name: str, form: str
) -> Iterator[Problem]:
    linear = matrix[:3, :3]
    sizes = np.linalg.norm(linear, axis=0)
    left, _, right = np.linalg.svd(linear / sizes)
    straight = matrix.copy()
    straight[:3, :3] = (left @ right) * sizes  # nearest right-angled axes
    centre = np.append((np.array(shape) - 1) / 2, 1.0)
    straight[:3, 3] += (matrix @ centre - straight @ centre)[:3]
    bend = Grid(shape, matrix).displacement_mm(Grid(shape, straight)) / float(sizes.min())
    if bend > LARGEST_CONFLICT_VOXELS:
        yield _problem(
            name,
            "image.shear",
            "the axes are not at right angles",
            form,
            f"corners {bend:.1f} voxels off",
            f"at most {LARGEST_CONFLICT_VOXELS} voxels",
            "resample the scan onto a right-angled grid first",
        )


def _conflict(qform: Grid, sform: Grid, name: str, trust: Trust | None) -> Iterator[Problem]:
    if np.linalg.det(qform.affine[:3, :3]) * np.linalg.det(sform.affine[:3, :3]) < 0:
        yield _problem(
            name,
            "image.mirrored_forms",
            "qform and sform mirror each other left-right",
            "qform, sform",
            "opposite handedness",
            "the same side for every voxel",
            "find out which one is true and write it into both; no option accepts this",
        )
        return
    gap = qform.displacement_mm(sform)
    limit = LARGEST_CONFLICT_VOXELS * min(min(qform.spacing_mm), min(sform.spacing_mm))
    if gap <= limit:
        return
    if trust is None:
        yield _problem(
            name,
            "image.form_conflict",
            "qform and sform place the scan differently",
            "qform, sform",
            f"{gap:.1f} mm apart",
            f"at most {limit:.2f} mm",
            "correct the header, or say which to follow: data.reading.trust=sform or "
            "data.reading.trust=qform",
        )
    else:
        yield _problem(
            name,
            "image.form_conflict",
            f"qform and sform differ; the {trust} was followed",
            "qform, sform",
            f"{gap:.1f} mm apart",
            f"at most {limit:.2f} mm",
            "correct the header",
            "warning",
        )
