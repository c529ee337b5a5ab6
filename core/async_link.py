"""What stands between a connection and an asyncio loop: its socket there, and the protocols on its transport.

A dispatcher puts a `Link` on each connection's transport.  Everything here belongs to the loop's thread, but for what
`LoopSocket` says.
"""

from __future__ import annotations

import asyncio
import select
import selectors
import socket as _sockets
from collections.abc import Callable
from contextlib import nullcontext, suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

from tricorn.connection import Connection
from tricorn.deadlines import Deadlines
from tricorn.errors import StateError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from tricorn.contracts import Job
    from tricorn.deadline import Deadline

__all__ = ["Link", "LoopSocket", "enter_loop", "reach_tls"]

#: Seconds between two looks at a TLS peer that was told the end and does not answer, and how many there are at least.
GOODBYE_S, GOODBYE_LOOKS = 0.2, 3


class LoopSocket(_sockets.socket):
    """Where the descriptor lives while a transport of the loop uses it.

    The transport gives it up when it likes, by `close` or `detach`; both take the connection's lock, so that
    `Connection.abort` of another thread never meets a descriptor that has a new owner.
    """

    lock: AbstractContextManager[Any] = nullcontext()
    #: The server is stopping; the loop looks after its connections by itself.
    draining: bool = False
    #: The last error that is the peer's.
    fault: BaseException | None = None
    has_files = False

    def drain(self) -> None:
        """Note it; safe from any thread."""
        self.draining = True

    def close(self) -> None:
        """`socket.socket.close`."""
        with self.lock:
            super().close()

    def detach(self) -> int:
        """`socket.socket.detach`."""
        with self.lock:
            return super().detach()


def enter_loop(connection: Connection) -> LoopSocket:
    """Put the descriptor of ``connection``, which is not open yet, into a `LoopSocket`, and make it non-blocking.

    Raises `~tricorn.errors.StateError` where urgent bytes are refused or delivered, which a transport would not do.
    """
    policy = getattr(connection.socket, "urgent_policy", "ignore")
    if policy != "ignore":
        raise StateError(f"an asyncio loop does not keep to urgent={policy!r}; use urgent='ignore', or a thread")
    with connection._lock:
        old = connection.socket
        connection.socket = sock = LoopSocket(old.family, old.type, old.proto, old.detach())
        sock.lock = connection._lock
        sock.draining = getattr(old, "draining", False)
    sock.setblocking(False)
    return sock


async def reach_tls(connection: Connection) -> None:
    """`Connection.reach_tls` to its end, before `enter_loop`: for a PROXY header.  Raises as `Connection.open` does."""
    connection.socket.setblocking(False)
    while wanted := connection.reach_tls():
        await _ready(connection.socket.fileno(), wanted, connection.open_until)


async def _ready(fd: int, wanted: int, until: Deadline | None) -> None:
    """Until ``fd`` is ready for an event of `selectors`, or ``until``."""
    loop = asyncio.get_running_loop()
    came = asyncio.Event()
    reads = wanted == selectors.EVENT_READ
    (loop.add_reader if reads else loop.add_writer)(fd, came.set)
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(None if until is None else until.remaining()):
                await came.wait()
    finally:
        (loop.remove_reader if reads else loop.remove_writer)(fd)


class Link(asyncio.Protocol):
    """One connection on the loop, from its transport to its end; ``ended`` is called when the peer has seen that."""

    transport: Any = None
    #: What its handler, or the peer, ended it with.
    error: BaseException | None = None
    #: The handler is done with it.
    over = False
    #: The transport has let go of the descriptor.
    gone = False
    #: Bytes of output that the peer had not taken when last looked at, and since when there were so many.
    _unsent = (0, 0.0)

    def __init__(self, job: Job, ended: Callable[[Link], None]) -> None:
        self.job = job
        connection: Any = job.request
        self.connection = connection
        self.sock: LoopSocket = connection.socket
        self.encrypted = connection.tls is not None
        self._ended = ended
        #: When it was put on the loop, by `time.monotonic`.
        self.added = monotonic()
        connection.keeper = self

    @property
    def idle_since(self) -> float | None:
        """See `tricorn.connection.Connection.idle_since`."""
        return None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open, encrypted too if it is to be."""
        self.transport = transport
        try:
            if self.encrypted:
                self.connection.opened_by(transport.get_extra_info("ssl_object"))
            self.job.authenticate()
            self.opened()
        except BaseException as error:
            self.finish(error)

    def opened(self) -> None:
        """The peer may come in."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing more goes in or out; ``exc`` if that is the network's doing."""
        self.gone = True
        self.connection.keeper = None
        if isinstance(exc, OSError) and self.sock.fault is None:
            self.sock.fault = exc
        if self.over:
            if self.error is None and (not self.encrypted or isinstance(exc, TimeoutError)):
                self.error = exc  # not everything was sent.  TLS: a reset is how peers leave that heard our goodbye
            self._report()
        else:
            self.cut(exc)

    def cut(self, error: Exception | None) -> None:
        """It was lost before the handler was done."""

    def finish(self, error: BaseException | None) -> None:
        """The handler is done: send what is to be sent, and close."""
        if self.over:
            return
        self.over, self.error = True, error
        if self.gone:
            self._report()
        else:
            self.transport.close()
            if self.encrypted:
                asyncio.get_running_loop().call_later(GOODBYE_S, self._part, 0)

    def _part(self, looks: int) -> None:
        """Do not wait for a peer that has everything and does not answer our ``close_notify``.

        What is below the encryption cannot be asked what it still has.  But it has something only while the kernel has
        no room, or for less than a turn of the loop; so there must be room in several looks.
        """
        if self.gone:
            return
        sent = not self.transport.get_write_buffer_size() and _has_room(self.sock.fileno())
        looks = looks + 1 if sent else 0
        if looks >= GOODBYE_LOOKS:
            self.transport.abort()
        else:
            asyncio.get_running_loop().call_later(GOODBYE_S, self._part, looks)

    def _report(self) -> None:
        # Only after this turn has the transport closed the descriptor, and the peer is to see the end first.
        asyncio.get_running_loop().call_soon(self._ended, self)

    def forget(self) -> None:
        """Somebody else ends the job."""
        self._ended = lambda link: None

    def abort(self) -> None:
        """Cut it off."""
        if self.transport is not None:
            self.transport.abort()

    def look(self, now: float) -> None:
        """The server is stopping: end the input if nothing is under way.  Called again and again."""

    def due(self, now: float, limits: Deadlines) -> tuple[float, str] | None:
        """When it is late, and by which of ``limits``; ``None`` for never.  Called again and again."""
        unsent = self.transport.get_write_buffer_size() if self.transport is not None and not self.gone else 0
        if unsent:
            if unsent != self._unsent[0]:
                self._unsent = (unsent, now)
            return None if limits.write is None else (self._unsent[1] + limits.write, "write")
        self._unsent = (0, 0.0)
        return None if self.over or self.gone else self.due_in_handler(limits)

    def due_in_handler(self, limits: Deadlines) -> tuple[float, str] | None:
        """The same, where all output is sent, and the conversation is not over."""
        return None


def _has_room(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(0))
