"""Looking at the first bytes of a request without consuming them, and waiting for them without a thread for each.

Sources: recv(2), MSG_PEEK; FIONREAD of tcp(7) and unix(7), which tells how much could be read and, unlike recv, takes
no pending error from whoever reads later; EPOLLET of epoll(7): one event for each arrival, so that bytes which are
there but not enough cause no further one.
"""

from __future__ import annotations

import heapq
import itertools
import select
import socket
import struct
from collections.abc import Iterator
from time import monotonic
from typing import Any, Generic, TypeVar

from attrs import define

from tricorn.contracts import Kind, Request
from tricorn.deadline import Deadline
from tricorn.errors import ConfigurationError
from tricorn.peer_socket import Tracked
from tricorn.wakeup import wait_readable

try:
    from fcntl import ioctl
    from termios import FIONREAD
except ImportError:  # Windows
    FIONREAD = None  # type: ignore[assignment,misc]

__all__ = ["FirstBytes", "available", "check_epoll", "ends", "peek"]

T = TypeVar("T")

_INT = struct.Struct("i")
_LOOK = socket.MSG_PEEK | getattr(socket, "MSG_DONTWAIT", 0)
#: What says that a stream's peer sends nothing more: its half-close, its end, its reset.
_OVER = getattr(select, "EPOLLRDHUP", 0x2000) | getattr(select, "EPOLLHUP", 0x10) | getattr(select, "EPOLLERR", 0x8)


def check_epoll(what: str) -> None:
    """Raise `~tricorn.errors.ConfigurationError` where `FirstBytes` cannot work."""
    if not hasattr(select, "epoll"):
        raise ConfigurationError(f"{what} waits for first bytes by epoll (Linux); use peek=0 here")


def peek(request: Request, n: int, timeout: float = 0.0) -> bytes:
    """The first bytes of ``request``, at most ``n``; whoever reads later gets them again.

    A connection: what has arrived, ``b""`` if nothing has or the peer's end has come.  With a ``timeout``, in seconds,
    it waits for the first byte, and everybody else waits with it: leave that to ``Route(peek=...)``.  Before a
    connection is opened these are the bytes on the wire, so under TLS those of the handshake; afterwards they are
    what the handler would receive.  A datagram: its data.  An item: its value, if that is bytes; `TypeError` for
    another, which you find in ``item.value``.  Never raises for what the peer does: its reset is left for the handler
    to meet.
    """
    held: Any = request
    if request.kind is Kind.DATAGRAM:
        return bytes(memoryview(held.data)[: max(n, 0)])
    if request.kind is Kind.ITEM:
        return _beginning(held.value, n)
    sock = held.socket
    there = available(request) or held.buffered()
    if timeout > 0 and not there:
        _wait(sock, timeout)
        there = available(request)
    if n <= 0 or not there:
        return b""
    return _look(sock, n)


def available(request: Request) -> int:
    """How many bytes of a connection could be read now; at a socket without a descriptor, whether any could."""
    held: Any = request
    fd = held.socket.fileno()
    if fd < 0 or FIONREAD is None:
        return len(_look(held.socket, 1))
    try:
        count: int = _INT.unpack(ioctl(fd, FIONREAD, _INT.pack(0)))[0]
    except OSError:
        return 0
    return count


def ends(mask: int) -> bool:
    """True for an event of epoll after which the peer sends nothing more."""
    return bool(mask & _OVER)


def _look(sock: Any, n: int) -> bytes:
    """MSG_PEEK past the notes of `Tracked`: looking is not receiving."""
    receive = sock._plain_recv if isinstance(sock, Tracked) else sock.recv
    try:
        data: bytes = receive(n, _LOOK)
    except OSError:
        return b""
    return data


def _wait(sock: Any, timeout: float) -> None:
    if sock.fileno() < 0:
        before = sock.gettimeout()
        sock.settimeout(timeout)
        try:
            sock._plain_recv(1, socket.MSG_PEEK)
        except OSError:
            pass
        finally:
            sock.settimeout(before)
        return
    wait_readable(sock.fileno(), timeout)


def _beginning(value: object, n: int) -> bytes:
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise TypeError(f"the item's value is {value!r}, and only bytes can be peeked at: look at item.value")
    return bytes(memoryview(value)[: max(n, 0)])


@define(eq=False)
class _Held(Generic[T]):
    what: T
    serial: int


class FirstBytes(Generic[T]):
    """Connections of which something is waited for, each until a deadline of its own, in one epoll.

    An arrival is told once, so that bytes which are not enough yet cost nothing until more come.  `take` gives each
    connection to one caller: safe beside another thread's `take` and `take_any`; all else belongs to one thread.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._held: dict[int, _Held[T]] = {}
        #: Deadlines; an entry whose connection was taken meanwhile is passed over.
        self._due: list[tuple[float, int, int]] = []
        self._serials = itertools.count()

    def __len__(self) -> int:
        return len(self._held)

    def all(self) -> list[T]:
        """Who waits now."""
        return [held.what for held in list(self._held.values())]

    def fileno(self) -> int:
        """Readable while `ready` would return something."""
        return self._epoll.fileno()

    def add(self, fd: int, what: T, deadline: Deadline) -> None:
        """Wait for ``fd``, of which ``what`` is told.  Bytes that are there already count as an arrival.

        Raises `OSError` where the kernel has no room for another.
        """
        self._epoll.register(fd, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET)
        serial = next(self._serials)
        self._held[fd] = _Held(what, serial)
        if deadline.at is not None:
            heapq.heappush(self._due, (deadline.at, serial, fd))
        if len(self._due) > 2 * len(self._held) + 100:
            self._due = [each for each in self._due if self._is_held(each)]
            heapq.heapify(self._due)

    def _is_held(self, due: tuple[float, int, int]) -> bool:
        held = self._held.get(due[2])
        return held is not None and held.serial == due[1]

    def ready(self) -> list[tuple[int, int]]:
        """Descriptor and event of each at which something has come since it was last told.  Never blocks."""
        return self._epoll.poll(0)

    def get(self, fd: int) -> T | None:
        """What waits at ``fd``; it goes on waiting."""
        held = self._held.get(fd)
        return None if held is None else held.what

    def take(self, fd: int) -> T | None:
        """What waited at ``fd``, which is watched no longer; ``None`` if somebody else has it."""
        held = self._held.pop(fd, None)
        if held is None:
            return None
        self._forget(fd)
        return held.what

    def take_any(self) -> T | None:
        """One of those that wait, the last that came; ``None`` if there is none."""
        try:
            fd, held = self._held.popitem()
        except KeyError:
            return None
        self._forget(fd)
        return held.what

    def _forget(self, fd: int) -> None:
        try:
            self._epoll.unregister(fd)
        except (OSError, ValueError):
            pass  # it is closed, and so forgotten, or we are

    def until_due(self) -> float | None:
        """Seconds until the next deadline; ``None`` if nothing waits for one."""
        while self._due and not self._is_held(self._due[0]):
            heapq.heappop(self._due)
        return max(0.0, self._due[0][0] - monotonic()) if self._due else None

    def overdue(self) -> Iterator[int]:
        """The descriptors whose deadline has passed; `take` them."""
        while self.until_due() == 0:
            yield heapq.heappop(self._due)[2]

    def close(self) -> None:
        """Give the descriptor back.  Who still waits is not told."""
        self._epoll.close()
