"""How a part is written down: ``head?option=value&option=value``, with ``%XX`` for any byte that would be misread.

Everything here raises a plain `ValueError` that says what is wrong; `tricorn.names` adds which part was meant.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from attrs import frozen

__all__ = ["Written", "decoded", "split"]

_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2}).{0,2}")


@frozen
class Written:
    """A text taken apart: ``head`` as it stood, ``given`` the options' decoded values by name, in their order."""

    head: str
    given: dict[str, str]


def split(text: str) -> Written:
    """Take ``head?name=value&...`` apart.  Strict: a slip is an error, and never a value nobody meant."""
    _refuse_oddities(text)
    head, _, query = text.partition("?")
    given: dict[str, str] = {}
    for pair in query.split("&") if query else ():
        name, value = _option(pair)
        if name in given:
            raise ValueError(f"option '{name}' is given twice")
        given[name] = value
    return Written(head, given)


def decoded(text: str, errors: str = "surrogateescape") -> str:
    """``text`` with each ``%XX`` replaced by its byte; bytes that are not UTF-8 become what file names use for them.

    A ``+`` stays a plus.  ``errors="strict"`` refuses what is not UTF-8.
    """
    if bad := _BAD_ESCAPE.search(text):
        raise ValueError(f"'{bad[0]}' is no percent code; write %25 for a percent sign")
    try:
        return unquote(text, errors=errors)
    except UnicodeDecodeError as error:
        raise ValueError(f"'{text}' has bytes that are not UTF-8") from error


def _option(pair: str) -> tuple[str, str]:
    name, equals, value = pair.partition("=")
    if not name or not equals:
        raise ValueError(f"'{pair}' is no option; options are written name=value and joined by &")
    return decoded(name), decoded(value)


def _refuse_oddities(text: str) -> None:
    if "#" in text:
        raise ValueError("'#' begins a fragment, which means nothing here; write %23 for the character")
    for position, character in enumerate(text):
        if not character.isprintable():
            raise ValueError(f"character {position + 1} is {character!r}; write what cannot be printed as %XX")
