"""FLAIR signal from relaxation times."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Tissue:
    """Relaxation times and proton density of a tissue.

    Args:
        t1_ms: longitudinal relaxation time.
        t2_ms: transverse relaxation time.
        density: proton density relative to water.
    """

    t1_ms: float
    t2_ms: float
    density: float

    def mixed_with(self, other: Tissue, share: float) -> Tissue:
        """A tissue ``share`` of the way to ``other``, on logarithmic time scales."""

        def between(a: float, b: float) -> float:
            return math.exp((1 - share) * math.log(a) + share * math.log(b))

        return Tissue(
            between(self.t1_ms, other.t1_ms),
            between(self.t2_ms, other.t2_ms),
            (1 - share) * self.density + share * other.density,
        )


WHITE, GREY, CSF, FAT, MUSCLE, MARROW, BONE, SKIN, PLAQUE = (
    "white",
    "grey",
    "csf",
    "fat",
    "muscle",
    "marrow",
    "bone",
    "skin",
    "plaque",
)

_AT_1_5_T: Mapping[str, Tissue] = {
    WHITE: Tissue(790, 78, 0.70),
    GREY: Tissue(1124, 95, 0.81),
    CSF: Tissue(4200, 1800, 1.00),
    FAT: Tissue(343, 68, 0.90),
    MUSCLE: Tissue(1008, 44, 0.75),
    MARROW: Tissue(549, 49, 0.35),
    BONE: Tissue(400, 5, 0.10),
    SKIN: Tissue(800, 40, 0.60),
    PLAQUE: Tissue(1700, 230, 0.92),
}
_AT_3_T: Mapping[str, Tissue] = {
    WHITE: Tissue(838, 72, 0.70),
    GREY: Tissue(1331, 99, 0.82),
    CSF: Tissue(4300, 1800, 1.00),
    FAT: Tissue(382, 68, 0.90),
    MUSCLE: Tissue(1412, 50, 0.75),
    MARROW: Tissue(586, 49, 0.35),
    BONE: Tissue(420, 5, 0.10),
    SKIN: Tissue(1000, 38, 0.60),
    PLAQUE: Tissue(2000, 220, 0.92),
}
"""Brain, muscle and marrow: Stanisz et al. 2005 (10.1002/mrm.20605); white matter at both fields
and grey T1 at 3 T: Wansapura et al. 1999, J. Magn. Reson. Imaging 9:531;
fat: de Bazelaire et al. 2004 (10.1148/radiol.2303021331). Proton densities: Tofts 2003,
*Quantitative MRI of the Brain*, chapter 4. Bone and skin are our choice: they have to be dark and
dull. ``PLAQUE`` is the watery end of the lesion scale (long T1 and T2 as in Larsson et al. 1989);
a drawn lesion lies between white matter and it."""


def tissues(field_strength_t: float) -> Mapping[str, Tissue]:
    """Relaxation times at 1.5 T or 3 T, whichever is nearer."""
    return _AT_1_5_T if field_strength_t < 2.25 else _AT_3_T


def flair_signal(
    tissue: Tissue, tr_ms: float, te_ms: float, ti_ms: float, inversion: float = 1.0
) -> float:
    """Magnitude of an inversion-recovery turbo spin echo, in units of fully relaxed water.

    ``S = density * |1 - (1 + e) exp(-TI/T1) + e exp(-TR/T1)| * exp(-TE/T2)`` with the efficiency of
    inversion ``e``; for ``e = 1`` it is the textbook equation with factor two. ``te_ms`` is the
    effective echo time, for 3D sequences with variable flip angles the T2-equivalent one.

    Reference:
        Bernstein, King and Zhou 2004, Handbook of MRI Pulse Sequences, section 14.2.
    """
    recovery = (
        1
        - (1 + inversion) * math.exp(-ti_ms / tissue.t1_ms)
        + inversion * math.exp(-tr_ms / tissue.t1_ms)
    )
    return tissue.density * abs(recovery) * math.exp(-te_ms / tissue.t2_ms)
