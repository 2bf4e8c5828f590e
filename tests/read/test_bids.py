from __future__ import annotations

import pytest

from msseg_lightning.core.problem import MssegError
from msseg_lightning.core.subject import (
    BASELINE,
    BASELINE_LESIONS,
    BRAIN,
    FOLLOWUP,
    FOLLOWUP_LESIONS,
    TARGET,
)
from msseg_lightning.read.bids import Bids


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def scan(root, subject, session, suffix="FLAIR.nii.gz"):
    touch(root / subject / session / "anat" / f"{subject}_{session}_{suffix}")


def mask(root, subject, session, label):
    name = f"{subject}_{session}_{label}.nii.gz"
    touch(root / "derivatives" / "manual" / subject / session / "anat" / name)


def test_sessions_become_pairs(tmp_path):
    for session in ("ses-01", "ses-02", "ses-03"):
        scan(tmp_path, "sub-A", session)
    scan(tmp_path, "sub-B", "ses-01", "FLAIR.nii")
    scan(tmp_path, "sub-B", "ses-02", "T1w.nii.gz")
    mask(tmp_path, "sub-A", "ses-02", "label-newlesion_mask")
    mask(tmp_path, "sub-A", "ses-02", "desc-rater1_label-newlesion_mask")
    mask(tmp_path, "sub-A", "ses-02", "desc-brain_mask")
    mask(tmp_path, "sub-A", "ses-01", "label-lesion_mask")
    mask(tmp_path, "sub-A", "ses-02", "label-lesion_mask")
    (tmp_path / "participants.tsv").write_text("participant_id\tsex\nsub-A\tM\n")
    reader = Bids(tmp_path)
    first, second = reader.subjects()
    assert first.id == "sub-A_ses-01_ses-02" and first.patient == second.patient == "sub-A"
    assert second.images[BASELINE] == first.images[FOLLOWUP]
    assert set(first.masks) == {
        TARGET, f"{TARGET}_rater1", BRAIN, BASELINE_LESIONS, FOLLOWUP_LESIONS
    }  # fmt: skip
    assert "ses-01" in first.masks[BASELINE_LESIONS].parts
    assert set(second.masks) == {BASELINE_LESIONS} and not second.labelled
    assert first.facts.sex == "M" and not first.registered
    assert [problem.file for problem in reader.skipped()] == ["sub-B"]


def test_two_candidates_are_refused_until_one_is_chosen(tmp_path):  # D24
    scan(tmp_path, "sub-A", "ses-01", "run-1_FLAIR.nii.gz")
    scan(tmp_path, "sub-A", "ses-01", "run-2_FLAIR.nii.gz")
    scan(tmp_path, "sub-A", "ses-02", "run-1_FLAIR.nii.gz")
    with pytest.raises(MssegError, match=r"bids.ambiguous.*run-1.*run-2"):
        Bids(tmp_path).subjects()
    (pair,) = Bids(tmp_path, entities={"run": 1}).subjects()
    assert "run-1" in pair.images[BASELINE].name


def test_no_pair(tmp_path):
    scan(tmp_path, "sub-A", "ses-01")
    with pytest.raises(MssegError, match=r"data.empty"):
        Bids(tmp_path).subjects()


def dated(root, subject, **sessions):
    rows = "".join(f"{session}\t{date}\n" for session, date in sessions.items())
    text = "session_id\tacq_time\n" + rows.replace("ses_", "ses-")
    (root / subject / f"{subject}_sessions.tsv").write_text(text)


def ids(reader):
    return [pair.id for pair in reader.subjects()]


def codes(reader):
    return {problem.code for problem in reader.skipped()}


def refused(reader):
    with pytest.raises(MssegError) as caught:
        reader.subjects()
    return caught.value.problems


def test_time_runs_forward(tmp_path):
    for session in ("ses-2", "ses-10"):
        scan(tmp_path, "sub-01", session)
    mask(tmp_path, "sub-01", "ses-10", "label-newlesion_mask")
    dated(tmp_path, "sub-01", ses_2="2020-01-01", ses_10="2021-01-01T09:00:00")
    (pair,) = (reader := Bids(tmp_path)).subjects()
    assert pair.id == "sub-01_ses-2_ses-10" and pair.labelled
    assert pair.facts.interval_days == 366
    assert reader.order() == ["sub-01: ses-2, ses-10 (dates of sub-*_sessions.tsv)"]
    assert not reader.skipped()


