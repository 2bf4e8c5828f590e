"""The modules of this package and of the user's that a result depends on, and their hash."""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from msseg_lightning.run.config.own_classes import imported_module
from msseg_lightning.run.config.user_packages import source_file, user_package

PACKAGE = Path(__file__).resolve().parents[2]
"""Folder of this package."""

BUILD_MODULE = "msseg_lightning.run.assemble.system"
"""Module that builds and seeds every system, so every result depends on it."""

NOT_FOLLOWED = ("cli", "compare", "report", "run", "track")
"""Folders that do not change results (they compose, show or store); imports of them are ignored."""


def code_hash(config: Any, modules: Iterable[str] = (BUILD_MODULE,)) -> str:
    """SHA-256 of the source of every module that a configuration's classes depend on.

    Args:
        config: configuration; every ``_target_`` of this package and of packages that the user has
            allowed counts, at any depth.
        modules: further modules to start from.
    """
    total = hashlib.sha256()
    for module in modules_of(config, modules):
        for file in (_file(module), *_data_files(module)):
            total.update(f"{_name(module, file)}\0".encode() + _content(file))
    return total.hexdigest()


def modules_of(config: Any, modules: Iterable[str] = (BUILD_MODULE,)) -> tuple[str, ...]:
    """Sorted names of the modules that :func:`code_hash` includes.

    They are the modules of the classes and everything that these import, directly or indirectly, at
    the top of a file or inside a function. Imports for type checking only are ignored.
    """
    found: set[str] = set()
    named = (target.rpartition(".")[0] for target in _targets(config))
    waiting = {*modules, *(name for name in named if _affects_result(name))}
    while waiting:
        module = waiting.pop()
        found.add(module)
        waiting |= {name for name in _imports(module) if _affects_result(name)} - found
    return tuple(sorted(found))


def _name(module: str, file: Path) -> str:
    return module if user_package(module) else str(file.relative_to(PACKAGE))


@functools.cache
def _affects_result(module: str) -> bool:
    if user_package(module):
        return source_file(module) is not None
    return module.split(".")[1] not in NOT_FOLLOWED and _file(module).is_file()


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        target = node.get("_target_")
        if isinstance(target, str) and _is_known(target):
            yield target
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _targets(value)


def _is_known(name: str) -> bool:
    return name.startswith("msseg_lightning.") or user_package(name) is not None


def _file(module: str) -> Path:
    if user_package(module):
        return source_file(module) or Path(module)
    path = PACKAGE.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@functools.cache
def _content(file: Path) -> bytes:
    return file.read_bytes()


@functools.cache
def _data_files(module: str) -> tuple[Path, ...]:
    """Data files (``*.npz``) in the folder of a module that reads resources of the package."""
    if b"resources" not in _content(_file(module)):
        return ()
    return tuple(sorted(_file(module).parent.glob("*.npz")))


@functools.cache
def _imports(module: str) -> tuple[str, ...]:
    """Modules of this package and of the user's that a module imports at run time."""
    file = _file(module)
    tree = _RuntimeImports().visit(ast.parse(_content(file)))
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or node.level):
            origin = imported_module(node, package)
            names.add(origin)
            names.update(f"{origin}.{alias.name}" for alias in node.names)
    return tuple(sorted(name for name in names if _is_known(name)))


class _RuntimeImports(ast.NodeTransformer):
    """Removes code under ``if TYPE_CHECKING``."""

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        if ast.unparse(node.test).endswith("TYPE_CHECKING"):
            return [self.visit(child) for child in node.orelse]
        return self.generic_visit(node)
