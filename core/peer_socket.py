"""A socket that knows whether its conversation is idle, so that a drain can end it at once and lose nothing.

A thread that waits in ``recv`` for the *next* request may be ended; one in the middle of a request may not.  From
outside a plain socket the two look alike (TCP_INFO has a resolution of milliseconds, Unix sockets have nothing), so the
socket notes three things as they pass.  Measured: 0.1 us a call, beside 5 to 10 us for the system call itself.
"""

from __future__ import annotations

import _socket
import socket
from collections.abc import Callable
from time import monotonic
from typing import Any

__all__ = ["FRESH_S", "REPLY_GRACE_S", "SILENCE_S", "PeerSocket", "Tracked", "kernel_shutdown"]

#: Seconds after a reply in which a draining server still waits for the peer to go on.
REPLY_GRACE_S = 0.25
#: Seconds of silence in the middle of a request after which a draining server gives it up.
SILENCE_S = 1.0
#: Bytes that are sent at one go; the deadline for output is one for each piece.
PIECE_BYTES, FILE_PIECE_BYTES = 65_536, 1_048_576
#: Seconds after a connection was accepted in which a draining server waits for its first bytes: the client has
#: connected, and is about to send.  A tenth of a second lost one in some thousands where the clients were short of a
#: processor.
FRESH_S = 0.25


def kernel_shutdown(fd: int, how: int) -> None:
    """shutdown(2) on a bare descriptor, without going through whatever socket class owns it.  Ignores errors."""
    try:
        alias = _socket.socket(fileno=fd)
    except OSError:
        return
    try:
        alias.shutdown(how)
    except OSError:
        pass
    finally:
        alias.detach()


