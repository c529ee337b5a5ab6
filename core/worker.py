"""The inside of a worker process: the same engine, on the same listeners, with books that the parent can read."""

from __future__ import annotations

import signal

from attrs import evolve

from tricorn.admission import Permits
from tricorn.board import Board
from tricorn.contracts import Dispatcher
from tricorn.engine import Engine
from tricorn.events import AcceptPaused, Event, JobFinished, JobRefused, JobStarted
from tricorn.ledger import Ledger
from tricorn.observers import Observers
from tricorn.signals import draining_signals

__all__ = ["attend"]


class _Forwarder:
    """An observer that tells the parent what the parent's observers want to hear of jobs."""

    events = frozenset({AcceptPaused, JobFinished, JobRefused, JobStarted})

    def __init__(self, board: Board, wanted: Observers) -> None:
        self._board = board
        self.quiet = not (wanted.of_starts or wanted.of_completions)

    def __call__(self, event: Event) -> None:
        self._board.send(event)


def attend(parent: Engine, dispatcher: Dispatcher, board: Board, max_connections: int) -> int:
    """In the worker: serve until SIGTERM, then drain; returns the exit status."""
    board.enter()
    observers = Observers([_Forwarder(board, parent.service.ledger.observers)])
    service = evolve(
        parent.service,
        ledger=Ledger(observers, board, board.first_id),
        permits=Permits(min(max_connections, dispatcher.concurrency or max_connections)),
    )
    engine = Engine(
        dispatcher, service, parent.listeners, drain_timeout=parent.drain_timeout, attend=parent.attend, owner=False
    )
    with draining_signals(engine, (signal.SIGTERM,)):
        report = engine.run()
    return 0 if not report.abandoned else 1
