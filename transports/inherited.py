"""Sockets that somebody else bound and gave to this process: a service manager, or whoever started it."""

from __future__ import annotations

import errno
import mmap
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from attrs import define, field, frozen

from tricorn.checks import optional, refuse_option, whole_number
from tricorn.connection import Connection, accept_stream
from tricorn.contracts import Kind, Listener, Transport
from tricorn.datagram import Datagram, take_packet
from tricorn.errors import ConfigurationError, PeerRefused
from tricorn.listening import listening_errors
from tricorn.packet_info import Facts, PacketReader, packet_reader

if TYPE_CHECKING:
    from attrs import Attribute

__all__ = ["Inherited", "InheritedDatagramListener", "InheritedStreamListener", "given_descriptors"]

#: Where descriptors that are given begin: sd_listen_fds(3), SD_LISTEN_FDS_START.
FIRST = 3
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
#: What a descriptor is called where nobody named it: sd_listen_fds_with_names(3).
NAMELESS = "unknown"
_MOST = 1024
_MAX_PACKET = 65535
_KINDS: dict[int, Kind] = {socket.SOCK_STREAM: Kind.STREAM, socket.SOCK_DGRAM: Kind.DATAGRAM}
#: Errors that ICMP brings back for an earlier reply, and how many of them one `accept` clears away.
_OF_AN_EARLIER_REPLY = frozenset({errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTUNREACH, errno.ENETUNREACH})
_MOST_ERRORS = 64

#: Seconds that a server which stops goes on accepting, if the queue is never empty.
HOLD_OFF_S = 1.0
_MOMENT = struct.Struct("d")

#: What the environment said before it was taken out of it.
_taken: tuple[tuple[str, int], ...] = ()


def given_descriptors(environment: Mapping[str, str] | None = None) -> tuple[tuple[str, int], ...]:
    """Names and descriptors that this process was given, in their order; changes nothing.

    By ``environment``, ``os.environ`` by default, or what that had said before `Inherited.listen` took it out of it.
    Raises `~tricorn.errors.ConfigurationError` where it contradicts itself, or is meant for another process.
    Source: sd_listen_fds(3).
    """
    environment = os.environ if environment is None else environment
    if "LISTEN_FDS" not in environment:
        return _taken
    count, pid = _number(environment, "LISTEN_FDS", _MOST), _number(environment, "LISTEN_PID", 2**31 - 1)
    if pid != os.getpid():
        raise ConfigurationError(
            f"LISTEN_PID is {pid}, and this process is {os.getpid()}: the descriptors of LISTEN_FDS are not meant for "
            "it; start it without a shell or another program in between (exec)"
        )
    text = environment.get("LISTEN_FDNAMES")
    names = [NAMELESS] * count if text is None else text.split(":") if text else []
    if len(names) != count:
        raise ConfigurationError(f"LISTEN_FDNAMES is {text!r}, {len(names)} names, and LISTEN_FDS is {count}")
    return tuple((name or NAMELESS, FIRST + place) for place, name in enumerate(names))


def _number(environment: Mapping[str, str], name: str, most: int) -> int:
    text = environment.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= most):
        raise ConfigurationError(f"{name} is {text!r}; allowed: a whole number from 0 to {most}")
    return int(text)


def _take_from_environment() -> None:
    """Programs that this one starts are not to find it there, nor the descriptors open."""
    global _taken
    if "LISTEN_FDS" in os.environ:
        _taken = given_descriptors()
        for name in _VARIABLES:
            os.environ.pop(name, None)
    for _, fd in _taken:
        with suppress(OSError):
            os.set_inheritable(fd, False)


