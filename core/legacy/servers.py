"""The four transports as server classes."""

from __future__ import annotations

import socket
import sys

from tricorn.legacy.serving import BaseServer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["TCPServer", "UDPServer"]

#: As many as the system lets wait, since 3.15 (gh-134249).
_BACKLOG = getattr(socket, "SOMAXCONN", 5) if sys.version_info >= (3, 15) else 5

#: Since 3.13.11 (gh-128916), SO_REUSEPORT is asked for on Internet sockets alone.
_SHARING_FAMILIES = (socket.AF_INET, getattr(socket, "AF_INET6", None))


class TCPServer(BaseServer):
    """A server on a stream socket, by default an IPv4 one; bound and listening when the constructor returns.

    Class attributes decide what the constructor does: ``address_family``, ``socket_type``, ``request_queue_size`` (the
    backlog), ``allow_reuse_address``, ``allow_reuse_port``.
    """

    address_family = socket.AF_INET
    socket_type = socket.SOCK_STREAM
    request_queue_size = _BACKLOG
    allow_reuse_address = False
    allow_reuse_port = False

    def __init__(self, server_address: Any, RequestHandlerClass: Any, bind_and_activate: bool = True) -> None:  # noqa: N803
        BaseServer.__init__(self, server_address, RequestHandlerClass)
        self.socket = socket.socket(self.address_family, self.socket_type)
        if bind_and_activate:
            try:
                self.server_bind()
                self.server_activate()
            except:
                self.server_close()
                raise

    def server_bind(self) -> None:
        """Bind the socket, and learn the address that it got."""
        if self.allow_reuse_address and hasattr(socket, "SO_REUSEADDR"):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.allow_reuse_port and hasattr(socket, "SO_REUSEPORT") and self.address_family in _SHARING_FAMILIES:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def server_activate(self) -> None:
        """Listen, with a backlog of ``request_queue_size``."""
        self.socket.listen(self.request_queue_size)

    def server_close(self) -> None:
        """Close the socket."""
        self.socket.close()
        BaseServer.server_close(self)  # by name: a class beside this one is not reached from here

    def fileno(self) -> int:
        """The socket's descriptor, for select and its kin."""
        return self.socket.fileno()

    def get_request(self) -> Any:
        """Accept a connection; returns it and the client's address."""
        return self.socket.accept()

    def shutdown_request(self, request: Any) -> None:
        """Tell the peer that nothing more comes, and close; closing alone would wait for every file of the socket."""
        try:
            request.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it is gone already
        self.close_request(request)

    def close_request(self, request: Any) -> None:
        """Close the connection."""
        request.close()


class UDPServer(TCPServer):
    """A server on a datagram socket; a request is a pair of the packet's bytes and the server's socket."""

    allow_reuse_address = False
    allow_reuse_port = False
    socket_type = socket.SOCK_DGRAM
    #: Bytes; longer packets are cut off.
    max_packet_size = 8192

    def get_request(self) -> Any:
        """Receive a packet; returns it with the socket, and the client's address."""
        data, client_address = self.socket.recvfrom(self.max_packet_size)
        return (data, self.socket), client_address

    def server_activate(self) -> None:
        """There is nothing to listen for."""

    def shutdown_request(self, request: Any) -> None:
        """There is no connection to end."""
        self.close_request(request)

    def close_request(self, request: Any) -> None:
        """There is nothing to close: the socket is the server's."""
