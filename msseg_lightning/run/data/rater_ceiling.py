"""Scores of a perfect system and of each simulated rater on a cohort, an upper limit of systems.

``python -m msseg_lightning.run.data.rater_ceiling COHORT`` prints a Markdown table.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from msseg_lightning.core.problem import MssegError, Problem
from msseg_lightning.evaluate.score import ScoreOptions
from msseg_lightning.evaluate.summary import Summary, summarise
from msseg_lightning.run.data.evaluate_files import MaskPair, evaluate_files

SOURCES = {
    "oracle (the consensus itself)": "ground_truth",
    "the true lesions": "true_new_lesions",
    **{f"rater {number}": f"ground_truth_expert{number}" for number in (1, 2, 3, 4)},
}


@dataclasses.dataclass(frozen=True)
class SourceScores:
    """Scores of one source of masks against the consensus.

    Args:
        name: name of the source.
        summary: summary of all patients of the cohort.
    """

    name: str
    summary: Summary

    def row(self) -> str:
        """A row of the table."""
        groups = self.summary.with_lesions, self.summary.without_lesions
        measures = groups[0].measures
        means = (measures[name].mean for name in ("F1_score", "SensL", "PPVL", "Dice"))
        cells = ["-" if value is None else f"{value:.3f}" for value in means]
        false = groups[1].false_lesions.mean
        cells.append("-" if false is None else f"{false:.2f}")
        return "| " + " | ".join([self.name, *cells]) + " |"


def rater_ceiling(cohort: Path) -> list[SourceScores]:
    """Score the oracle, the true masks and the four raters by the official rules.

    Raises:
        MssegError: the folder holds no simulated patient with labels.
    """
    folders = sorted(path.parent for path in cohort.glob("*/true_new_lesions.nii.gz"))
    if not folders:
        raise MssegError(
            Problem(
                "simulate.no_labels",
                "this folder holds no simulated patient with labels",
                file=cohort,
                expected="*/true_new_lesions.nii.gz",
                remedy="msseg simulate OUT preset=challenge",
            )
        )
    sources = []
    for name, stem in SOURCES.items():
        pairs = [
            MaskPair(folder.name, folder / f"{stem}.nii.gz", folder / "ground_truth.nii.gz")
            for folder in folders
        ]
        sources.append(SourceScores(name, summarise(evaluate_files(pairs, ScoreOptions()))))
    return sources


def main(cohort: Path) -> None:
    """Print the table."""
    lines = ["| who | F1 | SensL | PPVL | Dice | false lesions, patients without |"]
    lines.append("| --- " * 6 + "|")
    lines += [source.row() for source in rater_ceiling(cohort)]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
