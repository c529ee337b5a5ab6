"""What ``tricorn serve`` does: one server in the main thread, from the composition to the exit status."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from time import monotonic
from types import FrameType
from typing import Any

from attrs import define, frozen

from tricorn import names
from tricorn.admission import Admission
from tricorn.cli.addresses import written_address
from tricorn.cli.leaving import LEAVE_GRACE_S, bounded, in_background, leave_now
from tricorn.cli.output import complain, say
from tricorn.cli.status import CLEAN, UNCLEAN
from tricorn.composition import check_composition
from tricorn.contracts import Dispatcher, Kind, Listener, Transport
from tricorn.deadlines import Deadlines
from tricorn.engine import CANCEL_GRACE_S, OVERRUN_S
from tricorn.errors import IncompatibleParts
from tricorn.events import DrainReport, Event, JobInfo, ServerStarted
from tricorn.forking import refuse_if_threaded
from tricorn.observe.escape import escape, escape_address
from tricorn.server import Server

__all__ = ["Parts", "Session", "compose"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
#: Seconds in which a thread that was interrupted at the drain deadline gets out of what it does.
_MOMENT_S = 0.3


@define(eq=False)
class _Counted(Transport):
    """A transport that remembers how many listeners it made: a name may have several addresses."""

    scheme: str
    inner: Transport
    listeners: int = 0

    @property
    def kind(self) -> Kind:  # type: ignore[override]
        return self.inner.kind

    def listen(self) -> Sequence[Listener]:
        made = self.inner.listen()
        self.listeners = len(made)
        return made


@frozen
class Parts:
    """The three corners, which have been seen to fit."""

    transports: Sequence[_Counted]
    dispatcher: Dispatcher
    handler: Any


def compose(transports: Sequence[str], dispatcher: str, handler: str) -> Parts:
    """The parts that the texts name; the current directory can be imported from.

    Raises `~tricorn.errors.ConfigurationError`, or `~tricorn.errors.StateError` for a dispatcher that forks
    if importing the handler started a thread.
    """
    if not sys.flags.safe_path and sys.path[:1] not in ([""], [os.getcwd()]):
        sys.path.insert(0, os.getcwd())
    made = [names.transport(text) for text in transports]
    parts = Parts(
        [_Counted(text.partition(":")[0].lower(), transport) for text, transport in zip(transports, made, strict=True)],
        names.dispatcher(dispatcher),
        names.handler(handler),
    )
    check_composition(made, parts.dispatcher, parts.handler)
    for text, transport in zip(transports, made, strict=True):
        if transport.in_process:
            raise IncompatibleParts(f"nobody could connect to '{text}', which exists only inside the serving process")
    if parts.dispatcher.forks:
        refuse_if_threaded(type(parts.dispatcher).__name__)
    return parts


class Session:
    """One server's life on the command line.  Observes it, to know when it can be reached and when it stops."""

    events = frozenset({ServerStarted})

    def __init__(
        self, parts: Parts, *, drain_timeout: float, admission: Admission, deadlines: Deadlines, quiet: bool,
        user: str | None, group: str | None,
    ) -> None:  # fmt: skip
        self._parts = parts
        self._quiet = quiet
        self._drain_timeout = drain_timeout
        self._server = Server(
            parts.transports, parts.dispatcher, parts.handler, observers=[self], drain_timeout=drain_timeout,
            admission=admission, deadlines=deadlines, user=_number_or_name(user), group=_number_or_name(group),
        )  # fmt: skip
        self._pid = os.getpid()
        self._stopped_at: float | None = None
        self._over = threading.Event()
        self._telling = threading.Lock()
        self._status = UNCLEAN

    def run(self) -> int:
        """Serve until a signal or `Server.request_stop`; print what there is to tell; returns the exit status."""
        self._server.bind()
        for number in _SIGNALS:  # for before and after; between them are those of serve_forever
            signal.signal(number, self._on_signal_outside)
        signal.signal(signal.SIGHUP, lambda number, frame: None)  # there is nothing to reload yet, or any more
        report = self._server.serve_forever(signals=True)
        self._over.set()
        self._conclude(report)
        left = self._drain_timeout - (monotonic() - (self._stopped_at or monotonic()))
        patience = max(0.0, left) if self._status == CLEAN else 0.0
        in_background(leave_now, self._status, patience + LEAVE_GRACE_S)
        return self._status

    # -- beginning

    def __call__(self, event: Event) -> None:
        """Clients can connect."""
        assert isinstance(event, ServerStarted)
        addresses = iter(event.addresses)
        written = [
            written_address(transport.scheme, next(addresses))
            for transport in self._parts.transports
            for _ in range(transport.listeners)
        ]
        for number in _SIGNALS:
            signal.signal(number, self._besides(signal.getsignal(number)))
        say(f"serving {' '.join(written)}")

    def _on_signal_outside(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            return
        if self._over.is_set():
            leave_now(self._status, 0.0)
        self._server.request_stop()

    def _besides(self, drain: Any) -> Callable[[int, FrameType | None], None]:
        """The server's own signal handler, and the watch that is kept from then on."""

        def on_signal(number: int, frame: FrameType | None) -> None:
            if os.getpid() == self._pid:
                self._watch()
            drain(number, frame)

        return on_signal

    # -- ending

    def _watch(self) -> None:
        """A handler that cannot be interrupted must not keep the process for ever; a forked one never runs in it."""
        first = self._stopped_at is None
        self._stopped_at = self._stopped_at or monotonic()
        if not self._parts.dispatcher.forks:  # and a thread would make it refuse the request that it is at
            in_background(self._leave_stuck, self._drain_timeout if first else 0.0)

    def _leave_stuck(self, patience: float) -> None:
        reports: list[DrainReport] = []
        bounded(lambda: reports.append(self._server.drain(patience)), patience + CANCEL_GRACE_S + OVERRUN_S + _MOMENT_S)
        if self._over.wait(_MOMENT_S):
            return
        if reports:
            bounded(lambda: self._conclude(reports[0]))
        else:
            complain("the server could not be ended in time; leaving without a report")
        leave_now(UNCLEAN, 0.0)

    def _conclude(self, report: DrainReport) -> None:
        """Print the report, once."""
        if not self._telling.acquire(blocking=False):
            return
        self._status = CLEAN if report.clean else UNCLEAN
        if not self._quiet:
            say("\n".join([str(report), *(line for job in report.abandoned for line in _job_lines(job))]))


def _number_or_name(text: str | None) -> str | int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else text


def _job_lines(job: JobInfo) -> list[str]:
    peer, where = escape_address(job.peer), escape(job.where)
    place = f" in {where}" if where else ""
    stack = [f"    {escape(line)}" for line in job.stack.splitlines()]
    return [f"  abandoned: request {job.id} from {peer}{place}, stage {job.stage.value}, {job.age:.3f} s", *stack]
