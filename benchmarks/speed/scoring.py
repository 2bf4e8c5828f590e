"""Scoring one case: ours against panoptica, cc3d + MONAI and the plain definition.

All contenders score the same synthetic pair in turn (A B C A B C ..) in one process; medians of CPU
seconds are compared, so that a busy neighbour slows all alike. Ours computes the official table,
all distances and every lesion; the peers compute what they have of F1, Dice, HD95, ASSD and
volumes. Peers that are not installed are named as absent.

    python -m benchmarks.speed.scoring                 256^3 with 30 and with 300 lesions, minutes
    python -m benchmarks.speed.scoring --tiny          seconds, to see that it works
"""

from __future__ import annotations

import argparse
import datetime
import gc
import importlib.metadata
import json
import logging
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from msseg_lightning.evaluate.case_score import CaseScore
from msseg_lightning.evaluate.score import score_case

log = logging.getLogger(__name__)

SPACING = (1.0, 1.0, 1.0)
LEAST = {
    30: {"plain scipy definition": 300.0, "panoptica": 50.0, "cc3d + MONAI": 50.0},
    300: {"plain scipy definition": 80.0},
}
"""Lesions -> how many times as long each peer must take at 256^3. The plain definition needs no
package that this project does not need: its rows hold or fall short on every machine."""

Contender = Callable[[], Any]


def run(rounds: int = 5, tiny: bool = False) -> dict[str, Any]:
    """Time all contenders that are installed and check that they agree.

    Raises:
        AssertionError: a contender disagrees about a number it shares with ours.
    """
    logging.getLogger("panoptica").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    sizes = [(64, 6)] if tiny else [(256, 30), (256, 300)]
    cases = [_case(size, lesions, rounds) for size, lesions in sizes]
    packages = ("numpy", "scipy", "numba", "connected-components-3d", "monai", "panoptica", "torch")
    return {
        "benchmark": "scoring",
        "date": datetime.date.today().isoformat(),
        "machine": {"processor": _processor(), "cores": os.cpu_count()},
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in packages},
        "rounds": rounds,
        "tiny": tiny,
        "cases": cases,
    }


