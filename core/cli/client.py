"""The clients of the matrix: plain sockets; only what no kernel stands behind is asked for its own."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import stat
import subprocess
from contextlib import nullcontext
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from urllib.parse import quote

from tricorn.contracts import Kind, Transport
from tricorn.transports import TLS, ProxyProtocol

__all__ = ["NoClient", "converse", "prepare_items", "wrapper_options"]

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
    with _connected(transport, address, folder, timeout) as plain, _greeted(transport, plain, folder) as sock:
        sock.sendall(payload)
        if transport.kind is Kind.DATAGRAM:
            answer: bytes = sock.recv(65536)
            return answer
        if isinstance(transport, TLS):  # which has no half-close that everybody understands
            return _exactly(sock, len(payload))
        sock.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def wrapper_options(name: str, folder: Path) -> str:
    """What a wrapper needs to be tried, as the options of its text; raises `NoClient` where that cannot be had."""
    if name == "proxy":
        return "trusted=127.0.0.1"
    if name != "tls":
        raise NoClient(f"it is not known how to talk to what wrapper '{name}' makes")
    command = shutil.which("openssl")
    if command is None:
        raise NoClient("a certificate to try TLS with is made by the command openssl, and there is none")
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2", "-nodes"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    where = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run([command, "req", "-x509", *kind, *names, *where], check=True, capture_output=True, timeout=30)
    return f"certfile={quote(str(folder / 'cert.pem'))}&keyfile={quote(str(folder / 'key.pem'))}"


def _greeted(transport: Transport, sock: Any, folder: Path) -> Any:
    """What comes before the first byte of the conversation."""
    if isinstance(transport, ProxyProtocol):
        sock.sendall(b"PROXY TCP4 127.0.0.1 127.0.0.1 40000 443\r\n")
    if isinstance(transport, TLS):
        context = ssl.create_default_context(cafile=str(folder / "cert.pem"))
        return context.wrap_socket(sock, server_hostname="127.0.0.1")
    return nullcontext(sock)


def _exactly(sock: Any, length: int) -> bytes:
    answer = b""
    while len(answer) < length and (more := sock.recv(65536)):
        answer += more
    return answer


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
