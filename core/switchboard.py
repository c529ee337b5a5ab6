"""Jobs on their way through one or several decisions, to the lane of one of several dispatchers.

One loop of one thread: it takes jobs in, holds those whose first bytes have not come, asks where they go, and hands
them on when there is room.  Nothing here blocks but waiting for all of that at once, and dispatchers that run jobs in
place.
"""

from __future__ import annotations

import selectors
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from attrs import define

from tricorn.contracts import Dispatcher, Intake, Job, Kind, Request
from tricorn.deadline import Deadline
from tricorn.errors import NoRoute
from tricorn.lanes import Lane
from tricorn.peeking import FirstBytes, available, ends
from tricorn.wakeup import WakeUp

__all__ = ["Junction", "Switchboard"]

#: Jobs that are taken in between two looks at everything else.
_BATCH = 8
_STOPPED = "the server stopped before it was dispatched"
#: Where jobs run in place, a thread conducts the end: see `tricorn.engine.Engine`.
_CANNOT_FORK = "the server is stopping, and beside a dispatcher that runs jobs in place it cannot fork any more"
_NEVER = Deadline(None)


class _Undecided(Exception):
    """The bytes that came were not enough; that is the peer's doing, so it is no error of ours."""


class Junction(Protocol):
    """Where it is decided which way a job goes."""

    peek: int
    first_bytes_timeout: float

    def decide(self, job: Job) -> object:
        """Another junction or one of the board's dispatchers; ``None``: more bytes are needed.  May raise anything."""
        ...


@define(eq=False)
class _Call:
    """One job, and how far it has come."""

    job: Job
    at: Junction
    #: How many bytes there were when `at` was last asked.
    seen: int = 0
    #: The peer sends no more.
    ended: bool = False
    #: Until when `at` waits for bytes.
    deadline: Deadline = _NEVER

    def arrive(self, junction: Junction) -> None:
        """At the next decision, where the time begins anew."""
        self.at = junction
        self.seen = 0
        self.deadline = Deadline.after(junction.first_bytes_timeout) if self._waits() else _NEVER

    def _waits(self) -> bool:
        return self.at.peek > 0 and self.job.request.kind is Kind.STREAM

    def look(self, *, last: bool) -> tuple[bool, bool]:
        """Whether there is something new to ask about, and whether it is the last time."""
        if last or self.ended or not self._waits():
            return True, True
        have = available(self.job.request)
        new, self.seen = have > self.seen, have
        return new, have >= self.at.peek


