"""The modules of this package that a result depends on, and a hash of their source."""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[2]
"""Folder of this package."""

BUILD_MODULE = "msseg_lightning.run.assemble.system"
"""Module that builds and seeds every system, so every result depends on it."""

NOT_FOLLOWED = ("cli", "compare", "report", "run", "track")
"""Folders that do not change results (they compose, show or store); imports of them are ignored."""


def code_hash(config: Any, modules: Iterable[str] = (BUILD_MODULE,)) -> str:
    """SHA-256 of the source of every module that a configuration's classes depend on.

    Args:
        config: configuration; every ``_target_`` of this package in it counts, at any depth.
        modules: further modules to start from.
    """
    total = hashlib.sha256()
    for module in modules_of(config, modules):
        for file in (_file(module), *_data_files(module)):
            total.update(f"{file.relative_to(PACKAGE)}\0".encode() + _content(file))
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


@functools.cache
def _affects_result(module: str) -> bool:
    return module.split(".")[1] not in NOT_FOLLOWED and _file(module).is_file()


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        target = node.get("_target_")
        if isinstance(target, str) and target.startswith("msseg_lightning."):
            yield target
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _targets(value)


def _file(module: str) -> Path:
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
    """Modules of this package that a module imports at run time."""
    tree = _RuntimeImports().visit(ast.parse(_content(_file(module))))
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return tuple(sorted(name for name in names if name.startswith("msseg_lightning.")))


class _RuntimeImports(ast.NodeTransformer):
    """Removes code under ``if TYPE_CHECKING``."""

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        if ast.unparse(node.test).endswith("TYPE_CHECKING"):
            return [self.visit(child) for child in node.orelse]
        return self.generic_visit(node)
