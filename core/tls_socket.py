"""A socket that speaks TLS, with the manners of a plain one, and keeps its notes.

RFC 8446 and RFC 5246.  A peer that ends without ``close_notify`` has ended as any other, so a protocol has to say by
itself where a message ends; encryption that fails later is a `ConnectionError`.
"""

from __future__ import annotations

import errno
import os
import select
import socket as _sockets
import ssl
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import monotonic
from typing import Any

from tricorn.errors import ConnectionLost
from tricorn.peer_socket import Tracked

__all__ = ["CLOSE_NOTIFY_S", "TLSSocket", "reason_of"]

#: Seconds that closing waits at most for room for the last message to a peer that does not read.
CLOSE_NOTIFY_S = 1.0
_DONT_WAIT: int = getattr(_sockets, "MSG_DONTWAIT", 0)


class _Encrypted(ssl.SSLSocket):
    """`ssl.SSLSocket` with the manners of a plain socket: its errors, MSG_PEEK, a `shutdown` that stays encrypted."""

    # Of `ssl.SSLSocket` and `socket.socket`, which do not declare them.
    _sslobj: Any
    _io_refs: int
    #: Held while the descriptor means something else.
    guard: AbstractContextManager[Any] = nullcontext()
    #: The name that the peer asked for; set during the handshake.
    sni_name: str | None = None
    #: Our last message was sent, or could not be.
    _said_goodbye = False
    #: Bytes that were looked at, and not yet received.
    _peeked = b""

    def recv(self, bufsize: int = 1024, flags: int = 0, /) -> bytes:
        if flags & _DONT_WAIT:
            with self._not_waiting():
                return _Encrypted.recv(self, bufsize, flags & ~_DONT_WAIT)
        if flags & _sockets.MSG_PEEK:
            return self._peek(bufsize)
        if self._peeked:
            data, self._peeked = self._peeked[:bufsize], self._peeked[bufsize:]
            return data
        self._check_encrypted()
        try:
            return super().recv(bufsize, flags)
        except ssl.SSLError as error:
            raise _as_connection_error(error) from error

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0, /) -> int:
        if self._peeked or flags:
            with memoryview(buffer).cast("B") as view:
                data = _Encrypted.recv(self, min(nbytes or len(view), len(view)), flags)
                view[: len(data)] = data
            return len(data)
        self._check_encrypted()
        try:
            return super().recv_into(buffer, nbytes, flags)
        except ssl.SSLError as error:
            raise _as_connection_error(error) from error

    def send(self, data: Any, flags: int = 0, /) -> int:
        self._check_encrypted()
        try:
            return super().send(data, flags)
        except ssl.SSLError as error:
            raise _as_connection_error(error) from error

    def _check_encrypted(self) -> None:
        """Where `ssl.SSLSocket` would go on in plain text.

        It asks itself, too, when it is made of a socket whose peer has reset it, and takes this for an answer.
        """
        if self._sslobj is None:
            number = errno.ENOTCONN if self.fileno() >= 0 else errno.EBADF
            raise OSError(number, os.strerror(number))

    def _peek(self, bufsize: int) -> bytes:
        """recv(2) with MSG_PEEK: waits for a first byte, then takes what is there."""
        if not self._peeked:
            self._peeked = _Encrypted.recv(self, bufsize)
        elif len(self._peeked) < bufsize:
            with self._not_waiting():
                try:
                    self._peeked += super().recv(bufsize - len(self._peeked))
                except OSError:
                    pass  # nothing more, now or ever; who receives will see which
        return self._peeked[:bufsize]

    @contextmanager
    def _not_waiting(self) -> Iterator[float | None]:
        """Non-blocking for a while; gives the timeout that there is otherwise."""
        patience = self.gettimeout()
        self.settimeout(0)
        try:
            yield patience
        finally:
            if self.fileno() >= 0:
                self.settimeout(patience)

    def pending(self) -> int:
        """Bytes that can be received though the descriptor is not readable."""
        return len(self._peeked) + (super().pending() if self._sslobj is not None else 0)

    def shutdown(self, how: int) -> None:
        """shutdown(2), after our ``close_notify`` if it ends the sending.  Receiving goes on, encrypted: RFC 8446
        section 6.1 (a peer that keeps to RFC 5246 section 7.2.1 ends its side, too)."""
        if how == _sockets.SHUT_WR:
            self._end_sending()
        elif how == _sockets.SHUT_RDWR:
            self.say_goodbye()
        _sockets.socket.shutdown(self, how)

    def _end_sending(self) -> None:
        """Send ``close_notify`` as `say_goodbye` does, and lose nothing that comes in.

        `ssl` offers no half of a closing: where ours is sent it looks for the peer's at once, and drops whatever it
        finds instead.  So it is made to write to, and to look at, a socket on which nothing ever arrives.
        """
        if self._said_goodbye or self._sslobj is None:
            return
        self._said_goodbye = True
        while size := super().pending():
            self._peeked += super().recv(size)
        with self._not_waiting() as patience:
            record = self._closing_record()
            until = monotonic() + (CLOSE_NOTIFY_S if patience != 0 else 0.0)
            while not _sent(self, record) and _has_room(self.fileno(), until - monotonic()):
                pass

    def _closing_record(self) -> bytes:
        fd = self.fileno()
        ours, theirs = _sockets.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            theirs.setblocking(False)
            with self.guard:
                kept = os.dup(fd)
                os.dup2(ours.fileno(), fd, inheritable=False)
                try:
                    _goodbye_sent(self._sslobj)
                finally:
                    os.dup2(kept, fd, inheritable=False)
                    os.close(kept)
            try:
                return theirs.recv(4096)
            except BlockingIOError:
                return b""

    def close(self) -> None:
        """Say ``close_notify``, unless a file is still open on it, and close."""
        if self._io_refs <= 0:
            self.say_goodbye()
        super().close()

    def abandon(self) -> None:
        """Close our descriptor and let the peer notice nothing: another process has it."""
        self._said_goodbye = True
        super().close()

    def say_goodbye(self) -> None:
        """Send ``close_notify``, once: RFC 8446 section 6.1.

        Waits for no answer, and for room `CLOSE_NOTIFY_S` at most; on a non-blocking socket for nothing.
        """
        inner = self._sslobj
        if self._said_goodbye or inner is None or self.fileno() < 0:
            return
        self._said_goodbye = True
        with self._not_waiting() as patience:
            until = monotonic() + (CLOSE_NOTIFY_S if patience != 0 else 0.0)
            while not _goodbye_sent(inner) and _has_room(self.fileno(), until - monotonic()):
                pass


