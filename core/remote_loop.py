"""One loop that holds every connection, while their messages are worked on elsewhere.

Complete messages go out as far as there is room, those of one request in order; replies wait until it is their turn.
A request of which messages wait is not read any further, so nothing grows: that is the back-pressure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from functools import partial
from threading import Event, Semaphore, Thread
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from tricorn.contracts import Intake, Job, Kind
from tricorn.deadline import Deadline
from tricorn.errors import StateError
from tricorn.peer_table import Limits, Peer, PeerTable
from tricorn.poller import READ, make_poller
from tricorn.remote_messages import Answer, Origin
from tricorn.remote_parties import END, Party, Ticket, Wholes
from tricorn.wakeup import WakeUp

if TYPE_CHECKING:
    from contextvars import Context

__all__ = ["Carrier", "RemoteLoop"]

#: Connections taken in before the loop looks at the others again.
ACCEPT_BATCH = 64
#: Seconds between two tries to send a datagram's reply for which there was no room.
RETRY_S = 0.01
#: Seconds that the loop's own thread gets to end.
LEAVE_S = 1.0


class Carrier(Protocol):
    """Takes messages to where they are worked on.  All but what its futures do belongs to the loop's thread."""

    #: Why nothing can be carried any more; serving ends with it.
    failure: BaseException | None
    #: True if child processes may hold copies of our descriptors.
    shares_descriptors: bool

    def admit(self, handler: Any) -> Any:
        """What to send in place of ``handler``.  Raises `~tricorn.errors.IncompatibleParts` if it cannot be sent."""
        ...

    def carry(self, handler: Any, message: Any, origin: Origin, context: Context) -> Future[Answer]:
        """Have `tricorn.remote_messages.work` done, without blocking; raises where nobody is there to do it."""
        ...

    def translate(self, error: BaseException) -> BaseException:
        """What a future that holds no answer means; learns from it that workers were lost."""
        ...


