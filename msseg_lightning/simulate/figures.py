"""Figures and table of docs/simulation.md.

``python -m msseg_lightning.simulate.figures COHORT OPEN_MS OUT`` with a folder of the ``challenge``
preset (some patients are enough), a copy of open_ms and the folder for the pictures.
"""

from __future__ import annotations

import csv
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msseg_lightning.simulate.cohort import summarise
from msseg_lightning.simulate.head import load_head
from msseg_lightning.simulate.lesion import Lesion, draw_lesions
from msseg_lightning.simulate.lesion_prior.statistics import QUANTILES, shipped_statistics
from msseg_lightning.simulate.measure import BINS, ScanMeasures, measure_scan
from msseg_lightning.simulate.plan import plan_patient
from msseg_lightning.simulate.recipe import CohortRecipe
from msseg_lightning.simulate.scan import scan_visit

Slice = NDArray[np.float32]

SHEET = ((0, 20), (1, 36), (2, 5), (3, 26), (4, 16), (7, 8), (8, 45), (11, -6), (45, 30), (52, 12))
"""Patient (0-based) of the challenge preset and height of the slice, mm above the commissures."""
PAIR_VOXELS = 96
"""Edge of the part of a slice that the picture of a pair shows."""
REAL_MNI = (("patient07", 100), ("patient19", 95), ("patient26", 88), ("patient07", 84))
REAL_RAW = (
    ("patient01/study1", 0.56),
    ("patient01/study2", 0.62),
    ("patient03/study1", 0.55),
    ("patient04/study1", 0.62),
    ("patient09/study2", 0.58),
    ("patient12/study2", 0.66),
)


