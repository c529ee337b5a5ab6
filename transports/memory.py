"""Connections inside this process, for tests: no port, no file, no kernel in the way of the bytes."""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import define, field, frozen

from tricorn.checks import refuse_option, whole_number
from tricorn.connection import Connection
from tricorn.contracts import Kind, Listener, Transport
from tricorn.deadline import Deadline
from tricorn.errors import ConfigurationError, ListenError
from tricorn.memory_socket import MemorySocket, memory_pair
from tricorn.wakeup import WakeUp

if TYPE_CHECKING:
    from attrs import Attribute

__all__ = ["Memory", "MemoryListener"]

_numbers = count(1)


def _check_name(owner: object, option: Attribute[str], value: object) -> None:
    if not isinstance(value, str) or not value:
        refuse_option(owner, option.name, value, "a text that is not empty, or None for one made up")


def _named(name: str | None) -> str:
    return str(next(_numbers)) if name is None else name


@frozen
class Memory(Transport):
    """Connections between threads of this process.

    ``name``: part of the address, ``memory:name``; ``None`` makes one up.  It is not looked up anywhere: to connect
    takes this very object.
    ``backlog``: connections that wait to be accepted; `connect` waits while there are as many.

    ::

        memory = Memory()
        with Server(memory, ThreadPool(), handler):
            with memory.connect() as client:
                client.sendall(b"hello")

    `connect` and `inject` are safe from any thread.  Nothing crosses a fork.  Raises
    `~tricorn.errors.ConfigurationError` for a value that cannot work.
    """

    kind: ClassVar[Kind] = Kind.STREAM
    in_process: ClassVar[bool] = True

    name: str | None = field(
        default=None,
        converter=_named,
        validator=_check_name,
        metadata={"help": "part of the address"},
    )
    backlog: int = field(
        default=128, validator=whole_number(1), metadata={"help": "connections that wait to be accepted"}
    )
    _switchboard: Switchboard = field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_switchboard", Switchboard(f"memory:{self.name}", self.backlog))

    def listen(self) -> tuple[MemoryListener]:
        """Let `connect` in from now on.  Raises `~tricorn.errors.ListenError` (EADDRINUSE) while there is a listener
        already."""
        return (MemoryListener(self._switchboard, self._switchboard.open()),)

    def connect(self, timeout: float | None = None) -> MemorySocket:
        """The client's end of a new connection: ``recv``, ``sendall``, ``makefile`` and the rest of `socket.socket`'s
        calls.

        Returns before anybody accepts it.  Blocks while the backlog is full, as TCP does, without limit or for
        ``timeout`` seconds, then raises `TimeoutError`.  Raises `ConnectionRefusedError` where nobody listens, or no
        longer.
        """
        return self._switchboard.connect(Deadline.after(timeout))

    def inject(self, fault: int | Exception, times: int = 1) -> None:
        """Make the next ``times`` accepts fail, while the listener looks ready.

        ``fault``: an errno, raised as `OSError` (any that accept(2) knows), or the exception itself.  It comes before
        waiting connections, which stay; without a listener it waits for one.
        """
        if isinstance(fault, int) and not isinstance(fault, bool):
            fault = OSError(fault, os.strerror(fault))
        if not isinstance(fault, Exception) or not isinstance(times, int) or times < 1:
            raise ConfigurationError(f"inject({fault!r}, {times!r}): must be an errno or an exception, 1 time or more")
        self._switchboard.inject(fault, times)


@define(eq=False)
class Switchboard:
    """The living side of a `Memory`: who waits to be accepted.  Safe from any thread."""

    address: str
    backlog: int
    _changed: threading.Condition = field(factory=threading.Condition, init=False, repr=False)
    _pending: deque[Connection] = field(factory=deque, init=False, repr=False)
    _faults: deque[Exception] = field(factory=deque, init=False, repr=False)
    _ready: WakeUp | None = field(default=None, init=False, repr=False)
    _clients: Any = field(factory=lambda: count(1), init=False, repr=False)

    def open(self) -> WakeUp:
        """Begin to listen: what is raised while `accept` would do something."""
        with self._changed:
            if self._ready is not None:
                reason = "it is listened on already; close that listener first"
                raise ListenError(
                    f"cannot listen on {self.address}: {reason}", errno=errno.EADDRINUSE, address=self.address
                )
            self._ready = ready = WakeUp()
            self._show()
            return ready

    def connect(self, deadline: Deadline) -> MemorySocket:
        """See `Memory.connect`."""
        with self._changed:
            opened = self._ready
            while self._ready is not None and self._ready is opened and len(self._pending) >= self.backlog:
                if not self._changed.wait(deadline.remaining()) and deadline.expired:
                    raise TimeoutError(errno.ETIMEDOUT, f"the backlog of {self.address} ({self.backlog}) is full")
            if opened is None or self._ready is not opened:
                raise ConnectionRefusedError(errno.ECONNREFUSED, f"nobody listens on {self.address}")
            peer = f"{self.address}#{next(self._clients)}"
            server, client = memory_pair(self.address, peer)
            self._pending.append(Connection(server, peer))
            self._show()
            return client

    def inject(self, fault: Exception, times: int) -> None:
        """See `Memory.inject`."""
        with self._changed:
            self._faults.extend([fault] * times)
            self._show()

    def accept(self) -> Connection:
        """The next fault, or the next connection."""
        with self._changed:
            if self._ready is None:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            try:
                if self._faults:
                    raise self._faults.popleft()
                if not self._pending:
                    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
                self._changed.notify()
                return self._pending.popleft()
            finally:
                self._show()

    def close(self, ready: WakeUp) -> None:
        """Stop listening: those who wait are reset, and the next are refused."""
        with self._changed:
            if self._ready is not ready:
                return
            self._ready = None
            left = list(self._pending)
            self._pending.clear()
            self._changed.notify_all()
        ready.close()
        for connection in left:
            connection.close()

    def _show(self) -> None:
        if self._ready is None:
            return
        self._ready.clear()
        if self._faults or self._pending:
            self._ready.signal()


@define(eq=False)
class MemoryListener(Listener):
    """Accepts what `Memory.connect` makes.  `accept` is safe from many threads."""

    kind: ClassVar[Kind] = Kind.STREAM

    _switchboard: Switchboard
    _ready: WakeUp
    #: ``memory:name``.
    address: str = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.address = self._switchboard.address

    def fileno(self) -> int:
        """Readable while a connection or an injected fault waits."""
        return self._ready.fileno()

    def accept(self) -> Connection:
        """The next connection; it never blocks.  Raises what `Memory.inject` said, when it is due."""
        return self._switchboard.accept()

    def close(self) -> None:
        """Stop listening; those who wait to be accepted see the end of their connection."""
        self._switchboard.close(self._ready)
