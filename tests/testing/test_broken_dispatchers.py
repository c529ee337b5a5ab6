"""The kit finds dispatchers that break the law, and says which."""

from __future__ import annotations

import gc
import os
import threading

import pytest
from attrs import define, field

from tricorn.contracts import Dispatcher, Intake, Job, Kind
from tricorn.deadline import Deadline
from tricorn.strategies import ProcessPool
from tricorn.testing import bounds, check_dispatcher


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """What never comes is not waited for long."""
    monkeypatch.setattr(bounds, "BOUND_S", 1.0)


class Spawn(Dispatcher):
    """The example of the contract: a thread for each request, and nothing else."""

    kinds = frozenset({Kind.STREAM})

    def dispatch(self, job: Job) -> None:
        threading.Thread(target=job.run, daemon=True).start()


class Forgetful(Spawn):
    def dispatch(self, job: Job) -> None:
        job.request.abort()


class Serial(Spawn):
    def dispatch(self, job: Job) -> None:
        job.run()


class Abrupt(Spawn):
    """Takes the end of the intake for the end of the jobs."""

    def serve(self, intake: Intake) -> None:
        running = []
        for job in intake:
            running.append(job)
            self.dispatch(job)
        for job in running:
            job.request.abort()


@define(eq=False)
class Hoarding(Spawn):
    _fds: list[int] = field(factory=list, init=False)

    def serve(self, intake: Intake) -> None:
        self._fds.append(os.dup(0))
        super().serve(intake)


class Patient(Spawn):
    """Waits for its jobs whatever the deadline says."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []

    def dispatch(self, job: Job) -> None:
        self.threads.append(threading.Thread(target=job.run, daemon=True))
        self.threads[-1].start()

    def join(self, deadline: Deadline) -> bool:
        for thread in self.threads:
            thread.join()
        return True


BROKEN: dict[type[Dispatcher], str] = {
    Forgetful: "every accepted request is served, and ends in exactly one outcome; request 0 of 24 got ''",
    Serial: "only 1 of 2 requests could run at once",
    Abrupt: "a drain lets running requests finish",
    Hoarding: "left behind: descriptor",
    Patient: "a drain ends (by its deadline|idle connections at once)",
}


@pytest.mark.usefixtures("short")
@pytest.mark.filterwarnings("ignore:Exception ignored")  # sockets of jobs that were forgotten
@pytest.mark.parametrize(("broken", "found"), BROKEN.items(), ids=lambda each: getattr(each, "__name__", ""))
def test_found(broken: type[Dispatcher], found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each broken dispatcher is found, by its name, the kind of request, and the law."""
    monkeypatch.setattr("tricorn.testing.leaks.PATIENCE_S", 0.1)
    dup = os.dup
    opened: list[int] = []
    monkeypatch.setattr(os, "dup", lambda fd: opened.append(dup(fd)) or opened[-1])
    with pytest.raises(AssertionError, match=f"^{broken.__name__} with stream requests breaks the law: .*{found}"):
        check_dispatcher(broken)
    for fd in opened:
        os.close(fd)
    gc.collect()


def test_right() -> None:
    """The example of the contract keeps all laws."""
    check_dispatcher(Spawn)


@pytest.mark.usefixtures("short")
def test_room_that_is_not_there() -> None:
    """A single process that serves one after the other has no room for two."""
    with pytest.raises(AssertionError, match=r"^ProcessPool .*only 1 of 2 requests could run at once"):
        check_dispatcher(lambda: ProcessPool(workers=1), capacity=2)


def test_pause() -> None:
    """Handlers of the kit wait by the given function."""
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        threading.Event().wait(seconds)

    check_dispatcher(Spawn, pause=pause)
    assert pauses
