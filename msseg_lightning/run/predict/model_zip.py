"""A trained system as one zip file: written by ``msseg export``, read by ``msseg predict``.

The file holds the model folder (settings, weights and cards of every network, whether stage, member
or the only one), a text for people, and a list of all files with their SHA-256. Entries are stored
without compression, since weights hardly shrink: an archive cannot grow when it is read.
"""

from __future__ import annotations

import contextlib
import re
import stat
import tempfile
import unicodedata
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from msseg_lightning import __version__
from msseg_lightning.core.files import (
    DamagedFileError,
    atomic_write,
    read_record,
    sha256_file,
    write_record,
)
from msseg_lightning.core.outputs import refuse_overwrites
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.run.predict.trained import (
    find_model,
    load_method,
    run_of,
    weights_hash,
)

CONTENTS = "contents.json"
README = "README.md"
MODEL = "model"
SUFFIXES = (".yaml", ".json", ".txt", ".safetensors")
"""Kinds of files that a model folder holds; none of them can hold program code."""

FORMAT = 1
MAX_FILES = 10_000
MAX_CONTENTS_BYTES = 10_000_000
_EPOCH = (1980, 1, 1, 0, 0, 0)
_NAME = re.compile(r"[\w.-]+(/[\w.-]+)*")
AGAIN = "get the file again from a source that you trust, as `msseg export` wrote it"


def write_zip(
    model: Path, file: Path, weights_licence: str = "not stated", results: str = ""
) -> dict[str, Any]:
    """Write a trained system as a zip file; equal systems give equal bytes.

    Args:
        model: model folder, from ``find_model``.
        file: to write; only an earlier export may be overwritten.
        weights_licence: under which the weights may be used, for people.
        results: scores of held-out pairs as text, for people.

    Returns:
        The list of contents.

    Raises:
        MssegError: the model is damaged (exit 4), or the file is not ours to overwrite (exit 2).
    """
    refuse_overwrites([(file, _is_export)], (), "--zip")
    _, config = load_method(model)
    files = sorted(path for path in model.rglob("*") if path.is_file())
    foreign = [
        path for path in files if path.suffix not in SUFFIXES or not _sound(_of(path, model))
    ]
    if foreign:
        raise MssegError(
            [
                Problem(
                    "archive.foreign",
                    "a model folder holds settings, cards and weights only",
                    file=path,
                    expected=", ".join(SUFFIXES),
                    remedy="move this file out of the model folder",
                    exit_code=ExitCode.MODEL,
                )
                for path in foreign
            ]
        )
    run = run_of(model)
    record = run.record() if run is not None else {}
    card = config.get("card") or {}
    contents = {
        "written_by": "msseg export",
        "format": FORMAT,
        "system": config["name"],
        "version": __version__,
        "model_sha256": weights_hash(model),
        "trained": {
            "size": config.get("size"),
            "seed": config.get("seed"),
            "fold": config.get("fold"),
            "commit": record.get("commit"),
        },
        "paper": card.get("paper"),
        "licence": {"software": "Apache-2.0", "weights": weights_licence},
        "use": "research use only; not a medical device",
    }
    with tempfile.TemporaryDirectory(prefix="msseg-export-") as place:
        readme = Path(place) / README
        readme.write_text(_readme(contents, card, results), encoding="utf-8")
        sources = {README: readme, **{_of(path, model): path for path in files}}
        contents["files"] = {
            name: {"sha256": sha256_file(path), "bytes": path.stat().st_size}
            for name, path in sources.items()
        }
        write_record(Path(place) / CONTENTS, contents)
        with atomic_write(file) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for name, path in {CONTENTS: Path(place) / CONTENTS, **sources}.items():
                info = zipfile.ZipInfo(name, _EPOCH)  # no time of day: equal systems, equal bytes
                info.external_attr = (stat.S_IFREG | 0o644) << 16
                info.file_size = path.stat().st_size
                with path.open("rb") as source, archive.open(info, "w") as target:
                    while part := source.read(1 << 20):
                        target.write(part)
    return contents