def test_months_and_words_without_dates(tmp_path):
    for session in ("ses-m0", "ses-m6", "ses-m12"):
        scan(tmp_path, "sub-A", session)
    for subject in ("sub-B", "sub-C"):
        for session in ("ses-followup", "ses-baseline"):
            scan(tmp_path, subject, session)
    reader = Bids(tmp_path)
    assert ids(reader) == [
        "sub-A_ses-m0_ses-m6",
        "sub-A_ses-m6_ses-m12",
        "sub-B_ses-baseline_ses-followup",
        "sub-C_ses-baseline_ses-followup",
    ]
    assert reader.order() == [
        "sub-A: ses-m0, ses-m6, ses-m12 (numbers in the labels)",
        "2 subjects, e.g. sub-B: ses-baseline, ses-followup (words in the labels)",
    ]


def test_labels_without_a_meaning_are_refused_and_the_remedy_works(tmp_path):
    for session in ("ses-red", "ses-blue"):
        scan(tmp_path, "sub-A", session)
    (problem,) = refused(Bids(tmp_path))
    assert "'read.session_order=[blue,red]'" in problem.remedy
    assert ids(Bids(tmp_path, session_order=["red", "blue"])) == ["sub-A_ses-red_ses-blue"]
    dated(tmp_path, "sub-A", ses_red="2020-01-01", ses_blue="2019-01-01")
    assert ids(Bids(tmp_path)) == ["sub-A_ses-blue_ses-red"]


def test_dates_of_scans_tables_and_side_cars(tmp_path):
    for session, date in (("ses-red", "2019-05-01"), ("ses-blue", "2020-05-01")):
        scan(tmp_path, "sub-A", session)
        (tmp_path / "sub-A" / session / f"sub-A_{session}_scans.tsv").write_text(
            f"filename\tacq_time\nanat/sub-A_{session}_T1w.nii.gz\t1999-01-01\n"
            f"anat/sub-A_{session}_FLAIR.nii.gz\t{date}\n"
        )
    for session, date in (("ses-x", "20200501"), ("ses-b", "20210501")):
        scan(tmp_path, "sub-B", session)
        (tmp_path / "sub-B" / session / "anat" / f"sub-B_{session}_FLAIR.json").write_text(
            f'{{"AcquisitionDate": "{date}", "AcquisitionTime": "10:00:00"}}'
        )
    first, second = Bids(tmp_path).subjects()
    assert (first.id, first.facts.interval_days) == ("sub-A_ses-red_ses-blue", 366)
    assert (second.id, second.facts.interval_days) == ("sub-B_ses-x_ses-b", 365)
    dated(tmp_path, "sub-A", ses_red="2021-01-01", ses_blue="2020-01-01")
    (problem,) = [p for p in refused(Bids(tmp_path)) if p.severity == "error"]
    assert problem.found == "dates of sub-A_sessions.tsv against dates of the scans.tsv files"
    dated(tmp_path, "sub-A", ses_red="05/01/2021", ses_blue="n/a")
    assert {problem.code for problem in refused(Bids(tmp_path))} == {"table.date"}


def test_a_reference_of_no_pair_is_named(tmp_path):
    for session in ("ses-1", "ses-2"):
        scan(tmp_path, "sub-A", session)
    mask(tmp_path, "sub-A", "ses-1", "label-newlesion_mask")
    mask(tmp_path, "sub-A", "ses-3", "label-newlesion_mask")
    mask(tmp_path, "sub-A", "ses-2", "desc-rater5_label-newlesion_mask")
    (pair,) = (reader := Bids(tmp_path)).subjects()
    assert not pair.masks
    found = {problem.code: problem for problem in reader.skipped()}
    assert set(found) == {"unused.reference", "unused.mask"}
    assert "first session" in next(
        p.expected for p in reader.skipped() if p.code == "unused.reference" and "ses-1" in p.file
    )
    assert "rater5" in found["unused.mask"].file


def test_masks_are_those_of_the_run_that_is_used(tmp_path):
    for session in ("ses-1", "ses-2"):
        for run in ("run-01", "run-02"):
            scan(tmp_path, "sub-A", session, f"{run}_FLAIR.nii.gz")
            for label in ("label-newlesion_mask", "desc-rater1_label-newlesion_mask"):
                mask(tmp_path, "sub-A", session, f"{run}_{label}")
            mask(tmp_path, "sub-A", session, f"{run}_desc-brain_mask")
            mask(tmp_path, "sub-A", session, f"{run}_label-lesion_mask")
    for value, run in (("02", "run-02"), (2, "run-02"), (1, "run-01")):
        (pair,) = Bids(tmp_path, entities={"run": value}).subjects()
        assert len(pair.masks) == 5 and len(pair.images) == 2
        assert all(run in file.name for file in pair.files().values())


