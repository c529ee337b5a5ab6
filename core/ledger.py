"""The books of one serving process: which jobs are in flight, and how many ended in which way."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Mapping
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING

from tricorn.deadline import Deadline
from tricorn.events import JobInfo, JobRefused, Outcome, Stage, Status
from tricorn.observers import Observers

if TYPE_CHECKING:
    from tricorn.board import Board
    from tricorn.job import ServedJob

__all__ = ["Ledger"]


class Ledger:
    """Every job that was opened here ends in exactly one status.  Safe from any thread.

    The claim to a job's one outcome is `dict.pop`, which is atomic: whoever gets the job out of ``jobs`` records it.
    ``boards`` are the books of worker processes, which are counted in.
    """

    def __init__(self, observers: Observers, board: Board | None = None, first_id: int = 0) -> None:
        self.observers = observers
        self.jobs: dict[int, ServedJob] = {}
        self.boards: list[Board] = []
        self._board = board
        self._first_id = first_id
        self._lock = threading.Lock()
        self._opened = 0
        self._counts = dict.fromkeys(Status, 0)
        self._idle = threading.Condition(self._lock)
        self._waiting = False

    def open(self, job: ServedJob, number: int | None = None) -> None:
        """Enter a job and give it its number: the next one, or that which it has in another process."""
        board = self._board
        with self._lock:
            self._opened += 1
            job.id = self._first_id + self._opened if number is None else number
            if board is not None:  # first the slot: a job that is counted can be named
                board.started(job.id, job.request.peer, job.accepted_at)
                board.count(self._opened, self._counts)
        self.jobs[job.id] = job

    def claim(self, job: ServedJob) -> bool:
        """True for the one caller who may record this job's outcome."""
        return self.jobs.pop(job.id, None) is not None

    def count(self, status: Status, n: int = 1, number: int = 0) -> None:
        """Book an outcome (of job ``number``), after the observers were told of it."""
        with self._lock:
            self._counts[status] += n
            if self._board is not None:
                self._board.count(self._opened, self._counts)
                self._board.ended(number)
            if self._waiting:
                self._idle.notify_all()

    def refuse(self, reason: str, peer: object, local: object = None) -> None:
        """Book something that a listener itself turned away."""
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
            opened, counts = self._opened, dict(self._counts)
        for board in list(self.boards):
            more, theirs = board.totals()
            opened += more
            for status, n in theirs.items():
                counts[status] += n
        return opened, counts

    def wait_idle(self, deadline: Deadline) -> bool:
        """Block until every job opened in this process has its outcome, or until ``deadline``; True if so."""
        with self._lock:
            self._waiting = True
            try:
                return self._idle.wait_for(lambda: sum(self._counts.values()) >= self._opened, deadline.remaining())
            finally:
                self._waiting = False

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
    stack = "".join(traceback.format_stack(frame)) if frame is not None else ""
    return JobInfo(job.id, job.request.peer, monotonic() - job.accepted_at, job.stage, where, stack)
