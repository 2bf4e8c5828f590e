"""Preparing a pair: rigid registration and bias correction against SimpleITK.

On a synthetic head of 1 mm whose motion and coil field are known, both contenders are timed in turn
and judged by what they leave: mean distance of brain voxels in mm, deviation of the log field. A
limit holds only where ours is no worse. On the real pairs of open_ms (``data/open_ms`` below the
folder ``MSSEG_SHARED``) registrations are compared with the one published with the data, and fields
with ITK's, next to how much ITK's differ from themselves at another thinning.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks import harness
from benchmarks.harness import ROOT, Row
from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.volume import Affine, Grid, Volume
from msseg_lightning.preprocess.bias import itk_log_field
from msseg_lightning.preprocess.fast_n4 import Sharpening, fast_log_field
from msseg_lightning.preprocess.fast_rigid import about_centre, fast_rigid, rigid_matrix
from msseg_lightning.preprocess.register import linear_registration, shift_between
from msseg_lightning.preprocess.space import resample_array

REAL = ("01", "03", "12")
N4_SETTINGS = ((50, 50, 50, 50), Sharpening(), 1e-3, 4)
SLACK = 1.1
"""Ours may be worse by this factor: medians of noisy measures."""


@dataclasses.dataclass(frozen=True)
class Head:
    """A synthetic pair with known truth.

    Args:
        fixed: baseline.
        moving: follow-up on the same grid, moved, with a new lesion and noise of its own.
        biased: baseline under the coil field.
        brain: (X, Y, Z) bool.
        way: (4, 4) true motion, fixed world -> moving world.
        field: (X, Y, Z) true log field.
    """

    fixed: Volume
    moving: Volume
    biased: NDArray[np.float32]
    brain: NDArray[np.bool_]
    way: Affine
    field: NDArray[np.float64]

    def distance_mm(self, found: Affine) -> float:
        """Mean registration error of brain voxels in mm."""
        points = np.argwhere(self.brain)[::199].astype(float)
        gap = points @ (found - self.way)[:3, :3].T + (found - self.way)[:3, 3]
        return float(np.linalg.norm(gap, axis=1).mean())

    def deviation(self, field: NDArray[np.floating]) -> float:
        """Standard deviation of the error of a log field in the brain."""
        return float(np.std((field - self.field)[self.brain]))


def head(shape: tuple[int, int, int]) -> Head:
    """Three tissues in an ellipsoid; the motion is about 7 mm."""
    draw = keyed_generator("benchmark preprocessing")
    grid = np.meshgrid(*[np.linspace(-1, 1, edge) for edge in shape], indexing="ij")
    brain = sum((axis / 0.8) ** 2 for axis in grid) <= 1
    coarse = ndimage.gaussian_filter(draw.normal(size=[edge // 8 + 2 for edge in shape]), 1.0)
    zoom = [edge / size for edge, size in zip(shape, coarse.shape, strict=True)]
    classes = ndimage.zoom(coarse, zoom, order=1)[: shape[0], : shape[1], : shape[2]]
    tissue = np.select([classes < -0.12, classes < 0.12], [60.0, 110.0], 150.0)
    tissue = ndimage.gaussian_filter(tissue, 0.7) * brain
    centre = (np.array(shape) - 1) / 2
    way = about_centre(rigid_matrix(np.array([0.05, -0.04, 0.06, 3.0, -4.0, 2.5])), centre)
    lesioned = tissue.copy()
    x, y, z = (int(edge * share) for edge, share in zip(shape, (0.4, 0.5, 0.55), strict=True))
    lesioned[x - 4 : x + 4, y - 3 : y + 3, z - 3 : z + 3] += 60
    there = Grid(shape, np.eye(4))
    moved = resample_array(
        lesioned.astype(np.float32), np.eye(4), there, to_source=np.linalg.inv(way)
    )
    inside = moved > 30
    moving = np.clip(moved + draw.normal(0, 4, shape), 0, None) * inside
    fixed = np.clip(tissue + draw.normal(0, 4, shape), 0, None) * brain
    field = 0.25 * grid[0] - 0.2 * grid[1] ** 2 + 0.15 * grid[2] * grid[0]
    return Head(
        Volume(fixed.astype(np.float32), np.eye(4)),
        Volume(moving.astype(np.float32), np.eye(4)),
        (fixed * np.exp(field)).astype(np.float32),
        brain,
        way,
        field,
    )


def itk_rigid(pair: Head) -> Callable[[], Affine]:
    """SimpleITK as its users run it: Mattes information of a tenth of the voxels, three levels."""
    import SimpleITK as sitk  # noqa: N813

    fixed, moving = (
        sitk.GetImageFromArray(np.asarray(volume.data).transpose(2, 1, 0))
        for volume in (pair.fixed, pair.moving)
    )

    def run() -> Affine:
        method = sitk.ImageRegistrationMethod()
        method.SetMetricAsMattesMutualInformation(50)
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(0.1, 1)
        method.SetInterpolator(sitk.sitkLinear)
        method.SetOptimizerAsRegularStepGradientDescent(2.0, 1e-3, 100)
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetShrinkFactorsPerLevel([4, 2, 1])
        method.SetSmoothingSigmasPerLevel([2, 1, 0])
        start = sitk.CenteredTransformInitializer(
            fixed,
            moving,
            sitk.Euler3DTransform(),
            sitk.CenteredTransformInitializerFilter.GEOMETRY,
        )
        method.SetInitialTransform(start, inPlace=False)
        found = method.Execute(fixed, moving)
        corners = [found.TransformPoint(point) for point in ([0.0] * 3, *np.eye(3).tolist())]
        matrix = np.eye(4)
        matrix[:3, 3] = corners[0]
        matrix[:3, :3] = np.subtract(corners[1:], corners[0]).T
        return matrix

    return run


def judged(row: Row, ours: float, peer: float, unit: str) -> Row:
    """A row that holds only where ours is no worse than the peer's result."""
    note = f"left: {ours:.3g} {unit}, peer's {peer:.3g} {unit}; {row.note}"
    worse = ours > SLACK * peer
    return dataclasses.replace(row, note=note, holds=row.holds and not worse)


