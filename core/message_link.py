"""A message handler on an asyncio loop: its function is called from the transport's callbacks, without a task."""

from __future__ import annotations

import asyncio
import socket as _sockets
from collections.abc import Callable
from contextvars import Context
from time import monotonic
from typing import TYPE_CHECKING, Any

from tricorn.async_link import Link
from tricorn.errors import FramingError
from tricorn.peer_socket import SILENCE_S, kernel_shutdown

if TYPE_CHECKING:
    from tricorn.contracts import Job
    from tricorn.deadlines import Deadlines
    from tricorn.messages import Conversation

__all__ = ["MessageLink", "answer_packet"]

#: Seconds, and bytes, for which a peer that broke the framing is still read, so that it gets to see our answer: closing
#: with input unread resets the connection.  RFC 1122, section 4.2.2.13.
LINGER_S, LINGER_BYTES = 1.0, 262_144


class MessageLink(Link):
    """One conversation.  A peer that does not take its replies is not read either."""

    _conversation: Conversation
    _respond: Callable[[bytes], bytes]
    #: The server is stopping: end as soon as nothing is under way.
    _ending = False
    #: Bytes of the incomplete message, and when that was seen.
    _pending_seen = (-1, 0.0)
    #: When something last came in, and when the first bytes did of a message that is not complete.
    _heard_at = float("-inf")
    _begun_at = 0.0

    def __init__(self, job: Job, ended: Callable[[Link], None], context: Context, high_water: int) -> None:
        super().__init__(job, ended)
        self._run = context.run
        self._high_water = high_water

    def opened(self) -> None:
        """Begin the conversation."""
        self.transport.set_write_buffer_limits(high=self._high_water)
        self._conversation = self._run(self.job.converse)
        self._respond = self._conversation.respond

    @property
    def idle_since(self) -> float | None:
        """Between two messages, with the last reply sent."""
        if self.over or self.transport is None or self.transport.get_write_buffer_size():
            return None
        return self._heard_at if self._conversation.idle else None

    def data_received(self, data: bytes) -> None:
        """Call the function for each message that is complete."""
        self._heard_at = monotonic()
        try:
            replies = self._run(self._respond, data)
        except BaseException as error:  # a signal's, just outside the function
            self.finish(error)
            return
        if replies:
            self._begun_at = 0.0
            self.transport.write(replies)
        elif not self._begun_at or self._conversation.advanced:
            self._begun_at = self._heard_at
        if self._conversation.error is not None:
            self._fail(self._conversation.error)
        elif self._ending:
            self.look(monotonic())

    def eof_received(self) -> None:
        """The last message, if the end ends one."""
        if self.over:
            return
        self._finish_conversation()

    def _finish_conversation(self) -> None:
        replies = self._run(self._conversation.finish)
        if replies:
            self.transport.write(replies)
        if self._conversation.error is not None:
            self._note(self._conversation.error)
        self.finish(self._conversation.error)

    def pause_writing(self) -> None:
        """The peer does not take its replies."""
        if not self.over:
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        """It does again."""
        if not (self.over or self.transport.is_closing()):
            self.transport.resume_reading()

    def cut(self, error: Exception | None) -> None:
        """The handler has nothing more to do."""
        self.finish(error)

    def due_in_handler(self, limits: Deadlines) -> tuple[float, str] | None:
        """Between two messages, or in one; the function itself has returned, or nobody would ask."""
        if not self._conversation.idle:
            return None if limits.read is None else ((self._begun_at or self._heard_at) + limits.read, "read")
        self._begun_at = 0.0
        if self._heard_at < 0:
            return None if limits.first_byte is None else (self.added + limits.first_byte, "first_byte")
        return None if limits.idle is None else (self._heard_at + limits.idle, "idle")

    def _note(self, error: BaseException) -> None:
        if isinstance(error, FramingError):
            self.sock.fault = error

    def _fail(self, error: BaseException) -> None:
        self._note(error)
        if not isinstance(error, FramingError) or self.encrypted or self._ending:
            self.finish(error)
            return
        transport = self.transport
        self.over, self.error = True, error
        transport.write_eof()
        transport.set_protocol(_Linger(self))
        transport.resume_reading()
        asyncio.get_running_loop().call_later(LINGER_S, transport.close)

    def look(self, now: float) -> None:
        """End the input between two messages, and `SILENCE_S` after the last byte of one."""
        self._ending = True
        if self.over or self.gone:
            return
        pending = self._conversation._decoder.pending
        if pending and pending != self._pending_seen[0]:
            self._pending_seen = (pending, now)
        elif not pending or now - self._pending_seen[1] >= SILENCE_S:
            self._end_input()

    def _end_input(self) -> None:
        if self.encrypted:
            self._finish_conversation()
        else:  # what has arrived is still served
            kernel_shutdown(self.sock.fileno(), _sockets.SHUT_RD)


class _Linger(asyncio.Protocol):
    """Reads a little more from a peer that is to see our last words."""

    def __init__(self, link: MessageLink) -> None:
        self._link = link
        self._dropped = 0

    def data_received(self, data: bytes) -> None:
        self._dropped += len(data)
        if self._dropped > LINGER_BYTES:
            self._link.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._link.connection_lost(exc)


def answer_packet(job: Job, context: Context) -> tuple[BaseException | None, bytes | None]:
    """Answer a datagram with a message handler; returns the error, and the reply for which there was no room."""
    datagram: Any = job.request
    try:
        conversation = context.run(job.converse)
        reply = context.run(conversation.respond, datagram.data)
        if conversation.error is None:
            reply += context.run(conversation.finish, packet=True)
        error = conversation.error
        if isinstance(error, FramingError):
            datagram.fault = error
        if reply:
            datagram.reply_now(reply)
    except BlockingIOError:
        return error, reply
    except BaseException as raised:
        return raised, None
    return error, None
