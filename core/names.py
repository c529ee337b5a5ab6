"""From text to parts: what the command line, a configuration file, and ``Server("tcp://...", "thread-pool", ...)`` use.

=============  ==================================================  ======================================
corner         form                                                examples
=============  ==================================================  ======================================
transport      ``scheme:location?option=value&...``                ``tcp://[::1]:9999?backlog=1024``,
                                                                   ``unix:/run/app.sock``, ``memory:``
dispatcher     ``name?option=value&...``                           ``thread-pool?workers=32``
handler        a registered name, or ``package.module:attribute``  ``echo``, ``app.handlers:Chat``
=============  ==================================================  ======================================

An option that is a part itself is written as that part's text, with its own ``?``, ``&`` and ``=`` percent-encoded:
``process-pool?workers=2&inner=thread-pool%3Fworkers%3D8``.  Everything wrong is a
`~tricorn.errors.ConfigurationError`, found before anything is opened.  Each function is safe from any thread.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tricorn.contracts import Dispatcher, Transport
from tricorn.errors import ConfigurationError, UnknownPlugin
from tricorn.importing import import_object
from tricorn.locations import Locator
from tricorn.notation import Written, split
from tricorn.options import Option, options_of, read_options, within
from tricorn.parts import Corner, TransportPart
from tricorn.readers import Reader
from tricorn.wording import quoted

if TYPE_CHECKING:
    from tricorn.plugins import Catalogue

__all__ = ["dispatcher", "handler", "part_options", "transport"]


def transport(text: str) -> Transport:
    """The transport that ``text`` describes; nothing is opened and no name looked up.

    Raises `UnknownPlugin`, `PluginConflict` or `PluginLoad` for the scheme, and `ConfigurationError` for anything else
    that is wrong with the text.
    """
    shown = f"transport '{_without_secrets(text)}'"
    written = _taken_apart(text, shown)
    scheme, colon, location = written.head.partition(":")
    scheme = scheme.lower()
    locator = _locator(scheme)
    try:
        if not colon:
            raise ValueError("the location is missing")
        located = dict(zip(locator.arguments, locator.read(location), strict=True))
    except ValueError as error:
        raise ConfigurationError(f"{shown}: {error} (written like {scheme}:{locator.example})") from error
    made: Transport = _build(Corner.TRANSPORT, scheme, located, written.given)
    return made


def dispatcher(text: str) -> Dispatcher:
    """The dispatcher that ``text`` describes; no thread or process is started.  Raises as `transport` does."""
    written = _taken_apart(text, f"dispatcher '{text}'")
    made: Dispatcher = _build(Corner.DISPATCHER, written.head, {}, written.given)
    return made


def handler(text: str) -> Callable[..., Any]:
    """The handler of a registered name, or the object that ``package.module:attribute`` leads to.

    Raises `ConfigurationError` (its cause is the original error) for a module or attribute that is missing or fails,
    and for something that cannot be called; as `transport` does for a name.
    """
    if ":" not in text:
        named: Callable[..., Any] = _registered_handler(text)
        return named
    try:
        found = import_object(text)
    except ConfigurationError as error:
        raise within(f"handler '{text}'", error) from (error.__cause__ or error)
    if not callable(found):
        raise ConfigurationError(f"handler '{text}' is {found!r}, which cannot be called")
    called: Callable[..., Any] = found
    return called


def part_options(part: type) -> tuple[Option, ...]:
    """The options that a transport or dispatcher class takes, its location's arguments among them."""
    return options_of(part, _PARTS)


_PARTS: Mapping[type, Reader] = {
    Dispatcher: Reader("the text of a dispatcher", dispatcher),
    Transport: Reader("the text of a transport", transport),
}


def _build(corner: Corner, name: str, located: Mapping[str, object], given: Mapping[str, str]) -> Any:
    owner = f"{corner.value} '{name}'"
    part = _catalogue().find(corner, name).load()
    options = [option for option in part_options(part) if option.name not in located]
    values = read_options(options, given, owner)
    try:
        return part(**located, **values)
    except (ValueError, TypeError) as error:
        raise within(owner, error) from error


def _registered_handler(name: str) -> Any:
    if "?" in name:
        raise ConfigurationError(f"handler '{name}' has options; a handler takes none")
    try:
        return _catalogue().find(Corner.HANDLER, name).load()
    except UnknownPlugin as error:
        raise UnknownPlugin(f"{error}\na handler of your own is written package.module:attribute") from None


def _locator(scheme: str) -> Locator:
    _refuse_wrappers(scheme)
    try:
        part = _catalogue().find(Corner.TRANSPORT, scheme).part
    except UnknownPlugin as error:
        raise UnknownPlugin(f"{error}\na transport is written scheme:location?option=value") from None
    assert isinstance(part, TransportPart)
    return part.locate


def _refuse_wrappers(scheme: str) -> None:
    """``tls+tcp`` is a transport in a wrapper, the outermost first; this is where wrappers will be looked up."""
    if "+" not in scheme:
        return
    *wrappers, base = scheme.split("+")
    raise UnknownPlugin(
        f"no transport '{scheme}': '+' wraps one transport in another, and no wrapper {quoted(wrappers)} is installed "
        f"to go around '{base}'"
    )


def _taken_apart(text: str, shown: str) -> Written:
    try:
        return split(text)
    except ValueError as error:
        raise ConfigurationError(f"{shown}: {error}") from error


def _without_secrets(text: str) -> str:
    """For messages: whatever stands before an @ in the authority might be a password."""
    return re.sub(r"//(?!/).*@", "//...@", text)


def _catalogue() -> Catalogue:
    from tricorn.plugins import catalogue  # pluggy is imported for whoever asks by name, and nobody else

    return catalogue()
