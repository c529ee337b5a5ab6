"""The clients of the matrix: plain sockets; only what no kernel stands behind is asked for its own."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from tricorn.contracts import Kind, Transport

__all__ = ["NoClient", "converse", "prepare_items"]

#: Seconds between two looks at what has become of an item: this client knows no more of a table than its rows.
_LOOK_S = 0.01


class NoClient(Exception):
    """There is nothing to try this transport with."""


def converse(transport: Transport, address: object, payload: bytes, folder: Path, timeout: float) -> bytes:
    """Connect, send ``payload``, and return what comes back; ``timeout`` seconds for each step.

    A client that needs a path makes it in ``folder``.  Raises `NoClient` where nobody knows how to connect, `OSError`
    where that fails.
    """
    if transport.kind is Kind.ITEM:
        return _put_item(transport, payload, timeout)
    with _connected(transport, address, folder, timeout) as sock:
        sock.sendall(payload)
        if transport.kind is Kind.DATAGRAM:
            answer: bytes = sock.recv(65536)
            return answer
        sock.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def prepare_items(transport: Any) -> None:
    """Make the place where items are put, if the transport can.  Raises `NoClient` if nobody could put one in."""
    if not all(callable(getattr(transport, name, None)) for name in ("create", "put", "read")):
        raise NoClient(f"{type(transport).__name__} yields items, and those have no client")
    transport.create()


def _put_item(transport: Any, payload: bytes, timeout: float) -> bytes:
    """Put an item in, and wait until it is done: an item has no answer."""
    number = transport.put(payload.hex())
    limit = monotonic() + timeout
    while (found := transport.read(number)).state != "done":
        if monotonic() > limit:
            raise TimeoutError(f"the item is {found.state} after {timeout:g} s: {found.error or 'no error'}")
        sleep(_LOOK_S)
    return payload


def _connected(transport: Transport, address: object, folder: Path, timeout: float) -> Any:
    if transport.in_process:
        connect = getattr(transport, "connect", None)
        if connect is None:
            raise NoClient(f"{type(transport).__name__} exists only inside one process, and has no method connect")
        sock = connect(timeout)
        sock.settimeout(timeout)
        return sock
    family, target = _family(address)
    sock = socket.socket(family, socket.SOCK_STREAM if transport.kind is Kind.STREAM else socket.SOCK_DGRAM)
    try:
        sock.settimeout(timeout)
        if family == getattr(socket, "AF_UNIX", None) and transport.kind is Kind.DATAGRAM:
            sock.bind(os.fspath(folder / "client"))  # or the server could not answer
        sock.connect(target)
    except BaseException:
        sock.close()
        raise
    return sock


def _family(address: object) -> tuple[int, Any]:
    """How to reach a listener's address by a plain socket."""
    if isinstance(address, tuple) and len(address) >= 2:
        return (socket.AF_INET6 if ":" in str(address[0]) else socket.AF_INET), address
    if isinstance(address, str) and hasattr(socket, "AF_UNIX"):
        if address.startswith("@"):
            return socket.AF_UNIX, "\0" + address[1:]
        if _is_socket(address):
            return socket.AF_UNIX, address
    raise NoClient(f"it is not known how to connect to {address!r}")


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False
