"""Jobs fed by hand: how a dispatcher that replicates workers takes single jobs."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator

from tricorn.contracts import Job

__all__ = ["JobQueue"]


class JobQueue:
    """Put in by `put`, taken by iterating from any number of threads, until `stop`.

    Holds ``limit`` jobs that nobody has taken yet; `put` blocks beyond: that is the back-pressure.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._stopped = False

    def put(self, job: Job) -> None:
        """Hand one job over; blocks while the queue is full."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._jobs) < self._limit or self._stopped)
            self._jobs.append(job)
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Job]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._stopped)
                if not self._jobs:
                    return
                job = self._jobs.popleft()
                self._changed.notify_all()
            yield job

    def run_each(self) -> None:
        """Run every job on this thread, one after the other, until the end."""
        for job in self:
            job.run()

    def stop(self) -> None:
        """End every iteration once the queue is empty.  Never blocks for long; twice is once."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
