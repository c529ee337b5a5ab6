"""One of the many conversations of an event loop, and the limits of them all; see `tricorn.peer_table`."""

from __future__ import annotations

import _socket
from typing import Any

from attrs import frozen

from tricorn.contracts import Job
from tricorn.deadlines import Deadlines
from tricorn.peer_socket import PeerSocket

__all__ = ["Limits", "Peer"]

# Without the notes that `PeerSocket` keeps for handlers that block.
_recv, _send = _socket.socket.recv, _socket.socket.send
_DONT_WAIT: int = getattr(_socket, "MSG_DONTWAIT", 0)


@frozen
class Limits:
    """What a loop keeps to.

    Of the server's `~tricorn.deadlines.Deadlines` a loop knows when a message begins and ends: ``read`` is from its
    first byte to its last, ``write`` without the peer taking any output.  Above ``high_water`` bytes of output that the
    peer has not taken, nothing more is read from it, until a quarter is left.
    """

    deadlines: Deadlines
    high_water: int


class Peer:
    """One conversation.  ``conversation``, ``context``, ``inbox`` and ``busy`` are the loop's own."""

    __slots__ = (
        "added", "begun", "buffered", "busy", "closing", "connection", "context", "conversation", "dropped", "error",
        "events", "fd", "flags", "heard", "held", "inbox", "job", "linger", "opening", "out", "quick", "recv", "send",
        "since", "slot",
    )  # fmt: skip

    def __init__(self, job: Job, now: float) -> None:
        self.job = job
        #: When it was taken over, by `time.monotonic`.
        self.added = now
        connection: Any = job.request
        self.connection = connection
        sock = connection.socket
        self.fd: int = sock.fileno()
        #: For each call, in place of a system call that makes the socket itself non-blocking: for plain ones.
        self.flags = _DONT_WAIT if type(sock) is PeerSocket and not connection.needs_opening else 0
        if self.flags:
            self.recv, self.send, self.buffered = _recv.__get__(sock), _send.__get__(sock), None
        else:
            sock.setblocking(False)
            self.take_calls(sock)
        #: Output that the kernel has not taken; ``None`` most of the time, as each of ten thousand costs memory.
        self.out: bytearray | None = None
        #: What it is registered for.
        self.events = 0
        #: True while the loop wants no input of it, beside the output's own reasons.
        self.held = False
        #: True while it is known that a message has begun and is not complete.
        self.begun = False
        #: A message, or a part of one, has come.
        self.heard = False
        #: When the present state began: silence, a message's first byte, output that is not taken.
        self.since = now
        #: When it is looked at next: `tricorn.agenda`.
        self.slot = 0
        self.opening = True
        #: True while input can only mean that `PeerTable.read` is to be called.
        self.quick = False
        #: True from `PeerTable.finish` on: nothing but output any more, and then the end, by ``error``.
        self.closing = False
        self.linger = False
        self.dropped = 0
        self.error: BaseException | None = None
        self.conversation: Any = None
        self.context: Any = None
        #: Messages that wait for their turn, and whether one is being worked on elsewhere.
        self.inbox: Any = ()
        self.busy = False

    def take_calls(self, sock: Any) -> None:
        """Its recv and send; again when it is open, as they may be others then."""
        if type(sock) is PeerSocket:
            self.recv, self.send = _recv.__get__(sock), _send.__get__(sock)
            #: Tells of input that no descriptor tells of, where there can be such.
            self.buffered = None
        else:
            self.recv, self.send = sock.recv, sock.send
            self.buffered = self.connection.buffered

    @property
    def idle(self) -> bool:
        """Nothing is under way in either direction."""
        return not (self.busy or self.out or self.inbox or self.opening) and self.conversation.idle

    @property
    def idle_since(self) -> float | None:
        """See `tricorn.connection.Connection.idle_since`."""
        return self.since if not self.closing and self.idle else None
