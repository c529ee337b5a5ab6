"""A connected pair of stream sockets with no kernel behind them: two buffers, and a condition for each.

They behave as a pair of Unix stream sockets does: bounded buffers that make a sender wait, EPIPE when the reader is
gone, ECONNRESET for a peer that was closed with bytes unread, half-close, timeouts, files.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tricorn.deadline import Deadline
from tricorn.peer_socket import Tracked

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["CAPACITY", "MemorySocket", "memory_pair"]

#: Bytes that each direction holds until they are read; a sender waits for room.
CAPACITY = 262144

_PEEK = socket.MSG_PEEK
_DONT_WAIT: int = getattr(socket, "MSG_DONTWAIT", 0)


def _os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class _Flow:
    """One direction: what one end writes and the other reads.  Safe from any thread."""

    __slots__ = ("_bytes", "_changed", "_ended", "_refusing", "_reset")

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._changed = threading.Condition()
        self._ended = False  # nothing more is written: the reader sees the end after what is there
        self._refusing = False  # nothing more is read: writing fails
        self._reset = False  # the reader is told once, after what is there

    def put(self, data: memoryview, timeout: float | None) -> int:
        with self._changed:
            self._wait(lambda: self._refusing or self._ended or len(self._bytes) < CAPACITY, timeout)
            if self._refusing or self._ended:
                raise _os_error(errno.EPIPE)
            taken = data[: CAPACITY - len(self._bytes)]
            self._bytes += taken
            self._changed.notify_all()
            return len(taken)

    def take(self, most: int, timeout: float | None, peek: bool) -> bytes:
        with self._changed:
            self._wait(lambda: bool(self._bytes) or self._ended or most == 0, timeout)
            if not self._bytes and self._reset and most:
                self._reset = False
                raise _os_error(errno.ECONNRESET)
            data = bytes(self._bytes[:most])
            if not peek:
                del self._bytes[:most]
                self._changed.notify_all()
            return data

    def _wait(self, ready: Callable[[], bool], timeout: float | None) -> None:
        if timeout == 0:
            if not ready():
                raise _os_error(errno.EAGAIN)
        elif not self._changed.wait_for(ready, timeout):
            raise TimeoutError("timed out")

    def end(self, *, reset: bool = False) -> None:
        """The writer is done; with ``reset``, and says so rudely."""
        with self._changed:
            self._ended = True
            self._reset = self._reset or reset
            self._changed.notify_all()

    def refuse(self) -> None:
        """The reader reads what is there, and takes nothing more."""
        with self._changed:
            self._ended = self._refusing = True
            self._changed.notify_all()

    def forget(self) -> bool:
        """The reader is gone; True if it left something unread."""
        with self._changed:
            unread = bool(self._bytes)
            self._bytes.clear()
            self._reset = False
            self._ended = self._refusing = True
            self._changed.notify_all()
            return unread


class _Duplex:
    """The calls of `socket.socket` over two flows.  A closed one raises EBADF, as a real one does."""

    family = socket.AF_UNSPEC
    type = socket.SOCK_STREAM
    proto = 0

    def __init__(self, incoming: _Flow, outgoing: _Flow, local: str, peer: str) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._local = local
        self._peer = peer
        self._timeout: float | None = None
        self._lock = threading.Lock()
        self._files = 0
        self._closed = False
        self._released = False

    # -- receiving and sending

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """recv(2); of the flags, MSG_PEEK and MSG_DONTWAIT mean something."""
        self._check()
        if bufsize < 0:
            raise ValueError("negative buffersize in recv")
        return self._incoming.take(bufsize, self._patience(flags), bool(flags & _PEEK))

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0, /) -> int:
        """`recv` into ``buffer``; the number of bytes."""
        self._check()
        view = memoryview(buffer).cast("B")
        data = self._incoming.take(nbytes or len(view), self._patience(flags), bool(flags & _PEEK))
        view[: len(data)] = data
        return len(data)

    def send(self, data: Any, flags: int = 0, /) -> int:
        """send(2): as much as there is room for, at least one byte."""
        self._check()
        view = memoryview(data).cast("B")
        return self._outgoing.put(view, self._patience(flags)) if view else 0

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """Everything; the timeout is for the whole."""
        self._check()
        rest = memoryview(data).cast("B")
        patience = self._patience(flags)
        deadline = Deadline.after(patience)
        while rest:
            left = deadline.remaining() if patience else patience  # 0: do not wait; None: without limit
            sent = self._outgoing.put(rest, _LAST_MOMENT if patience and not left else left)
            rest = rest[sent:]

    def _patience(self, flags: int) -> float | None:
        return 0 if flags & _DONT_WAIT else self._timeout

    # -- ending

    def shutdown(self, how: int) -> None:
        """shutdown(2): SHUT_RD, SHUT_WR or SHUT_RDWR."""
        self._check()
        if how in (socket.SHUT_RD, socket.SHUT_RDWR):
            self._incoming.refuse()
        if how in (socket.SHUT_WR, socket.SHUT_RDWR):
            self._outgoing.end()

    def abort(self) -> None:
        """Cut both directions, from any thread: blocked calls here return ``b""`` or fail.  Does nothing after
        `close`."""
        self._incoming.refuse()
        self._outgoing.end()

    def close(self) -> None:
        """Close when the last file made by `makefile` is closed too.  With bytes unread the peer sees ECONNRESET."""
        with self._lock:
            self._closed = True
            last = self._files == 0
        if last:
            self._release()

    def _release(self) -> None:
        with self._lock:
            released, self._released = self._released, True
        if not released:
            self._outgoing.end(reset=self._incoming.forget())

    def _check(self) -> None:
        if self._released:
            raise _os_error(errno.EBADF)

    # -- what it is

    def fileno(self) -> int:
        """-1: there is no descriptor."""
        return -1

    def getsockname(self) -> str:
        """The name of this end."""
        self._check()
        return self._local

    def getpeername(self) -> str:
        """The name of the other end."""
        self._check()
        return self._peer

    def settimeout(self, value: float | None) -> None:
        """Seconds that a call may block: ``None`` without limit, 0 not at all."""
        if value is not None and value < 0:
            raise ValueError("Timeout value out of range")
        self._timeout = value

    def gettimeout(self) -> float | None:
        """What `settimeout` set."""
        return self._timeout

    def setblocking(self, flag: bool) -> None:
        """``settimeout(None)`` or ``settimeout(0)``."""
        self._timeout = None if flag else 0.0

    def getblocking(self) -> bool:
        """Whether calls may block."""
        return self._timeout != 0

    def setsockopt(self, *args: Any) -> None:
        """Nothing: there is no kernel to tell."""

    def getsockopt(self, *args: Any) -> int:
        """0: nothing is set."""
        return 0

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self, kind: builtins.type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # -- files

    def makefile(
        self,
        mode: str = "r",
        buffering: int | None = None,
        *,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Any:
        """A file over the socket, as `socket.socket.makefile` gives it."""
        if not set(mode) <= set("rwb"):
            raise ValueError(f"invalid mode {mode!r} (only r, w, b allowed)")
        if buffering == 0 and "b" not in mode:
            raise ValueError("unbuffered streams must be binary")
        raw = _MemoryFile(self, reads="r" in mode or "w" not in mode, writes="w" in mode)
        if buffering == 0:
            return raw
        buffered = _buffered(raw, io.DEFAULT_BUFFER_SIZE if buffering is None or buffering < 0 else buffering)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)

    def file_opened(self) -> None:
        """A file was made: `close` waits for it."""
        with self._lock:
            self._files += 1

    def file_closed(self) -> None:
        """A file was closed."""
        with self._lock:
            self._files -= 1
            last = self._closed and self._files == 0
        if last:
            self._release()


#: What `_Duplex.sendall` waits for room when its time is over: a moment, so that it ends by TimeoutError.
_LAST_MOMENT = 1e-6


class MemorySocket(Tracked, _Duplex):
    """One end: in everything that a handler uses like a `~tricorn.peer_socket.PeerSocket`, but without a descriptor.

    A stream of bytes inside this process; made in pairs by `memory_pair`.  One thread may receive while another sends.
    """

    #: Nothing of the kernel's stands behind it: `fileno` is -1 while it is open.
    in_memory = True

    def end_input(self) -> None:
        """See `Tracked.end_input`."""
        self._incoming.refuse()


class _MemoryFile(io.RawIOBase):
    """The raw file under what `makefile` returns."""

    def __init__(self, sock: _Duplex, *, reads: bool, writes: bool) -> None:
        self._sock = sock
        self._reads = reads
        self._writes = writes
        sock.file_opened()

    def readable(self) -> bool:
        return self._reads

    def writable(self) -> bool:
        return self._writes

    def readinto(self, buffer: Any, /) -> int | None:
        try:
            return self._sock.recv_into(buffer)
        except BlockingIOError:
            return None

    def write(self, data: Any, /) -> int | None:
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return None

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._sock.file_closed()


def _buffered(raw: _MemoryFile, size: int) -> Any:
    if raw.readable() and raw.writable():
        return io.BufferedRWPair(raw, raw, size)
    return io.BufferedReader(raw, size) if raw.readable() else io.BufferedWriter(raw, size)


def memory_pair(server_name: str, client_name: str) -> tuple[MemorySocket, MemorySocket]:
    """A connected pair: the server's end, then the client's."""
    requests, replies = _Flow(), _Flow()
    server = MemorySocket(requests, replies, server_name, client_name)
    client = MemorySocket(replies, requests, client_name, server_name)
    return server, client
