"""One request's whole service: open, handler, close, outcome.

The hot path of every dispatcher that runs jobs in its own process.  `ServedJob.serve` calls the user's code (packets
in a run: `tricorn.in_place`), `ServedJob.end` closes and records.
"""

from __future__ import annotations

from _thread import get_ident
from collections.abc import Callable
from contextvars import Context
from time import monotonic
from typing import TYPE_CHECKING, Any

from attrs import define, evolve, field

from tricorn.admission import SHED
from tricorn.contracts import Crew, Kind, Shape
from tricorn.ctrl_c import may_be_ctrl_c
from tricorn.deadline import Deadline
from tricorn.deadlines import due, too_long
from tricorn.errors import AuthenticationError
from tricorn.events import JobFinished, JobOverdue, JobRefused, JobStarted, Outcome, Stage, Status
from tricorn.handling import shape_of
from tricorn.peer_socket import FRESH_S
from tricorn.service import Service
from tricorn.verdict import judge

if TYPE_CHECKING:
    from socket import socket
    from types import TracebackType

    from tricorn.contracts import Request
    from tricorn.messages import Conversation

__all__ = ["ServedJob"]

# Looking a member up on its Enum costs 40 ns, a global 5.
_OPEN, _HANDLER, _CLOSE = Stage.OPEN, Stage.HANDLER, Stage.CLOSE
_COMPLETED, _ABANDONED = Status.COMPLETED, Status.ABANDONED
_STREAM = Kind.STREAM
_NEVER = Deadline(None)


