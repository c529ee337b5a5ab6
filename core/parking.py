"""Where connections wait that have nothing to read: in a table, and not on a thread.

With epoll a worker puts its connection back by itself: it stays registered, for one event at a time (EPOLLONESHOT), and
one epoll_ctl arms it again from any thread.  Waking the lot for it took four system calls more for each message, and a
second change of threads.
"""

from __future__ import annotations

import select
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
        #: What connections are registered for; without epoll, where only the lot may do that, they come to it first.
        self._once = READ | getattr(select, "EPOLLONESHOT", 0)
        self._rearms = self._once != READ
        #: By descriptor.  `dict.pop` is the claim to a job.
        self._parked: dict[int, Job] = {}
        #: Marks for jobs that have ended, and jobs on their way back: `deque.append` needs no lock.
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
        elif self._rearms:
            self._park(job)
        else:
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
        wakeup, intake = self._wakeup.fileno(), self._intake.fileno()
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
                elif fd == wakeup:
                    self._wakeup.clear()
                elif fd == intake:
                    self._accept()
            if self._accepting and self._intake.stopped:
                self._accepting = False
                self._poller.unregister(intake)  # it stays readable from now on

    def end_all(self) -> None:
        """End what is parked, now."""
        self._collect()
        for fd in list(self._parked):
            with suppress(OSError):  # or it would tell of the connection that has this number next
                self._poller.unregister(fd)
            if (job := self._leave(fd)) is not None:
                job.end(None)
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
                self._park(job, fresh=True)
            else:
                self._ready.put(job)

    def _collect(self) -> None:
        while self._returned:
            job = self._returned.popleft()
            if job is None:
                self._in_hand -= 1
            else:
                self._park(job)

    def _park(self, job: Job, *, fresh: bool = False) -> None:
        connection: Any = job.request
        fd = connection.socket.fileno()
        if fd < 0 or connection.buffered():
            self._ready.put(job)
            return
        # Between two requests a drain may end it at once, unless a message has begun: see `tricorn.peer_socket`.
        begun = isinstance(connection.memo, Conversation) and not connection.memo.idle
        if begun and not connection.socket.engaged:
            connection.socket._engage()
        connection.socket.waiting, connection.socket.engaged = True, begun
        connection.socket.sent_at, connection.socket.idle_from = float("-inf"), monotonic()
        self._parked[fd] = job  # from when it is armed on it may be released
        try:
            self._arm(fd, fresh=fresh or not self._rearms)
        except (OSError, ValueError) as error:  # the kernel has no memory for it; the lot was closed just now
            if self._leave(fd) is not None:
                job.end(error if isinstance(error, OSError) else None)
                self.gone()

    def _arm(self, fd: int, *, fresh: bool) -> None:
        if not fresh:
            try:
                self._poller.modify(fd, self._once)
            except FileNotFoundError:  # the handler has put its connection on another descriptor
                pass
            else:
                return
        self._poller.register(fd, self._once)

    def _leave(self, fd: int) -> Job | None:
        job = self._parked.pop(fd, None)
        if job is not None:
            connection: Any = job.request
            connection.socket.waiting = False
        return job

    def _release(self, fd: int) -> None:
        if not self._rearms:
            self._poller.unregister(fd)
        job = self._leave(fd)
        if job is not None:
            self._ready.put(job)
