"""A Tricorn server for the harness: an echo, under any dispatcher, on any transport.

    python benchmarks/server.py --dispatcher 'thread-pool?workers=32' --proto tcp

It prints ``READY <proto>:<address>`` once clients can reach it, drains on SIGTERM, and then prints the drain report's
numbers, ``REPORT {"duration": ..., "accepted": ..., "completed": ...}``.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import tempfile
from typing import Any

import attrs
from work import WORKS, Work

from tricorn import Admission, Drop, Reject, Server, ShedOldest, Wait
from tricorn.contracts import Kind, Transport
from tricorn.handlers import BaseRequestHandler, Chunks, Lines, message
from tricorn.handlers.message_handler import MessageHandler
from tricorn.transports import TCP, UDP, UnixDatagram, UnixStream

#: What becomes of those for whom there is no room.
POLICIES = {"wait": Wait(), "reject": Reject(b"busy\n"), "drop": Drop(), "shed-oldest": ShedOldest()}


def transport(proto: str, backlog: int, options: dict[str, Any]) -> Transport:
    """The transport of a protocol's name, at a free port or path; ``options`` are its own."""
    if proto == "tcp":
        return TCP("127.0.0.1", 0, backlog=backlog, **options)
    if proto == "udp":
        return UDP("127.0.0.1", 0, **options)
    path = os.path.join(tempfile.gettempdir(), f"tricorn-bench-{os.getpid()}.sock")
    return UnixStream(path, backlog=backlog, **options) if proto == "unix" else UnixDatagram(path, **options)


def echo(work: Work | None, bufsize: int, request: object) -> None:
    """A function handler."""
    if request.kind is Kind.DATAGRAM:
        request.reply(work(request.data) if work else request.data)
        return
    while data := request.recv(bufsize):
        request.send(work(data) if work else data)


def echo_once(work: Work | None, bufsize: int, request: object) -> None:
    """A function handler: one reply, and the connection is closed."""
    data = request.recv(bufsize)
    request.send(work(data) if work else data)


def echo_class(work: Work | None, bufsize: int) -> type[BaseRequestHandler]:
    """A request-handler class, the same as the standard library's server runs."""

    class Echo(BaseRequestHandler):
        def handle(self) -> None:
            sock = self.request
            if isinstance(sock, tuple):
                data, sock = sock
                sock.sendto(work(data) if work else data, self.client_address)
                return
            while data := sock.recv(bufsize):
                sock.sendall(work(data) if work else data)

    return Echo


def echo_lines(work: Work | None) -> MessageHandler:
    """A message handler, for every dispatcher: event loops too."""

    @message(Lines())
    def echo_line(line: bytes) -> bytes:
        return work(line) if work else line

    return echo_line


def echo_chunks(work: Work | None, bufsize: int) -> MessageHandler:
    """A message handler that sends back whatever comes."""

    @message(Chunks(bufsize))
    def echo_chunk(chunk: bytes) -> bytes:
        return work(chunk) if work else chunk

    return echo_chunk


def handler_of(given: argparse.Namespace) -> object:
    """The handler that the command line asks for."""
    work = WORKS[given.work]
    if given.handler == "lines":
        return echo_lines(work)
    if given.handler == "chunks":
        return echo_chunks(work, given.bufsize)
    if given.handler == "class":
        return echo_class(work, given.bufsize)
    if given.once:
        return functools.partial(echo_once, work, given.bufsize)
    return functools.partial(echo, work, given.bufsize)


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dispatcher", default="sync", help="by name, with options")
    parser.add_argument("--proto", default="tcp", choices=["tcp", "udp", "unix", "unixgram"])
    parser.add_argument("--work", default="echo", choices=sorted(WORKS))
    parser.add_argument("--handler", default="function", choices=["function", "class", "lines", "chunks"])
    parser.add_argument("--once", action="store_true", help="close each connection after one reply")
    parser.add_argument("--transport-options", type=json.loads, default={}, help="as a JSON object")
    parser.add_argument("--bufsize", type=int, default=4096)
    parser.add_argument("--backlog", type=int, default=1024)
    parser.add_argument("--places", type=int, default=20_000, help="most connections in one process")
    parser.add_argument("--when-full", default="wait", choices=sorted(POLICIES))
    return parser.parse_args()


def main() -> None:
    """Serve until SIGTERM."""
    given = arguments()
    admission = Admission(given.places, when_full=POLICIES[given.when_full])
    listening = transport(given.proto, given.backlog, given.transport_options)
    with Server(listening, given.dispatcher, handler_of(given), admission=admission) as server:
        address = server.address
        where = f"{address[0]}:{address[1]}" if isinstance(address, tuple) else address
        print(f"READY {given.proto}:{where}", flush=True)
        report = server.serve_forever(signals=True)
    numbers = attrs.asdict(report, filter=lambda field, value: isinstance(value, int | float))
    print(f"REPORT {json.dumps(numbers)}", flush=True)


if __name__ == "__main__":
    main()
