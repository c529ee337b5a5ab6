"""The fixture ``tricorn_server``: servers for a test, on an address of the kernel's choice, that leave nothing behind.

Loaded by pytest itself wherever Tricorn is installed, so it imports nothing until somebody asks for the fixture, and
changes nothing for who does not.

::

    def test_shout(tricorn_server):
        server = tricorn_server(shout)
        with socket.create_connection(server.address) as client:
            ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tricorn.contracts import Dispatcher, Transport
    from tricorn.server import Server

__all__ = ["tricorn_server"]

#: Seconds that running requests get at the end of a test.
DRAIN_S = 0.25


@pytest.fixture
def tricorn_server() -> Iterator[Callable[..., Server]]:
    """Call it with a handler to get a server that serves.

    ``tricorn_server(handler, transport, dispatcher, **options)``:
    ``transport`` is ``TCP("127.0.0.1", 0)`` and ``dispatcher`` ``ThreadPool(4)`` unless given, by object or by name;
    the options are those of `tricorn.server.Server`.  It returns once clients can connect.  Call it as often as you
    like; but a dispatcher that forks needs a program without other threads, so it must be the only server.

    At the end of the test every server is drained: idle ones in milliseconds, running requests are cut off after a
    quarter of a second.  The test ends in an error if a thread, a descriptor or a child process is then left that was
    not there before the fixture: close what you connect.
    """
    from tricorn.testing.leaks import no_leaks

    with no_leaks(), ExitStack() as ending:

        def serve(
            handler: Any,
            transport: Transport | str | None = None,
            dispatcher: Dispatcher | str | None = None,
            **options: Any,
        ) -> Server:
            server = _build(handler, transport, dispatcher, options)
            ending.callback(server.drain, DRAIN_S)
            server.start()
            return server

        yield serve


def _build(handler: Any, transport: Any, dispatcher: Any, options: dict[str, Any]) -> Server:
    from tricorn.server import Server

    if transport is None:
        from tricorn.transports import TCP

        transport = TCP("127.0.0.1", 0)
    if dispatcher is None:
        from tricorn.strategies import ThreadPool

        dispatcher = ThreadPool(4)
    return Server(transport, dispatcher, handler, **options)
