"""What a `tricorn.server.Server` is given, checked, and named parts resolved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tricorn.admission import MAX_CONNECTIONS, Admission
from tricorn.contracts import Transport
from tricorn.deadlines import Deadlines
from tricorn.errors import ConfigurationError

__all__ = ["admission_of", "by_name", "check_seconds", "deadlines_of", "transports_of"]

#: The longest that anything waits, in seconds: a year.
MAX_SECONDS = 365 * 24 * 3600


def check_seconds(name: str, value: object) -> None:
    """Raise `ConfigurationError` for what is no length of time, or without end."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MAX_SECONDS:
        raise ConfigurationError(f"{name} is {value!r}; allowed: seconds, from 0 to {MAX_SECONDS:,}, never unlimited")


def admission_of(given: Admission | None, max_connections: int) -> Admission:
    """The one that was given, or one of that number; `ConfigurationError` for both."""
    if isinstance(max_connections, bool) or not isinstance(max_connections, int) or max_connections < 1:
        raise ConfigurationError(f"max_connections is {max_connections!r}; allowed: a whole number from 1")
    if given is None:
        return Admission(max_connections)
    if not isinstance(given, Admission):
        raise ConfigurationError(f"admission is {given!r}; allowed: an Admission, or None")
    if max_connections != MAX_CONNECTIONS:
        raise ConfigurationError(
            f"max_connections is {max_connections!r} beside {given!r}; allowed: one of the two, which says it"
        )
    return given


def deadlines_of(given: Deadlines | None) -> Deadlines:
    """Those that were given, or the defaults."""
    if given is None:
        return Deadlines()
    if not isinstance(given, Deadlines):
        raise ConfigurationError(f"deadlines is {given!r}; allowed: Deadlines(idle=..., ...), or None for the defaults")
    return given


def by_name(kind: str, part: Any) -> Any:
    """A part that was named, resolved; anything else as it is, without touching the plugin machinery."""
    if not isinstance(part, str):
        return part
    from tricorn import names

    return getattr(names, kind)(part)


def transports_of(given: Transport | str | Sequence[Transport | str]) -> tuple[Transport, ...]:
    """One or several, by value or by name, as a tuple that is not empty."""
    several = (given,) if isinstance(given, (str, Transport)) or not isinstance(given, Sequence) else tuple(given)
    if not several:
        raise ConfigurationError("no transport was given; allowed: one, or a sequence of at least one")
    return tuple(by_name("transport", each) for each in several)
