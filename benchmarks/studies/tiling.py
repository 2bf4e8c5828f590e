"""Comparison of four sliding-window rules for the same trained networks, by known truth.

Networks that normalise by the statistics of their window answer a little differently when windows
lie elsewhere, and a mask that differs is not thereby worse. So pairs of a simulated cohort that the
network has not seen are predicted with the paper's grid (float32 and bf16), with windows laid over
the box of the brain, and in one pass over that box. Each answer is scored by the official rules.

    msseg train EXPERIMENT read=msseg2 read.root=COHORT ...
    python -m benchmarks.studies.tiling RUN --cohort COHORT --work FOLDER [--subjects ID ...]

Each rule is compared with the paper's grid in float32, patient by patient. It is lower when the
bootstrap interval of the mean difference lies below zero or Wilcoxon's signed-rank test, asked for
a decrease, gives p < 0.05, in lesion F1 or in Dice. The interval tells what loss a *not lower* may
still hide; fewer than 20 patients are not judged. Beside that stands how far the masks agree with
the reference's, all patients together; the paper's grid in bf16 is meant to be equal. Scores and
masks are kept in the work folder, so that a stopped command goes on, and so is ``tiling.json``, a
file for ``python -m benchmarks.report``.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import logging
import shutil
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks import harness
from benchmarks.harness import Row
from msseg_lightning.core.files import atomic_write
from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.subject import LongitudinalSubject
from msseg_lightning.evaluate.case_score import CaseScore
from msseg_lightning.read.msseg2 import Msseg2
from msseg_lightning.read.nifti import gate_options
from msseg_lightning.run.assemble.system import build_cache
from msseg_lightning.run.config.compose import Config
from msseg_lightning.run.predict.data_set import Predictor, trained_on
from msseg_lightning.run.predict.scores import (
    digest,
    load_score,
    save_score,
    score_options,
    score_prediction,
)
from msseg_lightning.run.predict.trained import find_model, load_config
from msseg_lightning.split.split import data_hash

log = logging.getLogger("msseg.tiling")

REFERENCE, EQUAL = "volume, fp32", "volume, bf16"
RULES: Mapping[str, Mapping[str, str]] = {
    REFERENCE: {"tiling": "volume", "precision": "fp32"},
    EQUAL: {"tiling": "volume", "precision": "bf16"},
    "inside_box, bf16": {"tiling": "inside_box", "precision": "bf16"},
    "one_pass, bf16": {"tiling": "one_pass", "precision": "bf16"},
}
F1, DICE = "lesion F1", "Dice"
FALSE, FALSE_WITHOUT = "false lesions", "false lesions, patients without"
MUST_NOT_FALL = (F1, DICE)
LEAST_AGREEMENT = 0.999
"""Dice of masks of the paper's grid in bf16 and in float32."""
Voxels = NDArray[np.int64]
RESAMPLES, CONFIDENCE, LEVEL = 10_000, 0.95, 0.05
LEAST_PATIENTS = 20
"""With fewer, no test would find a loss that matters, and its silence says nothing."""


@dataclasses.dataclass(frozen=True)
class Paired:
    """One measure of one rule beside the reference's, over the same patients.

    Args:
        measure: of the constants above.
        patients: in whom it has a value under both rules.
        mean: of the rule.
        reference: mean of the paper's grid in float32.
        difference: mean of rule minus reference.
        interval: bootstrap 95 % interval of it; None with fewer than two patients.
        decrease_p: of Wilcoxon's test against "it falls"; 1 where no patient differs.
        changed: patients with another value.
    """

    measure: str
    patients: int
    mean: float
    reference: float
    difference: float
    interval: tuple[float, float] | None
    decrease_p: float
    changed: int

    @property
    def lower(self) -> bool | None:
        """Whether a decrease was shown; None with too few patients to say."""
        if self.patients < LEAST_PATIENTS:
            return None
        return self.decrease_p < LEVEL or (self.interval is not None and self.interval[1] < 0)


def paired(
    measure: str, own: Mapping[str, float], reference: Mapping[str, float], seed: int = 0
) -> Paired | None:
    """Compare two rules patient by patient; None without a common patient."""
    common = sorted(set(own) & set(reference))
    if not common:
        return None
    first, second = (np.array([values[name] for name in common]) for values in (own, reference))
    differences = first - second
    changed = int(np.count_nonzero(differences))
    interval = None
    if len(common) > 1:
        found = stats.bootstrap(
            (differences,),
            np.mean,
            n_resamples=RESAMPLES,
            confidence_level=CONFIDENCE,
            method="percentile",
            rng=keyed_generator(seed, "benchmark tiling", measure),
        ).confidence_interval
        interval = float(found.low), float(found.high)
    test = stats.wilcoxon(differences, alternative="less").pvalue if changed else 1.0
    return Paired(
        measure,
        len(common),
        float(first.mean()),
        float(second.mean()),
        float(differences.mean()),
        interval,
        float(test),
        changed,
    )


