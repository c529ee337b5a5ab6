"""Option text to typed values, by what the class of the part says about its own arguments.

An option is an argument of the class: a field of an attrs class, or else a parameter of its constructor.  What may be
written follows from the annotation.  A field's metadata may explain it (``"help": "permission bits"``), say how its
default is usually written (``"spell": oct``), and read the text in a way of its own: ``"read"`` is the function, which
raises `ValueError`, and ``"allowed"`` says in words what it takes.
"""

from __future__ import annotations

import re
import sys
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import Parameter, signature
from typing import Any

import attrs
from attrs import NOTHING, Factory, frozen

from tricorn.errors import ConfigurationError, IncompatibleParts, PluginConflict, PluginLoad, UnknownPlugin
from tricorn.readers import Reader, reader_of, spelled
from tricorn.wording import closest

__all__ = ["Option", "options_of", "read_options", "within"]


@frozen
class Option:
    """One thing that can be set on a part.  ``default`` is `attrs.NOTHING` where it must be given."""

    name: str
    reader: Reader
    default: object = NOTHING
    help: str = ""
    spell: Callable[[Any], str] = spelled

    @property
    def required(self) -> bool:
        """True if there is no default."""
        return self.default is NOTHING

    @property
    def allowed(self) -> str:
        """What may be written, in words: ``a whole number``."""
        return self.reader.allowed

    @property
    def shown_default(self) -> str:
        """The default as one would write it; ``""`` if there is none."""
        return "" if self.required else self.spell(self.default)

    def __str__(self) -> str:
        return f"{self.name} ({self.allowed}; {'required' if self.required else 'default ' + self.shown_default})"


def options_of(part: type, known: Mapping[type, Reader]) -> tuple[Option, ...]:
    """The options of a class, in the order of its arguments.  ``known`` are readers of further types, by class.

    An annotation that cannot be understood here makes an option that cannot be given as text, and never an error.
    """

    def reader(annotation: object) -> Reader:
        return reader_of(_resolved(annotation, part), known)

    return tuple(_fields(part, reader) if attrs.has(part) else _parameters(part, reader))


def read_options(options: Sequence[Option], given: Mapping[str, str], owner: str) -> dict[str, Any]:
    """Typed values of the options in ``given``; those not given are left to the class.

    ``owner`` names the part in the messages, such as ``dispatcher 'thread-pool'``.  Raises `ConfigurationError` for an
    option that is unknown, missing, or not what is allowed.
    """
    by_name = {option.name: option for option in options}
    for name in given:
        if name not in by_name:
            raise ConfigurationError(_unknown(name, options, owner))
    for option in options:
        if option.required and option.name not in given:
            raise ConfigurationError(f"{owner} needs option '{option.name}': {option.allowed}")
    return {name: _value(by_name[name], text, owner) for name, text in given.items()}


def within(context: str, error: Exception) -> ConfigurationError:
    """``error`` as a `ConfigurationError` that says where it happened; a kind of one stays that kind."""
    kinds = (UnknownPlugin, PluginConflict, PluginLoad, IncompatibleParts)
    kind: type[ConfigurationError] = next((kind for kind in kinds if type(error) is kind), ConfigurationError)
    return kind(f"{context}: {_said(error)}")


def _said(error: Exception) -> object:
    """The message; attrs' own validators put it first and their working after it."""
    several = isinstance(error, ValueError | TypeError) and len(error.args) > 1 and not isinstance(error, UnicodeError)
    return error.args[0] if several else error


def _value(option: Option, text: str, owner: str) -> Any:
    try:
        return option.reader.read(text)
    except ConfigurationError as error:  # a part inside the part
        raise within(f"in option '{option.name}' of {owner}", error) from error
    except ValueError as error:
        message = f"option '{option.name}' of {owner} is '{text}'; allowed: {option.allowed}"
        raise ConfigurationError(message) from error


def _unknown(name: str, options: Sequence[Option], owner: str) -> str:
    if not options:
        return f"{owner} has no option '{name}'; it takes none"
    hint = closest(name, [option.name for option in options])
    return f"{owner} has no option '{name}'; allowed: {', '.join(map(str, options))}{hint}"


def _fields(part: type, reader: Callable[[object], Reader]) -> Iterator[Option]:
    for each in attrs.fields(part):
        if each.init:
            note, spell = each.metadata.get("help", ""), each.metadata.get("spell", spelled)
            read = each.metadata.get("read")
            reads = reader(each.type) if read is None else Reader(each.metadata.get("allowed", "text"), read)
            yield Option(each.alias or each.name, reads, _default(each.default), note, spell)


def _default(default: object) -> object:
    """The value itself; for one that is computed when the part is built, a word."""
    if not isinstance(default, Factory):  # type: ignore[arg-type]
        return default
    return _COMPUTED if default.takes_self else default.factory()  # type: ignore[attr-defined]


class _Computed:
    def __repr__(self) -> str:
        return "computed"


_COMPUTED = _Computed()


def _parameters(part: type, reader: Callable[[object], Reader]) -> Iterator[Option]:
    for each in signature(part).parameters.values():
        if each.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY):
            annotation = None if each.annotation is Parameter.empty else each.annotation
            yield Option(each.name, reader(annotation), NOTHING if each.default is Parameter.empty else each.default)


class _Unreadable:
    """Stands for an annotation, or a part of one, that says nothing to us."""

    def __class_getitem__(cls, key: object) -> type[_Unreadable]:
        return cls


def _resolved(annotation: object, part: type) -> object:
    """What an annotation means; one that was written as text is evaluated where the class was defined.

    Names that exist for type checkers only become `_Unreadable`, so that the rest of a union still counts.
    """
    text = getattr(annotation, "__forward_arg__", annotation)
    if not isinstance(text, str):
        return annotation
    spaces = [vars(sys.modules[base.__module__]) for base in part.__mro__ if base.__module__ in sys.modules]
    unknown: dict[str, object] = {}
    for _ in re.findall(r"\w+", text):
        try:
            return eval(text, {}, ChainMap(unknown, *spaces))  # noqa: S307 - source code, as typing evaluates it
        except NameError as error:
            unknown[str(error.name)] = _Unreadable
        except Exception:
            break
    return _Unreadable