def registration(pair: Head, rounds: int) -> tuple[Row, dict[str, Any]]:
    runs: dict[str, Callable[[], Affine]] = {
        "ours": lambda: fast_rigid(pair.fixed, pair.moving, [np.eye(4)])[0],
        "SimpleITK": itk_rigid(pair),
    }
    left = {name: pair.distance_mm(run()) for name, run in runs.items()}
    found = harness.alternate(runs, rounds)
    row = Row.faster(
        "rigid registration of a pair",
        found["ours"].cpu_s * 1e3,
        found["SimpleITK"].cpu_s * 1e3,
        30,
        note=f"SimpleITK, mutual information; spread {found['ours'].spread:.0%}",
    )
    return judged(row, left["ours"], left["SimpleITK"], "mm"), dict(found)


def bias(pair: Head, rounds: int) -> tuple[Row, dict[str, Any]]:
    def run(engine: Callable[..., NDArray[np.float32]]) -> Callable[[], NDArray[np.float32]]:
        return lambda: engine(pair.biased, pair.brain, (4, 4, 4), *N4_SETTINGS)

    runs = {"ours": run(fast_log_field), "SimpleITK": run(itk_log_field)}
    left = {name: pair.deviation(contender()) for name, contender in runs.items()}
    found = harness.alternate(runs, rounds)
    row = Row.faster(
        "bias correction, N4 of every fourth voxel",
        found["ours"].cpu_s * 1e3,
        found["SimpleITK"].cpu_s * 1e3,
        8,
        note=f"SimpleITK N4; spread {found['ours'].spread:.0%}",
    )
    return judged(row, left["ours"], left["SimpleITK"], "of the log field"), dict(found)


# ---------------------------------------------------------------- real scans
def itk_affine(file: Path) -> Affine:
    """(4, 4) of an ITK text transform, between RAS worlds."""
    lines = dict(
        line.split(": ", 1)
        for line in file.read_text(encoding="ascii").splitlines()
        if ": " in line
    )
    numbers = np.array(lines["Parameters"].split(), float)
    centre = np.array(lines["FixedParameters"].split(), float)
    matrix = np.eye(4)
    matrix[:3, :3] = numbers[:9].reshape(3, 3)
    matrix[:3, 3] = numbers[9:] + centre - matrix[:3, :3] @ centre
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    return np.asarray(flip @ matrix @ flip)


