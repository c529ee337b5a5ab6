"""Connections over a Unix socket."""

from __future__ import annotations

import os
import socket
from typing import ClassVar

from attrs import define, field, frozen

from tricorn.checks import whole_number
from tricorn.connection import Connection, accept_stream
from tricorn.contracts import Kind, Listener, Transport
from tricorn.listening import BACKLOG, MAX_BACKLOG
from tricorn.peer_socket import PeerSocket
from tricorn.unix_path import SocketFile, UnixPlace, check_mode, check_owner, check_path, path_text
from tricorn.urgent import UrgentPolicy, check_urgent_policy, urgent_option, urgent_socket_class

__all__ = ["UnixStream", "UnixStreamListener"]


@frozen
class UnixStream(Transport):
    """Connections over a Unix socket: unix(7).

    ``path``: of the socket file, a `str` or `os.PathLike` of at most 107 bytes (103 elsewhere than on Linux), in a
    folder that exists; on Linux also an abstract name of at most 107 bytes, written with ``@`` or a NUL in front.
    ``mode``: the file's permission bits, whatever the umask is; to connect needs the right to write.  Nobody can
    connect before it has them.
    ``user``, ``group``: who the file is given to, by name or number; ``None`` leaves it with this process's.
    ``backlog``: connections that the kernel keeps until they are accepted; it cuts the number to net.core.somaxconn.
    ``urgent``: what becomes of bytes that a peer sends out of band, which it can since Linux 5.15.  "ignore" leaves
    them to the kernel, which keeps the last one out of the stream and loses it; it is the default because it alone
    costs nothing.  "refuse" ends the conversation, "deliver" gives them to
    `~tricorn.connection.Connection.urgent`.  See `tricorn.urgent`.

    An abstract name has no file, and so no mode and no owner: every process in the network namespace can connect.
    `~tricorn.connection.Connection.credentials` tells who did.

    A stale socket file is replaced.  A live server's path is never taken, and what is no socket is never removed.
    Meanwhile ``<path>.lock`` exists for a moment.  The file goes when the listener is closed, unless it is another one
    by then.  Nobody else may be able to write to the folder, unless it is sticky as /tmp is.

    Raises `~tricorn.errors.ConfigurationError` for a value that cannot work.  A value: opens nothing, and is safe to
    share between threads.
    """

    kind: ClassVar[Kind] = Kind.STREAM
    attests: ClassVar[frozenset[str]] = frozenset({"credentials"} if hasattr(socket, "SO_PEERCRED") else ())

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
    backlog: int = field(
        default=BACKLOG,
        kw_only=True,
        validator=whole_number(1, MAX_BACKLOG),
        metadata={"help": "connections the kernel keeps"},
    )
    urgent: UrgentPolicy = field(
        default="ignore",
        kw_only=True,
        validator=check_urgent_policy,
        metadata={"help": "what becomes of out-of-band bytes"},
    )

    def listen(self) -> tuple[UnixStreamListener]:
        """Bind and listen(2).

        Blocks for file operations, at most `tricorn.path_lock.LOCK_WAIT_S` seconds for another start on the same path.
        Raises `~tricorn.errors.ListenError` with the path (too long, no such folder, no permission, no such user, in
        use, not a socket), with no descriptor and no file left behind.
        """
        path = os.fspath(self.path)
        place = UnixPlace(path, self.mode, self.user, self.group)
        sock, file = place.bind(socket.SOCK_STREAM, self.backlog)
        kept_by = urgent_socket_class(self.urgent)
        return (UnixStreamListener(sock, path, file, kept_by, urgent_option(self.urgent)),)


@define(eq=False)
class UnixStreamListener(Listener):
    """A listening Unix socket.  `accept` is safe from many threads, and in processes forked after it was made."""

    kind: ClassVar[Kind] = Kind.STREAM

    _socket: socket.socket
    #: The path, or ``@name``.
    address: str
    _file: SocketFile | None = None
    #: What accepted sockets are.
    _socket_class: type[PeerSocket] = PeerSocket
    #: What has to be set on them: a Unix socket inherits nothing from the listening one.
    _options: tuple[tuple[int, int, int], ...] = ()

    def fileno(self) -> int:
        """The listening descriptor; -1 after `close`."""
        return self._socket.fileno()

    def accept(self) -> Connection:
        """accept(2); unless urgent bytes are delivered there is nothing to set on the connection's socket."""
        connection = accept_stream(self._socket, socket.AF_UNIX, 0, self._socket_class)
        for option in self._options:
            connection.socket.setsockopt(*option)
        return connection

    def hold_off(self) -> None:
        """Remove the socket file if it is still ours: nobody finds us any more."""
        if self._file is not None:
            self._file.remove()

    def close(self) -> None:
        """Stop listening, and remove the socket file if it is still ours, in the process whose duty that is."""
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
