"""One loop that holds every connection; only complete messages cost work."""

from __future__ import annotations

import socket
import threading
from _thread import get_ident
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import ClassVar

from attrs import define, field

from tricorn.checks import optional, seconds, whole_number
from tricorn.contracts import Dispatcher, Intake, Job, Kind, Shape
from tricorn.deadline import Deadline
from tricorn.errors import ConfigurationError, StateError, WorkerLost
from tricorn.events import Outcome, Status
from tricorn.messages import Message
from tricorn.peer_table import RECV_BYTES, Limits, Peer, PeerTable
from tricorn.poller import READ, make_poller
from tricorn.wakeup import WakeUp

__all__ = ["Selector"]

#: Connections taken in before the loop looks at the others again.
ACCEPT_BATCH = 64
#: Messages of one peer that wait for their turn; with more, its further input is left in the kernel.
MAX_INBOX = 32
#: Messages that ``then`` has at once, where it does not say how many it can take.
DEFAULT_IN_FLIGHT = 64


@define(eq=False)
class Selector(Dispatcher):
    """Every connection in one table, in one thread; a message handler is called for each message that is complete.

    A connection costs a place in the table and no thread.  What has arrived of a message waits there too, so a slow or
    silent peer holds up nobody.  ``then``: the dispatcher that complete messages go to, any that takes single jobs;
    without one the handler's function is called in the loop, and holds everybody up while it runs: right for functions
    that compute for microseconds, wrong for those that wait.  The replies to one peer are in the order of its
    messages: it has one message in ``then`` at a time.

    Seconds, ``None`` for unlimited: ``idle_timeout`` without a message under way; ``read_timeout`` from a message's
    first byte to its last; ``write_timeout`` without the peer taking output; ``open_timeout`` for a handshake.
    ``high_water``: bytes of output that a peer has not taken, above which nothing more is read from it.

    Message handlers only (`tricorn.handlers.message`).  It is the "explicit table of partially finished requests" that
    the documentation of `socketserver` leaves to its reader.
    """

    shapes: ClassVar[frozenset[Shape]] = frozenset({Shape.MESSAGE})
    needs_descriptors: ClassVar[bool] = True
    instead: ClassVar[str] = "a message handler (tricorn.handlers.message), or ThreadPool(park_idle=True)"

    then: Dispatcher | None = field(default=None, metadata={"help": "dispatcher that complete messages go to"})
    idle_timeout: float | None = field(
        default=300.0, kw_only=True, validator=optional(seconds), metadata={"help": "seconds without a message"}
    )
    read_timeout: float | None = field(
        default=30.0, kw_only=True, validator=optional(seconds), metadata={"help": "seconds that a message may take"}
    )
    write_timeout: float | None = field(
        default=30.0, kw_only=True, validator=optional(seconds), metadata={"help": "seconds without output taken"}
    )
    open_timeout: float | None = field(
        default=10.0, kw_only=True, validator=optional(seconds), metadata={"help": "seconds for a handshake"}
    )
    high_water: int = field(
        default=262_144, kw_only=True, validator=whole_number(0), metadata={"help": "bytes of output kept for a peer"}
    )
    _loop: _Loop | None = field(default=None, init=False, repr=False)

    @then.validator
    def _takes_single_jobs(self, attribute: object, value: object) -> None:
        if value is None:
            return
        if not isinstance(value, Dispatcher):
            raise ConfigurationError(f"Selector(then={value!r}): then must be a dispatcher, such as ThreadPool(16)")
        if value.needs_descriptors or type(value).dispatch is Dispatcher.dispatch:
            why = "waits for connections itself" if value.needs_descriptors else "takes no single jobs"
            raise ConfigurationError(
                f"Selector(then={value!r}): {type(value).__name__} {why}; give a dispatcher that takes one message "
                "after the other, such as ThreadPool(16), Thread(), Fork() or ProcessPool()"
            )

    @property
    def in_place(self) -> bool:  # type: ignore[override]
        """True without ``then``: the handler runs in the serving thread."""
        return self.then is None

    @property
    def forks(self) -> bool:  # type: ignore[override]
        """As ``then``."""
        return self.then is not None and self.then.forks

    def misfit(self, handler: object) -> str:
        """A conversation's state cannot be in another process."""
        if self.forks and "state" in getattr(handler, "extras", ()):
            return (
                f"{handler!r} keeps state from one message to the next, and {type(self.then).__name__} runs each in a "
                "process of its own; use Selector(then=ThreadPool()), or keep the state in a database"
            )
        return ""

    def serve(self, intake: Intake) -> None:
        """Run the loop until the intake ends; without ``then`` until the last connection has ended, too."""
        if self._loop is not None:
            raise StateError("this Selector serves already; give each server one of its own")
        self._loop = loop = _Loop(self, intake)
        try:
            loop.run(lambda: intake.stopped and not (self.in_place and loop.busy))
        except BaseException:
            loop.abandon()
            raise
        finally:
            if self.in_place:
                loop.close()

    def join(self, deadline: Deadline) -> bool:
        """Serve on until every connection has ended, or until ``deadline``."""
        loop = self._loop
        if loop is None:
            return True
        if self.then is None:
            return loop.finished.wait(deadline.remaining())
        loop.hear()
        loop.run(lambda: not loop.busy or deadline.expired, deadline)
        return not loop.busy and self.then.join(deadline)

    def cancel(self) -> None:
        """End every connection."""
        if self._loop is not None:
            self._loop.cancel()
        if self.then is not None:
            self.then.cancel()

    def close(self) -> None:
        """Give the descriptors back, and those of ``then``."""
        loop, self._loop = self._loop, None
        if self.then is not None:
            self.then.close()
            if loop is not None:
                loop.close()