def test_two_runs_in_one_session_are_chosen_by_the_remedy(tmp_path):
    scan(tmp_path, "sub-A", "ses-1")
    for run in ("run-1", "run-2"):
        scan(tmp_path, "sub-A", "ses-2", f"{run}_FLAIR.nii.gz")
        mask(tmp_path, "sub-A", "ses-2", f"{run}_label-newlesion_mask")
    (problem,) = refused(Bids(tmp_path))
    choice = problem.remedy.split("read.choose=[")[1].split("]")[0]
    assert "+read.entities.run=1" in problem.remedy
    for reader in (Bids(tmp_path, choose=[choice]), Bids(tmp_path, entities={"run": 1})):
        (pair,) = reader.subjects()
        assert "run-1" in pair.images[FOLLOWUP].name and "run-1" in pair.masks[TARGET].name
        assert pair.images[BASELINE].name == "sub-A_ses-1_FLAIR.nii.gz"
    (problem,) = refused(Bids(tmp_path, choose=[choice, "sub-A/nothing.nii"]))
    assert problem.code == "bids.choice" and problem.found == "sub-A/nothing.nii"


def test_another_run_for_each_session(tmp_path):
    for session in ("ses-1", "ses-2"):
        for run in ("run-1", "run-2"):
            scan(tmp_path, "sub-A", session, f"{run}_FLAIR.nii.gz")
    names = [
        f"sub-A/ses-{n}/anat/sub-A_ses-{n}_run-{run}_FLAIR.nii.gz" for n, run in ((1, 2), (2, 1))
    ]
    (pair,) = Bids(tmp_path, choose=names).subjects()
    assert [str(file.relative_to(tmp_path)) for file in pair.images.values()] == names


def test_native_and_standard_space(tmp_path):
    for session in ("ses-1", "ses-2"):
        scan(tmp_path, "sub-A", session)
        mask(tmp_path, "sub-A", session, "desc-brain_mask")
        mask(tmp_path, "sub-A", session, "space-MNI152NLin2009cAsym_res-2_desc-brain_mask")
    mask(tmp_path, "sub-A", "ses-2", "space-MNI152NLin2009cAsym_label-newlesion_mask")
    (pair,) = (reader := Bids(tmp_path)).subjects()
    assert pair.masks[BRAIN].name == "sub-A_ses-2_desc-brain_mask.nii.gz" and set(pair.masks) == {
        BRAIN
    }
    assert "unused.reference" in codes(reader)
    for session in ("ses-1", "ses-2"):
        scan(tmp_path, "sub-A", session, "space-MNI152NLin2009cAsym_FLAIR.nii.gz")
    assert {problem.code for problem in refused(Bids(tmp_path))} == {"bids.ambiguous"}
    (native,) = Bids(tmp_path, entities={"space": None}).subjects()
    assert native.masks == pair.masks and native.images == pair.images
    (standard,) = Bids(tmp_path, entities={"space": "MNI152NLin2009cAsym"}).subjects()
    assert TARGET in standard.masks and BRAIN not in standard.masks  # that one is of another grid


@pytest.mark.parametrize("key", ["acq", "rec", "ce"])
def test_a_mask_of_another_scan_is_not_taken(tmp_path, key):
    for session in ("ses-1", "ses-2"):
        for value in ("a", "b"):
            scan(tmp_path, "sub-A", session, f"{key}-{value}_FLAIR.nii.gz")
    mask(tmp_path, "sub-A", "ses-2", f"{key}-b_label-newlesion_mask")
    mask(tmp_path, "sub-A", "ses-2", "label-brain_mask")
    (pair,) = (reader := Bids(tmp_path, entities={key: "a"})).subjects()
    assert set(pair.masks) == {BRAIN}
    assert codes(reader) >= {"unused.reference", "bids.mask_of_several", "unused.image"}
    (pair,) = Bids(tmp_path, entities={key: "b"}).subjects()
    assert set(pair.masks) == {BRAIN, TARGET}


