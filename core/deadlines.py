"""How long a peer, and a handler, may take: the values that a server is given, and when each is over.

One rule for all dispatchers.  Whoever holds a conversation keeps notes of it (`tricorn.peer_socket.Tracked`,
`tricorn.async_link.StreamLink`), `due` says by when it must have moved on, and whoever can cut it looks at that: a
thread for handlers that block (`tricorn.timekeeper`), a timer's signal in a forked child, the loops themselves.
"""

from __future__ import annotations

from typing import Protocol

from attrs import field, frozen

from tricorn.checks import optional, seconds, whole_number

__all__ = ["DEADLINE_NAMES", "NO_DEADLINES", "Deadlines", "Notes", "due", "too_long"]


@frozen(kw_only=True)
class Deadlines:
    """Seconds that each part of a conversation may take; ``None`` for no limit.  All but ``request`` are finite unless
    you say otherwise, since a silent peer could hold a worker for ever.

    ::

        Server(transport, dispatcher, handler, deadlines=Deadlines(idle=300, request=20))

    ``open``: for the whole opening (TLS, a PROXY header), which also has limits of its own.  10.
    ``first_byte``: from accept to the peer's first byte, where it speaks first.  30.
    ``idle``: between two requests: nothing is under way, and the handler waits for the peer.  75.
    ``read``: from a request's first byte to its last, however many pieces it comes in.  30, and a second more for each
    ``min_rate`` bytes of it that have come (1,024), so that large requests may be slow, and trickling ones may not.
    A blocking handler's request has come when the handler answers; one that never answers (a collector of lines) has
    one single request, and needs ``read=None``.
    ``write``: for each 64 KiB of output, or less, that the handler sends, to be taken by the kernel, and so by the
    peer; in a loop, seconds in which it takes none of it.  30.
    ``request``: from a request's first byte, or from what the handler last sent, until it sends again or waits for the
    peer.  ``None``: how long work takes, only you know.  A handler that takes longer is told of with its stack
    (`~tricorn.events.JobOverdue`), and its connection is cut.  No thread can be ended; a worker process is replaced.

    What is too late ends as TIMED_OUT: the handler's blocked call raises `TimeoutError`.  A handler may set
    ``connection.deadline`` for the whole conversation.  Times are kept to a tenth of a second, or to a second
    where thousands of conversations are open.
    """

    open: float | None = field(default=10.0, validator=optional(seconds))
    first_byte: float | None = field(default=30.0, validator=optional(seconds))
    idle: float | None = field(default=75.0, validator=optional(seconds))
    read: float | None = field(default=30.0, validator=optional(seconds))
    write: float | None = field(default=30.0, validator=optional(seconds))
    request: float | None = field(default=None, validator=optional(seconds))
    min_rate: int = field(default=1024, validator=whole_number(1))

    @property
    def shortest(self) -> float | None:
        """The shortest of all that are watched from outside; ``None`` if there is none."""
        watched = (self.first_byte, self.idle, self.read, self.write, self.request)
        return min((each for each in watched if each is not None), default=None)

    def __str__(self) -> str:
        given = {name: getattr(self, name) for name in DEADLINE_NAMES}
        return ", ".join(f"{name} {'none' if value is None else f'{value:g} s'}" for name, value in given.items())


DEADLINE_NAMES = ("open", "first_byte", "idle", "read", "write", "request")
#: For old code, which sets its own.
NO_DEADLINES = Deadlines(open=None, first_byte=None, idle=None, read=None, write=None, request=None)


class Notes(Protocol):
    """What is known of a conversation; times by `time.monotonic`, long ago for never."""

    @property
    def waiting(self) -> bool:
        """The handler waits for the peer."""
        ...

    #: A request is under way; the handler waits for its output to be taken.
    engaged: bool
    sending: bool
    #: Bytes that have come, in all, and before the present request, and when that began.
    received: int
    received_before: int
    engaged_at: float
    #: When something was last sent, or handed over for that.
    sent_at: float
    idle_from: float


def due(notes: Notes, begun: float, limits: Deadlines) -> tuple[float, str] | None:
    """When the conversation that was accepted at ``begun`` is late, and by which of the deadlines; ``None`` for never.
    It never becomes earlier while the conversation moves on."""
    if notes.waiting:
        if notes.engaged:
            return _reading(notes, limits)
        if not notes.received and notes.sent_at < 0:
            return _after(begun, limits.first_byte, "first_byte")
        return _after(max(begun, notes.sent_at, notes.engaged_at, notes.idle_from), limits.idle, "idle")
    if notes.sending:
        return _after(notes.sent_at, limits.write, "write")
    since = max(begun, notes.sent_at, notes.engaged_at if notes.engaged else begun)
    return _after(since, limits.request, "request")


def _reading(notes: Notes, limits: Deadlines) -> tuple[float, str] | None:
    whole = _after(notes.engaged_at, limits.request, "request")
    if limits.read is None:
        return whole
    came = notes.received - notes.received_before
    read = (notes.engaged_at + limits.read + came / limits.min_rate, "read")
    return read if whole is None or read <= whole else whole


def _after(since: float, limit: float | None, which: str) -> tuple[float, str] | None:
    return None if limit is None else (since + limit, which)


_WHAT = {
    "first_byte": "the peer sent nothing",
    "idle": "the peer sent no further request",
    "read": "the peer did not finish its request",
    "write": "the peer did not take the output",
    "request": "the handler was not done",
    "deadline": "the conversation was not over",
}


def too_long(which: str, limits: Deadlines) -> TimeoutError:
    """What the handler's call raises, in words that name the setting."""
    limit = getattr(limits, which, None)
    if limit is None:
        return TimeoutError(f"{_WHAT[which]} by its deadline (connection.deadline)")
    return TimeoutError(f"{_WHAT[which]} within {limit:g} s (Deadlines.{which})")
