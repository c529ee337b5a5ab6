"""Reading one value: from a type to what may be written for it, and the function that reads it."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from enum import Enum
from inspect import isclass
from pathlib import Path, PurePath
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from attrs import frozen

from tricorn.errors import ConfigurationError

__all__ = ["Reader", "reader_of", "spelled"]


@frozen
class Reader:
    """``allowed`` says in words what may be written; ``read`` makes the value, or raises `ValueError`."""

    allowed: str
    read: Callable[[str], Any]


def reader_of(hint: Any, known: Mapping[type, Reader]) -> Reader:
    """The reader of an annotation, which has been evaluated.

    Knows bool, int, float, str, None, paths, enums, literals, unions of these, ``tuple[X, ...]`` of these, and the
    classes in ``known``.  No annotation (``None`` where a class has none) means text.  Anything else gets a reader that
    refuses every text.
    """
    origin = get_origin(hint)
    if origin is Annotated:
        return reader_of(get_args(hint)[0], known)
    if origin in (Union, UnionType):
        return _any_of([reader_of(each, known) for each in get_args(hint)])
    if origin is tuple and get_args(hint)[1:] == (...,):
        return _several(reader_of(get_args(hint)[0], known))
    if origin is Literal:
        return _one_of({spelled(value): value for value in get_args(hint)})
    return _of_class(origin if isclass(origin) else hint, known)


def spelled(value: object) -> str:
    """A value as one would write it in an option; ``repr`` where it has no written form."""
    if isinstance(value, Enum):
        return spelled(value.value)
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(map(spelled, value))
    return os.fspath(value) if isinstance(value, str | PurePath) else repr(value)


def _of_class(kind: Any, known: Mapping[type, Reader]) -> Reader:
    if kind in _PLAIN:
        return _PLAIN[kind]
    if not isclass(kind):
        return _OPAQUE
    if issubclass(kind, Enum):
        return _one_of({spelled(member): member for member in kind})
    if issubclass(kind, os.PathLike):
        return _PATH
    return next((reader for base, reader in known.items() if issubclass(kind, base)), _OPAQUE)


def _one_of(values: dict[str, Any]) -> Reader:
    def read(text: str) -> Any:
        if text not in values:
            raise ValueError(text)
        return values[text]

    return Reader("one of " + ", ".join(values), read)


def _several(each: Reader) -> Reader:
    """Nothing, or what ``each`` reads, with commas between."""
    if each is _OPAQUE:
        return _OPAQUE

    def read(text: str) -> Any:
        return tuple(each.read(word) for word in text.split(",")) if text else ()

    return Reader(f"{each.allowed}, or several with commas between", read)


def _any_of(readers: list[Reader]) -> Reader:
    """The first that accepts the text; free text comes last, since it accepts everything."""
    readable = [reader for reader in readers if reader is not _OPAQUE] or [_OPAQUE]
    ordered = sorted(readable, key=lambda reader: reader in (_TEXT, _PATH))

    def read(text: str) -> Any:
        errors: list[ValueError] = []
        for reader in ordered:
            try:
                return reader.read(text)
            except ValueError as error:
                errors.append(error)
        raise next((error for error in errors if isinstance(error, ConfigurationError)), errors[0])

    return Reader(", or ".join(dict.fromkeys(reader.allowed for reader in readable)), read)


def _whole(text: str) -> int:
    if not re.fullmatch(r"[+-]?(0|[1-9][0-9_]*|0[xX][0-9a-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+)", text):
        raise ValueError(text)
    return int(text, 0)


def _number(text: str) -> float:
    if not re.fullmatch(r"[+-]?[0-9_]*\.?[0-9_]*([eE][+-]?[0-9]+)?", text) or not math.isfinite(float(text)):
        raise ValueError(text)
    return float(text)


_TRUTHS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def _truth(text: str) -> bool:
    if text.lower() not in _TRUTHS:
        raise ValueError(text)
    return _TRUTHS[text.lower()]


def _none(text: str) -> None:
    if text.lower() != "none":
        raise ValueError(text)


def _nothing(text: str) -> Any:
    raise ValueError(text)


_TEXT = Reader("text", str)
_PATH = Reader("a path", Path)
_OPAQUE = Reader("no text: it takes an object, so build the part in Python", _nothing)
_PLAIN: dict[Any, Reader] = {
    str: _TEXT,
    None: _TEXT,  # no annotation
    int: Reader("a whole number", _whole),
    float: Reader("a number", _number),
    bool: Reader("true or false", _truth),
    NoneType: Reader("none", _none),
    Path: _PATH,
    os.PathLike: _PATH,
}
