"""Supervision: whoever dies in the middle of being relieved, the number of workers stays what it is to be."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import pytest

from tricorn import supervision
from tricorn.care import Care
from tricorn.deadline import Deadline
from tricorn.deadlines import Deadlines
from tricorn.events import WorkerEnded, WorkerStarted
from tricorn.pulse import Pulse
from tricorn.supervision import Supervisor
from tricorn.testing.recorder import Recorder
from tricorn.wakeup import WakeUp

CARE = Care(hang_timeout=60.0)


class Station:
    """A post whose worker begins to serve, unless it is not to, and goes when it is told."""

    def __init__(self, work: Callable[[Pulse], int]) -> None:
        self.work, self.pulse, self.silence = work, Pulse(), WakeUp()
        self.has_job = False

    def main(self) -> int:
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        return self.work(self.pulse)

    def manned(self, pid: int) -> None: ...

    def fileno(self) -> int:
        return self.silence.fileno()

    def hear(self) -> None: ...

    def began(self) -> bool:
        return False

    def served(self) -> int:
        return 0

    def busy(self) -> bool:
        return self.has_job

    def ended(self, words: str, *, cancelled: bool) -> tuple[int, ...]:
        self.silence.close()
        self.pulse.close()
        return ()


class Crew(Recorder):
    """What a supervisor needs of one."""

    drain_timeout = 10.0
    deadlines = Deadlines()

    def tell(self, event: Any) -> None:
        self(event)


class Staff:
    """A supervisor, and a way to turn it until something has come about."""

    def __init__(self, size: int, work: Callable[[Pulse], int], care: Care = CARE) -> None:
        self.crew = Crew()
        self.work = work
        self.supervisor = Supervisor(size, self._post, self.crew, care)  # type: ignore[arg-type]
        self.supervisor.start()

    def _post(self) -> Any:
        return Station(self.work)

    @property
    def pids(self) -> list[int]:
        """Who is there, oldest first."""
        gone = {each.pid for each in self.crew.of(WorkerEnded)}
        return [each.pid for each in self.crew.of(WorkerStarted) if each.pid not in gone]

    @property
    def ready(self) -> int:
        return sum(bool(post.pulse.ready_at) for post in self.supervisor.posts())

    def turn_until(self, what: Callable[[], bool], seconds: float = 20.0) -> bool:
        until = monotonic() + seconds
        while not what() and monotonic() < until:
            due = self.supervisor.until_due()
            left = max(0.0, until - monotonic())
            self.supervisor.look_after(left if due is None else min(due, left))
            self.supervisor.replace_due()
        return what()


@pytest.fixture
def staff(nothing_left_behind: None) -> Iterator[Callable[..., Staff]]:
    """Start some workers."""
    made: list[Staff] = []

    def start(*arguments: Any, **options: Any) -> Staff:
        made.append(Staff(*arguments, **options))
        return made[-1]

    yield start
    for each in made:
        each.supervisor.cancel()
        assert each.supervisor.join(Deadline.after(10))
        each.supervisor.close()


def serve(pulse: Pulse) -> int:
    pulse.begin()
    while True:
        signal.pause()


def idle(pulse: Pulse) -> int:
    while True:
        signal.pause()


def serve_and_stay(pulse: Pulse) -> int:
    """Serves, and does not end though it is told to."""
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    return serve(pulse)


def test_a_successor_that_dies_while_the_other_still_drains(staff: Callable[..., Staff]) -> None:
    """Is replaced: nobody else is there to serve."""
    some = staff(1, serve_and_stay)
    assert some.turn_until(lambda: some.ready == 1)
    some.supervisor.renew()
    assert some.turn_until(lambda: len(some.pids) == 2 and some.ready == 1)
    old, successor = some.pids
    os.kill(successor, signal.SIGKILL)
    assert some.turn_until(lambda: successor not in some.pids and some.ready == 1)
    assert old in some.pids


def test_one_that_dies_while_its_successor_starts(staff: Callable[..., Staff]) -> None:
    """Is replaced by that one, and by no other."""
    some = staff(2, serve)
    assert some.turn_until(lambda: some.ready == 2)
    some.work = idle
    some.supervisor.renew()
    assert some.turn_until(lambda: len(some.pids) == 3)
    for pid in some.pids[:2]:  # the first is being relieved, the second not yet
        os.kill(pid, signal.SIGKILL)
    some.work = serve
    assert some.turn_until(lambda: len(some.crew.of(WorkerEnded)) == 2 and len(some.pids) == 2 and some.ready == 1)
    assert not some.turn_until(lambda: len(some.pids) != 2, seconds=0.7)


def test_a_successor_that_takes_over_a_descriptors_number(staff: Callable[..., Staff]) -> None:
    """Whatever numbers are used again: each reload replaces all, and who dies after it is replaced."""
    some = staff(2, serve)
    assert some.turn_until(lambda: some.ready == 2)
    for _ in range(4):
        before = set(some.pids)
        some.supervisor.renew()
        assert some.turn_until(lambda before=before: len(some.pids) == 2 and not before & set(some.pids))  # type: ignore[misc]
    for pid in some.pids:
        os.kill(pid, signal.SIGKILL)
    dead = set(some.pids)
    assert some.turn_until(lambda: not dead & set(some.pids) and some.ready == 2)


def test_successors_that_fail(staff: Callable[..., Staff]) -> None:
    """Are tried again later and later, and the old ones serve on."""
    some = staff(2, serve)
    assert some.turn_until(lambda: some.ready == 2)
    before = some.pids
    some.work = lambda pulse: 3
    some.supervisor.renew()
    some.turn_until(lambda: False, seconds=2.0)
    failed = some.crew.of(WorkerEnded)
    assert 2 <= len(failed) <= 6  # at 0, 0.1, 0.3, 0.7, 1.5 seconds
    assert {each.reason for each in failed} == {"failed at its start: exited with status 3"}
    assert some.pids[:2] == before
    some.work = serve
    assert some.turn_until(lambda: len(some.pids) == 2 and not set(before) & set(some.pids))


def test_a_start_that_fails_slowly(staff: Callable[..., Staff], monkeypatch: pytest.MonkeyPatch) -> None:
    """Is a failed start, however long it took."""
    monkeypatch.setattr(supervision, "HEALTHY_S", 0.0)
    some = staff(1, lambda pulse: 4, Care(start_attempts=3))
    assert some.turn_until(lambda: some.supervisor.gave_up is not None)
    assert "3 in a row exited with status 4" in str(some.supervisor.gave_up)
    assert len(some.crew.of(WorkerStarted)) == 3


def test_one_that_never_begins(staff: Callable[..., Staff]) -> None:
    """Is killed, and the next may relieve the old one."""
    some = staff(1, serve, Care(hang_timeout=1.0))
    assert some.turn_until(lambda: some.ready == 1)
    some.work = idle
    some.supervisor.renew()
    assert some.turn_until(lambda: len(some.pids) == 2)
    idler = some.pids[1]
    assert some.turn_until(lambda: idler not in some.pids)
    assert "did not begin to serve within 1.0 s" in next(
        each.reason for each in some.crew.of(WorkerEnded) if each.pid == idler
    )


def test_never_given_up_after_one_has_served(staff: Callable[..., Staff]) -> None:
    """What comes later is tried for ever."""
    some = staff(1, serve, Care(start_attempts=2, hang_timeout=60.0))
    assert some.turn_until(lambda: some.ready == 1)
    some.work = lambda pulse: 5
    os.kill(some.pids[0], signal.SIGKILL)
    assert some.turn_until(lambda: len(some.crew.of(WorkerEnded)) == 5)
    assert some.supervisor.gave_up is None


def test_workers_that_die_again_and_again(staff: Callable[..., Staff], monkeypatch: pytest.MonkeyPatch) -> None:
    """Though each had served for long enough: no more are started than so many in ten seconds."""
    monkeypatch.setattr(supervision, "HEALTHY_S", 0.0)

    def serve_briefly(pulse: Pulse) -> int:
        pulse.begin()
        return 6

    some = staff(1, serve_briefly)
    assert not some.turn_until(lambda: len(some.crew.of(WorkerStarted)) > 11, seconds=3.0)
    assert len(some.crew.of(WorkerStarted)) == 11
    assert 0 < (some.supervisor.until_due() or 0) <= 10


def test_all_were_stopped(staff: Callable[..., Staff], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wakes up late gives everybody a fresh period."""
    some = staff(2, serve, Care(hang_timeout=30.0))
    assert some.turn_until(lambda: some.ready == 2)
    clock = [monotonic() + 1000]
    monkeypatch.setattr(supervision, "monotonic", lambda: clock[0])
    some.supervisor._inspect()
    clock[0] += 0.5
    some.supervisor._inspect()
    assert len(some.pids) == 2 and not some.crew.of(WorkerEnded)
    for _ in range(3):  # and then none comes
        clock[0] += 30.5
        some.supervisor._look_at_time = clock[0]
        some.supervisor._inspect()
    assert some.turn_until(lambda: len(some.crew.of(WorkerEnded)) == 2)
    assert all("gave no sign of life for" in each.reason for each in some.crew.of(WorkerEnded))


def test_it_sleeps_until_somebody_may_be_due(staff: Callable[..., Staff]) -> None:
    """Where there is nothing but signs of life to look for, that is about when those could be missing."""
    some = staff(2, serve, Care(hang_timeout=30.0))
    assert some.turn_until(lambda: some.ready == 2)
    some.supervisor.look_after(0)
    assert 20 < some.supervisor._look_at_time - monotonic() <= 31
