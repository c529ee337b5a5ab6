"""The books of one serving process: which jobs are in flight, and how many ended in which way."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING

from tricorn.deadline import Deadline
from tricorn.events import JobInfo, JobRefused, Outcome, Stage, Status
from tricorn.observers import Observers
from tricorn.tally import Tally

if TYPE_CHECKING:
    from tricorn.board import Board
    from tricorn.job import ServedJob

__all__ = ["Ledger"]

_COMPLETED = Status.COMPLETED


class Ledger:
    """Every job that was opened here ends in exactly one status.  Safe from any thread.

    The claim to a job's one outcome is `dict.pop`, which is atomic: whoever gets the job out of ``jobs`` records it.
    ``boards`` are the books of worker processes, which are counted in.  Where there is no board to keep in step, the
    two entries of each request take no lock: `tricorn.tally`.
    """

    def __init__(self, observers: Observers, board: Board | None = None, first_id: int = 0) -> None:
        self.observers = observers
        self.jobs: dict[int, ServedJob] = {}
        self.boards: list[Board] = []
        self._board = board
        self._first_id = first_id
        self._lock = threading.Lock()
        #: Without a board: numbers given, and jobs that ended as usual.  The rest is under the lock.
        self.numbers, self.completions = Tally(), Tally()
        self._opened = 0
        self._counts = dict.fromkeys(Status, 0)
        self._idle = threading.Condition(self._lock)
        #: Somebody waits for the last job to end.
        self.waiting = False

    @property
    def has_board(self) -> bool:
        """Somebody in another process reads along."""
        return self._board is not None

    def open(self, job: ServedJob, number: int | None = None) -> None:
        """Enter a job and give it its number: the next one, or that which it has in another process."""
        board = self._board
        if board is None:
            ours = self._first_id + self.numbers.step()
            job.id = ours if number is None else number
        else:
            with self._lock:
                self._opened += 1
                job.id = self._first_id + self._opened if number is None else number
                board.started(job.id, job.request.peer, job.accepted_at)  # first: a job that is counted can be named
                board.count(self._opened, self._counts)
        self.jobs[job.id] = job

    def count(self, status: Status, n: int = 1, number: int = 0) -> None:
        """Book an outcome (of job ``number``), after the observers were told of it."""
        if status is _COMPLETED and n == 1 and self._board is None:
            self.completions.step()
            if self.waiting:
                self.wake()
            return
        with self._lock:
            self._counts[status] += n
            if self._board is not None:
                self._board.count(self._opened, self._counts)
                self._board.ended(number)
            if self.waiting:
                self._idle.notify_all()

    def wake(self) -> None:
        """For whoever waits for the last job: one has ended."""
        with self._lock:
            self._idle.notify_all()

    def refuse(self, reason: str, peer: object, local: object = None) -> None:
        """Book something that a listener itself turned away."""
        if self._board is None:
            number = self._first_id + self.numbers.step()
        else:
            with self._lock:
                self._opened += 1
                number = self._first_id + self._opened
        outcome = Outcome(number, Status.REFUSED, Stage.ACCEPTED, peer, local, 0.0, detail=reason)
        self.observers.tell(JobRefused(outcome))
        self.count(Status.REFUSED)

    def absorb(self, board: Board) -> int:
        """Add the final counts of a worker that ended; returns how many of its jobs have no outcome."""
        opened, counts = board.totals()
        with self._lock:
            self._opened += opened
            for status, n in counts.items():
                self._counts[status] += n
        self.boards.remove(board)
        return opened - sum(counts.values())

    def totals(self) -> tuple[int, dict[Status, int]]:
        """How many jobs were opened, and how many ended in each status, workers' included."""
        with self._lock:
            counts = dict(self._counts)
            counts[_COMPLETED] += self.completions.value
            opened = self._opened + self.numbers.value  # read last: who ended has begun
        for board in list(self.boards):
            more, theirs = board.totals()
            opened += more
            for status, n in theirs.items():
                counts[status] += n
        return opened, counts

    def wait_idle(self, deadline: Deadline) -> bool:
        """Block until every job opened in this process has its outcome, or until ``deadline``; True if so."""
        with self._lock:
            self.waiting = True
            try:
                return self._idle.wait_for(self._all_ended, deadline.remaining())
            finally:
                self.waiting = False

    def _all_ended(self) -> bool:
        ended = sum(self._counts.values()) + self.completions.value  # read first: who ended has begun
        return ended >= self._opened + self.numbers.value

    def describe(self, job: ServedJob) -> JobInfo:
        """One of this process's jobs, with its stack."""
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        return _describe(job, sys._current_frames(), names)

    def in_flight(self, *, stacks: bool = False) -> tuple[JobInfo, ...]:
        """What is in flight now, oldest first."""
        frames = sys._current_frames() if stacks else {}
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        infos = [_describe(job, frames, names) for job in list(self.jobs.values())]
        for board in list(self.boards):
            infos += [info for info in board.in_flight() if info.id not in board.told]  # told of, not yet cleared
        return tuple(sorted(infos, key=lambda info: -info.age))


def _describe(job: ServedJob, frames: Mapping[int, FrameType], names: Mapping[int | None, str]) -> JobInfo:
    where = job.where
    if not where and job.thread:
        where = f"thread {names.get(job.thread, job.thread)}"
    frame = frames.get(job.thread)
    stack = ""
    if frame is not None:
        from traceback import format_stack  # 2 ms, and rarely wanted

        stack = "".join(format_stack(frame))
    return JobInfo(job.id, job.request.peer, monotonic() - job.accepted_at, job.stage, where, stack)
