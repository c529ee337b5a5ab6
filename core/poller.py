"""Waiting for many descriptors at once, in one thread: epoll itself where there is one.

`select.epoll` is used bare: `selectors` around it costs a microsecond and an object for each event.
"""

from __future__ import annotations

import select
import selectors
from typing import Protocol

__all__ = ["QUIET", "READ", "WRITE", "Poller", "make_poller"]

#: Events, as in `selectors`; the same numbers as EPOLLIN and EPOLLOUT with epoll.
READ = getattr(select, "EPOLLIN", selectors.EVENT_READ)
WRITE = getattr(select, "EPOLLOUT", selectors.EVENT_WRITE)
#: For `Poller.modify`: nothing, and an end (EPOLLHUP, which epoll always tells) once and not again and again.
QUIET = getattr(select, "EPOLLET", 0)


class Poller(Protocol):
    """What an event loop needs; belongs to one thread, but for `modify` with epoll.  Level-triggered."""

    def register(self, fd: int, events: int, /) -> None:
        """Begin to wait for ``events`` on ``fd``; 0 waits for nothing but an error."""
        ...

    def modify(self, fd: int, events: int, /) -> None:
        """Wait for others."""
        ...

    def unregister(self, fd: int, /) -> None:
        """Forget ``fd``; before it is closed."""
        ...

    def poll(self, timeout: float | None = None, /) -> list[tuple[int, int]]:
        """What is ready: descriptors with their events, or with others (EPOLLHUP, EPOLLERR) that count as both."""
        ...

    def close(self) -> None:
        """Give the descriptor back."""
        ...


class _SelectorPoller:
    """On platforms without epoll."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._silent: set[int] = set()

    def register(self, fd: int, events: int, /) -> None:
        if events:
            self._selector.register(fd, events)
        else:
            self._silent.add(fd)

    def modify(self, fd: int, events: int, /) -> None:
        self.unregister(fd)
        self.register(fd, events)

    def unregister(self, fd: int, /) -> None:
        if fd in self._silent:
            self._silent.remove(fd)
        else:
            self._selector.unregister(fd)

    def poll(self, timeout: float | None = None, /) -> list[tuple[int, int]]:
        return [(key.fd, events) for key, events in self._selector.select(timeout)]

    def close(self) -> None:
        self._selector.close()


def make_poller() -> Poller:
    """The best that the platform has.  Raises `OSError` where there is no descriptor left."""
    return select.epoll() if hasattr(select, "epoll") else _SelectorPoller()
