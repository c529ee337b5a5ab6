"""Worker processes that share the listeners and each run a dispatcher of their own."""

from __future__ import annotations

import copy
import itertools
import os
from typing import ClassVar

from attrs import define, field, validators

from tricorn.board import Board
from tricorn.care import Care
from tricorn.checks import optional, seconds, whole_number
from tricorn.contracts import Crew, Dispatcher, Intake, Job, Kind, Shape
from tricorn.deadline import Deadline
from tricorn.errors import IncompatibleParts
from tricorn.forking import check_platform, refuse_if_threaded
from tricorn.handover import make_channel
from tricorn.pulse import Pulse
from tricorn.report import receive_report
from tricorn.strategies.sync import Sync
from tricorn.supervision import Supervisor

__all__ = ["ProcessPool"]

#: How many jobs of a worker can be shown; beyond, they are counted only.
BOARD_SLOTS = 1024


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@define(eq=False)
class ProcessPool(Dispatcher):
    """``workers`` processes, each of which runs ``inner`` on the same listeners; the kernel deals the connections out.

    For handlers that compute: 1.8 to 2.0 times one process on two cores.  A worker that dies is replaced, at once if it
    had served for a second, else after a pause that doubles from 0.1 to 30 seconds; its requests are reported as lost
    with the signal's name.  Needs a single-threaded program to start in, and Linux.  ``workers`` defaults to the
    number of processors that this process may use.

    A worker is replaced that has served ``max_jobs`` requests (and up to ``jitter`` more, drawn at random for each), is
    ``max_age`` seconds old (up to a tenth more), or has ``max_memory`` bytes resident; each is ``None``, no limit, by
    default.  `Server.reload` replaces all.  First the successor serves, then the worker drains, one after the other.
    One that gives no sign of life for ``hang_timeout`` seconds is killed; 30 by default.  One whose request takes
    longer than ``Deadlines.request`` is replaced, and killed when it has no others.  If ``start_attempts`` workers in a
    row, 5 by default, die before any has ever served, serving raises `~tricorn.errors.WorkerLost`.
    """

    forks: ClassVar[bool] = True

    workers: int = field(
        factory=_processors,
        validator=validators.instance_of(int),
        metadata={"help": "worker processes; default: one for each processor"},
    )
    inner: Dispatcher = field(
        factory=Sync, validator=validators.instance_of(Dispatcher), metadata={"help": "what each worker runs"}
    )
    max_jobs: int | None = field(
        default=None, kw_only=True, validator=optional(whole_number(1)), metadata={"help": "requests, then replaced"}
    )
    jitter: int = field(
        default=0, kw_only=True, validator=whole_number(0), metadata={"help": "more of them, at random, at most"}
    )
    max_age: float | None = field(
        default=None, kw_only=True, validator=optional(seconds), metadata={"help": "seconds, then replaced"}
    )
    max_memory: int | None = field(
        default=None, kw_only=True, validator=optional(whole_number(1)), metadata={"help": "bytes, then replaced"}
    )
    hang_timeout: float | None = field(
        default=30.0, kw_only=True, validator=optional(seconds), metadata={"help": "seconds without a sign of life"}
    )
    start_attempts: int = field(
        default=5, kw_only=True, validator=whole_number(1), metadata={"help": "failed starts before it gives up"}
    )
    _supervisor: Supervisor | None = field(default=None, init=False, repr=False)

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

    @property
    def concurrency(self) -> int | None:
        """``workers`` times what ``inner`` holds."""
        return None if self.inner.concurrency is None else self.workers * self.inner.concurrency

    def serve(self, intake: Intake) -> None:
        """Start the workers and keep their number up until the intake ends."""
        refuse_if_threaded("ProcessPool")
        if intake.stopping:
            return  # before the start: workers would serve who waits already
        numbers = itertools.count(1)
        supervisor = Supervisor(
            self.workers, lambda: _ListeningPost(copy.copy(self.inner), intake.crew, next(numbers)), intake.crew,
            self._care,
        )  # fmt: skip
        self._supervisor = supervisor
        intake.watch(supervisor.fileno(), supervisor.look_after)
        supervisor.start()
        while not intake.wait(supervisor.until_due(), to_the_end=False):  # the workers accept what is queued
            supervisor.replace_due()
            if supervisor.gave_up is not None:
                raise supervisor.gave_up

    def dispatch(self, job: Job) -> None:
        """Hand ``job`` to the worker that has the fewest; blocks while each has as many as ``inner`` holds at once."""
        supervisor = self._supervisor or self._start_feeding(job.crew)
        while True:
            supervisor.look_after(0.0)
            supervisor.replace_due()
            if supervisor.gave_up is not None:
                raise supervisor.gave_up
            posts = [post for post in supervisor.posts() if isinstance(post, _FedPost) and post.has_room()]
            for post in sorted(posts, key=lambda post: len(post.jobs)):
                if post.give(job):
                    return
            supervisor.look_after(supervisor.until_due())

    def _start_feeding(self, crew: Crew) -> Supervisor:
        refuse_if_threaded("ProcessPool")
        self._supervisor = Supervisor(self.workers, lambda: _FedPost(copy.copy(self.inner), crew), crew, self._care)
        crew.watch(self._supervisor.fileno(), self._supervisor.look_after)  # reports come in, though nothing is given
        self._supervisor.start()
        return self._supervisor

    @property
    def _care(self) -> Care:
        return Care(
            max_jobs=self.max_jobs, jitter=self.jitter, max_age=self.max_age, max_memory=self.max_memory,
            hang_timeout=self.hang_timeout, start_attempts=self.start_attempts,
        )  # fmt: skip

    def reload(self) -> None:
        """Replace every worker, one after the other, each only when its successor serves."""
        if self._supervisor is not None:
            self._supervisor.renew()

    def join(self, deadline: Deadline) -> bool:
        """Tell the workers to drain (SIGTERM), and wait for them."""
        return self._supervisor is None or self._supervisor.join(deadline)

    def cancel(self) -> None:
        """Kill the workers that are left."""
        if self._supervisor is not None:
            self._supervisor.cancel()

    def close(self) -> None:
        """Give the descriptors back."""
        if self._supervisor is not None:
            self._supervisor.close()
            self._supervisor = None


