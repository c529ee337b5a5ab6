"""Many connections through each dispatcher: does anything grow?

    python benchmarks/endurance.py                                         100,000 through each, about ten minutes
    python benchmarks/endurance.py thread thread-pool --connections 20000
    python benchmarks/endurance.py fork --connections fork=5000

The C generator makes short TCP connections on the loopback, 16 at a time.  What the server holds is measured after a
warm-up and at the end: descriptors, threads, processes (children included), and memory.  The exit status is 1 if
descriptors, threads or processes grew, or memory by more than `MAX_GROWTH_KIB`; if a connection failed; or if the
server's own report does not account for every connection.  Memory is judged by the anonymous part of the PSS: the rest
is libraries, whose share depends on who else runs on the machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from harness import HERE, RunningServer, build_generator, end_on_sigterm, load
from procfs import Footprint, footprint_of

CONNECTIONS = 100_000
WARM_UP = 2_000
#: Connections at a time.
CONNS = 16
#: Memory may grow by so much.
MAX_GROWTH_KIB = 1024
#: Seconds after the load until a server holds no more than when it is idle: threads without work end after ten.
SETTLE_S = 30.0
#: Connections for each run of the generator, and seconds after which such a run has failed.
BURST, BURST_LIMIT_S = 20_000, 400

DISPATCHERS = ("sync", "thread", "thread-pool", "fork", "process-pool?workers=2")


@dataclass(frozen=True)
class Run:
    """One dispatcher's test."""

    dispatcher: str
    connections: int
    seconds: float
    answered: int
    before: Footprint
    after: Footprint
    report: dict[str, int]

    def complaints(self) -> list[str]:
        """What is wrong; nothing if all is well."""
        before, after = self.before, self.after
        found = [
            f"{what} grew from {getattr(before, what)} to {getattr(after, what)}"
            for what in ("descriptors", "threads", "processes")
            if getattr(after, what) > getattr(before, what)
        ]
        if after.anonymous > before.anonymous + MAX_GROWTH_KIB:
            found.append(f"memory grew by {after.anonymous - before.anonymous} KiB")
        if self.answered != self.connections:
            found.append(f"{self.connections - self.answered} connections were not answered")
        expected = self.connections + WARM_UP
        if not self.report:
            found.append("it did not end when it was asked to, or somebody stopped it")
        elif (self.report.get("accepted"), self.report.get("completed")) != (expected, expected):
            found.append(f"its report is not of {expected} completed connections: {self.report}")
        return found


def send(address: str, count: int) -> int:
    """So many connections, one after the other in each of `CONNS` slots; how many were answered."""
    answered = 0
    for begun in range(0, count, BURST):
        burst = str(min(BURST, count - begun))
        found = load(
            address, "--mode", "short", "--conns", str(CONNS), "--requests", burst, "--seconds", str(BURST_LIMIT_S),
            cpu=None, limit=BURST_LIMIT_S + 20,
        )  # fmt: skip
        answered += found["answered"]
    return answered


def settled(server: RunningServer, enough: Callable[[Footprint], bool]) -> Footprint:
    """The footprint as soon as it is ``enough``, or after `SETTLE_S` as it is then."""
    limit = time.monotonic() + SETTLE_S
    while True:
        time.sleep(0.5)
        found = footprint_of(server.pid)
        if enough(found) or time.monotonic() > limit:
            return found


def held_before(server: RunningServer) -> Footprint:
    """What the server holds after the warm-up, once the last connection's children are gone."""
    last: list[Footprint] = []

    def steady(found: Footprint) -> bool:
        last.append(found)
        return len(last) > 1 and counts_of(last[-2]) == counts_of(found)

    return settled(server, steady)


def counts_of(found: Footprint) -> tuple[int, int, int]:
    """What may not grow at all."""
    return found.descriptors, found.threads, found.processes


def endure(dispatcher: str, connections: int) -> Run:
    """Test one dispatcher."""
    server = RunningServer(
        [str(HERE / "server.py"), "--dispatcher", dispatcher], cpu=None, log=f"endurance-{dispatcher.partition('?')[0]}"
    )
    with server:
        answered = send(server.address, WARM_UP)
        before = held_before(server)
        began = time.monotonic()
        answered += send(server.address, connections)
        seconds = time.monotonic() - began
        after = settled(server, lambda found: all(map(int.__le__, counts_of(found), counts_of(before))))
    reports = [line.removeprefix("REPORT ") for line in server.lines if line.startswith("REPORT ")]
    report = json.loads(reports[0]) if reports else {}
    return Run(dispatcher, connections, seconds, answered - WARM_UP, before, after, report)


def row(run: Run) -> str:
    """A line of the table."""
    before, after = run.before, run.after
    pairs = [
        f"{getattr(before, what):,} -> {getattr(after, what):,}"
        for what in ("descriptors", "threads", "processes", "rss", "pss", "anonymous")
    ]
    cells = (run.dispatcher, f"{run.connections:,}", f"{run.connections / run.seconds:,.0f}", *pairs)
    return f"| {' | '.join(cells)} |"


HEAD = (
    "| dispatcher | connections | a second | descriptors | threads | processes | RSS KiB | PSS KiB | anonymous |",
    "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
)


def counts(given: list[str]) -> dict[str, int]:
    """``["20000", "fork=5000"]`` to a number for each dispatcher; the key ``""`` is everybody else's."""
    found = {"": CONNECTIONS}
    for text in given:
        name, equals, number = text.rpartition("=")
        if not number.isdecimal() or (equals and not name):
            raise SystemExit(f"--connections takes NUMBER or DISPATCHER=NUMBER, not {text!r}")
        found[name] = int(number)
    return found


def main() -> int:
    """Test the dispatchers that were asked for; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dispatchers", nargs="*", default=DISPATCHERS, help="by name, with options; default: all")
    parser.add_argument("--connections", nargs="+", default=[], metavar="[DISPATCHER=]NUMBER")
    end_on_sigterm()
    given = parser.parse_args()
    number_of = counts(given.connections)
    build_generator()
    print(*HEAD, sep="\n", flush=True)
    wrong = []
    for dispatcher in given.dispatchers:
        run = endure(dispatcher, number_of.get(dispatcher.partition("?")[0], number_of[""]))
        print(row(run), flush=True)
        wrong += [f"{dispatcher}: {complaint}" for complaint in run.complaints()]
    print(*(["", *wrong] if wrong else ["", "nothing grew"]), sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
