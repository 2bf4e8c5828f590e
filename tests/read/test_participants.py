from __future__ import annotations

import pytest

from msseg_lightning.core.problem import MssegError
from msseg_lightning.core.subject import Facts
from msseg_lightning.read.participants import facts_of_row, read_participants
from msseg_lightning.read.unused import Unused


def assigned(tmp_path, text, patients, left_out=()):
    (tmp_path / "participants.tsv").write_text(text)
    unused = Unused()
    table = read_participants(tmp_path / "participants.tsv", tmp_path)
    facts, problems = table.assign(patients, unused, left_out)
    return facts, [problem.code for problem in (*problems, *unused.problems())]


@pytest.mark.parametrize(
    ("row", "sub"), [("1", "001"), ("sub-001", "001"), ("SUB-1", "sub-01"), ("ms01", "MS01")]
)
def test_ids_in_another_form_keep_their_facts(tmp_path, row, sub):
    facts, codes = assigned(tmp_path, f"participant_id\tage\n{row}\t40\n", [sub])
    assert facts == {sub: Facts(age_years=40.0)}
    assert codes in ([], ["table.id_form"]) and (codes == []) == (
        row[-3:].lower() == sub[-3:].lower()
    )


def test_what_matches_nothing_is_named(tmp_path):
    text = "participant_id\tAge\thandedness\n01\t40\tr\n02\t50\tl\n77\t60\tr\n78\t61\tr\n"
    facts, codes = assigned(tmp_path, text, ["01", "03"], left_out=["02"])
    assert facts["01"] == Facts(age_years=40.0) and "03" not in facts  # Age is age
    assert codes == ["table.no_row", "unused.row", "unused.column"]


def test_two_rows_that_differ_give_nothing(tmp_path):
    facts, codes = assigned(tmp_path, "participant_id\tage\n1\t40\n1\t50\n", ["1"])
    assert facts == {"1": Facts()} and codes == ["table.id_twice"]
    same, codes = assigned(tmp_path, "participant_id\tage\n1\t40\n1\t40\n", ["1"])
    assert same == {"1": Facts(age_years=40.0)} and codes == []


@pytest.mark.parametrize(
    ("column", "text", "expected"),
    [
        ("age", "89+", 90.0),
        ("age", "90+", 90.0),
        ("age", "> 89", 90.0),
        ("age", "045Y", 45.0),
        ("age", "45 years", 45.0),
        ("age", "n/a", None),
        ("age", "40+", "refused"),
        ("age", "-3", "refused"),
        ("age", "400", "refused"),
        ("age", "old", "refused"),
        ("field_strength", "1.5T", 1.5),
        ("field_strength", "3 Tesla", 3.0),
        ("interval_days", "365 days", 365.0),
    ],
)
def test_numbers(column, text, expected):
    if expected == "refused":
        with pytest.raises(MssegError):
            facts_of_row({column: text}, "line 2")
        return
    facts = facts_of_row({column: text}, "line 2")
    assert expected in (facts.age_years, facts.field_strength_t, facts.interval_days)
