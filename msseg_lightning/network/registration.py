"""Registration as layers: warp of images, integration of velocities, test of folding."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn


class SpatialTransformer(nn.Module):
    """Sample an image at ``x + displacement(x)``.

    MONAI's ``Warp`` with the lattice made anew, on the device of the images, at every call, and in
    float32 whatever the precision: bfloat16 cannot number more than 256 voxels of an axis. MONAI's
    lattice runs from -1 to 1 and is off by rounding; where the displacement is 0 the value is here
    exactly that of the image.

    Args:
        mode: ``bilinear`` (linear along every axis) or ``nearest``. Outside the image its border
            continues.

    Shapes:
        image: (B, C, X, Y[, Z]).
        displacement: (B, 2 or 3, X, Y[, Z]) in voxels, one component for each axis in order.
        returns: float32, of the shape of ``image``.
    """

    def __init__(self, mode: str = "bilinear") -> None:
        from monai.networks.blocks import Warp

        super().__init__()
        if mode not in ("bilinear", "nearest"):
            raise ValueError(f"mode {mode!r} is not bilinear or nearest")
        with warnings.catch_warnings():  # that it uses torch's own sampling
            warnings.simplefilter("ignore")
            self.warp = Warp(mode=mode, padding_mode="border")

    def forward(self, image: Tensor, displacement: Tensor) -> Tensor:
        self.warp.ref_grid = None
        with torch.autocast(image.device.type, enabled=False):
            image, displacement = image.float(), displacement.float()
            warped: Tensor = self.warp(image, displacement)
            still = (displacement == 0).all(dim=1, keepdim=True)
            warped = warped + ((image - warped) * still).detach()  # slopes stay those of the warp
        self.warp.ref_grid = None
        return warped


class VelocityIntegration(nn.Module):
    """Displacement of the flow along a stationary velocity field for unit time.

    By scaling and squaring: the velocity is divided by ``2 ** steps`` and the small displacement
    composed with itself that often. For smooth velocities the result does not fold.

    Args:
        steps: number of squarings.

    Shapes:
        velocity: (B, 2 or 3, X, Y[, Z]) in voxels; returns the displacement, float32, likewise.

    Reference:
        Arsigny et al. 2006, A log-Euclidean framework for statistics on diffeomorphisms; MONAI's
        ``DVF2DDF`` computes it.
    """

    def __init__(self, steps: int) -> None:
        from monai.networks.blocks import DVF2DDF

        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.integrate = DVF2DDF(steps, padding_mode="border")

    def forward(self, velocity: Tensor) -> Tensor:
        layer = self.integrate.warp_layer
        layer.ref_grid = None
        with torch.autocast(velocity.device.type, enabled=False):
            displacement: Tensor = self.integrate(velocity.float())
        layer.ref_grid = None
        return displacement


def jacobian_determinant(displacement: Tensor) -> Tensor:
    """Change of volume at each voxel by ``x + displacement(x)``; above 0 where nothing folds.

    Args:
        displacement: (B, 2 or 3, X, Y[, Z]) in voxels.

    Returns:
        (B, X, Y[, Z]) float32; 1 where the field is constant.
    """
    dims = displacement.ndim - 2
    slopes = torch.gradient(displacement.float(), dim=list(range(2, 2 + dims)))
    matrix = torch.stack(slopes, dim=-1).movedim(1, -2)  # (B, X, Y[, Z], component, axis)
    return torch.linalg.det(matrix + torch.eye(dims, device=displacement.device))
