"""The intake of a worker to which another process hands its jobs over."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

from tricorn.contracts import Crew, Intake
from tricorn.handover import receive_request
from tricorn.job import ServedJob, Service
from tricorn.wakeup import wait_readable

__all__ = ["ChannelIntake"]


class ChannelIntake(Intake):
    """Jobs out of a channel, under the numbers that they have in the process that sent them.  They were admitted and
    verified there."""

    def __init__(self, channel: socket.socket, service: Service) -> None:
        self.service = service
        self._channel = channel
        self._end = threading.Event()

    def __iter__(self) -> Iterator[ServedJob]:
        while (job := self._receive(wait=True)) is not None:
            yield job

    def next(self, timeout: float | None = None) -> ServedJob | None:
        return self.poll() if wait_readable(self._channel.fileno(), timeout) else None

    def poll(self) -> ServedJob | None:
        try:
            return self._receive(wait=False)
        except BlockingIOError:
            return None

    def _receive(self, *, wait: bool) -> ServedJob | None:
        received = receive_request(self._channel, wait=wait)
        if received is None:
            self._end.set()
            return None
        number, request = received
        job = ServedJob(request, self.service)
        self.service.ledger.open(job, number)
        return job

    def fileno(self) -> int:
        return self._channel.fileno()

    @property
    def stopped(self) -> bool:
        return self._end.is_set()

    def stop(self) -> None:
        try:
            self._channel.shutdown(socket.SHUT_RD)  # what was handed over already is still read, then comes the end
        except OSError:
            pass
        self._end.set()

    def wait(self, timeout: float | None = None) -> bool:
        return self._end.wait(timeout)

    @property
    def crew(self) -> Crew:
        return self.service.crew

    def watch(self, fd: int, ready: Callable[[], None]) -> None:
        raise NotImplementedError("a worker's own dispatcher has no descriptors to watch")

    def close(self) -> None:
        """The channel is closed by the end of the process."""
