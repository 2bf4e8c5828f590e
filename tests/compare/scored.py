"""Folders with scores of simulated systems, written in milliseconds.

``python -m tests.compare.scored FOLDER`` writes the runs of the picture in docs/comparing.md.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np

from msseg_lightning.core.files import write_record
from msseg_lightning.core.subject import LongitudinalSubject
from msseg_lightning.core.volume import Volume
from msseg_lightning.evaluate.case_score import CaseScore, Lesion, ScoreOptions
from msseg_lightning.evaluate.lesion_regions import REGIONS
from msseg_lightning.evaluate.score import score_case
from msseg_lightning.run.predict.rater_scores import RaterScores, score_raters_of
from msseg_lightning.run.predict.scores import pair_facts, write_scores

SHAPE = (30, 16, 16)
SPACING = (1.0, 1.0, 1.0)
LESIONS = 5
TRAINED_ON = ("t1", "t2", "t3")


def patients(number: int = 12, without: int = 4) -> list[str]:
    return [f"p{index:02d}" for index in range(number + without)]


def reference(case: str, number: int = 12) -> np.ndarray:
    """Five lesions of different sizes; none for patients from ``number`` on."""
    mask = np.zeros(SHAPE, np.uint8)
    index = int(case[1:])
    for lesion in range(LESIONS if index < number else 0):
        edge = 2 + (index + lesion) % 3
        mask[6 * lesion : 6 * lesion + edge, 2 : 2 + edge, 2 : 2 + edge] = 1
    return mask


def prediction(case: str, skill: float, key: int, number: int = 12) -> np.ndarray:
    """Every lesion is found with probability ``skill``; false ones the rarer the better."""
    rng = np.random.default_rng([key, int(case[1:])])
    mask = reference(case, number).copy()
    for lesion in range(LESIONS):
        if rng.random() > skill:
            mask[6 * lesion : 6 * lesion + 6] = 0
        if rng.random() > (1 + skill) / 2:
            mask[6 * lesion : 6 * lesion + 3, 10:13, 10:13] = 1
    return mask


def scores(skill: float, key: int = 0, cases: list[str] | None = None) -> dict[str, CaseScore]:
    return {
        case: score_case(prediction(case, skill, key), reference(case), SPACING)
        for case in (patients() if cases is None else cases)
    }


def marks(case: str, skills: tuple[float, ...], number: int = 12) -> dict[str, Volume]:
    """Masks of raters who find every lesion with the probability of their skill."""
    return {
        f"rater{rater + 1}": Volume(prediction(case, skill, 100 + rater, number), np.eye(4), "mask")
        for rater, skill in enumerate(skills)
    }


def rater_scores(
    skills: tuple[float, ...] = (0.95, 0.85, 0.7, 0.5),
    cases: list[str] | None = None,
    number: int = 12,
) -> RaterScores:
    """Scores of raters; the reference is what at least half of them mark, their consensus."""
    found: RaterScores = {}
    for case in patients(number) if cases is None else cases:
        masks = marks(case, skills, number)
        votes = np.sum([mark.data for mark in masks.values()], axis=0)
        agreed = Volume((2 * votes >= len(skills)).astype(np.uint8), np.eye(4), "mask")
        for rater, row in score_raters_of(masks, agreed, ScoreOptions()).items():
            found.setdefault(rater, {})[case] = row
    return found


def write_run(
    root: Path,
    system: str,
    found: dict[str, CaseScore],
    seed: int = 0,
    fold: int | str = "fold0",
    trained_on: tuple[str, ...] | None = TRAINED_ON,
    options: ScoreOptions | None = None,
    raters: RaterScores | None = None,
    minutes: float | None = 4.0,
    parameters: int | None = 1_200_000,
) -> Path:
    """The files of a finished run that a comparison reads."""
    folder = root / system / f"toy-{fold}-seed{seed}"
    pairs = [LongitudinalSubject(id=case, patient=case, images={}, masks={}) for case in found]
    facts: dict[str, object] = {"seed": seed, "pairs": pair_facts(pairs, trained_on)}
    facts["raters"] = raters or {}
    folder.mkdir(parents=True)
    write_scores(folder, found, options or ScoreOptions(), facts)
    if minutes is not None:
        write_record(folder / "run.json", {"status": "finished", "fit_minutes": minutes})
    if parameters is not None:
        (folder / "model").mkdir()
        write_record(folder / "model" / "card.json", {"parameters": parameters})
    return folder


def write_masks(folder: Path, masks: dict[str, np.ndarray], name: str = "{}.nii.gz") -> Path:
    """A folder of masks of another tool."""
    import nibabel

    for case, mask in masks.items():
        path = folder / name.format(case)
        path.parent.mkdir(parents=True, exist_ok=True)
        image = nibabel.Nifti1Image(mask.astype(np.uint8), np.eye(4))
        image.header.set_xyzt_units("mm")
        nibabel.save(image, path)
    return folder


PLANTED = (0.93, 0.9, 0.86, 0.84, 0.8, 0.7, 0.5, 0.3)
"""Skills of the systems in the picture."""


def write_example(root: Path) -> list[Path]:
    """Runs of eight systems whose names tell their skill, with all that a score can hold."""
    cases, raters = patients(20, 8), rater_scores((0.95, 0.9, 0.85, 0.75), patients(20, 8), 20)
    rng = np.random.default_rng(0)
    written = []
    for key, skill in enumerate(PLANTED):
        found = {}
        for case in cases:
            score = score_case(prediction(case, skill, key, 20), reference(case, 20), SPACING)
            found[case] = dataclasses.replace(
                score,
                reference_lesions=_described(score.reference_lesions),
                predicted_lesions=_described(score.predicted_lesions),
                activity={"probability_volume_mm3": score.predicted_volume_mm3 + rng.gamma(2, 9)},
            )
        folder = write_run(root, f"planted_skill_{skill:g}", found, raters=raters)
        cost = {"fit_minutes": 4 + 8 * rng.random(), "fit_cpu_minutes": 4 + 30 * rng.random()}
        cost["peak_mib"] = int(rng.integers(700, 6000))
        write_record(folder / "run.json", {"status": "finished", **cost})
        written.append(folder)
    return written


def _described(lesions: tuple[Lesion, ...]) -> tuple[Lesion, ...]:
    """Lesions with made-up contrasts and regions."""
    return tuple(
        dataclasses.replace(
            one, contrast=1.1 + 0.12 * (one.label % 5), region=REGIONS[one.voxels % len(REGIONS)]
        )
        for one in lesions
    )


if __name__ == "__main__":
    write_example(Path(sys.argv[1]))
