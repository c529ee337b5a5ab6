"""The requests of a remote loop: what waits of each, what is on its way, and the replies to datagrams and items."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attrs import define, field

from tricorn.contracts import Job, Kind
from tricorn.datagram import REPLY_WAIT_S
from tricorn.deadline import Deadline
from tricorn.errors import FramingError
from tricorn.peer_table import Peer
from tricorn.remote_messages import Answer, Origin

if TYPE_CHECKING:
    from contextvars import Context

__all__ = ["END", "Party", "Ticket", "Wholes"]

#: Stands behind the last message of a request.
END = object()


@define(eq=False)
class Ticket:
    """One message on its way."""

    party: Party
    answer: Answer | None = None


@define(eq=False)
class Party:
    """One request: what waits of it, and what is on its way, in order.  ``peer`` if it is a connection."""

    job: Job
    context: Context
    conversation: Any
    #: What is sent of the handler.
    handler: Any
    origin: Origin
    inbox: deque[Any]
    peer: Peer | None = None
    tickets: deque[Ticket] = field(factory=deque)
    replies: list[bytes] = field(factory=list)
    #: In the line for room.
    queued: bool = False
    #: Its last message is known.
    ended: bool = False
    over: bool = False


class Wholes:
    """Datagrams and items: complete when they come, and replied to once.  Belongs to the loop's thread."""

    def __init__(self, gone: Callable[[], object]) -> None:
        self._parties: dict[int, Party] = {}
        #: Replies to datagrams for which there was no room, and until when to try.
        self._late: deque[tuple[Deadline, Party, bytes, BaseException | None]] = deque()
        self._gone = gone

    def __bool__(self) -> bool:
        return bool(self._parties)

    @property
    def late(self) -> bool:
        """`retry` has something to do."""
        return bool(self._late)

    def add(self, party: Party) -> None:
        """Until `finish`."""
        self._parties[party.job.id] = party

    def finish(self, party: Party, error: BaseException | None) -> None:
        """Reply with all that was gathered, and end it."""
        party.over = True
        request: Any = party.job.request
        if isinstance(error, FramingError):
            request.fault = error
        self._answer(party, b"".join(party.replies), error, Deadline.after(REPLY_WAIT_S))

    def retry(self) -> None:
        """Try late replies again."""
        for _ in range(len(self._late)):
            deadline, party, reply, error = self._late.popleft()
            self._answer(party, reply, error, deadline)

    def end_all(self, error: BaseException) -> None:
        """End every one now, unanswered."""
        self._late.clear()
        for party in tuple(self._parties.values()):
            party.over = True
            self._end(party, error)

    def _answer(self, party: Party, reply: bytes, error: BaseException | None, deadline: Deadline) -> None:
        request: Any = party.job.request
        try:
            if reply:
                _reply(request, reply)
        except BlockingIOError:
            if not deadline.expired:
                self._late.append((deadline, party, reply, error))
                return
            request.fault = TimeoutError(f"no room for the reply to {request.peer!r} within {REPLY_WAIT_S} s")
            error = error or request.fault
        except Exception as trouble:
            error = error or trouble
        self._end(party, error)

    def _end(self, party: Party, error: BaseException | None) -> None:
        if self._parties.pop(party.job.id, None) is not None:
            self._gone()
            party.job.end(error)


def _reply(request: Any, reply: bytes) -> None:
    """To a datagram or an item, at once.  Raises `BlockingIOError` where there is no room for a datagram."""
    if request.kind is Kind.ITEM:
        answer = getattr(request, "reply", None)
        if answer is None:
            raise TypeError(f"the handler returned {reply!r:.100}, but an item has nobody to reply to; return None")
        answer(reply)
    elif request.peer is not None:
        try:
            request._send(reply)
        except BlockingIOError:
            raise
        except OSError as error:
            request.fault = error
            raise
