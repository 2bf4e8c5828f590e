"""What readers find in a data set or table: mended there, or said by the setting of the remedy."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from msseg_lightning.read.bids import Bids
from msseg_lightning.read.reader import Reader
from msseg_lightning.read.several import Several
from msseg_lightning.read.single_timepoint import SingleTimepoint
from msseg_lightning.read.table import TableReader
from msseg_lightning.run.assemble.system import instantiate
from msseg_lightning.run.config.compose import compose_config
from tests.read import test_bids
from tests.remedies.place import CASES, Case, Place, Refusal, case

HEADER = "id,baseline_flair,followup_flair,patient\n"


def _sessions(root: Path, *sessions: str, subject: str = "sub-A") -> Path:
    for session in sessions:
        test_bids.scan(root, subject, session)
    return root


def _with(root: Path, words: list[str]) -> Bids:
    """The reader that a command with these words makes."""
    config = compose_config(["read=bids", f"read.root={root}", *words])
    reader = instantiate(config["read"])
    assert isinstance(reader, Bids)
    return reader


def _warned(place: Place, reader: Reader, code: str) -> Refusal:
    """A warning of a data set that is read."""
    reader.subjects()
    return place.among(code, reader.skipped())


def _silent(reader: Reader, code: str) -> None:
    assert reader.subjects()
    assert code not in {problem.code for problem in reader.skipped()}


@case("bids.order")
def sessions_without_an_order(place: Place) -> None:
    root = _sessions(place.folder, "ses-red", "ses-blue")
    refusal = place.raised("bids.order", Bids(root).subjects)
    (choice,) = refusal.settings()
    assert _with(root, choice).subjects()
    assert "dates in sub-A/sub-A_sessions.tsv (columns session_id and acq_time)" in refusal.remedy
    test_bids.dated(root, "sub-A", ses_red="2020-01-01", ses_blue="2019-01-01")
    assert Bids(root).subjects()


@case("bids.order_contradiction", "bids.dates", "table.date")
def dates_of_two_sources(place: Place) -> None:
    root = _sessions(place.folder, "ses-1", "ses-2")
    for session, date in (("ses-1", "2020-05-01"), ("ses-2", "2021-05-01")):
        (root / "sub-A" / session / f"sub-A_{session}_scans.tsv").write_text(
            f"filename\tacq_time\nanat/sub-A_{session}_FLAIR.nii.gz\t{date}\n"
        )
    test_bids.dated(root, "sub-A", ses_1="2022-05-01", ses_2="2021-05-01")
    refusal = place.raised("bids.order_contradiction", Bids(root).subjects)
    (choice,) = refusal.settings()
    assert _with(root, choice).subjects()
    assert refusal.remedy.startswith("correct the dates")
    test_bids.dated(root, "sub-A", ses_1="2020-04-01", ses_2="2021-05-01")
    assert _warned(place, Bids(root), "bids.dates").remedy.startswith("correct the one that is")
    test_bids.dated(root, "sub-A", ses_1="2020-05-01", ses_2="5/1/2021")
    refusal = place.raised("table.date", Bids(root).subjects)
    assert refusal.remedy == "correct the cell"
    for date in ("n/a", "2021-05-01"):
        test_bids.dated(root, "sub-A", ses_1="2020-05-01", ses_2=date)
        _silent(Bids(root), "bids.dates")


@case("bids.interval")
def an_interval_that_is_not_that_of_the_dates(place: Place) -> None:
    root = _sessions(place.folder, "ses-1", "ses-2")
    facts = root / "participants.tsv"
    facts.write_text("participant_id\tinterval_days\nsub-A\t100\n")
    test_bids.dated(root, "sub-A", ses_1="2021-01-01", ses_2="2022-01-01")
    refusal = _warned(place, Bids(root), "bids.interval")
    assert refusal.remedy == "correct the one that is wrong"
    facts.write_text(f"participant_id\tinterval_days\nsub-A\t{refusal.expected}\n")
    _silent(Bids(root), "bids.interval")


@case("bids.side_car")
def a_side_car_that_is_no_json(place: Place) -> None:
    root = _sessions(place.folder, "ses-1", "ses-2")
    path = root / "sub-A" / "ses-1" / "anat" / "sub-A_ses-1_FLAIR.json"
    path.write_text("{")
    assert _warned(place, Bids(root), "bids.side_car").remedy == "write it again, or remove it"
    path.write_text("{}")
    _silent(Bids(root), "bids.side_car")
    path.unlink()
    _silent(Bids(root), "bids.side_car")


@case("bids.no_scan", "bids.choice")
def a_scan_that_is_not_there(place: Place) -> None:
    root = _sessions(place.folder, "ses-1", "ses-2")
    test_bids.scan(root, "sub-A", "ses-3", "T1w.nii.gz")
    assert _warned(place, Bids(root), "bids.no_scan").remedy == "nothing to do, or add the scan"
    test_bids.scan(root, "sub-A", "ses-3")
    _silent(Bids(root), "bids.no_scan")
    file = "sub-A/ses-1/anat/sub-A_ses-1_FLAIR.nii"
    refusal = place.raised("bids.choice", _with(root, [f"read.choose=[{file}]"]).subjects)
    assert refusal.remedy == "correct the path"
    assert _with(root, [f"read.choose=[{file}.gz]"]).subjects()


@case("bids.mask_of_several")
def a_mask_without_the_entities_of_its_scan(place: Place) -> None:
    root = place.folder
    for session in ("ses-1", "ses-2"):
        for value in ("a", "b"):
            test_bids.scan(root, "sub-A", session, f"acq-{value}_FLAIR.nii.gz")
    test_bids.mask(root, "sub-A", "ses-2", "label-brain_mask")
    refusal = _warned(place, Bids(root, entities={"acq": "a"}), "bids.mask_of_several")
    assert refusal.remedy.startswith("add them to the name of the mask")
    (path,) = root.rglob("*brain_mask.nii.gz")
    path.rename(path.with_name(path.name.replace("label-", "acq-a_label-")))
    _silent(Bids(root, entities={"acq": "a"}), "bids.mask_of_several")


@case("table.id_form", "table.id_twice", "table.no_row")
def rows_of_participants(place: Place) -> None:
    root = _sessions(place.folder, "ses-1", "ses-2", subject="sub-01")
    _sessions(root, "ses-1", "ses-2", subject="sub-02")
    facts = root / "participants.tsv"
    for code, rows, remedy in (
        ("table.id_form", "1\t40\nsub-02\t50\n", "write them as the data, or nothing to do"),
        ("table.id_twice", "sub-01\t40\nsub-01\t41\nsub-02\t50\n", "remove the one that is wrong"),
        ("table.no_row", "sub-01\t40\n", "add the rows, or nothing to do"),
    ):
        facts.write_text(f"participant_id\tage\n{rows}")
        assert _warned(place, Bids(root), code).remedy == remedy
        facts.write_text("participant_id\tage\nsub-01\t40\nsub-02\t50\n")
        _silent(Bids(root), code)


def _unused(
    kind: str, make: Callable[[Path], None], remedy: str, mend: Callable[[Path], None]
) -> Case:
    def follow(place: Place) -> None:
        root = _sessions(place.folder, "ses-1", "ses-2")
        make(root)
        assert _warned(place, Bids(root), f"unused.{kind}").remedy == remedy
        mend(root)
        _silent(Bids(root), f"unused.{kind}")

    follow.__name__ = f"unused_{kind}"
    return Case(("unused.{kind}",), follow)


def _move(old: str, new: str) -> Callable[[Path], None]:
    def move(root: Path) -> None:
        (path,) = root.rglob(old)
        path.rename(path.with_name(new))

    return move


def _write(name: str, text: str) -> Callable[[Path], object]:
    return lambda root: (root / name).write_text(text)


MASKS = "derivatives/manual/sub-A"
CASES.extend(
    _unused(*row)  # type: ignore[arg-type]  # functions of several kinds in one table
    for row in (
        (
            "reference",
            lambda root: test_bids.mask(root, "sub-A", "ses-1", "label-newlesion_mask"),
            "move them to the session they belong to, or nothing to do",
            lambda root: (
                shutil.rmtree(root / "derivatives"),
                test_bids.mask(root, "sub-A", "ses-2", "label-newlesion_mask"),
            ),
        ),
        (
            "row",
            _write("participants.tsv", "participant_id\tage\nsub-A\t4\nsub-B\t4\n"),
            "rename them as the data, or remove them",
            _write("participants.tsv", "participant_id\tage\nsub-A\t4\n"),
        ),
        (
            "column",
            _write("participants.tsv", "participant_id\tyears\nsub-A\t40\n"),
            "rename them, or nothing to do",
            _write("participants.tsv", "participant_id\tage\nsub-A\t40\n"),
        ),
        (
            "mask",
            lambda root: test_bids.mask(root, "sub-A", "ses-2", "lesion_seg"),
            "if they mark new lesions: read.masks.new_lesions='derivatives/manual/{subject}/"
            "{session}/anat/{subject}_{session}_lesion_seg.nii.gz'; `msseg check --layout` shows "
            "what is read",
            _move("*lesion_seg.nii.gz", "sub-A_ses-2_label-lesion_mask.nii.gz"),
        ),
        (
            "image",
            lambda root: test_bids.scan(root, "sub-A", "ses-2", "T1w.nii.gz"),
            "nothing to do, or rename those that belong to a pair",
            lambda root: (
                test_bids.scan(root, "sub-A", "ses-3"),
                (root / "sub-A/ses-2/anat/sub-A_ses-2_T1w.nii.gz").rename(
                    root / "sub-A/ses-3/anat/sub-A_ses-3_FLAIR.nii.gz"
                ),
            ),
        ),
        (
            "file",
            _write("sub-A/ses-1/anat/sub-A_ses-1_flair.jsn", "{}"),
            "nothing to do, or rename those that belong to a pair",
            _move("*.jsn", "sub-A_ses-1_FLAIR.json"),
        ),
        (
            "folder",
            lambda root: test_bids.scan(root, "backup", "ses-1"),
            "nothing to do, or complete them",
            lambda root: (
                shutil.rmtree(root / "backup"),
                _sessions(root, "ses-1", "ses-2", subject="sub-B"),
            ),
        ),
    )
)


TABLES = (
    # code, table, remedy, tables after it
    (
        "table.cells",
        HEADER + "a,b,c,p,d\n",
        "put cells that hold a comma in double quotes, or remove the last cells",
        (HEADER + 'a,"b,c",p,d\n', HEADER + "a,b,c,p\n"),
    ),
    ("table.cells", HEADER + "a,b,c\n", "add the commas, or nothing to do", (HEADER + "a,b,c,\n",)),
    (
        "patient.case",
        HEADER + "a,b,c,MS1\nd,e,f,ms1\n",
        "write the name of one patient in one way, and rename other patients",
        (HEADER + "a,b,c,MS1\nd,e,f,MS1\n", HEADER + "a,b,c,MS1\nd,e,f,MT1\n"),
    ),
    (
        "patient.similar",
        HEADER + "a,b,c,MS1\nd,e,f,MS01\n",
        "if they are one patient, write the name in one way; else nothing to do",
        (HEADER + "a,b,c,MS1\nd,e,f,MS1\n",),
    ),
    (
        "patient.shared_scan",
        HEADER + "a,b,c,p\nd,c,f,q\n",
        "give both pairs the same patient (in a table: column patient), or leave one of them out",
        (HEADER + "a,b,c,p\nd,c,f,p\n", HEADER + "a,b,c,p\n"),
    ),
)


def _table(code: str, bad: str, remedy: str, good: tuple[str, ...]) -> Callable[[Place], None]:
    def follow(place: Place) -> None:
        path = place.folder / "pairs.csv"
        path.write_text(bad)
        reader = TableReader(path)
        if code == "patient.case" or remedy.startswith("put cells"):  # errors
            refusal = place.raised(code, reader.subjects)
        else:
            refusal = _warned(place, reader, code)
        assert refusal.remedy == remedy
        for table in good:
            path.write_text(table)
            _silent(TableReader(path), code)

    follow.__name__ = f"a_table_with_{code.replace('.', '_')}"
    return follow


CASES.extend(Case((row[0],), _table(*row)) for row in TABLES)


@case("patient.similar")
def patients_of_two_sources(place: Place) -> None:
    for name, patient in (("one", "MS1"), ("two", "MS01")):
        (place.folder / f"{name}.csv").write_text(HEADER + f"a,{name}b,{name}c,{patient}\n")
    sources = {name: TableReader(place.folder / f"{name}.csv") for name in ("one", "two")}
    refusal = _warned(place, Several(sources), "patient.similar")
    assert refusal.remedy.startswith("leave them out of one source")
    _silent(Several({"one": sources["one"]}), "patient.similar")


@case("unused.{kind}")
def files_that_no_row_names(place: Place) -> None:
    path = place.folder / "pairs.csv"
    path.write_text(HEADER + "a,scans/b.nii.gz,scans/c.nii.gz,p\n")
    (place.folder / "scans").mkdir()
    for name in ("b", "c", "new_lesions"):
        (place.folder / "scans" / f"{name}.nii.gz").touch()
    refusal = _warned(place, TableReader(path), "unused.unnamed")
    assert refusal.remedy == "name them in the table, or nothing to do"
    header = HEADER.replace("\n", ",new_lesions\n")
    path.write_text(header + "a,scans/b.nii.gz,scans/c.nii.gz,p,scans/new_lesions.nii.gz\n")
    _silent(TableReader(path), "unused.unnamed")


@case("read.pattern", "read.pattern_unused", "read.pattern_several", "bids.mask_of_pairs")
def patterns_of_names(place: Place) -> None:
    root = _sessions(place.folder, "ses-1", "ses-2", "ses-3")
    masks = {n: root / "masks" / f"sub-A_{n}.nii.gz" for n in (2, 3)}
    masks[2].parent.mkdir()
    for path in masks.values():
        path.touch()

    def read(pattern: str) -> Bids:
        reader = Bids(root, masks={"new_lesions": pattern})
        reader.subjects()
        return reader

    for code, wrong in (
        ("read.pattern", "../{subject}.nii.gz"),
        ("read.pattern_unused", "mask/{subject}_{ses}.nii.gz"),
    ):
        refusal = place.raised(code, lambda wrong=wrong: read(wrong))
        assert refusal.remedy.startswith("correct it, or leave read.masks.new_lesions out")
    wrong = "masks/{subject}_2.nii.gz"
    refusal = place.raised("bids.mask_of_pairs", lambda: read(wrong))
    assert refusal.remedy == ("name the session in read.masks.new_lesions by {session} or {ses}")
    read("masks/{subject}_{ses}.nii.gz")
    Bids(root).subjects()
    one = place.folder / "one"
    for name in ("flair.nii.gz", "1_mask.nii.gz", "2_mask.nii.gz"):
        (one / "001" / name).parent.mkdir(parents=True, exist_ok=True)
        (one / "001" / name).touch()
    for pattern in ("*_mask.nii.gz", "1_*.nii.gz"):
        reader = SingleTimepoint(one, files={"brain": pattern})
        if pattern.startswith("1"):
            reader.subjects()
        else:
            refusal = place.raised("read.pattern_several", reader.subjects)
            assert refusal.remedy == "make read.files.brain fit one of them"


@case("bids.misplaced")
def a_scan_that_is_named_after_another_subject(place: Place) -> None:
    root = _sessions(place.folder, "ses-1", "ses-2")
    anat = root / "sub-A" / "ses-1" / "anat"
    right, wrong = anat / "sub-A_ses-1_FLAIR.nii.gz", anat / "sub-B_ses-1_FLAIR.nii.gz"
    right.rename(wrong)
    assert place.raised("bids.misplaced", Bids(root).subjects).remedy.startswith("rename the file")
    wrong.rename(right)
    Bids(root).subjects()


@case("bids.dated_twice")
def a_session_with_two_dates(place: Place) -> None:
    root = _sessions(place.folder, "ses-1", "ses-2")
    table = root / "sub-A" / "sub-A_sessions.tsv"
    row = "ses-1\t2018-01-01\n"
    head = "session_id\tacq_time\nses-1\t2020-01-01\n"
    table.write_text(head + row)
    remedy = place.raised("bids.dated_twice", Bids(root).subjects).remedy
    assert remedy == "remove the row that is wrong"
    table.write_text(head)
    Bids(root).subjects()
