"""Where connections wait that have nothing to read: in a table, and not on a thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any

from tricorn.contracts import Intake, Job, Kind
from tricorn.deadline import Deadline
from tricorn.messages import Conversation
from tricorn.poller import READ, make_poller
from tricorn.queue_intake import JobQueue
from tricorn.wakeup import WakeUp

__all__ = ["ParkingLot"]

#: Connections taken in before the lot looks at the others again.
ACCEPT_BATCH = 64


class ParkingLot:
    """Takes jobs from ``intake``, keeps each until its connection has something to read, and puts it into ``ready``.

    `run` and `end_all` belong to the serving thread, `back` and `gone` to the workers that iterate ``ready``.  The
    server's deadlines are minded by its timekeeper, which cuts what is late: then there is something to read.
    """

    def __init__(self, intake: Intake, ready: JobQueue) -> None:
        self._intake = intake
        self._ready = ready
        self._poller = make_poller()
        self._wakeup = WakeUp()
        #: By descriptor.
        self._parked: dict[int, Job] = {}
        #: Jobs on their way back, and marks for jobs that have ended: `deque.append` needs no lock.
        self._returned: deque[Job | None] = deque()
        self._in_hand = 0
        self._accepting = True
        self._closed = False
        self._poller.register(self._wakeup.fileno(), READ)
        self._poller.register(intake.fileno(), READ)

    @property
    def busy(self) -> bool:
        """Jobs are here, or with the workers."""
        return self._in_hand > 0

    def back(self, job: Job) -> None:
        """The handler parked it."""
        if self._closed:  # it was given up while it was with the handler
            job.end(None)
            return
        self._returned.append(job)
        self._wakeup.signal()

    def gone(self) -> None:
        """A job has ended."""
        self._returned.append(None)
        if not self._accepting:
            self._wakeup.signal()

    def wake(self) -> None:
        """Let the lot ask whether it is over.  From any thread."""
        self._wakeup.signal()

    def run(self, over: Callable[[], bool], deadline: Deadline | None = None) -> None:
        """Turn after turn, until ``over`` or ``deadline``."""
        while True:
            self._collect()
            if over() or (deadline is not None and deadline.expired):
                return
            timeout = self._timeout(deadline)
            ready = self._poller.poll(timeout)
            if timeout is not None and self._accepting:
                self._accept()
            for fd, _ in ready:
                if fd in self._parked:
                    self._release(fd)
                elif fd == self._wakeup.fileno():
                    self._wakeup.clear()
                else:
                    self._accept()
            if self._accepting and self._intake.stopped:
                self._accepting = False
                self._poller.unregister(self._intake.fileno())  # it stays readable from now on

    def end_all(self) -> None:
        """End what is parked, now."""
        self._collect()
        for fd in list(self._parked):
            self._leave(fd).end(None)
            self._in_hand -= 1

    def close(self) -> None:
        """Give the descriptors back."""
        self._closed = True
        self.end_all()  # what came back since the last turn
        self._poller.close()
        self._wakeup.close()

    def _timeout(self, deadline: Deadline | None) -> float | None:
        left = None if deadline is None else deadline.remaining()
        pause = self._intake.patience() if self._accepting else None
        if pause is not None:
            left = pause if left is None else min(left, pause)
        return left

    def _accept(self) -> None:
        for _ in range(ACCEPT_BATCH):
            job = self._intake.poll()
            if job is None:
                return
            self._in_hand += 1
            if job.request.kind is Kind.STREAM:
                request: Any = job.request
                request.parkable = True
                self._park(job)
            else:
                self._ready.put(job)

    def _collect(self) -> None:
        while self._returned:
            job = self._returned.popleft()
            if job is None:
                self._in_hand -= 1
            else:
                self._park(job)

    def _park(self, job: Job) -> None:
        connection: Any = job.request
        fd = connection.socket.fileno()
        if fd < 0 or connection.buffered():
            self._ready.put(job)
            return
        self._parked[fd] = job
        # Between two requests a drain may end it at once, unless a message has begun: see `tricorn.peer_socket`.
        begun = isinstance(connection.memo, Conversation) and not connection.memo.idle
        if begun and not connection.socket.engaged:
            connection.socket._engage()
        connection.socket.waiting, connection.socket.engaged = True, begun
        connection.socket.sent_at, connection.socket.idle_from = float("-inf"), monotonic()
        self._poller.register(fd, READ)

    def _leave(self, fd: int) -> Job:
        job = self._parked.pop(fd)
        with suppress(OSError):
            self._poller.unregister(fd)
        connection: Any = job.request
        connection.socket.waiting = False
        return job

    def _release(self, fd: int) -> None:
        self._ready.put(self._leave(fd))
