# ruff: noqa: E501 - the table of protocols reads best in rows
"""Fifteen scanners of three vendors, and three older ones with thick slices."""

from __future__ import annotations

import dataclasses
from typing import Literal

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.simulate.physics import Tissue, flair_signal, tissues

Vendor = Literal["GE", "Philips", "Siemens"]


@dataclasses.dataclass(frozen=True)
class Scanner:
    """One scanner with its FLAIR protocol.

    Args:
        name: what the participants table says.
        vendor: who made it.
        field_strength_t: tesla.
        tr_ms: repetition time.
        te_ms: effective (T2-equivalent) echo time.
        ti_ms: inversion time.
        spacing_mm: voxel in RAS axis order; the largest one is the slice thickness.
        noise: standard deviation of the complex noise in one channel, relative to white matter.
        bias: largest relative deviation of the receive field inside the head.
        gain: stored value of white matter.
        blur_voxels: standard deviation of the point spread in voxels, in plane.
        ringing: 0 none, 1 a sharp cut of k-space.
        fat: share of the fat signal that survives suppression.
        inversion: efficiency of the inversion pulse.
        orientation: axis order and directions in which the file is stored.
    """

    name: str
    vendor: Vendor
    field_strength_t: float
    tr_ms: float
    te_ms: float
    ti_ms: float
    spacing_mm: tuple[float, float, float]
    noise: float
    bias: float
    gain: float
    blur_voxels: float
    ringing: float
    fat: float
    inversion: float
    orientation: str

    def signal(self, tissue: Tissue) -> float:
        """Signal of a tissue under this protocol, relative to white matter."""
        white = tissues(self.field_strength_t)["white"]
        return self._raw(tissue) / self._raw(white)

    def _raw(self, tissue: Tissue) -> float:
        return flair_signal(tissue, self.tr_ms, self.te_ms, self.ti_ms, self.inversion)

    @property
    def thick_slices(self) -> bool:
        """Whether the protocol is a 2D one with thick slices."""
        return max(self.spacing_mm) > 2.0

    @property
    def slice_axis(self) -> int:
        """RAS axis along which the voxel is longest."""
        return max(range(3), key=lambda axis: self.spacing_mm[axis])


# The challenge has 3 GE, 6 Philips and 6 Siemens scanners at 1.5 T and 3 T, voxels from about
# 0.6 x 0.5 x 0.5 to 1.2 x 1.2 x 1.2 mm (SYSTEMS.md, data facts). The protocols below are ours,
# in the range of published 3D FLAIR protocols; the inversion time nearly nulls CSF.
_TABLE: tuple[tuple[object, ...], ...] = (
    # name, vendor, T, TR, TE, TI, spacing, noise, bias, gain, blur, ringing, fat, inversion, axes
    ("ge_01", "GE", 1.5, 7500, 118, 2160, (1.2, 1.0, 1.0), 0.078, 0.20, 1450, 0.50, 0.3, 0.30, 0.97, "LPS"),
    ("ge_02", "GE", 3.0, 6000, 122, 1980, (1.0, 0.5, 0.5), 0.062, 0.34, 1900, 0.60, 0.2, 0.20, 0.96, "RAS"),
    ("ge_03", "GE", 3.0, 7000, 112, 2180, (0.8, 0.9, 0.9), 0.070, 0.38, 2300, 0.50, 0.4, 0.35, 0.98, "LPI"),
    ("philips_01", "Philips", 1.5, 6000, 125, 1930, (1.1, 1.0, 1.0), 0.086, 0.18, 310, 0.50, 0.3, 0.45, 0.98, "PSR"),
    ("philips_02", "Philips", 1.5, 5600, 116, 1850, (1.0, 1.1, 1.1), 0.078, 0.15, 260, 0.60, 0.1, 0.35, 0.97, "PSR"),
    ("philips_03", "Philips", 3.0, 4800, 125, 1730, (0.6, 1.0, 1.0), 0.062, 0.30, 240, 0.55, 0.3, 0.15, 0.97, "PSR"),
    ("philips_04", "Philips", 3.0, 5400, 128, 1840, (0.6, 0.5, 0.5), 0.078, 0.32, 270, 0.65, 0.2, 0.20, 0.96, "PIR"),
    ("philips_05", "Philips", 3.0, 8000, 106, 2330, (0.7, 0.7, 0.7), 0.062, 0.28, 350, 0.55, 0.2, 0.25, 0.98, "PSR"),
    ("philips_06", "Philips", 3.0, 4800, 112, 1680, (1.1, 1.0, 1.0), 0.055, 0.26, 300, 0.50, 0.5, 0.12, 0.97, "RAS"),
    ("siemens_01", "Siemens", 1.5, 6000, 122, 1980, (1.0, 1.0, 1.0), 0.086, 0.17, 165, 0.55, 0.2, 0.55, 0.98, "PSR"),
    ("siemens_02", "Siemens", 1.5, 5000, 118, 1710, (1.2, 1.2, 1.2), 0.070, 0.14, 190, 0.55, 0.2, 0.40, 0.97, "LPS"),
    ("siemens_03", "Siemens", 3.0, 5000, 124, 1760, (1.0, 1.0, 1.0), 0.055, 0.25, 135, 0.50, 0.3, 0.22, 0.97, "PSR"),
    ("siemens_04", "Siemens", 3.0, 5000, 130, 1730, (0.9, 0.5, 0.5), 0.062, 0.28, 145, 0.70, 0.1, 0.18, 0.96, "RAS"),
    ("siemens_05", "Siemens", 3.0, 7000, 108, 2180, (0.8, 0.8, 0.8), 0.062, 0.27, 120, 0.55, 0.2, 0.25, 0.98, "PIR"),
    ("siemens_06", "Siemens", 3.0, 4800, 118, 1690, (1.0, 0.9, 0.9), 0.047, 0.22, 175, 0.50, 0.4, 0.20, 0.97, "PSR"),
    # thick slices, as in everyday practice and in open_ms
    ("slices_01", "GE", 1.5, 8800, 112, 2310, (0.9, 0.9, 3.0), 0.055, 0.16, 420, 0.45, 0.4, 0.40, 0.97, "LPS"),
    ("slices_02", "Philips", 1.5, 9000, 108, 2370, (0.72, 0.72, 4.0), 0.055, 0.18, 330, 0.50, 0.3, 0.50, 0.97, "LPS"),
    ("slices_03", "Siemens", 3.0, 9000, 105, 2430, (0.57, 0.57, 3.3), 0.055, 0.28, 460, 0.55, 0.3, 0.25, 0.97, "LPS"),
)  # fmt: skip

SCANNERS: dict[str, Scanner] = {
    str(row[0]): Scanner(*row)  # type: ignore[arg-type]  # a table of literals
    for row in _TABLE
}


def scanners_named(*patterns: str) -> tuple[Scanner, ...]:
    """Scanners whose name starts with any of the patterns, in the order of the table.

    Raises:
        MssegError: a pattern fits none.
    """
    for pattern in patterns:
        if not any(name.startswith(pattern) for name in SCANNERS):
            raise MssegError(
                Problem(
                    "simulate.scanner",
                    "No such scanner profile.",
                    field="scanners",
                    found=pattern,
                    expected=f"the start of one of {', '.join(SCANNERS)}",
                    remedy="give one of these names",
                    exit_code=ExitCode.CONFIG,
                )
            )
    return tuple(
        scanner
        for name, scanner in SCANNERS.items()
        if any(name.startswith(pattern) for pattern in patterns)
    )
