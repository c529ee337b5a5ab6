"""The legacy facade beside the standard library's `socketserver`: each class of the one against the same of the other.

    python benchmarks/legacy.py                                      every class, about three minutes
    python benchmarks/legacy.py TCPServer ForkingUDPServer           some
    python benchmarks/legacy.py ThreadingTCPServer --rounds 21       more rounds
    python benchmarks/legacy.py TCPServer --files                    handlers with rfile and wfile

Both servers are the same program (legacy_server.py), with the facade installed and without; only the backlog is longer
than by default.  Stream servers get short connections, datagram servers packets, of 64 bytes.  Server and generator
have a processor each.

In each round both servers are started afresh, in either order, and loaded in turn, in bursts so short that whatever
else the machine does hits both alike; a burst of the one by the burst of the other is a ratio, and the median of those
is the round's.  The table has the median over the rounds, with the least and the most, of facade by original, so that
above 1 the facade is quicker: by requests per second, and by the server's CPU time for each request.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from harness import HERE, OUT, SERVER_CPU, Priority, RunningServer, build_generator, load
from legacy_server import CLASSES, MODULES, PACKETS, SIZE
from procfs import cpu_of_session


@dataclass(frozen=True)
class Burst:
    """What one server did in a moment."""

    rate: float
    #: CPU microseconds of the server, its children's included, for each answered request.
    server_us: float
    errors: int


@dataclass(frozen=True)
class Round:
    """Both servers, loaded in turn: pairs of bursts."""

    original: tuple[Burst, ...]
    facade: tuple[Burst, ...]

    @property
    def by_rate(self) -> float:
        """How many times as many requests a second."""
        return median(ours.rate / theirs.rate for ours, theirs in self.pairs())

    @property
    def by_cpu(self) -> float:
        """How many times as many requests for the same CPU time."""
        return median(theirs.server_us / ours.server_us for ours, theirs in self.pairs())

    def pairs(self) -> list[tuple[Burst, Burst]]:
        """The facade's and the original's, of those that answered anything."""
        both = zip(self.facade, self.original, strict=True)
        return [(ours, theirs) for ours, theirs in both if ours.rate and theirs.rate]


def burst(server: RunningServer, options: list[str]) -> Burst:
    """Load one server for a moment."""
    before = cpu_of_session(server.pid)
    found: dict[str, Any] = load(server.address, *options)
    spent = cpu_of_session(server.pid) - before
    return Burst(found["rps"], spent / max(found["answered"], 1) * 1e6, found["errors"])


def measure(name: str, given: argparse.Namespace) -> list[Round]:
    """All rounds of one class."""
    packets = CLASSES[name] in PACKETS
    options = ["--mode", "datagram" if packets else "short", "--conns", str(given.conns), "--size", str(SIZE)]
    options += ["--seconds", str(given.seconds), "--warm", str(given.warm)]
    rounds = []
    for number in range(given.rounds):
        bursts: dict[str, list[Burst]] = {module: [] for module in MODULES}
        with ExitStack() as stack:
            running = {}
            for module in MODULES[:: -1 if number % 2 else 1]:
                command = [str(HERE / "legacy_server.py"), module, name, *(["files"] if given.files else [])]
                running[module] = stack.enter_context(RunningServer(command, cpu=SERVER_CPU, log=f"legacy-{module}"))
                burst(running[module], options)  # to warm it
            for turn in range(given.bursts):
                for module in MODULES[:: -1 if turn % 2 else 1]:
                    bursts[module].append(burst(running[module], options))
        taken = Round(tuple(bursts["original"]), tuple(bursts["facade"]))
        if taken.pairs():  # else the machine was elsewhere
            rounds.append(taken)
    return rounds


def spread(ratios: list[float]) -> str:
    """Median, least and most."""
    return f"{median(ratios):.2f} [{min(ratios):.2f}..{max(ratios):.2f}]"


def row(name: str, rounds: list[Round]) -> str:
    """One line of the table."""
    cells = (
        name,
        f"{median(each.rate for one in rounds for each in one.original):,.0f}",
        f"{median(each.rate for one in rounds for each in one.facade):,.0f}",
        spread([each.by_rate for each in rounds]),
        spread([each.by_cpu for each in rounds]),
        str(sum(each.errors for one in rounds for each in (*one.original, *one.facade))),
    )
    return f"| {' | '.join(cells)} |"


HEAD = (
    "| class | original, requests/s | facade | facade / original | by CPU | errors |",
    "|---|--:|--:|--:|--:|--:|",
)


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("classes", nargs="*", metavar="class", help=f"of {', '.join(CLASSES)}; default: all")
    parser.add_argument("--files", action="store_true", help="StreamRequestHandler and DatagramRequestHandler")
    parser.add_argument("--conns", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--bursts", type=int, default=10, help="in each round")
    parser.add_argument("--seconds", type=float, default=0.1, help="of each burst")
    parser.add_argument("--warm", type=float, default=0.02, help="seconds before each burst that do not count")
    parser.add_argument("--nice", type=int, default=0, help="below 0: go before everybody else (root only)")
    parser.add_argument("--json", type=Path, default=OUT / "legacy.json", help="where all bursts go")
    given = parser.parse_args()
    given.classes = given.classes or list(CLASSES)
    if unknown := set(given.classes) - set(CLASSES):
        parser.error(f"unknown class {', '.join(sorted(unknown))}; known: {', '.join(CLASSES)}")
    return given


def main() -> None:
    """Run what was asked for."""
    given = arguments()
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
        json.dumps({name: [asdict(each) for each in rounds] for name, rounds in found.items()}, indent=1)
    )
    slower = [name for name, rounds in found.items() if median(each.by_rate for each in rounds) < 1]
    print(f"\nslower than the original: {', '.join(slower) or 'none'}")
    sys.exit(bool(slower))


if __name__ == "__main__":
    main()
