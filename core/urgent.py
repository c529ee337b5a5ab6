"""Urgent bytes of a stream: out of band, and what becomes of them.

A peer marks a byte as urgent by sending it with MSG_OOB: TCP's urgent pointer (RFC 9293, section 3.8.5; RFC 6093), and
since Linux 5.15 the same on Unix stream sockets.  Neither has a second channel.  The byte travels in the stream, there
is one mark, and a later urgent byte moves it.  The policy is an option of the transport, ``urgent``:

``"ignore"``    the kernel's own way, and the default, because it costs nothing.  A marked byte is kept out of the
                stream and is lost.  One whose mark moved on before it was reached is an ordinary byte of the stream.
``"refuse"``    a receiving call that finds an urgent byte raises `~tricorn.errors.ConnectionLost`, and so does every
                later one; nothing from beside the byte is returned.  Costs two poll(2), 3 us, for each call.
``"deliver"``   receiving stops at the mark; the byte goes to `Urgent`, and the stream goes on behind it.  Nothing is
                lost and nothing comes twice.  Costs a poll(2) and an ioctl(2), 3 us, for each call.

What no policy can tell, since the kernel does not: where the mark of an earlier urgent byte was, once a later one has
moved it.  "deliver" leaves such a byte in the stream, at its place.  "refuse" refuses the later one; only if that one
has been announced and has not come, a call in between returns the earlier byte.

Policies are kept by the socket's own receiving calls, files made by ``makefile`` included.  What reads the bare
descriptor (`os.read`, a child program, a TLS library, uvloop) reads past them.

Source: tcp(7) and unix(7), SIOCATMARK; socket(7), SO_OOBINLINE; recv(2), MSG_OOB; RFC 6093, sections 3 and 4.
"""

from __future__ import annotations

import errno
import math
import os
import select
import socket
import sys
from array import array
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from attrs import define

from tricorn.checks import refuse_option
from tricorn.deadline import Deadline
from tricorn.errors import ConnectionLost
from tricorn.peer_socket import PeerSocket

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from attrs import Attribute

__all__ = [
    "MAX_UNTAKEN",
    "DeliveringSocket",
    "RefusingSocket",
    "Urgent",
    "UrgentPolicy",
    "check_urgent_policy",
    "urgent_option",
    "urgent_socket_class",
]

#: What becomes of urgent bytes.
UrgentPolicy = Literal["ignore", "refuse", "deliver"]

#: Urgent bytes of one connection that are kept until they are taken; the next one ends the conversation.
MAX_UNTAKEN = 1024

#: linux/sockios.h; Python does not name it.
_SIOCATMARK = 0x8905
_POLLIN, _POLLPRI = getattr(select, "POLLIN", 1), getattr(select, "POLLPRI", 2)
_DONT_WAIT: int = getattr(socket, "MSG_DONTWAIT", 0)
#: Calls that do not read the stream.
_BESIDE_THE_STREAM: int = socket.MSG_OOB | getattr(socket, "MSG_ERRQUEUE", 0)


def check_urgent_policy(owner: object, option: Attribute[Any], value: object) -> None:
    """attrs validator: a policy; elsewhere than on Linux, "ignore"."""
    if value not in ("ignore", "refuse", "deliver"):
        refuse_option(owner, option.name, value, "'ignore', 'refuse' or 'deliver'")
    if value != "ignore" and sys.platform != "linux":
        refuse_option(owner, option.name, value, "'ignore': the other policies need Linux")


def urgent_socket_class(policy: UrgentPolicy) -> type[PeerSocket]:
    """What an accepted socket has to be to keep ``policy``."""
    return {"ignore": PeerSocket, "refuse": RefusingSocket, "deliver": DeliveringSocket}[policy]


def urgent_option(policy: UrgentPolicy) -> tuple[tuple[int, int, int], ...]:
    """What ``policy`` asks of the kernel, for setsockopt(2); TCP hands it from the listening socket to the others."""
    return ((socket.SOL_SOCKET, socket.SO_OOBINLINE, 1),) if policy == "deliver" else ()


