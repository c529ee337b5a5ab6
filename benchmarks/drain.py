"""How long an idle server takes to stop: from the call of ``drain()`` to its return.

    python benchmarks/drain.py thread-pool --repetitions 20
    python benchmarks/drain.py ss-thread

Each repetition starts a server, has one client served, lets it be idle for ``--idle`` seconds, and stops it; prints
one JSON list of seconds.  Where clients came within the last second, Tricorn waits 30 ms for those whose handshake is
under way.  The names of dispatchers may have options; ``ss-...`` is the standard library's ``shutdown()``.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from stdlib_server import server_class, stream_handler

from tricorn import Server
from tricorn.handlers.echo import echo
from tricorn.transports import TCP

#: Seconds that threads of the last repetition get to leave the kernel before the next one may fork.
ALONE_S = 1.0


@contextmanager
def tricorn_server(dispatcher: str) -> Iterator[tuple[object, Callable[[], object]]]:
    """A serving Tricorn server: its address, and what stops it."""
    with Server(TCP("127.0.0.1", 0), dispatcher, echo) as server:
        server.start()
        yield server.address, server.drain


@contextmanager
def stdlib_server(kind: str) -> Iterator[tuple[object, Callable[[], object]]]:
    """A serving `socketserver` server."""
    server: socketserver.BaseServer = server_class(kind, "tcp", 1024)(("127.0.0.1", 0), stream_handler(None, 4096))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address, server.shutdown
    thread.join()
    server.server_close()


def be_a_client(address: object) -> None:
    """One request, and its reply."""
    with socket.create_connection(address[:2], timeout=10) as sock:
        sock.sendall(b"x" * 64)
        sock.recv(64)
        sock.shutdown(socket.SHUT_RDWR)  # a child that `socketserver` forked here has a copy of it


def be_alone() -> None:
    """Wait until this process has one thread: a joined one lives on in the kernel for a moment."""
    limit = time.monotonic() + ALONE_S
    while len(os.listdir("/proc/self/task")) > 1 and time.monotonic() < limit:
        time.sleep(0.001)


def seconds_to_stop(name: str, idle: float) -> float:
    """One repetition."""
    be_alone()
    running = stdlib_server(name.removeprefix("ss-")) if name.startswith("ss-") else tricorn_server(name)
    with running as (address, stop):
        be_a_client(address)
        time.sleep(idle)
        began = time.perf_counter()
        stop()
        return time.perf_counter() - began


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server")
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--idle", type=float, default=0.05, help="seconds between the last client and the stop")
    given = parser.parse_args()
    print(json.dumps([seconds_to_stop(given.server, given.idle) for _ in range(given.repetitions)]))


if __name__ == "__main__":
    main()
