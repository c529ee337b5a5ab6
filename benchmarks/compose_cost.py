"""What composition costs for each request: CPU time and calls, from one accept to the next.

    python benchmarks/compose_cost.py                 the table
    python benchmarks/compose_cost.py --calls         and which functions those calls are

Three ways to serve the same one-shot echo (receive once, send it back, close) over TCP, in this process: a bare loop
over a socket, Tricorn's ``Sync``, and `socketserver.TCPServer`.  The generator is the one of ``run.py``.  Rounds are
interleaved; the table has the medians of the CPU time of this process and, counted in a run of their own by
`sys.setprofile`, the calls of Python functions and of C functions.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import socket
import socketserver
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from statistics import median
from types import FrameType

from harness import GENERATOR_CPU, SERVER_CPU, build_generator, pinned
from stdlib_server import server_class

from tricorn import Server
from tricorn.strategies import Sync
from tricorn.transports import TCP

BUFSIZE = 4096
#: Connections of the generator at once.
CONNS = 16
#: Seconds after which the generator gives up.
LIMIT_S = 60

#: Serves so many connections, having called the second argument with the address first.
Way = Callable[[int, Callable[[tuple[str, int]], None]], None]


def bare_loop(count: int, ready: Callable[[tuple[str, int]], None]) -> None:
    """The least that Python can do."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        ready(listening.getsockname())
        for _ in range(count):
            sock, _peer = listening.accept()
            sock.sendall(sock.recv(BUFSIZE))
            sock.close()


def sync(count: int, ready: Callable[[tuple[str, int]], None]) -> None:
    """Tricorn's `Server` with `Sync`."""
    left = count

    def echo(connection: object) -> None:
        nonlocal left
        connection.send(connection.recv(BUFSIZE))
        left -= 1
        if not left:
            server.request_stop()

    with Server(TCP("127.0.0.1", 0, backlog=1024), Sync(), echo) as server:
        ready(server.address)
        server.serve_forever()


def tcp_server(count: int, ready: Callable[[tuple[str, int]], None]) -> None:
    """The standard library's `TCPServer`, as ``serve_forever`` runs it."""
    left = count

    class Echo(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            nonlocal left
            self.request.sendall(self.request.recv(BUFSIZE))
            left -= 1
            if not left:
                self.server._BaseServer__shutdown_request = True  # shutdown() would wait for this very thread

    with server_class("sync", "tcp", 1024)(("127.0.0.1", 0), Echo) as server:
        ready(server.server_address)
        server.serve_forever()


WAYS: dict[str, Way] = {"bare loop": bare_loop, "Sync": sync, "TCPServer": tcp_server}


def serve(way: Way, count: int, begin: Callable[[], None], end: Callable[[], None]) -> None:
    """Run one way under load; ``begin`` and ``end`` are called around the part that serves."""
    generators: list[subprocess.Popen[bytes]] = []

    def ready(address: tuple[str, int]) -> None:
        command = [str(build_generator()), "--mode", "short", "--addr", f"tcp:{address[0]}:{address[1]}"]
        command += ["--conns", str(CONNS), "--requests", str(count), "--seconds", str(LIMIT_S)]
        generators.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, preexec_fn=pinned(GENERATOR_CPU)))
        begin()

    try:
        way(count, ready)
        end()
    finally:
        for generator in generators:
            generator.terminate()
            generator.wait()


def cpu_of(way: Way, count: int) -> tuple[float, float]:
    """Microseconds for each request, in Python and in the kernel."""
    marks: list[resource.struct_rusage] = []

    def mark() -> None:
        marks.append(resource.getrusage(resource.RUSAGE_SELF))

    serve(way, count, mark, mark)
    first, last = marks
    return (last.ru_utime - first.ru_utime) / count * 1e6, (last.ru_stime - first.ru_stime) / count * 1e6


def calls_of(way: Way, count: int) -> Counter[tuple[str, str]]:
    """How often each function was called."""
    calls: Counter[tuple[str, str]] = Counter()

    def note(frame: FrameType, event: str, function: object) -> None:
        if event == "call":
            code = frame.f_code
            calls["call", f"{code.co_qualname} ({os.path.basename(code.co_filename)}:{code.co_firstlineno})"] += 1
        elif event == "c_call":
            calls["c_call", getattr(function, "__qualname__", repr(function))] += 1

    serve(way, count, lambda: sys.setprofile(note), lambda: sys.setprofile(None))
    return calls


def per_request(calls: Counter[tuple[str, str]], event: str, count: int) -> float:
    """Calls of one kind for each request."""
    return sum(number for (kind, _), number in calls.items() if kind == event) / count


def show_calls(name: str, calls: Counter[tuple[str, str]], count: int) -> None:
    """The functions called in at least one request out of ten."""
    print(f"\n### {name}: calls for each request\n")
    for (kind, what), number in calls.most_common():
        if number >= count / 10:
            print(f"{number / count:6.2f}  {kind:6}  {what}")


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--requests", type=int, default=4000, help="in each round")
    parser.add_argument("--calls", action="store_true", help="list the functions")
    return parser.parse_args()


def main() -> None:
    """Measure, and print."""
    given = arguments()
    pinned(SERVER_CPU)()
    cpu: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    for _ in range(given.rounds):
        for name, way in WAYS.items():
            cpu[name].append(cpu_of(way, given.requests))
    calls = {name: calls_of(way, given.requests) for name, way in WAYS.items()}
    print(f"Python {platform.python_version()}; {given.rounds} rounds of {given.requests} requests, C={CONNS}\n")
    print("| one-shot echo over TCP | CPU us | in Python | in the kernel | Python calls | C calls |")
    print("|---|--:|--:|--:|--:|--:|")
    for name, taken in cpu.items():
        cells = [median(sum(each) for each in taken), *(median(each) for each in zip(*taken, strict=True))]
        numbers = [per_request(calls[name], kind, given.requests) for kind in ("call", "c_call")]
        print(f"| {name} | {' | '.join(f'{cell:.1f}' for cell in (*cells, *numbers))} |")
    for name in WAYS if given.calls else ():
        show_calls(name, calls[name], given.requests)


if __name__ == "__main__":
    main()
