"""Who watches the deadlines of conversations whose handlers block: one thread for a serving process.

It never asks the kernel and costs a request nothing but the notes that its socket keeps anyway.  It sleeps until the
first of the deadlines that it has seen, or for as long as the shortest of those that it could not have seen.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType
from typing import Any

from tricorn.contracts import Kind
from tricorn.deadlines import Deadlines, due, too_long
from tricorn.events import JobOverdue, Stage
from tricorn.job import ServedJob
from tricorn.ledger import Ledger, describe

__all__ = ["Timekeeper", "keeping_time"]

#: Seconds between two looks at least, and the number of jobs for each of which that is a second more, up to one.
LOOK_S, JOBS_A_SECOND = 0.1, 10_000
#: Seconds that a forked child has, after its connection was cut, to come out of the handler.
LAST_MOMENT_S = 0.5


class Timekeeper:
    """Looks after the jobs of ``ledger``.  `start` and `stop` are for the engine."""

    def __init__(self, ledger: Ledger, limits: Deadlines) -> None:
        self._ledger = ledger
        self._limits = limits
        self._shortest = limits.shortest or 0.0
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin; twice is once.  Where the machine gives no thread, nobody watches."""
        if self._thread is not None or not self._shortest:
            return
        self._thread = threading.Thread(target=self._run, name="tricorn-deadlines", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._thread = None

    def stop(self) -> None:
        """End the thread; twice is once."""
        self._over.set()
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while not self._over.wait(max(0.0, self.look(monotonic()) - monotonic())):
            pass

    def look(self, now: float) -> float:
        """Cut what is late; returns when to look again."""
        jobs = list(self._ledger.jobs.values())
        soonest = now + self._shortest
        for job in jobs:
            found = due_of(job, self._limits)
            if found is None:
                continue
            if found[0] <= now:
                cut(job, found[1], self._limits, self._ledger)
            else:
                soonest = min(soonest, found[0])
        return max(soonest, now + min(1.0, LOOK_S + len(jobs) / JOBS_A_SECOND))


def due_of(job: ServedJob, limits: Deadlines) -> tuple[float, str] | None:
    """When ``job`` is late; ``None`` for one that is not ours to watch: it is being opened, or in a loop."""
    request: Any = job.request
    if job.overdue is not None or job.where:
        return None
    if request.kind is not Kind.STREAM:
        return None if limits.request is None else (job.accepted_at + limits.request, "request")
    if request.keeper is not None or job.stage is Stage.OPEN or job.stage is Stage.CLOSE:
        return None
    found = due(request.socket, job.accepted_at, limits) if hasattr(request.socket, "engaged_at") else None
    given = request.deadline
    if given is not None and given.at is not None and (found is None or given.at < found[0]):
        return (given.at, "deadline")
    return found


def cut(job: ServedJob, which: str, limits: Deadlines, ledger: Ledger) -> None:
    """Its time is over: cut the connection; who works on it is told of."""
    error = too_long(which, limits)
    if which == "request":
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        ledger.observers.tell(JobOverdue(describe(job, sys._current_frames(), names), limits.request or 0.0))
    job.expire(error)


@contextmanager
def keeping_time(job: ServedJob, limits: Deadlines, give_up: Callable[[], None]) -> Iterator[None]:
    """In a forked child, which has no thread but the one that serves ``job``: watch by ITIMER_REAL, setitimer(2).

    ``give_up`` is called, in the signal handler, for a request that its handler does not end `LAST_MOMENT_S` after it
    was cut.  A handler that uses SIGALRM itself has it, and no deadlines.
    """
    if limits.shortest is None:
        yield
        return
    shortest = limits.shortest

    def on_alarm(number: int, frame: FrameType | None) -> None:
        if job.overdue is not None:
            give_up()
            return
        now, found = monotonic(), due_of(job, limits)
        if found is not None and found[0] <= now:
            cut(job, found[1], limits, job.service.ledger)
            pause = LAST_MOMENT_S if found[1] == "request" else 0.0
        else:
            pause = min(shortest, shortest if found is None else max(LOOK_S, found[0] - now))
        signal.setitimer(signal.ITIMER_REAL, pause)

    signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, shortest)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
