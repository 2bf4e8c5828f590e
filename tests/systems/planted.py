"""Patients with old and new lesions, one of whom has a lesion that only memory can mark.

And what a system of several stages must do with them: each pair gets its images from networks that
were trained without its patient.
"""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

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

    def write_four(self, folder: Path) -> None:
        """Write four patients: the first one planted, the last without new lesions."""
        for index in range(4):
            self.write(folder, f"00{index + 1}", new=int(index < 3), planted=index == 0)

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


def settings(work: Path) -> list[str]:
    """Words of the tiny size on the patients in ``work/data``."""
    return [
        "size=tiny",
        f"read.root={work / 'data'}",
        "read.need_all_raters=false",
        f"paths.cache={work / 'cache'}",
        "track=off",
        "data.workers=1",
        "trainer.accelerator=cpu",
    ]


def with_images(network, subject):
    """The prepared pair with the images that earlier stages make for a network."""
    prepared = network.cache.prepare([subject])[0]
    for image in network.derived:
        prepared = image.add(prepared)
    return prepared


def check_only_memory_marks(stage, maps, prepared, spot, image: str, memorised: float = 0.5):
    """The planted lesion is marked by the network that saw it, which does not make the image.

    Args:
        stage: fitted out of fold.
        maps: a network and a prepared pair -> the stage's map.
        prepared: the planted pair with its images.
        spot: voxels of the planted lesion.
        image: name of the image that the later stage is given.
        memorised: least mean probability that shows memory.
    """
    at_spot = {
        "001" in source.patients: float(maps(source.network(), prepared)[spot].mean())
        for source in stage.sources
    }
    assert at_spot[True] > memorised, f"the network that saw the plant has memorised it {at_spot}"
    assert at_spot[False] < 0.1, f"and no other {at_spot}"
    stored = float(prepared.image(image)[spot].mean())
    assert stored == pytest.approx(at_spot[False], abs=1e-3)


def check_audit(file: Path, subjects) -> list[dict[str, str]]:
    """The table names for every pair a network of two patients that left its patient out."""
    rows = rows_of(file)
    assert sorted(row["pair"] for row in rows) == [subject.id for subject in subjects]
    for row in rows:
        assert row["saw_this_patient"] == "False"
        assert row["patient"] not in row["trained_on"].split()
        assert len(row["trained_on"].split()) == 2
    return rows


def rows_of(file: Path) -> list[dict[str, str]]:
    """Rows of a table."""
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))
