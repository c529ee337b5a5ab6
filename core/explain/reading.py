"""What a class's code says of itself: the names that its functions use, and what they read and set on ``self``."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from textwrap import dedent
from types import CodeType, FunctionType
from typing import Any

__all__ = [
    "calls_super",
    "function_of",
    "functions_of",
    "mangled",
    "names_used",
    "reads_of",
    "reads_of_server",
    "self_of",
    "tree_of",
]


def function_of(member: Any) -> FunctionType | None:
    """The function in a class member: itself, or what a property or a static or class method holds."""
    for held in (member, getattr(member, "__func__", None), getattr(member, "fget", None)):
        if isinstance(held, FunctionType):
            return held
    return None


def functions_of(cls: type) -> Iterator[FunctionType]:
    """The functions that ``cls`` itself defines."""
    for member in vars(cls).values():
        function = function_of(member)
        if function is not None:
            yield function


def names_used(member: Any) -> frozenset[str]:
    """Every name and attribute that a function mentions, those of functions inside it included."""
    function = function_of(member)
    return frozenset() if function is None else frozenset(_names(function.__code__))


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def calls_super(member: Any) -> bool:
    """Whether the function says ``super()``, and so works in its own class only."""
    function = function_of(member)
    return function is not None and "__class__" in function.__code__.co_freevars


def tree_of(member: Any) -> ast.FunctionDef | None:
    """The syntax of a function; ``None`` where its source is not to be had."""
    function = function_of(member)
    if function is None:
        return None
    try:
        body = ast.parse(dedent(inspect.getsource(function))).body
    except (OSError, TypeError, SyntaxError):
        return None
    return body[0] if body and isinstance(body[0], ast.FunctionDef) else None


def self_of(tree: ast.FunctionDef) -> str | None:
    """What a method calls its object; ``None`` where it has no name for it."""
    return next((each.arg for each in (*tree.args.posonlyargs, *tree.args.args)), None)


def mangled(cls: type, name: str) -> str:
    """The name under which ``self.name``, written in ``cls``, is kept."""
    private = name.startswith("__") and not name.endswith("__")
    return f"_{cls.__name__.lstrip('_')}{name}" if private else name


def reads_of(cls: type, member: Any) -> frozenset[str]:
    """The attributes of ``self`` that a function of ``cls`` mentions."""
    tree = tree_of(member)
    own = None if tree is None else self_of(tree)
    if tree is None or own is None:
        return frozenset()
    return frozenset(
        mangled(cls, node.attr)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == own
    )


def reads_of_server(handler: type) -> frozenset[str]:
    """The attributes of ``self.server`` that a request-handler class mentions, its bases' included."""
    found: set[str] = set()
    for cls in handler.__mro__[:-1]:
        for function in functions_of(cls):
            tree = tree_of(function)
            if tree is not None:
                found.update(mangled(cls, name) for name in _server_attributes(tree))
    return frozenset(found)


def _server_attributes(tree: ast.FunctionDef) -> Iterator[str]:
    aliases = {"server"} if tree.name == "__init__" else set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None and _is_server(node.value, set()):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            aliases |= {target.id for target in targets if isinstance(target, ast.Name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_server(node.value, aliases):
            yield node.attr


def _is_server(node: ast.expr, aliases: set[str]) -> bool:
    if isinstance(node, ast.Name):
        return node.id in aliases
    return (
        isinstance(node, ast.Attribute)
        and node.attr == "server"
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    )
