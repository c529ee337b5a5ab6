"""The legacy facade beside the standard library's `socketserver`: each class of the one against the same of the other.

    python benchmarks/legacy.py                                      every class, about six minutes
    python benchmarks/legacy.py TCPServer ForkingUDPServer           some
    python benchmarks/legacy.py ThreadingTCPServer --starts 9        more rounds
    python benchmarks/legacy.py TCPServer --files                    handlers with rfile and wfile

Both servers are the same program, started with the facade installed and without; only the backlog is longer than by
default.  Stream servers get short connections, datagram servers packets, of 64 bytes.  Server and generator have a
processor each.  Both servers of a class run at a time and are loaded in turn, the order changing from round to round;
after some rounds both are started afresh.  Ratios are formed inside a round: facade by original, so that above 1 the
facade is quicker; the table has their median, with the least and the most, by requests per second and by the server's
CPU time for each request, which is steadier where the machine is shared.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Any

from harness import OUT, SERVER_CPU, Priority, RunningServer, Sample, build_generator, sample

PROTOS = {"TCP": "tcp", "UDP": "udp", "UnixStream": "unix", "UnixDatagram": "unixgram"}
PACKETS = ("udp", "unixgram")
KINDS = ("", "Threading", "Forking")
CLASSES = {f"{kind}{row}Server": proto for row, proto in PROTOS.items() for kind in KINDS}
MODULES = ("original", "facade")

#: Bytes of a request, as the generator sends it.
SIZE = 64
BACKLOG = 1024


# -- the server


def file_handler(proto: str) -> type:
    """Echoes one request by the handler's files."""
    import socketserver

    base = socketserver.DatagramRequestHandler if proto in PACKETS else socketserver.StreamRequestHandler

    class Echo(base):  # type: ignore[misc, valid-type]
        def handle(self) -> None:
            while data := self.rfile.read(SIZE):
                self.wfile.write(data)

    return Echo


def serve(module: str, name: str, files: bool) -> None:
    """Be the server, until SIGTERM."""
    if module == "facade":
        from tricorn.socketserver import install

        install()
    import socketserver

    from stdlib_server import packet_handler, stream_handler

    proto = CLASSES[name]
    raw = packet_handler(None) if proto in PACKETS else stream_handler(None, 4096)
    base: Any = getattr(socketserver, name, None)
    if base is None:  # before 3.12 the forking Unix servers were everybody's own
        mix_in, row = name.removesuffix("Server").split("Unix")
        base = type(name, (getattr(socketserver, f"{mix_in}MixIn"), getattr(socketserver, f"Unix{row}Server")), {})
    made = type("Server", (base,), {"request_queue_size": BACKLOG, "allow_reuse_address": proto == "tcp"})

    with tempfile.TemporaryDirectory() as place:
        where = ("127.0.0.1", 0) if proto in ("tcp", "udp") else os.path.join(place, "socket")
        server = made(where, file_handler(proto) if files else raw)

        def stop(number: int, frame: FrameType | None) -> None:
            raise SystemExit

        signal.signal(signal.SIGTERM, stop)
        address = server.server_address
        shown = f"{address[0]}:{address[1]}" if isinstance(address, tuple) else address
        print(f"READY {proto}:{shown}", flush=True)
        try:
            server.serve_forever()
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            server.socket.close()


# -- the measurement


@dataclass(frozen=True)
class Pair:
    """One round: the same load on both."""

    original: Sample
    facade: Sample

    @property
    def by_rate(self) -> float:
        """How many times as many requests a second."""
        return self.facade.rate / self.original.rate

    @property
    def by_cpu(self) -> float:
        """How many times as many requests for the same CPU time."""
        return self.original.server_us / self.facade.server_us


def measure(name: str, given: argparse.Namespace) -> list[Pair]:
    """All rounds of one class."""
    pairs = []
    packets = CLASSES[name] in PACKETS
    load = ["--mode", "datagram" if packets else "short", "--conns", str(given.conns), "--size", str(SIZE)]
    load += ["--seconds", str(given.seconds), "--warm", str(given.warm)]
    for _ in range(given.starts):
        with ExitStack() as stack:
            running = {}
            for module in MODULES:
                command = [__file__, "--serve", module, name, *(["--files"] if given.files else [])]
                running[module] = stack.enter_context(RunningServer(command, cpu=SERVER_CPU, log=f"legacy-{module}"))
            for number in range(given.rounds):
                turn = MODULES[:: -1 if number % 2 else 1]
                pairs.append(Pair(**{module: sample(running[module], load) for module in turn}))
    return pairs


def spread(ratios: list[float]) -> str:
    """Median, least and most."""
    return f"{median(ratios):.2f} [{min(ratios):.2f}..{max(ratios):.2f}]"


def row(name: str, pairs: list[Pair]) -> str:
    """One line of the table."""
    samples = [each for pair in pairs for each in (pair.original, pair.facade)]
    cells = (
        name,
        f"{median(pair.original.rate for pair in pairs):,.0f}",
        f"{median(pair.facade.rate for pair in pairs):,.0f}",
        spread([pair.by_rate for pair in pairs]),
        spread([pair.by_cpu for pair in pairs]),
        f"{sum(each.noisy for each in samples)} of {len(samples)}",
        str(sum(each.errors for each in samples)),
    )
    return f"| {' | '.join(cells)} |"


HEAD = (
    "| class | original, requests/s | facade | facade / original | by CPU | noisy samples | errors |",
    "|---|--:|--:|--:|--:|--:|--:|",
)


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("classes", nargs="*", metavar="class", help=f"of {', '.join(CLASSES)}; default: all")
    parser.add_argument("--serve", choices=MODULES, help=argparse.SUPPRESS)
    parser.add_argument("--files", action="store_true", help="StreamRequestHandler and DatagramRequestHandler")
    parser.add_argument("--conns", type=int, default=16)
    parser.add_argument("--starts", type=int, default=4, help="how often both servers are started")
    parser.add_argument("--rounds", type=int, default=6, help="for each start")
    parser.add_argument("--seconds", type=float, default=0.3, help="of each sample")
    parser.add_argument("--warm", type=float, default=0.1, help="seconds before each sample that do not count")
    parser.add_argument("--nice", type=int, default=0, help="below 0: go before everybody else (root only)")
    parser.add_argument("--json", type=Path, default=OUT / "legacy.json", help="where all samples go")
    given = parser.parse_args()
    given.classes = given.classes or list(CLASSES)
    if unknown := set(given.classes) - set(CLASSES):
        parser.error(f"unknown class {', '.join(sorted(unknown))}; known: {', '.join(CLASSES)}")
    return given


def main() -> None:
    """Run what was asked for."""
    given = arguments()
    if given.serve:
        serve(given.serve, given.classes[0], given.files)
        return
    Priority.nice = given.nice
    build_generator()
    handlers = "handlers with files" if given.files else "bare handlers"
    print(f"Python {platform.python_version()}, {handlers}, {given.conns} clients\n", *HEAD, sep="\n", flush=True)
    found = {}
    for name in given.classes:
        found[name] = measure(name, given)
        print(row(name, found[name]), flush=True)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(
        json.dumps({name: [asdict(pair) for pair in pairs] for name, pairs in found.items()}, indent=1)
    )
    slower = [name for name, pairs in found.items() if median(pair.by_rate for pair in pairs) < 1]
    print(f"\nslower than the original: {', '.join(slower) or 'none'}")
    sys.exit(bool(slower))


if __name__ == "__main__":
    main()
