"""From text to parts: what the command line, a configuration file, and ``Server("tcp://...", "thread-pool", ...)`` use.

=============  ==================================================  ======================================
corner         form                                                examples
=============  ==================================================  ======================================
transport      ``scheme:location?option=value&...``                ``tcp://[::1]:9999?backlog=1024``,
                                                                   ``unix:/run/app.sock``, ``memory:``
wrapped        ``wrapper+scheme:location?option=value&...``        ``tls+tcp://0.0.0.0:443?certfile=a.pem``
dispatcher     ``name?option=value&...``                           ``thread-pool?workers=32``
handler        a registered name, or ``package.module:attribute``  ``echo``, ``app.handlers:Chat``
=============  ==================================================  ======================================

The options of a wrapper and of what it wraps are told apart by their names; one that both have is written
``wrapper.option=value`` or ``scheme.option=value``.

An option that is a part itself is written as that part's text, with its own ``?``, ``&`` and ``=`` percent-encoded:
``process-pool?workers=2&inner=thread-pool%3Fworkers%3D8``.  Everything wrong is a
`~tricorn.errors.ConfigurationError`, found before anything is opened.  Each function is safe from any thread.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tricorn.contracts import Dispatcher, Transport
from tricorn.errors import ConfigurationError, UnknownPlugin
from tricorn.importing import import_object
from tricorn.locations import Locator
from tricorn.notation import Written, split
from tricorn.options import Option, options_of, read_options, within
from tricorn.parts import Corner, TransportPart, WrapperPart
from tricorn.readers import Reader
from tricorn.wording import closest, quoted

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
    around, base = _layers(scheme.lower())
    wrappers = [_wrapper(name, scheme.lower()) for name in around]
    locator = _locator(base)
    try:
        if not colon:
            raise ValueError("the location is missing")
        located = dict(zip(locator.arguments, locator.read(location), strict=True))
    except ValueError as error:
        raise ConfigurationError(f"{shown}: {error} (written like {scheme}:{locator.example})") from error
    shares = _dealt_out(around, base, written.given) if around else {base: written.given}
    made: Transport = _build(Corner.TRANSPORT, base, located, shares[base])
    for part in reversed(wrappers):
        made = _build(Corner.WRAPPER, part.name, {part.inner: made}, shares[part.name])
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
    try:
        part = _catalogue().find(Corner.TRANSPORT, scheme).part
    except UnknownPlugin as error:
        raise UnknownPlugin(f"{error}\na transport is written scheme:location?option=value") from None
    assert isinstance(part, TransportPart)
    return part.locate


def _layers(scheme: str) -> tuple[list[str], str]:
    """The wrappers, outermost first, and the transport; the longest name that is one (``table+sqlite``) counts."""
    words = scheme.split("+")
    known = set(_catalogue().names(Corner.TRANSPORT)) if len(words) > 1 else set()
    cut = next((n for n in range(len(words)) if "+".join(words[n:]) in known), len(words) - 1)
    return words[:cut], "+".join(words[cut:])


def _wrapper(name: str, scheme: str) -> WrapperPart:
    """``tls+tcp`` is a transport in a wrapper, the outermost first."""
    if scheme.split("+").count(name) > 1:
        raise ConfigurationError(f"transport '{scheme}' has '{name}' twice; once is allowed")
    try:
        part = _catalogue().find(Corner.WRAPPER, name).part
    except UnknownPlugin as error:
        raise UnknownPlugin(f"no transport '{scheme}': '+' wraps one transport in another, and {error}") from None
    assert isinstance(part, WrapperPart)
    return part


def _dealt_out(around: Sequence[str], base: str, given: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The options in ``given`` for each of the layers: by their names, or as ``layer.option`` says."""
    layers = {name: _names_of_options(Corner.WRAPPER, name) for name in around}
    layers[base] = _names_of_options(Corner.TRANSPORT, base)
    shares: dict[str, dict[str, str]] = {name: {} for name in layers}
    whole = f"transport '{'+'.join(layers)}'"
    for written, value in given.items():
        layer, dot, option = written.partition(".")
        owners = [layer] if dot and layer in layers else [name for name, known in layers.items() if written in known]
        if len(owners) > 1:
            ways = " or ".join(f"'{name}.{written}'" for name in owners)
            raise ConfigurationError(f"option '{written}' of {whole} is ambiguous; write {ways}")
        if not owners:
            known = [option for options in layers.values() for option in options]
            hint = closest(written, known)
            raise ConfigurationError(f"{whole} has no option '{written}'; allowed: {quoted(known)}{hint}")
        shares[owners[0]][option if dot and layer in layers else written] = value
    return shares


def _names_of_options(corner: Corner, name: str) -> list[str]:
    offer = _catalogue().find(corner, name)
    held = offer.part.locate.arguments if isinstance(offer.part, TransportPart) else (getattr(offer.part, "inner", ""),)
    return [option.name for option in part_options(offer.load()) if option.name not in held]


def _taken_apart(text: str, shown: str) -> Written:
    try:
        return split(text)
    except ValueError as error:
        raise ConfigurationError(f"{shown}: {error}") from error


def _without_secrets(text: str) -> str:
    """For messages: whatever stands before an @ in the authority might be a password, and a password is one."""
    shown = re.sub(r"//(?!/).*@", "//...@", text)
    shown = re.sub(r"^([\w.+-]+:)[^/?@]+:[^/?]*@", r"\1...@", shown)  # the slashes were forgotten
    return re.sub(r"(?i)((?:[?&]|%3f|%26)[^=&]*password=)[^&]*", r"\1...", shown)


def _catalogue() -> Catalogue:
    from tricorn.plugins import catalogue  # pluggy is imported for whoever asks by name, and nobody else

    return catalogue()
