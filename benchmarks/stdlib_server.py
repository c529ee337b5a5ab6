"""The standard library's `socketserver`, as its documentation uses it, for the harness.

The same contract as ``server.py``: prints ``READY <proto>:<address>``, and ends on SIGTERM.  Its backlog is 1024, as
Tricorn's is under the harness; the library's own 5 would measure nothing but retransmissions.
"""

from __future__ import annotations

import argparse
import os
import signal
import socketserver
import tempfile
import threading

from work import WORKS, Work

SERVERS = {
    "tcp": socketserver.TCPServer,
    "udp": socketserver.UDPServer,
    "unix": socketserver.UnixStreamServer,
    "unixgram": socketserver.UnixDatagramServer,
}
MIX_INS = {"sync": (), "thread": (socketserver.ThreadingMixIn,), "fork": (socketserver.ForkingMixIn,)}


def stream_handler(work: Work | None, bufsize: int) -> type[socketserver.BaseRequestHandler]:
    """Echoes until the peer's end."""

    class Echo(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            sock = self.request
            while data := sock.recv(bufsize):
                sock.sendall(work(data) if work else data)

    return Echo


def once_handler(work: Work | None, bufsize: int) -> type[socketserver.BaseRequestHandler]:
    """Echoes once; then the connection is closed."""

    class EchoOnce(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            data = self.request.recv(bufsize)
            self.request.sendall(work(data) if work else data)

    return EchoOnce


def packet_handler(work: Work | None) -> type[socketserver.BaseRequestHandler]:
    """Echoes one packet."""

    class Echo(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            data, sock = self.request
            sock.sendto(work(data) if work else data, self.client_address)

    return Echo


def server_class(kind: str, proto: str, backlog: int) -> type[socketserver.BaseServer]:
    """The mix-in and the server put together."""
    options = {
        "request_queue_size": backlog,
        "allow_reuse_address": proto == "tcp",
        "daemon_threads": True,
        "max_children": 512,
    }
    return type("Server", (*MIX_INS[kind], SERVERS[proto]), options)


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", default="sync", choices=sorted(MIX_INS))
    parser.add_argument("--proto", default="tcp", choices=sorted(SERVERS))
    parser.add_argument("--work", default="echo", choices=sorted(WORKS))
    parser.add_argument("--bufsize", type=int, default=4096)
    parser.add_argument("--backlog", type=int, default=1024)
    parser.add_argument("--once", action="store_true", help="close each connection after one reply")
    return parser.parse_args()


def main() -> None:
    """Serve until SIGTERM."""
    given = arguments()
    packets, work = given.proto in ("udp", "unixgram"), WORKS[given.work]
    echo = once_handler if given.once else stream_handler
    handler = packet_handler(work) if packets else echo(work, given.bufsize)
    path = os.path.join(tempfile.gettempdir(), f"stdlib-bench-{os.getpid()}.sock")
    place = ("127.0.0.1", 0) if given.proto in ("tcp", "udp") else path
    server = server_class(given.kind, given.proto, given.backlog)(place, handler)

    def stop(number: int, frame: object) -> None:
        threading.Thread(target=server.shutdown, daemon=True).start()

    signal.signal(signal.SIGTERM, stop)
    address = server.server_address
    where = f"{address[0]}:{address[1]}" if isinstance(address, tuple) else address
    print(f"READY {given.proto}:{where}", flush=True)
    server.serve_forever()
    if isinstance(address, str):
        os.unlink(address)
    os._exit(0)  # not to wait for threads with a connection still open


if __name__ == "__main__":
    main()
