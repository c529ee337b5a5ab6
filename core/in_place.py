"""Jobs served where they were accepted, one after the other: the way of `Sync`, `ThreadPool` and their like.

Streams go the ordinary way.  For packets the books would cost as much as all the rest (UDP, 64 bytes: 5.1 us for a
bare ``recvfrom`` and ``sendto``, 8.9 with a job for each): so what waits behind a packet is served in a `PacketRun`, in
which one `ServedJob` stands for one packet after the other.  Each still has its number, its claim, its outcome.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from tricorn.contracts import Kind, Listener, Request
from tricorn.errors import PeerRefused
from tricorn.job import ServedJob
from tricorn.service import Service

if TYPE_CHECKING:
    from tricorn.intake import ListenerIntake
    from tricorn.leaving import Leaving

__all__ = ["PacketRun", "run_each"]

#: Jobs after which a thread that has never had to wait looks at what is watched all the same.
LOOK_EVERY = 64
#: Packets of one run.
MOST_PACKETS = 32


def run_each(intake: ListenerIntake) -> None:
    """Serve the intake's jobs on this thread until it ends."""
    waiter = intake.begin_to_wait()
    if waiter is None:
        return
    run = _packet_run(intake)
    served, empty = 0, False
    try:
        while (job := intake.take(waiter, None, empty=empty)) is not None:
            job.run()
            served += 1
            if run is not None:
                served += run.serve()
                empty = run.empty
            if served >= LOOK_EVERY:
                served = 0
                waiter.wait(0)  # for what is watched: the queue may never be empty
    finally:
        waiter.close()


def _packet_run(intake: ListenerIntake) -> PacketRun | None:
    """``None`` where something has to be asked, told or watched of each packet."""
    service = intake.service
    if len(intake.listeners) != 1 or intake.listeners[0].kind is not Kind.DATAGRAM:
        return None
    asked = service.gate is not None or service.verify is not None or service.deadlines.request is not None
    return None if asked or service.ledger.has_board else PacketRun(service, intake.listeners[0], intake.leaving)


class PacketRun:
    """Serves what is queued at ``listener``.  Belongs to one thread."""

    def __init__(self, service: Service, listener: Listener, leaving: Leaving) -> None:
        self._service = service
        self._leaving = leaving
        #: Nothing more was queued after the last run.
        self.empty = False
        self._accept = listener.accept
        from tricorn.datagram import Datagram  # for servers of packets only

        self._usual = Datagram

    def serve(self) -> int:
        """A number of packets, and returns how many; none if there is no permit, and no more once the server stops."""
        service, leaving = self._service, self._leaving
        ledger, permits, accept, usual = service.ledger, service.permits, self._accept, self._usual
        self.empty = False
        if ledger.observers.of_completions or ledger.observers.of_starts or not permits.take():
            return 0
        context, call, jobs = service.context, service.call, ledger.jobs
        number, completed = ledger.numbers.step, ledger.completions.step
        job: ServedJob | None = None
        served = 0
        while served < MOST_PACKETS and not leaving.begun:
            served += 1
            try:
                packet = accept()
            except BlockingIOError:
                self.empty = True
                break
            except PeerRefused as refusal:
                ledger.refuse(refusal.reason, refusal.peer)
                continue
            except (MemoryError, OSError):
                break  # whoever takes the next job meets it again
            if type(packet) is not usual:
                return served + self._run_alone(packet)
            if job is None:
                job = ServedJob(packet, service)
                job.start()
                job.begin_here()
            else:
                job.request, job.accepted_at = packet, monotonic()
                job.id = packet.id = number()
                jobs[job.id] = job
            try:
                context.copy().run(call, packet)
            except BaseException as error:
                job.end(error)
                return served
            if job.cancelled or jobs.pop(job.id, None) is None:
                job.end(None)
                return served
            completed()
            if ledger.waiting:
                ledger.wake()
        permits.give()
        return served

    def _run_alone(self, packet: Request) -> int:
        """One of somebody else's making, which may need to be opened, and to be finished."""
        job = ServedJob(packet, self._service)
        job.start()
        job.run()
        return 0
