"""A fixed set of threads, each of which accepts for itself."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from attrs import define, field, validators

from tricorn.checks import flag
from tricorn.contracts import Dispatcher, Intake, Job
from tricorn.deadline import Deadline
from tricorn.queue_intake import JobQueue

if TYPE_CHECKING:
    from tricorn.parking import ParkingLot

__all__ = ["ThreadPool"]


@define(eq=False)
class ThreadPool(Dispatcher):
    """``workers`` threads that each pull from the same intake, so that no request crosses a queue.

    The quickest way to run blocking handlers: 2.7 to 3 times the rate of a new thread for each request.  The most
    requests in flight are ``workers``; a client that is silent holds one of them.  Replaces the
    ``ThreadPoolExecutor`` recipe around `socketserver.BaseServer.process_request`.

    ``park_idle``: a connection gets a thread when it has something to read and not before, so that thousands of silent
    ones cost a place in a table each.  A message handler gives its thread back after each exchange, any other when it
    returns after `Connection.park`; it is then called again.  For protocols in which the client speaks first.
    """

    workers: int = field(default=16, validator=validators.instance_of(int), metadata={"help": "threads that serve"})
    park_idle: bool = field(
        default=False, kw_only=True, validator=flag, metadata={"help": "no thread for silent connections"}
    )
    _threads: list[threading.Thread] = field(factory=list, init=False, repr=False)
    _errors: list[BaseException] = field(factory=list, init=False, repr=False)
    _queue: JobQueue | None = field(default=None, init=False, repr=False)
    _lot: ParkingLot | None = field(default=None, init=False, repr=False)

    @workers.validator
    def _positive(self, attribute: object, value: int) -> None:
        if isinstance(value, bool) or value < 1:
            raise ValueError(f"workers must be at least 1, not {value!r}")

    @property
    def concurrency(self) -> int | None:
        """``workers``; with ``park_idle`` as many connections as the server takes."""
        return None if self.park_idle else self.workers

    @property
    def needs_descriptors(self) -> bool:  # type: ignore[override]
        """With ``park_idle``."""
        return self.park_idle

    def serve(self, intake: Intake) -> None:
        """Start the workers on ``intake`` and wait for its end."""
        if self.park_idle:
            self._serve_parked(intake)
            return
        self._start(intake)
        while not intake.wait():
            pass
        if self._errors:
            raise self._errors[0]

    def dispatch(self, job: Job) -> None:
        """Feed one job to the same workers; blocks while all are busy and as many jobs wait."""
        if self._queue is None:
            self._queue = JobQueue(self.workers)
            self._start(self._queue)
        self._queue.put(job)

    def _serve_parked(self, intake: Intake) -> None:
        self._queue = JobQueue(None)  # by itself: the server admits no more than it has room for
        from tricorn.parking import ParkingLot

        self._lot = ParkingLot(intake, self._queue)
        self._start(self._queue)
        self._lot.run(lambda: intake.stopped or bool(self._errors))
        if self._errors:
            raise self._errors[0]

    def _start(self, jobs: Intake | JobQueue) -> None:
        lot = self._lot

        def work() -> None:
            try:
                if lot is None:
                    jobs.run_each()
                else:
                    for job in jobs:
                        _turn(lot, job)
            except BaseException as error:
                self._errors.append(error)
                jobs.stop()  # accepting is broken, so serving ends, and raises it
                if self._lot is not None:
                    self._lot.wake()

        for number in range(self.workers):
            thread = threading.Thread(target=work, name=f"tricorn-worker-{number}", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                if not self._threads:
                    raise
                return  # the machine has no more threads to give: serve with fewer
            self._threads.append(thread)

    def join(self, deadline: Deadline) -> bool:
        """Wait for the workers to finish what they are at."""
        if self._lot is not None:
            lot = self._lot
            lot.run(lambda: not lot.busy, deadline)
            if lot.busy:
                return False
        if self._queue is not None:
            self._queue.stop()
        for thread in self._threads:
            thread.join(deadline.remaining())
        return not any(thread.is_alive() for thread in self._threads)

    def cancel(self) -> None:
        """End the connections that are parked."""
        if self._lot is not None:
            self._lot.end_all()

    def close(self) -> None:
        """Forget the threads, so that another server can use this dispatcher; a stuck one is a daemon."""
        self._threads.clear()
        self._errors.clear()
        if self._queue is not None:
            self._queue.stop()
        if self._lot is not None:
            self._lot.close()
        self._queue = self._lot = None


def _turn(lot: ParkingLot, job: Job) -> None:
    if job.turn():
        lot.back(job)
    else:
        lot.gone()