@frozen
class Inherited(Transport):
    """Sockets that this process was given when it was started: ``Inherited("web")``, ``Inherited(fd=5)``.

    ``name``: what the service manager calls them: ``FileDescriptorName=`` of a systemd socket unit, by default the
    unit's own name with ``.socket`` (systemd.socket(5)); ``"unknown"`` for what has no name.  Several of one name make
    several listeners.
    ``fd``: the descriptor, from 3 on, instead of a name.
    ``only``: "stream" or "datagram": which ones to take, where both kinds have the same name.

    IPv4, IPv6 and Unix sockets, connections or packets; `kind` is what the kernel says of them.  For that, building one
    reads the environment (LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES: sd_listen_fds(3)) and asks each socket of that name
    for its type.  It changes nothing; whatever is wrong is a `~tricorn.errors.ConfigurationError` by then: no such
    name, no socket, one that does not listen, both kinds at once.

    `listen` takes the variables out of the environment, makes all given descriptors close-on-exec, and works on
    copies of its own: closing the server closes those, and the sockets stay as they were given, with whoever waits in
    them, for the next server or the next process.  A path is never unlinked, and what was set on a socket (permissions,
    backlog) stays, but for TCP_NODELAY and SO_KEEPALIVE, which are switched on as `TCP` does.  A value: safe to share
    between threads.
    """

    name: str = field(default="", metadata={"help": "what the service manager calls them"})
    fd: int | None = field(
        default=None,
        kw_only=True,
        validator=optional(whole_number(FIRST, 2**31 - 1)),
        metadata={"help": "the descriptor, instead of a name"},
    )
    only: Literal["stream", "datagram"] | None = field(
        default=None, kw_only=True, metadata={"help": "which kind to take, where a name has both"}
    )
    _descriptors: tuple[int, ...] = field(init=False, eq=False, repr=False)
    _kind: Kind = field(init=False, eq=False, repr=False)
    _unix: bool = field(init=False, eq=False, repr=False)

    @name.validator
    def _text(self, option: Attribute[Any], value: object) -> None:
        if not isinstance(value, str):
            refuse_option(self, option.name, value, "the name of a socket unit, such as 'web'")

    @only.validator
    def _known_word(self, option: Attribute[Any], value: object) -> None:
        if value not in (None, "stream", "datagram"):
            refuse_option(self, option.name, value, "'stream', 'datagram' or None")

    def __attrs_post_init__(self) -> None:
        if bool(self.name) == (self.fd is not None):
            raise ConfigurationError(f"{self}: give either a name or a descriptor, such as Inherited('web')")
        found = {fd: _kind_of(fd, self) for fd in self._candidates()}
        if self.only is not None:
            found = {fd: kind for fd, kind in found.items() if kind.value == self.only}
        kinds = set(found.values())
        if not kinds:
            raise ConfigurationError(f"{self}: no socket that was given is of that kind")
        if len(kinds) > 1:
            raise ConfigurationError(
                f"{self}: sockets of both kinds have that name; use two transports, with only='stream' and "
                "only='datagram'"
            )
        set_once = object.__setattr__  # by attrs' own way for frozen classes
        set_once(self, "_descriptors", tuple(found))
        set_once(self, "_kind", kinds.pop())
        set_once(self, "_unix", all(map(_is_unix, found)))

    def _candidates(self) -> list[int]:
        if self.fd is not None:
            return [self.fd]
        given = given_descriptors()
        found = [fd for name, fd in given if name == self.name]
        if not found:
            names = ", ".join(dict.fromkeys(repr(name) for name, _ in given))
            there = f"it was given {names}" if names else "it was given none (LISTEN_FDS is not set)"
            raise ConfigurationError(f"{self}: this process was given no socket of that name; {there}")
        return found

    @property
    def kind(self) -> Kind:  # type: ignore[override]
        """What the kernel says of the sockets."""
        return self._kind

    @property
    def attests(self) -> frozenset[str]:  # type: ignore[override]
        """Credentials, of connections over Unix sockets."""
        known = self._unix and self._kind is Kind.STREAM and hasattr(socket, "SO_PEERCRED")
        return frozenset({"credentials"} if known else ())

    def listen(self) -> tuple[Listener, ...]:
        """Take the sockets over, as copies.

        Never blocks.  Raises `~tricorn.errors.ListenError` if one of them was closed meanwhile, with no copy left.
        """
        _take_from_environment()
        with listening_errors("inherited", self.name or f"fd={self.fd}"), ExitStack() as undo:
            listeners = []
            for fd in self._descriptors:
                sock = undo.enter_context(_copy(fd))
                listeners.append(_LISTENERS[self._kind](sock))
            undo.pop_all()
        return tuple(listeners)


@contextmanager
def _looking_at(fd: int) -> Iterator[socket.socket]:
    sock = socket.socket(fileno=fd)
    try:
        yield sock
    finally:
        sock.detach()


def _is_unix(fd: int) -> bool:
    with _looking_at(fd) as sock:
        return sock.family == getattr(socket, "AF_UNIX", None)


def _kind_of(fd: int, asker: Inherited) -> Kind:
    """By getsockopt(2): SO_TYPE, and SO_ACCEPTCONN, which says whether it listens."""
    try:
        with _looking_at(fd) as sock:
            kind = _KINDS.get(sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE))
            listens = bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
            family = sock.family
    except OSError as error:
        raise ConfigurationError(f"{asker}: descriptor {fd} is no socket ({os.strerror(error.errno or 0)})") from error
    if kind is None or family not in (socket.AF_INET, socket.AF_INET6, getattr(socket, "AF_UNIX", None)):
        raise ConfigurationError(
            f"{asker}: descriptor {fd} is a socket of another sort; allowed: stream and datagram, IPv4, IPv6 and Unix"
        )
    if kind is Kind.STREAM and not listens:
        raise ConfigurationError(
            f"{asker}: descriptor {fd} does not listen; it is a connection (Accept=yes in a systemd socket unit, which "
            "must be no), or nobody has called listen(2)"
        )
    return kind


