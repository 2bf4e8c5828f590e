"""Systems that may not stand in one table: what makes them comparable."""

from __future__ import annotations

import json
import shutil

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


@case("compare.no_reference", "compare.missing", "compare.output")
def masks_of_another_tool(place: Place) -> None:
    masks = {name: scored.prediction(name, 0.8, 1) for name in CASES}
    truths = {name: scored.reference(name) for name in CASES}
    folder = scored.write_masks(place.folder / "masks", masks)
    truth = scored.write_masks(place.folder / "truth", truths, "{}/ground_truth.nii.gz")
    refusal = place.refused("compare.no_reference", ["compare", folder])
    assert refusal.options() == ["--reference"]
    words = ["compare", folder, "--reference", truth]
    place.ends_well(words)
    refusal = place.refused("compare.missing", ["compare", f"{folder}x"])
    assert refusal.remedy.startswith("check the spelling; `msseg compare --help`")
    place.follow_commands(refusal)
    refusal = place.refused("compare.output", [*words, "--output", "board.pdf"])
    option, file = refusal.remedy.split()
    place.ends_well([*words, option, file])
