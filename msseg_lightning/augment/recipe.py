"""Settings of augmentation, one dataclass per operation.

A recipe holds ranges and probabilities only; ``augment.parameters.draw`` turns it into numbers for
one patch and the engines apply those. Operations run in one fixed order, because they are fused:
one resampling (affine, elastic, flips), then per image thick slices, blur, sharpening, noise,
gamma, bias field, scale and shift. Intensity operations act on every voxel of the patch.

``per_visit`` of an intensity operation makes the longitudinal choice explicit: True draws for each
visit on its own (the scans differ in quality), False draws once for both (the pair stays
comparable). Images belong to one visit when the part of their name before the first underscore is
the same. Noise values are always independent; what is shared is their strength.

Ranges are (low, high), drawn uniformly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

Range = tuple[float, float]
Axis = Literal["left_right", "anterior_posterior", "inferior_superior"]
AXES: tuple[Axis, ...] = ("left_right", "anterior_posterior", "inferior_superior")


@dataclasses.dataclass(frozen=True)
class Flip:
    """Mirror along anatomical axes, each on its own.

    Args:
        probability: of each axis.
        axes: which; the array axis is found from the subject's affine.
    """

    probability: float = 0.5
    axes: tuple[Axis, ...] = AXES


@dataclasses.dataclass(frozen=True)
class Permute:
    """Exchange the axes of the patch, each of the six orders equally often.

    Together with flips of all axes at 0.5 all 48 orientations of the voxel lattice are equally
    frequent. Axes are exchanged as they are: where voxels are not cubes, so is their spacing.

    Args:
        probability: of drawing an order; one of the six is the old one.
    """

    probability: float = 1.0


@dataclasses.dataclass(frozen=True)
class Affine:
    """Rotate, scale, shear and move about the centre of the patch, in millimetres.

    Args:
        probability: of the whole.
        rotation_degrees: largest angle about the left-right, front-back and up-down axes.
        scale: factors on the sampled extent, as in MONAI and nnU-Net: above 1 the patch shows more
            tissue and things look smaller.
        same_scale: one factor for all axes.
        shear: largest absolute shear of any pair of axes.
        translation_mm: largest shift, one number or one along each of the same three axes.
        scale_probability: given the operation happens, that it scales; nnU-Net draws rotation and
            scaling apart.
        rotation_probability: likewise for the rotation.
        shear_probability: likewise for the shear.
    """

    probability: float = 1.0
    rotation_degrees: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: Range = (1.0, 1.0)
    same_scale: bool = False
    shear: float = 0.0
    translation_mm: float | tuple[float, float, float] = 0.0
    scale_probability: float = 1.0
    rotation_probability: float = 1.0
    shear_probability: float = 1.0


@dataclasses.dataclass(frozen=True)
class Elastic:
    """Smooth random deformation: a cubic B-spline through random control displacements.

    Args:
        probability: of the operation.
        spacing_mm: distance of control points.
        displacement_mm: range of the standard deviation of a control point's shift. At more than
            0.4 of ``spacing_mm`` the field may fold.
    """

    probability: float = 0.2
    spacing_mm: float = 24.0
    displacement_mm: Range = (1.0, 4.0)


@dataclasses.dataclass(frozen=True)
class ThickSlices:
    """Average over neighbouring planes, as a scanner with thick slices does.

    Args:
        probability: of the operation.
        voxels: thickness in planes of the patch, whole numbers from low to high.
        axes: one of these is taken.
        interpolate: keep only one plane per slice and interpolate linearly between them; False
            leaves the moving average.
        per_visit: see the module.
    """

    probability: float = 0.2
    voxels: tuple[int, int] = (2, 4)
    axes: tuple[Axis, ...] = ("inferior_superior",)
    interpolate: bool = True
    per_visit: bool = True


@dataclasses.dataclass(frozen=True)
class Blur:
    """Gaussian smoothing.

    Args:
        probability: of the operation.
        sigma_voxels: standard deviation.
        same_axes: one value for all axes.
        per_visit: see the module.
    """

    probability: float = 0.2
    sigma_voxels: Range = (0.5, 1.0)
    same_axes: bool = False
    per_visit: bool = True


@dataclasses.dataclass(frozen=True)
class Sharpen:
    """Unsharp mask: ``x + amount * (x - blurred x)``.

    Args:
        probability: of the operation.
        amount: strength.
        sigma_voxels: of the blur.
        per_visit: see the module.
    """

    probability: float = 0.2
    amount: Range = (0.5, 1.5)
    sigma_voxels: Range = (0.5, 1.0)
    per_visit: bool = True


@dataclasses.dataclass(frozen=True)
class Noise:
    """Add Gaussian noise.

    Args:
        probability: of the operation.
        sd: standard deviation in units of the prepared intensities.
        per_visit: see the module.
    """

    probability: float = 0.15
    sd: Range = (0.0, 0.1)
    per_visit: bool = True


@dataclasses.dataclass(frozen=True)
class Gamma:
    """Contrast curve ``u ** gamma`` on the patch's own range, which is kept.

    Args:
        probability: of the operation.
        gamma: exponent.
        per_visit: see the module.
    """

    probability: float = 0.3
    gamma: Range = (0.7, 1.5)
    per_visit: bool = True


@dataclasses.dataclass(frozen=True)
class BiasField:
    """Multiply by the exponential of a Legendre polynomial on the patch, as MONAI does.

    Args:
        probability: of the operation.
        coefficient: of every term ``i + j + k <= degree``.
        degree: 1 to 3.
        per_visit: see the module.
    """

    probability: float = 0.15
    coefficient: Range = (0.0, 0.1)
    degree: int = 3
    per_visit: bool = True


@dataclasses.dataclass(frozen=True)
class Scale:
    """Multiply by ``1 + change``.

    Args:
        probability: of the operation.
        change: relative change.
        per_visit: see the module.
    """

    probability: float = 0.15
    change: Range = (-0.3, 0.3)
    per_visit: bool = True


@dataclasses.dataclass(frozen=True)
class Shift:
    """Add a constant.

    Args:
        probability: of the operation.
        offset: in units of the prepared intensities.
        per_visit: see the module.
    """

    probability: float = 0.15
    offset: Range = (-0.1, 0.1)
    per_visit: bool = True


Operation = ThickSlices | Blur | Sharpen | Noise | Gamma | BiasField | Scale | Shift
"""An intensity operation."""


@dataclasses.dataclass(frozen=True)
class OneOf:
    """At most one of several intensity operations.

    A recipe that also has an operation of the group outside of it lets the group's draw win.

    Args:
        operations: name -> operation. Their own ``probability`` and ``per_visit`` say nothing here.
        none: probability that no operation happens.
        weights: name -> how often each is taken, in any unit; None is equally often.
        per_visit: see the module; True also chooses the operation for each visit apart.
    """

    operations: Mapping[str, Operation]
    none: float = 0.0
    weights: Mapping[str, float] | None = None
    per_visit: bool = True

    def __post_init__(self) -> None:
        if not self.operations or not 0 <= self.none <= 1:
            raise ValueError(f"none is {self.none} of {len(self.operations)} operations")
        if self.weights is not None and set(self.weights) != set(self.operations):
            raise ValueError(f"weights {sorted(self.weights)} of {sorted(self.operations)}")

    @property
    def probability(self) -> float:
        """Probability that any operation is applied."""
        return 1 - self.none

    def shares(self) -> list[float]:
        """Probability of each operation, in order, given that one happens."""
        weights = self.weights or dict.fromkeys(self.operations, 1.0)
        total = sum(weights.values())
        return [weights[name] / total for name in self.operations]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All operations of an experiment; None disables one.

    ``elastic_share`` makes affine and elastic exclude each other: it is the probability that a
    patch gets its chance of the elastic deformation alone, otherwise of the affine alone. None
    lets both happen.
    """

    flip: Flip | None = None
    affine: Affine | None = None
    elastic: Elastic | None = None
    thick_slices: ThickSlices | None = None
    blur: Blur | None = None
    sharpen: Sharpen | None = None
    noise: Noise | None = None
    gamma: Gamma | None = None
    bias_field: BiasField | None = None
    scale: Scale | None = None
    shift: Shift | None = None
    one_of: OneOf | None = None
    elastic_share: float | None = None
    permute: Permute | None = None
