"""An echo by gevent: blocking code on greenlets.

python benchmarks/peers/echo_gevent.py --framing lines
"""

from __future__ import annotations

import argparse

import gevent
from contract import MAX_LINE, SLEEP_S, WORKS, Work, arguments, listening_socket, tell
from gevent import socket
from gevent.server import DatagramServer, StreamServer


def sleep(data: bytes) -> bytes:
    """The work ``sleep``, with others served meanwhile."""
    gevent.sleep(SLEEP_S)
    return data


def stream_handler(given: argparse.Namespace) -> object:
    """The handler that the command line asks for."""
    work: Work | None = sleep if given.work == "sleep" else WORKS[given.work]

    def echo(sock: socket.socket, address: object) -> None:
        try:
            while data := sock.recv(given.bufsize):
                sock.sendall(work(data) if work else data)
        except ConnectionError:
            pass

    def echo_lines(sock: socket.socket, address: object) -> None:
        with sock.makefile("rb") as lines:
            for line in iter(lambda: lines.readline(MAX_LINE), b""):
                sock.sendall(line)

    return echo_lines if given.framing == "lines" else echo


class EchoPackets(DatagramServer):
    """Sends back each packet."""

    def handle(self, data: bytes, address: object) -> None:
        self.socket.sendto(data, address)


def main() -> None:
    """Serve until SIGTERM."""
    given = arguments(__doc__, protos=("tcp", "unix", "udp", "unixgram"))
    sock = listening_socket(given.proto, given.backlog)
    address = sock.getsockname()
    sock.setblocking(False)
    green = socket.socket(sock.family, sock.type, sock.proto, fileno=sock.detach())
    packets = given.proto in ("udp", "unixgram")
    server = EchoPackets(green) if packets else StreamServer(green, stream_handler(given))
    server.start()
    tell(given.proto, address)
    server.serve_forever()


if __name__ == "__main__":
    main()