class _Guarded(socket.socket):
    """Looks before and after each call that reads the stream."""

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """`socket.socket.recv`."""
        data: bytes = self._guard(super().recv, flags, bufsize, flags)
        return data

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """`socket.socket.recv_into`."""
        count: int = self._guard(super().recv_into, flags, buffer, nbytes, flags)
        return count

    def recvfrom(self, bufsize: int, flags: int = 0, /) -> tuple[bytes, Any]:
        """`socket.socket.recvfrom`."""
        return self._guard(super().recvfrom, flags, bufsize, flags)  # type: ignore[no-any-return]

    def recvfrom_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> tuple[int, Any]:
        """`socket.socket.recvfrom_into`."""
        return self._guard(super().recvfrom_into, flags, buffer, nbytes, flags)  # type: ignore[no-any-return]

    def recvmsg(self, bufsize: int, ancbufsize: int = 0, flags: int = 0, /) -> Any:
        """`socket.socket.recvmsg`."""
        return self._guard(super().recvmsg, flags, bufsize, ancbufsize, flags)

    def recvmsg_into(self, buffers: Any, ancbufsize: int = 0, flags: int = 0, /) -> Any:
        """`socket.socket.recvmsg_into`."""
        return self._guard(super().recvmsg_into, flags, buffers, ancbufsize, flags)

    def _guard(self, receive: Callable[..., Any], flags: int, *arguments: Any) -> Any:
        if flags & _BESIDE_THE_STREAM or self.fileno() < 0:
            return receive(*arguments)
        self._before(0.0 if flags & _DONT_WAIT else self.gettimeout())
        result = receive(*arguments)
        self._after()
        return result

    def _before(self, patience: float | None) -> None:
        raise NotImplementedError

    def _after(self) -> None:
        raise NotImplementedError

    def _wait(self, patience: float | None, deadline: Deadline | None) -> bool:
        """Block until there is something; True if an urgent byte is.  Raises as a receiving call does."""
        remaining = None if deadline is None else deadline.remaining()
        ready = self._ready(None if remaining is None else math.ceil(remaining * 1000))
        if ready:
            return bool(ready & _POLLPRI)
        if patience:
            raise TimeoutError("timed out")
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def _ready(self, milliseconds: int | None) -> int:
        poller = select.poll()
        poller.register(self, _POLLIN | _POLLPRI)
        answer = poller.poll(milliseconds)
        return answer[0][1] if answer else 0


class RefusingSocket(PeerSocket, _Guarded):
    """Ends the conversation where a peer sends an urgent byte.

    It learns so when it next receives, also while it is blocked there.  Sending goes on working, for a last word.
    """

    urgent_policy: ClassVar[UrgentPolicy] = "refuse"

    def _before(self, patience: float | None) -> None:
        if self._wait(patience, None if patience is None else Deadline.after(patience)):
            self._refuse()

    def _after(self) -> None:
        """One that came since may have been overtaken by another, and be in what was received."""
        if self._ready(0) & _POLLPRI:
            self._refuse()

    def _refuse(self) -> None:
        self.fault = ConnectionLost(
            "the peer sent an urgent byte, which urgent='refuse' does not take; "
            "urgent='deliver' would give it to the handler, urgent='ignore' lose it"
        )
        raise self.fault


