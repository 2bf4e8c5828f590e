"""A system as one zip file: whole, equal to the run, and nothing else is accepted."""

from __future__ import annotations

import json
import stat
import tempfile
import zipfile

import pytest
import yaml

from msseg_lightning.cli.main import main
from msseg_lightning.core.files import sha256_file
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.run.assemble.system import build_method
from msseg_lightning.run.config.compose import compose_config
from msseg_lightning.run.predict.model_zip import CONTENTS, opened_model, unpack, write_zip
from msseg_lightning.run.predict.trained import model_hash
from msseg_lightning.run.train.mlflow_run import without_paths


def save(folder, experiment, *words):
    """The model folder of an unfitted system."""
    config = compose_config(["read.root=unknown", "size=tiny", *words], experiment)
    method = build_method(config)
    if hasattr(method, "names"):  # an ensemble saves what it fitted
        for name in method.names:
            member = method.members[name.rpartition("-fold")[0]]()
            member.save(folder / "members" / name)
    else:
        method.save(folder)
    (folder / "config.yaml").write_text(yaml.safe_dump(without_paths(config), sort_keys=False))
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A zip file of a system of rules, which has no weights and is small."""
    place = tmp_path_factory.mktemp("exported")
    write_zip(save(place / "model", "bsi_subtraction"), place / "system.zip", "CC-BY-4.0")
    return place / "system.zip"


@pytest.mark.parametrize(
    ("experiment", "words"),
    [
        ("pre_unet", ()),
        ("pre_unet", ("ensemble={folds: 2, level: probability, rule: mean}",)),
        ("bsi_subtraction", ()),
    ],
)
def test_the_whole_chain_comes_back_as_it_was(experiment, words, tmp_path):
    model = save(tmp_path / "model", experiment, *words)
    contents = write_zip(model, tmp_path / "system.zip", "CC-BY-4.0", "Dice 0.5")
    with opened_model(str(tmp_path / "system.zip")) as opened:
        assert model_hash(opened) == model_hash(model)
        assert (opened / "config.yaml").read_bytes() == (model / "config.yaml").read_bytes()
        inside = opened.parent
        text = (inside / "README.md").read_text()
    assert not inside.exists()
    for told in (experiment, "CC-BY-4.0", "Apache-2.0", "Dice 0.5", "not a medical device"):
        assert told in text
    assert contents["files"]["model/config.yaml"]["sha256"] == sha256_file(model / "config.yaml")
    first = (tmp_path / "system.zip").read_bytes()
    write_zip(model, tmp_path / "system.zip", "CC-BY-4.0", "Dice 0.5")  # its own file
    assert (tmp_path / "system.zip").read_bytes() == first


def test_the_folder_is_removed_after_an_error_too(exported):
    with pytest.raises(KeyError), opened_model(str(exported)) as opened:
        raise KeyError
    assert not opened.exists()


def test_a_file_of_somebody_else_is_not_overwritten(exported, tmp_path):
    other = tmp_path / "thesis.zip"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("chapter1.txt", "text")
    before = other.read_bytes()
    with opened_model(str(exported)) as model, pytest.raises(MssegError, match="overwrite"):
        write_zip(model, other)
    assert other.read_bytes() == before


def test_a_model_with_other_files_is_not_exported(tmp_path):
    model = save(tmp_path / "model", "bsi_subtraction")
    (model / "notes.pkl").write_bytes(b"code")
    with pytest.raises(MssegError, match=r"notes\.pkl"):
        write_zip(model, tmp_path / "system.zip")
    assert not (tmp_path / "system.zip").exists()


class Changed:
    """A copy of an archive with other entries."""

    def __init__(self, source, target):
        with zipfile.ZipFile(source) as archive:
            self.entries = [(info, archive.read(info)) for info in archive.infolist()]
        self.target = target

    def add(self, name, content, mode=stat.S_IFREG | 0o644, listed=False):
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        self.entries.append((info, content))
        if listed:
            self.relist(**{name: {"sha256": "0" * 64, "bytes": len(content)}})
        return info

    def relist(self, **files):
        from msseg_lightning.core.files import write_record

        (info, content), *rest = self.entries
        record = json.loads(content)
        record["files"] |= files
        place = self.target.with_suffix(".json")
        write_record(place, record)
        self.entries = [(info, place.read_bytes()), *rest]

    def write(self):
        with zipfile.ZipFile(self.target, "w") as archive:
            for info, content in self.entries:
                archive.writestr(info, content)


def compressed(it):
    it.add("model/a.txt", b"0" * 5_000_000, listed=True).compress_type = zipfile.ZIP_DEFLATED


def overlapping(it):
    """Several entries that are the same bytes: each is as large as the archive."""
    it.add("model/a.txt", b"0" * 100_000, listed=True)
    it.write()
    data = bytearray(it.target.read_bytes())
    at = data.rindex(b"PK\x01\x02")
    for number in range(3):
        entry = bytearray(data[at : at + 46 + len("model/a.txt")])
        entry[46 + 6 : 46 + 7] = str(number).encode()
        end = data.rindex(b"PK\x05\x06")
        data[end:end] = entry
    end = data.rindex(b"PK\x05\x06")
    count = int.from_bytes(data[end + 8 : end + 10], "little") + 3
    data[end + 8 : end + 12] = count.to_bytes(2, "little") * 2
    size = int.from_bytes(data[end + 12 : end + 16], "little") + 3 * len(entry)
    data[end + 12 : end + 16] = size.to_bytes(4, "little")
    it.target.write_bytes(bytes(data))
    it.write = lambda: None


def twice(it):
    it.entries.append(it.entries[-1])


def other_weights(it):
    info, content = it.entries.pop()
    it.entries.append((info, content.replace(b"{", b" {", 1)))


def no_list(it):
    del it.entries[0]


def left_out(it):
    it.entries.pop()


def changed_list(it):
    (info, content), *rest = it.entries
    it.entries = [(info, content.replace(b"CC-BY-4.0", b"CC-BY-9.9")), *rest]


HOSTILE = {
    "a path above": lambda it: it.add("model/../../evil.txt", b"x", listed=True),
    "an absolute path": lambda it: it.add("/tmp/evil.txt", b"x", listed=True),
    "a path of Windows": lambda it: it.add("model\\..\\evil.txt", b"x", listed=True),
    "a drive": lambda it: it.add("c:evil.txt", b"x", listed=True),
    "a null byte": lambda it: it.add("model/a.txt\0.pkl", b"x", listed=True),
    "a link": lambda it: it.add("model/a.txt", b"/etc/passwd", stat.S_IFLNK | 0o777, listed=True),
    "a device": lambda it: it.add("model/a.txt", b"", stat.S_IFCHR | 0o666, listed=True),
    "a folder": lambda it: it.add("model/a/", b"", stat.S_IFDIR | 0o777),
    "a compressed file": compressed,
    "files that overlap": overlapping,
    "two of one name": twice,
    "two that differ in case": lambda it: it.add("MODEL/config.yaml", b"x", listed=True),
    "a file that is not listed": lambda it: it.add("model/more.txt", b"x"),
    "a program": lambda it: it.add("model/sitecustomize.py", b"x", listed=True),
    "a pickle": lambda it: it.add("model/weights.pkl", b"x", listed=True),
    "a file beside the model": lambda it: it.add("other.txt", b"x", listed=True),
    "other bytes": other_weights,
    "a file too few": left_out,
    "no list": no_list,
    "a changed list": changed_list,
}


@pytest.mark.parametrize("form", HOSTILE)
def test_a_hostile_archive_is_refused_and_leaves_nothing(form, exported, tmp_path, monkeypatch):
    archive = Changed(exported, tmp_path / "hostile.zip")
    with pytest.MonkeyPatch.context() as patch:  # the standard library warns of two of one name
        patch.setattr("warnings.warn", lambda *_, **__: None)
        HOSTILE[form](archive)
        archive.write()
    places = tmp_path / "temporary"
    places.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(places))
    files = set(tmp_path.rglob("*"))
    with pytest.raises(MssegError) as caught, opened_model(str(archive.target)):
        pytest.fail("it was opened")
    wanted = ExitCode.MODEL if form in ("no list", "a changed list") else ExitCode.SECURITY
    assert caught.value.exit_code == wanted
    assert {problem.code.split(".")[0] for problem in caught.value.problems} == {"archive"}
    assert set(tmp_path.rglob("*")) == files


def test_a_truncated_archive_is_said_to_be_damaged(exported, tmp_path, capsys):
    cut = tmp_path / "cut.zip"
    cut.write_bytes(exported.read_bytes()[:-40])
    assert main(["predict", str(cut), "-t1", "a.nii", "-t2", "b.nii", "-o", "m.nii"]) == 4
    assert "archive.unreadable" in capsys.readouterr().err


def test_the_list_names_every_file(exported, tmp_path):
    contents = unpack(exported, tmp_path)
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    assert files == {CONTENTS, *contents["files"]}


def test_it_predicts_the_same_bytes_as_the_run(trained_run, tiny_cohort, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(trained_run), "--zip", "system.zip"]) == ExitCode.OK
    with zipfile.ZipFile("system.zip") as archive:
        assert "lesions detected" in archive.read("README.md").decode()
    case = tiny_cohort / "003"
    scans = [str(case / f"flair_time0{visit}_on_middle_space.nii.gz") for visit in (1, 2)]
    words = ["-t1", scans[0], "-t2", scans[1], "--brain", str(case / "brain_mask.nii.gz")]
    for model, name in ((trained_run, "run"), ("system.zip", "zip")):
        (tmp_path / name).mkdir()
        out = ["-o", f"{name}/new.nii.gz", "--probability", f"{name}/p.nii.gz"]
        assert main(["predict", str(model), *words, *out]) == ExitCode.OK
    for name in ("new.nii.gz", "p.nii.gz", "new_msseg.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "zip" / name).read_bytes()
