"""What the constructors of a server class are called with, as far as their text tells."""

from __future__ import annotations

import ast
import builtins
import inspect
from collections.abc import Iterator
from typing import Any

from tricorn.explain.lineage import Lineage
from tricorn.explain.reading import tree_of

__all__ = ["PLAIN", "Known", "calls_in", "expression", "known_parameters"]

#: Values that can be written down.
PLAIN = (bool, int, float, str, bytes, type(None))
#: The parameters whose value is known, by name.
Known = dict[str, object]


def known_parameters(lineage: Lineage) -> dict[type, Known]:
    """For each class with a constructor: the defaults, or what the constructors of its subclasses give instead."""
    known: dict[type, Known] = {}
    for cls in lineage.mro:
        if "__init__" in vars(cls):
            known[cls] = {**_defaults(cls), **known.get(cls, {})}
            for base, call in calls_in(cls, lineage):
                known.setdefault(base, {}).update(_bound(base, call, known[cls]))
    return known


def _parameters(cls: type) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(vars(cls)["__init__"]).parameters.values())
    except (TypeError, ValueError, KeyError):
        return []


def _defaults(cls: type) -> Known:
    return {each.name: each.default for each in _parameters(cls) if isinstance(each.default, PLAIN)}


def calls_in(cls: type, lineage: Lineage) -> Iterator[tuple[type, ast.Call]]:
    """The calls of other constructors in that of ``cls``: ``Base.__init__(self, ...)``, ``super().__init__(...)``."""
    tree = tree_of(vars(cls).get("__init__"))
    for node in ast.walk(tree) if tree is not None else ():
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "__init__":
            base = _called(cls, node.func.value, lineage)
            if base is not None:
                yield base, node


def _called(cls: type, owner: ast.expr, lineage: Lineage) -> type | None:
    behind = lineage.mro[lineage.mro.index(cls) + 1 :]
    if isinstance(owner, ast.Call):  # super()
        return next((each for each in behind if "__init__" in vars(each)), None)
    name = ast.unparse(owner).rpartition(".")[2]
    named = next((each for each in behind if each.__name__ == name), None)
    return next((each for each in named.__mro__[:-1] if "__init__" in vars(each)), None) if named else None


def _bound(base: type, call: ast.Call, known: Known) -> Known:
    """The arguments of ``call`` that are plain values, by the parameters of ``base``."""
    assert isinstance(call.func, ast.Attribute)
    skipped = 1 if isinstance(call.func.value, ast.Call) else 0  # super().__init__ has no self among its arguments
    positional = [each.name for each in _parameters(base) if each.kind is not each.KEYWORD_ONLY][skipped:]
    given: list[tuple[str, ast.expr]] = []
    if not any(isinstance(each, ast.Starred) for each in call.args):
        given += zip(positional, call.args, strict=False)
    given += [(each.arg, each.value) for each in call.keywords if each.arg]
    return {name: value for name, node in given for value in _plain(node, known)}


def _plain(node: ast.expr, known: Known) -> Iterator[Any]:
    if isinstance(node, ast.Name) and node.id in known:
        yield known[node.id]
    elif isinstance(node, ast.Constant) and isinstance(node.value, PLAIN):
        yield node.value


class _Filled(ast.NodeTransformer):
    """Writes the known values where the parameters stand."""

    def __init__(self, known: Known) -> None:
        self._known = known

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(self._known[node.id]) if node.id in self._known else node  # type: ignore[arg-type]


def expression(value: ast.expr, known: Known) -> str:
    """The text of a value that needs nothing but builtins; else ``None`` with the text as a comment."""
    text = ast.unparse(value)
    filled = _Filled(known).visit(ast.parse(text, mode="eval").body)
    names = [node for node in ast.walk(filled) if isinstance(node, ast.Name)]
    bound = {node.id for node in names if isinstance(node.ctx, ast.Store)} | set(dir(builtins))
    return f"None  # now: {text}" if {node.id for node in names} - bound else ast.unparse(filled)