class DeliveringSocket(PeerSocket, _Guarded):
    """Keeps urgent bytes apart from the stream, for `Urgent`.  Needs `urgent_option` to be set."""

    urgent_policy: ClassVar[UrgentPolicy] = "deliver"

    #: The next byte is the urgent one, wherever the mark may have moved since we came to it.
    _next_is_urgent = False
    #: Urgent bytes that were come by and not taken.
    _untaken = b""
    #: See `Urgent.notify`.
    _notify: Callable[[bytes], object] | None = None

    @property
    def urgent(self) -> Urgent:
        """This connection's urgent bytes, for request-handler classes: ``self.request.urgent``."""
        return Urgent(self)

    def _before(self, patience: float | None) -> None:
        deadline = None if patience is None else Deadline.after(patience)
        while self._wait(patience, deadline) or self._next_is_urgent:
            byte = self._pick_up() if self._at_mark() else b""
            if not byte:
                return
            self._tell(byte)

    def _after(self) -> None:
        self._next_is_urgent = _is_at_mark(self)

    def _at_mark(self) -> bool:
        if not self._next_is_urgent:
            self._next_is_urgent = _is_at_mark(self)
        return self._next_is_urgent

    def _pick_up(self) -> bytes:
        """The byte behind the mark; nothing if it has been announced and has not come, or the stream ends first."""
        if not self._ready(0):
            return b""
        byte = socket.socket.recv(self, 1, _DONT_WAIT)
        self._next_is_urgent = False
        return byte

    def _tell(self, byte: bytes) -> None:
        if self._notify is not None:
            self._notify(byte)
            return
        if len(self._untaken) >= MAX_UNTAKEN:
            self.fault = ConnectionLost(
                f"the peer sent more than {MAX_UNTAKEN} urgent bytes that the handler did not take"
            )
            raise self.fault
        self._untaken += byte

    def _take(self) -> bytes:
        taken, self._untaken = self._untaken, b""
        while self.fileno() >= 0 and self._at_mark():
            byte = self._pick_up()
            if not byte:
                break
            taken += byte
        return taken


def _is_at_mark(sock: socket.socket) -> bool:
    answer = array("i", [0])
    try:
        fcntl.ioctl(sock.fileno(), _SIOCATMARK, answer)
    except (OSError, ValueError):  # closed; or a Unix socket before Linux 5.15, which has no mark
        return False
    return bool(answer[0])


@define(eq=False)
class Urgent:
    """The urgent bytes of one connection: ``connection.urgent``, under the policy "deliver".

    All calls belong to the thread that runs the handler, and none blocks.

    ::

        def handler(connection):
            connection.urgent.notify = interrupt    # called within recv, at the byte's place in the stream
            while data := connection.recv():
                work(data)

    Without ``notify``, a call that is blocked in ``recv`` goes on waiting when only an urgent byte comes; what was sent
    behind the byte is returned, and the byte is there for `take`.
    """

    _socket: DeliveringSocket

    @property
    def pending(self) -> bool:
        """True if an urgent byte has come and was not taken.  It may be further on in the stream: read up to it."""
        sock = self._socket
        return bool(sock._untaken) or (sock.fileno() >= 0 and bool(sock._ready(0) & _POLLPRI))

    @property
    def at_mark(self) -> bool:
        """True if the stream has been read up to the place where an urgent byte was sent.  sockatmark(3).

        Taking the byte, or receiving again, moves on; where the byte came while a receiving call was blocked, that has
        happened within the call.
        """
        return self._socket._at_mark()

    def take(self) -> bytes:
        """The urgent bytes that reading has come to, oldest first, and none of them again; ``b""`` if there are none.

        One that was sent further on in the stream comes when reading has come to it.  Raises `OSError` as recv(2) does
        where the connection has failed.
        """
        return self._socket._take()

    @property
    def notify(self) -> Callable[[bytes], object] | None:
        """Called with each urgent byte that a receiving call comes to; ``None``: `take` has it.

        It runs inside that call, on its thread, and after everything that was sent before the byte has been received.
        What it raises comes out of the call; then the stream goes on with the next one.
        """
        return self._socket._notify

    @notify.setter
    def notify(self, function: Callable[[bytes], object] | None) -> None:
        self._socket._notify = function

    def fileno(self) -> int:
        """The connection's descriptor, for loops: POLLPRI, EPOLLPRI, or the third set of select(2).

        It stays ready until the stream has been read beyond the mark; wait for reading too.
        """
        return self._socket.fileno()
