"""Patients with old and new lesions, one of whom has a lesion that only memory can mark."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import nibabel as nib
import numpy as np

from msseg_lightning.core.random import keyed_generator


@dataclasses.dataclass(frozen=True)
class Phantom:
    """A small head of noise in the layout of the challenge, voxels of 3 mm.

    Args:
        key: of the random numbers.
        edge: voxels along each axis.
        margin: voxels around the brain.
        corners: where the lower corners of lesions of 4 voxels lie, low and high (exclusive).
        spot: first voxel, along each axis, of the planted lesion of 5 voxels.
    """

    key: str
    edge: int
    margin: int
    corners: tuple[int, int]
    spot: int

    @property
    def place(self) -> tuple[slice, slice, slice]:
        """Where the planted patient has, at the follow-up, a dark lesion such as nobody else."""
        along = slice(self.spot, self.spot + 5)
        return along, along, along

    def write(self, folder: Path, name: str, new: int, planted: bool = False) -> None:
        """Write a patient: bright old lesions at both visits, bright new ones, perhaps the planted.

        Args:
            folder: of all patients.
            name: of this one.
            new: number of new lesions.
            planted: whether it has the planted one.
        """
        draw, shape = keyed_generator(self.key, name), (self.edge,) * 3
        brain = np.zeros(shape, np.uint8)
        inner = slice(self.margin, -self.margin)
        brain[inner, inner, inner] = 1
        masks = [np.zeros(shape, np.uint8) for _ in range(2)]
        for count, start in ((3, 0), (new, 1)):  # old ones in both, new in the second
            for _ in range(count):
                x, y, z = draw.integers(*self.corners, 3)
                for mask in masks[start:]:
                    mask[x : x + 4, y : y + 4, z : z + 4] = 1
        target = masks[1] & (1 - masks[0])
        scans = [
            (draw.normal(100, 5, shape) * brain + 60 * mask).astype(np.float32) for mask in masks
        ]
        if planted:
            scans[1][self.place] = 20
            masks[1][self.place] = target[self.place] = 1
        volumes = {
            "flair_time01_on_middle_space": scans[0],
            "flair_time02_on_middle_space": scans[1],
            "lesions_time01": masks[0],
            "lesions_time02": masks[1],
            "ground_truth": target,
            "brain_mask": brain,
        }
        affine = np.diag([3.0, 3.0, 3.0, 1.0])
        affine[:3, 3] = -1.5 * self.edge
        (folder / name).mkdir(parents=True)
        for file, data in volumes.items():
            nib.save(nib.Nifti1Image(data, affine), folder / name / f"{file}.nii.gz")
