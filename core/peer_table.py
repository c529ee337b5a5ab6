"""Many conversations in one thread: the table of an event loop's peers, with their input, output and deadlines.

The loop that owns it decides what the bytes mean; the table knows nothing of messages.  It reads when there is
something to read, sends what it can and keeps the rest, stops reading from a peer that does not read itself, and ends
peers whose time is over.  Everything belongs to the loop's thread.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from selectors import EVENT_READ, EVENT_WRITE
from time import monotonic

from tricorn.agenda import Agenda
from tricorn.contracts import Job
from tricorn.deadline import Deadline
from tricorn.errors import FramingError
from tricorn.messages import LINGER_BYTES, LINGER_S
from tricorn.peer_socket import FRESH_S, REPLY_GRACE_S, SILENCE_S
from tricorn.peers import Limits, Peer
from tricorn.poller import QUIET, READ, WRITE, Poller

__all__ = ["RECV_BYTES", "Limits", "Peer", "PeerTable"]

#: Bytes that one call of recv(2) takes at most.  glibc maps and unmaps whatever has 128 KiB and more, mallopt(3), which
#: makes it three times as slow; just below, bulk is a quarter faster than by 64 KiB, and small messages do not notice.
RECV_BYTES = 126_976
#: And one of send(2) from what is kept.
SEND_BYTES = 262_144

#: What connections want to wait for, for the poller.
_EVENTS = {EVENT_READ: READ, EVENT_WRITE: WRITE, EVENT_READ | EVENT_WRITE: READ | WRITE}
_NEVER = Deadline(None)


class PeerTable:
    """All peers of one loop.

    ``opened(peer)``, ``received(peer, data)`` and ``ended(peer)`` (nothing more will be received) are the loop's, and
    ``room(peer)``: it has taken its output, so that messages of its inbox can be worked on that `is_full` held up.
    """

    def __init__(
        self, poller: Poller, limits: Limits, opened: Callable[[Peer], None], received: Callable[[Peer, bytes], None],
        ended: Callable[[Peer], None], room: Callable[[Peer], None] | None = None,
    ) -> None:  # fmt: skip
        self.peers: dict[int, Peer] = {}
        self._poller = poller
        self._limits = limits
        self._opened, self._received, self._ended, self._room = opened, received, ended, room
        self._agenda = Agenda()
        self._tick = _shortest(limits)
        #: The time of this turn, by `time.monotonic`.
        self.now = monotonic()
        self.draining = False
        #: While draining, of those in the middle of a message: how much of it is here, and since when.
        self._silent: dict[Peer, tuple[int, float]] = {}
        #: True where child processes hold copies of our descriptors, so that closing alone is no sign to the peer.
        self.shared = False
        #: What to do with a peer of which nothing is known but that there is input; the loop may have a quicker way.
        self.serve: Callable[[Peer], None] = self.read
        #: Whether peers get an inbox: an empty deque takes 600 bytes.
        self.with_inbox = False

    # -- in and out

    def add(self, job: Job) -> None:
        """Take the connection of ``job`` over; its handshake, if there is one, goes on without blocking."""
        peer = Peer(job, self.now)
        peer.context = job.engage()
        if self.with_inbox:
            peer.inbox = deque()
        self.peers[peer.fd] = peer.connection.keeper = peer
        peer.events = READ
        self._poller.register(peer.fd, READ)
        if self._tick is not None:
            self._look_after(peer, self._tick)
        if self.draining:
            self._look_after(peer, FRESH_S)
        self._open(peer)

    def handle(self, peer: Peer, events: int) -> None:
        """What the poller said of it."""
        if peer.opening:
            self._open(peer)
            return
        if events & WRITE or (peer.out and not events & READ):
            self._flush(peer)
        if events & ~WRITE and self.peers.get(peer.fd) is peer:
            self.read(peer)

    def send(self, peer: Peer, data: bytes) -> None:
        """Send what can be sent now, and keep the rest."""
        if peer.out:
            peer.out += data
            self._watch(peer)
            return
        try:
            sent = peer.send(data, peer.flags)
        except OSError as error:
            sent = 0
            if not peer.connection.wanted(error, EVENT_WRITE):
                self._fail(peer, error)
                return
        if sent < len(data):
            peer.out = bytearray(memoryview(data)[sent:])
            peer.since = self.now
            self._watch(peer)

    def is_full(self, peer: Peer) -> bool:
        """It has not taken more than ``high_water`` bytes of its output."""
        return peer.out is not None and len(peer.out) > self._limits.high_water

    def hold(self, peer: Peer, *, held: bool) -> None:
        """Whether to leave further input of it in the kernel."""
        peer.held = held
        self._watch(peer)

    def finish(self, peer: Peer, error: BaseException | None = None) -> None:
        """End it when its output is sent; with a `FramingError` read on a while, so that it gets to see our answer."""
        if peer.closing:
            return
        peer.closing, peer.quick, peer.error = True, False, error
        peer.linger = isinstance(error, FramingError) and not self.draining
        if peer.inbox:
            peer.inbox.clear()
        if not peer.out:
            self._sent_all(peer)
        else:
            self._watch(peer)

    def end(self, peer: Peer, error: BaseException | None = None) -> None:
        """End it now."""
        if self.peers.get(peer.fd) is not peer:
            return
        del self.peers[peer.fd]
        self._agenda.leave(peer)
        peer.closing, peer.inbox, peer.connection.keeper = True, (), None
        self._poller.unregister(peer.fd)  # closing does that only if no child of a handler's has a copy: epoll(7)
        theirs = isinstance(error, FramingError) or (isinstance(error, OSError) and error is not peer.error)
        if theirs:  # an OSError that `finish` got is the handler's own
            peer.connection.socket.fault = error
        if self.shared:
            peer.connection.socket.has_files = True  # then it is shut down before it is closed
        peer.job.end(error)

    # -- the inside

    def _open(self, peer: Peer) -> None:
        if not peer.flags:  # else there is nothing to open
            try:
                wanted = peer.connection.open_step()
            except BaseException as error:
                self.end(peer, error)
                return
            if wanted:
                self._register(peer, _EVENTS[wanted])
                self._look_at_the_handshake_in_time(peer)
                return
            self._take_calls_again(peer)
        peer.opening, peer.quick = False, True
        peer.since, peer.begun = self.now, False
        self._opened(peer)
        if self.peers.get(peer.fd) is peer:
            if not peer.flags:
                self._register(peer, READ)
            self.serve(peer)  # most clients have spoken by now

    def _look_at_the_handshake_in_time(self, peer: Peer) -> None:
        left = _open_until(peer).remaining()
        if left is not None and not peer.begun:
            peer.begun = True
            self._look_after(peer, left)

    def _take_calls_again(self, peer: Peer) -> None:
        if peer.connection.socket.fileno() == peer.fd:
            peer.take_calls(peer.connection.socket)

    def read(self, peer: Peer) -> None:
        """Take in what has arrived."""
        try:
            data = peer.recv(RECV_BYTES, peer.flags)
        except OSError as error:
            self.cannot_read(peer, error)
        else:
            self.take(peer, data)

    def take(self, peer: Peer, data: bytes) -> None:
        """``data`` was received."""
        if peer.closing:
            self._drop(peer, data)
        elif data:
            try:
                self._received(peer, data)
            except Exception as error:  # a decoder of somebody's that broke
                self.finish(peer, error)
            if peer.buffered is not None and peer.buffered() and self._wants_more(peer):
                self.read(peer)
        else:
            peer.held = True
            self._tell_end(peer)
            self._watch(peer)

    def _tell_end(self, peer: Peer) -> None:
        try:
            self._ended(peer)
        except Exception as error:
            self.finish(peer, error)

    def cannot_read(self, peer: Peer, error: OSError) -> None:
        """Receiving raised ``error``."""
        wanted = peer.connection.wanted(error, EVENT_READ)
        if not wanted:
            self._fail(peer, error)
        elif wanted != EVENT_READ:
            self._register(peer, _EVENTS[wanted])

    def _wants_more(self, peer: Peer) -> bool:
        return not (peer.held or peer.closing) and self.peers.get(peer.fd) is peer

    def _drop(self, peer: Peer, data: bytes) -> None:
        peer.dropped += len(data)
        if not data or peer.dropped > LINGER_BYTES or not peer.linger:
            self.end(peer, peer.error)

    def _flush(self, peer: Peer) -> None:
        out = peer.out
        try:
            if out:
                with memoryview(out) as view:
                    sent = peer.send(view[:SEND_BYTES], peer.flags)
                del out[:sent]
                peer.since = self.now
        except OSError as error:
            if not peer.connection.wanted(error, EVENT_WRITE):
                self._fail(peer, error)
                return
        if not out:
            peer.out = None
            if peer.closing:
                self._sent_all(peer)
                return
        self._watch(peer)
        if peer.inbox and self._room is not None and len(out or b"") <= self._limits.high_water // 4:
            self._room(peer)

    def _sent_all(self, peer: Peer) -> None:
        """The last output is with the kernel."""
        if not peer.linger:
            self.end(peer, peer.error)
            return
        try:
            peer.connection.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.end(peer, peer.error)
            return
        peer.since = self.now
        self._look_after(peer, LINGER_S)
        self._register(peer, READ)

    def _fail(self, peer: Peer, error: OSError) -> None:
        if peer.closing and peer.error is not None:
            error = peer.error  # type: ignore[assignment]  # the reason that came first
        self.end(peer, error)

    def _watch(self, peer: Peer) -> None:
        """Register for what is wanted now."""
        if self.peers.get(peer.fd) is not peer:
            return
        high = self._limits.high_water
        full = peer.out is not None and len(peer.out) > (high if peer.events & READ else high // 4)
        events = 0 if peer.held or peer.closing or full else READ
        self._register(peer, events | (WRITE if peer.out else 0))

    def _register(self, peer: Peer, events: int) -> None:
        if events != peer.events:
            peer.events = events
            self._poller.modify(peer.fd, events or QUIET)

    # -- time

    def expire(self) -> float | None:
        """End those whose time is over; returns the seconds until the next look, ``None`` if there is none."""
        now = self.now
        late: list[Peer] = self._agenda.due(now)
        for peer in late:
            if self.peers.get(peer.fd) is not peer:  # ended by what became of those before it
                continue
            due = self._due(peer)
            if due is not None and due <= now:
                self._give_up(peer)
            elif due is not None or self._tick is not None:
                self._look_after(peer, min(each for each in (due and due - now, self._tick) if each is not None))
        return self._agenda.pause(now)

    def _give_up(self, peer: Peer) -> None:
        if peer.opening and _open_until(peer).expired:
            self._open(peer)  # which says so in its own words
            return
        if peer.busy and not peer.out:
            peer.job.late("request")
        self.end(peer, peer.error or _too_long(peer, self.now - peer.since))

    def _look_after(self, peer: Peer, seconds: float) -> None:
        self._agenda.enter(peer, self.now + seconds)

    def _due(self, peer: Peer) -> float | None:
        deadlines = self._limits.deadlines
        if peer.opening:
            left = _open_until(peer).remaining()
            dues = (left and self.now + left, deadlines.open and peer.since + deadlines.open)
            return min((each for each in dues if each is not None), default=None)
        if peer.out:
            limit = deadlines.write
        elif peer.closing:
            limit = LINGER_S
        elif peer.busy or peer.inbox:
            limit = deadlines.request
        elif peer.conversation.idle:
            limit = deadlines.idle if peer.heard else deadlines.first_byte
        else:
            limit = deadlines.read
        return None if limit is None else peer.since + limit

    # -- endings

    def drain(self) -> None:
        """Begin nothing new: end those with nothing under way, now and as they come to it; called in each turn."""
        if not self.draining:
            self.draining = True
            self._tick = FRESH_S if self._tick is None else min(self._tick, FRESH_S)
            for peer in self.peers.values():
                self._look_after(peer, FRESH_S)
        for peer in list(self.peers.values()):
            if peer.opening:
                if self.now - peer.added >= REPLY_GRACE_S:
                    self._turn_away(peer)
            elif peer.idle and not peer.closing:
                if peer.since - peer.added < FRESH_S and self.now - peer.added < FRESH_S:
                    continue  # it has connected, and is about to send
                self.read(peer)  # what has arrived is still served
                if self.peers.get(peer.fd) is peer and peer.idle:
                    self.end(peer)
            elif not (peer.busy or peer.out or peer.inbox or peer.closing) and self._is_silent(peer):
                self.hold(peer, held=True)
                self._tell_end(peer)  # as where the handler blocks: the input ends

    def _is_silent(self, peer: Peer) -> bool:
        """In the middle of a message nothing has come for `SILENCE_S`."""
        pending, seen = peer.conversation.pending, self._silent.get(peer)
        if seen is None or seen[0] != pending:
            self._silent[peer] = (pending, self.now)
            return False
        return self.now - seen[1] >= SILENCE_S

    def _turn_away(self, peer: Peer) -> None:
        del self.peers[peer.fd]
        self._agenda.leave(peer)
        self._poller.unregister(peer.fd)
        peer.job.refuse("the server stopped during the handshake")

    def end_all(self, error: BaseException | None = None) -> None:
        """End every one now."""
        for peer in list(self.peers.values()):
            peer.error = peer.error or error  # of nobody's making but ours
            self.end(peer, peer.error)


def _open_until(peer: Peer) -> Deadline:
    """By when its handshake must be over, as far as the connection itself has a limit."""
    return getattr(peer.connection, "open_until", None) or _NEVER


def _shortest(limits: Limits) -> float | None:
    given = (limits.deadlines.shortest, limits.deadlines.open)
    return min((each for each in given if each is not None), default=None)


def _too_long(peer: Peer, silent: float) -> TimeoutError:
    if peer.opening:
        what = "did not finish its handshake"
    elif peer.out:
        what = "took none of the output"
    elif peer.busy:
        return TimeoutError(f"the handler was not done for {silent:.1f} s")
    elif peer.conversation.idle:
        what = "sent nothing"
    else:
        what = "did not finish its message"
    return TimeoutError(f"the peer {what} for {silent:.1f} s")
