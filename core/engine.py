"""Serving and ending: the part of a server that runs, in the server's process or in a worker's."""

from __future__ import annotations

import _thread
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import Context
from importlib import import_module
from socket import socket
from time import monotonic
from typing import TYPE_CHECKING, Any

from attrs import frozen

from tricorn.admission import Admission, Permits, Wait
from tricorn.contracts import Dispatcher, Kind, Listener
from tricorn.crew import EngineCrew
from tricorn.deadline import Deadline
from tricorn.deadlines import NO_DEADLINES, Deadlines
from tricorn.events import DrainReport, JobInfo, ServerStopping, Status
from tricorn.intake import ListenerIntake
from tricorn.ledger import Ledger
from tricorn.service import Service
from tricorn.timekeeper import Timekeeper

if TYPE_CHECKING:
    from tricorn.channel_intake import ChannelIntake
    from tricorn.fullness import Fullness

__all__ = ["Engine", "Plan"]

#: Seconds that cancelled jobs get to fall over the connection that was cut under them.
CANCEL_GRACE_S = 0.2
#: Seconds after which a dispatcher whose ``serve`` does not return at the end is left behind.
OVERRUN_S = 1.0
#: How long at most a deadline that was moved closer goes unnoticed by who waits for jobs, in seconds.
DRAIN_SLICE_S = 0.05


@frozen(eq=False)
class Plan:
    """What a server was told, in the form in which every process that serves for it needs it."""

    call: Callable[[Any], object]
    context: Context
    verify: Callable[[Any], bool] | None
    admission: Admission
    drain_timeout: float
    authenticate: Callable[[Any], object] | None = None
    authenticate_timeout: float = 5.0
    deadlines: Deadlines = NO_DEADLINES


def _make_fullness(admission: Admission) -> Fullness | None:
    if isinstance(admission.when_full, Wait):
        return None
    from tricorn.fullness import Fullness

    return Fullness()


