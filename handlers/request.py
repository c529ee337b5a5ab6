"""The documented request-handler classes.

They stand in for the classes of the same names in `socketserver`, and work without Tricorn too: all they need is
``cls(request, client_address, server)``.  Each object serves one request, inside its constructor, on one thread.
"""

from __future__ import annotations

import socket as _sockets
from io import BufferedIOBase, BytesIO

from tricorn.kinds import Kind, Traits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar

__all__ = ["BaseRequestHandler", "DatagramRequestHandler", "SocketWriter", "StreamRequestHandler"]


class BaseRequestHandler:
    """Serves one request by being constructed: `setup`, then `handle`, then `finish`.

    Override any of the three.  `finish` also follows a `handle` that raised, but not a `setup` that did; what they
    raise leaves the constructor.  Replaces ``socketserver.BaseRequestHandler``.
    """

    _tricorn: ClassVar[Traits] = Traits()

    #: For a stream the connected socket, for a datagram ``(data, socket)``, for an item its value.
    request: Any
    #: The peer's address as the kernel gives it.
    client_address: Any
    #: The server, or what it shows of itself (`tricorn.handling.ServerView`).
    server: Any

    def __init__(self, request: Any, client_address: Any, server: Any) -> None:
        self.request = request
        self.client_address = client_address
        self.server = server
        self.setup()
        try:
            self.handle()
        finally:
            self.finish()

    def setup(self) -> None:
        """Prepare; does nothing unless overridden."""

    def handle(self) -> None:
        """Do the work; does nothing unless overridden."""

    def finish(self) -> None:
        """Tidy up; does nothing unless overridden."""


class StreamRequestHandler(BaseRequestHandler):
    """Adds two files to the conversation: `rfile` to read from and `wfile` to write to.

    The class attributes below are read by `setup`; change them in a subclass.  An override of `setup` or `finish` must
    call this one's.  Replaces ``socketserver.StreamRequestHandler``.
    """

    _tricorn: ClassVar[Traits] = Traits(kinds=frozenset({Kind.STREAM}))

    #: The size of the read buffer in bytes; -1 is the default of `io`, 0 reads unbuffered.
    rbufsize: int = -1
    #: The size of the write buffer in bytes; with 0 each write goes out at once and whole, -1 is the default of `io`.
    wbufsize: int = 0
    #: Seconds that each single reading or writing call may take before it raises `TimeoutError`; ``None``: for ever.
    timeout: float | None = None
    #: True sends small writes without waiting to fill a packet: tcp(7), TCP_NODELAY.  TCP only.
    disable_nagle_algorithm: bool = False

    #: The connected socket, the same as ``request``.
    connection: Any
    #: What the peer sends; an `io.BufferedIOBase` unless ``rbufsize`` is 0.
    rfile: Any
    #: To the peer; an `io.BufferedIOBase`.
    wfile: Any

    def setup(self) -> None:
        """Set the socket's options and make the files."""
        self.connection = connection = self.request
        if self.timeout is not None:
            connection.settimeout(self.timeout)
        if self.disable_nagle_algorithm:
            connection.setsockopt(_sockets.IPPROTO_TCP, _sockets.TCP_NODELAY, True)
        self.rfile = connection.makefile("rb", self.rbufsize)
        if self.wbufsize == 0:
            self.wfile = SocketWriter(connection)
        else:
            self.wfile = connection.makefile("wb", self.wbufsize)

    def finish(self) -> None:
        """Send what is still buffered, unless `wfile` was closed before, and close both files.

        A peer that is gone by then is no error.  The socket stays open: it is the server's.
        """
        try:
            try:
                if not self.wfile.closed:
                    self.wfile.flush()
            except OSError:
                pass  # the peer went first
            try:
                self.wfile.close()
            except OSError:
                pass
        finally:
            self.rfile.close()


class DatagramRequestHandler(BaseRequestHandler):
    """Makes a datagram look like two files: `rfile` holds the packet, and what is in `wfile` at the end is the reply.

    Replaces ``socketserver.DatagramRequestHandler``.  Where that sends an empty packet if nothing was written, this one
    sends nothing.  A sender without a name (an unbound Unix socket) gets no reply, which is no error.
    """

    _tricorn: ClassVar[Traits] = Traits(kinds=frozenset({Kind.DATAGRAM}))

    #: The packet's bytes.
    packet: Any
    #: The socket that it came in by, and that the reply goes out by.
    socket: Any
    #: The packet, to read from.
    rfile: BytesIO
    #: The reply, to write to.
    wfile: BytesIO

    def setup(self) -> None:
        """Take the request apart and make the files."""
        self.packet, self.socket = self.request
        self.rfile = BytesIO(self.packet)
        self.wfile = BytesIO()

    def finish(self) -> None:
        """Send the reply in one packet.  Raises `OSError` as sendto(2) does, for one that is too long."""
        reply = self.wfile.getvalue()
        if self.client_address is not None and (reply or self._tricorn.always_replies):
            self.socket.sendto(reply, self.client_address)


class SocketWriter(BufferedIOBase):
    """A binary file whose every write goes out at once, and whole.  Closing it leaves the socket open."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: Any) -> int:
        """Send all of ``data``, any bytes-like object, and return its length in bytes."""
        self._sock.sendall(data)
        with memoryview(data) as view:
            return view.nbytes

    def fileno(self) -> int:
        """The socket's descriptor."""
        number: int = self._sock.fileno()
        return number
