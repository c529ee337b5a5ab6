"""An observer that keeps what it is told, and can be waited for."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TypeVar

from tricorn.events import DrainReport, Event, JobFinished, JobRefused, JobStarted, Outcome, Status
from tricorn.testing import bounds
from tricorn.testing.bounds import expect

__all__ = ["Recorder"]

E = TypeVar("E")


class Recorder:
    """Give it to a server as an observer.  Safe from any thread."""

    def __init__(self) -> None:
        #: Not named "events", by which an observer says what it wants.
        self.told: list[Event] = []
        self._changed = threading.Condition()

    def __call__(self, event: Event) -> None:
        """Keep ``event``."""
        with self._changed:
            self.told.append(event)
            self._changed.notify_all()

    def of(self, kind: type[E]) -> list[E]:
        """The events of one class so far."""
        with self._changed:
            return [each for each in self.told if isinstance(each, kind)]

    def wait(self, kind: type[E], count: int = 1) -> list[E]:
        """Those events, once there are ``count``; `AssertionError` if that takes too long."""
        with self._changed:
            came = self._changed.wait_for(
                lambda: sum(isinstance(each, kind) for each in self.told) >= count, bounds.BOUND_S
            )
            names = [type(each).__name__ for each in self.told]
        expect(came, f"no {count} x {kind.__name__} within {bounds.BOUND_S:g} s; told were {names}")
        return self.of(kind)

    def outcome(self, count: int) -> Outcome:
        """How the ``count``-th job ended."""
        return self.wait(JobFinished, count)[count - 1].outcome

    def most_at_once(self) -> int:
        """The most jobs that had started and not finished."""
        running = most = 0
        for event in list(self.told):
            running += isinstance(event, JobStarted)
            running -= isinstance(event, JobFinished)
            most = max(most, running)
        return most

    def check_books(self, report: DrainReport) -> None:
        """Every job that started finished once, and the report counts the same as we were told."""
        started = [each.id for each in self.of(JobStarted)]
        finished = [each.outcome.id for each in self.of(JobFinished)]
        refused = [each.outcome.id for each in self.of(JobRefused)]
        expect(len(set(started)) == len(started), f"a job started twice: {_twice(started)}")
        expect(len(set(finished)) == len(finished), f"a job ended in two outcomes: {_twice(finished)}")
        expect(not set(started) - set(finished), f"jobs without an outcome: {sorted(set(started) - set(finished))}")
        expect(not set(finished) - set(started), f"outcomes without a job: {sorted(set(finished) - set(started))}")
        told = Counter(each.outcome.status for each in self.of(JobFinished))
        told.update(each.outcome.status for each in self.of(JobRefused))
        counted = _counts(report)
        expect(told == counted, f"told were {_words(told)}, the report has {_words(counted)}")
        every = len(started) + len(refused)
        expect(report.accepted == every, f"{every} jobs were told of, the report has {report.accepted} accepted")


def _counts(report: DrainReport) -> Counter[Status]:
    every = {
        Status.COMPLETED: report.completed,
        Status.FAILED: report.failed,
        Status.REFUSED: report.refused,
        Status.DISCONNECTED: report.disconnected,
        Status.TIMED_OUT: report.timed_out,
        Status.CANCELLED: report.cancelled,
        Status.ABANDONED: len(report.abandoned),
        Status.LOST: report.lost,
    }
    return Counter({status: n for status, n in every.items() if n})


def _words(counts: Counter[Status]) -> str:
    return ", ".join(f"{counts[status]} {status.value}" for status in Status if counts[status]) or "none"


def _twice(numbers: list[int]) -> list[int]:
    return [number for number, n in Counter(numbers).items() if n > 1]
