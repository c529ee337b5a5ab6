"""Packets over UDP, IPv4 and IPv6."""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from attrs import define, field, frozen

from tricorn.checks import flag, host_name, optional, refuse_option, whole_number
from tricorn.contracts import Kind, Listener, Transport
from tricorn.datagram import MOST_ERRORS, OF_AN_EARLIER_REPLY, Datagram, cut
from tricorn.errors import PeerRefused
from tricorn.inet import SocketOption, open_inet_sockets, port_sharing_option
from tricorn.listening import listening_errors
from tricorn.packet_batch import MAX_BATCH, PacketBatch, check_batch
from tricorn.packet_info import Facts, PacketReader, check_fact, packet_reader

if TYPE_CHECKING:
    from attrs import Attribute

__all__ = ["UDP", "BatchListener", "UDPListener"]


@frozen
class UDP(Transport):
    """Packets over UDP: udp(7), RFC 768.

    ``host``: an IPv4 or IPv6 address, a name (one listener for each of its addresses), or ``""`` for every interface of
    both families.  An IPv6 listener takes IPv6 only, ``"::"`` too.
    ``port``: 0 to 65535; 0 takes a free one, the same for all addresses of ``host``.
    ``max_packet_size``: bytes of the longest packet that is served, 1 to 65535; the default takes whatever IP can
    carry.
    ``deliver_truncated``: serve the beginning of a longer packet, marked `~tricorn.datagram.Datagram.truncated`; by
    default it is refused.
    ``reuse_port``: let several sockets, of this process or others of the same user, share the port (SO_REUSEPORT,
    socket(7)).
    ``receive_buffer``: bytes that the kernel keeps until they are read (SO_RCVBUF; it cuts the number to
    net.core.rmem_max without a word); ``None`` leaves it to the system.  What comes beyond it is lost.
    ``interfaces``, ``timestamps``, ``count_dropped``, ``hop_limits``: ask the kernel for
    `~tricorn.datagram.Datagram.interface`, `~tricorn.datagram.Datagram.received_at_ns`,
    `~tricorn.datagram.Datagram.dropped`, `~tricorn.datagram.Datagram.hop_limit` of each packet; Linux only.  What is
    not asked for costs nothing; the first costs 1.2 us a packet, each further one 0.2 us.

    ``batch``: packets that one system call takes, and sends, at most, where a dispatcher serves them in its own thread
    (`Sync`): recvmmsg(2), 64-bit Linux.  Replies to a batch leave together when it is used up, or after a millisecond:
    `~tricorn.datagram.Datagram.reply` returns before that, and a reply that cannot be sent is counted as refused.  1,
    the default, is one by one.

    A reply leaves from the address that the client used, also where the listener takes every interface: ip(7),
    IP_PKTINFO; RFC 3542, section 6.  Raises `~tricorn.errors.ConfigurationError` for a value that cannot work.  A
    value: opens nothing, and is safe to share between threads.
    """

    kind: ClassVar[Kind] = Kind.DATAGRAM

    host: str = field(default="127.0.0.1", validator=host_name, metadata={"help": "address or name; empty: all"})
    port: int = field(default=0, validator=whole_number(0, 65535), metadata={"help": "port; 0: a free one"})
    max_packet_size: int = field(
        default=65535,
        kw_only=True,
        validator=whole_number(1, 65535),
        metadata={"help": "bytes; longer ones are refused"},
    )
    reuse_port: bool = field(default=False, kw_only=True, metadata={"help": "share the port with other sockets"})
    receive_buffer: int | None = field(
        default=None,
        kw_only=True,
        validator=optional(whole_number(1, 2**31 - 1)),
        metadata={"help": "bytes the kernel keeps until they are read"},
    )
    deliver_truncated: bool = field(
        default=False, kw_only=True, validator=flag, metadata={"help": "serve the beginning of longer packets"}
    )
    interfaces: bool = field(
        default=False, kw_only=True, validator=check_fact, metadata={"help": "tell the interface each came in by"}
    )
    timestamps: bool = field(
        default=False, kw_only=True, validator=check_fact, metadata={"help": "tell when the kernel had each"}
    )
    count_dropped: bool = field(
        default=False, kw_only=True, validator=check_fact, metadata={"help": "tell how many were dropped before each"}
    )
    hop_limits: bool = field(
        default=False, kw_only=True, validator=check_fact, metadata={"help": "tell the hops that each had left"}
    )

    batch: int = field(
        default=1, kw_only=True, validator=whole_number(1, MAX_BATCH), metadata={"help": "packets for each system call"}
    )

    @property
    def in_batches(self) -> bool:  # type: ignore[override]
        """With ``batch``."""
        return self.batch > 1

    @batch.validator
    def _can_be_had(self, option: Attribute[int], value: int) -> None:
        if value > 1 and self.host in ("", "0.0.0.0", "::"):
            refuse_option(self, option.name, value, "1 where every interface is listened on; give one address")
        asks_more = self.interfaces or self.timestamps or self.count_dropped or self.hop_limits
        check_batch(self, option, value, asks_more=asks_more)

    @reuse_port.validator
    def _possible(self, option: Attribute[bool], value: object) -> None:
        flag(self, option, value)
        if value and port_sharing_option() is None:
            refuse_option(self, option.name, value, "False: this platform has no SO_REUSEPORT")

    def listen(self) -> tuple[UDPListener, ...]:
        """Bind a socket to every address of ``host``.

        Blocks for the name look-up.  Raises `~tricorn.errors.ListenError` (port in use, address of another machine,
        unknown name, no permission) with nothing left open.
        """
        facts = Facts(self.interfaces, self.timestamps, self.count_dropped, self.hop_limits)
        sockets = open_inet_sockets("udp", self.host, self.port, kind=socket.SOCK_DGRAM, options=self._options())
        with listening_errors("udp", (self.host or "*", self.port)), ExitStack() as undo:
            for sock in sockets:
                undo.callback(sock.close)
            limits = self.max_packet_size, self.deliver_truncated
            made_by = partial(BatchListener, batch=self.batch) if self.in_batches else UDPListener
            listeners = tuple(made_by(sock, *limits, facts) for sock in sockets)
            undo.pop_all()
        return listeners

    def _options(self) -> tuple[SocketOption, ...]:
        exclusive = getattr(socket, "SO_EXCLUSIVEADDRUSE", None)
        sharing = port_sharing_option() if self.reuse_port else None
        return (
            *([(socket.SOL_SOCKET, exclusive, 1)] if exclusive is not None else []),
            *([sharing] if sharing else []),
            *([(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer)] if self.receive_buffer else []),
        )