class _ListeningPost:
    """A worker that accepts for itself, and writes what it does on a board."""

    def __init__(self, inner: Dispatcher, crew: Crew, number: int) -> None:
        self._inner = inner
        self._crew = crew
        self.pulse = Pulse()
        self._board = Board(number, min(inner.concurrency or BOARD_SLOTS, BOARD_SLOTS))
        crew.enlist(self._board)

    def main(self) -> int:
        return self._crew.attend(self._inner, self._board, self.pulse)

    def manned(self, pid: int) -> None:
        self._board.pid = pid

    def fileno(self) -> int:
        return self._board.fileno()

    def hear(self) -> None:
        for event in self._board.receive():
            self._crew.tell(event)

    def ended(self, words: str, *, cancelled: bool) -> tuple[int, ...]:
        lost = self._crew.dismiss(self._board, words, cancelled=cancelled)
        self._board.close()
        self.pulse.close()
        return lost

    def served(self) -> int:
        return self._board.totals()[0]

    def began(self) -> bool:
        return self.served() > 0

    def busy(self) -> bool:
        opened, counts = self._board.totals()
        return opened > sum(counts.values())


class _FedPost:
    """A worker to which jobs are handed over one by one, and which reports on each."""

    def __init__(self, inner: Dispatcher, crew: Crew) -> None:
        self._inner = inner
        self._crew = crew
        self._ours, self._theirs = make_channel()
        self._ours.setblocking(False)
        self._where = ""
        self.jobs: dict[int, Job] = {}
        self.pulse = Pulse()
        self._given = 0

    def main(self) -> int:
        self._ours.close()
        return self._crew.attend_channel(self._inner, self._theirs, self.pulse)

    def manned(self, pid: int) -> None:
        self._where = f"process {pid}"
        self._theirs.close()

    def has_room(self) -> bool:
        return len(self.jobs) < (self._inner.concurrency or BOARD_SLOTS)

    def give(self, job: Job) -> bool:
        """Hand ``job`` over; False if the worker cannot take it just now, or has died."""
        try:
            job.hand_over(self._ours, self._where)
        except (BlockingIOError, BrokenPipeError, ConnectionError):
            return False
        self.jobs[job.id] = job
        self._given += 1
        return True

    def served(self) -> int:
        return self._given

    def began(self) -> bool:
        return False

    def busy(self) -> bool:
        return bool(self.jobs)

    def fileno(self) -> int:
        return self._ours.fileno()

    def hear(self) -> None:
        while (told := receive_report(self._ours)) is not None:
            number, report = told
            self.jobs.pop(number).settle(report)

    def ended(self, words: str, *, cancelled: bool) -> tuple[int, ...]:
        left = tuple(self.jobs)
        for job in self.jobs.values():
            job.settle(None, words)
        self.jobs.clear()
        self._ours.close()
        self._theirs.close()
        self.pulse.close()
        return left
