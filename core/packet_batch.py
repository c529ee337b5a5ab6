"""Packets taken and sent in batches: recvmmsg(2) and sendmmsg(2), by way of ctypes.

A packet costs two system calls, and on the loopback each of them more than all the Python around it; in batches of 32 a
bare echo in Python reached 240,000 packets a second where one by one it reached 185,000, and `socketserver` 115,000.

The layout of the structures is that of 64-bit Linux, written through views of 64-bit words: a store through ctypes'
own fields costs 60 ns, one through a view 25.  A reply is not copied: the kernel reads it where CPython keeps the bytes
of a ``bytes``, behind its head.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import sys
from _thread import get_ident
from array import array
from time import monotonic
from typing import TYPE_CHECKING, Any

from tricorn.checks import refuse_option
from tricorn.datagram import MOST_ERRORS, OF_AN_EARLIER_REPLY, REPLY_WAIT_S, Datagram, cut, turns_to_send
from tricorn.deadline import Deadline
from tricorn.errors import PeerRefused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from attrs import Attribute

__all__ = ["MAX_BATCH", "PacketBatch", "batches_are_possible", "check_batch"]

#: UIO_MAXIOV: more than this the kernel does not take at a time.
MAX_BATCH = 1024
#: Bytes that the buffers of a batch take at most.
MOST_MEMORY = 2**26
#: Seconds that a reply waits at most for others to go with it, before the next packet is taken.
HOLD_S = 0.001
#: Packets of a batch after which is looked whether replies have waited for too long: a mask.
_LOOK_EVERY = 3
#: Senders whose addresses are kept in both forms.
MOST_KNOWN = 4096
#: Bytes that the kernel's form of an address takes: ``struct sockaddr_in``, ``sockaddr_in6``, ``sockaddr_un``.
_NAME_LENGTHS = {socket.AF_INET: 16, socket.AF_INET6: 28, getattr(socket, "AF_UNIX", None): 110}
_INTERNET = (socket.AF_INET, socket.AF_INET6)
#: Bytes of the family, with which each begins; an address of a Unix client without a name has no more, if any.
_FAMILY_BYTES = 2
#: The sender of a packet from port 0; the end of the turns.
_NOBODY: Any = object()
_OVER = object()
#: 64-bit words of a ``struct mmsghdr``, and which of its 32-bit words are ``msg_namelen`` and ``msg_len``.
_WORDS, _NAME_LENGTH, _LENGTH = 8, 2, 14
#: With MSG_TRUNC it says how long a packet was of which only the beginning fits: recv(2).
_DONT_WAIT: int = getattr(socket, "MSG_DONTWAIT", 0)
_FLAGS: int = _DONT_WAIT | getattr(socket, "MSG_TRUNC", 0)
#: Where the bytes of a ``bytes`` begin: behind its head, which counts one for the zero at the end.
_HEAD = bytes.__basicsize__ - 1
#: Bytes of the longest reply that goes with others; UDP carries no longer one.
_MOST_BYTES = 65_536


def batches_are_possible() -> bool:
    """With CPython on Linux, where a word has 64 bits, the lowest first."""
    known = sys.platform == "linux" and sys.implementation.name == "cpython"
    return known and ctypes.sizeof(ctypes.c_void_p) == 8 and sys.byteorder == "little"


def check_batch(owner: Any, option: Attribute[int], value: int, *, asks_more: bool) -> None:
    """For an attrs validator, behind `whole_number`, of a transport with ``max_packet_size``; ``asks_more``: it is to
    tell more of a packet than its bytes."""
    if value == 1:
        return
    if not batches_are_possible():
        refuse_option(owner, option.name, value, "1: this is not CPython on 64-bit Linux")
    if value * owner.max_packet_size > MOST_MEMORY:
        most = max(1, MOST_MEMORY // owner.max_packet_size)
        refuse_option(owner, option.name, value, f"at most {most}, with max_packet_size={owner.max_packet_size}")
    if asks_more:
        refuse_option(owner, option.name, value, "1 where more than bytes is asked for")


def _zeros(length: int) -> ctypes.Array[ctypes.c_char]:
    """Memory that is there when it is first used: most packets are short."""
    memory = mmap.mmap(-1, length or 1, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return (ctypes.c_char * length).from_buffer(memory)


class _Headers:
    """``count`` times ``struct mmsghdr`` with a ``struct iovec`` and room for an address, and for ``size`` bytes if
    they are for what comes in."""

    def __init__(self, count: int, name_length: int, size: int = 0) -> None:
        self._memory = [_zeros(length) for length in (count * size, count * name_length)]
        self._vectors, self._headers = (ctypes.c_uint64 * (2 * count))(), (ctypes.c_uint64 * (_WORDS * count))()
        self.data, self.names = (memoryview(each).cast("B") for each in self._memory)
        self.vectors, self.headers = (memoryview(each).cast("B").cast("Q") for each in (self._vectors, self._headers))
        halves = memoryview(self._headers).cast("B").cast("I")
        #: How long each was that came in, and the address of its sender.
        self.lengths, self.name_lengths = halves[_LENGTH :: 2 * _WORDS], halves[_NAME_LENGTH :: 2 * _WORDS]
        self.room_for_names = array("I", [name_length] * count)
        self.address = ctypes.addressof(self._headers)
        data, names = (ctypes.addressof(each) for each in self._memory)
        vectors = ctypes.addressof(self._vectors)
        for i in range(count):
            self.vectors[2 * i], self.vectors[2 * i + 1] = data + i * size, size
            words = (names + i * name_length, name_length, vectors + i * 16, 1)
            for word, value in enumerate(words, _WORDS * i):
                self.headers[word] = value


class PacketBatch:
    """Stands between a bound, non-blocking socket and its handlers.  `take` gives one packet after the other, sends the
    replies to the last batch, and takes the next; `sendto` keeps replies until then, or for `HOLD_S`.  Belongs to one
    thread; what another one sends goes at once.

    ``count`` packets at a time, of ``size`` bytes at most; with ``deliver_truncated`` it gives the beginning of longer
    ones, too.  All else that is asked of it is asked of the socket.
    """

    def __init__(
        self, sock: socket.socket, local: object, count: int, size: int, *, deliver_truncated: bool = False
    ) -> None:
        self._socket, self._local = sock, local
        #: Whose it is; nobody's before the first packet, and from `close` on.
        self._thread = 0
        self._count, self._most, self._delivers = count, size, deliver_truncated
        self._family = sock.family
        self._name_length = name_length = _NAME_LENGTHS[sock.family]
        self._in, self._out = _Headers(count, name_length, size + 1), _Headers(count, name_length)
        #: What was taken, the last first, with those that are refused.
        self._packets: list[Datagram | PeerRefused] = []
        #: To whom there are replies, which, and since when the first of them waits.
        self._waiting: list[Any] = []
        self._replies: list[bytes] = []
        self._held_since, self._sends = 0.0, False
        self._turns: Iterator[None] | None = None
        #: Replies that could not be sent: to whom, and why.
        self._lost: list[tuple[Any, int]] = []
        #: What Python calls who the kernel calls so; and where those bytes are, and how many.
        self._names: dict[bytes, Any] = {}
        self._places: dict[Any, tuple[int, int]] = {}
        library = ctypes.CDLL(None, use_errno=True)
        number, pointer = ctypes.c_uint, ctypes.c_void_p
        self._recvmmsg, self._sendmmsg = library.recvmmsg, library.sendmmsg
        self._recvmmsg.argtypes = [ctypes.c_int, pointer, number, ctypes.c_int, pointer]
        self._sendmmsg.argtypes = [ctypes.c_int, pointer, number, ctypes.c_int]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    # -- in

    def take(self) -> Datagram:
        """The next packet.  Raises as `tricorn.contracts.Listener.accept`, and `~tricorn.errors.PeerRefused` for a
        reply that could not be sent after `sendto` had taken it."""
        packets = self._packets
        if not len(packets) & _LOOK_EVERY:
            self._turn()
        packet = packets.pop()
        if isinstance(packet, PeerRefused):
            raise packet
        return packet

    def _turn(self) -> None:
        """Send what has waited for too long; take the next batch if there is nothing left."""
        if not self._packets or (self._waiting and monotonic() - self._held_since > HOLD_S):
            self.flush()
        if self._lost:
            peer, number = self._lost.pop()
            raise PeerRefused(f"a reply to it could not be sent: {os.strerror(number)}", peer)
        if not self._packets:
            self._receive()

    def _receive(self) -> None:
        half = self._in
        count = self._taken()
        self._thread = get_ident()
        name_length, data, size = self._name_length, half.data, self._most + 1
        names = half.names[: count * name_length].tobytes()
        lengths, told = half.lengths[:count].tolist(), half.name_lengths[:count].tolist()
        if self._family not in _INTERNET:
            half.name_lengths[:] = half.room_for_names  # the kernel has written how much of it was used
            told = [min(each, name_length) for each in told]  # or one more: a path that fills its room has no NUL
        known, local, most, add = self._names, self._local, self._most, self._packets.append
        for i in range(count - 1, -1, -1):
            name, start, length = i * name_length, i * size, lengths[i]
            raw = names[name : name + told[i]]
            peer = known.get(raw) or self._learn(raw)
            packet = Datagram(data[start : start + length].tobytes(), peer, self, local)  # if too long, it is cut below
            add(packet if length <= most and peer is not _NOBODY else self._odd(packet, raw, length))

    def _taken(self) -> int:
        """How many packets are in the buffers now.  Raises what recvfrom(2) raises."""
        for _ in range(MOST_ERRORS):
            count: int = self._recvmmsg(self._socket.fileno(), self._in.address, self._count, _FLAGS, None)
            if count >= 0:
                return count
            number = ctypes.get_errno()
            if number not in OF_AN_EARLIER_REPLY:
                raise OSError(number, os.strerror(number))
        raise BlockingIOError(errno.EAGAIN, "only errors of earlier replies were pending")

    def _odd(self, packet: Datagram, raw: bytes, length: int) -> Datagram | PeerRefused:
        """What becomes of one that is too long, or to whose sender nobody can reply."""
        if packet.peer is _NOBODY:
            return PeerRefused("a packet from port 0, which can get no reply", _address(raw, self._family))
        try:
            cut(packet, self._most, self._delivers)
        except PeerRefused as refusal:
            return refusal
        packet.missing = length - self._most
        return packet

    def _learn(self, raw: bytes) -> Any:
        """The sender that the kernel calls so; ``None`` for a Unix client without a name."""
        if len(raw) <= _FAMILY_BYTES:
            return None
        peer = _address(raw, self._family)
        if self._family in _INTERNET and peer[1] == 0:
            return _NOBODY
        if len(self._names) >= MOST_KNOWN:  # no reply waits, which would point there
            self._names.clear()
            self._places.clear()
        self._names[raw] = peer
        self._places[peer] = (id(raw) + _HEAD, len(raw))
        return peer

    # -- out

    def sendto(self, data: Any, address: Any, flagged_address: Any = None) -> int:
        """`socket.socket.sendto`; to who sent a packet, it leaves with others.  What is too long for that, or needs
        more, goes at once."""
        ours, length = get_ident() == self._thread, len(data)
        place = self._places.get(address) if ours and flagged_address is None else None
        if place is None or length > _MOST_BYTES or type(data) is not bytes:
            if ours:
                self.flush()  # in their order
            rest = (address,) if flagged_address is None else (address, flagged_address)
            sent: int = self._socket.sendto(data, *rest)
            return sent
        i, out = len(self._waiting), self._out
        if not i:
            self._held_since = monotonic()
        out.vectors[2 * i], out.vectors[2 * i + 1] = id(data) + _HEAD, length
        out.headers[_WORDS * i], out.headers[_WORDS * i + 1] = place
        self._replies.append(data)  # first: whoever is interrupted between the two leaves nothing that points nowhere
        self._waiting.append(address)
        if i + 1 == self._count:
            self.flush()
        return length

    def flush(self) -> None:
        """Send what waits.  Blocks for `REPLY_WAIT_S` at most while there is no room."""
        if self._sends:
            return  # `close`, while a handler that was left behind is at it
        done, count, self._turns = 0, len(self._waiting), None
        try:
            self._sends = True
            while done < count:
                done = self._send_on(done, count)
        finally:  # what an interrupt has left is not sent twice
            self._lost += [(peer, errno.EINTR) for peer in self._waiting[done:count]]
            self._waiting.clear()
            self._replies.clear()
            self._sends = False

    def _send_on(self, done: int, count: int) -> int:
        """Send as many as go at one go, or count one as lost; how many are done then."""
        told = False
        while True:
            at = self._out.address + done * 8 * _WORDS
            sent: int = self._sendmmsg(self._socket.fileno(), at, count - done, _DONT_WAIT)
            if sent > 0:
                return done + sent
            number = ctypes.get_errno()
            if number == errno.EINTR:
                continue
            if number in OF_AN_EARLIER_REPLY and not told:  # told once; a second time it is this one's own
                told = True
                continue
            if number in (errno.EAGAIN, errno.ENOBUFS) and self._has_another_turn():
                continue
            self._lost.append((self._waiting[done], number))
            return done + 1

    def _has_another_turn(self) -> bool:
        """After a wait; False once this `flush` has waited for so long that it is to go on without."""
        if self._turns is None:
            self._turns = turns_to_send(self._socket, Deadline.after(REPLY_WAIT_S))
        return next(self._turns, _OVER) is not _OVER

    def close(self) -> None:
        """Send what waits; what a handler sends that is still there meets a socket that is closed."""
        self._thread = 0
        if self._socket.fileno() >= 0:
            self.flush()


def _address(raw: bytes, family: int) -> Any:
    """A ``struct sockaddr_in``, ``sockaddr_in6`` or ``sockaddr_un`` as `socket` has it: ip(7), ipv6(7), unix(7)."""
    if family not in _INTERNET:
        path = raw[_FAMILY_BYTES:]
        return path if path[:1] == b"\0" else os.fsdecode(path.partition(b"\0")[0])
    port = int.from_bytes(raw[2:4], "big")
    if family == socket.AF_INET:
        return (socket.inet_ntoa(raw[4:8]), port)
    flow, scope = int.from_bytes(raw[4:8], "big"), int.from_bytes(raw[24:28], sys.byteorder)
    return (socket.inet_ntop(socket.AF_INET6, raw[8:24]), port, flow, scope)
