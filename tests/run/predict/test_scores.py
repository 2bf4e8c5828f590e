"""What is written about scores says by which rules they were made."""

from __future__ import annotations

import csv
import io
import json

import numpy as np

from msseg_lightning.core.subject import LongitudinalSubject
from msseg_lightning.evaluate.score import ScoreOptions, score_case
from msseg_lightning.run.predict.scores import (
    PROTOCOL,
    pair_facts,
    score_options,
    scores_table,
    write_scores,
)


def cases():
    reference = np.zeros((8, 8, 8), np.uint8)
    reference[2:5, 2:5, 2:5] = 1
    empty = np.zeros_like(reference)
    one = (1.0, 1.0, 1.0)
    return {"a": score_case(reference, reference, one), "b": score_case(reference, empty, one)}


def test_the_file_names_protocol_and_options_and_keeps_the_groups_apart(tmp_path):
    summary = write_scores(tmp_path, cases(), ScoreOptions(alpha=0.2), {"seed": 3})
    content = json.loads((tmp_path / "scores.json").read_text())
    assert content["protocol"] == PROTOCOL and content["seed"] == 3
    assert content["options"]["alpha"] == 0.2
    assert list(content["summary"]["with_lesions"]["cases"]) == ["a"]
    assert summary["without_lesions"]["false_lesions"]["mean"] == 1.0


def test_pairs_name_their_patients_and_what_was_learned_from():
    pairs = [LongitudinalSubject(id=f"1-{n}", patient="1", images={}, masks={}) for n in "ab"]
    facts = pair_facts(pairs, ["3", "2"])
    assert {one["patient"] for one in facts.values()} == {"1"}
    assert facts == pair_facts(pairs, ["2", "3"]) != pair_facts(pairs, ["2", "4"])
    assert pair_facts(pairs, None)["1-a"]["learned_from"] is None


def test_the_table_has_a_row_per_case_and_empty_cells_where_nothing_is_defined():
    text = scores_table({name: score.as_dict() for name, score in cases().items()})
    rows = {row["case"]: row for row in csv.DictReader(io.StringIO(text))}
    assert float(rows["a"]["Dice"]) == 1.0
    assert rows["b"]["Dice"] == "" and float(rows["b"]["NbTestedLesions"]) == 1


def test_thresholds_come_from_the_configuration():
    assert score_options({"evaluate": {"min_lesion_volume_mm3": 0}}).min_lesion_volume_mm3 == 0
    assert score_options({}) == ScoreOptions()
