"""One packet in, and perhaps a reply out."""

from __future__ import annotations

import errno
import selectors
import socket as _sockets
from collections.abc import Iterator
from contextlib import suppress
from time import monotonic, sleep
from typing import Any, ClassVar

from attrs import define

from tricorn.contracts import Kind
from tricorn.deadline import Deadline
from tricorn.errors import PeerRefused

__all__ = ["REPLY_WAIT_S", "Datagram", "take_packet", "too_long"]

#: Seconds that `Datagram.reply` waits for room.  A device empties a full buffer in milliseconds; only a Unix client
#: that does not read takes longer, and must not hold the server up.
REPLY_WAIT_S = 1.0


@define(eq=False)
class Datagram:
    """One packet; it borrows the listener's socket and never closes it.  Safe to hand between threads."""

    kind: ClassVar[Kind] = Kind.DATAGRAM

    #: The packet's bytes; may be empty.
    data: bytes
    #: The sender's address, or ``None`` for a Unix client that has no name and can get no reply.
    peer: Any
    #: The shared socket it came in by.
    socket: Any
    #: The local address that the packet was sent to.
    local: object = None
    #: True if the packet was longer than the transport's limit and ``data`` is only its beginning.
    truncated: bool = False
    #: The job's number, unique in this process.
    id: int = 0
    #: Control messages of cmsg(3) that make a reply leave from ``local``; none where the socket is bound to it.
    control: tuple[tuple[int, int, bytes], ...] = ()
    fault: BaseException | None = None

    def reply(self, data: bytes | bytearray | memoryview) -> int:
        """Send one packet to the sender, from the local address that it used; returns the bytes sent.

        A sender without a name gets nothing: 0, and no error.  Blocks only while there is no room, in our buffer or in
        that of a Unix client which does not read, for at most `REPLY_WAIT_S` seconds; then raises `TimeoutError`.
        Raises `OSError` (EMSGSIZE above the transport's limit) as sendto(2) does.
        """
        if self.peer is None:
            return 0
        try:
            return self._send(data)
        except BlockingIOError:
            return self._send_when_there_is_room(data)
        except OSError as error:
            self.fault = error
            raise

    def _send(self, data: bytes | bytearray | memoryview) -> int:
        if self.control:
            sent: int = self.socket.sendmsg((data,), self.control, 0, self.peer)
        else:
            sent = self.socket.sendto(data, self.peer)
        return sent

    def _send_when_there_is_room(self, data: bytes | bytearray | memoryview) -> int:
        try:
            for _ in _turns(self.socket, Deadline.after(REPLY_WAIT_S)):
                with suppress(BlockingIOError):
                    return self._send(data)
            raise TimeoutError(errno.ETIMEDOUT, f"no room for the reply to {self.peer!r} within {REPLY_WAIT_S} s")
        except OSError as error:
            self.fault = error
            raise

    def open(self, deadline: Deadline) -> None:
        """A packet is complete when it arrives."""

    def finish(self, error: BaseException | None) -> None:
        """The socket is the listener's: nothing to close."""

    def drain(self) -> None:
        """A packet is never idle: its job ends by itself."""

    def abort(self) -> None:
        """Nothing to cut: there is no conversation."""

    def disown(self) -> None:
        """Nothing to close: the socket is the listener's."""


def take_packet(sock: _sockets.socket, local: object, max_packet_size: int, deliver_truncated: bool) -> Datagram:
    """recvfrom(2) on a non-blocking socket bound to ``local``; raises as `Listener.accept` does.

    Asks for one byte more than the limit, which shows whether a packet is longer, and is quicker than recvmsg(2), which
    would say so by MSG_TRUNC (1.05 us against 1.2).
    """
    data, peer = sock.recvfrom(max_packet_size + 1)
    if len(data) <= max_packet_size:
        return Datagram(data, peer, sock, local)
    if not deliver_truncated:
        raise too_long(max_packet_size, peer)
    return Datagram(data[:max_packet_size], peer, sock, local, True)


def too_long(max_packet_size: int, peer: object) -> PeerRefused:
    """What `Listener.accept` raises for a packet above the limit."""
    return PeerRefused(f"a packet longer than max_packet_size ({max_packet_size} bytes)", peer)


def _turns(sock: _sockets.socket, deadline: Deadline) -> Iterator[None]:
    """Moments to try sending again, until ``deadline``.

    Our own buffer tells when it has room.  A Unix client's queue does not: the socket counts as writable all the while,
    and the tries are spaced further and further apart.
    """
    pause = 0.001
    with _writable_selector(sock) as selector:
        while not deadline.expired:
            began = monotonic()
            selector.select(deadline.remaining())
            if monotonic() - began < pause:
                sleep(pause)
                pause = min(2 * pause, 0.05)
            yield


def _writable_selector(sock: _sockets.socket) -> selectors.BaseSelector:
    selector: selectors.BaseSelector = getattr(selectors, "PollSelector", selectors.SelectSelector)()
    selector.register(sock, selectors.EVENT_WRITE)
    return selector
