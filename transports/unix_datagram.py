"""Packets over a Unix socket."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, ClassVar

from attrs import define, field, frozen

from tricorn.checks import flag, whole_number
from tricorn.contracts import Kind, Listener, Transport
from tricorn.datagram import Datagram, take_packet
from tricorn.listening import listening_errors
from tricorn.packet_batch import MAX_BATCH, PacketBatch, check_batch
from tricorn.packet_info import Facts, PacketReader, check_fact, packet_reader
from tricorn.unix_path import SocketFile, UnixPlace, check_mode, check_owner, check_path, path_text

if TYPE_CHECKING:
    from attrs import Attribute

__all__ = ["UnixDatagram", "UnixDatagramBatchListener", "UnixDatagramListener"]


@frozen
class UnixDatagram(Transport):
    """Packets over a Unix socket: unix(7).  Between two processes of one machine none is lost and none overtakes
    another.

    ``path``: of the socket file, a `str` or `os.PathLike` of at most 107 bytes (103 elsewhere than on Linux), in a
    folder that exists; on Linux also an abstract name of at most 107 bytes, written with ``@`` or a NUL in front.
    ``mode``: the file's permission bits, whatever the umask is; to send needs the right to write.  Nobody can send
    before it has them (elsewhere than on Linux, before that, whoever the umask allows).
    ``user``, ``group``: who the file is given to, by name or number; ``None`` leaves it with this process's.
    ``max_packet_size``: bytes of the longest packet that is served.
    ``deliver_truncated``: serve the beginning of a longer packet, marked `~tricorn.datagram.Datagram.truncated`; by
    default it is refused.
    ``timestamps``, ``credentials``: ask the kernel for `~tricorn.datagram.Datagram.received_at_ns` and
    `~tricorn.datagram.Datagram.credentials` of each packet; Linux only.  What is not asked for costs nothing.

    ``batch``: as for `~tricorn.transports.udp.UDP`; a client that does not read holds the replies of a batch up for a
    second at most, and those that it has no room for are counted as refused.

    Descriptors that a client passes with a packet are closed.

    A client without a name of its own (it has not called bind(2)) has the peer ``None`` and gets no reply.  An abstract
    name has no file, and so no mode and no owner: every process in the network namespace can send.

    A stale socket file is replaced.  A live server's path is never taken, and what is no socket is never removed.
    Meanwhile ``<path>.lock`` exists for a moment.  The file goes when the listener is closed, unless it is another one
    by then.  Nobody else may be able to write to the folder, unless it is sticky as /tmp is.

    Raises `~tricorn.errors.ConfigurationError` for a value that cannot work.  A value: opens nothing, and is safe to
    share between threads.
    """

    kind: ClassVar[Kind] = Kind.DATAGRAM

    path: str | os.PathLike[str] = field(
        converter=path_text, validator=check_path, metadata={"help": "path of the socket, or @name"}
    )
    mode: int = field(
        default=0o600,
        kw_only=True,
        validator=check_mode,
        repr=oct,
        metadata={"help": "permission bits of the socket file", "spell": oct},
    )
    user: str | int | None = field(
        default=None, kw_only=True, validator=check_owner, metadata={"help": "owner of the socket file"}
    )
    group: str | int | None = field(
        default=None, kw_only=True, validator=check_owner, metadata={"help": "group of the socket file"}
    )
    max_packet_size: int = field(
        default=65535,
        kw_only=True,
        validator=whole_number(1, 2**30),
        metadata={"help": "bytes; longer ones are refused"},
    )
    deliver_truncated: bool = field(
        default=False, kw_only=True, validator=flag, metadata={"help": "serve the beginning of longer packets"}
    )
    timestamps: bool = field(
        default=False, kw_only=True, validator=check_fact, metadata={"help": "tell when the kernel had each"}
    )
    credentials: bool = field(
        default=False, kw_only=True, validator=check_fact, metadata={"help": "tell who sent each"}
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
        check_batch(self, option, value, asks_more=self.timestamps or self.credentials)

    def listen(self) -> tuple[UnixDatagramListener]:
        """Bind.

        Blocks for file operations, at most `tricorn.path_lock.LOCK_WAIT_S` seconds for another start on the same path.
        Raises `~tricorn.errors.ListenError` with the path (too long, no such folder, no permission, no such user, in
        use, not a socket), with no descriptor and no file left behind.
        """
        path = os.fspath(self.path)
        sock, file = UnixPlace(path, self.mode, self.user, self.group).bind(socket.SOCK_DGRAM)
        with listening_errors("unixgram", path), ExitStack() as undo:
            undo.callback(UnixDatagramListener(sock, path, file).close)
            reader = packet_reader(
                sock,
                Facts(timestamps=self.timestamps, credentials=self.credentials),
                max_packet_size=self.max_packet_size,
                deliver_truncated=self.deliver_truncated,
                bound=path,
            )
            limits = (self.max_packet_size, self.deliver_truncated)
            listener = UnixDatagramListener(sock, path, file, *limits, reader)
            if self.in_batches:
                batch = PacketBatch(sock, path, self.batch, limits[0], deliver_truncated=limits[1])
                listener = UnixDatagramBatchListener(sock, path, file, *limits, batch=batch)
            undo.pop_all()
        return (listener,)


@define(eq=False)
class UnixDatagramListener(Listener):
    """A bound Unix socket.  `accept` is safe from many threads, and in processes forked after it was made."""

    kind: ClassVar[Kind] = Kind.DATAGRAM

    _socket: socket.socket
    #: The path, or ``@name``.
    address: str
    _file: SocketFile | None = None
    _max_packet_size: int = 65535
    _deliver_truncated: bool = False
    _reader: PacketReader | None = None

    def fileno(self) -> int:
        """The bound descriptor; -1 after `close`."""
        return self._socket.fileno()

    def accept(self) -> Datagram:
        """Take one packet; raises `~tricorn.errors.PeerRefused` for one above the limit."""
        if self._reader is not None:
            return self._reader.take(self._socket)
        return take_packet(self._socket, self.address, self._max_packet_size, self._deliver_truncated)

    def close(self) -> None:
        """Close the socket, and remove its file if it is still ours, in the process whose duty that is."""
        if self._file is not None:
            self._file.remove()
        self._socket.close()

    def disown(self) -> None:
        """Close this process's copy of the descriptor; the file stays."""
        self._socket.close()

    def adopt(self) -> None:
        """The file is this process's to remove from now on."""
        if self._file is not None:
            self._file.adopt()


@define(eq=False)
class UnixDatagramBatchListener(UnixDatagramListener):
    """The same, several packets at a time; for one thread."""

    in_batches: ClassVar[bool] = True

    _batch: PacketBatch = field(kw_only=True, repr=False)

    def accept(self) -> Datagram:
        """The next packet of the batch, or of the next one; raises as `UnixDatagramListener.accept`."""
        return self._batch.take()

    def close(self) -> None:
        """Send the replies that wait, and close."""
        self._batch.close()
        super().close()