@define(eq=False)
class UDPListener(Listener):
    """A bound UDP socket.  `accept` is safe from many threads, and in processes forked after it was made.

    Bound to one address it reads with recvfrom(2); bound to every interface it needs recvmsg(2), to learn which address
    the client used, and where it was asked for more than bytes.
    """

    kind: ClassVar[Kind] = Kind.DATAGRAM

    _socket: socket.socket
    _max_packet_size: int = 65535
    _deliver_truncated: bool = False
    _facts: Facts = field(factory=Facts)
    #: ``(host, port)`` or ``(host, port, flow, scope)``, by getsockname(2).
    address: tuple[str | int, ...] = field(init=False)
    _info: PacketReader | None = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self.address = self._socket.getsockname()
        self._info = packet_reader(
            self._socket,
            self._facts,
            max_packet_size=self._max_packet_size,
            deliver_truncated=self._deliver_truncated,
        )

    def fileno(self) -> int:
        """The bound descriptor; -1 after `close`."""
        return self._socket.fileno()

    def accept(self) -> Datagram:
        """Take one packet.

        Raises `~tricorn.errors.PeerRefused` for one above the limit, and for one from port 0, to which nobody can
        reply.
        """
        sock, most = self._socket, self._max_packet_size
        errors = 0
        while True:
            try:
                if self._info is not None:
                    packet = self._info.take(sock)
                else:  # `take_packet`, without a call of its own
                    data, peer = sock.recvfrom(most + 1)
                    packet = Datagram(data, peer, sock, self.address)
                    if len(data) > most:
                        cut(packet, most, self._deliver_truncated)
                break
            except BlockingIOError:
                raise
            except OSError as error:
                if error.errno not in OF_AN_EARLIER_REPLY:
                    raise
                errors += 1
                if errors == MOST_ERRORS:
                    raise BlockingIOError(errno.EAGAIN, "only errors of earlier replies were pending") from error
        if packet.peer[1] == 0:
            raise PeerRefused("a packet from port 0, which can get no reply", packet.peer)
        return packet

    def close(self) -> None:
        """Close the socket; packets that nobody accepted are lost."""
        self._socket.close()


@define(eq=False)
class BatchListener(UDPListener):
    """The same, ``batch`` packets at a time; for one thread."""

    in_batches: ClassVar[bool] = True

    _batch_size: int = field(kw_only=True, alias="batch")
    _batch: PacketBatch = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self._batch = PacketBatch(
            self._socket, self.address, self._batch_size, self._max_packet_size,
            deliver_truncated=self._deliver_truncated,
        )  # fmt: skip

    def accept(self) -> Datagram:
        """The next packet of the batch, or of the next one.  Raises as `UDPListener.accept`."""
        return self._batch.take()

    def close(self) -> None:
        """Send the replies that wait, and close the socket."""
        self._batch.close()
        super().close()