def values(scores: Mapping[str, CaseScore]) -> dict[str, dict[str, float]]:
    """Measure -> patient -> value; patients with and without new lesions apart."""
    table: dict[str, dict[str, float]] = {F1: {}, DICE: {}, FALSE: {}, FALSE_WITHOUT: {}}
    for name, score in scores.items():
        if not score.has_new_lesions:
            table[FALSE_WITHOUT][name] = score.official["NbTestedLesions"] or 0.0
            continue
        for measure, official in ((F1, "F1_score"), (DICE, "Dice")):
            value = score.official[official]
            if value is not None:
                table[measure][name] = value
        predicted = [lesion for lesion in score.predicted_lesions if lesion.counted]
        table[FALSE][name] = float(sum(not lesion.found for lesion in predicted))
    return table


def agreement(own: Mapping[str, Voxels], reference: Mapping[str, Voxels]) -> float | None:
    """Dice of the masks of all patients together; None where both are empty everywhere."""
    shared = sum(np.intersect1d(own[name], reference[name]).size for name in own)
    total = sum(own[name].size + reference[name].size for name in own)
    return 2 * shared / total if total else None


def with_windows(node: Any, settings: Mapping[str, str]) -> Any:
    """A copy of an ``infer`` step whose sliding windows follow other settings."""
    if isinstance(node, Mapping):
        changed = {key: with_windows(value, settings) for key, value in node.items()}
        window = str(node.get("_target_", "")).endswith(".SlidingWindow")
        return {**changed, **settings} if window else changed
    return [with_windows(item, settings) for item in node] if isinstance(node, list) else node


def scored(
    model: Path,
    config: Config,
    subjects: Sequence[LongitudinalSubject],
    folder: Path,
) -> tuple[dict[str, CaseScore], dict[str, Voxels], list[float]]:
    """Scores and marked voxels of all pairs under one rule; seconds of those predicted now.

    Scores and voxels are kept in ``folder``.
    """
    apply = Predictor.from_config(model, config, folder)
    reading, options = gate_options(config["data"]["reading"]), score_options(config)
    scores: dict[str, CaseScore] = {}
    masks: dict[str, Voxels] = {}
    seconds = []
    for subject in subjects:
        file, made_from = (
            folder / f"{subject.id}.json",
            digest(apply.made_from, data_hash([subject])),
        )
        marked = file.with_suffix(".npy")
        score = load_score(file, made_from)
        if score is None or not marked.exists():
            method = apply.method
            began = time.perf_counter()
            prediction = method.predict(subject)
            seconds.append(time.perf_counter() - began)
            score = score_prediction(prediction, subject, reading, options)
            with atomic_write(marked) as temporary, temporary.open("wb") as stream:
                np.save(stream, np.flatnonzero(prediction.mask))
            save_score(file, score, made_from)
        scores[subject.id], masks[subject.id] = score, np.load(marked)
        log.info("%-20s %s %s", folder.name, subject.id, score.official.get("F1_score"))
    return scores, masks, seconds


def chosen_subjects(
    model: Path, cohort: Path, names: Sequence[str] | None
) -> list[LongitudinalSubject]:
    """The pairs named, by default all that the run has not seen.

    Raises:
        SystemExit: a name is unknown, or of a pair that the run has seen.
    """
    subjects = {subject.id: subject for subject in Msseg2(cohort).subjects()}
    seen = set(trained_on(model, list(subjects.values())))
    wrong = sorted(set(names or ()) & seen) + sorted(set(names or ()) - set(subjects))
    if wrong:
        raise SystemExit(f"trained on, or not in the cohort: {', '.join(wrong)}")
    return [subjects[name] for name in names or sorted(set(subjects) - seen)]


