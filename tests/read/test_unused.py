from __future__ import annotations

from msseg_lightning.read.unused import Unused, add_files, summary


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_files_of_one_name_are_told_once(tmp_path):
    touch(tmp_path, "1/flair.nii.gz", "1/t1.nii.gz", "1/lesion_old.nii.gz", "1/flair.json")
    touch(tmp_path, "2/flair.nii.gz", "2/t1.nii.gz", "2/notes.txt", "2/.hidden", ".git/config")
    touch(tmp_path, "old/t1.nii.gz", "said/t1.nii.gz", "README.md", "participants.tsv")
    unused = Unused()
    used = [tmp_path / n / "flair.nii.gz" for n in "12"]
    add_files(unused, tmp_path, used, [tmp_path / "said"])
    problems = {problem.code: problem for problem in unused.problems()}
    assert set(problems) == {"unused.image", "unused.mask", "unused.file", "unused.folder"}
    assert problems["unused.image"].found == "2, the first at 1/t1.nii.gz"
    assert problems["unused.mask"].file == "1/lesion_old.nii.gz"
    assert problems["unused.file"].file == "2/notes.txt"
    assert problems["unused.folder"].file == "old"
    assert summary(unused.problems()) == (
        "left out or not used while reading: 1 unused.file, 1 unused.folder, 1 unused.image, "
        "1 unused.mask; `msseg check` names them"
    )
    assert summary([]) == ""


def test_masks_in_a_folder_that_is_not_used_are_named(tmp_path):
    touch(tmp_path, "1/flair.nii.gz", "2/ground_truth.nii.gz")
    unused = Unused()
    add_files(unused, tmp_path, [tmp_path / "1" / "flair.nii.gz"])
    (problem,) = unused.problems()
    assert problem.code == "unused.mask" and problem.file == "2/ground_truth.nii.gz"
