"""The default observer: what happened, in the log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from logging import DEBUG, ERROR, INFO, WARNING
from typing import Any

from tricorn import events as facts
from tricorn.errors import (
    AuthenticationError,
    FramingError,
    HandshakeError,
    Overloaded,
    PeerRefused,
    RemoteError,
    TransportError,
)
from tricorn.events import Event, Outcome, Status
from tricorn.observe.escape import escape, escape_address, escape_error, escape_traceback
from tricorn.observe.spacing import Spacing

__all__ = ["LogObserver"]

#: The level at which each kind of event is told at the loudest.
_LOUDEST: dict[type, int] = {
    facts.JobStarted: DEBUG,
    facts.ServerStopping: INFO,
    facts.ServerStarted: INFO,
    facts.WorkerStarted: INFO,
    facts.ServerClosed: WARNING,
    facts.JobRefused: WARNING,
    facts.AcceptPaused: WARNING,
    facts.WorkerEnded: WARNING,
    facts.JobOverdue: WARNING,
    facts.LoopBlocked: WARNING,
    facts.ReloadFailed: WARNING,
    facts.JobFinished: ERROR,
}

_WANTED = [
    (level, frozenset(kind for kind, loudest in _LOUDEST.items() if loudest >= level))
    for level in (DEBUG, INFO, WARNING, ERROR)
]

_LEVELS = {
    Status.COMPLETED: DEBUG,
    Status.DISCONNECTED: DEBUG,
    Status.TIMED_OUT: DEBUG,
    Status.CANCELLED: INFO,
    Status.REFUSED: INFO,
    Status.ABANDONED: WARNING,
    Status.LOST: WARNING,
    Status.FAILED: ERROR,
}

#: Refusals that a peer, or many of them, can bring about at will.
_ORDINARY = (AuthenticationError, FramingError, HandshakeError, Overloaded, PeerRefused, ConnectionError)
#: ... and what the same, and those below them, are called when they come from another process.
_ORDINARY_NAMES = frozenset(
    {
        "AuthenticationError",
        "BrokenPipeError",
        "ConnectionAbortedError",
        "ConnectionError",
        "ConnectionLost",
        "ConnectionRefusedError",
        "ConnectionResetError",
        "FramingError",
        "HandshakeError",
        "HandshakeTimeout",
        "Overloaded",
        "PeerRefused",
    }
)


class LogObserver:
    """Writes one log record for each event worth one, to ``logger``; without one, to ``logging.getLogger("tricorn")``.

    ========  ==============================================================================================
    ERROR     a request failed: the peer, the stage, the traceback (that of the other process if it was one)
    WARNING   a request failed in the transport, was abandoned or lost, or could not be taken in because something
              of ours raised; accepting paused; a worker process died; the server closed and left something behind
    INFO      a request was refused or cancelled; the server started, stops, closed; a worker came or went
    DEBUG     a request started, completed, timed out, or the peer went away
    ========  ==============================================================================================

    Refusals that come in numbers (by a limit, by ``verify``, by a listener) are told once a second for each reason,
    with how many like it were not told.

    What peers may have chosen is escaped (`tricorn.observe.escape`), so nobody can forge a record.  The record of a
    failed request has ``exc_info``, for log handlers that want the exception itself; its escaped text is in
    ``exc_text`` already, which `logging.Formatter` prefers.  Safe from any thread; blocks as long as the logger's
    handlers do.  Never raises an `Exception`: a record that cannot be written is counted in `dropped`.

    Replaces ``BaseServer.handle_error``, which prints to standard error.
    """

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self.logger = logging.getLogger("tricorn") if logger is None else logger
        #: How many records could not be written because logging raised.
        self.dropped = 0
        self._refusals = Spacing()
        self._tellers: dict[type, Callable[[Any], None]] = {
            facts.ServerStarted: self._server_started,
            facts.ServerStopping: self._server_stopping,
            facts.ServerClosed: self._server_closed,
            facts.JobStarted: self._job_started,
            facts.JobFinished: self._job_finished,
            facts.JobOverdue: self._job_overdue,
            facts.LoopBlocked: self._loop_blocked,
            facts.ReloadFailed: self._reload_failed,
            facts.JobRefused: self._job_refused,
            facts.AcceptPaused: self._accept_paused,
            facts.WorkerStarted: self._worker_started,
            facts.WorkerEnded: self._worker_ended,
        }

    @property
    def events(self) -> frozenset[type]:
        """The events that would be written at the logger's present level."""
        for level, kinds in _WANTED:
            if self.logger.isEnabledFor(level):
                return kinds
        return frozenset()

    @property
    def quiet(self) -> bool:
        """True while jobs that start and complete as they should are not written: at any level above DEBUG."""
        return not self.logger.isEnabledFor(DEBUG)

    def __call__(self, event: Event) -> None:
        """Write ``event``, if its level is enabled.  Unknown events are left alone."""
        teller = self._tellers.get(type(event))
        if teller is None:
            return
        try:
            teller(event)
        except Exception:  # a full disk under the log must not cost a request
            self.dropped += 1

    def _write(self, level: int, message: str, *args: object, error: BaseException | None = None) -> None:
        logger = self.logger
        if not logger.isEnabledFor(level):
            return
        exc_info = None if error is None else (type(error), error, error.__traceback__)
        record = logger.makeRecord(logger.name, level, __file__, 0, message, args, exc_info)
        if error is not None:
            record.exc_text = escape_traceback(error)
        logger.handle(record)

    def _server_started(self, event: facts.ServerStarted) -> None:
        self._write(INFO, "serving on %s, pid %d", ", ".join(map(escape_address, event.addresses)), event.pid)

    def _server_stopping(self, event: facts.ServerStopping) -> None:
        self._write(INFO, "stopping, %d in flight", event.in_flight)

    def _server_closed(self, event: facts.ServerClosed) -> None:
        self._write(INFO if event.report.clean else WARNING, "closed: %s", event.report)

    def _job_started(self, event: facts.JobStarted) -> None:
        if self.logger.isEnabledFor(DEBUG):
            self._write(DEBUG, "request %d from %s started", event.id, escape_address(event.peer))

    def _job_finished(self, event: facts.JobFinished) -> None:
        outcome = event.outcome
        level = _LEVELS[outcome.status]
        if outcome.status is Status.REFUSED:
            self._tell_refusal(outcome)
            return
        if outcome.status is not Status.FAILED or outcome.error is None:
            self._tell_outcome(level, outcome)
        elif isinstance(outcome.error, TransportError):
            self._tell_outcome(WARNING, outcome)
        else:
            self._tell_outcome(level, outcome, outcome.error)

    def _reload_failed(self, event: facts.ReloadFailed) -> None:
        self._write(WARNING, "reloading failed, and what was there stays: %s", escape_error(event.error))

    def _job_overdue(self, event: facts.JobOverdue) -> None:
        job = event.job
        self._write(
            WARNING, "request %d from %s runs for longer than %.3f s, in %s; its connection was cut; it is at: %s",
            job.id, escape_address(job.peer), event.limit, escape(job.where), escape(job.stack),
        )  # fmt: skip

    def _loop_blocked(self, event: facts.LoopBlocked) -> None:
        self._write(
            WARNING, "the event loop is blocked, and serves nobody, for %.1f s; it is at: %s",
            event.seconds, escape(event.stack),
        )  # fmt: skip

    def _job_refused(self, event: facts.JobRefused) -> None:
        outcome = event.outcome
        if outcome.error is not None:
            self._tell_refusal(outcome)
        elif self.logger.isEnabledFor(INFO):
            untold = self._refusals.pass_or_count(outcome.detail)
            if untold is not None:
                self._tell_outcome(INFO, outcome, untold=untold)

    def _tell_refusal(self, outcome: Outcome) -> None:
        if outcome.error is None or _is_ordinary(outcome.error):
            self._tell_outcome(INFO, outcome)
        else:
            self._tell_outcome(WARNING, outcome, outcome.error)

    def _tell_outcome(
        self, level: int, outcome: Outcome, error: BaseException | None = None, untold: int = 0
    ) -> None:  # fmt: skip
        if self.logger.isEnabledFor(level):
            more = f" ({untold} more of these since the last one told)" if untold else ""
            self._write(
                level, "request %d from %s %s at stage %s after %.3f s%s%s",
                outcome.id, escape_address(outcome.peer), outcome.status.value, outcome.stage.value, outcome.age,
                _reason(outcome), more, error=error,
            )  # fmt: skip

    def _accept_paused(self, event: facts.AcceptPaused) -> None:
        self._write(
            WARNING, "accepting paused for %.3f s: %s (%d such pauses before this one not told)",
            event.pause, escape_error(event.error), event.suppressed,
        )  # fmt: skip

    def _worker_started(self, event: facts.WorkerStarted) -> None:
        instead = "" if event.replaces is None else f" in place of {event.replaces}"
        self._write(INFO, "worker %d started%s", event.pid, instead)

    def _worker_ended(self, event: facts.WorkerEnded) -> None:
        level = INFO if event.expected and not event.lost else WARNING
        self._write(level, "worker %d ended: %s; %d requests lost", event.pid, escape(event.reason), len(event.lost))


def _is_ordinary(error: BaseException) -> bool:
    """Also where it comes from another process, as text."""
    return isinstance(error, _ORDINARY) or (isinstance(error, RemoteError) and error.kind in _ORDINARY_NAMES)


def _reason(outcome: Outcome) -> str:
    parts = [escape(outcome.detail)] if outcome.detail else []
    if outcome.error is not None:
        parts.append(escape_error(outcome.error))
    return "".join(f": {part}" for part in parts)