class _Loop:
    """One run of the loop.  Everything but `cancel` and `_part_ended` belongs to the serving thread."""

    def __init__(self, options: Selector, intake: Intake) -> None:
        self._intake = intake
        self._then = options.then
        self._poller = make_poller()
        self._wakeup = WakeUp()
        limits = Limits(
            options.idle_timeout, options.read_timeout, options.write_timeout, options.open_timeout, options.high_water
        )
        received = self._answer if options.then is None else self._queue
        self._parts = _Parts(self, options) if options.then is not None else None
        room = self._work_off if self._parts is None else self._parts.advance
        self.table = PeerTable(self._poller, limits, self._opened, received, self._input_ended, room)
        self.table.shared = options.forks
        self.table.with_inbox = options.then is not None
        #: What else is waited for, and what to do then.
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._high_water = options.high_water
        self._accepting = True
        self._cancelled = False
        #: Set when the loop of an in-place selector has ended.
        self.finished = threading.Event()
        self.thread = get_ident()
        self.watch(self._wakeup.fileno(), self._wakeup.clear)
        self.watch(intake.fileno(), self._accept)

    @property
    def busy(self) -> bool:
        """Something is left to do."""
        return bool(self.table.peers) or (self._parts is not None and self._parts.in_flight > 0)

    def watch(self, fd: int, ready: Callable[[], None]) -> None:
        """Call ``ready`` whenever ``fd`` is readable."""
        self._callbacks[fd] = ready
        self._poller.register(fd, READ)

    def unwatch(self, fd: int) -> None:
        """No more."""
        if self._callbacks.pop(fd, None) is not None:
            self._poller.unregister(fd)

    def run(self, over: Callable[[], bool], deadline: Deadline | None = None) -> None:
        """Turn after turn, until ``over``."""
        table, poll = self.table, self._poller.poll
        patience = self._intake.patience
        find, serve = table.peers.get, table.read if self._parts is not None else self._serve
        self.thread = get_ident()
        if self._intake.stopped:
            self._wind_down()
        while not over():
            timeout = table.expire()
            pause = patience()
            if pause is not None or deadline is not None:
                waits = (timeout, pause, deadline and deadline.remaining())
                timeout = min((each for each in waits if each is not None), default=None)
            ready = poll(timeout)
            table.now = monotonic()
            if pause is not None:
                self._accept()
            for fd, events in ready:
                peer = find(fd)
                if peer is not None:
                    if events == READ and peer.quick:
                        serve(peer)
                    else:
                        table.handle(peer, events)
                elif fd in self._callbacks:
                    self._callbacks[fd]()
            if self._parts is not None:
                self._parts.collect()
            if self._cancelled:
                table.end_all()
            if self._intake.stopped:
                self._wind_down()
            elif self._intake.stopping:
                table.drain()

    def hear(self) -> None:
        """After the stop: run the callbacks of what ``then`` has put under the intake's watch, to serve whole jobs;
        and take in what a channel still holds."""
        while (job := self._intake.poll()) is not None:
            self._take(job)

    def _wind_down(self) -> None:
        if self._accepting:
            self._accepting = False
            self.hear()
            self.unwatch(self._intake.fileno())  # it stays readable from now on
            if self._then is None:
                self._intake.crew.hang_up()
        self.table.drain()

    def _accept(self) -> None:
        for _ in range(ACCEPT_BATCH):
            job = self._intake.poll()
            if job is None:
                return
            self._take(job)

    def _take(self, job: Job) -> None:
        if job.request.kind is Kind.STREAM:
            self.table.add(job)
        else:
            self._serve_whole(job)

    def _serve_whole(self, job: Job) -> None:
        """A datagram, or an item: it is complete as it is."""
        if self._then is None:
            job.run()
            return
        try:
            self._then.dispatch(job)
        except Exception as error:
            job.refuse("it could not be dispatched", error)

    # -- what the table tells

    def _opened(self, peer: Peer) -> None:
        try:
            peer.job.authenticate()  # one that would have to wait for the peer was refused when the server was built
            peer.conversation = peer.context.run(peer.job.converse)
        except BaseException as error:
            self.table.finish(peer, error)

    def _serve(self, peer: Peer) -> None:
        """The usual course of things without ``then``, at one go: it arrives, is answered, and the answer leaves."""
        table = self.table
        try:
            data = peer.recv(RECV_BYTES)
        except OSError as error:
            table.cannot_read(peer, error)
            return
        if not data or peer.out or peer.buffered is not None:
            table.take(peer, data)
            return
        try:
            self._answer(peer, data)
        except Exception as error:  # a decoder of somebody's that broke
            table.finish(peer, error)

    def _answer(self, peer: Peer, data: bytes) -> None:
        """Without ``then``: call the function here and now."""
        table, conversation = self.table, peer.conversation
        if peer.inbox:  # those before are waiting for the peer to read
            self._put_by(peer, conversation.decode(data))
            return
        replies = peer.context.run(conversation.respond, data, self._high_water)
        if replies:
            if not peer.out:
                peer.since = table.now
            peer.begun = False
            table.send(peer, replies)
        else:
            self._note_progress(peer)
        if conversation.left:
            left, conversation.left = conversation.left, []
            self._put_by(peer, left)
            self._work_off(peer)
        elif conversation.error is not None:
            table.finish(peer, conversation.error)

    def _put_by(self, peer: Peer, messages: list[bytes]) -> None:
        """Without ``then``: keep for later, since the peer has not taken the replies to what came before."""
        peer.inbox = deque(peer.inbox)
        peer.inbox.extend(messages)
        if peer.conversation.error is not None:
            peer.inbox.append(None)

    def _work_off(self, peer: Peer) -> None:
        """Without ``then``: answer what waits in the inbox; the rest when the peer has taken the replies."""
        table, conversation, waiting = self.table, peer.conversation, peer.inbox
        assert isinstance(waiting, deque)
        while waiting and not (peer.closing or table.is_full(peer)):
            if waiting[0] is None:
                self.say_farewell(peer)
                return
            replies = peer.context.run(conversation.answer_some, waiting, self._high_water)
            if replies:
                if not peer.out:
                    peer.since = table.now
                table.send(peer, replies)
            if conversation.failed:
                table.finish(peer, conversation.error)
                return
        if not waiting:
            peer.inbox = ()

    def say_farewell(self, peer: Peer) -> None:
        """After the last message: what is left to say, and the end."""
        last = peer.conversation.farewell()
        if last:
            self.table.send(peer, last)
        self.table.finish(peer, peer.conversation.error)

    def _note_progress(self, peer: Peer) -> None:
        """The clock of an incomplete message runs from its first byte, not from its last."""
        conversation = peer.conversation
        if peer.begun and not (conversation.advanced or conversation.idle):
            return
        peer.begun = not conversation.idle
        if not peer.out:  # else the clock is that of the output
            peer.since = self.table.now

    def _queue(self, peer: Peer, data: bytes) -> None:
        """With ``then``: the messages wait for their turn."""
        assert self._parts is not None
        peer.inbox.extend(peer.conversation.decode(data))
        self._note_progress(peer)
        if peer.conversation.error is not None:
            peer.inbox.append(None)
        if len(peer.inbox) >= MAX_INBOX or peer.conversation.error is not None:
            self.table.hold(peer, held=True)
        self._parts.advance(peer)

    def _input_ended(self, peer: Peer) -> None:
        conversation = peer.conversation
        if self._parts is None and not peer.inbox:
            replies = peer.context.run(conversation.finish)
            if replies:
                self.table.send(peer, replies)
            self.table.finish(peer, conversation.error)
            return
        peer.inbox.extend(conversation.decode(b""))
        peer.inbox.append(None)  # the end
        if self._parts is not None:
            self._parts.advance(peer)

    # -- endings

    def cancel(self) -> None:
        """From any thread."""
        self._cancelled = True
        self._wakeup.signal()

    def wake(self) -> None:
        """From any thread: something was put where the loop looks."""
        self._wakeup.signal()

    def abandon(self) -> None:
        """The loop broke: nobody is left to serve what is in the table."""
        self.table.end_all(ConnectionAbortedError("the server's loop has ended"))

    def close(self) -> None:
        """Give the descriptors back."""
        self._poller.close()
        self._wakeup.close()
        if self._parts is not None:
            self._parts.close()
        self.finished.set()


