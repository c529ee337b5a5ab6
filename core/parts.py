"""What a plugin's hooks return: one frozen registration for each part.

``target`` is the class or function itself, or better a text ``"package.module:attribute"``, which is imported when
somebody asks for the part and not before.  Names are lower case: letters, digits, ``-`` and ``.``; a ``+`` is for
wrapping one transport in another (``tls+tcp://...``).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import field, frozen

from tricorn.contracts import Dispatcher, Transport
from tricorn.locations import NOWHERE, Locator

if TYPE_CHECKING:
    from attrs import Attribute

__all__ = ["Corner", "DispatcherPart", "HandlerPart", "Part", "TransportPart", "WrapperPart"]

_NAME = re.compile(r"[a-z][a-z0-9.-]*")


class Corner(Enum):
    """Which of a server's three corners a part fills, or goes around."""

    TRANSPORT = "transport"
    WRAPPER = "wrapper"
    DISPATCHER = "dispatcher"
    HANDLER = "handler"


def _well_named(record: object, attribute: Attribute[str], name: str) -> None:
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise ValueError(f"{attribute.name} {name!r} is not one: a small letter, then small letters, digits, - and .")


def _well_named_scheme(record: object, attribute: Attribute[str], name: str) -> None:
    if not (isinstance(name, str) and all(_NAME.fullmatch(word) for word in name.split("+"))):
        raise ValueError(f"{attribute.name} {name!r} is not one: names joined by +, each as parts have them")


@frozen
class TransportPart:
    """A transport: a `~tricorn.contracts.Transport` class that is asked for as ``scheme:location?options``.

    ``locate`` says what the location looks like: `~tricorn.locations.HOST_AND_PORT`, `~tricorn.locations.PATH`,
    `~tricorn.locations.NOWHERE` (the default), or a `~tricorn.locations.Locator` of one's own.  ``example`` is a
    location, with options if need be, that can be served on any machine, with ``{folder}`` for a private folder;
    ``tricorn matrix`` tries it.  The three
    locators above need none.
    """

    corner: ClassVar[Corner] = Corner.TRANSPORT
    scheme: str = field(validator=_well_named_scheme)
    target: str | type[Transport]
    locate: Locator = NOWHERE
    example: str | None = None

    @property
    def name(self) -> str:
        """The scheme."""
        return self.scheme


@frozen
class WrapperPart:
    """A transport around another: a `~tricorn.contracts.Transport` class that is asked for as ``name+scheme:location``.

    The location and its options make the transport inside, which ``target`` gets as its argument ``inner``; the options
    of both stand in one query, told apart by their names.  Where both have one of the same name it is written
    ``name.option=...``.  Several wrappers are written from the outermost on.  ``example`` are options as one writes
    them, those that must be given among them.
    """

    corner: ClassVar[Corner] = Corner.WRAPPER
    name: str = field(validator=_well_named)
    target: str | type[Transport]
    inner: str = "inner"
    example: str = ""


@frozen
class DispatcherPart:
    """A dispatcher: a `~tricorn.contracts.Dispatcher` class that is asked for as ``name?options``."""

    corner: ClassVar[Corner] = Corner.DISPATCHER
    name: str = field(validator=_well_named)
    target: str | type[Dispatcher]


@frozen
class HandlerPart:
    """A handler, ready to serve: it takes no options."""

    corner: ClassVar[Corner] = Corner.HANDLER
    name: str = field(validator=_well_named)
    target: str | Callable[..., Any]


Part = TransportPart | WrapperPart | DispatcherPart | HandlerPart