def _load(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Data and affine in RAS order."""
    import nibabel

    image = nibabel.funcs.as_closest_canonical(nibabel.nifti1.Nifti1Image.from_filename(path))
    return np.asarray(image.dataobj, np.float32), np.asarray(image.affine, np.float64)


def _save(figure: Any, path: Path, dpi: int, few_colours: bool = True) -> None:
    """Write a picture; 64 colours are a third of the size and no visible loss in grey scans."""
    import io

    from matplotlib import pyplot
    from PIL import Image

    from msseg_lightning.core.files import atomic_write

    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=dpi, facecolor=figure.get_facecolor(), format="png")
    pyplot.close(figure)
    buffer.seek(0)
    with Image.open(buffer) as image, atomic_write(path) as temporary:
        shown = image.convert("RGB")
        if few_colours:
            shown = shown.quantize(64)
        shown.save(temporary, format="PNG", optimize=True)


def _crop(image: Slice) -> Slice:
    """Crop an image to the head."""
    from scipy import ndimage

    inside = ndimage.gaussian_filter(image, 2) > 0.06 * np.percentile(image, 99.5)
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _show(axes: Any, image: Slice, aspect: float = 1.0, top: float | None = None) -> None:
    if top is None:
        top = float(np.percentile(image[image > 0.3 * np.percentile(image, 99)], 99.2)) * 1.15
    axes.imshow(np.rot90(image), cmap="gray", vmin=0, vmax=top, aspect=aspect)
    axes.axis("off")


def simulated_slice(index: int, height_mm: float, seed: int = 0) -> Slice:
    """An axial slice of a patient of the challenge preset; only a slab is rendered."""
    recipe = dataclasses.replace(
        CohortRecipe(), centre_mm=(0.0, -12.0, height_mm), field_of_view_mm=(192.0, 240.0, 24.0)
    )
    grid, raw = scan_visit(plan_patient(recipe, seed, index), 0)
    middle = grid.shape[2] // 2
    # half a voxel of linear interpolation, as the halfway registration does
    return 0.5 * (raw[:, :, middle] + raw[:, :, middle - 1])


def contact_sheet(open_ms: Path, path: Path) -> None:
    """Plot ten simulated and ten real slices."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(4, 5, figsize=(12, 11.6), facecolor="black")
    for axis, (index, height) in zip(axes[:2].ravel(), SHEET, strict=True):
        _show(axis, _crop(simulated_slice(index, height)))
    panels = axes[2:].ravel()
    for axis, (patient, plane) in zip(panels[:4], REAL_MNI, strict=True):
        folder = open_ms / "cross_sectional" / "MNI" / patient
        data, _ = _load(next(folder.glob("FLAIR*.nii.gz")))
        _show(axis, _crop(data[:, :, plane]))
    for axis, (name, place) in zip(panels[4:], REAL_RAW, strict=True):
        data, _ = _load(open_ms / "longitudinal" / "raw" / f"{name}_FLAIR.nii.gz")
        _show(axis, _crop(data[:, :, int(place * data.shape[2])]))
    axes[0, 2].set_title("simulated", color="white")
    axes[2, 2].set_title("real (open_ms; the first four skull-stripped)", color="white")
    figure.subplots_adjust(0, 0, 1, 0.97, 0.02, 0.06)
    _save(figure, path, 58)


def real_measures(open_ms: Path) -> dict[str, ScanMeasures]:
    """Measure the 3D FLAIR scans of open_ms with masks, and the raw 2D scans without."""
    from scipy import ndimage

    found = {}
    for folder in sorted((open_ms / "cross_sectional" / "MNI").iterdir()):
        for file in folder.glob("FLAIR*.nii.gz"):
            data, affine = _load(file)
            mask, _ = _load(next(folder.glob("GOLD*.nii.gz")))
            brain = ndimage.binary_fill_holes(data > 5)
            voxel = float(abs(np.linalg.det(affine[:3, :3])))
            found[folder.name] = measure_scan(data, brain, mask > 0.5, voxel)
    for file in sorted((open_ms / "longitudinal" / "raw").glob("*/*.nii.gz")):
        data, affine = _load(file)
        bright = ndimage.binary_opening(data > 0.35 * np.percentile(data, 99), iterations=2)
        labels, _ = ndimage.label(ndimage.binary_erosion(bright, iterations=2))
        brain = labels == np.argmax(np.bincount(labels.ravel())[1:]) + 1
        voxel = float(abs(np.linalg.det(affine[:3, :3])))
        found[f"{file.parent.name} {file.stem[:6]}"] = measure_scan(data, brain, None, voxel)
    return found


def simulated_measures(cohort: Path) -> dict[str, ScanMeasures]:
    """Measure both visits of every patient of a cohort."""
    found = {}
    for folder in sorted(path.parent for path in cohort.glob("*/patient.json")):
        brain, _ = _load(folder / "brain_mask.nii.gz")
        for visit in ("1", "2"):
            data, affine = _load(folder / f"flair_time0{visit}_on_middle_space.nii.gz")
            mask, _ = _load(folder / f"lesions_time0{visit}.nii.gz")
            voxel = float(abs(np.linalg.det(affine[:3, :3])))
            found[f"{folder.name} {visit}"] = measure_scan(data, brain, mask, voxel)
    return found


def _drawn(recipe: CohortRecipe, seed: int) -> list[tuple[Lesion, ...]]:
    return [
        draw_lesions(recipe, shipped_statistics(), load_head(), seed, index)
        for index in range(recipe.train)
    ]


def statistics_figure(
    simulated: Mapping[str, ScanMeasures], real: Mapping[str, ScanMeasures], path: Path
) -> None:
    """Plot counts, volumes, contrast, noise and intensity of simulated and real scans."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn, statistics = _drawn(CohortRecipe(), 0), shipped_statistics()
    new = [[lesion for lesion in patient if lesion.fate == "new"] for patient in drawn]
    figure, axes = pyplot.subplots(2, 3, figsize=(12, 6.6))
    simulated_colour, real_colour = "#2a6f97", "#c44536"

    counts = sorted(len(lesions) for lesions in new)
    axes[0, 0].bar(range(len(counts)), counts, color=simulated_colour)
    axes[0, 0].set(title="new lesions of each training patient", xlabel="40 patients, sorted")
    axes[0, 0].annotate(
        f"{counts.count(0)} none (challenge: 11)\n{counts.count(1)} one (challenge: 9)\n"
        f"{sum(counts)} in all (challenge: 153)\nmost {counts[-1]} (challenge: 32)",
        (1, 0.55 * counts[-1]),
    )
    volumes = np.sort([lesion.volume_mm3 for lesions in new for lesion in lesions])
    share = (np.arange(len(volumes)) + 0.5) / len(volumes)
    axes[0, 1].plot(volumes, share, color=simulated_colour, label="new, simulated (drawn)")
    axes[0, 1].plot(
        statistics.changed_volumes_mm3, QUANTILES, color=real_colour, label="changed, open_ms"
    )
    axes[0, 1].set(title="volume of new lesions", xlabel="mm3", xscale="log")
    volumes = np.sort(np.concatenate([scan.volumes_mm3 for scan in simulated.values()]))
    share = (np.arange(len(volumes)) + 0.5) / len(volumes)
    axes[0, 2].plot(volumes, share, color=simulated_colour, label="all, simulated (rendered)")
    axes[0, 2].plot(statistics.volumes_mm3, QUANTILES, color=real_colour, label="all, open_ms")
    axes[0, 2].set(title="volume of all lesions", xlabel="mm3", xscale="log")

    bins = np.linspace(0.9, 2.0, 45)
    with_masks = [scan for scan in real.values() if scan.contrasts.size]
    for scans, colour, label in (
        (list(simulated.values()), simulated_colour, "simulated"),
        (with_masks, real_colour, "open_ms, 3D FLAIR"),
    ):
        contrasts = np.concatenate([scan.contrasts for scan in scans])
        axes[1, 0].hist(
            contrasts, bins, density=True, histtype="step", color=colour, label=label, lw=1.5
        )
        histogram = np.mean([scan.histogram for scan in scans], axis=0)
        axes[1, 2].plot(0.5 * (BINS[1:] + BINS[:-1]), histogram, color=colour, label=label)
    axes[1, 0].set(title="mean signal of each lesion", xlabel="over white matter")
    axes[1, 2].set(title="intensity in the brain mask", xlabel="over white matter")
    for place, (group, colour) in enumerate(((simulated, simulated_colour), (real, real_colour))):
        noise = [100 * scan.noise for scan in group.values()]
        spread = np.linspace(-0.2, 0.2, len(noise))
        axes[1, 1].scatter(place + spread, noise, color=colour, s=14)
    axes[1, 1].set(title="noise, % of white matter", xticks=[0, 1], ylim=(0, None))
    axes[1, 1].set_xticklabels(["simulated", "open_ms"])
    for axis in (axes[0, 1], axes[0, 2], axes[1, 0], axes[1, 2]):
        axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    _save(figure, path, 80)


def pair_figure(folder: Path, path: Path) -> None:
    """Plot one pair: baseline, follow-up, difference and reference."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    first, second, new, later, agreed, brain = (
        _load(folder / f"{name}.nii.gz")[0]
        for name in (
            "flair_time01_on_middle_space",
            "flair_time02_on_middle_space",
            "true_new_lesions",
            "lesions_time02",
            "ground_truth",
            "brain_mask",
        )
    )
    inside = brain > 0
    slope = np.median(first[inside]) / np.median(second[inside])
    difference = second * slope - first
    planes = np.argsort(new.sum((0, 1)))[::-1]
    chosen: list[int] = []
    for plane in planes:
        if (
            new[:, :, plane].any()
            and all(abs(int(plane) - other) > 8 for other in chosen)
            and len(chosen) < 3
        ):
            chosen.append(int(plane))
    figure, axes = pyplot.subplots(
        max(len(chosen), 1), 4, figsize=(12, 3.8 * max(len(chosen), 1)), squeeze=False
    )
    top = float(np.percentile(first[inside], 99.7))
    for row, plane in zip(axes, chosen, strict=False):  # one empty row for a pair without any
        edge = min(PAIR_VOXELS, *new.shape[:2])
        middle = np.argwhere(new[:, :, plane] > 0).mean(0)
        low = np.clip(np.rint(middle - edge / 2), 0, np.array(new.shape[:2]) - edge).astype(int)
        x, y = slice(low[0], low[0] + edge), slice(low[1], low[1] + edge)
        _show(row[0], first[x, y, plane], top=top)
        _show(row[1], second[x, y, plane] * slope, top=top)
        row[2].imshow(
            np.rot90(difference[x, y, plane]), cmap="gray", vmin=-0.4 * top, vmax=0.4 * top
        )
        _show(row[3], second[x, y, plane] * slope, top=top)
        for mask, colour in (
            (later * (1 - new), "#35c2e0"),
            (new, "#ff4d4d"),
            (agreed, "#ffe14d"),
        ):
            if mask[x, y, plane].any():
                row[3].contour(np.rot90(mask[x, y, plane]), [0.5], colors=colour, linewidths=1.4)
        row[2].axis("off")
    for axis, title in zip(
        axes[0],
        ("baseline", "follow-up", "difference", "new red, consensus yellow, old blue"),
        strict=True,
    ):
        axis.set_title(title)
    figure.subplots_adjust(0, 0, 1, 0.96, 0.01, 0.02)
    _save(figure, path, 46, few_colours=False)


