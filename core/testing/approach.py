"""How the kit reaches a transport's listeners when its author does not say how."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

from tricorn.contracts import Kind, Transport
from tricorn.testing import bounds
from tricorn.testing.bounds import expect

__all__ = ["Connect", "connect_to"]

#: ``(transport, address of its listener)`` to a client: a connected socket, or what behaves like one.
Connect = Callable[[Transport, Any], Any]


def connect_to(transport: Transport, address: Any) -> Any:
    """A client: by the transport's own ``connect``, else over IP or a Unix socket by the listener's address."""
    own = getattr(transport, "connect", None)
    client = own() if callable(own) else _by_address(transport.kind, address)
    client.settimeout(bounds.BOUND_S)
    return client


def _by_address(request: Kind, address: Any) -> socket.socket:
    kind = socket.SOCK_DGRAM if request is Kind.DATAGRAM else socket.SOCK_STREAM
    if isinstance(address, tuple):
        client = socket.socket(socket.AF_INET6 if ":" in str(address[0]) else socket.AF_INET, kind)
    else:
        expect(isinstance(address, (str, bytes)), f"the kit cannot connect to {address!r} by itself: pass connect=")
        client = socket.socket(socket.AF_UNIX, kind)
        if kind is socket.SOCK_DGRAM:
            client.bind("")  # a name of the kernel's choice, to get replies by: unix(7), autobind
        address = _with_nul(address)
    client.settimeout(bounds.BOUND_S)
    client.connect(address)
    return client


def _with_nul(path: str | bytes) -> bytes:
    name = os.fsencode(path)
    return b"\0" + name[1:] if name.startswith(b"@") else name
