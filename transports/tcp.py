"""Connections over TCP, IPv4 and IPv6."""

from __future__ import annotations

import mmap
import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import define, field, frozen

from tricorn.checks import flag, host_name, refuse_option, whole_number
from tricorn.connection import Connection, accept_stream
from tricorn.contracts import Kind, Listener, Transport
from tricorn.inet import SocketOption, open_inet_sockets, port_sharing_option
from tricorn.listening import BACKLOG, MAX_BACKLOG
from tricorn.peer_socket import PeerSocket
from tricorn.urgent import UrgentPolicy, check_urgent_policy, urgent_option, urgent_socket_class

if TYPE_CHECKING:
    from attrs import Attribute

__all__ = ["TCP", "TCPListener"]

#: By family; the numbers are in linux/in.h and linux/in6.h, Python has no names for them.
_MIN_HOPS: dict[int, tuple[int, int]] | None = (
    {socket.AF_INET: (socket.IPPROTO_IP, 21), socket.AF_INET6: (socket.IPPROTO_IPV6, 73)}
    if sys.platform == "linux"
    else None
)

#: Linux gives an accepted socket the options of the listening one; tcp(7) and socket(7) leave it to the system.
_INHERITED = sys.platform == "linux"


@frozen
class TCP(Transport):
    """Connections over TCP: tcp(7), RFC 9293.

    ``host``: an IPv4 or IPv6 address, a name (one listener for each of its addresses), or ``""`` for every interface of
    both families.  An IPv6 listener takes IPv6 only, ``"::"`` too.
    ``port``: 0 to 65535; 0 takes a free one, which `TCPListener.address` tells, the same for all addresses of ``host``.
    ``backlog``: connections that the kernel keeps until they are accepted; it cuts the number to net.core.somaxconn.
    ``reuse_port``: let several sockets, of this process or others of the same user, listen on one port; the kernel
    spreads the connections (SO_REUSEPORT, socket(7)).
    ``nodelay``: send small writes at once (TCP_NODELAY); without it a reply written in pieces can wait 40 ms for the
    peer's delayed acknowledgement.
    ``keepalive``: let the kernel find peers that vanished (SO_KEEPALIVE); on Linux after 7,200 s of silence and 9
    probes, 75 s apart, unless net.ipv4.tcp_keepalive_* say otherwise.
    ``urgent``: what becomes of bytes that a peer sends out of band.  "ignore" leaves them to the kernel, which keeps
    the last one out of the stream and loses it; it is the default because it alone costs nothing.  "refuse" ends the
    conversation, "deliver" gives them to `~tricorn.connection.Connection.urgent`.  See `tricorn.urgent`.

    On POSIX a port is taken again at once after a restart (SO_REUSEADDR); on Windows, where that would let anybody take
    it over, the listener has it to itself (SO_EXCLUSIVEADDRUSE).  Raises `~tricorn.errors.ConfigurationError` for a
    value that cannot work.  A value: opens nothing, and is safe to share between threads.
    """

    kind: ClassVar[Kind] = Kind.STREAM

    host: str = field(default="127.0.0.1", validator=host_name, metadata={"help": "address or name; empty: all"})
    port: int = field(default=0, validator=whole_number(0, 65535), metadata={"help": "port; 0: a free one"})
    backlog: int = field(
        default=BACKLOG,
        kw_only=True,
        validator=whole_number(1, MAX_BACKLOG),
        metadata={"help": "connections the kernel keeps"},
    )
    reuse_port: bool = field(default=False, kw_only=True, metadata={"help": "share the port with other sockets"})
    nodelay: bool = field(default=True, kw_only=True, validator=flag, metadata={"help": "send small writes at once"})
    keepalive: bool = field(default=True, kw_only=True, validator=flag, metadata={"help": "find vanished peers"})
    urgent: UrgentPolicy = field(
        default="ignore",
        kw_only=True,
        validator=check_urgent_policy,
        metadata={"help": "what becomes of out-of-band bytes"},
    )

    @reuse_port.validator
    def _possible(self, option: Attribute[Any], value: object) -> None:
        flag(self, option, value)
        if value and port_sharing_option() is None:
            refuse_option(self, option.name, value, "False: this platform has no SO_REUSEPORT")

    def listen(self) -> tuple[TCPListener, ...]:
        """Bind and listen(2) on every address of ``host``.

        Blocks for the name look-up.  Raises `~tricorn.errors.ListenError` (port in use, address of another machine,
        unknown name, no permission) with nothing left open.
        """
        sockets = open_inet_sockets(
            "tcp",
            self.host,
            self.port,
            kind=socket.SOCK_STREAM,
            options=(*self._listening_options(), *self._peer_options()),
            backlog=self.backlog,
        )
        later = () if _INHERITED else self._peer_options()
        kept_by = urgent_socket_class(self.urgent)
        return tuple(TCPListener(sock, later, kept_by) for sock in sockets)

    def _listening_options(self) -> tuple[SocketOption, ...]:
        exclusive = getattr(socket, "SO_EXCLUSIVEADDRUSE", None)
        rebind = socket.SO_REUSEADDR if exclusive is None else exclusive
        sharing = port_sharing_option() if self.reuse_port else None
        return ((socket.SOL_SOCKET, rebind, 1), *([sharing] if sharing else []))

    def _peer_options(self) -> tuple[SocketOption, ...]:
        return (
            *([(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)] if self.nodelay else []),
            *([(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)] if self.keepalive else []),
            *urgent_option(self.urgent),
        )


@define(eq=False)
class TCPListener(Listener):
    """A listening TCP socket.  `accept` is safe from many threads, and in processes forked after it was made."""

    kind: ClassVar[Kind] = Kind.STREAM

    _socket: socket.socket
    #: What accepted sockets do not inherit on this platform.
    _options: tuple[SocketOption, ...] = ()
    #: What accepted sockets are.
    _socket_class: type[PeerSocket] = PeerSocket
    #: ``(host, port)`` or ``(host, port, flow, scope)``, by getsockname(2).
    address: object = field(init=False)
    #: 1 from `hold_off` on; shared with processes forked meanwhile, which accept from the same socket.
    _held_off: mmap.mmap = field(factory=lambda: mmap.mmap(-1, 1), init=False, repr=False)
    _family: int = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self.address = self._socket.getsockname()
        self._family = self._socket.family

    def fileno(self) -> int:
        """The listening descriptor; -1 after `close`."""
        return self._socket.fileno()

    def accept(self) -> Connection:
        """accept(2); on Linux there is nothing to set on the connection's socket, which blocks."""
        connection = accept_stream(self._socket, self._family, socket.IPPROTO_TCP, self._socket_class)
        for option in self._options:
            with suppress(OSError):  # the peer is gone already, which its handler will see
                connection.socket.setsockopt(*option)
        if self._held_off[0] and _MIN_HOPS is not None:
            connection.socket.setsockopt(*_MIN_HOPS[self._family], 0)
        return connection

    def hold_off(self) -> None:
        """Let the kernel ignore what would begin a connection, on Linux: it has a lower hop count than 255 (IP_MINTTL,
        ip(7); IPV6_MINHOPCOUNT).  The clients try again after a second, and are refused by then.

        A connection that is completed after this inherits the limit, and would never hear its peer: `accept` takes it
        off again.
        """
        if _MIN_HOPS is not None:
            self._held_off[0] = 1  # first, so that nothing is accepted in between
            self._socket.setsockopt(*_MIN_HOPS[self._family], 255)

    def close(self) -> None:
        """Stop listening; the kernel resets the connections that nobody accepted."""
        self._socket.close()
