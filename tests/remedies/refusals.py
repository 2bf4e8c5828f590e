"""Every refusal that the package can make, read from its source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "msseg_lightning"
CODE = re.compile(r"[a-z_{}]+\.[a-z_0-9{}]+")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def refusals(package: Path = PACKAGE) -> dict[str, set[str]]:
    """Code -> modules that make it, for every ``Problem`` of the package.

    A code is the first argument of ``Problem``, or the argument of a function of the package that
    hands it on to ``Problem``; several where it is chosen in place. An f-string keeps its braces.
    """
    trees = {
        ".".join(path.relative_to(package).with_suffix("").parts): ast.parse(path.read_text())
        for path in sorted(package.rglob("*.py"))
    }
    calls: dict[str, list[tuple[str, Function | None, ast.Call]]] = {}
    for module, tree in trees.items():
        for function, call in _calls(tree):
            name = getattr(call.func, "id", None) or getattr(call.func, "attr", "")
            calls.setdefault(name, []).append((module, function, call))
    found: dict[str, set[str]] = {}
    known: set[tuple[str, str]] = set()
    # module ("" for all of them), name, place of the code
    todo: list[tuple[str, str, int | None]] = [("", "Problem", 0), ("", "replace", None)]
    while todo:
        home, name, place = todo.pop()
        for module, function, call in calls.get(name, ()):
            if home not in ("", module):
                continue
            argument = _argument(call, place)
            parameters = _parameters(function)
            if isinstance(argument, ast.Name) and argument.id in parameters:
                assert function is not None
                own = module if function.name.startswith("_") else ""
                if (own, function.name) not in known:
                    known.add((own, function.name))
                    todo.append((own, function.name, parameters.index(argument.id)))
            elif argument is not None:
                codes = _codes(argument, function)
                assert codes or name != "Problem", f"{module}: {ast.unparse(argument)} is unknown"
                for code in codes:
                    found.setdefault(code, set()).add(module)
    return found


def _calls(tree: ast.Module) -> Iterator[tuple[Function | None, ast.Call]]:
    def walk(
        node: ast.AST, function: Function | None
    ) -> Iterator[tuple[Function | None, ast.Call]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Call):
                yield function, child
            yield from walk(child, child if isinstance(child, Function) else function)

    yield from walk(tree, None)


def _parameters(function: Function | None) -> list[str]:
    if function is None:
        return []
    names = [argument.arg for argument in function.args.posonlyargs + function.args.args]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names


def _argument(call: ast.Call, place: int | None) -> ast.expr | None:
    for keyword in call.keywords:
        if keyword.arg == "code":
            return keyword.value
    return call.args[place] if place is not None and place < len(call.args) else None


def _codes(argument: ast.expr, function: Function | None) -> set[str]:
    """The codes an expression can have; those of a local name are the constants given to it."""
    values: list[ast.AST] = [argument]
    if isinstance(argument, ast.Name) and function is not None:
        values = [
            node.value
            for node in ast.walk(function)
            if isinstance(node, ast.Assign)
            and any(
                isinstance(one, ast.Name) and one.id == argument.id
                for target in node.targets
                for one in ast.walk(target)
            )
        ]
    texts = set()
    for value in values:
        if isinstance(value, ast.JoinedStr):
            texts.add(ast.unparse(value)[2:-1])
        else:
            texts |= {
                node.value
                for node in ast.walk(value)
                if isinstance(node, ast.Constant) and isinstance(node.value, str)
            }
    return {text for text in texts if CODE.fullmatch(text)}