class Tracked:
    """Adds the notes to any socket class: ``class GreenSocket(Tracked, gevent.socket.socket)``.

    The notes are class attributes until they change, so that an untouched socket pays nothing for them.
    """

    #: In a receiving call now.
    waiting = False
    #: Something was received since we last sent: a request is under way.
    engaged = False
    #: Since when, by `time.monotonic`.
    engaged_at = float("-inf")
    #: In a sending call now.
    sending = False
    #: Bytes that have come in all; a drain compares two readings.  Before the present request there were so many.
    received = received_before = 0
    _received_seen: tuple[int, float] = (-1, 0.0)
    #: How often, while draining, the reader has waited with nothing under way.
    _boundaries = 0
    #: When we last sent something, by `time.monotonic`; long ago if never.
    sent_at = float("-inf")
    #: Before then it does not count as idle, by `time.monotonic`: when it was parked.
    idle_from = float("-inf")
    #: No new request is to be begun.
    draining = False
    #: A file object was made of it, which may keep the descriptor open beyond `close`.
    has_files = False
    #: The last error of a sending or receiving call.
    fault: BaseException | None = None
    #: It was cut off because this deadline passed: sending and receiving raise it.
    expired: TimeoutError | None = None

    #: The calls of the socket class itself, past the notes: `super()` would cost 0.1 us for each call.
    _plain_recv: Callable[..., bytes]
    _plain_recv_into: Callable[..., int]
    _plain_sendall: Callable[..., None]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        beyond: Any = super()
        if hasattr(beyond, "sendall"):  # not in a mix-in that has no socket class yet
            cls._plain_recv = beyond.recv
            cls._plain_recv_into = beyond.recv_into
            cls._plain_sendall = beyond.sendall

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """`socket.socket.recv`, noted."""
        self.waiting = True
        if self.draining and not self.engaged:
            self._come_to_a_boundary()
        try:
            data: bytes = self._plain_recv(bufsize, flags)
        except OSError as error:
            raise self._noted(error) from None
        finally:
            self.waiting = False
        if data:
            if not self.engaged:  # `_engage`, without the call
                self.engaged = True
                self.engaged_at = monotonic()
                self.received_before = self.received
            self.received += len(data)
        elif self.expired is not None:
            raise self.expired
        return data

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0, /) -> int:
        """`socket.socket.recv_into`, noted; the way of every file object made by ``makefile``."""
        self.waiting = True
        if self.draining and not self.engaged:
            self._come_to_a_boundary()
        try:
            count: int = self._plain_recv_into(buffer, nbytes, flags)
        except OSError as error:
            raise self._noted(error) from None
        finally:
            self.waiting = False
        if count:
            if not self.engaged:
                self._engage()
            self.received += count
        elif self.expired is not None:
            raise self.expired
        return count

    def _engage(self) -> None:
        """A request has begun."""
        self.engaged = True
        self.engaged_at = monotonic()
        self.received_before = self.received

    def _noted(self, error: OSError) -> OSError:
        """What to raise in its place: an error after a deadline is the deadline's."""
        self.fault = self.expired or error
        return self.fault

    def send(self, data: Any, flags: int = 0, /) -> int:
        """`socket.socket.send`, noted."""
        self.engaged = False
        self.sending = True
        self.sent_at = monotonic()
        try:
            count: int = super().send(data, flags)  # type: ignore[misc]
        except OSError as error:
            raise self._noted(error) from None
        finally:
            self.sending = False
        return count

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """`socket.socket.sendall`, noted."""
        self.engaged = False
        self.sending = True
        self.sent_at = monotonic()
        try:
            if len(data) <= PIECE_BYTES:
                self._plain_sendall(data, flags)
            else:
                self._send_pieces(data, flags)
        except OSError as error:
            raise self._noted(error) from None
        finally:
            self.sending = False

    def _send_pieces(self, data: Any, flags: int) -> None:
        """So that it can be seen from outside whether the peer takes any of it."""
        with memoryview(data) as view, view.cast("B") as whole:
            for at in range(0, len(whole), PIECE_BYTES):
                self._plain_sendall(whole[at : at + PIECE_BYTES], flags)
                self.sent_at = monotonic()

    def sendmsg(self, *args: Any) -> int:
        """`socket.socket.sendmsg`, noted."""
        self.engaged = False
        self.sending = True
        self.sent_at = monotonic()
        try:
            count: int = super().sendmsg(*args)  # type: ignore[misc]
        except OSError as error:
            raise self._noted(error) from None
        finally:
            self.sending = False
        return count

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        """`socket.socket.sendfile`, noted, piece by piece, so that it can be seen whether the peer takes any of it."""
        self.engaged = False
        self.sending = True
        sent = 0
        try:
            while True:
                self.sent_at = monotonic()
                piece = FILE_PIECE_BYTES if count is None else min(FILE_PIECE_BYTES, count - sent)
                taken: int = super().sendfile(file, offset + sent, piece)  # type: ignore[misc]
                sent += taken
                if taken < piece or sent == count:
                    return sent
        except OSError as error:
            raise self._noted(error) from None
        finally:
            self.sending = False

    def makefile(self, *args: Any, **options: Any) -> Any:
        """`socket.socket.makefile`, noted."""
        self.has_files = True
        return super().makefile(*args, **options)  # type: ignore[misc]

    def end_input(self) -> None:
        """Let the reader see what has already arrived, and then the end.  The sending side stays open."""
        kernel_shutdown(self.fileno(), socket.SHUT_RD)  # type: ignore[attr-defined]

    def _come_to_a_boundary(self) -> None:
        """The reader would begin something new, or go on after an interim reply.  That it may, once, with `drain`
        watching; where we never sent anything there was no interim reply."""
        self._boundaries += 1
        if self._boundaries > 1 or self.sent_at < 0:
            self.end_input()

    def drain(self) -> None:
        """Begin nothing new.  Called again and again while the server drains: ends the input when nothing is under way.

        That is at once where nothing was received since the beginning; `REPLY_GRACE_S` after we sent something, as it
        may have been an interim reply that asks for more (100 Continue); and after `SILENCE_S` in which a peer that
        had begun sent nothing further.
        """
        self.draining = True
        if not self.waiting:
            return
        now = monotonic()
        if not self.engaged:
            self._boundaries = max(1, self._boundaries)
            if now - self.sent_at >= REPLY_GRACE_S:
                self.end_input()
        elif self.received != self._received_seen[0]:
            self._received_seen = (self.received, now)
        elif now - self._received_seen[1] >= SILENCE_S:
            self.end_input()


_close = _socket.socket.close
#: False where somebody has put a socket of another make in the place of `socket.socket`.
_DIRECT = issubclass(socket.socket, _socket.socket)


class PeerSocket(Tracked, socket.socket):
    """What handlers get as ``request``: a `socket.socket` in everything, which keeps the notes of `Tracked`."""

    def close(self) -> None:
        """`socket.socket.close`; without files made of it that is close(2) at once."""
        if self.has_files or not _DIRECT:
            super().close()
        else:
            self._closed = True
            _close(self)
