"""Bytes between a transport of an asyncio loop and a coroutine.  Belongs to the loop's thread."""

from __future__ import annotations

import asyncio
import socket as _sockets
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

from tricorn.async_link import Link
from tricorn.deadlines import Deadlines, due
from tricorn.errors import ConnectionLost, StateError
from tricorn.peer_socket import REPLY_GRACE_S, SILENCE_S, kernel_shutdown

if TYPE_CHECKING:
    from tricorn.contracts import Job

__all__ = ["StreamLink"]


class StreamLink(Link):
    """Bytes for a coroutine: what has arrived and was not taken, and the notes of `tricorn.peer_socket.Tracked`."""

    #: Of the notes: what is sent is the transport's, whose output is minded by `due`.
    sending = False
    idle_from = float("-inf")

    def __init__(self, job: Job, ended: Callable[[Link], None], read_ahead: int, high_water: int) -> None:
        super().__init__(job, ended)
        self._loop = asyncio.get_running_loop()
        self.buffer = bytearray()
        #: The end of the input has come.
        self.ended = False
        self._read_ahead, self._high_water = read_ahead, high_water
        self._reader: asyncio.Future[None] | None = None
        self._writers: list[asyncio.Future[None]] = []
        self._held = self._closed = False
        #: The peer has not taken enough of what was sent.
        self.full = False
        # Notes: see `Tracked`.
        self.engaged = False
        self.received = self.received_before = self._boundaries = 0
        self._received_seen = (-1, 0.0)
        self.sent_at = self.engaged_at = float("-inf")

    # -- what the transport tells

    def opened(self) -> None:
        """Ready for the handler."""
        self.transport.set_write_buffer_limits(high=self._high_water)

    def data_received(self, data: bytes) -> None:
        """Keep it for the handler; hold further input back where it does not come for what there is."""
        self.buffer += data
        if not self.engaged:
            self._engage()
        self.received += len(data)
        reader = self._reader
        if reader is not None and not reader.done():
            reader.set_result(None)
        elif len(self.buffer) >= self._read_ahead:
            self._hold()

    def eof_received(self) -> bool:
        """The input is over; the output is not, unless it is encrypted."""
        self._end_of_input()
        return not self.encrypted

    def pause_writing(self) -> None:
        """The peer does not take what was sent: whoever sends waits."""
        self.full = True

    def resume_writing(self) -> None:
        """It does again."""
        self.full = False
        self._wake_writers()

    @property
    def idle_since(self) -> float | None:
        """While the handler waits for more, and has answered what there was."""
        idle = self._reader is not None and not (self.engaged or self.buffer or self.over)
        return self.sent_at if idle else None

    def cut(self, error: Exception | None) -> None:
        """Whoever waits is told."""
        self._end_of_input()
        self._wake_writers()

    def _engage(self) -> None:
        """A request is under way."""
        if not self.engaged:
            self.engaged, self.engaged_at, self.received_before = True, monotonic(), self.received

    @property
    def waiting(self) -> bool:
        """The handler waits for the peer."""
        return self._reader is not None and not self._reader.done()

    def due_in_handler(self, limits: Deadlines) -> tuple[float, str] | None:
        """By the notes."""
        return due(self, self.added, limits)

    def _end_of_input(self) -> None:
        self.ended = True
        if self._reader is not None:
            _wake(self._reader)

    def _wake_writers(self) -> None:
        for waiting in self._writers:
            _wake(waiting)

    def _hold(self) -> None:
        if not self._held and not self.transport.is_closing():
            self._held = True
            self.transport.pause_reading()

    def _release(self) -> None:
        if self._held:
            self._held = False
            if not self.transport.is_closing():
                self.transport.resume_reading()

    # -- what the handler asks for

    def more(self) -> asyncio.Future[None]:
        """Done when something arrives, or the end.  May be cancelled; nothing is lost."""
        if self._reader is not None and not self._reader.done():
            raise StateError("another coroutine receives from this connection already")
        self._reader = reader = self._loop.create_future()
        if self.buffer:
            self._engage()
        elif self.sock.draining and not self.engaged:
            self._come_to_a_boundary()
        if self._held:
            self._release()
        return reader

    def take(self, size: int) -> bytes:
        """At most ``size`` bytes of what has arrived."""
        self._engage()
        if size >= len(self.buffer):
            data = bytes(self.buffer)
            self.buffer.clear()
        else:
            with memoryview(self.buffer) as view:
                data = bytes(view[:size])
            del self.buffer[:size]
        if self._held and len(self.buffer) < self._read_ahead:
            self._release()
        return data

    def send(self, data: bytes) -> None:
        """Hand it to the transport; if that is `full` then, wait for `drained`."""
        if self._closed or self.gone or self.transport.is_closing():
            self._raise_unsendable()
        self.engaged = False
        self.sent_at = monotonic()
        self.transport.write(data)

    async def drained(self) -> None:
        """Wait while the transport has more than ``high_water`` bytes."""
        while self.full and not self.gone:
            await self._wait_in(self._writers)
        if self.gone:
            self._raise_unsendable()

    def _raise_unsendable(self) -> None:
        if self._closed:
            raise StateError("send(): the connection is closed")
        if self.sock.fault is None:
            self.sock.fault = ConnectionLost("the connection was lost")
        raise self.sock.fault

    async def closed(self) -> None:
        """Wait until the transport has let go."""
        self._closed = True
        self.transport.close()
        while not self.gone:
            await self._wait_in(self._writers)

    async def _wait_in(self, queue: list[asyncio.Future[None]]) -> None:
        waiting = asyncio.get_running_loop().create_future()
        queue.append(waiting)
        try:
            await waiting
        finally:
            queue.remove(waiting)

    # -- draining

    def look(self, now: float) -> None:
        """As `Tracked.drain`: see there for what is idle."""
        self.sock.draining = True
        if self._reader is None or self._reader.done() or self.gone:
            return
        if not self.engaged:
            self._boundaries = max(1, self._boundaries)
            if now - self.sent_at >= REPLY_GRACE_S:
                self._end_input()
        elif self.received != self._received_seen[0]:
            self._received_seen = (self.received, now)
        elif now - self._received_seen[1] >= SILENCE_S:
            self._end_input()

    def _come_to_a_boundary(self) -> None:
        self._boundaries += 1
        if self._boundaries > 1 or self.sent_at < 0:
            self._end_input()

    def _end_input(self) -> None:
        """What has arrived is still read, and then the end.  Encrypted, there is no way to end one direction below."""
        if self.encrypted:
            self._hold()
            self._end_of_input()
        else:
            kernel_shutdown(self.sock.fileno(), _sockets.SHUT_RD)


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
