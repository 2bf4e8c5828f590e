"""Properties of the classes of this package, read from source without importing it."""

from __future__ import annotations

import ast
import dataclasses
import functools
import re
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2]

NOT_BUILT = ("Protocol", "NamedTuple", "Exception", "Enum", "IntEnum")
"""Base classes whose subclasses are never built from a configuration."""


@dataclasses.dataclass(frozen=True)
class OwnClass:
    """A class that is defined at the top level of a module of this package.

    Args:
        step: folder of the package that holds it.
        ancestors: the class and its bases; those of the package with their module, others as
            written.
        methods: names of its methods, including those inherited from classes of the package.
        takes_path: whether an argument of its constructor is a ``Path``.
    """

    step: str
    ancestors: tuple[str, ...]
    methods: frozenset[str]
    takes_path: bool

    @property
    def buildable(self) -> bool:
        """Whether it may be built: it is not a protocol, tuple, exception or enumeration."""
        return not any(name.rpartition(".")[2] in NOT_BUILT for name in self.ancestors)


@functools.cache
def own_class(target: str) -> OwnClass | None:
    """Properties of ``msseg_lightning.<step>.<module>.<Class>``; None if it is not defined there.

    A name that the module only imports is not defined there.
    """
    if not re.fullmatch(r"msseg_lightning(\.[a-z_][a-z0-9_]*){2,}\.[A-Z][A-Za-z0-9]*", target):
        return None
    module, _, name = target.rpartition(".")
    tree = _tree(module)
    node = _defined(tree, name) if tree is not None else None
    if tree is None or node is None:
        return None
    bases = [_origin(tree, module, ast.unparse(base)) for base in node.bases]
    parents = [own for base in bases if (own := own_class(base)) is not None]
    foreign = [base for base in bases if own_class(base) is None]
    return OwnClass(
        module.split(".")[1],
        (target, *foreign, *(name for parent in parents for name in parent.ancestors)),
        frozenset(
            {item.name for item in node.body if isinstance(item, ast.FunctionDef)}.union(
                *(parent.methods for parent in parents)
            )
        ),
        _takes_path(node) or any(parent.takes_path for parent in parents),
    )


def _tree(module: str) -> ast.Module | None:
    """The syntax tree of a module of the package; None without such a file."""
    folder = PACKAGE.joinpath(*module.split(".")[1:-1])
    file = f"{module.rpartition('.')[2]}.py"
    # exact comparison of names, since some file systems ignore case
    if not folder.is_dir() or file not in {path.name for path in folder.iterdir()}:
        return None
    return ast.parse((folder / file).read_text(encoding="utf-8"))


def _defined(tree: ast.Module, name: str) -> ast.ClassDef | None:
    """The last class definition of a name at the top level of a module."""
    found: ast.ClassDef | None = None
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            found = node
    return found


def _origin(tree: ast.Module, module: str, base: str) -> str:
    """The full name of a base class from the definitions and imports of the module."""
    if _defined(tree, base) is not None:
        return f"{module}.{base}"
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if (alias.asname or alias.name) == base:
                    return f"{node.module}.{alias.name}"
    return base


def _takes_path(node: ast.ClassDef) -> bool:
    annotations: list[ast.expr | None] = []
    for item in node.body:
        if isinstance(item, ast.AnnAssign):
            annotations.append(item.annotation)
        elif isinstance(item, ast.FunctionDef) and item.name == "__init__":
            arguments = [*item.args.posonlyargs, *item.args.args, *item.args.kwonlyargs]
            annotations += [argument.annotation for argument in arguments]
    return any(re.search(r"\bPath\b", ast.unparse(found)) for found in annotations if found)