def test_what_is_left_out_is_named(tmp_path):
    for session in ("ses-1", "ses-2", "ses-3"):
        scan(tmp_path, "sub-A", session, "T1w.nii.gz")
    for session in ("ses-1", "ses-3"):
        scan(tmp_path, "sub-A", session)
    dated(tmp_path, "sub-A", ses_1="2020-01-01", ses_3="2021-01-01", ses_7="2022-01-01")
    touch(tmp_path / "backup" / "scan.nii.gz")
    touch(tmp_path / "derivatives" / "x" / "sub-A" / "ses-3" / "anat" / "lesion_seg.nii.gz")
    (pair,) = (reader := Bids(tmp_path)).subjects()
    assert pair.id == "sub-A_ses-1_ses-3"
    found = {problem.code: problem for problem in reader.skipped()}
    assert found["bids.no_scan"].file == "sub-A/ses-2"
    assert found["unused.row"].file.endswith("ses-7")
    assert found["unused.folder"].file == "backup"
    assert found["unused.mask"].field == "lesion_seg.nii.gz"
    assert found["unused.image"].found.startswith("2, the first at sub-A/ses-1")


@pytest.mark.parametrize("name", ["sub-B_ses-1", "sub-A_ses-3", "sub-a_ses-1", "sub-B"])
def test_names_that_contradict_their_folders_are_refused(tmp_path, name):
    touch(tmp_path / "sub-A" / "ses-1" / "anat" / f"{name}_FLAIR.nii.gz")
    scan(tmp_path, "sub-A", "ses-2")
    with pytest.raises(MssegError, match=rf"bids.misplaced.*found {name}"):
        Bids(tmp_path).subjects()


@pytest.mark.parametrize("label", ["newlesion", "brain", "lesion"])
def test_masks_of_another_session_are_refused(tmp_path, label):
    for session in ("ses-1", "ses-2"):
        scan(tmp_path, "sub-A", session)
    folder = tmp_path / "derivatives" / "manual" / "sub-A" / "ses-2" / "anat"
    touch(folder / f"sub-A_ses-1_label-{label}_mask.nii.gz")
    with pytest.raises(MssegError, match=r"bids.misplaced.*expected sub-A_ses-2"):
        Bids(tmp_path).subjects()


@pytest.mark.parametrize(
    "row",
    [
        "anat/sub-A_{}_T1w.nii.gz",
        "./anat/sub-A_{}_FLAIR.nii.gz",
        "anat\\sub-A_{}_FLAIR.nii.gz",
        "anat/sub-A_{}_FLAIR.nii",
    ],
)
def test_dates_of_scans_in_other_spellings_and_of_other_scans_of_a_session(tmp_path, row):
    for session, date in (("ses-1", "2021-01-01"), ("ses-2", "2020-01-01")):
        scan(tmp_path, "sub-A", session)
        table = tmp_path / "sub-A" / session / f"sub-A_{session}_scans.tsv"
        table.write_text(f"filename\tacq_time\n{row.format(session)}\t{date}\n")
    assert ids(Bids(tmp_path)) == ["sub-A_ses-2_ses-1"]


def test_the_date_of_the_scan_itself_goes_before_that_of_another(tmp_path):
    for session, own, other in (("ses-1", 2020, 2023), ("ses-2", 2021, 2019)):
        scan(tmp_path, "sub-A", session)
        table = tmp_path / "sub-A" / session / f"sub-A_{session}_scans.tsv"
        rows = f"anat/x_T1w.nii\t{other}-01-01\nanat/sub-A_{session}_FLAIR.nii.gz\t{own}-01-01\n"
        table.write_text("filename\tacq_time\n" + rows)
    assert ids(Bids(tmp_path)) == ["sub-A_ses-1_ses-2"]


def test_a_session_with_two_dates_is_refused(tmp_path):
    for session in ("ses-1", "ses-2"):
        scan(tmp_path, "sub-A", session)
    table = tmp_path / "sub-A" / "sub-A_sessions.tsv"
    rows = "ses-1\t2020-01-01\nses-1\t2018-01-01\nses-2\t2019-01-01\n"
    table.write_text("session_id\tacq_time\n" + rows)
    with pytest.raises(MssegError, match=r"bids.dated_twice.*line 3"):
        Bids(tmp_path).subjects()


@pytest.mark.parametrize("date", ["01.02.2020", "2020-01", "2020"])
def test_a_date_of_a_side_car_that_cannot_be_read_is_said(tmp_path, date):
    for session in ("ses-1", "ses-2"):
        scan(tmp_path, "sub-A", session)
    side_car = tmp_path / "sub-A" / "ses-1" / "anat" / "sub-A_ses-1_FLAIR.json"
    side_car.write_text(f'{{"AcquisitionDate": "{date}"}}')
    reader = Bids(tmp_path)
    reader.subjects()
    assert [problem.code for problem in reader.skipped()] == ["bids.side_car"]