def judge(
    run: Path,
    cohort: Path,
    names: Sequence[str] | None,
    work: Path,
    cache: Path | None = None,
    device: str = "auto",
    workers: int = 1,
) -> dict[str, Any]:
    """Predict and score all pairs under all rules; see the module.

    Args:
        run: run folder of ``msseg train``, or a model folder.
        cohort: in the challenge's layout, as ``msseg simulate`` writes it.
        names: ids of the pairs; None takes all that the run has not seen.
        work: scores are kept here.
        cache: of prepared pairs; by default below ``work``.
        device: ``auto`` takes a GPU where there is one; ``cpu``.
        workers: processes that prepare pairs.
    """
    model = find_model(str(run))
    config = load_config(model)
    config["paths"] = {**config["paths"], "cache": str(cache or work / "cache")}
    config["trainer"] = {**config["trainer"], "accelerator": device}
    subjects = chosen_subjects(model, cohort, names)
    build_cache({**config, "data": {**config["data"], "workers": workers}}).prepare(subjects)
    tables: dict[str, dict[str, dict[str, float]]] = {}
    agreements: dict[str, float | None] = {}
    seconds: dict[str, float | None] = {}
    exact: dict[str, Voxels] = {}
    for rule, settings in RULES.items():
        own = copy.deepcopy(config)
        own["infer"] = with_windows(config["infer"], settings)
        if own["infer"] == config["infer"] and rule != REFERENCE:
            raise SystemExit(f"{config['name']} has no sliding window to change")
        folder = work / "scores" / rule.replace(", ", "-")
        scores, masks, times = scored(model, own, subjects, folder)
        exact = masks if rule == REFERENCE else exact
        tables[rule], agreements[rule] = values(scores), agreement(masks, exact)
        seconds[rule] = statistics.median(times) if times else None
    comparisons = {
        rule: [
            found
            for measure, own in table.items()
            if (found := paired(measure, own, tables[REFERENCE][measure])) is not None
        ]
        for rule, table in tables.items()
    }
    rows = [
        row
        for rule, found in comparisons.items()
        for row in rows_of_rule(rule, found, agreements[rule])
    ]
    return {
        "benchmark": "tiling",
        "system": config["name"],
        "pairs": [subject.id for subject in subjects],
        "device": device_name(device),
        "seconds_per_pair": seconds,
        "mask_agreement": agreements,
        "verdicts": {rule: verdict(found) for rule, found in comparisons.items()},
        "comparisons": {
            rule: [{**dataclasses.asdict(one), "lower": one.lower} for one in found]
            for rule, found in comparisons.items()
        },
        "cases": tables,
        "rows": [vars(row) for row in rows],
    }


def verdict(comparisons: Sequence[Paired]) -> str:
    """Verdict on a rule."""
    judged = [one.lower for one in comparisons if one.measure in MUST_NOT_FALL]
    if any(judged):
        return "lower"
    return "not lower" if judged and None not in judged else "too few patients"


def rows_of_rule(rule: str, comparisons: Sequence[Paired], masks: float | None) -> list[Row]:
    """Lines of the table; the reference has no limit.

    Args:
        rule: whose.
        comparisons: with the reference.
        masks: agreement with the reference's.
    """
    rows = []
    for one in comparisons:
        judged = one.measure in MUST_NOT_FALL and rule != REFERENCE
        note = f"{one.patients} patients"
        if rule != REFERENCE:
            span = "" if one.interval is None else " [{:+.3f}, {:+.3f}]".format(*one.interval)
            note = f"{one.difference:+.3f}{span}, p {one.decrease_p:.2f}, {one.changed} of {note}"
        rows.append(
            Row(
                f"tiling {rule}: {one.measure}",
                one.mean,
                None if rule == REFERENCE else one.reference,
                None,
                "not lower" if judged else "",
                "",
                None if not judged or one.lower is None else not one.lower,
                note,
            )
        )
    if rule != REFERENCE:
        limit = f">= {LEAST_AGREEMENT}" if rule == EQUAL else ""
        holds = None if not limit or masks is None else masks >= LEAST_AGREEMENT
        name = f"tiling {rule}: Dice of masks with those of {REFERENCE}"
        rows.append(Row(name, masks, None, None, limit, "", holds))
    return rows


def device_name(device: str) -> str:
    """Name of the device of the network."""
    import torch

    gpu = device != "cpu" and torch.cuda.is_available()
    return torch.cuda.get_device_name() if gpu else harness.processor()


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare the rules, print the table, write ``tiling.json``."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.tiling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="run folder of `msseg train`")
    parser.add_argument("--cohort", type=Path, required=True, help="of `msseg simulate`")
    parser.add_argument("--work", type=Path, required=True, help="prepared pairs, scores, result")
    parser.add_argument("--subjects", nargs="+", metavar="ID", help="default: all unseen ones")
    parser.add_argument("--cache", type=Path, help="prepared pairs, if they lie elsewhere")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto")
    parser.add_argument("--workers", type=int, default=1, help="processes that prepare pairs")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    record = harness.record() if shutil.which("git") else {}
    result = judge(
        options.run,
        options.cohort,
        options.subjects,
        options.work,
        options.cache,
        options.device,
        options.workers,
    )
    sys.stdout.write(harness.table([Row(**row) for row in result["rows"]]) + "\n")
    for rule, seconds in result["seconds_per_pair"].items():
        time_text = "scores kept earlier" if seconds is None else f"{seconds:.2f} s per pair"
        judged = "" if rule == REFERENCE else result["verdicts"][rule]
        sys.stdout.write(f"{rule:<20} {time_text:<22} {judged}\n")
    harness.write_result(
        {**record, "tiny": False, "table": result["rows"], "results": [result]},
        options.work / "tiling.json",
    )


if __name__ == "__main__":
    main()
