"""Waking a thread that waits for descriptors: a socket pair, never a poll interval."""

from __future__ import annotations

import selectors
import socket

__all__ = ["WakeUp", "wait_readable"]


def wait_readable(fd: int, timeout: float | None) -> bool:
    """Block until ``fd`` is readable, or for ``timeout`` seconds; True if it is."""
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        return bool(selector.select(timeout))


class WakeUp:
    """A level: raised by `signal`, lowered by `clear`, and readable on `fileno` while it is up.

    A socket pair rather than `os.pipe`, because select on Windows takes sockets only; rather than an eventfd,
    because only Linux has those.  `signal` never blocks and may be called from any thread and from a signal
    handler.
    """

    __slots__ = ("_reader", "_writer")

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        """The descriptor that is readable while the level is up."""
        return self._reader.fileno()

    def raising_fileno(self) -> int:
        """The descriptor to which a byte can be written instead of calling `signal`; it is non-blocking."""
        return self._writer.fileno()

    def signal(self) -> None:
        """Raise the level.  Twice is the same as once; after `close` it does nothing."""
        try:
            self._writer.send(b"\0")
        except OSError:
            pass  # full: it is up already; closed: nobody waits any more

    def clear(self) -> None:
        """Lower the level."""
        try:
            while self._reader.recv(512):
                pass
        except OSError:
            pass

    def close(self) -> None:
        """Give both descriptors back."""
        self._reader.close()
        self._writer.close()