def table(
    simulated: Mapping[str, ScanMeasures], real: Mapping[str, ScanMeasures], cohort: Path
) -> str:
    """Markdown table of simulated figures beside the challenge's and open_ms's."""
    drawn = summarise(CohortRecipe(), 0)
    recipe = CohortRecipe()
    new = [lesion for patient in _drawn(recipe, 0) for lesion in patient if lesion.fate == "new"]
    share = sum(lesion.volume_mm3 for lesion in new) / recipe.train
    share /= float(np.prod(recipe.field_of_view_mm))
    with (cohort / "lesions.tsv").open(encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream, delimiter="\t") if row["fate"] == "new"]
    accepted = sum(row["in_consensus"] == "1" for row in rows)

    def span(values: Sequence[float], digits: int = 2) -> str:
        low, middle, high = np.percentile(values, [5, 50, 95])
        return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"

    simulated_scans = list(simulated.values())
    real_scans = [scan for scan in real.values() if scan.contrasts.size]
    contrast = [
        np.concatenate([s.contrasts for s in scans]).tolist()
        for scans in (simulated_scans, real_scans)
    ]
    volume = [
        np.concatenate([s.volumes_mm3 for s in scans]).tolist()
        for scans in (simulated_scans, real_scans)
    ]
    statistics = shipped_statistics()
    changed = statistics.changed_volumes_mm3[[5, 50, 95]]
    lines = [
        ("figure", "simulated", "real"),
        ("---", "---", "---"),
        ("training patients without new lesions", f"{drawn['without']} of 40", "11 of 40"),
        ("with exactly one", f"{drawn['with_one']} of 40", "9 of 40"),
        ("new lesions in 40 patients", f"{drawn['new']}", "153"),
        ("most in one patient", f"{drawn['most']}", "32"),
        (
            "volume of a new lesion, median, mm3",
            f"{drawn['median_mm3']:.0f} (mean {drawn['mean_mm3']:.0f})",
            f"changed lesions of open_ms: {changed[1]:.0f} ({changed[0]:.0f}-{changed[2]:.0f})",
        ),
        ("share of new-lesion voxels", f"{100 * share:.4f} %", "about 0.005 %"),
        (f"new lesions that reach the consensus (of {len(rows)})", f"{accepted}", "-"),
        ("volume of any lesion, mm3", span(volume[0], 0), span(volume[1], 0)),
        ("lesion over white matter", span(contrast[0]), span(contrast[1])),
        (
            "noise over white matter",
            span([scan.noise for scan in simulated_scans], 3),
            span([scan.noise for scan in real.values()], 3),
        ),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def main(cohort: Path, open_ms: Path, out: Path) -> None:
    """Write all figures and the table."""
    out.mkdir(parents=True, exist_ok=True)
    contact_sheet(open_ms, out / "simulation_contact_sheet.png")
    simulated, real = simulated_measures(cohort), real_measures(open_ms)
    statistics_figure(simulated, real, out / "simulation_statistics.png")
    folders = sorted(path.parent for path in cohort.glob("*/patient.json"))
    loads = [float(_load(folder / "true_new_lesions.nii.gz")[0].sum()) for folder in folders]
    pair_figure(folders[int(np.argmax(loads))], out / "simulation_pair.png")
    sys.stdout.write(table(simulated, real, cohort))


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    main(*(Path(word) for word in sys.argv[1:]))
