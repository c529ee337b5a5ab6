"""Jobs fed by hand: how a dispatcher that replicates workers takes single jobs."""

from __future__ import annotations

from collections.abc import Iterator
from queue import SimpleQueue

from tricorn.contracts import Job

__all__ = ["JobQueue"]


class JobQueue:
    """Put in by `put`, taken by iterating from any number of threads, until `stop`.

    Holds ``limit`` jobs that nobody has taken yet (``None``: all); `put` blocks beyond: that is the back-pressure.

    `queue.SimpleQueue` wakes one thread for each job, without the interpreter: a condition around a deque woke all of
    them, and a pool of 16 that parked its connections served a quarter of what it serves now.
    """

    def __init__(self, limit: int | None) -> None:
        #: ``None`` is the end.
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        #: A token for each place that is free.
        self._room: SimpleQueue[None] | None = None
        if limit is not None:
            self._room = SimpleQueue()
            for _ in range(limit):
                self._room.put(None)
        self._stopped = False

    def put(self, job: Job) -> None:
        """Hand one job over; blocks while the queue is full."""
        if self._room is not None:
            self._room.get()
            if self._stopped:  # for whoever else waits for room
                self._room.put(None)
        self._jobs.put(job)

    def __iter__(self) -> Iterator[Job]:
        while True:
            job = self._jobs.get()
            if job is None:
                self._jobs.put(None)  # the others are to see it, too
                if self._jobs.qsize() > 1:
                    continue  # something was put in behind it
                return
            if self._room is not None:
                self._room.put(None)
            yield job

    def run_each(self) -> None:
        """Run every job on this thread, one after the other, until the end."""
        for job in self:
            job.run()

    def stop(self) -> None:
        """End every iteration once the queue is empty.  Never blocks for long; twice is once."""
        if self._stopped:
            return
        self._stopped = True
        self._jobs.put(None)
        if self._room is not None:
            self._room.put(None)
