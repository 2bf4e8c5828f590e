"""Properties of classes of this package and of the user's, read from source without importing."""

from __future__ import annotations

import ast
import dataclasses
import functools
import re
from pathlib import Path

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.run.config.user_packages import source_file, user_package

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
        complete: whether all its bases are known, so that it has no other methods.
    """

    step: str
    ancestors: tuple[str, ...]
    methods: frozenset[str]
    takes_path: bool
    complete: bool = True

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


def user_class(target: str, seen: tuple[str, ...] = ()) -> OwnClass | None:
    """Properties of a class of a package that the user has allowed; None if there is none.

    Args:
        target: where it is defined, or a module of the same package that imports it.
        seen: names that led here.

    Raises:
        MssegError: the source cannot be read (exit 2).
    """
    if target in seen or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", target):
        return None
    module, _, name = target.rpartition(".")
    file = source_file(module) if user_package(module) else None
    if file is None:
        return None
    tree = _user_tree(file)
    node = _defined(tree, name)
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    if node is None:
        origin = _origin(tree, module, name, package)
        return user_class(origin, (*seen, target)) if origin != name else None
    bases = [_origin(tree, module, ast.unparse(base), package) for base in node.bases]
    parents = {base: own_class(base) or user_class(base, (*seen, target)) for base in bases}
    known = [parent for parent in parents.values() if parent is not None]
    foreign = [base for base, parent in parents.items() if parent is None]
    return OwnClass(
        module.partition(".")[0],
        (target, *foreign, *(name for parent in known for name in parent.ancestors)),
        frozenset(
            {item.name for item in node.body if isinstance(item, ast.FunctionDef)}.union(
                *(parent.methods for parent in known)
            )
        ),
        _takes_path(node) or any(parent.takes_path for parent in known),
        set(foreign) <= {"object"} and all(parent.complete for parent in known),
    )


def _user_tree(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise MssegError(
            Problem(
                "config.package_source",
                "this module of yours cannot be read",
                file=file,
                found=str(error),
                expected="Python",
                remedy="correct the file and give the same command again",
                exit_code=ExitCode.CONFIG,
            )
        ) from error


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


def _origin(tree: ast.Module, module: str, base: str, package: str = "") -> str:
    """The full name of a class from the definitions and imports of the module.

    Args:
        tree: the module.
        module: its name.
        base: name of the class in it.
        package: the package that holds the module, from which relative imports start.
    """
    if _defined(tree, base) is not None:
        return f"{module}.{base}"
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or node.level):
            for alias in node.names:
                if (alias.asname or alias.name) == base:
                    return f"{imported_module(node, package)}.{alias.name}"
    return base


def imported_module(node: ast.ImportFrom, package: str) -> str:
    """The module of ``from MODULE import ...`` in full, also of a relative import."""
    if not node.level:
        return node.module or ""
    parents = package.split(".")
    start = parents[: len(parents) - node.level + 1]
    return ".".join([*start, *([node.module] if node.module else [])])


def _takes_path(node: ast.ClassDef) -> bool:
    annotations: list[ast.expr | None] = []
    for item in node.body:
        if isinstance(item, ast.AnnAssign):
            annotations.append(item.annotation)
        elif isinstance(item, ast.FunctionDef) and item.name == "__init__":
            arguments = [*item.args.posonlyargs, *item.args.args, *item.args.kwonlyargs]
            annotations += [argument.annotation for argument in arguments]
    return any(re.search(r"\bPath\b", ast.unparse(found)) for found in annotations if found)