class _Parts:
    """Messages on their way through ``then``."""

    def __init__(self, loop: _Loop, options: Selector) -> None:
        assert options.then is not None
        self._loop = loop
        self._then = options.then
        self._forks = options.then.forks
        self._limit = options.then.concurrency or DEFAULT_IN_FLIGHT
        self.in_flight = 0
        #: Peers whose next message waits for room, in the order in which they came.
        self._waiting: dict[Peer, None] = {}
        self._ended: deque[tuple[Peer, Message, int, Outcome]] = deque()
        self._pipes: dict[int, tuple[socket.socket, list[bytes]]] = {}

    def advance(self, peer: Peer) -> None:
        """Give the peer's next message to ``then``, if it is its turn and there is room."""
        if peer.busy or peer.closing or not peer.inbox or self._loop.table.is_full(peer):
            return
        if self.in_flight >= self._limit or self._waiting:  # one that has had its turn goes to the end of the line
            self._waiting[peer] = None
            return
        self._advance(peer)

    def _advance(self, peer: Peer) -> None:
        table = self._loop.table
        if peer.closing or table.peers.get(peer.fd) is not peer:
            return
        value = peer.inbox.popleft()
        if value is None:
            self._loop.say_farewell(peer)
            return
        if len(peer.inbox) == MAX_INBOX // 4 and peer.held and None not in peer.inbox:
            table.hold(peer, held=False)
        self._start(peer, value)

    def _start(self, peer: Peer, value: bytes) -> None:
        connection, conversation = peer.connection, peer.conversation
        wanted = getattr(conversation.handler, "extras", ())
        identity = connection.identity if "identity" in wanted else None
        message = Message(value, connection.peer, conversation, identity=identity)
        try:
            pipe = self._pipe(message) if self._forks else -1
        except OSError as error:  # out of descriptors
            self._loop.table.finish(peer, error)
            return
        job = peer.job.part(message, lambda outcome: self._note(peer, message, pipe, outcome), self._loop.watch)
        peer.busy = True
        self.in_flight += 1
        try:
            self._then.dispatch(job)
        except Exception as error:
            job.refuse("it could not be dispatched", error)

    def _note(self, peer: Peer, message: Message, pipe: int, outcome: Outcome) -> None:
        """On whichever thread it ended."""
        self._ended.append((peer, message, pipe, outcome))
        if get_ident() != self._loop.thread:
            self._loop.wake()

    def collect(self) -> None:
        """Take in what has ended, and start what waited for it."""
        while self._ended:
            peer, message, pipe, outcome = self._ended.popleft()
            self.in_flight -= 1
            peer.busy = False
            if pipe >= 0:
                message.output.extend(self._rest_of(pipe))
            self._finish(peer, message, outcome)
            self._fill()
        self._fill()

    def _fill(self) -> None:
        """Give room to those who waited longest."""
        while self._waiting and self.in_flight < self._limit:
            peer = next(iter(self._waiting))
            del self._waiting[peer]
            self._advance(peer)

    def _finish(self, peer: Peer, message: Message, outcome: Outcome) -> None:
        table = self._loop.table
        if table.peers.get(peer.fd) is not peer:
            return
        if not peer.out:
            peer.since = table.now
        replies = b"".join(message.output)
        if replies:
            table.send(peer, replies)
        if outcome.status is not Status.COMPLETED:
            table.finish(peer, outcome.error or WorkerLost(outcome.detail or outcome.status.value))
        else:
            self.advance(peer)

    # -- replies from other processes

    def _pipe(self, message: Message) -> int:
        """A way for the reply to come back by; returns our end's descriptor."""
        ours, theirs = socket.socketpair()
        message.socket = theirs
        ours.setblocking(False)
        fd = ours.fileno()
        self._pipes[fd] = (ours, [])
        self._loop.watch(fd, lambda: self._read(fd))
        return fd

    def _read(self, fd: int) -> None:
        ours, parts = self._pipes[fd]
        with suppress(BlockingIOError):
            while True:
                try:
                    data = ours.recv(262_144)
                except ConnectionError:
                    data = b""
                if not data:
                    self._loop.unwatch(fd)  # complete; the outcome comes by another way
                    return
                parts.append(data)

    def _rest_of(self, fd: int) -> list[bytes]:
        self._read(fd)
        self._loop.unwatch(fd)
        ours, parts = self._pipes.pop(fd)
        ours.close()
        return parts

    def close(self) -> None:
        """Give the descriptors back."""
        for ours, _ in self._pipes.values():
            ours.close()
        self._pipes.clear()
