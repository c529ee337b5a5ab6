"""An event loop for message handlers: it accepts, reads, and answers, in place or by way of another dispatcher."""

from __future__ import annotations

import os
import threading
from _thread import get_ident
from collections import deque
from collections.abc import Callable
from time import monotonic

from tricorn.contracts import Dispatcher, Intake, Job, Kind
from tricorn.deadline import Deadline
from tricorn.loop_watch import LoopWatch
from tricorn.message_parts import MAX_INBOX, Parts
from tricorn.peer_table import RECV_BYTES, PeerTable
from tricorn.peers import Limits, Peer
from tricorn.poller import READ, make_poller
from tricorn.wakeup import WakeUp

__all__ = ["MessageLoop"]

#: Connections taken in before the loop looks at the others again.
ACCEPT_BATCH = 64


class MessageLoop:
    """One run of the loop.  Everything but `cancel` and `_part_ended` belongs to the serving thread."""

    def __init__(
        self, intake: Intake, then: Dispatcher | None, limits: Limits, blocked_after: float | None = None
    ) -> None:
        self._intake = intake
        self._then = then
        self._poller = make_poller()
        self._wakeup = WakeUp()
        received = self._answer if then is None else self._queue
        self._parts = Parts(self, then) if then is not None else None
        room = self._work_off if self._parts is None else self._parts.advance
        self.table = PeerTable(self._poller, limits, self._opened, received, self._input_ended, room)
        self.table.shared = then is not None and then.forks
        self.table.with_inbox = then is not None
        if then is None:
            self.table.serve = self._serve
        #: What else is waited for, and what to do then.
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._high_water = limits.high_water
        self._accepting = True
        self._cancelled = False
        #: Set when the loop of an in-place selector has ended.
        self.finished = threading.Event()
        self.thread = get_ident()
        #: Begun and ended by whoever runs the loop.
        self.loop_watch = LoopWatch(blocked_after, self.wake, intake.crew.tell)
        self.watch(self._wakeup.fileno(), self._woken)
        self.watch(intake.fileno(), self._accept)

    @property
    def busy(self) -> bool:
        """Something is left to do."""
        return bool(self.table.peers) or (self._parts is not None and self._parts.in_flight > 0)

    def watch(self, fd: int, ready: Callable[[], None]) -> None:
        """Call ``ready`` whenever ``fd`` is readable."""
        self._callbacks[fd] = ready
        self._poller.register(fd, READ)

    def copy_descriptor(self) -> int:
        """Some descriptor, to have one more.  Raises `OSError` where there is none left."""
        return os.dup(self._wakeup.fileno())

    def unwatch(self, fd: int) -> None:
        """No more."""
        if self._callbacks.pop(fd, None) is not None:
            self._poller.unregister(fd)

    def run(self, over: Callable[[], bool], deadline: Deadline | None = None) -> None:
        """Turn after turn, until ``over``."""
        table, poll = self.table, self._poller.poll
        patience = self._intake.patience
        find, serve = table.peers.get, table.serve
        self.thread = get_ident()
        if self._intake.stopped:
            self._wind_down()
        while True:
            timeout = table.expire()
            if over():  # asked after those were ended whose time is over: nothing may come any more to wake us
                return
            pause = patience()
            if pause is not None or deadline is not None:
                waits = (timeout, pause, None if deadline is None else deadline.remaining())
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
        if self._parts is not None:
            self._parts.lay_by()
        for number in range(ACCEPT_BATCH):
            job = self._intake.poll(again=number > 0)
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
            data = peer.recv(RECV_BYTES, peer.flags)
        except OSError as error:
            table.cannot_read(peer, error)
            return
        if not data or peer.out or peer.inbox or peer.buffered is not None:
            if not (data or peer.out or peer.inbox or peer.closing) and peer.conversation.idle:
                table.end(peer, peer.conversation.error)  # it has said all it wanted, and was answered
            else:
                table.take(peer, data)
            return
        conversation = peer.conversation
        try:
            replies = peer.context.run(conversation.respond, data, self._high_water)
        except Exception as error:  # a decoder of somebody's that broke
            table.finish(peer, error)
            return
        if not replies or conversation.error is not None or conversation.left:
            self._reply(peer, replies)
            return
        peer.since, peer.begun, peer.heard = table.now, False, True
        try:  # `PeerTable.send`, where nothing is kept, and the kernel takes it all
            sent = peer.send(replies, peer.flags)
        except OSError:
            sent = 0  # what it is, the next try tells
        if sent < len(replies):
            table.send(peer, replies[sent:])

    def _answer(self, peer: Peer, data: bytes) -> None:
        """Without ``then``: call the function here and now."""
        conversation = peer.conversation
        if peer.inbox:  # those before are waiting for the peer to read
            self._put_by(peer, conversation.decode(data))
            return
        self._reply(peer, peer.context.run(conversation.respond, data, self._high_water))

    def _reply(self, peer: Peer, replies: bytes) -> None:
        """What came of it all: output, messages that were not come to, an end."""
        table, conversation = self.table, peer.conversation
        if replies:
            if not peer.out:
                peer.since = table.now
            peer.begun, peer.heard = False, True
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
        peer.heard = True
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

    def _woken(self) -> None:
        self._wakeup.clear()
        self.loop_watch.answer()

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
