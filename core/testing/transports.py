"""Whether a transport keeps the laws."""

from __future__ import annotations

from collections.abc import Callable

from tricorn.contracts import Kind, Transport
from tricorn.testing import datagram_laws, stream_laws, transport_laws
from tricorn.testing.approach import Connect, connect_to
from tricorn.testing.judging import hold_to
from tricorn.testing.stand import Stand

__all__ = ["check_transport"]

_OF_KIND = {Kind.STREAM: stream_laws.LAWS, Kind.DATAGRAM: datagram_laws.LAWS}


def check_transport(factory: Callable[[], Transport], *, connect: Connect = connect_to) -> None:
    """Raise `AssertionError` for the first law that the transports made by ``factory`` break; return if they keep all.

    ``factory``
        Makes a fresh transport at each call, on an address that is free: a port 0, a path in a temporary folder.
    ``connect``
        Called with a transport and the address of its listener; returns a client: a connected `socket.socket`, or what
        has its calls ``send``, ``sendall``, ``recv``, ``shutdown``, ``settimeout`` and ``close``, with a timeout set.
        For items it makes one item pending, and what it returns is closed at the end.  Without it the transport's own
        ``connect()`` is used if it has one, else the listener's address: IP for a tuple, a Unix socket for a path.

    ::

        check_transport(lambda: TCP("127.0.0.1", 0))
        check_transport(lambda: TLS(TCP("127.0.0.1", 0), ...), connect=my_tls_client)

    Takes a second or so.  Starts threads of its own; may be called from any thread.
    """
    sample = factory()
    stand = Stand(factory, connect, sample.kind)
    for law in (*transport_laws.LAWS, *_OF_KIND.get(sample.kind, ())):
        hold_to(law, stand, type(sample).__name__)
