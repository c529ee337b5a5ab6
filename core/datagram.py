"""One packet in, and perhaps a reply out."""

from __future__ import annotations

import errno
import selectors
import socket as _sockets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import define

from tricorn.ancillary import (
    Message,
    credentials_in,
    drops_in,
    hop_limit_in,
    interface_in,
    received_at_in,
)
from tricorn.contracts import Kind
from tricorn.deadline import Deadline
from tricorn.errors import PeerRefused

if TYPE_CHECKING:
    from tricorn.connection import Credentials

__all__ = [
    "MOST_ERRORS", "OF_AN_EARLIER_REPLY", "REPLY_WAIT_S", "Datagram", "cut", "take_packet", "too_long", "turns_to_send",
]  # fmt: skip

#: Seconds that `Datagram.reply` waits for room.  A device empties a full buffer in milliseconds; only a Unix client
#: that does not read takes longer, and must not hold the server up.
REPLY_WAIT_S = 1.0

#: Errors that ICMP brings back for a reply sent earlier: the next call on the socket reports each once.
OF_AN_EARLIER_REPLY = frozenset(
    {errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETRESET}
)
#: How many of those are cleared away before it is said that nothing is pending.
MOST_ERRORS = 64


@define(eq=False)
class Datagram:
    """One packet; it borrows the listener's socket and never closes it.  Safe to hand between threads."""

    kind: ClassVar[Kind] = Kind.DATAGRAM
    needs_opening: ClassVar[bool] = False

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
    #: What the kernel said beside the packet, as control messages of cmsg(3); the properties below read it.
    ancillary: Sequence[Message] = ()
    #: How many bytes were cut off, where that is known.
    missing: int = 0

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.needs_opening = cls.open is not Datagram.open

    @property
    def full_length(self) -> int | None:
        """The length in bytes that the packet was sent with; ``None`` if it is truncated and nobody counted.

        Known on Linux, also of a truncated one: recv(2), MSG_TRUNC.
        """
        return None if self.truncated and not self.missing else len(self.data) + self.missing

    @property
    def interface(self) -> int | None:
        """The number of the interface that it came in by, which `socket.if_indextoname` names; ``None`` if not told.

        Told where the transport was asked (``interfaces=True``) or takes every interface: ip(7), IP_PKTINFO; RFC 3542,
        section 6.1.  What a machine sends to itself comes in by the loopback interface, whatever address it is for.
        """
        return interface_in(self.ancillary)

    @property
    def received_at_ns(self) -> int | None:
        """When the kernel had the packet, in nanoseconds since the epoch; ``None`` without ``timestamps=True``.

        By the kernel's wall clock, the one of `time.time_ns`, which may be set.  How long it then waited for us is the
        difference.  socket(7), SO_TIMESTAMPNS.
        """
        return received_at_in(self.ancillary)

    @property
    def dropped(self) -> int | None:
        """How many packets the kernel had dropped on this socket, since it was opened, when this one was queued.

        ``None`` without ``count_dropped=True``.  Modulo 2**32; several listeners count each for itself.  socket(7),
        SO_RXQ_OVFL.
        """
        return drops_in(self.ancillary)

    @property
    def hop_limit(self) -> int | None:
        """The hops that the packet had left, 0 to 255: TTL, hop limit; ``None`` without ``hop_limits=True``.

        ip(7), IP_RECVTTL; RFC 3542, section 6.3.
        """
        return hop_limit_in(self.ancillary)

    @property
    def credentials(self) -> Credentials | None:
        """Process, user and group of the sender of a Unix packet, as the kernel attests them: unix(7), SO_PASSCRED.

        A privileged sender may have named others.  The process is 0 where it cannot be seen from here, being in another
        namespace.  ``None`` without ``credentials=True``, and where the packet was sent before the server had asked.
        """
        found = credentials_in(self.ancillary)
        if found is None:
            return None
        from tricorn.connection import Credentials

        return Credentials(*found)

    def reply(self, data: bytes | bytearray | memoryview) -> int:
        """Send one packet to the sender, from the local address that it used; returns the bytes sent.

        A sender without a name gets nothing: 0, and no error.  Blocks only while there is no room, in our buffer or in
        that of a Unix client which does not read, for at most `REPLY_WAIT_S` seconds; then raises `TimeoutError`.
        Raises `OSError` (EMSGSIZE above the transport's limit) as sendto(2) does.
        """
        if self.control or self.peer is None:
            try:
                return self.reply_now(data)
            except BlockingIOError:
                return self._send_when_there_is_room(data)
        try:  # the usual case at one go
            sent: int = self.socket.sendto(data, self.peer)
        except BlockingIOError:
            return self._send_when_there_is_room(data)
        except OSError as error:
            self.fault = error
            raise
        return sent

    def reply_now(self, data: bytes | bytearray | memoryview) -> int:
        """`reply` without waiting: raises `BlockingIOError` where there is no room."""
        if self.peer is None:
            return 0
        try:
            return self._send(data)
        except BlockingIOError:
            raise
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
            for _ in turns_to_send(self.socket, Deadline.after(REPLY_WAIT_S)):
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
    packet = Datagram(data, peer, sock, local)
    if len(data) > max_packet_size:
        cut(packet, max_packet_size, deliver_truncated)
    return packet


def cut(packet: Datagram, max_packet_size: int, deliver_truncated: bool) -> None:
    """Mark a packet that is above the limit, or refuse it: raises `~tricorn.errors.PeerRefused`."""
    if not deliver_truncated:
        raise too_long(max_packet_size, packet.peer)
    packet.data, packet.truncated = packet.data[:max_packet_size], True


def too_long(max_packet_size: int, peer: object) -> PeerRefused:
    """What `Listener.accept` raises for a packet above the limit."""
    return PeerRefused(f"a packet longer than max_packet_size ({max_packet_size} bytes)", peer)


def turns_to_send(sock: _sockets.socket, deadline: Deadline) -> Iterator[None]:
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
