"""The standard library's `socketserver`, on Tricorn's parts: every documented name, and old programs unchanged.

::

    from tricorn import socketserver

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            self.wfile.write(self.rfile.readline().upper())

    with socketserver.ThreadingTCPServer(("127.0.0.1", 9999), Handler) as server:
        server.serve_forever()

The server classes come from one table: a transport (``TCPServer``, ``UDPServer``, ``UnixStreamServer``,
``UnixDatagramServer``) by a strategy (none, ``ThreadingMixIn``, ``ForkingMixIn``).  Every dispatcher that is installed
makes a column of its own: ``ThreadPoolMixIn``, ``ThreadPoolTCPServer``, ``ProcessPoolUnixStreamServer``, ..., with its
options as class attributes (``workers = 8``).  `install` puts this module in the place of the original.

Where it differs from the original, on purpose, because nobody can rely on the fault; behind each, its test in
``tests/legacy/test_mended.py``:

* ``shutdown()`` wakes the loop at once, not at the next poll interval (`test_shutdown_wakes_at_once`)
* ``shutdown()`` from the serving thread returns, and the loop ends (`test_shutdown_from_the_serving_thread`)
* ``shutdown()`` after the loop has ended leaves the next ``serve_forever()`` alone
  (`test_second_shutdown_does_no_harm`)
* ``server_close()`` ends the loop (`test_server_close_ends_the_loop`)
* out of descriptors, accepting pauses instead of spinning (`test_out_of_descriptors_backs_off`)
* a request is closed also where ``verify_request`` or ``handle_error`` raises
  (`test_request_is_closed_when_a_hook_raises`)
* a thread that cannot start leaves ``server_close()`` working (`test_thread_that_cannot_start`)
* at ``max_children`` only own children are waited for (`test_foreign_children_keep_their_status`)
* what a child has printed is not lost, nor printed twice (`test_output_of_a_child_is_kept`)
* a datagram client without a name gets no reply, and that is no error (`test_nameless_datagram_client`)
* ``BaseServer`` works without a socket where ``get_request`` is overridden (`test_server_without_a_socket`)
"""

# Most of what is imported here is for others: the original has these names, and programs touch them.
# ruff: noqa: F401

from __future__ import annotations

import os
import selectors
import socket
import sys
import threading
from io import BufferedIOBase
from time import monotonic as time

from tricorn.handlers.request import SocketWriter as _SocketWriter
from tricorn.legacy.forking_mix_in import ForkingMixIn
from tricorn.legacy.handlers import BaseRequestHandler, DatagramRequestHandler, StreamRequestHandler
from tricorn.legacy.loop import default_selector as _ServerSelector  # noqa: N812 - the original's name
from tricorn.legacy.servers import TCPServer, UDPServer
from tricorn.legacy.serving import BaseServer
from tricorn.legacy.table import fill, invent
from tricorn.legacy.threading_mix_in import ThreadingMixIn, _NoThreads, _Threads

if sys.version_info < (3, 15):
    __version__ = "0.4"

__all__: list[str] = []
__all__ += fill(globals())  # noqa: PLE0605 - these are what the platform has
if not hasattr(os, "fork"):
    del ForkingMixIn


def install() -> None:
    """Put this module in the place of the standard library's, for all that is imported from now on.

    `http.server`, `xmlrpc.server`, `wsgiref.simple_server` and `logging.config.listen` then stand on it.  Twice is the
    same as once.  Raises `~tricorn.errors.StateError` if the original was imported before, and names the modules that
    hold it.
    """
    from tricorn.legacy.installing import put_in_place

    put_in_place(sys.modules[__name__])


def __getattr__(name: str) -> object:
    """The classes of dispatchers that the original does not have."""
    if name == "__version__" and sys.version_info >= (3, 15):
        from tricorn.legacy.installing import outdated_version

        return outdated_version()
    return invent(globals(), name)