def real_rows(folder: Path) -> list[Row]:
    """Both methods on real scans, one row each."""
    import nibabel
    from skimage.filters import threshold_otsu

    ours_mm, peers_mm, differences, habits = [], [], [], []
    for name in REAL:
        scans = []
        for study in (1, 2):
            image = nibabel.load(
                folder / f"longitudinal/raw/patient{name}/study{study}_FLAIR.nii.gz"
            )
            scans.append(Volume(np.asarray(image.dataobj, np.float32), image.affine))
        place = folder / "longitudinal/coregistered" / f"patient{name}"
        common = nibabel.load(place / "brainmask.nii.gz")
        points = np.argwhere(np.asarray(common.dataobj) > 0)[::997]
        world = points @ common.affine[:3, :3].T + common.affine[:3, 3]
        first, second = (
            world @ way[:3, :3].T + way[:3, 3]
            for way in (
                itk_affine(place / f"study{study}_FLAIR_to_common_space.txt") for study in (1, 2)
            )
        )

        def distance(way: Affine, first: Any = first, second: Any = second) -> float:
            gap = first @ way[:3, :3].T + way[:3, 3] - second
            return float(np.linalg.norm(gap, axis=1).mean())

        guesses = [np.eye(4), shift_between(*scans)]
        ours_mm.append(distance(fast_rigid(*scans, guesses)[0]))
        peers_mm.append(distance(linear_registration(*scans, "rigid", guesses)))

        scan = scans[0]
        data = np.asarray(scan.data, np.float32)
        mask = data > threshold_otsu(data, 200)
        fields = {
            (engine.__name__, shrink): engine(
                data, mask, thinning(scan.spacing_mm, shrink), *N4_SETTINGS
            )[mask]
            for engine, shrink in ((fast_log_field, 4), (itk_log_field, 4), (itk_log_field, 3))
        }
        itk = fields["itk_log_field", 4]
        differences.append(float(np.std(fields["fast_log_field", 4] - itk)))
        habits.append(float(np.std(fields["itk_log_field", 3] - itk)))
    ours, peer = float(np.mean(ours_mm)), float(np.mean(peers_mm))
    each = ", ".join(f"{a:.2f} ({b:.2f})" for a, b in zip(ours_mm, peers_mm, strict=True))
    difference, habit = float(np.mean(differences)), float(np.mean(habits))
    fields_each = ", ".join(f"{a:.4f} ({b:.4f})" for a, b in zip(differences, habits, strict=True))
    return [
        Row(
            "rigid, three real pairs: distance from the published registration",
            ours,
            peer,
            None,
            "no worse",
            "mm",
            ours <= SLACK * peer,
            f"each, mutual information in brackets: {each}",
        ),
        Row(
            "N4, three real scans: deviation of the log field from ITK's",
            difference,
            habit,
            None,
            "<= 1.5 x ITK's own, every third voxel",
            "",
            difference <= 1.5 * habit,
            f"each, ITK's own in brackets: {fields_each}",
        ),
    ]


def thinning(spacing_mm: tuple[float, ...], shrink: int) -> tuple[int, int, int]:
    """Subsampling factors as in the N4 step."""
    x, y, z = (max(1, round(shrink * min(spacing_mm) / edge)) for edge in spacing_mm)
    return x, y, z


def run(rounds: int = 3, tiny: bool = False) -> dict[str, Any]:
    """Compare both steps; see the module."""
    shape = (64, 72, 64) if tiny else (182, 218, 182)
    pair = head(shape)
    rigid_row, rigid_timing = registration(pair, rounds)
    bias_row, bias_timing = bias(pair, rounds)
    rows, absent = [rigid_row, bias_row], []
    shared = Path(os.environ.get("MSSEG_SHARED", ROOT.parent / "shared")) / "data" / "open_ms"
    if tiny or not shared.is_dir():
        reason = "left out at tiny size" if tiny else "set MSSEG_SHARED to the folder around data/"
        absent.append({"name": "open_ms", "reason": reason})
    else:
        rows += real_rows(shared)
    return {
        "benchmark": "preprocessing",
        "sizes": {"volume": shape},
        "rounds": rounds,
        "tiny": tiny,
        "timings": {
            f"{step}, {name}": vars(timing)
            for step, found in (("rigid", rigid_timing), ("N4", bias_timing))
            for name, timing in found.items()
        },
        "absent": absent,
        "rows": [vars(row) for row in rows],
    }


if __name__ == "__main__":
    harness.main(run, rounds=3)
