"""A network trained on simulated scans only, tested on real ones and compared with fixed rules.

A small pre_unet is trained on a simulated cohort of thick slices and applied to the public open_ms
pairs (``msseg predict MODEL read=open_ms``). Its threshold is swept, and so is the rule of
bsi_subtraction; at every setting the lesions of all pairs are matched by the official rules.
The curve is lesion sensitivity over false lesions per pair. Both systems get the brain mask that
comes with the data; what they mark outside of it does not count. A third column is no system: how
many lesions an observer could tell from the rest of the brain at that price who knew the outline of
each beforehand (``benchmarks.studies.rivals``).

    python -m benchmarks.studies.transfer --open-ms PATH --work FOLDER

Every part is kept in the work folder and found again: a stopped run goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.studies.rivals import count_rivals
from msseg_lightning.core.files import write_json
from msseg_lightning.core.lesion import label_lesions
from msseg_lightning.core.subject import (
    BASELINE,
    BRAIN,
    FOLLOWUP,
    TARGET,
    LoadedSubject,
    LongitudinalSubject,
)
from msseg_lightning.core.volume import Volume
from msseg_lightning.evaluate.foreground_runs import describe_components, find_runs
from msseg_lightning.evaluate.lesion_matching import LesionMatch, match_lesions, minimum_voxels
from msseg_lightning.evaluate.score import ScoreOptions, checked_runs, checked_spacing
from msseg_lightning.method.bsi_subtraction import BsiRule, BsiSubtraction
from msseg_lightning.preprocess.crop import bounding_box
from msseg_lightning.read.load import load_subject
from msseg_lightning.read.msseg2 import Msseg2
from msseg_lightning.read.nifti import read_volume
from msseg_lightning.read.open_ms import OpenMs
from msseg_lightning.run.assemble.system import build_cache
from msseg_lightning.run.config.compose import compose_config

log = logging.getLogger("msseg.transfer")

COHORT = (
    "spacing_floor_mm=0.8",  # the working grid is coarser
    "sampling_mm=0.8",
    "train=60",
    "test=4",
    "noise=1.2",
    "lesions.stratum=8",
    "lesions.without_new=0.125",  # many lesions to learn from in few patients
    "lesions.with_one=0.125",
    "lesions.tail=1.5",
    "lesions.touching=0.4",
    "lesions.old_scale=1.0",
    "lesions.new_median_mm3=45",  # of the changed lesions of open_ms
    "change.grow=0",  # open_ms counts growth as change: it may not be taught as background
)
"""Deviations from the preset ``thick_slices``."""
PATIENTS = 26
SPLIT = {
    "train": [f"{number:03d}" for number in range(1, 23)],
    "val": ["023"],
    "test": ["024", "025", "026"],  # simulated pairs for looking at, instead of real ones
}
NETWORK = (
    "size=cpu",
    "preprocess=brain_bias_thick_slices",
    "+network.strides=[1,[2,2,1],2,2]",  # thick slices: first the plane alone
    "+network.kernels=[[3,3,1],3,3,3]",
    "sample.size=[64,64,16]",
    "infer.size=[64,64,16]",
    "loss.loss.terms.dice.reduction=batch",  # marks in a patch without lesions cost something
    "augment.recipe.noise.per_visit=true",  # visits from two scanners
    "augment.recipe.blur.per_visit=true",
    "augment.recipe.gamma.per_visit=true",
    "train.batch_size=2",
    "train.optimizer.lr=3.0e-3",
    "train.checkpoint_minutes=2",
    "trainer.accelerator=cpu",
    "track=off",
    "data.workers=1",
)
"""Deviations from the experiment ``pre_unet``."""
PROBABILITIES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.997)
DEFAULT_PROBABILITY = 0.5
LEAST_MM3 = (0.0, 8.0, 16.0, 32.0)
"""Marks smaller than one of these are dropped; which one is decided on simulated pairs."""
RULES = (
    *(BsiRule(rise_sd=rise) for rise in (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)),
    *(BsiRule(rise_sd=rise, larger_than=20) for rise in (2.0, 3.0, 4.0)),
    *(BsiRule(rise_sd=rise, larger_than=50) for rise in (1.5, 2.0, 3.0, 4.0)),
)
DEFAULT_RULE = BsiRule()
BUDGETS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
"""False lesions per pair at which the systems are compared."""
LARGE_MM3 = 40.0
DISTINCT = 50
"""A lesion with at most this many rivals can be told from the rest of its brain."""
TICKS = (0, 1, 3, 10, 30, 100, 300, 1000)


@dataclasses.dataclass(frozen=True)
class Reference:
    """Reference lesions of one pair, within the box of its brain.

    Args:
        patient: who it is.
        box: of the brain mask, on the native grid.
        brain: mask within the box; what lies outside does not count.
        lesions: new lesions within the box.
        spacing_mm: of the native grid.
        rivals: of each counted lesion, largest first: ``benchmarks.studies.rivals``.
    """

    patient: str
    box: tuple[slice, slice, slice]
    brain: NDArray[np.bool_]
    lesions: NDArray[np.bool_]
    spacing_mm: tuple[float, float, float]
    rivals: NDArray[np.int64]

    @classmethod
    def of(cls, loaded: LoadedSubject, rivals: bool = True) -> Reference:
        """From a loaded pair with a brain mask and a reference; counting rivals takes seconds."""
        brain = loaded.volumes[BRAIN].data != 0
        box = bounding_box(brain)
        assert box is not None, "an empty brain mask"
        x, y, z = (slice(int(low), int(high)) for low, high in zip(*box, strict=True))
        inside = brain[x, y, z]
        lesions = (loaded.volumes[TARGET].data[x, y, z] != 0) & inside
        spacing = loaded.volumes[TARGET].spacing_mm
        bare = cls(loaded.subject.patient, (x, y, z), inside, lesions, spacing, np.zeros(0, int))
        labels = bare.labels()
        count = int(labels.max())
        if not rivals:
            return dataclasses.replace(bare, rivals=np.zeros(count, int))
        before, after = (loaded.volumes[name].data[x, y, z] for name in (BASELINE, FOLLOWUP))
        counted = count_rivals(before, after, inside, labels, count)
        return dataclasses.replace(bare, rivals=counted)

    @property
    def minimum(self) -> int:
        """Voxels of the smallest lesion that counts."""
        x, y, z = checked_spacing(self.spacing_mm)
        return minimum_voxels(ScoreOptions().min_lesion_volume_mm3, x * y * z)

    def matched(self, mask: NDArray[np.bool_]) -> LesionMatch:
        """A mask of the box against the reference, by the official rules."""
        rule = ScoreOptions()
        predicted, true, _ = checked_runs(mask & self.brain, self.lesions)
        return match_lesions(predicted, true, self.minimum, rule.alpha, rule.beta, rule.gamma)

    def labels(self) -> NDArray[np.int64]:
        """Counted lesions within the box, numbered from 1 in the order of ``matched``."""
        runs = find_runs(self.lesions)
        found = describe_components(runs)
        counted = int((found.voxels >= self.minimum).sum())
        flat = np.zeros(self.lesions.size, np.int64)
        for start, stop, number in zip(runs.start, runs.stop, found.of_run, strict=True):
            flat[start:stop] = number + 1 if number < counted else 0
        return flat.reshape(runs.shape, order="F" if runs.x_fastest else "C")

    def match(self, mask: NDArray[np.generic]) -> dict[str, Any]:
        """Lesions counted by the official rules for a mask on the native grid."""
        return self.match_inside(mask[self.box] != 0)

    def volumes_mm3(self) -> NDArray[np.float64]:
        """Of the counted lesions, largest first."""
        return np.bincount(self.labels().ravel())[1:] * math.prod(self.spacing_mm)

    def match_inside(self, mask: NDArray[np.bool_]) -> dict[str, Any]:
        """The same for a mask of the box alone; ``found`` are places in ``volumes_mm3``."""
        found = self.matched(mask)
        distinct = self.rivals <= DISTINCT
        return {
            "found": np.flatnonzero(found.reference_found).tolist(),
            "true": found.reference_counted,
            "detected": int(found.reference_found.sum()),
            "predicted": found.prediction_counted,
            "matched": int(found.prediction_found.sum()),
            "distinct": int(distinct.sum()),
            "distinct_detected": int(found.reference_found[distinct].sum()),
        }


@dataclasses.dataclass(frozen=True)
class Point:
    """One setting of one system on all pairs.

    Args:
        name: of the setting.
        cases: pair -> counts of ``Reference.match``.
    """

    name: str
    cases: Mapping[str, Mapping[str, Any]]

    def sensitivity(self, names: Sequence[str] | None = None) -> float:
        """Detected share of the lesions of all (or some) pairs together."""
        cases = [case for name, case in self.cases.items() if names is None or name in names]
        return sum(c["detected"] for c in cases) / max(1, sum(c["true"] for c in cases))

    def false_per_pair(self) -> float:
        """Mean number of marked lesions that match none."""
        return float(np.mean([c["predicted"] - c["matched"] for c in self.cases.values()]))


def frontier(points: Sequence[Point]) -> list[tuple[float, float]]:
    """(false lesions per pair, sensitivity) of the settings that no other setting beats at both."""
    best, kept = -1.0, []
    for point in sorted(points, key=lambda p: (p.false_per_pair(), -p.sensitivity())):
        if point.sensitivity() > best:
            best = point.sensitivity()
            kept.append((point.false_per_pair(), best))
    return kept


def at_budget(points: Sequence[Point], budget: float) -> Point | None:
    """The most sensitive setting with at most ``budget`` false lesions per pair."""
    allowed = [point for point in points if point.false_per_pair() <= budget]
    return max(allowed, key=Point.sensitivity, default=None)


def make_cohort(folder: Path, workers: int) -> None:
    """The simulated training data; patients that exist already stay."""
    from msseg_lightning.run.data.simulate import load_recipe
    from msseg_lightning.simulate.cohort import write_cohort

    recipe = load_recipe("thick_slices", COHORT)
    write_cohort(folder, recipe, seed=0, workers=workers, indices=range(PATIENTS))


def train(work: Path, steps: int, seed: int) -> Path:
    """Train the network on the cohort, or continue; returns the run folder."""
    from msseg_lightning.run.train.experiment import train_experiment

    write_json(work / "split.json", SPLIT)
    config = compose_config(
        (
            *("read=msseg2", f"read.root={work / 'cohort'}"),
            *("split=file", f"split.path={work / 'split.json'}"),
            *NETWORK,
            *(f"train.steps={steps}", f"train.validate_every={steps}", f"seed={seed}"),
            *(f"paths.runs={work / f'runs-{steps}'}", f"paths.cache={work / 'cache'}"),
        ),
        "pre_unet",
    )
    return train_experiment(config).folder.path


def predict(run: Path, open_ms: Path, work: Path, out: Path) -> None:
    """Masks and maps of the real pairs, as ``msseg predict`` writes them."""
    from msseg_lightning.run.predict.data_set import predict_data_set

    if (out / "scores.json").exists():
        return
    overrides = ["read=open_ms", f"read.root={open_ms}", f"paths.cache={work / 'cache'}"]
    predict_data_set(run / "model", overrides, out)


def real_references(subjects: Sequence[LongitudinalSubject], work: Path) -> dict[str, Reference]:
    """Reference lesions of each real pair; rivals are cached in ``rivals.json``."""
    kept = work / "rivals.json"
    known = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    references: dict[str, Reference] = {}
    for subject in subjects:
        reference = Reference.of(load_subject(subject), rivals=subject.id not in known)
        if subject.id in known:
            rivals = np.asarray(known[subject.id], np.int64)
            reference = dataclasses.replace(reference, rivals=rivals)
        references[subject.id] = reference
        known[subject.id] = reference.rivals.tolist()
        write_json(kept, known)
    return references


def larger(mask: NDArray[np.bool_], voxels: int) -> NDArray[np.bool_]:
    """A mask without components (through faces) of fewer voxels."""
    labels, count = label_lesions(mask)
    keep = np.bincount(labels.ravel(), minlength=count + 1) >= voxels
    keep[0] = False
    return keep[labels]


def network_points(
    out: Path, references: Mapping[str, Reference], least_mm3: float = 0.0
) -> list[Point]:
    """One point per threshold of the probability map, small marks dropped."""
    cases: dict[float, dict[str, dict[str, Any]]] = {value: {} for value in PROBABILITIES}
    for name, reference in references.items():
        probability = read_volume(out / f"{name}_probability.nii.gz", kind="image").data
        probability = np.where(reference.brain, probability[reference.box], 0)
        voxels = math.ceil(least_mm3 / math.prod(reference.spacing_mm))
        for value in PROBABILITIES:
            cases[value][name] = reference.match_inside(larger(probability > value, voxels))
    return [Point(f"probability > {value}", cases[value]) for value in PROBABILITIES]


def least_size(run: Path, cohort: Path) -> tuple[float, dict[str, Any]]:
    """The smallest mark to keep, by the simulated pairs that were held out; and their figures.

    It is the size with the highest sensitivity on average over ``BUDGETS``, the smaller of equals.
    """
    subjects = [s for s in Msseg2(cohort).subjects() if s.id in SPLIT["test"]]
    references = {s.id: Reference.of(load_subject(s), rivals=False) for s in subjects}
    figures: dict[str, Any] = {}
    means = []
    for least in LEAST_MM3:
        points = network_points(run / "predictions", references, least)
        chosen = [at_budget(points, budget) for budget in BUDGETS]
        shares = [0.0 if point is None else point.sensitivity() for point in chosen]
        means.append(float(np.mean(shares)))
        figures[f"{least:g} mm3"] = {
            "sensitivity": dict(zip(map(str, BUDGETS), shares, strict=True)),
            "points": [{"setting": p.name, "cases": p.cases} for p in points],
        }
    return LEAST_MM3[int(np.argmax(means))], figures


def bsi_points(
    open_ms: Path,
    work: Path,
    subjects: Sequence[LongitudinalSubject],
    references: Mapping[str, Reference],
) -> list[Point]:
    """One point per rule of the subtraction; kept in ``bsi.json``."""
    kept = work / "bsi.json"
    if kept.exists():
        return [Point(**point) for point in json.loads(kept.read_text(encoding="utf-8"))]
    overrides = ("read=open_ms", f"read.root={open_ms}", f"paths.cache={work / 'cache'}")
    cache = build_cache(compose_config((*overrides, "data.workers=1"), "bsi_subtraction"))
    cases: dict[BsiRule, dict[str, dict[str, Any]]] = {rule: {} for rule in RULES}
    for subject in subjects:
        cache.prepare([subject])
        for rule in RULES:
            mask = BsiSubtraction(cache, rule).predict(subject).mask
            cases[rule][subject.id] = references[subject.id].match(mask)
        log.info("bsi_subtraction: %s", subject.id)
    points = [
        Point(f"rise_sd {rule.rise_sd}, larger_than {rule.larger_than}", cases[rule])
        for rule in RULES
    ]
    write_json(kept, [dataclasses.asdict(point) for point in points])
    return points


def compared(
    network: Sequence[Point], bsi: Sequence[Point], references: Mapping[str, Reference]
) -> Iterator[dict[str, Any]]:
    """Both systems at equal numbers of false lesions: pooled, and for each patient."""
    patients: dict[str, list[str]] = {}
    for name, reference in references.items():
        patients.setdefault(reference.patient, []).append(name)
    for budget in BUDGETS:
        known = sum(int((reference.rivals <= budget).sum()) for reference in references.values())
        row: dict[str, Any] = {"false_lesions_per_pair": budget, "observer": known}
        for system, points in (("network", network), ("bsi_subtraction", bsi)):
            point = at_budget(points, budget)
            row[system] = (
                None
                if point is None
                else {
                    "setting": point.name,
                    "false_per_pair": point.false_per_pair(),
                    "detected": sum(case["detected"] for case in point.cases.values()),
                    "true": sum(case["true"] for case in point.cases.values()),
                    "sensitivity": point.sensitivity(),
                    "distinct_detected": sum(c["distinct_detected"] for c in point.cases.values()),
                    "distinct": sum(case["distinct"] for case in point.cases.values()),
                    "by_patient": {
                        who: point.sensitivity(pairs) for who, pairs in patients.items()
                    },
                }
            )
        yield row


def lesion_by_lesion(
    network: Sequence[Point], bsi: Sequence[Point], references: Mapping[str, Reference]
) -> dict[str, Any]:
    """Which lesions the systems find at equal numbers of false ones, and of what size they are."""
    answer: dict[str, Any] = {}
    for budget in BUDGETS:
        points = {"network": at_budget(network, budget), "bsi_subtraction": at_budget(bsi, budget)}
        found = {
            system: {
                (pair, lesion) for pair, case in point.cases.items() for lesion in case["found"]
            }
            for system, point in points.items()
            if point is not None
        }
        if len(found) < len(points):
            continue
        volumes = {pair: reference.volumes_mm3() for pair, reference in references.items()}
        lesions = [(pair, lesion) for pair in volumes for lesion in range(len(volumes[pair]))]
        ours, theirs = found["network"], found["bsi_subtraction"]
        sizes = {lesion: float(volumes[lesion[0]][lesion[1]]) for lesion in lesions}
        large = {lesion for lesion in lesions if sizes[lesion] >= LARGE_MM3}
        answer[str(budget)] = {
            "by_network_alone": len(ours - theirs),
            "by_bsi_subtraction_alone": len(theirs - ours),
            "median_mm3_found": float(np.median([sizes[lesion] for lesion in ours])),
            "median_mm3_missed": float(np.median([sizes[x] for x in lesions if x not in ours])),
            f"of_at_least_{LARGE_MM3:g}_mm3": [len(large), len(large & ours), len(large & theirs)],
            "by_pair": {pair: sum(x[0] == pair for x in ours) for pair in volumes},
        }
    return answer


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The comparison as a table."""

    def cell(entry: Mapping[str, Any] | None) -> str:
        if entry is None:
            return "no setting"
        share = f"{entry['detected']} of {entry['true']} ({entry['sensitivity']:.2f})"
        distinct = f"{entry['distinct_detected']} of {entry['distinct']}"
        return f"{share}; {', '.join(f'{v:.2f}' for v in entry['by_patient'].values())}; {distinct}"

    lines = [
        "| false lesions per pair, at most | network | bsi_subtraction | knowing observer |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['false_lesions_per_pair']:g} | {cell(row['network'])} "
        f"| {cell(row['bsi_subtraction'])} | {row['observer']} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def draw(network: Sequence[Point], bsi: Sequence[Point], title: str, path: Path) -> None:
    """Both curves, every setting as a dot, the settings fixed beforehand as large ones."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6.4, 4.4))
    fixed = {
        f"probability > {DEFAULT_PROBABILITY}",
        f"rise_sd {DEFAULT_RULE.rise_sd}, larger_than {DEFAULT_RULE.larger_than}",
    }
    for points, colour, label in (
        (network, "#0072b2", "pre_unet, trained on simulated pairs only"),
        (bsi, "#d55e00", "bsi_subtraction, nothing learned"),
    ):
        x, y = np.array(frontier(points)).T
        axis.step(x, y, where="post", color=colour, label=label)
        axis.scatter(
            [p.false_per_pair() for p in points],
            [p.sensitivity() for p in points],
            s=[60 if p.name in fixed else 9 for p in points],
            color=colour,
            alpha=0.7,
        )
    axis.set(
        xscale="symlog",
        xlim=(0, None),
        ylim=(0, 1),
        xlabel="false lesions per pair",
        ylabel="detected share of new lesions",
        title=title,
    )
    axis.set_xticks(TICKS, labels=TICKS)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def picture(load: Callable[[], LoadedSubject], out: Path, reference: Reference, path: Path) -> None:
    """A real lesion that was found: baseline, follow-up, difference, outlines.

    The lesion of median volume among those the network found at its default threshold.
    """
    from PIL import Image

    from msseg_lightning.report.picture import CasePictures, CaseVolumes

    loaded = load()
    name = loaded.subject.id
    mask = read_volume(out / f"{name}.nii.gz", kind="mask")
    true = loaded.volumes[TARGET]
    labels, count = label_lesions(true.data != 0)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    shared = np.bincount(labels[mask.data != 0], minlength=count + 1)
    found = [label for label in range(1, count + 1) if shared[label] >= 0.3 * sizes[label]]
    if not found:
        log.warning("no lesion of %s was found: no picture", name)
        return
    chosen = sorted(found, key=lambda label: int(sizes[label]))[len(found) // 2]
    centre = np.argwhere(labels == chosen).mean(0)
    point = true.affine[:3, :3] @ centre + true.affine[:3, 3]
    volumes = CaseVolumes(
        loaded.volumes[BASELINE],
        loaded.volumes[FOLLOWUP],
        mask,
        Volume(true.data, true.affine, "mask"),
        brain=loaded.volumes[BRAIN],
    )
    drawn = Image.fromarray(CasePictures(volumes).lesion(point))
    drawn.quantize(96).save(path, optimize=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulate, train, predict, compare, draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--open-ms", type=Path, required=True, help="holds longitudinal/")
    parser.add_argument("--work", type=Path, required=True, help="cohort, cache, run, results")
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--images", type=Path, help="where the figures go; the work folder's own")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    work, images = options.work, options.images or options.work / "images"

    seconds: dict[str, float] = {}

    def timed(name: str, part: Callable[[], Any]) -> Any:
        begun = sum(os.times()[:4])
        answer = part()
        seconds[name] = round(sum(os.times()[:4]) - begun, 1)
        log.info("%s: %.0f CPU seconds", name, seconds[name])
        return answer

    begun = time.monotonic()
    timed("simulate", lambda: make_cohort(work / "cohort", options.workers))
    run = timed("train", lambda: train(work, options.steps, options.seed))
    out = work / f"predictions-{options.steps}"
    timed("predict", lambda: predict(run, options.open_ms, work, out))
    subjects = OpenMs(options.open_ms).subjects()
    references = timed("rivals", lambda: real_references(subjects, work))
    least, simulated = timed("sweep on simulated pairs", lambda: least_size(run, work / "cohort"))
    log.info("marks of fewer than %g mm3 are dropped", least)
    network = timed("sweep of the network", lambda: network_points(out, references, least))
    bsi = timed("bsi_subtraction", lambda: bsi_points(options.open_ms, work, subjects, references))
    rows = list(compared(network, bsi, references))
    write_json(
        work / f"transfer-{options.steps}.json",
        {
            "cpu_seconds": seconds,
            "wall_seconds": round(time.monotonic() - begun),
            "compared": rows,
            "lesion_by_lesion": lesion_by_lesion(network, bsi, references),
            "least_mm3": least,
            "simulated": simulated,
            "points": {
                system: [{"setting": p.name, "cases": p.cases} for p in points]
                for system, points in (("network", network), ("bsi_subtraction", bsi))
            },
        },
    )
    people = len({reference.patient for reference in references.values()})
    title = f"New lesions in {len(subjects)} real pairs of {people} patients (open_ms)"
    draw(network, bsi, title, images / "transfer_froc.png")
    best = max(subjects, key=lambda s: network[0].cases[s.id]["true"])  # the most to be found
    picture(lambda: load_subject(best), out, references[best.id], images / "transfer_pair.png")
    log.info("\n%s\n%s", markdown(rows), json.dumps(seconds))


if __name__ == "__main__":
    main()
