"""Results of bsi_subtraction on simulated and real pairs, by brightness of lesions.

The paper's rule is applied to the first patients of a simulated cohort that have new lesions and to
the public open_ms pairs. Lesions are split at the median of their contrast: of the simulated ones
the contrast of ``lesions.tsv``, of all of them the measured rise. Detected is what the official
rules say, touched means that any mark overlaps.

    msseg simulate COHORT preset=challenge
    python -m benchmarks.studies.subtraction --cohort COHORT --open-ms PATH --work FOLDER

Every pair's figures are kept in the work folder and found again.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.studies.transfer import Reference
from msseg_lightning.core.files import write_json
from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP, LoadedSubject
from msseg_lightning.core.subject import LongitudinalSubject as Subject
from msseg_lightning.method.bsi_subtraction import BsiSubtraction
from msseg_lightning.read.load import load_subject
from msseg_lightning.read.msseg2 import Msseg2
from msseg_lightning.read.open_ms import OpenMs
from msseg_lightning.run.assemble.system import build_cache
from msseg_lightning.run.config.compose import compose_config
from msseg_lightning.simulate.real_anatomy import white_matter_level

log = logging.getLogger("msseg.subtraction")

REACH_MM = 8.0
"""A reference lesion belongs to the drawn one whose centre is nearest, and no farther than this."""


def rises(loaded: LoadedSubject, reference: Reference) -> NDArray[np.float64]:
    """Follow-up minus baseline in each counted lesion, in units of white matter's signal."""
    labels = reference.labels()
    means = []
    for name in (BASELINE, FOLLOWUP):
        image = np.asarray(loaded.volumes[name].data, np.float32)
        white = white_matter_level(image, loaded.volumes[BRAIN].data != 0)
        values = image[reference.box].ravel() / white
        size = np.maximum(np.bincount(labels.ravel()), 1)
        means.append(np.bincount(labels.ravel(), values) / size)
    return np.asarray(means[1] - means[0])[1:]


def drawn_contrasts(
    rows: Sequence[Mapping[str, str]], loaded: LoadedSubject, reference: Reference
) -> NDArray[np.float64]:
    """Contrast in ``lesions.tsv`` of each counted lesion; NaN where none was drawn nearby."""
    new = [row for row in rows if row["fate"] == "new"]
    centres = np.array([[float(row[f"{axis}_mm"]) for axis in "xyz"] for row in new]).reshape(-1, 3)
    labels = reference.labels()
    affine = loaded.volumes[BRAIN].affine
    start = [part.start for part in reference.box]
    contrasts = np.full(int(labels.max()), np.nan)
    for number in range(1, len(contrasts) + 1):
        middle = np.argwhere(labels == number).mean(0) + start
        away = np.linalg.norm(centres - (affine[:3, :3] @ middle + affine[:3, 3]), axis=1)
        if len(away) and away.min() <= REACH_MM:
            contrasts[number - 1] = float(new[int(away.argmin())]["contrast_time02"])
    return contrasts


def measured(
    subject: Subject, config: Mapping[str, Any], rows: Sequence[Mapping[str, str]], kept: Path
) -> dict[str, Any]:
    """Results of the paper's rule for one pair, cached in a file."""
    if kept.exists():
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    cache = build_cache(config)
    loaded = load_subject(subject)
    reference = Reference.of(loaded, rivals=False)
    mask = BsiSubtraction(cache).predict(subject).mask
    found = reference.matched(mask[reference.box] != 0)
    count = found.reference_counted
    entry = {
        "detected": found.reference_found.tolist(),
        "touched": (found.reference_overlap[:count] > 0).tolist(),
        "rise": rises(loaded, reference).tolist(),
        "contrast": drawn_contrasts(rows, loaded, reference).tolist() if rows else None,
        "false": found.prediction_counted - int(found.prediction_found.sum()),
    }
    write_json(kept, entry)
    log.info("%s: %d of %d detected", subject.id, sum(entry["detected"]), count)
    return entry


def table(groups: Mapping[str, tuple[Sequence[Mapping[str, Any]], str]]) -> str:
    """One row for the bright and one for the faint half of each group, as Markdown.

    Args:
        groups: name -> (pairs, which figure of a lesion splits them).
    """
    lines = [
        "| pairs | split by | lesions | detected | touched | false per pair |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, (pairs, figure) in groups.items():
        values = np.concatenate([np.asarray(pair[figure], float) for pair in pairs])
        detected = np.concatenate([np.asarray(pair["detected"], bool) for pair in pairs])
        touched = np.concatenate([np.asarray(pair["touched"], bool) for pair in pairs])
        middle = float(np.nanmedian(values))
        false = np.mean([pair["false"] for pair in pairs])
        halves = (
            (f"above {middle:.2f}", values > middle),
            (f"up to {middle:.2f}", values <= middle),
        )
        for half, chosen in halves:
            total = int(chosen.sum())
            lines.append(
                f"| {name} ({len(pairs)}) | {figure} {half} | {total} "
                f"| {int(detected[chosen].sum())} ({detected[chosen].mean():.2f}) "
                f"| {int(touched[chosen].sum())} ({touched[chosen].mean():.2f}) | {false:.0f} |"
            )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure both, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--cohort", type=Path, required=True, help="of `msseg simulate`")
    parser.add_argument("--open-ms", type=Path, required=True, help="holds longitudinal/")
    parser.add_argument("--work", type=Path, required=True, help="cache and results")
    parser.add_argument("--patients", type=int, default=8, help="simulated ones")
    parser.add_argument("--least", type=int, default=2, help="new lesions of each of them")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with (options.cohort / "lesions.tsv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    agreed = [row["participant_id"] for row in rows if row["in_consensus"] == "1"]
    simulated: list[dict[str, Any]] = []
    real: list[dict[str, Any]] = []
    for reader, root, entries in (
        ("msseg2", options.cohort, simulated),
        ("open_ms", options.open_ms, real),
    ):
        where = (f"read={reader}", f"read.root={root}", f"paths.cache={options.work / 'cache'}")
        config = compose_config((*where, "data.workers=1"), "bsi_subtraction")
        for subject in (Msseg2 if reader == "msseg2" else OpenMs)(root).subjects():
            own = [row for row in rows if row["participant_id"] == subject.id]
            if reader == "msseg2":
                if len(entries) == options.patients:
                    break
                if agreed.count(subject.id) < options.least:
                    continue
            own = own if reader == "msseg2" else []
            kept = options.work / f"{reader}-{subject.id}.json"
            entries.append(measured(subject, config, own, kept))
    groups = {
        "simulated": (simulated, "contrast"),
        "simulated, measured": (simulated, "rise"),
        "real, measured": (real, "rise"),
    }
    text = table(groups)
    (options.work / "table.md").write_text(text, encoding="utf-8")
    log.info("\n%s", text)


if __name__ == "__main__":
    main()
