"""Python packages of the user whose classes a configuration may build.

A package is allowed by the environment variable ``MSSEG_PACKAGES`` or the word ``packages=NAME`` of
a command only. No file can allow one: a model or run folder may come from somebody else, and a
class that is built from it runs its code.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.machinery
import importlib.util
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from msseg_lightning.core.problem import ExitCode, MssegError, Problem

VARIABLE = "MSSEG_PACKAGES"
NEVER = {*sys.stdlib_module_names, "msseg_lightning"}
"""Packages that are never allowed as a whole: those of Python and this one."""


def user_packages() -> tuple[str, ...]:
    """Names of the packages and modules that the user has allowed."""
    return tuple(re.findall(r"[^\s,:;\[\]'\"]+", os.environ.get(VARIABLE, "")))


@contextlib.contextmanager
def packages_of(words: Sequence[str]) -> Iterator[list[str]]:
    """Allow the packages of ``packages=NAME`` during a command; yields the other words.

    Raises:
        MssegError: one problem per name that is no package which can be imported (exit 2).
    """
    given = [word.removeprefix("packages=") for word in words if word.startswith("packages=")]
    before = os.environ.get(VARIABLE)
    if given:
        os.environ[VARIABLE] = ",".join([before or "", *given])
    try:
        refuse_unknown_packages()
        yield [word for word in words if not word.startswith("packages=")]
    finally:
        if given:
            os.environ.pop(VARIABLE)
            os.environ.update({} if before is None else {VARIABLE: before})


def refuse_unknown_packages() -> None:
    """Check that every allowed package can be imported and is none of Python's own.

    Raises:
        MssegError: one problem per name (exit 2).
    """
    problems = [
        Problem(
            "config.packages",
            "this package cannot be imported"
            if name.partition(".")[0] not in NEVER
            else "this is no package of yours",
            field=VARIABLE,
            found=name,
            expected="a package of yours: the folder or module NAME in NAME.module.Class",
            remedy=f"give the command in the folder that holds {name}, set PYTHONPATH=FOLDER to "
            f"that folder, or install it by `pip install FOLDER`; else leave {name} out",
            exit_code=ExitCode.CONFIG,
        )
        for name in user_packages()
        if name.partition(".")[0] in NEVER or not source_files(name)
    ]
    if problems:
        raise MssegError(problems)


def user_package(module: str) -> str | None:
    """The allowed package that holds a module; None if there is none."""
    return next(
        (name for name in user_packages() if module == name or module.startswith(f"{name}.")), None
    )


def source_file(module: str) -> Path | None:
    """The source of a module, found without importing anything; None if there is none."""
    first, *rest = module.split(".")
    spec = _spec(first)
    if spec is None or not rest:
        return Path(spec.origin) if spec is not None and spec.origin else None
    for folder in map(Path, spec.submodule_search_locations or ()):
        file = folder.joinpath(*rest)
        for found in (file / "__init__.py", file.with_suffix(".py")):
            if found.is_file():
                return found
    return None


def _spec(name: str) -> importlib.machinery.ModuleSpec | None:
    """Where a package lies: where Python finds it, else in the working folder."""
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        found = None
    return found or importlib.machinery.PathFinder.find_spec(name, [str(Path.cwd())])


def make_importable(module: str) -> None:
    """Add the working folder to the places of modules if only it holds the package of a module."""
    first, folder = module.partition(".")[0], str(Path.cwd())
    if folder not in sys.path and importlib.util.find_spec(first) is None:
        sys.path.append(folder)


def source_files(name: str) -> list[Path]:
    """All sources of a package or module, sorted; empty if there is none."""
    file = source_file(name)
    if file is not None and file.name != "__init__.py":
        return [file]
    spec = _spec(name.partition(".")[0])
    below = name.split(".")[1:]
    folders = [Path(place, *below) for place in (spec and spec.submodule_search_locations) or ()]
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def package_hashes(modules: Sequence[str]) -> dict[str, str]:
    """Package of the user -> SHA-256 of its source, for the packages of some modules."""
    found = {}
    for name in sorted({name for module in modules if (name := user_package(module))}):
        total = hashlib.sha256()
        for file in source_files(name):
            total.update(f"{file.name}\0".encode() + file.read_bytes())
        found[name] = total.hexdigest()
    return found
