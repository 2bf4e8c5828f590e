"""The trained system in the package: simulated and real pairs, its figures, and its files.

    python -m benchmarks.studies.packaged_model --open-ms PATH --work FOLDER

``find_then_judge`` is trained on simulated patients of several kinds and on the real open_ms pairs,
then written to ``msseg_lightning/models``: the zip file of ``msseg export``, and a record with the
figures of patients it was not trained on. Those of real pairs come from trainings with the same
settings that leave out one patient each, both directions of time together; those of simulated
pairs from patients of another seed. Every part lies in the work folder and is found again.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msseg_lightning.cli.main import main as msseg
from msseg_lightning.core.files import write_record
from msseg_lightning.read.open_ms import OpenMs
from msseg_lightning.run.folder import RunFolder
from msseg_lightning.run.predict.model_zip import write_zip
from msseg_lightning.run.predict.packaged import MODELS, NAME
from msseg_lightning.run.predict.trained import weights_hash

log = logging.getLogger("msseg.packaged_model")

VERSION = "1"
SYSTEM = ("size=cpu",)
"""Deviations from the experiment."""

COHORTS = {
    "small": ("preset=small", "seed=101", "train=24", "test=20"),
}
"""Simulated patients; it is trained on the training part of each cohort."""

UNSEEN = ("preset=small", "seed=202", "train=24", "test=20")
"""Simulated patients of another seed; the test part is predicted."""

LICENCE = (
    "CC-BY-4.0; trained on simulated scans and on scans of the Laboratory of Imaging Technologies, "
    "University of Ljubljana (open_ms_data, CC-BY; Lesjak et al., Neuroinformatics 2016)"
)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--open-ms", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--parts", default="simulate,train,leave-one-out,write")
    options = parser.parse_args(words)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    real = options.open_ms.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    os.chdir(options.work)
    parts = options.parts.split(",")
    if "simulate" in parts:
        for name, recipe in {**COHORTS, "unseen": UNSEEN}.items():
            msseg(["simulate", f"cohorts/{name}", *recipe])
    simulated = [f"{name}-{pair}" for name in COHORTS for pair in part_of(name, "train")]
    patients = {pair.id: pair.patient for pair in OpenMs(real).subjects()}
    if "train" in parts:
        train("final", simulated, [f"real-{pair}" for pair in patients], real, unseen=True)
    if "leave-one-out" in parts:
        for patient in sorted(set(patients.values())):
            own = [f"real-{pair}" for pair, of in patients.items() if of == patient]
            rest = [f"real-{pair}" for pair, of in patients.items() if of != patient]
            train(patient, simulated, rest, real, test=own)
    if "write" in parts:
        write(sorted(set(patients.values())))


def part_of(name: str, part: str) -> list[str]:
    """Pairs of a part of a simulated cohort."""
    split = json.loads(Path("cohorts", name, "split.json").read_text(encoding="utf-8"))
    return list(split[part])


def train(
    name: str,
    simulated: Sequence[str],
    real_pairs: Sequence[str],
    real: Path,
    test: Sequence[str] = (),
    unseen: bool = False,
) -> None:
    """Train on these pairs and predict the others; a finished training is found again."""
    sources = {cohort: source("msseg2.Msseg2", f"cohorts/{cohort}") for cohort in COHORTS}
    sources["real"] = source("open_ms.OpenMs", str(real))
    held = list(test)
    if unseen:
        sources["unseen"] = source("msseg2.Msseg2", "cohorts/unseen")
        held += [f"unseen-{pair}" for pair in part_of("unseen", "test")]
    split = {"train": [*simulated, *real_pairs], "val": [], "test": held}
    file = Path(f"split-{name}.json")
    file.write_text(json.dumps(split), encoding="utf-8")
    started = time.process_time()
    code = msseg(
        [
            "train",
            NAME,
            *SYSTEM,
            "read=several",
            f"read.root={name}",
            *(f"+read.sources.{key}={value}" for key, value in sources.items()),
            "split=file",
            f"split.path={file}",
            "track=off",
            "data.workers=1",
            "trainer.accelerator=cpu",
        ]
    )
    minutes = (time.process_time() - started) / 60
    log.info("%s: exit code %d after %.1f CPU minutes", name, code, minutes)


def source(reader: str, root: str) -> str:
    return f"{{_target_: msseg_lightning.read.{reader}, root: '{root}'}}"


def run_of(name: str) -> RunFolder:
    """The run of a training."""
    (folder,) = Path("runs", NAME).glob(f"{name}-*")
    return RunFolder(folder)


def pooled(names: Sequence[str]) -> dict[str, Any]:
    """Lesions and Dice of the held-out pairs of some trainings together."""
    groups = [run_of(name).scores()["summary"] for name in names]
    present = [group["with_lesions"] for group in groups]
    clean = [group["without_lesions"] for group in groups]
    pairs = sum(len(group["cases"]) for group in present)
    found: dict[str, Any] = {
        "pairs": pairs,
        "pairs_without": sum(len(group["cases"]) for group in clean),
        "clean_pairs_without": sum(group["clean"] for group in clean if group["cases"]),
        "lesions": sum(group["lesions"]["true"] for group in present),
        "found": sum(group["lesions"]["detected"] for group in present),
        "false": sum(g["lesions"]["predicted"] - g["lesions"]["matched"] for g in present),
    }
    for measure in ("Dice", "F1_score"):
        total = sum(g["measures"][measure]["mean"] * len(g["cases"]) for g in present)
        found[measure] = round(total / pairs, 3)
    return found


def told(what: str, figure: dict[str, Any]) -> str:
    return (
        f"{what}: {figure['found']} of {figure['lesions']} lesions found, {figure['false']} false "
        f"in {figure['pairs']} pairs, Dice {figure['Dice']:.2f}, F1 {figure['F1_score']:.2f}; "
        f"{figure['clean_pairs_without']} of {figure['pairs_without']} pairs without new ones clean"
    )


def write(patients: Sequence[str]) -> None:
    """Write the zip file, and the record with the figures."""
    run = run_of("final")
    split, record = run.split(), run.record()
    trained = [f"{sum(pair.startswith('real-') for pair in split['train'])} real"]
    trained += [
        f"{sum(pair.startswith(f'{name}-') for pair in split['train'])} simulated ({name})"
        for name in COHORTS
    ]
    figures = {"simulated_unseen": pooled(["final"])}
    lines = [told("simulated patients of another seed", figures["simulated_unseen"])]
    scored = [Path("runs", NAME, f"{name}-cpu-fold0-seed0", "scores.json") for name in patients]
    if all(file.exists() for file in scored):
        figures["real_left_out"] = pooled(patients)
        lines.append(told("real pairs, each patient left out", figures["real_left_out"]))
    MODELS.mkdir(exist_ok=True)
    contents = write_zip(run.model, MODELS / f"{NAME}.zip", LICENCE, "\n".join(lines))
    write_record(
        MODELS / f"{NAME}.json",
        {
            "version": VERSION,
            "weights_sha256": weights_hash(run.model),
            "licence": LICENCE,
            "trained_on": f"trained on {', '.join(trained)} pairs",
            "held_out": lines[-1],
            "figures": figures,
            "training": {
                "command": "python -m benchmarks.studies.packaged_model",
                "settings": list(SYSTEM),
                "cohorts": {name: list(words) for name, words in COHORTS.items()},
                "unseen": list(UNSEEN),
                "commit": record.get("commit"),
                "fit_minutes": record.get("fit_minutes"),
                "hardware": "one thread of a CPU",
            },
            "files": contents["files"],
        },
    )


if __name__ == "__main__":
    main()
