"""Messages of an event loop's peers on their way through another dispatcher, each as a job of its own."""

from __future__ import annotations

import os
import socket
from _thread import get_ident
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from tricorn.contracts import Dispatcher
from tricorn.errors import WorkerLost
from tricorn.events import Outcome, Status
from tricorn.messages import Message
from tricorn.peers import Peer

if TYPE_CHECKING:
    from tricorn.message_loop import MessageLoop

__all__ = ["MAX_INBOX", "Parts"]

#: Messages of one peer that wait for their turn; with more, its further input is left in the kernel.
MAX_INBOX = 32
#: Messages that ``then`` has at once, where it does not say how many it can take.
DEFAULT_IN_FLIGHT = 64


class Parts:
    """Messages on their way through ``then``."""

    def __init__(self, loop: MessageLoop, then: Dispatcher) -> None:
        self._loop = loop
        self._then = then
        self._forks = then.forks
        self._limit = then.concurrency or DEFAULT_IN_FLIGHT
        self.in_flight = 0
        #: Peers whose next message waits for room, in the order in which they came.
        self._waiting: dict[Peer, None] = {}
        self._ended: deque[tuple[Peer, Message, int, Outcome]] = deque()
        self._pipes: dict[int, tuple[socket.socket, list[bytes]]] = {}
        #: Held back for one pipe, lest those who connect leave none for those who are connected.
        self._spare: list[int] = []
        #: There was no descriptor for a pipe; wait until a message has ended.
        self._short = False
        self.lay_by()

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
            if self.in_flight:
                peer.inbox.appendleft(value)
                self._waiting[peer] = None
                self._short = True
            else:
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
            self._short = False
            self._fill()
        self._fill()

    def _fill(self) -> None:
        """Give room to those who waited longest."""
        while self._waiting and self.in_flight < self._limit and not self._short:
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
        try:
            ours, theirs = socket.socketpair()
        except OSError:
            if not self._spare:
                raise
            self._close_spare()
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
        self.lay_by()
        return parts

    def lay_by(self) -> None:
        """Before anybody else can take them: two descriptors for the next pipe."""
        if not self._forks:
            return
        with suppress(OSError):
            while len(self._spare) < 2:
                self._spare.append(self._loop.copy_descriptor())

    def _close_spare(self) -> None:
        while self._spare:
            os.close(self._spare.pop())

    def close(self) -> None:
        """Give the descriptors back."""
        for ours, _ in self._pipes.values():
            ours.close()
        self._pipes.clear()
        self._close_spare()
