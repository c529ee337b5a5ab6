"""The server's side of worker processes: what runs inside one, and how its jobs are counted outside."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from socket import socket
from typing import TYPE_CHECKING

from attrs import define

from tricorn.contracts import Dispatcher, Kind, Request
from tricorn.deadlines import Deadlines
from tricorn.errors import WorkerLost
from tricorn.events import (
    AcceptPaused,
    Event,
    JobFinished,
    JobOverdue,
    JobRefused,
    JobStarted,
    LoopBlocked,
    Outcome,
    Status,
)
from tricorn.ledger import Ledger
from tricorn.observers import Observers
from tricorn.wakeup import WakeUp

if TYPE_CHECKING:
    from tricorn.board import Board
    from tricorn.engine import Engine
    from tricorn.pulse import Pulse

__all__ = ["EngineCrew"]

#: Seconds that a worker drains at most while its parent lives: for ever, nearly.
PARENT_DECIDES_S = 1e6
#: Seconds between two signs of life.
BEAT_S = 1.0


class _Forwarder:
    """An observer in a worker that tells the parent what the parent's observers want to hear of jobs."""

    events = frozenset({AcceptPaused, JobFinished, JobOverdue, JobRefused, JobStarted, LoopBlocked})

    def __init__(self, board: Board, wanted: Observers) -> None:
        self._board = board
        self.quiet = not (wanted.of_starts or wanted.of_completions)

    def __call__(self, event: Event) -> None:
        self._board.send(event)


@define(eq=False)
class EngineCrew:
    """The one implementation of `tricorn.contracts.Crew`."""

    engine: Engine
    _watch: Callable[[int, Callable[[], None]], None] | None = None

    # -- inside a worker

    def attend(self, dispatcher: Dispatcher, board: Board, pulse: Pulse) -> int:
        """Serve the listeners."""
        board.enter()
        observers = Observers([_Forwarder(board, self.engine.service.ledger.observers)])
        engine = self.engine.replica(dispatcher, Ledger(observers, board, board.first_id), number=board.number)
        return _run(engine, pulse)

    def attend_channel(self, dispatcher: Dispatcher, channel: socket, pulse: Pulse) -> int:
        """Serve what is handed over."""
        from tricorn.remote_job import Reporter

        for request in self._requests_of_the_parent():
            request.disown()  # or they would stay open for as long as this worker lives
        engine = self.engine.replica(dispatcher, Ledger(Observers([Reporter(channel)])), channel)
        pulse.begin()
        return _run(engine, pulse)

    def _requests_of_the_parent(self) -> list[Request]:
        service = self.engine.service
        ledgers = [service.ledger] + ([service.parts[0].ledger] if service.parts is not None else [])
        return [job.request for ledger in ledgers for job in ledger.jobs.values()]

    def enter_child(self, request: Request) -> None:
        """The listeners are the parent's; a datagram still replies by its own, an item is acknowledged by its own."""
        for listener in self.engine.listeners:
            if listener.kind is Kind.STREAM or listener.kind is not request.kind:
                listener.disown()

    # -- in the parent

    def enlist(self, board: Board) -> None:
        """Count it in."""
        self.engine.service.ledger.boards.append(board)
        if self.engine.fullness is not None:  # from now on, though it is not there yet
            self.engine.fullness.tell(board.number, room=True)

    def dismiss(self, board: Board, ended: str, *, cancelled: bool) -> tuple[int, ...]:
        """Keep its counts, and give each job that it left an outcome."""
        status = Status.CANCELLED if cancelled else Status.LOST
        ledger = self.engine.service.ledger
        if self.engine.fullness is not None:
            self.engine.fullness.tell(board.number, room=False)
        without_outcome = ledger.absorb(board)
        left = [info for info in board.in_flight() if info.id not in board.told]
        unfinished = left[len(left) - min(len(left), without_outcome) :]
        for status_told in (board.told[info.id] for info in board.in_flight() if info.id in board.told):
            if without_outcome > len(unfinished):
                ledger.count(status_told)  # told of, and killed before it was counted
                without_outcome -= 1
        for info in unfinished:
            error = WorkerLost(f"the process of this job {ended}")
            outcome = Outcome(info.id, status, info.stage, info.peer, None, info.age, error, ended)
            ledger.observers.tell(JobFinished(outcome))
        ledger.count(status, without_outcome)
        return tuple(info.id for info in unfinished)

    def tell(self, event: Event) -> None:
        """Pass it on."""
        self.engine.service.ledger.observers.tell(event)

    def watch(self, fd: int, ready: Callable[[], None]) -> None:
        """Pass it on."""
        (self._watch or self.engine.intake.watch)(fd, ready)

    @property
    def drain_timeout(self) -> float:
        """That of the server."""
        return self.engine.drain_timeout

    @property
    def deadlines(self) -> Deadlines:
        """Those of the server."""
        return self.engine.deadlines

    def hang_up(self) -> None:
        """On the serving thread, after the stop."""
        self.engine.hang_up()

    def watching_with(self, watch: Callable[[int, Callable[[], None]], None]) -> EngineCrew:
        """For an event loop that waits by itself."""
        return EngineCrew(self.engine, watch)


def _run(engine: Engine, pulse: Pulse) -> int:
    from tricorn.forking import admit_termination
    from tricorn.pulse import Heart
    from tricorn.signals import draining_signals, in_handler

    parent = os.getppid()
    ledger, ready = engine.service.ledger, WakeUp()

    def count() -> tuple[int, set[int]]:
        jobs = list(ledger.jobs.values())
        return len(jobs), {job.id for job in jobs if job.overdue_by == "request"}

    def begin() -> None:
        pulse.begin()
        ready.clear()

    ready.signal()
    engine.intake.watch(ready.fileno(), begin)  # who first waits there, or passes by, serves
    heart = Heart(pulse, count, BEAT_S if engine.deadlines.request is None else BEAT_S / 4)

    def patience(seen: int) -> float | None:
        """The parent ends us when its own deadline passes; without one, ours counts."""
        if os.getppid() == parent:
            return PARENT_DECIDES_S
        if engine.dispatcher.in_place and not engine.dispatcher.needs_descriptors and in_handler(sys._getframe()):
            engine.hang_up()  # not only after the request: who starts in the parent's place needs the address now
        return None

    with draining_signals(engine, (signal.SIGTERM,), patience, again=False):
        admit_termination()
        heart.start()
        report = engine.run()
        heart.stop()
    return 1 if report.abandoned else 0
