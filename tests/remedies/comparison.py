"""Systems that may not stand in one table: what makes them comparable."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np

from msseg_lightning.core.files import write_settings
from msseg_lightning.evaluate.case_score import ScoreOptions
from tests.compare import scored
from tests.remedies.place import Place, case

CASES = scored.patients(6, 2)


def run(place: Place, name: str, key: int = 1, cases: list[str] = CASES, **more: object) -> str:
    """A run folder, made anew."""
    fold = f"fold{more.pop('fold', 0)}"
    seed = int(str(more.get("seed", 0)))
    shutil.rmtree(place.folder / "runs" / name / f"toy-{fold}-seed{seed}", ignore_errors=True)
    folder = scored.write_run(
        place.folder / "runs", name, scored.scores(0.8, key, cases), fold=fold, **more
    )
    return str(folder)


@case("compare.rules")
def other_rules(place: Place) -> None:
    words = ["compare", run(place, "a"), run(place, "b", options=ScoreOptions(alpha=0.2))]
    refusal = place.refused("compare.rules", words)
    assert "with the same evaluate.* settings" in refusal.remedy
    run(place, "b")
    place.ends_well(words)


@case("compare.reference")
def another_version_of_the_reference(place: Place) -> None:
    words = ["compare", run(place, "a"), run(place, "b")]
    found = scored.scores(0.8, 2, CASES)
    mask = scored.reference("p00")[::-1]
    found["p00"] = scored.score_case(mask, mask, scored.SPACING)
    shutil.rmtree(words[2])
    scored.write_run(place.folder / "runs", "b", found)
    refusal = place.refused("compare.reference", words)
    assert "score all systems with the same masks" in refusal.remedy
    run(place, "b")
    place.ends_well(words)


@case("compare.patients", "compare.no_common")
def other_patients(place: Place) -> None:
    words = ["compare", run(place, "a"), run(place, "b", cases=CASES[1:])]
    refusal = place.refused("compare.patients", words)
    assert refusal.options() == ["--common"]
    place.ends_well([*words, *refusal.options()])
    run(place, "b", cases=["p90"])
    refusal = place.refused("compare.no_common", [*words, "--common"])
    assert "give all systems the same folds" in refusal.remedy
    run(place, "b")
    place.ends_well(words)


@case("compare.split")
def other_training_patients(place: Place) -> None:
    words = ["compare", run(place, "a"), run(place, "b", trained_on=("t9",))]
    refusal = place.refused("compare.split", words)
    assert "train all systems with the same split and folds" in refusal.remedy
    run(place, "b")
    place.ends_well(words)


@case("compare.twice")
def one_fold_twice(place: Place) -> None:
    one = run(place, "a")
    refusal = place.refused("compare.twice", ["compare", one, one])
    assert "each once" in refusal.remedy and "NAME=FOLDER" in refusal.remedy
    place.ends_well(["compare", one])
    place.ends_well(["compare", one, f"other={one}"])


@case("compare.settings")
def folds_with_other_settings(place: Place) -> None:
    folders = [
        run(place, "a", cases=CASES[:4], fold=0),
        run(place, "a", cases=CASES[4:], fold=1),
    ]
    for steps, folder in enumerate(folders):
        config = {"name": "a", "fold": steps, "seed": 0, "train": {"steps": steps}}
        write_settings(place.folder / folder / "config.yaml", config)
    refusal = place.refused("compare.settings", ["compare", *folders])
    assert "NAME=FOLDER" in refusal.remedy and "settings of the others" in refusal.remedy
    config = {"name": "a", "fold": 1, "seed": 0, "train": {"steps": 0}}
    write_settings(place.folder / folders[1] / "config.yaml", config)
    place.ends_well(["compare", *folders])


@case("compare.no_scores")
def scores_of_an_earlier_version(place: Place) -> None:
    words = ["compare", run(place, "a")]
    file = place.folder / words[1] / "scores.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "pairs": None}))
    refusal = place.refused("compare.no_scores", words)
    assert refusal.remedy.startswith("delete the file") and "give the command" in refusal.remedy
    run(place, "a")
    place.ends_well(words)


@case("reference.version", "compare.reference_version", "compare.masks", "reference.grids")
def another_version_of_references(place: Place) -> None:
    cohort = place.fixture("coarse_cohort")
    data = place.folder / "data"
    shutil.copytree(cohort, data)
    folder = place.folder / "masks"
    folder.mkdir()
    for patient in sorted(data.glob("0*")):
        shutil.copy(patient / "ground_truth_expert2.nii.gz", folder / f"{patient.name}.nii.gz")
    words = ["compare", folder, "read=msseg2", f"read.root={data}", "--reference-version"]
    refusal = place.refused("reference.version", [*words, "adjudicated"])
    assert "without_rater1" in refusal.expected
    place.ends_well([*words, "without_rater1"])
    refusal = place.refused(
        "compare.reference_version", ["compare", folder, "--reference", data, *words[-1:], "rater1"]
    )
    (choice,) = refusal.settings(FOLDER=str(data))
    place.ends_well(["compare", folder, *choice, "--reference-version", "rater1"])

    first = sorted(data.glob("0*"))[0]
    mask = first / "ground_truth_expert3.nii.gz"
    mask.write_bytes((_other_grid(place) / "p00.nii.gz").read_bytes())
    refusal = place.refused("reference.grids", [*words, "without_rater1"])
    assert refusal.remedy == "resample the masks to the grid of the reference"
    shutil.copy(cohort / first.name / mask.name, mask)
    place.ends_well([*words, "without_rater1"])

    run_folder = place.folder / run(place, "a")
    words = ["compare", run_folder, *words[2:]]
    names = [patient.name for patient in sorted(data.glob("0*"))]
    found = scored.scores(0.8, 1, CASES[: len(names)])
    shutil.rmtree(run_folder)
    renamed = dict(zip(names, found.values(), strict=True))
    run_folder = scored.write_run(place.folder / "runs", "a", renamed)
    shutil.copytree(folder, run_folder / "predictions")
    (run_folder / "predictions" / f"{names[0]}.nii.gz").unlink()
    refusal = place.refused("compare.masks", [*words, "rater1"])
    assert refusal.remedy.startswith("give the command that made them again")
    shutil.copy(folder / f"{names[0]}.nii.gz", run_folder / "predictions")
    place.ends_well([*words, "rater1"])


def _other_grid(place: Place) -> Path:
    return Path(scored.write_masks(place.folder / "other", {"p00": scored.reference("p00")}))


@case("compare.no_reference", "compare.missing", "compare.output")
def masks_of_another_tool(place: Place) -> None:
    masks = {name: scored.prediction(name, 0.8, 1) for name in CASES}
    truths = {name: scored.reference(name) for name in CASES}
    folder = scored.write_masks(place.folder / "masks", masks)
    truth = scored.write_masks(place.folder / "truth", truths, "{}/ground_truth.nii.gz")
    refusal = place.refused("compare.no_reference", ["compare", folder])
    assert refusal.options() == ["--reference"]
    data_set = place.refused(
        "compare.no_reference", ["compare", run(place, "a"), "--reference-version", "rater1"]
    )
    assert data_set.remedy == "add the data set: read=msseg2 read.root=FOLDER"
    words = ["compare", folder, "--reference", truth]
    place.ends_well(words)
    refusal = place.refused("compare.missing", ["compare", f"{folder}x"])
    assert refusal.remedy.startswith("check the spelling; `msseg compare --help`")
    place.follow_commands(refusal)
    refusal = place.refused("compare.output", [*words, "--output", "board.pdf"])
    option, file = refusal.remedy.split()
    place.ends_well([*words, option, file])


@case("export.name", "export.not_empty", "export.grids")
def an_export_for_another_tool(place: Place) -> None:
    cohort, data = place.fixture("coarse_cohort"), place.folder / "data"
    shutil.copytree(cohort, data)
    words = ["read=msseg2", "read.root=data", "split=file", "split.path=data/split.json"]
    refusal = place.refused("export.name", ["convert", "raw/mine", *words])
    folder = Path(refusal.remedy)
    folder.mkdir(parents=True)
    (folder / "note.txt").write_text("mine")
    refusal = place.refused("export.not_empty", ["convert", folder, *words])
    assert refusal.remedy.startswith("delete the folder")
    shutil.rmtree(folder)
    place.ends_well(["convert", folder, *words])

    table = "id,baseline_flair,followup_flair,new_lesions\n"
    for patient in ("001", "002", "003", "004"):
        names = ("flair_time01_on_middle_space", "flair_time02_on_middle_space", "ground_truth")
        table += ",".join([patient, *(f"data/{patient}/{name}.nii.gz" for name in names)]) + "\n"
    (place.folder / "pairs.csv").write_text(table)
    scan = place.folder / "data" / "001" / "flair_time01_on_middle_space.nii.gz"
    image = nibabel.load(scan)
    cut = nibabel.Nifti1Image(np.asarray(image.dataobj)[1:], image.affine, image.header)
    nibabel.save(cut, scan)
    words = ["read=table", "read.manifest=pairs.csv", *words[2:]]
    refusal = place.refused("export.grids", ["convert", folder, *words])
    assert refusal.remedy == "register the visits first and give the registered files"
    shutil.copy(cohort / "001" / scan.name, scan)
    place.ends_well(["convert", folder, *words])
