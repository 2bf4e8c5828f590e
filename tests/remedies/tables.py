"""Tables, folders, ids, paths and splits: the remedy written into them, or given as a setting."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from msseg_lightning.core.paths import refuse_name, resolve_file
from msseg_lightning.core.problem import MssegError
from msseg_lightning.core.subject import BASELINE, FOLLOWUP, Facts, LongitudinalSubject
from msseg_lightning.read import table as table_module
from msseg_lightning.read.bids import Bids
from msseg_lightning.read.msseg2 import Msseg2
from msseg_lightning.read.open_ms import OpenMs
from msseg_lightning.read.reader import Reader
from msseg_lightning.read.single_timepoint import SingleTimepoint
from msseg_lightning.read.table import TableReader
from msseg_lightning.run.assemble.system import instantiate
from msseg_lightning.run.config.compose import compose_config
from msseg_lightning.split.challenge_folds import ChallengeFolds
from msseg_lightning.split.from_file import FromFile
from msseg_lightning.split.hold_out import HoldOut
from msseg_lightning.split.kfold import KFold
from msseg_lightning.split.split import write_split
from tests.read import files, test_bids, test_open_ms, test_single_timepoint
from tests.remedies.place import CASES, Case, Place, case, with_settings

HEADER = "id,baseline_flair,followup_flair\n"
SOUND = HEADER + "a,b,c\n"

TABLES: list[tuple[str, str | bytes, str, str]] = [
    # code, table, remedy, the table after it
    ("table.empty", HEADER, "add the pairs", SOUND),
    (
        "table.column",
        "id,baseline_flair,followup\na,b,c\n",
        r"read\.columns\.followup_flair=followup",
        SOUND,
    ),
    ("table.separator", SOUND.replace(",", ";"), "save the table with commas", SOUND),
    ("table.encoding", SOUND.encode("utf-16"), "save the table as UTF-8", SOUND),
    ("id.twice", SOUND + "a,d,e\n", "rename or remove one of them", SOUND + "b,d,e\n"),
    ("id.case", SOUND + "A,d,e\n", "rename one of them", SOUND + "b,d,e\n"),
    ("pair.same_path", HEADER + "a,b,b\n", "give the second scan", SOUND),
    ("table.cell", HEADER + "a,b,\n", "give the file", SOUND),
    ("id.form", HEADER + "a b,b,c\n", "rename the subject", SOUND),
    ("id.escape", HEADER + "../../x,b,c\n", "rename the subject", SOUND),
    ("table.character", HEADER + "a,=cmd(),c\n", "correct the cell", SOUND),
    ("table.character", HEADER + "a,b\0,c\n", "remove it", SOUND),
    ("table.length", HEADER + "a," + "b" * 5000 + ",c\n", "correct the cell", SOUND),
    ("table.csv", HEADER + 'a,"b,c\n', "save the table as CSV", SOUND),
    (
        "table.column_twice",
        HEADER.replace("\n", ",id\n") + "a,b,c,a\n",
        "remove one of them",
        SOUND,
    ),
    (
        "table.unknown_column",
        HEADER.replace("\n", ",new_lesion\n") + "a,b,c,d\n",
        r"did you mean new_lesions\? read\.columns\.new_lesions=new_lesion",
        HEADER.replace("\n", ",new_lesions\n") + "a,b,c,d\n",
    ),
]


def _table(code: str, bad: str | bytes, remedy: str, good: str) -> Callable[[Place], None]:
    def follow(place: Place) -> None:
        path = place.folder / "pairs.csv"
        path.write_bytes(bad if isinstance(bad, bytes) else bad.encode())
        reader = TableReader(path)
        if code == "table.unknown_column":
            reader.subjects()
            refusal = place.among(code, reader.skipped())
        else:
            refusal = place.raised(code, reader.subjects)
        assert re.fullmatch(remedy, refusal.remedy), refusal.remedy
        path.write_text(good)
        assert reader.subjects() and not reader.skipped()

    return follow


CASES.extend(Case((row[0],), _table(*row)) for row in TABLES)


@case("table.columns", "table.unknown_column")
def columns_of_other_names(place: Place) -> None:
    path = place.folder / "pairs.csv"
    path.write_text(HEADER.replace("\n", ",mask\n") + "a,b,c,d\n")
    (reader := TableReader(path)).subjects()
    refusal = place.among("table.unknown_column", reader.skipped())
    ((setting,), *_) = refusal.settings()
    key, _, column = setting.removeprefix("read.columns.").partition("=")
    (pair,) = (reader := TableReader(path, columns={key: column})).subjects()
    assert pair.labelled and not reader.skipped()
    refusal = place.raised("table.columns", lambda: TableReader(path, columns={"masks": "mask"}))
    assert refusal.remedy == "leave read.columns.masks out"
    TableReader(path).subjects()


@case("table.too_large")
def a_large_table(place: Place) -> None:
    path = place.folder / "pairs.csv"
    path.write_text(SOUND)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_module, "LARGEST_TABLE_BYTES", 10)
        refusal = place.raised("table.too_large", TableReader(path).subjects)
    assert refusal.remedy == "check the file"
    TableReader(path).subjects()


@case("path.outside")
def out_of_the_table(place: Place) -> None:
    """Whichever way a cell leads out of the root, what is said brings it in."""
    pair = files.good_pair(place.folder / "scans")
    table = place.folder / "tables" / "pairs.csv"
    table.parent.mkdir()
    rows = {
        "relative": f"013,../scans/013/{files.BASELINE},../scans/013/{files.FOLLOWUP}\n",
        "in full": f"013,{pair / files.BASELINE},{pair / files.FOLLOWUP}\n",
    }
    words = ["check", "read=table", f"read.manifest={table}", "--workers", "1"]
    table.write_text(HEADER + rows["relative"])
    refusal = place.refused("path.outside", words)
    assert refusal.remedy == "give the path in full, and leave read.root out"
    table.write_text(HEADER + rows["in full"])
    place.ends_well(words)
    words = [*words, f"read.root={table.parent}"]
    refusal = place.refused("path.outside", words)
    assert len(refusal.settings()) == 2
    place.follow_settings(refusal, words, FOLDER=str(place.folder))


@case("path.outside")
def behind_a_link(place: Place) -> None:
    """The setting works as it is printed, without a plus sign."""
    pair = files.good_pair(place.folder / "data")
    away = place.folder / "away.nii.gz"
    shutil.move(pair / files.FOLLOWUP, away)
    (pair / files.FOLLOWUP).symlink_to(away)
    words = ["check", "read=msseg2", "read.root=data", "--workers", "1"]
    refusal = place.refused("path.outside", words)
    place.follow_settings(refusal, words)
    assert "copy the file below the root" in refusal.remedy
    (pair / files.FOLLOWUP).unlink()
    shutil.copy(away, pair / files.FOLLOWUP)
    place.ends_well(words)


@case(
    "path.missing", "path.broken_link", "path.link_loop", "path.folder", "path.dicom_folder",
    "path.unreachable", "path.device",
)  # fmt: skip
def not_a_file(place: Place) -> None:
    """What stands in the place of a file; its remedy puts the file there."""
    path = place.folder / "scan.nii.gz"

    def folder(name: str) -> Callable[[], None]:
        def make() -> None:
            path.mkdir()
            (path / name).touch()

        return make

    faults: dict[str, tuple[Callable[[], object], str]] = {
        "path.missing": (lambda: None, "restore the file"),
        "path.broken_link": (lambda: path.symlink_to("gone"), "restore the file the link"),
        "path.link_loop": (lambda: path.symlink_to(path), "replace the link by the file"),
        "path.folder": (folder("scan.nii.gz"), "give the file inside the folder"),
        "path.dicom_folder": (folder("1.dcm"), "convert it with dcm2niix"),
        "path.device": (lambda: os.mkfifo(path), "put the scan itself in its place"),
    }
    for code, (make, remedy) in faults.items():
        make()
        refusal = place.raised(code, lambda: resolve_file(path))
        assert remedy in refusal.remedy
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        path.touch()
        resolve_file(path)
        path.unlink()
    path.touch()
    refusal = place.raised("path.unreachable", lambda: resolve_file(path / "inside"))
    assert "the path" in refusal.remedy
    resolve_file(path)


@case("path.character", "path.length")
def a_name_no_file_can_have(place: Place) -> None:
    for code, name, remedy in (
        ("path.character", "a\nb", "rename the file"),
        ("path.length", "b" * 5000, "use shorter names"),
    ):
        problem = refuse_name(Path(name))
        assert problem is not None
        assert remedy in place.among(code, [problem]).remedy
        assert refuse_name(Path(name[:1])) is None


@case("path.permission")
def not_readable(place: Place) -> None:
    """The command of the remedy, on the file that the message names."""
    path = place.folder / "scan.nii.gz"
    path.touch(mode=0)
    with pytest.MonkeyPatch.context() as patch:
        if os.geteuid() == 0:  # who may read everything
            patch.setattr(os, "access", lambda file, mode: bool(Path(file).stat().st_mode & 0o400))
        refusal = place.raised("path.permission", lambda: resolve_file(path))
        command = refusal.remedy.partition(": ")[2].replace("FILE", str(path))
        assert os.system(command) == 0
        resolve_file(path)


@case("data.root", "data.empty")
def another_folder(place: Place) -> None:
    """``read.root=`` with the folder that the remedy asks for."""
    good = files.good_pair(place.folder / "data" / "inner").parent
    for wrong, code in (("none", "data.root"), ("data", "data.empty")):
        words = ["check", "read=msseg2", f"read.root={wrong}", "--workers", "1"]
        refusal = place.refused(code, words)
        if code == "data.root":
            place.follow_settings(refusal, words, FOLDER=str(good))
        else:
            assert refusal.remedy.startswith("give the folder that holds the patients' folders;")
            place.ends_well(with_settings(words, [f"read.root={good}"]))


@case("data.empty", "pair.incomplete", "pair.unlabelled", "pair.missing_image", "mask.raters")
def an_incomplete_data_set(place: Place) -> None:
    """Each reader finds its pairs once the remedy was followed."""
    bids, open_ms, single = (place.folder / name for name in ("bids", "open_ms", "single"))
    (bids / "data").mkdir(parents=True)
    remedy = place.raised("data.empty", Bids(bids).subjects).remedy
    assert remedy.startswith("give the root of the BIDS data set;")
    for session in ("ses-01", "ses-02"):
        test_bids.scan(bids / "data", "sub-A", session)
    test_bids.scan(bids / "data", "sub-B", "ses-01")
    _left_out(place, Bids(bids / "data"), "pair.incomplete", "add the missing session")
    test_bids.scan(bids / "data", "sub-B", "ses-02")
    _nothing_left_out(Bids(bids / "data"))

    (open_ms / "data").mkdir(parents=True)
    test_open_ms.patient(open_ms / "data", "patient01")
    (open_ms / "data" / "longitudinal" / "coregistered" / "patient02").mkdir()
    remedy = place.raised("data.empty", OpenMs(open_ms).subjects).remedy
    assert remedy.startswith("give the folder that holds longitudinal/")
    _left_out(place, OpenMs(open_ms / "data"), "pair.incomplete", "download the full")
    shutil.rmtree(open_ms / "data" / "longitudinal" / "coregistered" / "patient02")
    test_open_ms.patient(open_ms / "data", "patient02")
    _nothing_left_out(OpenMs(open_ms / "data"))

    folder = test_single_timepoint.scan(single / "data", "001", lesions=False)
    test_single_timepoint.scan(single / "data", "002")
    remedy = place.raised("data.empty", SingleTimepoint(single).subjects).remedy
    assert remedy.startswith("give the folder that holds the scans' folders;")
    reader = SingleTimepoint(single / "data", labelled_only=True)
    _left_out(place, reader, "pair.unlabelled", "read.labelled_only=false")
    _nothing_left_out(SingleTimepoint(single / "data", labelled_only=False))
    (folder / "flair.nii.gz").rename(folder / "lesions.nii.gz")
    refusal = place.raised("pair.missing_image", reader.subjects)
    assert refusal.remedy == "restore the scan, or remove the folder"
    shutil.rmtree(folder)
    _nothing_left_out(reader)

    pair = files.good_pair(place.folder / "msseg2")
    (pair / "ground_truth_expert1.nii.gz").write_bytes((pair / files.TARGET).read_bytes())
    words = ["check", "read=msseg2", "read.root=msseg2", "--workers", "1"]
    place.follow_settings(place.refused("mask.raters", words), words)
    (pair / "ground_truth_expert1.nii.gz").unlink()
    (pair / files.TARGET).unlink()
    other = files.good_pair(place.folder / "msseg2", "016")
    reader = Msseg2(place.folder / "msseg2", labelled_only=True)
    _left_out(place, reader, "pair.unlabelled", "read.labelled_only=false")
    _nothing_left_out(Msseg2(place.folder / "msseg2", labelled_only=False))
    (other / files.FOLLOWUP).unlink()
    refusal = place.raised("pair.missing_image", reader.subjects)
    assert refusal.remedy == "restore the scan, or remove the folder"
    shutil.rmtree(other)
    Msseg2(place.folder / "msseg2").subjects()


def _left_out(place: Place, reader: Reader, code: str, remedy: str) -> None:
    reader.subjects()
    assert remedy in place.among(code, reader.skipped()).remedy


def _nothing_left_out(reader: Reader) -> None:
    assert reader.subjects() and not reader.skipped()


@case("bids.ambiguous")
def two_runs(place: Place) -> None:
    """The setting of the remedy chooses one of two runs."""
    for session in ("ses-01", "ses-02"):
        for run in ("run-1", "run-2"):
            test_bids.scan(place.folder / "bids", "sub-A", session, f"{run}_FLAIR.nii.gz")
    refusal = place.raised("bids.ambiguous", Bids(place.folder / "bids").subjects)
    words = ["read=bids", f"read.root={place.folder / 'bids'}"]
    chosen: list[str] = []
    while True:  # `all choices in one list`
        config = compose_config([*words, *([f"read.choose={chosen}"] if chosen else [])])
        try:
            assert len(instantiate(config["read"]).subjects()) == 1
            break
        except MssegError as error:
            refusal = place.among("bids.ambiguous", error.problems)
        (choose,), by_entity = refusal.settings()
        chosen += yaml.safe_load(choose.partition("=")[2])
        assert len(instantiate(compose_config([*words, *by_entity])["read"]).subjects()) == 1


@case("table.number", "table.encoding", "table.column")
def facts_of_patients(place: Place) -> None:
    files.good_pair(place.folder)
    facts = place.folder / "participants.tsv"
    for code, content, remedy in (
        ("table.number", b"participant_id\tage\n013\told\n", "correct the cell"),
        ("table.encoding", b"participant_id\tsite\n013\tOrl\xe9ans\n", "save it as UTF-8"),
        ("table.column", b"id,age\n013,3\n", "add the column"),
    ):
        facts.write_bytes(content)
        refusal = place.raised(code, Msseg2(place.folder).subjects)
        assert remedy in refusal.remedy
        facts.write_text("participant_id\tage\n013\t40\n")
        Msseg2(place.folder).subjects()


@case("data.copy")
def the_same_scan_twice(place: Place) -> None:
    """Once found by its voxels when a data set is checked, once by its bytes before training."""
    from msseg_lightning.run.train.experiment import refuse_copies

    files.good_pair(place.folder / "data", "013")
    again = files.good_pair(place.folder / "data", "016")
    shutil.copy(place.folder / "data" / "013" / files.BASELINE, again / files.BASELINE)
    words = ["check", "read=msseg2", "read.root=data", "--workers", "1"]
    refusal = place.refused("data.copy", words)
    reader = Msseg2(place.folder / "data")
    earlier = place.raised("data.copy", lambda: refuse_copies(reader.subjects()))
    for remedy in (refusal.remedy, earlier.remedy):
        assert remedy == "remove one, or give both the same patient"
    shutil.rmtree(again)
    place.ends_well(words)
    refuse_copies(reader.subjects())


def _subjects(place: Place, count: int, vendor: str | None = None) -> list[LongitudinalSubject]:
    scan = place.folder / "scan.nii.gz"
    scan.write_bytes(b"\x1f\x8b" + bytes(100))
    return [
        LongitudinalSubject(
            id=f"p{number:02d}",
            patient=f"p{number:02d}",
            images={BASELINE: scan, FOLLOWUP: scan},
            facts=Facts(vendor=vendor if number else "GE"),
        )
        for number in range(count)
    ]


def _split(subjects: list[LongitudinalSubject], words: list[str], **lesions: bool) -> object:
    """Divide as a command with these words would."""
    config = compose_config(["read.root=.", *words])
    return instantiate(config["split"]).split(subjects, config["fold"], lesions or None)


@case(
    "split.fold", "split.share", "split.too_few", "split.empty", "split.vendor",
    "split.missing", "split.unreadable",
)  # fmt: skip
def settings_of_a_split(place: Place) -> None:
    """Every alternative that a remedy names as a setting divides the patients."""
    subjects = _subjects(place, 4, "Siemens")
    write_split(place.folder / "good.json", KFold(2).split(subjects, 0))
    (place.folder / "bad.json").write_text("[]")
    published = [
        dataclasses.replace(one, id=f"{number:03d}", patient=f"{number:03d}")
        for one, number in zip(subjects, ChallengeFolds.FOLDS[0], strict=False)
    ]
    for code, words, pairs in (
        ("split.fold", ["split.folds=2", "fold=2"], subjects),
        ("split.share", ["split.folds=2", "split.validation=2"], subjects),
        ("split.too_few", ["split.folds=5"], subjects),
        ("split.empty", ["split=challenge", "fold=1"], published),
        ("split.vendor", ["split=vendor_held_out", "split.vendor=Canon"], subjects),
        ("split.missing", ["split=file", "split.path=none.json"], subjects),
        ("split.unreadable", ["split=file", "split.path=bad.json"], subjects),
    ):
        refusal = place.raised(code, lambda words=words, pairs=pairs: _split(pairs, words))
        choices = refusal.settings(NAME="GE", NUMBER="0", FILE="good.json")
        assert choices, refusal.remedy
        for choice in choices:
            own = [word for word in words if not (
                choice[0].startswith("split=") and word.startswith("split."))]  # fmt: skip
            if choice == ["split=kfold"] or choice == ["split=leave_one_out"]:
                own = [word for word in own if word != "split=file"]
                choice = [*choice, "fold=0"]
                choice += ["split.folds=2"] if choice[0] == "split=kfold" else []
            _split(pairs, with_settings(own, choice))


@case("split.validation")
def no_next_fold(place: Place) -> None:
    subjects = _subjects(place, 4)
    refusal = place.raised(
        "split.validation",
        lambda: HoldOut(validation="next_fold").split(subjects),  # type: ignore[arg-type]
    )
    (choice,) = refusal.settings()
    _split(subjects, ["split=hold_out", *choice])


@case("split.ids", "split.patient_twice", "split.id_twice", "split.other_data")
def a_split_of_other_data(place: Place) -> None:
    subjects = _subjects(place, 4)
    path = place.folder / "split.json"
    write_split(path, KFold(2).split(subjects, 0))
    refusal = place.raised("split.ids", lambda: FromFile(path).split(subjects[1:]))
    assert refusal.remedy == "use the split with the data it was made for"
    FromFile(path).split(subjects)
    refusal = place.raised("split.ids", lambda: ChallengeFolds().split(subjects))
    (choice,) = refusal.settings()
    _split(subjects, [*choice, "split.folds=2"])

    scan = place.folder / "scan.nii.gz"
    before = scan.read_bytes()
    scan.write_bytes(before + b"x")
    refusal = place.raised("split.other_data", lambda: FromFile(path).split(subjects))
    (choice,) = refusal.settings()
    _split(subjects, [*choice, "split.folds=2"])
    scan.write_bytes(before)
    FromFile(path).split(subjects)

    same = [dataclasses.replace(one, patient="p00") for one in subjects[:2]]
    path.write_text(json.dumps({"train": ["p00"], "test": ["p01"]}))
    refusal = place.raised("split.patient_twice", lambda: FromFile(path).split(same))
    assert refusal.remedy == "move all pairs of a patient together"
    path.write_text(json.dumps({"train": ["p00", "p01", "p01"]}))
    refusal = place.raised("split.id_twice", lambda: FromFile(path).split(same))
    assert refusal.remedy == "write each id once"
    path.write_text(json.dumps({"train": ["p00", "p01"]}))
    FromFile(path).split(same)


@case("data.all_empty")
def no_new_lesion(place: Place) -> None:
    subjects = _subjects(place, 4)
    none = {one.id: False for one in subjects}
    refusal = place.raised("data.all_empty", lambda: _split(subjects, ["split.folds=2"], **none))
    assert refusal.remedy == "check that the right masks are read"
    _split(subjects, ["split.folds=2"], **{**none, "p00": True, "p01": True})