class RemoteLoop:
    """See the module.  `give`, `cancel` and the callbacks of futures may come from any thread."""

    def __init__(self, carrier: Carrier, limits: Limits, max_in_flight: int, pipeline: int) -> None:
        self._carrier = carrier
        self._max, self._pipeline = max_in_flight, pipeline
        self._poller = make_poller()
        self._wakeup = WakeUp()
        self._table = PeerTable(self._poller, limits, self._opened, self._received, self._input_ended, self._has_room)
        self._table.with_inbox = True
        self._table.shared = carrier.shares_descriptors
        self._table.with_inbox = True
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._watch(self._wakeup.fileno(), self._wakeup.clear)
        #: Parties whose next message could go out, in the order in which they came.
        self._ready: deque[Party] = deque()
        self._in_flight: dict[Ticket, Future[Answer]] = {}
        self._done: deque[tuple[Ticket, Future[Answer]]] = deque()
        self._wholes = Wholes(self._give_room)
        self._sendable: tuple[Any, Any] = (None, None)
        #: Nothing is to be idle any more; nothing more comes; nothing is waited for.
        self._stopping = self._draining = self._cancelled = False
        # For jobs that are given one by one.
        self._given: deque[Job] = deque()
        self._room = Semaphore(max_in_flight)
        self._thread: Thread | None = None
        self._finished = Event()
        self._broken: BaseException | None = None

    # -- running

    @property
    def busy(self) -> bool:
        """Something is left to do."""
        waits = self._in_flight and not self._cancelled
        return bool(self._table.peers or self._wholes or self._given or waits)

    @property
    def outstanding(self) -> bool:
        """Messages are out of which nothing was heard."""
        return bool(self._in_flight)

    def run(self, intake: Intake) -> None:
        """Serve until the intake ends, or until nothing can be carried any more: then raises why."""
        entrance = intake.fileno()
        self._watch(entrance, lambda: self._take(intake))
        try:
            while not intake.stopped:
                pause = intake.patience()
                self._turn(pause)
                if pause is not None:
                    self._take(intake)
                self._stopping = intake.stopping
                if self._carrier.failure is not None:
                    raise self._carrier.failure
            while (job := intake.poll()) is not None:  # what a channel still holds
                self._adopt(job)
        except BaseException:
            if self._carrier.failure is None:  # the loop itself broke: nobody is left to serve what it holds
                self._cut(ConnectionAbortedError("the server's loop has ended"))
            raise
        finally:
            self._unwatch(entrance)  # it stays readable from now on

    def give(self, job: Job) -> None:
        """Serve ``job`` beside the others; blocks while as many datagrams and items are here as may be in flight."""
        if self._thread is None:
            self._thread = Thread(target=self._run_fed, name="tricorn-messages", daemon=True)
            self._thread.start()
        if job.request.kind is not Kind.STREAM:
            self._room.acquire()
        if self._broken is not None:
            raise StateError(f"the loop that serves messages has ended: {self._broken}")
        self._given.append(job)
        self._wakeup.signal()

    def _run_fed(self) -> None:
        try:
            while not self._draining or self.busy:
                self._turn(None)
        except BaseException as error:
            self._broken = error
            self._cut(ConnectionAbortedError("the server's loop has ended"))
            self._room.release(2**20)
        finally:
            self._finished.set()

    def _turn(self, limit: float | None) -> None:
        table = self._table
        table.now = monotonic()
        waits = (limit, table.expire(), RETRY_S if self._wholes.late else None)
        ready = self._poller.poll(min((each for each in waits if each is not None), default=None))
        table.now = monotonic()
        for fd, events in ready:
            peer = table.peers.get(fd)
            if peer is not None:
                table.handle(peer, events)
            elif fd in self._callbacks:
                self._callbacks[fd]()
        self._collect()
        while self._given:
            self._adopt(self._given.popleft())
        if self._wholes.late:
            self._wholes.retry()
        if self._cancelled:
            self._cut(CancelledError("cut off at the drain deadline"))
        elif self._draining or self._stopping:
            table.drain()
        self._pump()

    def _watch(self, fd: int, ready: Callable[[], None]) -> None:
        self._callbacks[fd] = ready
        self._poller.register(fd, READ)

    def _unwatch(self, fd: int) -> None:
        del self._callbacks[fd]
        self._poller.unregister(fd)

    # -- coming in

    def _take(self, intake: Intake) -> None:
        for _ in range(ACCEPT_BATCH):
            job = intake.poll()
            if job is None:
                return
            self._adopt(job)

    def _adopt(self, job: Job) -> None:
        if job.request.kind is Kind.STREAM:
            self._table.add(job)
        else:
            self._add_whole(job)

    def _add_whole(self, job: Job) -> None:
        """A datagram, or an item: it is complete as it is."""
        request: Any = job.request
        context = job.engage()
        try:
            request.open(Deadline(None))
            party = self._party(job, context, context.run(job.converse), None)
            whole = [request.value] if request.kind is Kind.ITEM else party.conversation.decode_packet(request.data)
        except BaseException as error:
            self._give_room()
            job.end(error)
            return
        party.inbox.extend(whole)
        self._wholes.add(party)
        self._end_input(party)

    def _party(self, job: Job, context: Context, conversation: Any, peer: Peer | None) -> Party:
        handler = conversation.handler
        if handler is not self._sendable[0]:
            self._sendable = (handler, self._carrier.admit(handler))
        request: Any = job.request
        origin = Origin(request.peer, getattr(request, "identity", None))
        inbox = peer.inbox if peer is not None and isinstance(peer.inbox, deque) else deque()
        return Party(job, context, conversation, self._sendable[1], origin, inbox, peer)

    # -- what the table tells

    def _opened(self, peer: Peer) -> None:
        try:
            peer.job.authenticate()  # one that would have to wait for the peer was refused when the server was built
            peer.conversation = peer.context.run(peer.job.converse)
            peer.context = self._party(peer.job, peer.context, peer.conversation, peer)
        except BaseException as error:
            self._table.end(peer, error)

    def _received(self, peer: Peer, data: bytes) -> None:
        party: Party = peer.context
        conversation = peer.conversation
        messages = conversation.decode(data)
        party.inbox.extend(messages)
        peer.heard = True
        if conversation.idle:
            peer.since, peer.begun = self._table.now, False
        elif messages or not peer.begun:  # the clock of a message runs from its first byte, not from its last
            peer.since, peer.begun = self._table.now, True
        if conversation.error is not None:
            self._end_input(party)
        if messages or party.ended:
            self._table.hold(peer, held=True)
            self._queue(party)

    def _input_ended(self, peer: Peer) -> None:
        party: Party = peer.context
        if not party.ended:
            party.inbox.extend(peer.conversation.decode(b""))
            self._end_input(party)

    def _end_input(self, party: Party) -> None:
        if not party.ended:
            party.ended = True
            party.inbox.append(END)
            self._queue(party)

    # -- going out

    def _has_room(self, peer: Peer) -> None:
        """It has taken its output."""
        self._queue(peer.context)

    def _queue(self, party: Party) -> None:
        if party.peer is not None and self._table.is_full(party.peer):
            return  # until it has room
        if party.inbox and not party.queued and len(party.tickets) < self._pipeline:
            party.queued = True
            self._ready.append(party)

    def _pump(self) -> None:
        """Send what there is room for, one message of each request after the other."""
        while self._ready and len(self._in_flight) < self._max:
            party = self._ready.popleft()
            party.queued = False
            if not self._is_over(party):
                self._send(party)

    def _is_over(self, party: Party) -> bool:
        peer = party.peer
        return party.over if peer is None else peer.closing or self._table.peers.get(peer.fd) is not peer

    def _send(self, party: Party) -> None:
        if party.inbox[0] is END:
            if not party.tickets:
                self._say_farewell(party)
            return
        ticket = Ticket(party)
        party.tickets.append(ticket)
        try:
            future = self._carrier.carry(party.handler, party.inbox.popleft(), party.origin, party.context)
        except Exception as error:
            ticket.answer = Answer(b"", error)
            self._deliver(party)
            return
        self._in_flight[ticket] = future
        future.add_done_callback(partial(self._note, ticket))
        if party.peer is not None:
            party.peer.busy = True
        self._go_on(party)

    def _note(self, ticket: Ticket, future: Future[Answer]) -> None:
        """On whichever thread it was done."""
        self._done.append((ticket, future))
        self._wakeup.signal()

    def _go_on(self, party: Party) -> None:
        """Send the next, or read on if there is none."""
        self._queue(party)
        peer = party.peer
        if peer is not None and peer.held and not (party.inbox or party.ended):
            self._table.hold(peer, held=False)

    # -- coming back

    def _collect(self) -> None:
        while self._done:
            ticket, future = self._done.popleft()
            del self._in_flight[ticket]
            try:
                ticket.answer = future.result()
            except BaseException as error:
                ticket.answer = Answer(b"", self._carrier.translate(error))
            self._deliver(ticket.party)

    def _deliver(self, party: Party) -> None:
        """Pass on the replies whose turn it is."""
        tickets = party.tickets
        while tickets and tickets[0].answer is not None:
            answer = tickets.popleft().answer
            assert answer is not None
            if self._is_over(party):
                return
            if answer.reply:
                self._reply(party, answer.reply)
            if answer.error is not None:
                self._finish(party, answer.error)
        if self._is_over(party):
            return
        if party.peer is not None:
            party.peer.busy, party.peer.since = bool(tickets), self._table.now
        self._go_on(party)

    def _reply(self, party: Party, reply: bytes) -> None:
        if party.peer is not None:
            self._table.send(party.peer, reply)
        else:
            party.replies.append(reply)

    def _say_farewell(self, party: Party) -> None:
        """After the last message: what is left to say, and the end."""
        last = party.conversation.farewell()
        if last:
            self._reply(party, last)
        self._finish(party, party.conversation.error)

    def _finish(self, party: Party, error: BaseException | None) -> None:
        if party.peer is not None:
            self._table.finish(party.peer, error)
        else:
            self._wholes.finish(party, error)

    def _give_room(self) -> None:
        if self._thread is not None:
            self._room.release()

    # -- endings

    def join(self, deadline: Deadline) -> bool:
        """Serve on until nothing is left, or until ``deadline``; True if nothing is."""
        self._draining = True
        if self._thread is not None:
            self._wakeup.signal()
            return self._finished.wait(deadline.remaining())
        self._turn(0.0)
        while self.busy and not deadline.expired:
            self._turn(deadline.remaining())
        return not self.busy

    def cancel(self) -> None:
        """End every request.  From any thread."""
        self._cancelled = self._draining = True
        self._wakeup.signal()

    def _cut(self, error: BaseException) -> None:
        for future in tuple(self._in_flight.values()):
            future.cancel()
        self._table.end_all(error)
        self._wholes.end_all(error)
        self._ready.clear()
        while self._given:
            self._given.popleft().refuse("the server is stopping")

    def close(self) -> None:
        """Give thread and descriptors back."""
        if self._thread is not None:
            self.cancel()
            self._finished.wait(LEAVE_S)
            self._thread.join(LEAVE_S)
        self._poller.close()
        self._wakeup.close()