def _copy(fd: int) -> socket.socket:
    """dup(2), close-on-exec."""
    copy = os.dup(fd)
    try:
        return socket.socket(fileno=copy)
    except BaseException:
        os.close(copy)
        raise


def _shown(address: Any) -> Any:
    """An abstract name with an @, as the other transports show it."""
    return "@" + os.fsdecode(address[1:]) if isinstance(address, bytes) else address


@define(eq=False)
class InheritedStreamListener(Listener):
    """A listening socket that stays another's.  `accept` is safe from many threads, and in forked processes."""

    kind: ClassVar[Kind] = Kind.STREAM

    _socket: socket.socket
    #: By getsockname(2); an abstract name begins with ``@``.
    address: object = field(init=False)
    _family: int = field(init=False, repr=False)
    _proto: int = field(init=False, repr=False)
    #: From when on nothing more is accepted, by `time.monotonic`; 0: not yet.  Shared with processes forked later.
    _until: mmap.mmap = field(factory=lambda: mmap.mmap(-1, _MOMENT.size), init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        sock = self._socket
        sock.setblocking(False)
        self.address, self._family, self._proto = _shown(sock.getsockname()), sock.family, sock.proto
        if self._family in (socket.AF_INET, socket.AF_INET6):
            self._proto = socket.IPPROTO_TCP
            for level, name in _PEER_OPTIONS:  # which accepted sockets inherit on Linux
                sock.setsockopt(level, name, 1)

    def fileno(self) -> int:
        """Our copy of the descriptor; -1 after `close`."""
        return self._socket.fileno()

    def accept(self) -> Connection:
        """accept(2), until `HOLD_OFF_S` after `hold_off`."""
        (until,) = _MOMENT.unpack(self._until)
        if until and monotonic() >= until:
            raise BlockingIOError(errno.EAGAIN, "the server stops, and the next one accepts")
        connection = accept_stream(self._socket, self._family, self._proto)
        if sys.platform != "linux" and self._proto == socket.IPPROTO_TCP:
            for level, name in _PEER_OPTIONS:
                with suppress(OSError):
                    connection.socket.setsockopt(level, name, 1)
        return connection

    def hold_off(self) -> None:
        """Accept for a moment more, which empties the queue of a server that keeps up.  The door cannot be shut, since
        it is somebody else's; who is left in the queue of one that does not is served by the next."""
        self._until[:] = _MOMENT.pack(monotonic() + HOLD_OFF_S)

    def close(self) -> None:
        """Close our copy.  Whoever gave the socket still has it, and so nobody who waits in it is turned away."""
        self._socket.close()


_PEER_OPTIONS = ((socket.IPPROTO_TCP, socket.TCP_NODELAY), (socket.SOL_SOCKET, socket.SO_KEEPALIVE))


@define(eq=False)
class InheritedDatagramListener(Listener):
    """A bound socket that stays another's.  `accept` is safe from many threads, and in forked processes."""

    kind: ClassVar[Kind] = Kind.DATAGRAM

    _socket: socket.socket
    #: By getsockname(2); an abstract name begins with ``@``.
    address: object = field(init=False)
    _reader: PacketReader | None = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        sock = self._socket
        sock.setblocking(False)
        self.address = _shown(sock.getsockname())
        self._reader = packet_reader(
            sock, Facts(), max_packet_size=_MAX_PACKET, deliver_truncated=False, bound=self.address or "-"
        )

    def fileno(self) -> int:
        """Our copy of the descriptor; -1 after `close`."""
        return self._socket.fileno()

    def accept(self) -> Datagram:
        """Take one packet; raises `~tricorn.errors.PeerRefused` for one above 65,535 bytes, or from port 0."""
        for _ in range(_MOST_ERRORS):
            try:
                packet = self._take()
            except OSError as error:
                if error.errno not in _OF_AN_EARLIER_REPLY:
                    raise
                continue
            if isinstance(packet.peer, tuple) and packet.peer[1] == 0:
                raise PeerRefused("a packet from port 0, which can get no reply", packet.peer)
            return packet
        raise BlockingIOError(errno.EAGAIN, "only errors of earlier replies were pending")

    def _take(self) -> Datagram:
        if self._reader is None:
            return take_packet(self._socket, self.address, _MAX_PACKET, False)
        return self._reader.take(self._socket)

    def close(self) -> None:
        """Close our copy."""
        self._socket.close()


_LISTENERS: dict[Kind, Callable[[socket.socket], Listener]] = {
    Kind.STREAM: InheritedStreamListener,
    Kind.DATAGRAM: InheritedDatagramListener,
}