def pair(size: int, lesions: int, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """A prediction and its reference: four of five lesions are found, the others invented."""
    rng = np.random.default_rng(seed)
    reference, prediction = np.zeros((2, size, size, size), np.uint8)
    reach = np.array([0.3, 0.36, 0.3]) * size  # half axes of the head, in voxels

    def somewhere() -> np.ndarray:
        while True:
            offset = rng.uniform(-1, 1, 3)
            if (offset**2).sum() <= 1:
                return np.round(size / 2 + offset * reach * 0.9)

    for number in range(lesions):
        centre, radii = somewhere(), rng.uniform(1.6, 5.5, 3)
        _paint(reference, centre, radii)
        if number % 5:
            moved = centre + rng.integers(-1, 2, 3)
            _paint(prediction, moved, radii * rng.uniform(0.8, 1.2))
        else:
            _paint(prediction, somewhere(), rng.uniform(1.6, 5.5, 3))
    return prediction, reference


def _paint(mask: np.ndarray, centre: np.ndarray, radii: np.ndarray) -> None:
    low = np.maximum(np.floor(centre - radii).astype(int), 1)
    high = np.minimum(np.ceil(centre + radii).astype(int) + 1, np.array(mask.shape) - 1)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    places = zip(np.ogrid[box], centre, radii, strict=True)
    mask[box] |= sum(((axis - c) / r) ** 2 for axis, c, r in places) <= 1


def _case(size: int, lesions: int, rounds: int) -> dict[str, Any]:
    prediction, reference = pair(size, lesions)
    ours = score_case(prediction, reference, SPACING)
    contenders: dict[str, Contender] = {
        "ours": lambda: score_case(prediction, reference, SPACING),
    }
    absent = []
    for name, build, check in (
        ("plain scipy definition", _plain, _check_plain),
        ("cc3d + MONAI", _monai, _check_monai),
        ("panoptica", _panoptica, _check_panoptica),
    ):
        try:
            contender = build(prediction, reference)
        except ImportError as error:
            absent.append({"name": name, "reason": str(error)})
            continue
        check(ours, contender())
        contenders[name] = contender
    times = _alternate(contenders, rounds)
    base = times["ours"]["cpu_ms"]
    rows = [{"name": name, **row, "ratio": row["cpu_ms"] / base} for name, row in times.items()]
    return {
        "size": size,
        "lesions": lesions,
        "voxels": {"reference": int(reference.sum()), "prediction": int(prediction.sum())},
        "agreed": [row["name"] for row in rows[1:]],
        "absent": absent,
        "rows": rows,
        "limits": _limits(size, lesions, times),
    }


def _limits(size: int, lesions: int, times: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """Limits at this size."""
    if size != 256:
        return []
    limits = []
    for peer, least in LEAST[lesions].items():
        if peer in times:
            ratio = times[peer]["cpu_ms"] / times["ours"]["cpu_ms"]
            held = ratio >= least
            limits.append({"what": f"x {peer}", "found": ratio, "limit": least, "held": held})
    return limits


def _alternate(contenders: dict[str, Contender], rounds: int) -> dict[str, dict[str, float]]:
    """Median, and spread, of CPU and wall time in ms; one round to warm up."""
    cpu: dict[str, list[float]] = {name: [] for name in contenders}
    wall: dict[str, list[float]] = {name: [] for name in contenders}
    for round_ in range(rounds + 1):
        for name, contender in contenders.items():
            gc.collect()
            began, began_cpu = time.perf_counter(), time.process_time()
            contender()
            ended_cpu, ended = time.process_time(), time.perf_counter()
            if round_:
                cpu[name].append((ended_cpu - began_cpu) * 1000)
                wall[name].append((ended - began) * 1000)
    return {
        name: {
            "cpu_ms": statistics.median(cpu[name]),
            "cpu_min_ms": min(cpu[name]),
            "cpu_max_ms": max(cpu[name]),
            "wall_ms": statistics.median(wall[name]),
        }
        for name in contenders
    }


# ------------------------------------------------------------------------------------ contenders


def _plain(prediction: np.ndarray, reference: np.ndarray) -> Contender:
    """Whole-volume operations, as in the usual challenge script."""
    from scipy import ndimage

    def score() -> dict[str, Any]:
        g, p = reference > 0, prediction > 0
        (lg, ng), (lp, np_) = ndimage.label(g), ndimage.label(p)
        table = np.bincount(
            lg.ravel().astype(np.int64) * (np_ + 1) + lp.ravel(), minlength=(ng + 1) * (np_ + 1)
        ).reshape(ng + 1, np_ + 1)
        cg, cp = g & ~ndimage.binary_erosion(g), p & ~ndimage.binary_erosion(p)
        a = ndimage.distance_transform_edt(~cp)[cg]
        b = ndimage.distance_transform_edt(~cg)[cp]
        return {
            "dice": 2 * table[1:, 1:].sum() / (table[1:].sum() + table[:, 1:].sum()),
            "volumes": sorted(table[1:].sum(1).tolist()),
            "touched": int((table[1:, 1:].sum(1) > 0).sum()),
            "contour_mean": max(a.mean(), b.mean()),
            "assd": (a.sum() + b.sum()) / (a.size + b.size),
            "hd95": max(np.percentile(a, 95), np.percentile(b, 95)),
        }

    return score


def _check_plain(ours: CaseScore, theirs: dict[str, Any]) -> None:
    surface, official = ours.surface, ours.official
    _same("Dice", official["Dice"], theirs["dice"], 1e-12)
    _same("mean contour", official["ContourMeanDistance"], theirs["contour_mean"], 1e-9)
    _same("ASSD", surface["average_symmetric_surface_distance_mm"], theirs["assd"], 1e-9)
    _same("HD95", surface["hausdorff95_mm"], theirs["hd95"], 1e-9)
    assert sorted(lesion.voxels for lesion in ours.reference_lesions) == theirs["volumes"]
    touched = sum(lesion.overlap_voxels > 0 for lesion in ours.reference_lesions)
    assert touched == theirs["touched"]


def _monai(prediction: np.ndarray, reference: np.ndarray) -> Contender:
    import cc3d
    import torch
    from monai.metrics import (
        compute_average_surface_distance,
        compute_dice,
        compute_hausdorff_distance,
    )

    torch.set_num_threads(1)
    p, g = (torch.from_numpy(mask)[None, None].float() for mask in (prediction, reference))

    def score() -> dict[str, float]:
        lg, ng = cc3d.connected_components(
            reference, connectivity=6, return_N=True, binary_image=True
        )
        lp, np_ = cc3d.connected_components(
            prediction, connectivity=6, return_N=True, binary_image=True
        )
        table = np.bincount(
            lg.ravel().astype(np.int64) * (np_ + 1) + lp.ravel(), minlength=(ng + 1) * (np_ + 1)
        ).reshape(ng + 1, np_ + 1)
        arguments = {"y_pred": p, "y": g, "include_background": True}
        return {
            "lesions": ng,
            "touched": int((table[1:, 1:].sum(1) > 0).sum()),
            "dice": float(compute_dice(**arguments)),
            "hd95": float(compute_hausdorff_distance(**arguments, percentile=95)),
            "assd": float(compute_average_surface_distance(**arguments, symmetric=True)),
        }

    return score


def _check_monai(ours: CaseScore, theirs: dict[str, float]) -> None:
    # single precision there
    _same("Dice", ours.official["Dice"], theirs["dice"], 1e-5)
    _same("HD95", ours.surface["hausdorff95_mm"], theirs["hd95"], 1e-5)
    _same("ASSD", ours.surface["average_symmetric_surface_distance_mm"], theirs["assd"], 1e-5)
    assert len(ours.reference_lesions) == theirs["lesions"]


def _panoptica(prediction: np.ndarray, reference: np.ndarray) -> Contender:
    from panoptica import (
        ConnectedComponentsInstanceApproximator,
        InputType,
        NaiveThresholdMatching,
        Panoptica_Evaluator,
    )
    from panoptica.metrics import Metric

    evaluator = Panoptica_Evaluator(
        InputType.SEMANTIC,
        ConnectedComponentsInstanceApproximator(),
        NaiveThresholdMatching(matching_metric=Metric.IOU, matching_threshold=0.1),
        instance_metrics=[Metric.DSC, Metric.IOU, Metric.ASSD, Metric.HD95],
        global_metrics=[Metric.DSC, Metric.HD95],
    )

    def score() -> float:
        result = evaluator.evaluate(prediction, reference, verbose=False)
        result = result["ungrouped"] if isinstance(result, dict) else result
        return float(result.global_bin_dsc)

    return score


def _check_panoptica(ours: CaseScore, theirs: float) -> None:
    # its lesions are 26-connected and matched by overlap ratio, so only the voxels compare
    _same("Dice", ours.official["Dice"], theirs, 1e-9)


def _same(name: str, ours: float | None, theirs: float, tolerance: float) -> None:
    assert ours is not None and abs(ours - theirs) <= tolerance * max(1.0, abs(theirs)), (
        f"{name}: {ours} here, {theirs} there"
    )


# ------------------------------------------------------------------------------------ the machine


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), "")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def table(result: dict[str, Any]) -> str:
    """The result as a text table."""
    lines = []
    for case in result["cases"]:
        lines.append(f"scoring, {case['size']}^3, {case['lesions']} lesions")
        for row in case["rows"]:
            spread = f"{row['cpu_min_ms']:.1f}-{row['cpu_max_ms']:.1f}"
            lines.append(
                f"  {row['name']:<24}{row['cpu_ms']:>10.1f} ms CPU ({spread}){row['ratio']:>9.1f} x"
            )
        lines += [f"  {entry['name']:<24}absent: {entry['reason']}" for entry in case["absent"]]
        lines += [
            f"  {entry['what']}: {entry['found']:.1f}, limit {entry['limit']:g}: "
            + ("held" if entry["held"] else "NOT HELD")
            for entry in case["limits"]
        ]
    return "\n".join(lines)


def main() -> None:
    """Run, show, and write JSON on request."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="small masks, seconds")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    result = run(options.rounds, options.tiny)
    sys.stdout.write(table(result) + "\n")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
