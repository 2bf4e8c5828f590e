from __future__ import annotations

import pytest

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP, TARGET
from msseg_lightning.read.table import TableReader

HEADER = "id,baseline_flair,followup_flair\n"
PATIENTS = "id,patient,baseline_flair,followup_flair\n"


def write(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "pairs.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return path


def refused(path, **options) -> tuple[set[str], ExitCode]:
    with pytest.raises(MssegError) as caught:
        TableReader(path, **options).subjects()
    assert all(problem.remedy and problem.field for problem in caught.value.problems)
    return {problem.code for problem in caught.value.problems}, caught.value.exit_code


def test_rows_become_pairs(tmp_path):
    text = (
        "id,patient,baseline_flair,followup_flair,new_lesions,brain,vendor,age,interval_days\n"
        "one,P1,a.nii.gz,b.nii.gz,m.nii.gz,,GE,41,365\n"
        '"two",P1,"sub folder/a, b.nii.gz",c.nii.gz,,x.nii.gz,,,\n'
    )
    first, second = TableReader(write(tmp_path, text)).subjects()
    assert (first.id, first.patient, second.patient) == ("one", "P1", "P1")
    assert first.images == {BASELINE: tmp_path / "a.nii.gz", FOLLOWUP: tmp_path / "b.nii.gz"}
    assert set(first.masks) == {TARGET} and set(second.masks) == {BRAIN}
    assert first.facts.vendor == "GE" and first.facts.interval_days == 365
    assert second.images[BASELINE] == tmp_path / "sub folder" / "a, b.nii.gz"


def test_byte_order_mark_is_fine(tmp_path):  # D14
    path = write(tmp_path, HEADER + "a,b.nii,c.nii\n", "utf-8-sig")
    assert TableReader(path).subjects()[0].id == "a"


def test_unknown_column_is_a_warning_with_the_nearest_name(tmp_path):  # D15
    path = write(tmp_path, "id,baseline_flair,followup_flair,new_lesion\na,b.nii,c.nii,d\n")
    reader = TableReader(path)
    assert len(reader.subjects()) == 1
    (problem,) = reader.skipped()
    assert problem.code == "table.unknown_column" and problem.expected == "new_lesions"


@pytest.mark.parametrize(
    ("text", "code", "status"),
    [
        (HEADER, "table.empty", ExitCode.DATA),  # D16
        ("", "table.column", ExitCode.DATA),
        ("id,baseline_flair\na,b\n", "table.column", ExitCode.DATA),  # D15
        (HEADER.replace(",", ";") + "a;b;c\n", "table.separator", ExitCode.DATA),  # D14
        ((HEADER + "a,b,c\n").encode("utf-16"), "table.encoding", ExitCode.DATA),  # D14
        ((HEADER + "a,\xe9,c\n").encode("latin-1"), "table.encoding", ExitCode.DATA),
        (HEADER + "a,b,c\na,d,e\n", "id.twice", ExitCode.DATA),  # D04
        (HEADER + "a,b,c\nA,d,e\n", "id.case", ExitCode.DATA),  # D07
        (HEADER + "a,b,b\n", "pair.same_path", ExitCode.DATA),  # D06
        (HEADER + "a,b,c,d\n", "table.cells", ExitCode.DATA),  # a comma inside a path
        (PATIENTS + "a,MS01,b,c\nd,ms01,e,f\n", "patient.case", ExitCode.DATA),
        (PATIENTS + "a,sub-1,b,c\nd,1,e,f\n", "patient.case", ExitCode.DATA),
        (HEADER + "a,b,\n", "table.cell", ExitCode.DATA),  # D01
        (HEADER + "a b,b,c\n", "id.form", ExitCode.DATA),  # D08
        (HEADER + "../../x,b,c\n", "id.escape", ExitCode.SECURITY),  # D10
        (HEADER + "/x,b,c\n", "id.escape", ExitCode.SECURITY),  # D11
        (HEADER + "a,../../secret.nii,c\n", "path.outside", ExitCode.SECURITY),
        (HEADER + "a,=cmd(),c\n", "table.character", ExitCode.DATA),  # D12
        (HEADER + 'a,"b\nc",d\n', "table.character", ExitCode.DATA),
        (HEADER + "a,b\0,c\n", "table.character", ExitCode.DATA),
        (HEADER + "a," + "b" * 5000 + ",c\n", "table.length", ExitCode.DATA),  # D13
        (HEADER + 'a,"b,c\n', "table.csv", ExitCode.DATA),
        (HEADER.replace("\n", ",id\n") + "a,b,c,a\n", "table.column_twice", ExitCode.DATA),
    ],
)
def test_refusals(text, code, status, tmp_path):
    codes, exit_code = refused(write(tmp_path, text))
    assert code in codes and exit_code is status


def test_what_is_likely_or_not_used_is_a_warning(tmp_path):
    text = PATIENTS + "a,MS01,b,c\nd,MS1,e,f\ng,X,c,h\ni,Y,j\n"
    reader = TableReader(write(tmp_path, text))
    with pytest.raises(MssegError, match="a cell is empty"):
        reader.subjects()
    reader = TableReader(write(tmp_path, text.removesuffix("i,Y,j\n")))
    assert len(reader.subjects()) == 3
    assert [problem.code for problem in reader.skipped()] == [
        "patient.similar",
        "patient.shared_scan",  # c is the follow-up of MS01 and the baseline of X
    ]
    assert reader.order() == [
        "baseline_flair before followup_flair in every row (names of the columns)"
    ]
    wide = write(tmp_path, HEADER.replace("\n", ",brain\n") + "a,b,c\nd,e,f,,\n")
    reader = TableReader(wide)
    reader.subjects()
    (problem,) = reader.skipped()
    assert problem.code == "table.cells" and problem.found == "nothing for brain"


def test_both_lines_of_a_double_id_are_named(tmp_path):
    with pytest.raises(MssegError, match="a in lines 2 and 4"):
        TableReader(write(tmp_path, HEADER + "a,b,c\nx,y,z\na,d,e\n")).subjects()


def test_absolute_paths_need_a_table_without_root(tmp_path):
    path = write(tmp_path, HEADER + "a,/data/b.nii,c.nii\n")
    assert TableReader(path).subjects()[0].images[BASELINE].is_absolute()
    assert refused(path, root=tmp_path) == ({"path.outside"}, ExitCode.SECURITY)


def test_ten_thousand_rows_with_one_bad(tmp_path):  # D34
    rows = [f"p{n},{n}a.nii,{n}b.nii" for n in range(10_000)]
    rows[7000] = "p7000,same.nii,same.nii"
    with pytest.raises(MssegError, match="line 7002") as caught:
        TableReader(write(tmp_path, HEADER + "\n".join(rows))).subjects()
    assert len(caught.value.problems) == 1


def test_files_beside_those_of_a_table_that_no_row_names_are_counted(tmp_path):
    names = ("1_a.nii.gz", "1_b.nii", "2_a.nii.gz", "2_b.nii.gz", "1_gt.nii.gz", "notes.txt")
    predicted = ("new.nii.gz", "new_probability.nii.gz", "new_msseg.json")
    for folder in ("x", "y", "elsewhere"):
        (tmp_path / folder).mkdir()
        for name in (*names, *predicted, ".hidden.nii.gz"):
            (tmp_path / folder / name).touch()
    table = tmp_path / "t.csv"
    table.write_text(
        "id,baseline_flair,followup_flair,output\n"
        f"1,x/1_a.nii.gz,x/1_b.nii,\n2,{tmp_path}/y/2_a.nii.gz,x/../y/2_b.nii.gz,x/1_gt.nii.gz\n"
    )
    reader = TableReader(table)
    reader.subjects()
    found = {(problem.code, problem.field): problem.found for problem in reader.skipped()}
    assert {code for code, _ in found} == {"unused.unnamed"}
    assert {name: text.split(",")[0] for (_, name), text in found.items()} == {
        "1_a.nii.gz": "1",  # in y
        "1_b.nii": "1",
        "1_gt.nii.gz": "1",  # in y: that in x is written by a prediction
        "2_a.nii.gz": "1",  # in x
        "2_b.nii.gz": "1",
    }
