"""A forked child for each request."""

from __future__ import annotations

import _signal
import os
import select
import signal
import socket
from contextlib import suppress
from time import monotonic
from typing import ClassVar

from attrs import define, field, validators

from tricorn.contracts import Crew, Dispatcher, Intake, Job
from tricorn.deadline import Deadline
from tricorn.forking import Child, admit_termination, check_platform, fork_child, refuse_if_threaded
from tricorn.report import receive_report, send_report

__all__ = ["Fork"]

#: A child looks at its connection when it is told to drain, so it is told again after so many seconds.
TELL_AGAIN_S = 0.1


@define(eq=False)
class Fork(Dispatcher):
    """Each request runs in a child process of its own, which shares nothing with the next.

    At most ``max_children`` at once; further requests wait in the kernel.  A child is reaped the moment it ends, by
    its own pidfd, so other children of the program are never touched; it holds no listener, flushes its output, and
    dies with its parent.  What a handler changes in memory is lost with the child.  Needs a single-threaded program
    (`~tricorn.errors.StateError` says so) and Linux.  Replaces `socketserver.ForkingMixIn`.
    """

    forks: ClassVar[bool] = True

    max_children: int = field(
        default=40, validator=validators.instance_of(int), metadata={"help": "most child processes at once"}
    )
    _children: dict[int, tuple[Child, Job]] = field(factory=dict, init=False, repr=False)
    _epoll: select.epoll | None = field(default=None, init=False, repr=False)
    _reports: tuple[socket.socket, socket.socket] | None = field(default=None, init=False, repr=False)
    #: Holds a number for the next child's pidfd, so that where there are no more it is accepting that fails.
    _spare: list[int] = field(factory=list, init=False, repr=False)
    _told: dict[int, bytes] = field(factory=dict, init=False, repr=False)
    _tell_again_at: float = field(default=0.0, init=False, repr=False)

    @max_children.validator
    def _positive(self, attribute: object, value: int) -> None:
        if isinstance(value, bool) or value < 1:
            raise ValueError(f"max_children must be at least 1, not {value!r}")

    def __attrs_post_init__(self) -> None:
        check_platform("Fork")

    @property
    def concurrency(self) -> int:
        """``max_children``."""
        return self.max_children

    def serve(self, intake: Intake) -> None:
        """Fork for each request; reap while waiting for the next."""
        refuse_if_threaded("Fork")
        self._prepare(intake)
        super().serve(intake)

    def dispatch(self, job: Job) -> None:
        """Fork a child for ``job``; blocks while ``max_children`` are at work.

        Raises `OSError` where the machine gives no process, `~tricorn.errors.StateError` in a threaded program.
        """
        epoll = self._prepare(job.crew)
        self._reap()
        while len(self._children) >= self.max_children:
            self._reap(None)
        refuse_if_threaded("Fork")
        if not self._spare:  # there was none to be had after the last one
            self._spare.append(os.dup(epoll.fileno()))
        os.close(self._spare.pop())
        child = fork_child(lambda: self._attend(job), death_signal=signal.SIGKILL)
        self._children[child.pidfd] = (child, job)
        epoll.register(child.pidfd, select.EPOLLIN)
        job.disown(f"process {child.pid}")
        with suppress(OSError):
            self._spare.append(os.dup(epoll.fileno()))

    def _attend(self, job: Job) -> int:
        """In the child: serve the one job, and tell the parent how it went."""
        _signal.signal(_signal.SIGTERM, lambda number, frame: job.request.drain())
        admit_termination()
        assert self._reports is not None
        send_report(self._reports[1], job.id, job.run_remotely())
        return 0

    def _prepare(self, watcher: Intake | Crew) -> select.epoll:
        if self._epoll is None:
            self._reports = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._reports[0].setblocking(False)
            self._epoll = select.epoll()
            self._epoll.register(self._reports[0].fileno(), select.EPOLLIN)
            self._spare.append(os.dup(self._epoll.fileno()))
            watcher.watch(self._epoll.fileno(), self._reap)
        return self._epoll

    def _reap(self, timeout: float | None = 0.0) -> None:
        """Take in what children have told, and those that have ended."""
        assert self._epoll is not None
        ready = [fd for fd, _ in self._epoll.poll(timeout)]
        self._read_reports()
        for fd in ready:
            if fd in self._children:
                child, job = self._children.pop(fd)
                self._epoll.unregister(fd)
                _, words = child.reap()
                job.settle(self._told.pop(job.id, None), words)

    def _read_reports(self) -> None:
        assert self._reports is not None
        while (told := receive_report(self._reports[0])) is not None:
            number, report = told
            self._told[number] = report

    def join(self, deadline: Deadline) -> bool:
        """Tell the children to finish (SIGTERM, again and again), and reap them as they end."""
        if monotonic() >= self._tell_again_at:
            self._tell_again_at = monotonic() + TELL_AGAIN_S
            for child, _ in self._children.values():
                child.send_signal(signal.SIGTERM)
        while self._children:
            self._reap(deadline.remaining())
            if deadline.expired:
                break
        return not self._children

    def cancel(self) -> None:
        """Kill the children that are left."""
        for child, _ in self._children.values():
            child.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Give the descriptors back."""
        if self._epoll is not None and self._reports is not None:
            self._epoll.close()
            while self._spare:
                os.close(self._spare.pop())
            for end in self._reports:
                end.close()
            self._epoll = self._reports = None
            self._told.clear()
            self._tell_again_at = 0.0
