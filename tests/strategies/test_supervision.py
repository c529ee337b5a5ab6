"""Supervision: how long a worker that died young is not replaced."""

from __future__ import annotations

import select
import signal
from collections.abc import Callable
from typing import Any

import pytest

from tricorn import supervision
from tricorn.deadline import Deadline
from tricorn.events import WorkerEnded, WorkerStarted
from tricorn.pulse import Pulse
from tricorn.supervision import Supervisor, pause_after
from tricorn.testing.recorder import Recorder
from tricorn.wakeup import WakeUp


def test_schedule() -> None:
    """Nothing for the first, then a tenth of a second, doubled each time, up to half a minute."""
    pauses = [pause_after(failures) for failures in range(12)]
    assert pauses == [0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30]
    assert pause_after(10_000) == 30


class Station:
    """A post that notes its ends; its worker does ``work``."""

    def __init__(self, work: Callable[[], int]) -> None:
        self.work = work
        self.silence = WakeUp()
        self.pulse = Pulse()
        self.pid = 0

    def main(self) -> int:
        return self.work()

    def manned(self, pid: int) -> None:
        self.pid = pid

    def fileno(self) -> int:
        return self.silence.fileno()

    def hear(self) -> None: ...

    def ended(self, words: str, *, cancelled: bool) -> tuple[int, ...]:
        self.silence.close()
        self.pulse.close()
        return ()

    def served(self) -> int:
        return 0

    def began(self) -> bool:
        return False

    def busy(self) -> bool:
        return False


class Crew(Recorder):
    """What a supervisor needs of one."""

    def tell(self, event: Any) -> None:
        self(event)


def wait_for_ever() -> int:
    signal.pause()
    return 0


def supervise(size: int, work: Callable[[], int]) -> tuple[Supervisor, Crew]:
    crew = Crew()
    return Supervisor(size, lambda: Station(work), crew), crew  # type: ignore[arg-type]


def look_until(supervisor: Supervisor, crew: Crew, ends: int) -> None:
    while len(crew.of(WorkerEnded)) < ends:
        supervisor.look_after(10.0)


def test_young_deaths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that die young are replaced later and later."""
    monkeypatch.setattr(supervision, "BACK_OFF_S", (100.0, 500.0))
    now = [0.0]
    monkeypatch.setattr(supervision, "monotonic", lambda: now[0])
    supervisor, crew = supervise(1, lambda: 3)
    supervisor.start()
    waits = []
    for ends in range(1, 5):
        look_until(supervisor, crew, ends)
        waits.append(supervisor.until_due())
        supervisor.replace_due()
        assert len(crew.of(WorkerStarted)) == ends  # it is not time yet
        now[0] += waits[-1] or 0.0
        supervisor.replace_due()
    assert waits == [100, 200, 400, 500]
    look_until(supervisor, crew, 5)
    assert supervisor.join(Deadline.after(10))
    supervisor.close()
    started, ended = crew.of(WorkerStarted), crew.of(WorkerEnded)
    assert [each.replaces for each in started] == [None, *(each.pid for each in started[:-1])]
    assert {(each.reason, each.expected) for each in ended} == {("exited with status 3", False)}


def test_old_death(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that had served for a while is replaced at once, and what went before is forgotten."""
    now = [0.0]
    monkeypatch.setattr(supervision, "monotonic", lambda: now[0])
    supervisor, crew = supervise(1, wait_for_ever)
    supervisor.start()
    for ends in (1, 2):
        now[0] += supervision.HEALTHY_S
        supervisor.cancel()
        look_until(supervisor, crew, ends)
        assert supervisor.until_due() == 0
        supervisor.replace_due()
    assert len(crew.of(WorkerStarted)) == 3
    end(supervisor)


def end(supervisor: Supervisor) -> None:
    supervisor.cancel()
    assert supervisor.join(Deadline.after(10))
    supervisor.close()


def test_out_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no process can be had, it tries again later, and starts those that it can."""
    monkeypatch.setattr(supervision, "BACK_OFF_S", (0.0, 0.0))
    fork = supervision.fork_child
    refusals = [OSError(11, "no more processes")] * 2

    def fork_child(*arguments: Any, **options: Any) -> Any:
        if refusals:
            raise refusals.pop()
        return fork(*arguments, **options)

    monkeypatch.setattr(supervision, "fork_child", fork_child)
    supervisor, crew = supervise(3, wait_for_ever)
    supervisor.start()
    assert len(crew.of(WorkerStarted)) == 1
    supervisor.replace_due()
    assert len(crew.of(WorkerStarted)) == 3
    end(supervisor)


def test_readable() -> None:
    """Its descriptor is readable when a worker has ended, so that a loop can wait for it."""
    supervisor, crew = supervise(1, lambda: 0)
    assert not select.select([supervisor.fileno()], [], [], 0)[0]
    supervisor.start()
    assert select.select([supervisor.fileno()], [], [], 10)[0]
    look_until(supervisor, crew, 1)
    end(supervisor)


def test_not_replaced_at_the_end() -> None:
    """Once it ends, nobody is replaced any more."""
    supervisor, crew = supervise(2, wait_for_ever)
    supervisor.start()
    supervisor.cancel()
    assert supervisor.join(Deadline.after(10))
    assert supervisor.until_due() is None
    assert len(crew.of(WorkerEnded)) == 2
    assert {each.reason for each in crew.of(WorkerEnded)} == {"was killed by SIGKILL"}
    supervisor.close()
