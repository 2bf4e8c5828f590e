"""Checks of paths before files are opened."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from msseg_lightning.core.problem import ExitCode, MssegError, Problem


def shown(path: Path, root: Path | None = None) -> str:
    """Text of a path in messages: the part below the data root, or the last two parts."""
    if root is not None:
        try:
            # absolute() keeps links, which resolve() would follow out of the root
            plain = os.path.normpath(path.absolute())
            return Path(plain).relative_to(os.path.normpath(root.absolute())).as_posix()
        except ValueError:
            pass
    return Path(*path.parts[-2:]).as_posix() if len(path.parts) > 1 else str(path)


def refuse_name(path: Path) -> Problem | None:
    """Refuse paths with NUL bytes, line breaks or very long names."""
    text = str(path)
    if "\0" in text or "\n" in text or "\r" in text:
        return Problem(
            "path.character",
            "the path holds a NUL or a line break",
            file=ascii(text)[:80],
            field="path",
            remedy="rename the file or correct the table",
        )
    if len(text) > 4096 or any(len(part.encode(errors="replace")) > 255 for part in path.parts):
        return Problem(
            "path.length",
            "the path is too long",
            file=f"{text[:40]}...",
            field="path",
            found=f"{len(text)} characters",
            expected="at most 4096, and 255 bytes in each part",
            remedy="use shorter names",
        )
    return None


def resolve_file(path: Path, root: Path | None = None, allow_external_links: bool = False) -> Path:
    """The real path of a regular, readable file.

    Args:
        path: the file, possibly through links.
        root: data root the file must lie under after all links were followed.
        allow_external_links: permit files outside the root.

    Raises:
        MssegError: missing, a broken or circular link, a folder or an unfit name (exit 3); not
            readable (exit 5); outside the root, or a pipe or device, which is never opened
            (exit 6).
    """
    problem = refuse_name(path)
    if problem is not None:
        raise MssegError(problem)
    name = shown(path, root)
    try:
        real = Path(os.path.realpath(path, strict=True))
        mode = real.stat().st_mode
    except FileNotFoundError:
        raise MssegError(_missing(path, name)) from None
    except OSError as error:
        raise MssegError(_unreachable(error, name)) from None
    if root is not None and not allow_external_links:
        try:
            inside = real.is_relative_to(os.path.realpath(root))
        except OSError:
            inside = False
        if not inside:
            raise MssegError(
                Problem(
                    "path.outside",
                    "the file lies outside the data root",
                    file=name,
                    field="path",
                    found="a link or '..' that leaves the root",
                    expected="a file below the root",
                    remedy="copy the file below the root, or "
                    "data.reading.allow_external_links=true",
                    exit_code=ExitCode.SECURITY,
                )
            )
    if stat.S_ISDIR(mode):
        raise MssegError(_folder(real, name))
    if not stat.S_ISREG(mode):
        raise MssegError(
            Problem(
                "path.device",
                "this is a pipe, socket or device and was not opened",
                file=name,
                field="file type",
                found=stat.filemode(mode)[0],
                expected="a regular file",
                remedy="put the scan itself in its place",
                exit_code=ExitCode.SECURITY,
            )
        )
    if not os.access(real, os.R_OK):
        raise MssegError(_unreachable(PermissionError(errno.EACCES, "permission denied"), name))
    return real


def _missing(path: Path, name: str) -> Problem:
    if path.is_symlink():
        target = str(path.readlink())
        annexed = ".git/annex" in target.replace("\\", "/")
        return Problem(
            "path.broken_link",
            "the link points to a file that is not there",
            file=name,
            field="path",
            found="a git-annex pointer" if annexed else "a broken link",
            expected="a file",
            remedy=(
                "fetch the content: git annex get FILE (or datalad get FILE)"
                if annexed
                else "restore the file the link points to"
            ),
        )
    return Problem(
        "path.missing",
        "the file is missing",
        file=name,
        field="path",
        expected="a file",
        remedy="check the path, or restore the file",
    )


def _unreachable(error: OSError, name: str) -> Problem:
    if error.errno == errno.ELOOP:
        return Problem(
            "path.link_loop",
            "the links point at each other",
            file=name,
            field="path",
            found="a circle of links",
            expected="a file",
            remedy="replace the link by the file",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return Problem(
            "path.permission",
            "the file may not be read by this user",
            file=name,
            field="permission",
            found="no read permission",
            expected="a readable file",
            remedy="change the permission: chmod u+r FILE",
            exit_code=ExitCode.ENVIRONMENT,
        )
    return Problem(
        "path.unreachable",
        "the file cannot be reached",
        file=name,
        field="path",
        found=os.strerror(error.errno or 0),
        expected="a readable file",
        remedy="check the disk and the path",
        exit_code=ExitCode.DATA if error.errno == errno.ENOTDIR else ExitCode.ENVIRONMENT,
    )


def _folder(real: Path, name: str) -> Problem:
    dicom = any(entry.suffix.lower() in (".dcm", ".ima") for entry in _entries(real))
    return Problem(
        "path.dicom_folder" if dicom else "path.folder",
        "this is a folder of DICOM files" if dicom else "a folder stands where a file is expected",
        file=name,
        field="file type",
        found="a folder",
        expected="a NIfTI file (.nii or .nii.gz)",
        remedy="convert it with dcm2niix" if dicom else "give the file inside the folder",
    )


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())[:50]
    except OSError:
        return []
