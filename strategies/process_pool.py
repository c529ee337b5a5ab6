"""Worker processes that share the listeners and each run a dispatcher of their own."""

from __future__ import annotations

import copy
import os
import select
import signal
from time import monotonic
from typing import ClassVar

from attrs import define, field, validators

from tricorn.board import Board
from tricorn.contracts import Dispatcher, Intake, Kind, Shape
from tricorn.deadline import Deadline
from tricorn.errors import IncompatibleParts
from tricorn.events import WorkerEnded, WorkerStarted
from tricorn.forking import Child, check_platform, fork_child, refuse_if_threaded
from tricorn.strategies.sync import Sync

__all__ = ["ProcessPool"]

#: Seconds before a worker that died young is replaced: doubled each time, from the first to the second figure.
BACK_OFF_S = (0.1, 30.0)
#: A worker that served this long was no failed start, and is replaced at once.
HEALTHY_S = 1.0
#: How many jobs of a worker can be shown; beyond, they are counted only.
BOARD_SLOTS = 1024


@define(eq=False)
class _Worker:
    board: Board
    child: Child
    born: float


@define(eq=False)
class ProcessPool(Dispatcher):
    """``workers`` processes, each of which runs ``inner`` on the same listeners; the kernel deals the connections out.

    For handlers that compute: 1.8 to 2.0 times one process on two cores.  A worker that dies is replaced, at once if it had
    served for a second, else after a pause that doubles from 0.1 to 30 seconds; its requests are reported as lost with
    the signal's name.  Needs a single-threaded program to start in, and Linux.  ``workers`` defaults to the number of
    processors this process may use.
    """

    forks: ClassVar[bool] = True

    workers: int = field(
        factory=lambda: len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        validator=validators.instance_of(int),
        metadata={"help": "worker processes; default: one for each processor"},
    )
    inner: Dispatcher = field(
        factory=Sync, validator=validators.instance_of(Dispatcher), metadata={"help": "what each worker runs"}
    )
    _crew: dict[int, _Worker] = field(factory=dict, init=False, repr=False)
    _epoll: select.epoll | None = field(default=None, init=False, repr=False)
    _intake: Intake | None = field(default=None, init=False, repr=False)
    _due: list[tuple[float, int]] = field(factory=list, init=False, repr=False)
    _failures: int = field(default=0, init=False, repr=False)
    _made: int = field(default=0, init=False, repr=False)
    _draining: bool = field(default=False, init=False, repr=False)
    _killed: bool = field(default=False, init=False, repr=False)

    @workers.validator
    def _positive(self, attribute: object, value: int) -> None:
        if isinstance(value, bool) or value < 1:
            raise ValueError(f"workers must be at least 1, not {value!r}")

    def __attrs_post_init__(self) -> None:
        check_platform("ProcessPool")
        if self.inner.forks:
            raise IncompatibleParts(
                f"a worker of ProcessPool cannot run {type(self.inner).__name__}, which forks again; "
                "use inner=Sync(), Thread() or ThreadPool()"
            )

    @property
    def kinds(self) -> frozenset[Kind]:  # type: ignore[override]
        """What ``inner`` serves."""
        return self.inner.kinds

    @property
    def shapes(self) -> frozenset[Shape]:  # type: ignore[override]
        """How ``inner`` calls handlers."""
        return self.inner.shapes

    def serve(self, intake: Intake) -> None:
        """Start the workers and keep their number up until the intake ends."""
        refuse_if_threaded("ProcessPool")
        self._intake = intake
        self._epoll = select.epoll()
        intake.watch(self._epoll.fileno(), self._look_after)
        for _ in range(self.workers):
            self._spawn()
        while not intake.wait(self._until_due()):
            self._replace()

    # -- workers

    def _spawn(self, replaces: int | None = None) -> None:
        assert self._intake is not None and self._epoll is not None
        intake = self._intake
        self._made += 1
        board = Board(self._made, min(self.inner.concurrency or BOARD_SLOTS, BOARD_SLOTS))
        inner = copy.copy(self.inner)
        try:
            child = fork_child(lambda: intake.attend(inner, board), death_signal=signal.SIGTERM)
        except OSError:
            board.close()
            self._schedule(replaces or 0)
            return
        board.pid = child.pid
        intake.enlist(board)
        self._crew[child.pidfd] = _Worker(board, child, monotonic())
        self._epoll.register(child.pidfd, select.EPOLLIN)
        self._epoll.register(board.fileno(), select.EPOLLIN)
        intake.tell(WorkerStarted(child.pid, replaces))

    def _look_after(self, timeout: float | None = 0.0) -> None:
        """Pass on what workers tell, and see to those that have ended."""
        assert self._epoll is not None
        ready = {fd for fd, _ in self._epoll.poll(timeout)}
        for fd, worker in list(self._crew.items()):
            if worker.board.fileno() in ready or fd in ready:
                self._pass_on(worker.board)
            if fd in ready:
                self._bury(fd, worker)

    def _pass_on(self, board: Board) -> None:
        assert self._intake is not None
        for event in board.receive():
            self._intake.tell(event)

    def _bury(self, fd: int, worker: _Worker) -> None:
        assert self._intake is not None and self._epoll is not None
        del self._crew[fd]
        self._epoll.unregister(fd)
        self._epoll.unregister(worker.board.fileno())
        code, words = worker.child.reap()
        lost = self._intake.dismiss(worker.board, words, cancelled=self._killed)
        worker.board.close()
        expected = self._draining or self._intake.stopped
        self._intake.tell(WorkerEnded(worker.child.pid, words, expected and code == 0, lost))
        if not expected:
            self._failures = 0 if monotonic() - worker.born >= HEALTHY_S else self._failures + 1
            self._schedule(worker.child.pid)

    def _schedule(self, replaces: int) -> None:
        first, most = BACK_OFF_S
        pause = min(most, first * 2 ** min(self._failures - 1, 16)) if self._failures else 0.0
        self._due.append((monotonic() + pause, replaces))

    def _until_due(self) -> float | None:
        return max(0.0, min(self._due)[0] - monotonic()) if self._due else None

    def _replace(self) -> None:
        now = monotonic()
        due, self._due = [each for each in self._due if each[0] <= now], [each for each in self._due if each[0] > now]
        for _, replaces in due:
            self._spawn(replaces)

    # -- ending

    def join(self, deadline: Deadline) -> bool:
        """Tell the workers to drain (SIGTERM), and wait for them."""
        if not self._draining:
            self._draining = True
            for worker in self._crew.values():
                worker.child.send_signal(signal.SIGTERM)
        while self._crew:
            self._look_after(deadline.remaining())
            if deadline.expired:
                break
        return not self._crew

    def cancel(self) -> None:
        """Kill the workers that are left."""
        self._killed = True
        for worker in self._crew.values():
            worker.child.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Give the descriptors back."""
        if self._epoll is not None:
            self._epoll.close()
            self._epoll = None
