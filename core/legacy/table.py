"""The table: every transport by every strategy makes a class.

The four transports and the two strategies of the original are filled in when the facade is imported; each dispatcher that
is installed makes a further column, whose classes are made when they are asked for.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from tricorn.legacy.dispatching import make_mix_in
from tricorn.legacy.forking_mix_in import ForkingMixIn
from tricorn.legacy.servers import TCPServer, UDPServer
from tricorn.legacy.threading_mix_in import ThreadingMixIn

__all__ = ["fill", "invent"]

Namespace = dict[str, Any]


def _transports() -> dict[str, type]:
    """The rows: the middle of a class's name, and the synchronous server."""
    rows: dict[str, type] = {"TCP": TCPServer, "UDP": UDPServer}
    if hasattr(socket, "AF_UNIX"):
        family = {"address_family": socket.AF_UNIX}
        rows["UnixStream"] = type("UnixStreamServer", (TCPServer,), {"__doc__": "TCPServer on a Unix socket.", **family})
        rows["UnixDatagram"] = type(
            "UnixDatagramServer", (UDPServer,), {"__doc__": "UDPServer on a Unix socket.", **family}
        )
    return rows


def _strategies() -> dict[str, type]:
    """The original's columns: the beginning of a class's name, and the mix-in."""
    columns: dict[str, type] = {"Threading": ThreadingMixIn}
    if hasattr(os, "fork"):
        columns["Forking"] = ForkingMixIn
    return columns


_ROWS = _transports()
_COLUMNS = _strategies()


def fill(namespace: Namespace) -> None:
    """Put the original's classes into the facade, under the facade's name, and complete ``__all__``."""
    made = {f"{row}Server": base for row, base in _ROWS.items()}
    made |= {f"{column}MixIn": mix_in for column, mix_in in _COLUMNS.items()}
    for column, mix_in in _COLUMNS.items():
        made |= {f"{column}{row}Server": _combine(f"{column}{row}Server", mix_in, base) for row, base in _ROWS.items()}
    for name in ("BaseServer", "BaseRequestHandler", "StreamRequestHandler", "DatagramRequestHandler"):
        made[name] = namespace[name]
    for name, made_class in made.items():
        made_class.__module__ = "socketserver"  # as the original's, for programs and tests that look
        namespace[name] = made_class
    namespace["__all__"] = sorted(made)


def _combine(name: str, mix_in: type, base: type) -> type:
    doc = f"`{base.__name__}` with `{mix_in.__name__}` in front."
    return type(name, (mix_in, base), {"__module__": "tricorn.legacy", "__doc__": doc})


def invent(namespace: Namespace, name: str) -> Any:
    """A class of a dispatcher that the original does not have: ``ThreadPoolMixIn``, ``ThreadPoolTCPServer``.

    Raises `AttributeError`, as a module does, for a name that is no such class.
    """
    for row in ("", *_ROWS):
        suffix = f"{row}Server" if row else "MixIn"
        column = name.removesuffix(suffix)
        mix_in = make_mix_in(column) if column and column != name else None
        if mix_in is None:
            continue
        if not row:
            made = mix_in
        else:
            made = _combine(name, namespace.get(f"{column}MixIn") or invent(namespace, f"{column}MixIn"), _ROWS[row])
        made.__module__ = namespace["__name__"]
        namespace[name] = made
        return made
    raise AttributeError(f"module {namespace['__name__']!r} has no attribute {name!r}")