class TLSSocket(Tracked, _Encrypted):  # type: ignore[misc]  # typeshed has other names for positional arguments
    """What handlers get as ``request`` over TLS: an `ssl.SSLSocket` that keeps the notes of `Tracked`."""


def _goodbye_sent(inner: Any) -> bool:
    """False if there was no room for it."""
    try:
        inner.shutdown()
    except ssl.SSLWantWriteError:
        return False
    except (OSError, ValueError):
        pass  # SSLWantReadError: it is sent, and the peer's is not here yet.  Any other: nobody is left to tell
    return True


def _sent(sock: _sockets.socket, record: bytes) -> bool:
    """False if there was no room for it.  A record of ours is 24 bytes, which the kernel takes whole or not at all."""
    try:
        _sockets.socket.send(sock, record)
    except BlockingIOError:
        return False
    except OSError:
        pass  # nobody is left to tell
    return True


def _has_room(fd: int, seconds: float) -> bool:
    if seconds <= 0:
        return False
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(seconds * 1000))


def _as_connection_error(error: ssl.SSLError) -> OSError:
    """What a plain socket would raise; what a non-blocking one waits for stays as it is."""
    if isinstance(error, (ssl.SSLWantReadError, ssl.SSLWantWriteError)):
        return error
    ended = (ssl.SSLZeroReturnError, ssl.SSLEOFError)
    if isinstance(error, ended) or error.reason == "PROTOCOL_IS_SHUTDOWN":
        return BrokenPipeError(errno.EPIPE, "the TLS connection has ended")
    return ConnectionLost(f"the encryption failed: {reason_of(error)}")


def reason_of(error: ssl.SSLError) -> str:
    """OpenSSL's word for it, in small letters."""
    return (error.reason or str(error)).replace("_", " ").lower()
