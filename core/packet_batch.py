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
import os
import select
import socket
import sys
from time import monotonic
from typing import Any

from tricorn.datagram import OF_AN_EARLIER_REPLY, Datagram
from tricorn.errors import PeerRefused

__all__ = ["MAX_BATCH", "PacketBatch", "batches_are_possible"]

#: UIO_MAXIOV: more than this the kernel does not take at a time.
MAX_BATCH = 1024
#: Seconds that a reply waits at most for others to go with it, before the next packet is taken.
HOLD_S = 0.001
#: Seconds that sending waits for room.
ROOM_S = 1.0
#: Senders whose addresses are kept in both forms.
MOST_KNOWN = 4096
#: Bytes of ``struct sockaddr_in`` and ``sockaddr_in6``.
_NAME_LENGTHS = {socket.AF_INET: 16, socket.AF_INET6: 28}
#: 64-bit words of a ``struct mmsghdr``; its ``msg_len`` is this one of its 32-bit words.
_WORDS, _LENGTH = 8, 14
#: Where the bytes of a ``bytes`` begin: behind its head, which counts one for the zero at the end.
_HEAD = bytes.__basicsize__ - 1
#: Bytes of the longest reply that goes with others; UDP carries no longer one.
_MOST_BYTES = 65_536


def batches_are_possible() -> bool:
    """With CPython on Linux, where a word has 64 bits."""
    known = sys.platform == "linux" and sys.implementation.name == "cpython"
    return known and ctypes.sizeof(ctypes.c_void_p) == 8


class _Headers:
    """``count`` times ``struct mmsghdr`` with a ``struct iovec`` and room for an address, and for ``size`` bytes if
    they are for what comes in."""

    def __init__(self, count: int, name_length: int, size: int = 0) -> None:
        self._memory = [ctypes.create_string_buffer(length) for length in (count * size, count * name_length)]
        self._vectors, self._headers = (ctypes.c_uint64 * (2 * count))(), (ctypes.c_uint64 * (_WORDS * count))()
        self.data, self.names = (memoryview(each).cast("B") for each in self._memory)
        self.vectors, self.headers = (memoryview(each).cast("B").cast("Q") for each in (self._vectors, self._headers))
        #: How long each was that came in.
        self.lengths = memoryview(self._headers).cast("B").cast("I")[_LENGTH :: 2 * _WORDS]
        self.address = ctypes.addressof(self._headers)
        data, names = (ctypes.addressof(each) for each in self._memory)
        vectors = ctypes.addressof(self._vectors)
        for i in range(count):
            self.vectors[2 * i], self.vectors[2 * i + 1] = data + i * size, size
            words = (names + i * name_length, name_length, vectors + i * 16, 1)
            for word, value in enumerate(words, _WORDS * i):
                self.headers[word] = value


