"""Who watches the deadlines of conversations whose handlers block: one thread for a serving process.

It never asks the kernel and costs a request nothing but the notes that its socket keeps anyway.  It sleeps until the
first of the deadlines that it has seen, or for as long as the shortest of those that it could not have seen.
"""

from __future__ import annotations

from time import monotonic

from tricorn.ledger import Ledger
from tricorn.onlooker import Onlooker

__all__ = ["Timekeeper"]

#: Seconds between two looks at least, and the number of jobs for each of which that is a second more, up to one.
LOOK_S, JOBS_A_SECOND = 0.1, 10_000


class Timekeeper:
    """Looks after the jobs of ``ledger``.  `start` and `stop` are for the engine."""

    def __init__(self, ledger: Ledger, shortest: float | None) -> None:
        self._ledger = ledger
        self._shortest = shortest or 0.0
        self._onlooker = Onlooker("tricorn-deadlines", self._run)

    def start(self) -> None:
        """Begin; twice is once."""
        if self._shortest:
            self._onlooker.start()

    def stop(self) -> None:
        """End the thread; twice is once."""
        self._onlooker.stop()

    def _run(self) -> None:
        while not self._onlooker.over.wait(max(0.0, self.look(monotonic()) - monotonic())):
            pass

    def look(self, now: float) -> float:
        """Cut what is late; returns when to look again."""
        jobs = list(self._ledger.jobs.values())
        soonest = now + self._shortest
        for job in jobs:
            found = job.due()
            if found is None:
                continue
            if found[0] <= now:
                job.late(found[1])
            else:
                soonest = min(soonest, found[0])
        return max(soonest, now + min(1.0, LOOK_S + len(jobs) / JOBS_A_SECOND))
