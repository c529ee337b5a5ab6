"""Who watches the deadlines of conversations whose handlers block: one thread for a serving process.

It never asks the kernel and costs a request nothing but the notes that its socket keeps anyway.  It sleeps until the
first of the deadlines that it has seen, or for as long as the shortest of those that it could not have seen.
"""

from __future__ import annotations

import threading
from time import monotonic

from tricorn.ledger import Ledger

__all__ = ["Timekeeper"]

#: Seconds between two looks at least, and the number of jobs for each of which that is a second more, up to one.
LOOK_S, JOBS_A_SECOND = 0.1, 10_000


class Timekeeper:
    """Looks after the jobs of ``ledger``.  `start` and `stop` are for the engine."""

    def __init__(self, ledger: Ledger, shortest: float | None) -> None:
        self._ledger = ledger
        self._shortest = shortest or 0.0
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
            found = job.due()
            if found is None:
                continue
            if found[0] <= now:
                job.late(found[1])
            else:
                soonest = min(soonest, found[0])
        return max(soonest, now + min(1.0, LOOK_S + len(jobs) / JOBS_A_SECOND))
