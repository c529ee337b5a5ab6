"""A composed server and a few real clients: run it, and read what it prints.

::

    python examples/quickstart.py            # serves, talks to itself, ends
    python examples/quickstart.py --serve    # serves until Ctrl-C
"""

from __future__ import annotations

import argparse
import socket
import threading
from contextlib import ExitStack

from tricorn import Connection, Outcome, Server
from tricorn.events import Event, JobFinished
from tricorn.strategies import ThreadPool
from tricorn.transports import TCP

CLIENTS = 5


def echo(connection: Connection) -> None:
    """The handler: one call for each connection."""
    while data := connection.recv():
        connection.send(data)


def talk(address: tuple[str, int]) -> None:
    """Several clients, all connected at once; each sends a line and prints what comes back."""
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(address, timeout=10)) for _ in range(CLIENTS)]
        for number, client in enumerate(clients, 1):
            client.sendall(f"hello from client {number}\n".encode())
        for number, client in enumerate(clients, 1):
            line = client.makefile().readline()
            print(f"  client {number} got back: {line.rstrip()}")


def try_it_out() -> None:
    """Serve in the background, be a few clients, stop, and tell."""
    outcomes: list[Outcome] = []
    lock = threading.Lock()

    def observe(event: Event) -> None:
        if isinstance(event, JobFinished):
            with lock:
                outcomes.append(event.outcome)

    with Server(TCP("127.0.0.1", 0), ThreadPool(workers=CLIENTS), echo, observers=[observe]) as server:
        server.start()
        host, port = server.address
        print(f"A TCP transport, a thread pool and an echo handler serve on {host}:{port}.")
        talk((host, port))
    print("The server's own account:")
    for outcome in sorted(outcomes, key=lambda outcome: outcome.id):
        print(f"  connection {outcome.id} from {outcome.peer}: {outcome.status.value} after {outcome.age:.4f} s")
    print(f"  {server.report}")
    print("Now you, in two terminals (Ctrl-C ends either):")
    print("  .venv/bin/python examples/quickstart.py --serve")
    print("  nc 127.0.0.1 9999")


def serve(port: int) -> None:
    """Serve in this thread until Ctrl-C or SIGTERM."""
    server = Server(TCP("127.0.0.1", port), ThreadPool(workers=16), echo)
    server.bind()
    print(f"Serving on 127.0.0.1:{server.address[1]}; try: nc 127.0.0.1 {server.address[1]}", flush=True)
    print(server.serve_forever(signals=True))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="A composed echo server and a few real clients.")
    parser.add_argument("--serve", action="store_true", help="keep serving until Ctrl-C")
    parser.add_argument("--port", type=int, default=9999, help="where --serve listens; 0: a free port")
    options = parser.parse_args()
    if options.serve:
        serve(options.port)
    else:
        try_it_out()


if __name__ == "__main__":
    main()
