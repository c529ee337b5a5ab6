"""Opening the sockets of one host and port: IPv4 and IPv6, one address or several."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any, NamedTuple

from tricorn.listening import listening_errors

__all__ = ["SHARED_PORT_ATTEMPTS", "SocketOption", "open_inet_sockets", "port_sharing_option"]

#: ``(level, name, value)`` of setsockopt(2).
SocketOption = tuple[int, int, int]

#: How often a port that is free for one address but not for the next is given back for another one.
SHARED_PORT_ATTEMPTS = 16

#: An address that a name has and this machine has not; skipped where another address of the name can be bound.
_ELSEWHERE = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


class _Place(NamedTuple):
    family: socket.AddressFamily
    proto: int
    address: tuple[Any, ...]


def open_inet_sockets(
    scheme: str,
    host: str,
    port: int,
    *,
    kind: socket.SocketKind,
    options: Iterable[SocketOption] = (),
    backlog: int | None = None,
) -> list[socket.socket]:
    """Bind one non-blocking, close-on-exec socket to each address of ``host``; with a ``backlog``, listen(2) as well.

    ``""`` is every interface of both families.  IPv6 sockets take IPv6 only (IPV6_V6ONLY, ipv6(7)), so that both
    families can have the same port; port 0 is one free port, the same for all.  An address that is not this machine's
    is skipped where the name has another that is.  ``options`` are set before bind(2).

    Blocks for the name look-up.  Raises `~tricorn.errors.ListenError` with nothing left open.
    """
    options = tuple(options)
    with listening_errors(scheme, (host or "*", port)):
        places = _resolve(host, port, kind)
        for _ in range(SHARED_PORT_ATTEMPTS - 1):
            try:
                return _open_each(places, kind, options, backlog)
            except OSError as error:
                if port or error.errno != errno.EADDRINUSE:
                    raise
        return _open_each(places, kind, options, backlog)


def port_sharing_option() -> SocketOption | None:
    """SO_REUSEPORT, by which several sockets share one port (socket(7)); ``None`` where the platform has none."""
    name = getattr(socket, "SO_REUSEPORT", None)
    return None if name is None else (socket.SOL_SOCKET, name, 1)


def _resolve(host: str, port: int, kind: socket.SocketKind) -> list[_Place]:
    try:
        found = socket.getaddrinfo(host or None, port, type=kind, flags=socket.AI_PASSIVE)
    except UnicodeError as error:  # the name cannot even be encoded: a label that is empty or above 63 letters
        raise socket.gaierror(socket.EAI_NONAME, str(error)) from error
    places = [
        _Place(family, proto, address)
        for family, _, proto, _, address in found
        if family in (socket.AF_INET, socket.AF_INET6)
    ]
    return list(dict.fromkeys(places))


def _open_each(
    places: list[_Place], kind: socket.SocketKind, options: tuple[SocketOption, ...], backlog: int | None
) -> list[socket.socket]:
    opened: list[socket.socket] = []
    skipped: OSError | None = None
    with ExitStack() as undo:
        for place in places:
            same_port = _with_port(place, opened[0].getsockname()[1]) if opened else place
            try:
                opened.append(undo.enter_context(_open(same_port, kind, options, backlog)))
            except OSError as error:
                if error.errno not in _ELSEWHERE:
                    raise
                skipped = skipped or error
        if not opened:
            raise skipped or OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
        undo.pop_all()
    return opened


def _with_port(place: _Place, port: int) -> _Place:
    host, _, *rest = place.address
    return place._replace(address=(host, port, *rest))


def _open(
    place: _Place, kind: socket.SocketKind, options: tuple[SocketOption, ...], backlog: int | None
) -> socket.socket:
    with ExitStack() as undo:
        sock = undo.enter_context(socket.socket(place.family, kind, place.proto))
        sock.setblocking(False)
        if place.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        for option in options:
            sock.setsockopt(*option)
        sock.bind(place.address)
        if backlog is not None:
            sock.listen(backlog)
        undo.pop_all()
    return sock