@define(eq=False)
class ServedJob:
    """The one implementation of `tricorn.contracts.Job`."""

    request: Request
    service: Service
    accepted_at: float = field(factory=monotonic)
    id: int = 0
    stage: Stage = Stage.ACCEPTED
    thread: int = 0
    where: str = ""
    cancelled: bool = False
    #: The deadline that it did not keep.
    overdue: TimeoutError | None = None
    overdue_by: str = ""
    _started: bool = False
    turned_away: str = ""

    def start(self) -> bool:
        """On the accepting thread: enter it in the books and verify the peer; False if it was refused."""
        self.service.ledger.open(self)
        verify = self.service.verify
        if verify is not None:
            try:
                if not verify(self.request):
                    self.refuse("verify returned false")
                    return False
            except BaseException as error:
                self.refuse("verify raised", error)
                if isinstance(error, KeyboardInterrupt) and may_be_ctrl_c():
                    raise
                return False
        self._started = True
        try:
            self.request.id = self.id  # type: ignore[attr-defined]
        except AttributeError:
            pass  # somebody's own, with no room for it
        observers = self.service.ledger.observers
        if observers.of_starts:
            observers.tell(JobStarted(self.id, self.request.peer, self.request.local))
        return True

    def run(self) -> None:
        """Serve it to its end on this thread."""
        self.end(self.serve())

    def begin_here(self) -> None:
        """For a caller that calls the handler itself, on this thread."""
        self.thread = get_ident()
        self.stage = _HANDLER

    def turn(self) -> bool:
        """Serve it to its end, or until the handler parks it: then True."""
        fresh = self.stage is not _HANDLER
        error = self._opened() if fresh else None
        waits = fresh and error is None and self._only_opened()
        if error is None and not waits:
            error = self._call()
            waits = error is None and self._parked()
        if waits:
            self.thread = 0
            return True
        self.end(error)
        return False

    def _opened(self) -> BaseException | None:
        try:
            self._open()
        except BaseException as error:
            return error
        return None

    def _only_opened(self) -> bool:
        """True for a connection that had something to read for its opening, and may have no more for the handler."""
        request: Any = self.request
        if not getattr(request, "parkable", False):
            return False
        talked = request.open_until is not None or self.service.authenticate is not None
        return talked and not request.buffered()

    def end(self, error: BaseException | None = None) -> None:
        """Close, record, and raise what is nobody's but the program's."""
        if error is None and self._ended_as_usual():
            return
        self._end(error)
        if error is not None and isinstance(error, KeyboardInterrupt) and may_be_ctrl_c():
            raise error

    def serve(self) -> BaseException | None:
        """Open, and call the handler, again while it parks; what went wrong comes back as a value."""
        request, service = self.request, self.service
        try:
            self._open()
            service.context.copy().run(service.call, request)
            while getattr(request, "parked", False) and self._parked():
                service.context.copy().run(service.call, request)
        except BaseException as error:
            return error
        return None

    def _call(self) -> BaseException | None:
        """Call the handler once more."""
        self.thread = get_ident()
        try:
            self.service.context.copy().run(self.service.call, self.request)
        except BaseException as error:
            return error
        return None

    def _parked(self) -> bool:
        request: Any = self.request
        if not getattr(request, "parked", False):
            return False
        request.parked = False
        return not request.exhausted()

    def _open(self) -> None:
        service = self.service
        self.thread = get_ident()
        if getattr(self.request, "needs_opening", True):
            self.stage = _OPEN
            limit = service.deadlines.open
            self.request.open(_NEVER if limit is None else Deadline.after(limit))
        if service.authenticate is not None:
            self.stage = _OPEN
            self.authenticate()
        self.stage = _HANDLER

    def authenticate(self) -> None:
        """Let the server's authenticator, if there is one, find out who the peer of the open request is.

        Blocks for ``authenticate_timeout`` at most, if the authenticator converses.  Raises what turns the peer away;
        the outcome is then REFUSED, or that of a peer that was silent or left.
        """
        service = self.service
        if service.authenticate is None or self.request.kind is not _STREAM:  # a message's peer has been looked at
            return
        try:
            from tricorn.authentication import identify

            identify(self.request, service.authenticate, service.authenticate_timeout)
        except Exception as error:
            if error is not self.request.fault:
                known = isinstance(error, AuthenticationError)
                self.turned_away = "not authenticated" if known else "authenticate raised"
            raise

    def _ended_as_usual(self) -> bool:
        """`_end` for nearly all, at one go; False where it is not so simple, and nothing was done yet."""
        service = self.service
        ledger = service.ledger
        if (
            not self._started or self.cancelled or self.turned_away or self.overdue is not None
            or service.gate is not None or ledger.observers.of_completions
        ):  # fmt: skip
            return False
        self.stage = _CLOSE
        try:
            self.request.finish(None)
        except Exception as trouble:
            self.record(judge(self, trouble), trouble, stage=_CLOSE)
            return True
        if self.cancelled or self.overdue is not None:  # meanwhile
            self.record(judge(self, None), stage=_HANDLER)
        elif ledger.jobs.pop(self.id, None) is not None:
            service.permits.give()
            ledger.count(_COMPLETED, number=self.id)
        return True

    def _end(self, error: BaseException | None) -> None:
        """Close, then record.  The peer sees the end before anybody is told of it."""
        reached, self.stage = self.stage, _CLOSE
        error = self.overdue or error
        if error is not None or self.service.ledger.observers.of_completions:
            _ = self.request.local  # remembered from now on: after closing nobody can tell
        try:
            self.request.finish(error)
        except Exception as trouble:
            error = error or trouble
            reached = _CLOSE
        self.record(judge(self, error), error, self.turned_away, reached)

    def record(
        self, status: Status, error: BaseException | None = None, detail: str = "", stage: Stage | None = None
    ) -> bool:
        """Book the outcome, unless it was booked before; True if this call did."""
        service = self.service
        ledger = service.ledger
        if ledger.jobs.pop(self.id, None) is None:  # the one claim to its outcome, see `Ledger`
            return False
        observers = ledger.observers
        if observers.of_completions or (status is not _COMPLETED and observers.of_troubles):
            outcome = Outcome(
                self.id, status, stage or self.stage, self.request.peer, self.request.local,
                monotonic() - self.accepted_at, error, detail,
            )  # fmt: skip
            observers.tell(JobFinished(outcome) if self._started else JobRefused(outcome))
        gate = service.gate
        if self._started and status is not _ABANDONED:  # before the start the permit is the intake's
            if gate is not None:
                gate.vacate()
            service.permits.give()
        if gate is not None:
            gate.left(self.request)
        ledger.count(status, number=self.id)
        return True

    def refuse(self, reason: str, error: BaseException | None = None) -> None:
        """End it unserved."""
        try:
            self.request.finish(error or PermissionError(reason))
        except Exception as trouble:
            error = error or trouble
        self.record(Status.REFUSED, error, reason)

    def __enter__(self) -> ServedJob:
        try:
            self._open()
        except BaseException as error:
            self._end(error)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._end(error)
        return isinstance(error, Exception)

    # -- for event loops

    def engage(self) -> Context:
        """Begin on this thread; whoever called it does the opening."""
        self.thread = get_ident()
        self.stage = _OPEN
        return self.service.context.copy()

    def converse(self) -> Conversation:
        """The handler is a message handler, or the composition would have been refused."""
        self.stage = _HANDLER
        handler: Any = self.service.call
        conversation: Conversation = handler.converse(self.request)
        return conversation

    @property
    def shape(self) -> Shape:
        """What `tricorn.handling.adapt` left as it is, or made a function of."""
        return shape_of(self.service.call)

    async def handle(self, request: object) -> None:
        """The frame by which `tricorn.signals.in_handler` knows a coroutine handler."""
        self.stage = _HANDLER
        await self.service.call(request)

    def part(
        self, request: Request, ended: Callable[[Outcome], None], watch: Callable[[int, Callable[[], None]], None]
    ) -> ServedJob:
        """With books of its own."""
        service = self.service
        if service.parts is None:
            from tricorn.part_books import PartBooks

            books, crew = PartBooks(), service.crew.watching_with(watch)
            of_parts = evolve(
                service, ledger=books.ledger, permits=books.permits, crew=crew, verify=None, authenticate=None,
                gate=None,
            )  # fmt: skip
            service.parts = (books, of_parts)
        books, of_parts = service.parts
        return books.enter(ServedJob(request, of_parts), ended)

    def disown(self, where: str = "") -> None:
        """Another process has the request; ``where`` says which."""
        self.stage = _HANDLER
        self.where = where
        _ = self.request.local
        self.request.disown()

    def run_remotely(self) -> bytes:
        """In the child: serve, close, and say how it went; the parent's books are not touched."""
        from tricorn.remote_job import run_remotely

        return run_remotely(self)

    @property
    def crew(self) -> Crew:
        """The server's side of worker processes."""
        return self.service.crew

    def hand_over(self, channel: socket, where: str = "") -> None:
        """Send the request through ``channel``, and disown it."""
        from tricorn.remote_job import hand_over

        hand_over(self, channel, where)

    def settle(self, report: bytes | None, ended: str = "") -> None:
        """In the parent: record what the child said, or that it said nothing."""
        from tricorn.remote_job import settle

        settle(self, report, ended)

    @property
    def is_shed(self) -> bool:
        """It was told to give way."""
        return self.turned_away is SHED

    def shed(self) -> None:
        """Let an idle conversation end, to make room; what its peer has sent by now is still answered."""
        connection: Any = self.request
        self.turned_away = SHED
        connection.give_way()

    def drain(self) -> None:
        """Tell the request that the server is stopping; one that has just been accepted may still begin."""
        if monotonic() - self.accepted_at >= FRESH_S or not self._is_untouched():
            self.request.drain()

    def _is_untouched(self) -> bool:
        """Nothing was received yet on a connection."""
        return getattr(getattr(self.request, "socket", None), "received", 1) == 0

    def due(self) -> tuple[float, str] | None:
        """When it is late, and by which deadline; ``None`` for never, and where others see to it: in a loop, say."""
        request: Any = self.request
        if self.overdue is not None or self.where or self.stage is _OPEN or self.stage is _CLOSE:
            return None
        limits = self.service.deadlines
        if request.kind is not _STREAM:
            return None if limits.request is None else (self.accepted_at + limits.request, "request")
        if request.keeper is not None or not hasattr(request.socket, "engaged_at"):
            return None
        found, given = due(request.socket, self.accepted_at, limits), request.deadline
        if given is not None and given.at is not None and (found is None or given.at < found[0]):
            return (given.at, "deadline")
        return found

    def late(self, which: str) -> None:
        """Its time is over: cut the request off.  It ends as TIMED_OUT, whatever the handler makes of that."""
        ledger, limits = self.service.ledger, self.service.deadlines
        self.overdue, self.overdue_by = (error := too_long(which, limits)), which
        if which == "request":
            ledger.observers.tell(JobOverdue(ledger.describe(self), limits.request or 0.0))
        if self.request.kind is _STREAM:
            connection: Any = self.request
            connection.expire(error)
        else:
            self.request.abort()

    def cancel(self) -> None:
        """Cut the request off; the outcome will be CANCELLED if the handler still ends."""
        self.cancelled = True
        self.request.abort()
