"""A thread for each request in flight."""

from __future__ import annotations

import queue
import threading

from attrs import define, field, validators

from tricorn.contracts import Dispatcher, Job
from tricorn.deadline import Deadline

__all__ = ["Thread"]

#: Seconds after which a thread without work ends.
IDLE_S = 10.0


@define(eq=False)
class Thread(Dispatcher):
    """Each request gets a thread; threads without work take the next one, and end after ten seconds without any.

    ``limit`` is the most threads, and so the most requests in flight; further ones wait in the kernel.  Replaces
    `socketserver.ThreadingMixIn`, which starts a new thread for each request, without a bound.  Handing a
    request to a waiting thread costs 65 us of CPU in all, starting one 108.
    """

    limit: int = field(default=256, validator=validators.instance_of(int), metadata={"help": "most threads at once"})
    _jobs: queue.SimpleQueue[Job | None] = field(factory=queue.SimpleQueue, init=False, repr=False)
    _changed: threading.Condition = field(factory=threading.Condition, init=False, repr=False)
    _threads: int = field(default=0, init=False, repr=False)
    _idle: int = field(default=0, init=False, repr=False)
    _blocked: int = field(default=0, init=False, repr=False)
    _ending: bool = field(default=False, init=False, repr=False)
    #: Grows at each `close`; a thread of an earlier one that comes out of its handler ends.
    _generation: int = field(default=0, init=False, repr=False)
    _leaving: int = field(default=0, init=False, repr=False)

    @limit.validator
    def _positive(self, attribute: object, value: int) -> None:
        if isinstance(value, bool) or value < 1:
            raise ValueError(f"limit must be at least 1, not {value!r}")

    @property
    def concurrency(self) -> int:
        """``limit``."""
        return self.limit

    def dispatch(self, job: Job) -> None:
        """Give ``job`` to an idle thread, or a new one; block while all ``limit`` threads are busy."""
        with self._changed:
            while not self._idle and self._threads >= self.limit:
                self._blocked += 1
                self._changed.wait()
                self._blocked -= 1
            if self._idle:
                self._idle -= 1
            else:
                self._start()
        self._jobs.put(job)

    def _start(self) -> None:
        self._threads += 1
        try:
            threading.Thread(target=self._work, args=(self._generation,), name="tricorn-thread", daemon=True).start()
        except BaseException:
            self._threads -= 1
            raise

    def _work(self, generation: int) -> None:
        while (job := self._next()) is not None:
            job.run()
            del job  # not to keep the connection while idle
            with self._changed:
                if generation != self._generation:
                    return  # closed meanwhile, and we were not counted on any more
                self._idle += 1
                if self._blocked or self._ending:
                    self._changed.notify()
        with self._changed:
            if generation == self._generation:
                self._threads -= 1
            else:
                self._leaving -= 1
            self._changed.notify_all()

    def _next(self) -> Job | None:
        try:
            return self._jobs.get(timeout=IDLE_S)
        except queue.Empty:
            with self._changed:
                if self._idle:
                    self._idle -= 1
                    return None
            return self._jobs.get()  # a dispatch has counted on us and is about to hand over

    def join(self, deadline: Deadline) -> bool:
        """Wait until no thread has a job."""
        with self._changed:
            self._ending = True
            return self._changed.wait_for(lambda: self._threads == self._idle, deadline.remaining())

    def close(self) -> None:
        """Send the idle threads home; one that is stuck in a handler is left behind (it is a daemon)."""
        with self._changed:
            idle = self._idle
            self._idle = self._threads = 0
            self._leaving += idle
            self._generation += 1
            self._ending = False
        for _ in range(idle):
            self._jobs.put(None)
        with self._changed:
            self._changed.wait_for(lambda: not self._leaving, 1.0)
