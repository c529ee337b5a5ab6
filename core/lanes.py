"""Dispatchers inside a dispatcher: each is a lane that is given single jobs, and never more than it has room for.

What is beyond a lane's room waits in the lane, so that a full one holds up nobody who goes elsewhere.  A lane learns of
its jobs' ends because it hands them on in a wrapper; a finished job makes room, on whatever thread that happens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol, cast

from tricorn.contracts import Crew, Dispatcher, Job
from tricorn.deadline import Deadline

if TYPE_CHECKING:
    from socket import socket
    from types import TracebackType

    from tricorn.contracts import Request
    from tricorn.pulse import Pulse

__all__ = ["CANCEL_WAIT_S", "Home", "Lane", "LaneJob"]

#: Seconds that `Lane.cancel` and `Lane.close` wait for a call into the dispatcher to return before they go ahead.
CANCEL_WAIT_S = 0.1

_STOPPING = "the server is stopping"


class Home(Protocol):
    """Who has the lanes."""

    #: Held around every call into a dispatcher that runs no jobs in place: those expect to be called by one thread.
    hands: Lock

    def made_room(self) -> None:
        """A lane in which a job waits has room: `Lane.flush`, please.  On any thread."""
        ...

    def watch(self, fd: int, ready: Callable[[], None]) -> None:
        """`Crew.watch`, for the dispatchers."""
        ...

    def in_child(self, kept: Request | None) -> None:
        """In a process just forked by a dispatcher: close every descriptor here but those of ``kept``."""
        ...


class Lane:
    """One inner dispatcher.

    `put`, `flush` and `watched` belong to the thread that serves; `join`, `cancel` and `close` may come from another
    one meanwhile.
    """

    def __init__(self, dispatcher: Dispatcher, home: Home) -> None:
        self.dispatcher = dispatcher
        self.home = home
        #: Jobs for which there is no room yet.
        self.waiting: deque[Job] = deque()
        #: The one that is being dispatched.
        self.in_hand: LaneJob | None = None
        #: Nothing is dispatched any more.
        self.ended = False
        limit = dispatcher.concurrency
        self._room: deque[None] | None = None if limit is None else deque([None] * limit)

    # -- dispatching

    def put(self, job: Job) -> None:
        """Dispatch ``job``, now or when there is room.  Blocks as long as an in-place dispatcher runs it."""
        self.waiting.append(job)
        self.flush()

    def flush(self) -> None:
        """Dispatch what waits, as far as there is room."""
        while self.waiting and self._take():
            try:
                job = self.waiting.popleft()
            except IndexError:  # `refuse_waiting` on another thread was quicker
                self.give()
                return
            self._dispatch(LaneJob(job, self))

    def _dispatch(self, job: LaneJob) -> None:
        self.in_hand = job
        try:
            with self._hands():
                if self.ended:
                    job.refuse(_STOPPING)
                else:
                    self.dispatcher.dispatch(cast("Job", job))
        except Exception as error:
            job.refuse("it could not be dispatched", error)
        finally:
            self.in_hand = None

    def _hands(self) -> AbstractContextManager[object]:
        return nullcontext() if self.dispatcher.in_place else self.home.hands

    def _take(self) -> bool:
        if self._room is None:
            return True
        try:
            self._room.pop()
        except IndexError:
            return False
        return True

    def give(self) -> None:
        """A job ended; any thread.  Whoever put one into `waiting` looks for room afterwards, so neither is missed."""
        if self._room is not None:
            self._room.append(None)
        if self.waiting:
            self.home.made_room()

    # -- ending

    def refuse_waiting(self, reason: str) -> None:
        """Give those that wait their outcome; safe beside `flush`."""
        while True:
            try:
                job = self.waiting.popleft()
            except IndexError:
                return
            job.refuse(reason)

    def join(self, deadline: Deadline) -> bool:
        """`Dispatcher.join`; nothing is dispatched after it was called once."""
        with self._hands():
            self.ended = True
            return self.dispatcher.join(deadline)

    def cancel(self) -> None:
        """`Dispatcher.cancel`."""
        self._call_now(self.dispatcher.cancel)

    def close(self) -> None:
        """`Dispatcher.close`."""
        self._call_now(self.dispatcher.close)

    def _call_now(self, call: Callable[[], None]) -> None:
        """Even if another thread hangs in the dispatcher: it is time to end it."""
        held = not self.dispatcher.in_place and self.home.hands.acquire(timeout=CANCEL_WAIT_S)
        try:
            self.ended = True
            call()
        finally:
            if held:
                self.home.hands.release()


class LaneJob:
    """A `~tricorn.contracts.Job` on its lane: the same job, and the lane hears of its end.

    That is one of `run`, `turn`, `end`, leaving ``with``, `refuse` and `settle`.
    """

    __slots__ = ("_gone", "_job", "_lane", "id", "request")

    def __init__(self, job: Job, lane: Lane) -> None:
        self._job = job
        self._lane = lane
        self._gone = False
        self.id = job.id
        self.request = job.request

    def __getattr__(self, name: str) -> Any:
        """All that does not end it."""
        return getattr(self._job, name)

    def _ended(self) -> None:
        gone, self._gone = self._gone, True
        if not gone:
            self._lane.give()

    @property
    def crew(self) -> Crew:
        """The server's, but what is to be watched is watched by whoever has the lanes."""
        return cast("Crew", _LaneCrew(self._job.crew, self._lane.home))

    def run(self) -> None:
        """`Job.run`."""
        try:
            self._job.run()
        finally:
            self._ended()

    def __enter__(self) -> Job:
        try:
            self._job.__enter__()
        except BaseException:
            self._ended()
            raise
        return cast("Job", self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        try:
            return self._job.__exit__(kind, error, traceback)
        finally:
            self._ended()

    def turn(self) -> bool:
        """`Job.turn`."""
        goes_on = False
        try:
            goes_on = self._job.turn()
        finally:
            if not goes_on:
                self._ended()
        return goes_on

    def end(self, error: BaseException | None = None) -> None:
        """`Job.end`."""
        try:
            self._job.end(error)
        finally:
            self._ended()

    def refuse(self, reason: str, error: BaseException | None = None) -> None:
        """`Job.refuse`."""
        try:
            self._job.refuse(reason, error)
        finally:
            self._ended()

    def run_remotely(self) -> bytes:
        """`Job.run_remotely`; the child has no business with what waits here."""
        self._lane.home.in_child(self.request)
        return self._job.run_remotely()

    def settle(self, report: bytes | None, ended: str = "") -> None:
        """`Job.settle`."""
        try:
            self._job.settle(report, ended)
        finally:
            self._ended()


class _LaneCrew:
    """A `~tricorn.contracts.Crew` for a dispatcher on a lane."""

    def __init__(self, crew: Crew, home: Home) -> None:
        self._crew = crew
        self._home = home
        self.watch = home.watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._crew, name)

    def attend_channel(self, dispatcher: Dispatcher, channel: socket, pulse: Pulse) -> int:
        """`Crew.attend_channel`; the worker gets its requests through the channel, and has none by inheritance."""
        self._home.in_child(None)
        return self._crew.attend_channel(dispatcher, channel, pulse)
