"""One conversation with one peer over a stream."""

from __future__ import annotations

import socket as _sockets
import struct
import sys
from _thread import RLock
from os import close
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import define, field, frozen

from tricorn.contracts import Kind
from tricorn.errors import StateError
from tricorn.peer_socket import PeerSocket, kernel_shutdown

if TYPE_CHECKING:
    from tricorn.deadline import Deadline
    from tricorn.proxy_header import ProxyHeader
    from tricorn.urgent import Urgent

__all__ = ["Connection", "Credentials", "accept_stream"]

#: Elsewhere an accepted socket gets O_NONBLOCK from the listening one; Linux never passes it on: accept(2), NOTES.
_INHERITS_NONBLOCKING = sys.platform != "linux"


@frozen
class Credentials:
    """Who is at the other end of a Unix socket, as the kernel attests it: unix(7), SO_PEERCRED."""

    pid: int
    uid: int
    gid: int


@define(eq=False)
class Connection:
    """One peer conversation; it owns its socket.

    A function handler gets this; a request-handler class gets ``socket``.  All calls belong to the thread that runs the
    handler, except `drain`, `expire` and `abort`, which are safe from any.  Blocking calls block until one of the
    server's `~tricorn.deadlines.Deadlines` passes, and then raise `TimeoutError`.  The server closes the connection
    after the handler returns.
    """

    kind: ClassVar[Kind] = Kind.STREAM
    #: Only where a subclass has an `open` of its own.
    needs_opening: ClassVar[bool] = False

    #: A `PeerSocket` (or another socket class in its place: see `rehouse`).
    socket: Any
    #: The peer's address as accept(2) gave it: ``(host, port)``, ``(host, port, flow, scope)``, or ``""``.
    peer: object
    #: The job's number, unique in this process.
    id: int = 0
    #: By when the whole conversation must be over, if the handler says so; ``None`` for no such limit.
    deadline: Deadline | None = None
    #: Whatever the handler wants to keep from one turn to the next, see `park`.
    memo: Any = None
    #: True where the dispatcher takes a parked connection back.
    parkable: bool = False
    #: Who the peer is, as the server's authenticator found; ``None`` without one.
    identity: Any = None
    #: Who minds its idleness in place of the socket, with ``idle_since``: the loop that it is in.
    keeper: Any = field(default=None, init=False, repr=False)
    #: The handler has called `park`.
    parked: bool = field(default=False, init=False, repr=False)
    _local: object = field(default=None, init=False, repr=False)
    #: How many bytes had come when it was last parked.
    _received: int | None = field(default=None, init=False, repr=False)
    #: Guards the descriptor's end; re-entrant, since a signal handler may call `drain` within `finish`.
    _lock: RLock = field(factory=RLock, init=False, repr=False)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.needs_opening = cls.open is not Connection.open

    @property
    def local(self) -> object:
        """Our own address, as this peer reached it; ``None`` if nobody asked before it was closed.  getsockname(2)."""
        if self._local is None:
            try:
                self._local = self.socket.getsockname()
            except OSError:
                pass
        return self._local

    @property
    def draining(self) -> bool:
        """True once the server is stopping: finish what you are at, and begin nothing new.

        A handler that waits for its peer in ``recv`` is ended by itself, one that waits in `select` has to look here.
        """
        return bool(getattr(self.socket, "draining", False))

    @property
    def fault(self) -> BaseException | None:
        """The last error of a sending or receiving call on the socket."""
        fault: BaseException | None = getattr(self.socket, "fault", None)
        return fault

    @property
    def idle_since(self) -> float | None:
        """Since when, by `time.monotonic`, it has been waiting for a new request, with nothing under way.

        ``None`` if it is not idle; long ago if the peer has had no answer yet.
        """
        if self.keeper is not None:
            since: float | None = self.keeper.idle_since
            return since
        sock = self.socket
        if not getattr(sock, "waiting", False) or sock.engaged:
            return None
        idle_since: float = max(sock.sent_at, getattr(sock, "idle_from", float("-inf")))
        return idle_since

    @property
    def credentials(self) -> Credentials | None:
        """Process, user and group of the peer of a Unix socket when it connected; ``None`` elsewhere, and where that is
        a proxy which speaks for somebody else."""
        header = self.proxy_header
        if header is not None and header.source is not None:
            return None
        if self.socket.family != getattr(_sockets, "AF_UNIX", None) or not hasattr(_sockets, "SO_PEERCRED"):
            return None
        raw = self.socket.getsockopt(_sockets.SOL_SOCKET, _sockets.SO_PEERCRED, struct.calcsize("3i"))
        return Credentials(*struct.unpack("3i", raw))

    @property
    def urgent(self) -> Urgent:
        """The urgent bytes that the peer sends, apart from the stream.

        Raises `~tricorn.errors.StateError` unless the transport was made with ``urgent="deliver"``: see
        `tricorn.urgent`.
        """
        urgent: Urgent | None = getattr(self.socket, "urgent", None)
        if urgent is None:
            raise StateError(
                f"connection.urgent: this {type(self.socket).__name__} does not keep urgent bytes apart; "
                "serve with a transport made with urgent='deliver', such as TCP(..., urgent='deliver')"
            )
        return urgent

    def recv(self, n: int = 65536) -> bytes:
        """Wait for bytes and return at most ``n`` of them; ``b""`` is the end of the stream.  recv(2)."""
        data: bytes = self.socket.recv(n)
        return data

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of ``data``; returns when the kernel has taken it.  `socket.socket.sendall`."""
        self.socket.sendall(data)

    @property
    def server_name(self) -> str | None:
        """The name that the peer asked for (SNI, RFC 6066 section 3); ``None`` without TLS, or before it is open."""
        return None

    @property
    def alpn(self) -> str | None:
        """The protocol that was agreed on (ALPN, RFC 7301); ``None`` if none was, without TLS, or before it is open."""
        return None

    @property
    def certificate(self) -> dict[str, Any] | None:
        """The peer's certificate, verified, as `ssl.SSLSocket.getpeercert` gives it; ``None`` if there is none."""
        return None

    @property
    def proxy(self) -> object:
        """The address of the proxy that the connection came through, where `peer` is the client that it names;
        ``None`` without one, or before it is open."""
        return None

    @property
    def proxy_header(self) -> ProxyHeader | None:
        """What that proxy said: `tricorn.proxy_header`; ``None`` without one, or before it is open."""
        return None

    @property
    def restorers(self) -> tuple[int, ...]:
        """How another process makes it what it is, see `tricorn.handover.restorable`; a plain one needs nothing."""
        return ()

    def park(self) -> None:
        """Between two requests: call the handler again, from the beginning, when there is something to read.

        Return from the handler after this.  A dispatcher that holds idle connections (``ThreadPool(park_idle=True)``)
        gives the thread to others meanwhile; under all others the handler is simply called again at once, and waits in
        `recv`.  What must not be lost between the calls goes into ``memo``; a file of `makefile` may have read ahead.
        """
        self.parked = True

    def exhausted(self) -> bool:
        """For whoever would call the handler again: it has parked at the end of the stream, twice without having
        received anything, and would do so for ever."""
        sock = self.socket
        received, before = getattr(sock, "received", None), self._received
        self._received = received
        if received is None or received != before or _in_memory(sock):
            return False
        try:
            return not _sockets.socket.recv(sock, 1, _sockets.MSG_PEEK | getattr(_sockets, "MSG_DONTWAIT", 0))
        except OSError:
            return False

    def open_step(self) -> int:
        """As much of `open` as is possible without blocking; 0 when it is open, else what to wait for, an event of
        `selectors`.  For event loops, on a non-blocking socket; raises as `open` does."""
        return 0

    def reach_tls(self) -> int:
        """`open_step` up to where a loop goes on by itself with `tls`: for what lies below it, such as a PROXY header.
        Before the loop puts the descriptor into a socket of its own."""
        return self.open_step()

    @property
    def open_until(self) -> Deadline | None:
        """By when `open_step` must have returned 0, known once it was called; after that it raises.  ``None`` where
        opening takes no time."""
        return None

    def wanted(self, error: OSError, otherwise: int) -> int:
        """What to wait for after ``error`` of a non-blocking call that by itself waits for ``otherwise``; 0 if it is a
        real error."""
        return otherwise if isinstance(error, BlockingIOError) else 0

    def buffered(self) -> int:
        """Bytes that `recv` would return though the descriptor is not readable."""
        return 0

    @property
    def tls(self) -> Any:
        """The `ssl.SSLContext` with which a loop may open the connection itself; ``None`` on a plain one."""
        return None

    def makefile(self, mode: str = "rb", buffering: int = -1, **options: Any) -> Any:
        """A file over the connection: ``"rb"``, ``"wb"``, ``"r"`` ...  `socket.socket.makefile`.

        A buffered writer must be flushed or closed by the handler.
        """
        return self.socket.makefile(mode, buffering, **options)

    def send_eof(self) -> None:
        """Tell the peer that nothing more comes; receiving goes on.  shutdown(2) with SHUT_WR."""
        self.socket.shutdown(_sockets.SHUT_WR)

    def close(self) -> None:
        """Close now; a second call does nothing.  Not needed: the server does it after the handler."""
        with self._lock:  # so that `abort` of another thread never meets a descriptor that has a new owner
            self.socket.close()

    def rehouse(self, socket_class: Any) -> None:
        """Put the descriptor into another socket class, for loops with cooperative sockets of their own.

        ``socket_class`` is called as ``(family, type, proto, fileno)``; make it with `tricorn.peer_socket.Tracked`
        to keep the idle notes.  Raises `~tricorn.errors.StateError` where urgent bytes are refused or delivered, which
        the present class does.
        """
        policy = getattr(self.socket, "urgent_policy", "ignore")
        if policy != "ignore":
            raise StateError(
                f"a socket of urgent={policy!r} cannot become a {socket_class.__name__}, which would not keep to it; "
                "use urgent='ignore'"
            )
        with self._lock:
            old = self.socket
            family, kind, proto = old.family, old.type, old.proto
            self.socket = socket_class(family, kind, proto, old.detach())

    def open(self, deadline: Deadline) -> None:
        """Nothing to negotiate on a plain stream."""

    def finish(self, error: BaseException | None) -> None:
        """Close, so that the peer sees the end even where the handler leaked a file object of the socket."""
        sock = self.socket
        if getattr(sock, "has_files", True) and _is_open(sock):
            try:
                sock.shutdown(_sockets.SHUT_WR)
            except OSError:
                pass  # the peer went first
        with self._lock:
            sock.close()

    def drain(self) -> None:
        """End the conversation if it is idle, else as soon as it next is."""
        with self._lock:
            if hasattr(self.socket, "drain") and _is_open(self.socket):
                self.socket.drain()

    def give_way(self) -> None:
        """End the conversation, which is idle, and still answer what has arrived.  Safe from any thread."""
        if self.keeper is None:
            self.drain()
            return
        with self._lock:
            fd = self.socket.fileno()
            if fd >= 0:
                kernel_shutdown(fd, _sockets.SHUT_RD)

    def abort(self) -> None:
        """Cut both directions; the handler's blocked calls return ``b""`` or fail.  The descriptor stays."""
        with self._lock:
            fd = self.socket.fileno()
            if fd >= 0:
                kernel_shutdown(fd, _sockets.SHUT_RDWR)
            elif _in_memory(self.socket):
                self.socket.abort()

    def expire(self, error: TimeoutError) -> None:
        """A deadline has passed: cut both directions; the handler's blocked calls raise ``error``.  From any thread."""
        with self._lock:
            self.socket.expired = self.socket.fault = error
        self.abort()

    def disown(self) -> None:
        """Close this process's copy; the peer notices nothing while another process holds one."""
        with self._lock:
            self.socket.close()


def _is_open(sock: Any) -> bool:
    """False once the descriptor is closed; a socket without any can always be asked."""
    return sock.fileno() >= 0 or _in_memory(sock)


def _in_memory(sock: Any) -> bool:
    return bool(getattr(sock, "in_memory", False))


def accept_stream(
    listening: _sockets.socket, family: int, proto: int = 0, socket_class: type[PeerSocket] = PeerSocket
) -> Connection:
    """accept(2) on a non-blocking listening socket of ``family``; raises as `Listener.accept` does.

    The connection's socket blocks, unless `socket.setdefaulttimeout` says otherwise.

    Quicker than ``listening.accept()``, whose result is a plain socket made through three enum look-ups (1.5 us).
    """
    fd, peer = listening._accept()  # type: ignore[attr-defined]
    try:
        sock = socket_class(family, _sockets.SOCK_STREAM, proto, fd)
    except BaseException:  # out of memory
        close(fd)
        raise
    if _INHERITS_NONBLOCKING:
        sock.settimeout(_sockets.getdefaulttimeout())
    return Connection(sock, peer)