class Switchboard:
    """The live part of a `tricorn.strategies.Route`.

    `serve` and `dispatch` belong to one thread.  `join`, `cancel` and `close` come from that thread afterwards, or,
    where a dispatcher runs jobs in place, from another one while that thread may still be in a handler.
    """

    def __init__(self, root: Junction, dispatchers: Sequence[Dispatcher]) -> None:
        self._root = root
        self._wakeup = WakeUp()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wakeup.fileno(), selectors.EVENT_READ, self._flush)
        self._first: FirstBytes[_Call] | None = None
        self.hands = threading.Lock()
        self._lanes = {id(each): Lane(each, self) for each in dispatchers}
        self._in_place = any(each.in_place for each in dispatchers)
        #: Set while no thread is in `serve` or `dispatch`.
        self._left = threading.Event()
        self._left.set()
        #: The server is stopping: nobody waits for bytes any more.
        self._winding_up = False
        #: ... and nobody waits any more.
        self._wound_up = False
        self._cancelled = False
        self._closed = False
        self._watched = False

    # -- the thread that serves

    def serve(self, intake: Intake) -> None:
        """Until the intake ends; and, beside a dispatcher that runs jobs in place, until nothing waits for room."""
        with self._attending():
            self._selector.register(intake.fileno(), selectors.EVENT_READ, None)
            more = True
            while not intake.stopped and not self._cancelled:
                ready = self._turn(0 if more else None)
                more = (more or ready) and self._take_in(intake)
            while not self._cancelled and self._take_in(intake):
                pass  # what another process had handed over before the end
            self._selector.unregister(intake.fileno())
            self._wind_up()
            if self._in_place and self._unfinished():
                intake.crew.hang_up()
            while self._in_place and self._unfinished():
                self._turn(None)

    def dispatch(self, job: Job) -> None:
        """One job; returns when it was handed on."""
        with self._attending():
            if not self._watched:
                self._watched = True
                job.crew.watch(self._selector_fileno(), self._see_to_it)
            self._begin(job)
            while self._unfinished():
                self._turn(None)

    @contextmanager
    def _attending(self) -> Iterator[None]:
        self._left.clear()
        try:
            yield
        finally:
            if self._cancelled:  # while we were in a handler
                self._refuse_all()
            self._left.set()
            if self._closed:
                self._give_back()

    def _take_in(self, intake: Intake) -> bool:
        """Some jobs; False when there is none now."""
        for _ in range(_BATCH):
            job = intake.poll()
            if job is None:
                return False
            self._begin(job)
        return True

    def _turn(self, timeout: float | None) -> bool:
        """Wait until something happens, and see to it; True if the intake has something."""
        due = self._first.until_due() if self._first is not None else None
        if due is not None:
            timeout = due if timeout is None else min(due, timeout)
        ready = False
        for key, _ in self._selector.select(timeout):
            if key.data is None:
                ready = True
            elif not self._cancelled:
                key.data()
        if due is not None and not self._cancelled:
            self._expire()
        return ready

    def _see_to_it(self) -> None:
        self._turn(0)

    def _selector_fileno(self) -> int:
        number: int = getattr(self._selector, "fileno", lambda: -1)()
        return number

    def _flush(self) -> None:
        """A job has ended, and another waits for its room."""
        self._wakeup.clear()
        for lane in self._lanes.values():
            lane.flush()

    # -- what lanes need of their home

    def made_room(self) -> None:
        """See `tricorn.lanes.Home`."""
        self._wakeup.signal()

    def watch(self, fd: int, ready: Callable[[], None]) -> None:
        """See `tricorn.lanes.Home`."""

        def call() -> None:
            with self.hands:
                ready()

        self._selector.register(fd, selectors.EVENT_READ, call)

    def in_child(self, kept: Request | None) -> None:
        """See `tricorn.lanes.Home`.  A copy left open would keep from its peer that we have hung up."""
        requests = [call.job.request for call in self._first.all()] if self._first is not None else []
        for lane in self._lanes.values():
            requests += [job.request for job in lane.waiting]
            if lane.in_hand is not None:
                requests.append(lane.in_hand.request)
        for request in requests:
            if request is not kept:
                request.disown()
        self._give_back()

    # -- decisions

    def _begin(self, job: Job) -> None:
        call = _Call(job, self._root)
        call.arrive(self._root)
        self._advance(call)

    def _advance(self, call: _Call, *, last: bool = False) -> None:
        """As far as what has arrived leads: to a lane, to a refusal, or back to waiting.  Nobody else has ``call``."""
        try:
            lane = self._decide(call, last=last)
        except _Undecided as verdict:
            call.job.refuse(str(verdict))
        except NoRoute as error:
            call.job.refuse("choose named no dispatcher", error)
        except BaseException as error:
            call.job.refuse("choose raised", error)
            if isinstance(error, KeyboardInterrupt):
                raise
        else:
            if lane is None:
                self._hold(call)
            elif self._cancelled:
                call.job.refuse(_STOPPED)
            else:
                lane.put(call.job)

    def _decide(self, call: _Call, *, last: bool) -> Lane | None:
        """The lane; ``None`` if it takes more bytes to say.  Raises `_Undecided` where no more are to come."""
        while True:
            new, final = call.look(last=last or self._winding_up)
            if not new:
                return None
            found = call.at.decide(call.job)
            if found is None:
                if not final:
                    return None
                raise _Undecided(self._why_not(call, expired=last))
            if id(found) in self._lanes:
                return self._lanes[id(found)]
            junction: Junction = found  # type: ignore[assignment]
            call.arrive(junction)
            last = False

    def _why_not(self, call: _Call, *, expired: bool) -> str:
        have = available(call.job.request)
        late = f" that came within {call.at.first_bytes_timeout:g} s" if expired else ""
        return f"choose could not tell from the first {have} bytes{late}"

    # -- waiting for first bytes

    def _hold(self, call: _Call) -> None:
        if self._first is None:
            self._first = FirstBytes()
            self._selector.register(self._first.fileno(), selectors.EVENT_READ, self._look_again)
        request: object = call.job.request
        fd = request.socket.fileno()  # type: ignore[attr-defined]
        try:
            self._first.add(fd, call, call.deadline)
        except (OSError, ValueError) as error:
            call.job.refuse("its first bytes could not be waited for", error)

    def _look_again(self) -> None:
        assert self._first is not None
        for fd, mask in self._first.ready():
            call = self._first.get(fd)
            if call is None:
                continue
            call.ended = call.ended or ends(mask)
            if (call.ended or available(call.job.request) > call.seen) and self._first.take(fd) is not None:
                self._advance(call)

    def _expire(self) -> None:
        assert self._first is not None
        for fd in self._first.overdue():
            call = self._first.take(fd)
            if call is not None:
                self._advance(call, last=True)

    def _wind_up(self) -> None:
        """The server is stopping: who has said nothing is idle, and who has said something is served."""
        self._winding_up = True
        while self._first is not None and (call := self._first.take_any()) is not None:
            if call.ended or available(call.job.request):
                self._advance(call)
            else:
                call.job.engage()
                call.job.end()
        for lane in self._lanes.values():
            if self._in_place and lane.dispatcher.forks:
                lane.refuse_waiting(_CANNOT_FORK)
        self._wound_up = True

    # -- ending

    def _unfinished(self) -> bool:
        """Something waits here."""
        if self._cancelled:
            return False
        return bool(self._first) or any(lane.waiting for lane in self._lanes.values())

    def join(self, deadline: Deadline) -> bool:
        """See `Dispatcher.join`."""
        attended = not self._left.wait(0)
        if attended:  # the serving thread is at work on what waits, or in a handler
            attended = not self._left.wait(deadline.remaining())
        while not attended and self._unfinished() and not deadline.expired:
            self._turn(deadline.remaining())
        ready = [lane for lane in self._lanes.values() if self._is_done_with(lane, attended=attended)]
        joined = [lane.join(deadline) for lane in ready]
        return not attended and all(joined) and len(joined) == len(self._lanes)

    def _is_done_with(self, lane: Lane, *, attended: bool) -> bool:
        """Whether nothing will be dispatched there any more; beside a conducting thread nobody can fork."""
        if self._cancelled or not attended:
            return self._cancelled or not lane.waiting
        return not lane.waiting and (self._wound_up or lane.dispatcher.forks)

    def cancel(self) -> None:
        """See `Dispatcher.cancel`."""
        self._cancelled = True
        self._refuse_all()
        self._wakeup.signal()
        for lane in self._lanes.values():
            lane.cancel()

    def _refuse_all(self) -> None:
        while self._first is not None and (call := self._first.take_any()) is not None:
            call.job.refuse(_STOPPED)
        for lane in self._lanes.values():
            lane.refuse_waiting(_STOPPED)

    def close(self) -> None:
        """See `Dispatcher.close`.  A thread that is still in a handler gives the descriptors back when it returns."""
        self._cancelled = self._closed = True
        for lane in self._lanes.values():
            lane.close()
        if self._left.is_set():
            self._give_back()
        else:
            self._wakeup.signal()

    def _give_back(self) -> None:
        self._selector.close()
        if self._first is not None:
            self._first.close()
        self._wakeup.close()
