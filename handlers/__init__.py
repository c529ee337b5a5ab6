"""Handlers: what runs for each request.

The three documented request-handler classes are here, and `message` with its framings; each further handler has a
module of its own (``from tricorn.handlers.echo import echo``).  Any callable will do as a handler: nothing needs to be
derived from these.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tricorn.handlers.framing import Chunks, Delimited, FixedSize, LengthPrefixed, Lines, RecordMarked
    from tricorn.handlers.message_handler import message
    from tricorn.handlers.request import BaseRequestHandler, DatagramRequestHandler, StreamRequestHandler

__all__ = [
    "BaseRequestHandler",
    "Chunks",
    "DatagramRequestHandler",
    "Delimited",
    "FixedSize",
    "LengthPrefixed",
    "Lines",
    "RecordMarked",
    "StreamRequestHandler",
    "message",
]

_HOMES = {
    **dict.fromkeys(__all__, "tricorn.handlers.request"),
    **dict.fromkeys(
        ("Chunks", "Delimited", "FixedSize", "LengthPrefixed", "Lines", "RecordMarked"), "tricorn.handlers.framing"
    ),
    "message": "tricorn.handlers.message_handler",
}


def __getattr__(name: str) -> object:
    """Import a part when it is first asked for (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    part = globals()[name] = getattr(import_module(home), name)
    return part


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