class PacketBatch:
    """Stands between a bound, non-blocking socket and its handlers.  `turn` sends the replies to the last batch and
    takes the next into ``packets``; `sendto` keeps replies until then, or for `HOLD_S`.  Belongs to one thread.

    All else that is asked of it is asked of the socket.
    """

    def __init__(self, sock: socket.socket, local: object, count: int, size: int) -> None:
        self._socket, self._local = sock, local
        self._fd = sock.fileno()
        self._count, self._size = count, size + 1
        self._name_length = _NAME_LENGTHS[sock.family]
        self._in = _Headers(count, self._name_length, self._size)
        self._out = _Headers(count, self._name_length)
        #: What was taken, the last first.
        self.packets: list[Datagram] = []
        #: To whom there are replies, which, and since when the first of them waits.
        self._waiting: list[Any] = []
        self._replies: list[bytes] = []
        self._held_since = 0.0
        #: Replies that could not be sent: to whom, and why.
        self.lost: list[tuple[Any, int]] = []
        #: What Python calls who the kernel calls so; and where those bytes are.
        self._names: dict[bytes, Any] = {}
        self._places: dict[Any, int] = {}
        library = ctypes.CDLL(None, use_errno=True)
        number, pointer = ctypes.c_uint, ctypes.c_void_p
        self._recvmmsg, self._sendmmsg = library.recvmmsg, library.sendmmsg
        self._recvmmsg.argtypes = [ctypes.c_int, pointer, number, ctypes.c_int, pointer]
        self._sendmmsg.argtypes = [ctypes.c_int, pointer, number, ctypes.c_int]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    # -- in

    def turn(self) -> None:
        """Send what has waited for too long; take the next batch if there is nothing left.  Raises what recvfrom(2)
        raises, and `~tricorn.errors.PeerRefused` for a reply that could not be sent after `sendto` had taken it."""
        if not self.packets or (self._waiting and monotonic() - self._held_since > HOLD_S):
            self.flush()
        if self.lost:
            peer, number = self.lost.pop()
            raise PeerRefused(f"a reply to it could not be sent: {os.strerror(number)}", peer)
        if not self.packets:
            self._receive()

    def _receive(self) -> None:
        half = self._in
        count = self._recvmmsg(self._fd, half.address, self._count, socket.MSG_DONTWAIT, None)
        if count < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        data, size, name_length = half.data, self._size, self._name_length
        names, lengths = half.names[: count * name_length].tobytes(), half.lengths[:count].tolist()
        known, local, add = self._names, self._local, self.packets.append
        for i in range(count - 1, -1, -1):
            raw, start = names[i * name_length : (i + 1) * name_length], i * size
            peer = known.get(raw) or self._learn(raw)
            add(Datagram(data[start : start + lengths[i]].tobytes(), peer, self, local))

    def _learn(self, raw: bytes) -> Any:
        """An address of ``struct sockaddr_in`` or ``sockaddr_in6``, as `socket` has it: ip(7), ipv6(7)."""
        port = int.from_bytes(raw[2:4], "big")
        peer: Any
        if self._name_length == _NAME_LENGTHS[socket.AF_INET]:
            peer = (socket.inet_ntoa(raw[4:8]), port)
        else:
            flow, scope = int.from_bytes(raw[4:8], "big"), int.from_bytes(raw[24:28], sys.byteorder)
            peer = (socket.inet_ntop(socket.AF_INET6, raw[8:24]), port, flow, scope)
        if len(self._names) >= MOST_KNOWN:  # no reply waits, which would point there
            self._names.clear()
            self._places.clear()
        self._names[raw] = peer
        self._places[peer] = id(raw) + _HEAD
        return peer

    # -- out

    def sendto(self, data: Any, address: Any, flagged_address: Any = None) -> int:
        """`socket.socket.sendto`; to who sent a packet, it leaves with others.  What is too long for that, or needs
        more, goes at once."""
        place = self._places.get(address) if flagged_address is None else None
        length = len(data)
        if place is None or length > _MOST_BYTES or type(data) is not bytes:
            self.flush()  # in their order
            rest = (address,) if flagged_address is None else (address, flagged_address)
            sent: int = self._socket.sendto(data, *rest)
            return sent
        i, out = len(self._waiting), self._out
        if not i:
            self._held_since = monotonic()
        out.vectors[2 * i], out.vectors[2 * i + 1] = id(data) + _HEAD, length
        out.headers[_WORDS * i] = place
        self._waiting.append(address)
        self._replies.append(data)
        if i + 1 == self._count:
            self.flush()
        return length

    def flush(self) -> None:
        """Send what waits.  Blocks for `ROOM_S` at most while there is no room."""
        done, count = 0, len(self._waiting)
        until, tried_again = 0.0, -1
        while done < count:
            sent = self._sendmmsg(self._fd, self._out.address + done * 8 * _WORDS, count - done, socket.MSG_DONTWAIT)
            if sent > 0:
                done += sent
                continue
            number = ctypes.get_errno()
            if number == errno.EINTR:
                continue
            if number in OF_AN_EARLIER_REPLY and tried_again != done:  # told once; a second time it is this one's own
                tried_again = done
                continue
            until = until or monotonic() + ROOM_S
            if number in (errno.EAGAIN, errno.ENOBUFS) and monotonic() < until:
                self._wait_for_room(until - monotonic())
                continue
            self.lost.append((self._waiting[done], number))
            done += 1
        self._waiting.clear()
        self._replies.clear()

    def _wait_for_room(self, seconds: float) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        poll.poll(min(seconds, 0.05) * 1000)
