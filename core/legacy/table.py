"""The table: every transport by every strategy makes a class.

The four transports and the two strategies of the original are filled in when the facade is imported; each dispatcher
that is installed makes a further column, whose classes are made when they are asked for.
"""

from __future__ import annotations

import os
import socket

from tricorn.kinds import Kind
from tricorn.legacy.forking_mix_in import ForkingMixIn
from tricorn.legacy.servers import TCPServer, UDPServer
from tricorn.legacy.threading_mix_in import ThreadingMixIn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["fill", "invent"]

Namespace = dict[str, "Any"]


def _transports() -> dict[str, type]:
    """The rows: the middle of a class's name, and the synchronous server."""
    rows: dict[str, type] = {"TCP": TCPServer, "UDP": UDPServer}
    if hasattr(socket, "AF_UNIX"):
        family = {"address_family": socket.AF_UNIX}
        rows["UnixStream"] = type(
            "UnixStreamServer", (TCPServer,), {"__doc__": "TCPServer on a Unix socket.", **family}
        )
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


def fill(namespace: Namespace) -> list[str]:
    """Put the original's classes into the facade; returns all their names."""
    made = {f"{row}Server": base for row, base in _ROWS.items()}
    made |= {f"{column}MixIn": mix_in for column, mix_in in _COLUMNS.items()}
    for column, mix_in in _COLUMNS.items():
        made |= {f"{column}{row}Server": _combine(f"{column}{row}Server", mix_in, base) for row, base in _ROWS.items()}
    for name in ("BaseServer", "BaseRequestHandler", "StreamRequestHandler", "DatagramRequestHandler"):
        made[name] = namespace[name]
    for name, made_class in made.items():
        made_class.__module__ = "socketserver"  # as the original's, for programs and tests that look
        namespace[name] = made_class
    return sorted(made)


def _combine(name: str, mix_in: type, base: type) -> type:
    doc = f"`{base.__name__}` with `{mix_in.__name__}` in front."
    return type(name, (mix_in, base), {"__module__": "tricorn.legacy", "__doc__": doc})


def invent(namespace: Namespace, name: str) -> Any:
    """A class of a dispatcher that the original does not have: ``ThreadPoolMixIn``, ``ThreadPoolTCPServer``.

    Raises `AttributeError`, as a module does, for a name that is no such class.
    """
    absent = f"module {namespace['__name__']!r} has no attribute {name!r}"
    if not name.endswith(("MixIn", "Server")):
        raise AttributeError(absent)  # above all for `__path__`, which every import from the facade asks for
    from tricorn.errors import ConfigurationError  # here, as in `_make`: no more is imported than old programs need

    try:
        made = _make(namespace, name)
    except ConfigurationError as error:
        raise AttributeError(f"{absent}: {error}") from error
    if made is None:
        raise AttributeError(absent)
    made.__module__ = namespace["__name__"]
    return namespace.setdefault(name, made)


def _make(namespace: Namespace, name: str) -> type | None:
    from tricorn.errors import ConfigurationError
    from tricorn.legacy.dispatching import kinds_of_column, make_mix_in  # with it comes the whole server

    if name.endswith("MixIn"):
        return make_mix_in(name.removesuffix("MixIn"))
    for row, base in _ROWS.items():
        column = name.removesuffix(f"{row}Server")
        if not column or column == name:
            continue
        kinds = kinds_of_column(column)
        if kinds is None:
            continue
        kind = Kind.DATAGRAM if issubclass(base, UDPServer) else Kind.STREAM
        if kind not in kinds:
            raise ConfigurationError(f"the dispatcher of {column}MixIn serves no {kind.value} requests")
        return _combine(name, namespace.get(f"{column}MixIn") or invent(namespace, f"{column}MixIn"), base)
    return None