class Engine:
    """One dispatcher on one intake, from the first job to the report.

    `run` belongs to the serving thread.  `request_stop` is safe anywhere, a signal handler included: it takes no
    lock.  The end is conducted by the serving thread; where that thread runs the jobs itself (``in_place``), by a
    short-lived thread of its own, since a thread inside a handler cannot watch a deadline.
    """

    def __init__(
        self, dispatcher: Dispatcher, plan: Plan, ledger: Ledger, listeners: Sequence[Listener], *,
        channel: socket | None = None, owner: bool = True, neighbours: tuple[Fullness, int] | None = None,
    ) -> None:  # fmt: skip
        if dispatcher.forks:  # what is imported before a fork, children need not import
            import_module("tricorn.remote_job")
        self._owner = owner
        self._plan = plan
        self.dispatcher = dispatcher
        #: Which of the worker processes have room, where those are to turn peers away.
        self.fullness = _make_fullness(plan.admission) if dispatcher.forks else None
        self.service = self._make_service(ledger, neighbours, admits=channel is None)
        self.listeners = tuple(listeners)
        self._timekeeper = Timekeeper(ledger, plan.deadlines.shortest)
        self.intake = self._intake(channel)
        self.drain_timeout = plan.drain_timeout
        self.report: DrainReport | None = None
        self.done = threading.Event()
        #: Called when a job in the serving thread outlives the deadline; see `tricorn.signals`.
        self.interrupt: Callable[[], None] | None = None
        #: Called between two looks at the jobs of a drain.
        self.between: Callable[[], None] | None = None
        self._deadline: Deadline | None = None
        self._conductor = threading.Lock()
        self._conducting = False
        #: True while a thread is in `run` or `handle_one`.
        self.serving = False
        self._off_duty = threading.Event()
        self._off_duty.set()
        self._stopped_at = 0.0
        self._pid = os.getpid()

    def _make_service(self, ledger: Ledger, neighbours: tuple[Fullness, int] | None, *, admits: bool) -> Service:
        plan, admission = self._plan, self._plan.admission
        most = admission.max_connections
        capacity = min(most, self.dispatcher.concurrency or most)
        permits = Permits(capacity)
        gate = None
        if admits and admission.needs_gate:
            from tricorn.overload import make_gate

            permits, gate = make_gate(admission, capacity, ledger, neighbours)
        return Service(
            plan.call, plan.context, ledger, permits, EngineCrew(self), plan.verify,
            authenticate=plan.authenticate, authenticate_timeout=plan.authenticate_timeout, gate=gate,
            deadlines=plan.deadlines,
        )  # fmt: skip

    def _intake(self, channel: socket | None) -> ListenerIntake | ChannelIntake:
        if channel is not None:
            from tricorn.channel_intake import ChannelIntake

            return ChannelIntake(channel, self.service)
        intake = ListenerIntake(list(self.listeners), self.service)
        intake.leaving.owner = self._owner
        intake.leaving.hurry = self._drain_jobs
        dispatcher = self.dispatcher
        alone = any(listener.in_batches for listener in self.listeners)  # which are one thread's
        if not (alone or dispatcher.forks) and (dispatcher.in_place or type(dispatcher).serve is not Dispatcher.serve):
            intake.appoint_doorman()
        return intake

    # -- serving

    def run(self) -> DrainReport:
        """Serve until `request_stop`, then end; returns how it went."""
        try:
            with self._on_duty():
                if self.stopping:  # from the start; what another process handed over before that is still served
                    self._conduct_beside()
                self.dispatcher.serve(self.intake)
        finally:
            report = self.end()
        return report

    def handle_one(self, timeout: float | None) -> bool:
        """Take one job and hand it to the dispatcher; False if none came within ``timeout`` seconds."""
        with self._on_duty():
            job = self.intake.next(timeout)
            if job is None:
                return False
            try:
                self.dispatcher.dispatch(job)
            except Exception as error:
                job.refuse("it could not be dispatched", error)
            return True

    @contextmanager
    def _on_duty(self) -> Iterator[None]:
        if not (self.dispatcher.forks or self.dispatcher.minds_deadlines):
            self._timekeeper.start()
        self._off_duty.clear()
        self.serving = True
        try:
            yield
        finally:
            self.serving = False
            self._off_duty.set()

    @property
    def deadlines(self) -> Deadlines:
        """What the server was given."""
        return self._plan.deadlines

    @property
    def stopping(self) -> bool:
        """True from the first `request_stop` on."""
        return bool(self._stopped_at)

    def replica(
        self, dispatcher: Dispatcher, ledger: Ledger, channel: socket | None = None, number: int = 0
    ) -> Engine:  # fmt: skip
        """In a worker process: the same plan with another dispatcher and books of its own.

        It serves the same listeners, which stay the parent's, as the one with this ``number``, or what comes through
        ``channel``.
        """
        neighbours = None if self.fullness is None or channel is not None else (self.fullness, number)
        return Engine(
            dispatcher, self._plan, ledger, self.listeners, channel=channel, owner=False, neighbours=neighbours
        )

    # -- ending

    def request_stop(self) -> None:
        """Stop taking jobs in.  Never blocks; twice is once."""
        if not self._stopped_at:
            self._stopped_at = monotonic()
        if self._deadline is None:
            self._tell_intake(Deadline.after(self.drain_timeout))
        if not self.done.is_set():
            self.intake.stop()
        self._conduct_beside()

    def _conduct_beside(self) -> None:
        if self.serving and self.dispatcher.in_place and not self._conducting and os.getpid() == self._pid:
            self._conducting = True
            _thread.start_new_thread(self.conduct, ())  # lock-free, unlike threading.Thread: we may be in a signal

    def limit(self, timeout: float | None) -> None:
        """Let the drain end ``timeout`` seconds from now at the latest; it can only come closer."""
        deadline = Deadline.after(self.drain_timeout if timeout is None else timeout)
        self._deadline = deadline = deadline if self._deadline is None else self._deadline.sooner(deadline)
        self._tell_intake(deadline)

    def _tell_intake(self, deadline: Deadline) -> None:
        """By when it must have accepted the last of those that are queued."""
        if isinstance(self.intake, ListenerIntake):
            leaving = self.intake.leaving
            leaving.deadline = deadline if leaving.deadline is None else leaving.deadline.sooner(deadline)

    def end(self) -> DrainReport:
        """On the serving thread (or where nobody serves): close, wait for the jobs, close the rest."""
        self.request_stop()
        try:
            self.hang_up()
            return self.conduct()
        finally:
            self._close_listeners(lambda listener: True)  # jobs still used datagram sockets, or acknowledged items
            self.intake.close()
            self._timekeeper.stop()
            self.done.set()

    def wait_done(self, timeout: float | None) -> DrainReport:
        """From another thread than the serving one: wait for the end, and see to it if that thread does not come."""
        patience = (self.drain_timeout if timeout is None else timeout) + CANCEL_GRACE_S + OVERRUN_S
        if not self.done.wait(patience):
            _ = self.conduct() if self.serving else self.end()
        assert self.report is not None
        return self.report

    def conduct(self) -> DrainReport:
        """Bring every job to its end, once; who comes second waits for the report."""
        with self._conductor:
            if self.report is None:
                if self._deadline is None:
                    self.limit(None)
                abandoned = self._wind_down()
                self.report = self._make_report(abandoned)
                if abandoned and self.serving:  # the serving thread is one of them and will not come back for this
                    self._close_listeners(lambda listener: True)
                    self._timekeeper.stop()
                    self.done.set()
        return self.report

    def _wind_down(self) -> tuple[JobInfo, ...]:
        ledger, dispatcher = self.service.ledger, self.dispatcher
        ledger.observers.tell(ServerStopping(len(ledger.in_flight())))
        if not self._settled():
            for job in list(ledger.jobs.values()):
                job.cancel()
            dispatcher.cancel()
            grace = Deadline.after(CANCEL_GRACE_S)
            _ = dispatcher.join(grace) and ledger.wait_idle(grace)
        abandoned = ledger.in_flight(stacks=True)
        for job in list(ledger.jobs.values()):
            job.record(Status.ABANDONED, detail="still running after the drain deadline")
        if abandoned and self.interrupt is not None:
            self.interrupt()
        dispatcher.close()
        return abandoned

    def _settled(self) -> bool:
        """Wait for the jobs; True if all ended in time.  In slices, since the deadline may be moved closer."""
        ledger = self.service.ledger
        while True:
            self._drain_jobs()
            assert self._deadline is not None
            part = self._deadline.sooner(Deadline.after(DRAIN_SLICE_S))
            if self.dispatcher.join(part) and self._off_duty.wait(part.remaining()) and ledger.wait_idle(part):
                return True
            if self._deadline.expired:
                return False
            if self.between is not None:
                self.between()

    def hang_up(self) -> None:
        """On the serving thread, after `request_stop`: no more connections come in."""
        self._close_listeners(lambda listener: listener.kind is Kind.STREAM)

    def leave_it_to_another_process(self) -> None:
        """A process that was forked from this one serves; here `request_stop` only passes the word on."""
        if isinstance(self.intake, ListenerIntake):
            self.intake.served_elsewhere = True

    def _drain_jobs(self) -> None:
        """Tell them that the server is stopping; safe from any thread."""
        for job in list(self.service.ledger.jobs.values()):
            job.drain()

    def _close_listeners(self, which: Callable[[Listener], bool]) -> None:
        for listener in self.listeners:
            if which(listener) and listener.fileno() >= 0:
                (listener.close if self._owner else listener.disown)()

    def _make_report(self, abandoned: tuple[JobInfo, ...]) -> DrainReport:
        opened, counts = self.service.ledger.totals()
        return DrainReport(
            duration=monotonic() - (self._stopped_at or monotonic()),
            accepted=opened,
            completed=counts[Status.COMPLETED],
            failed=counts[Status.FAILED],
            refused=counts[Status.REFUSED],
            disconnected=counts[Status.DISCONNECTED],
            timed_out=counts[Status.TIMED_OUT],
            cancelled=counts[Status.CANCELLED],
            lost=counts[Status.LOST],
            abandoned=abandoned,
        )
