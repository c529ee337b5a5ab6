"""Who is measured, doing what, and what is expected of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import quote

from harness import GENERATOR_CPU, HERE, SERVER_CPU

__all__ = ["CONTENDERS", "GOALS", "WORKLOADS", "Contender", "Goal", "Point", "Workload"]

#: The reference of every table.
REFERENCE = "ss-sync"


@dataclass(frozen=True)
class Contender:
    """One server: a script with its options."""

    name: str
    script: str
    options: tuple[str, ...]
    #: What it replaces: the ratios that matter are those to this one.
    counterpart: str

    def command(self, proto: str, dispatcher: str = "") -> list[str]:
        """Its command line; ``dispatcher`` takes the place of the one in its options."""
        options = ("--dispatcher", dispatcher) if dispatcher else self.options
        return [str(HERE / self.script), *options, "--proto", proto]


def _tricorn(name: str, counterpart: str, dispatcher: str = "") -> Contender:
    return Contender(name, "server.py", ("--dispatcher", dispatcher or name), counterpart)


def _stdlib(kind: str) -> Contender:
    return Contender(f"ss-{kind}", "stdlib_server.py", ("--kind", kind), REFERENCE)


CONTENDERS: dict[str, Contender] = {
    each.name: each
    for each in (
        _stdlib("sync"),
        _stdlib("thread"),
        _stdlib("fork"),
        _tricorn("sync", "ss-sync"),
        _tricorn("thread", "ss-thread"),
        _tricorn("thread-pool", "ss-thread"),
        _tricorn("fork", "ss-fork"),
        _tricorn("process-pool", "ss-fork", "process-pool?workers=2"),
    )
}


@dataclass(frozen=True)
class Point:
    """One column of load: the generator's options."""

    label: str
    options: tuple[str, ...]


def _points(mode: str, conns: Iterable[int]) -> tuple[Point, ...]:
    return tuple(Point(f"C={n}", ("--mode", mode, "--conns", str(n))) for n in conns)


@dataclass(frozen=True)
class Workload:
    """One kind of load, at several strengths."""

    what: str
    proto: str
    points: tuple[Point, ...]
    #: True: one processor for the server, the other for the generator.  False: both for both.
    split: bool = True
    #: Dispatchers in other sizes than elsewhere, by contender.
    instead: dict[str, str] = field(default_factory=dict)
    without: frozenset[str] = frozenset()

    @property
    def cpus(self) -> tuple[int | None, int | None]:
        """Where the server runs, and where the generator."""
        return (SERVER_CPU, GENERATOR_CPU) if self.split else (None, None)

    def contenders(self, names: Iterable[str]) -> list[Contender]:
        """Those of ``names`` that take part."""
        return [CONTENDERS[name] for name in names if name not in self.without]

    def command(self, contender: Contender) -> list[str]:
        """How to start one of them for this load."""
        return contender.command(self.proto, self.instead.get(contender.name, ""))


#: Room for 64 conversations at once.
_WIDE = {
    "thread-pool": "thread-pool?workers=64",
    "fork": "fork?max_children=64",
    "process-pool": f"process-pool?workers=2&inner={quote('thread-pool?workers=32', safe='')}",
}

WORKLOADS: dict[str, Workload] = {
    "tcp-short": Workload("short TCP connections, 64 B", "tcp", _points("short", (1, 16, 64, 256))),
    "tcp-persistent": Workload(
        "persistent TCP connections, 64 B",
        "tcp",
        _points("persistent", (16, 64)),
        instead=_WIDE,
        without=frozenset({"sync", "ss-sync"}),
    ),
    "udp": Workload("UDP echo, 64 B", "udp", _points("datagram", (16, 64))),
    "unix-short": Workload("short Unix stream connections, 64 B", "unix", _points("short", (16, 64))),
    "tcp-short-2cpus": Workload(
        "short TCP connections, 64 B, server and generator on both processors",
        "tcp",
        _points("short", (16, 64)),
        split=False,
    ),
}


@dataclass(frozen=True)
class Goal:
    """A ratio that is to be reached."""

    workload: str
    contender: str
    times: float
    points: tuple[str, ...]


GOALS = (
    Goal("tcp-short", "thread-pool", 2.0, ("C=64",)),
    Goal("tcp-short", "sync", 1.0, ("C=1", "C=16", "C=64", "C=256")),
    Goal("tcp-short", "thread", 1.5, ("C=16", "C=64", "C=256")),
    Goal("tcp-short", "fork", 1.0, ("C=1", "C=16", "C=64", "C=256")),
)
#: Milliseconds that an idle server may take to stop.
DRAIN_GOAL_MS = 10.0
