"""What every socket transport does to a listening socket, and how it says that it could not."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from tricorn.errors import ListenError

__all__ = ["BACKLOG", "MAX_BACKLOG", "listening_errors", "show_address"]

#: Asked of listen(2); the kernel cuts it to its own limit (net.core.somaxconn), which is as large as it takes.
BACKLOG = 65535

#: listen(2) takes a C int.
MAX_BACKLOG = 2**31 - 1

_HINTS = {
    errno.EADDRINUSE: "another program listens there; stop it, or choose another address (port 0 takes a free one)",
    errno.EADDRNOTAVAIL: "that address belongs to no interface of this machine; 0.0.0.0 and :: mean all of them",
    errno.EACCES: "no permission; ports below 1024 need a privilege, a path needs a writable folder",
    errno.ENOENT: "the folder does not exist",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EAFNOSUPPORT: "this machine does not speak that address family",
    errno.EMFILE: "this process has no descriptor left (ulimit -n)",
    errno.ENFILE: "the machine has no descriptor left",
}


def show_address(address: object) -> str:
    """An address as a person writes it: ``127.0.0.1:80``, ``[::1]:80``, ``/run/app.sock``, ``@abstract``."""
    if isinstance(address, tuple) and len(address) >= 2:
        host, port = address[0], address[1]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    if isinstance(address, bytes):
        return "@" + address[1:].decode("utf-8", "backslashreplace")
    return str(address)


@contextmanager
def listening_errors(scheme: str, address: object) -> Iterator[None]:
    """Turn the kernel's and the resolver's errors into `ListenError` that names the address and a way out."""
    try:
        yield
    except ListenError:
        raise
    except socket.gaierror as error:
        message = (
            f"cannot listen on {scheme} {show_address(address)}: the host name cannot be resolved ({error.strerror})"
        )
        raise ListenError(message, errno=error.errno, address=address) from error
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        hint = _HINTS.get(error.errno or 0)
        message = f"cannot listen on {scheme} {show_address(address)}: {reason}" + (f" ({hint})" if hint else "")
        raise ListenError(message, errno=error.errno, address=address) from error