@contextlib.contextmanager
def opened_model(text: str, tracking_folder: str = "mlruns") -> Iterator[Path]:
    """The model folder of a run, an MLflow id, a registered name or a zip file.

    A zip file is checked and unpacked into a temporary folder, which is removed at the end.

    Raises:
        MssegError: there is none (exit 4); the zip file is damaged (exit 4) or holds something else
            than what ``msseg export`` writes (exit 6).
    """
    file = Path(text)
    if not (file.is_file() and (file.suffix.lower() == ".zip" or zipfile.is_zipfile(file))):
        yield find_model(text, tracking_folder)
        return
    with tempfile.TemporaryDirectory(prefix="msseg-model-") as place:
        unpack(file, Path(place))
        yield find_model(str(Path(place) / MODEL), tracking_folder)


def unpack(file: Path, folder: Path) -> dict[str, Any]:
    """Unpack an exported system into an empty folder; every file is compared with its hash.

    Everything is checked before the first file of the model is written.

    Returns:
        The list of contents.

    Raises:
        MssegError: see ``opened_model``.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            _refuse_entries(file, entries)
            listed = {entry.filename: entry for entry in entries}
            contents = _contents(file, archive, listed, folder)
            expected = contents["files"]
            _refuse_others(file, listed, expected)
            for name, facts in expected.items():
                target = folder.joinpath(*PurePosixPath(name).parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(listed[name]) as source, target.open("xb") as written:
                    while part := source.read(1 << 20):
                        written.write(part)
                if (found := sha256_file(target)) != facts["sha256"]:
                    raise _refusal(
                        "archive.hash",
                        "a file in the archive is not the one that its list describes",
                        file,
                        field=name,
                        found=found[:12],
                        expected=str(facts["sha256"])[:12],
                    )
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise _refusal(
            "archive.unreadable",
            "the archive is damaged",
            file,
            found=" ".join(str(error).split())[:200],
            expected="a zip file",
            exit_code=ExitCode.MODEL,
        ) from error
    return contents


def _refuse_entries(file: Path, entries: Sequence[zipfile.ZipInfo]) -> None:
    """Refuse paths outside, links, compressed or encrypted entries, and two of one name."""
    seen: dict[str, str] = {}
    wrong: dict[str, str] = {}
    for entry in entries[: MAX_FILES + 1]:
        name, kind = entry.orig_filename, stat.S_IFMT(entry.external_attr >> 16)
        key = unicodedata.normalize("NFC", name).casefold()
        if not _sound(name) or name != entry.filename:
            wrong[name] = "a path that may lead out of the folder"
        elif kind not in (0, stat.S_IFREG) or entry.is_dir():
            wrong[name] = "a link, folder or device"
        elif entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            wrong[name] = "a compressed file"
        elif entry.flag_bits & 0x1:
            wrong[name] = "an encrypted file"
        elif key in seen:
            wrong[name] = "a second file of this name"
        seen[key] = name
    if len(entries) > MAX_FILES:
        wrong[""] = f"more than {MAX_FILES} files"
    elif sum(entry.file_size for entry in entries) > file.stat().st_size:
        wrong[""] = "more bytes than the archive has"
    if wrong:
        raise MssegError(
            [
                _problem(
                    "archive.entry",
                    "the archive holds what `msseg export` never writes",
                    file,
                    field=name[:200],
                    found=found,
                    expected="plain files, stored without compression",
                )
                for name, found in list(wrong.items())[:20]
            ]
        )


def _contents(
    file: Path,
    archive: zipfile.ZipFile,
    listed: Mapping[str, zipfile.ZipInfo],
    folder: Path,
) -> dict[str, Any]:
    entry = listed.get(CONTENTS)
    found = "no such file" if entry is None else ""
    if entry is not None and entry.file_size > MAX_CONTENTS_BYTES:
        found = f"{entry.file_size} bytes"
    if entry is not None and not found:
        (folder / CONTENTS).write_bytes(archive.read(entry))
        try:
            contents = read_record(folder / CONTENTS, {"format": int, "files": dict}, sealed=True)
        except DamagedFileError as error:
            found = str(error)
        else:
            facts = contents["files"].values()
            good = all(
                isinstance(one, dict) and isinstance(one.get("sha256"), str) for one in facts
            )
            if good and contents["format"] <= FORMAT:
                return contents
            found = "entries without a hash" if not good else f"format {contents['format']}"
    raise _refusal(
        "archive.contents",
        "the archive has no usable list of its files",
        file,
        field=CONTENTS,
        found=found,
        expected=f"the list that `msseg export` writes, format {FORMAT} or less",
        exit_code=ExitCode.MODEL,
    )


def _refuse_others(
    file: Path, listed: Mapping[str, zipfile.ZipInfo], expected: Mapping[str, Any]
) -> None:
    """Refuse files that the list does not name, that are missing, or of another kind."""
    present = set(listed) - {CONTENTS}
    wrong = dict.fromkeys(sorted(set(expected) - present), "missing")
    wrong |= dict.fromkeys(sorted(present - set(expected)), "not in the list of contents")
    for name in sorted(present & set(expected)):
        inside = name.startswith(f"{MODEL}/") and name.endswith(SUFFIXES)
        if name != README and not inside:
            wrong[name] = "no file of a model"
    if wrong:
        raise MssegError(
            [
                _problem(
                    "archive.files",
                    "the files of the archive are not those of an exported system",
                    file,
                    field=name[:200],
                    found=found,
                    expected=f"{README} and {MODEL}/ with {', '.join(SUFFIXES)}",
                )
                for name, found in list(wrong.items())[:20]
            ]
        )


def _sound(name: str) -> bool:
    """Whether a name is a relative path without ``..`` that is written alike everywhere."""
    return bool(_NAME.fullmatch(name)) and not any(
        part.strip(".") == "" for part in name.split("/")
    )


def _of(path: Path, model: Path) -> str:
    return f"{MODEL}/{path.relative_to(model).as_posix()}"


def _is_export(file: Path) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            return b'"msseg export"' in archive.read(CONTENTS)[:200]
    except (OSError, KeyError, zipfile.BadZipFile, NotImplementedError, RuntimeError):
        return False


def _problem(code: str, message: str, file: Path, **details: Any) -> Problem:
    return Problem(
        code, message, file=file, remedy=AGAIN, **{"exit_code": ExitCode.SECURITY, **details}
    )


def _refusal(code: str, message: str, file: Path, **details: Any) -> MssegError:
    return MssegError(_problem(code, message, file, **details))


def _readme(contents: Mapping[str, Any], card: Mapping[str, Any], results: str) -> str:
    """What a person should know before using the system."""
    trained, licence = contents["trained"], contents["licence"]
    departures = "\n".join(f"- {line}" for line in card.get("departures") or ["none known"])
    return f"""\
# {contents["system"]}

Finds new multiple-sclerosis lesions between two FLAIR scans. {contents["use"].capitalize()}.

    msseg predict THIS.zip --baseline B.nii.gz --followup F.nii.gz --output new.nii.gz

- paper: {card.get("paper") or "none"}
- idea: {card.get("idea") or "not stated"}
- trained with msseg_lightning {contents["version"]} (commit {trained["commit"] or "unknown"}),
  size {trained["size"]}, fold {trained["fold"]}, seed {trained["seed"]}
- SHA-256 of the weights: {contents["model_sha256"] or "this system has none"}
- licence of the software: {licence["software"]}; of the weights: {licence["weights"]}

## Scores on pairs that were held out

{results.strip() or "not known: the system was exported without its run"}

## Known departures from the paper

{departures}
"""
