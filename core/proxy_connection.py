"""A connection that came through a proxy: the header is read on the worker, under a deadline, and not a byte more."""

from __future__ import annotations

import selectors
import socket as _sockets
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

from attrs import define, field

from tricorn.connection import Connection
from tricorn.deadline import Deadline
from tricorn.errors import ConnectionLost, HandshakeTimeout, MalformedHeader, StateError, TransportError
from tricorn.peer_socket import Tracked
from tricorn.proxy_header import HeaderReader, ProxyHeader, begins_header

__all__ = ["ProxyConnection"]

_NO_HEADER = ProxyHeader(0)


@define(eq=False)
class ProxyConnection(Connection):
    """A `~tricorn.connection.Connection` whose `peer` is, from `open` on, the client that the proxy tells of.

    ``inner`` is the connection below.  It shares its socket: what follows the header is read by the handler as ever.
    """

    _inner: Connection = field(kw_only=True, alias="inner")
    #: Seconds from the beginning of `open` to the end of the header.
    header_timeout: float = field(kw_only=True, default=5.0)
    #: The peer must send a header.
    required: bool = field(kw_only=True, default=True)
    _restorers: tuple[int, ...] = field(kw_only=True, default=(), alias="restorers", repr=False)
    _proxy: object = field(default=None, init=False)
    _header: ProxyHeader | None = field(default=None, init=False, repr=False)
    _reader: HeaderReader | None = field(default=None, init=False, repr=False)
    _deadline: Deadline | None = field(default=None, init=False, repr=False)

    @property
    def proxy(self) -> object:
        """The address of the proxy; ``None`` where the peer came by itself, or before it is open."""
        return self._proxy

    @property
    def proxy_header(self) -> ProxyHeader | None:
        """All that the proxy said; ``None`` where the peer came by itself, or before it is open."""
        return None if self._header is _NO_HEADER else self._header

    @property
    def restorers(self) -> tuple[int, ...]:
        """Raises `StateError` once it is being opened: the header is out of the stream, and stays in its process."""
        if self._deadline is not None:
            raise StateError(
                "a connection whose PROXY header was read in this process cannot be given to another one that runs "
                "already; use Fork, whose child has everything"
            )
        return self._restorers

    def open(self, deadline: Deadline) -> None:
        """Read the header, within ``header_timeout`` seconds; nothing if that is done.

        Raises `~tricorn.errors.MalformedHeader`, `~tricorn.errors.HandshakeTimeout`, or
        `~tricorn.errors.ConnectionLost` if the peer left before its header was complete.
        """
        if self._header is not None:
            return
        self._inner.open(deadline)
        self._begin(deadline)
        assert self._deadline is not None
        sock = self.socket
        patience = sock.gettimeout()
        with _waiting(sock):
            while self._header is None:
                sock.settimeout(max(self._deadline.remaining() or 0.0, 0.001))
                self._read_on()
                if self._header is None and self._deadline.expired:
                    raise self._failed(TimeoutError())
        sock.settimeout(patience)

    def open_step(self) -> int:
        """As `open`, without blocking.  Raises `~tricorn.errors.HandshakeTimeout` if called after `open_until`."""
        if self._deadline is None:
            if wanted := self._inner.open_step():
                return wanted
            self._begin(Deadline(None))
        assert self._deadline is not None
        try:
            while self._header is None:
                self._read_on()
        except BlockingIOError:
            if self._deadline.expired:
                raise self._failed(TimeoutError()) from None
            return selectors.EVENT_READ
        return 0

    @property
    def open_until(self) -> Deadline | None:
        """By when `open_step` must have returned 0; ``None`` before it was called."""
        return self._deadline

    # -- the inside

    def _begin(self, deadline: Deadline) -> None:
        """The connection below is open; it may know the peer better."""
        with self._lock:
            self.socket, self.peer = self._inner.socket, self._inner.peer
        self._deadline = deadline.sooner(Deadline.after(self.header_timeout))
        self._reader = HeaderReader()

    def _read_on(self) -> None:
        """One look at what has come, of which the header's part is taken; raises as recv(2), or what is wrong."""
        reader = self._reader
        assert reader is not None
        # past the notes of `Tracked`: no request is under way because of a header
        receive = self.socket._plain_recv if isinstance(self.socket, Tracked) else self.socket.recv
        try:
            looked = receive(reader.room, _sockets.MSG_PEEK)
            if not (self.required or reader.begun or (looked and begins_header(looked))):
                self._known(_NO_HEADER)
                return
            if not looked:
                raise ConnectionResetError
            taken = reader.push(looked)
            while taken:
                taken -= len(receive(taken))
        except BlockingIOError:
            raise
        except (OSError, MalformedHeader) as error:
            raise self._failed(error) from error
        if reader.header is not None:
            self._known(reader.header)

    def _known(self, header: ProxyHeader) -> None:
        if header is not _NO_HEADER:
            self._proxy = self.peer
        if header.source is not None:
            self.peer, self._local = header.source, header.destination
        self._header, self._reader = header, None

    def _failed(self, error: Exception) -> TransportError:
        """The failure in our words, noted as the peer's doing."""
        failure: TransportError
        if isinstance(error, MalformedHeader):
            failure = error
        elif isinstance(error, TimeoutError):
            failure = HandshakeTimeout(f"the PROXY header was not complete after {self.header_timeout:g} s")
        else:
            failure = ConnectionLost("the peer left before its PROXY header was complete")
        self.socket.fault = failure
        return failure


@contextmanager
def _waiting(sock: Any) -> Iterator[None]:
    """A drain lets the header come, if it does so soon, as it does after an interim reply; then nothing is noted."""
    sock.sent_at = monotonic()
    sock.waiting = True
    try:
        yield
    finally:
        sock.waiting = False
        sock.sent_at = float("-inf")
        sock._boundaries = 0
