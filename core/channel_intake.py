"""The intake of a worker to which another process hands its jobs over."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

from tricorn.contracts import Crew, Intake
from tricorn.events import Stage, Status
from tricorn.handover import HandoverLost, receive_request
from tricorn.job import ServedJob
from tricorn.report import Report, send_report
from tricorn.service import Service
from tricorn.waiting import Waiter, make_waiter
from tricorn.wakeup import wait_readable

__all__ = ["ChannelIntake"]


class ChannelIntake(Intake):
    """Jobs out of a channel, under the numbers that they have in the process that sent them.  They were admitted and
    verified there."""

    def __init__(self, channel: socket.socket, service: Service) -> None:
        self.service = service
        self._channel = channel
        self._end = threading.Event()
        self._exhausted = False
        self._watches: dict[int, Callable[[], None]] = {}
        self._loop_waiter: Waiter | None = None

    def __iter__(self) -> Iterator[ServedJob]:
        waiter = make_waiter((self._channel,), self._watches, shared=True)
        try:
            while not self._exhausted:
                if (job := self._receive()) is not None:
                    yield job
                elif not self._exhausted:
                    waiter.wait(None)
        finally:
            waiter.close()

    def next(self, timeout: float | None = None) -> ServedJob | None:
        return self._receive() if wait_readable(self._channel.fileno(), timeout) else None

    def _receive(self) -> ServedJob | None:
        try:
            received = receive_request(self._channel)
        except BlockingIOError:
            return None
        except HandoverLost as lost:
            report = Report(Status.REFUSED, Stage.ACCEPTED, detail="the worker has no descriptor left")
            send_report(self._channel, lost.number, report.encode())
            return None
        if received is None:
            self._exhausted = True
            self._end.set()
            return None
        number, request = received
        job = ServedJob(request, self.service)
        self.service.ledger.open(job, number)
        with suppress(AttributeError):
            request.id = number  # type: ignore[attr-defined]
        return job

    def fileno(self) -> int:
        return self._loop().fileno()

    def poll(self, *, again: bool = False) -> ServedJob | None:
        if not again:
            self._loop().wait(0)  # runs the callbacks
        return self._receive()

    def _loop(self) -> Waiter:
        if self._loop_waiter is None:
            self._loop_waiter = make_waiter((self._channel,), self._watches, shared=False)
        return self._loop_waiter

    @property
    def stopped(self) -> bool:
        return self._end.is_set()

    def stop(self) -> None:
        try:
            self._channel.shutdown(socket.SHUT_RD)  # what was handed over already is still read, then comes the end
        except OSError:
            pass
        self._end.set()

    def wait(self, timeout: float | None = None, *, to_the_end: bool = True) -> bool:
        return self._end.wait(timeout)

    @property
    def crew(self) -> Crew:
        return self.service.crew

    def watch(self, fd: int, ready: Callable[[], None]) -> None:
        self._watches[fd] = ready
        if self._loop_waiter is not None:
            self._loop_waiter.watch(fd, ready)

    def close(self) -> None:
        """Give back what waiting took; the channel is closed by the end of the process."""
        if self._loop_waiter is not None:
            self._loop_waiter.close()
