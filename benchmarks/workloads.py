"""What is done to whom: the loads, their strengths, and who takes part."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import quote

from contenders import CONTENDERS, Contender
from harness import GENERATOR_CPU, SERVER_CPU

__all__ = ["WORKLOADS", "Point", "Workload"]


@dataclass(frozen=True)
class Point:
    """One column of load: the generator's options."""

    label: str
    options: tuple[str, ...]
    conns: int = 1

    @property
    def warm(self) -> float:
        """Seconds until so many connections may be expected to be there."""
        return min(0.05 + self.conns / 800, 1.0)


def _points(mode: str, conns: Iterable[int], prefix: str = "", *options: str) -> tuple[Point, ...]:
    return tuple(Point(f"{prefix}C={n}", ("--mode", mode, "--conns", str(n), *options), n) for n in conns)


@dataclass(frozen=True)
class Workload:
    """One kind of load, at several strengths."""

    what: str
    proto: str
    points: tuple[Point, ...]
    names: tuple[str, ...]
    #: What every table compares with.
    reference: str
    #: True: one processor for the server, the other for the generator.  False: both for both.
    split: bool = True
    #: True if every request is a line.
    lines: bool = False
    unit: str = "requests/s"
    #: For every server.
    options: tuple[str, ...] = ()
    #: Dispatchers in other sizes than elsewhere, by contender.
    instead: dict[str, str] = field(default_factory=dict)
    #: The most connections that a contender is given, where that is not any number.
    most: dict[str, int] = field(default_factory=dict)

    @property
    def cpus(self) -> tuple[int | None, int | None]:
        """Where the server runs, and where the generator."""
        return (SERVER_CPU, GENERATOR_CPU) if self.split else (None, None)

    def contenders(self, names: Iterable[str]) -> list[Contender]:
        """Those of ``names`` that take part."""
        wanted = set(names)
        return [CONTENDERS[name] for name in self.names if name in wanted]

    def command(self, contender: Contender) -> list[str]:
        """How to start one of them for this load."""
        return contender.command(self.proto, self.instead.get(contender.name, ""), self.options)

    def load(self, contender: Contender, point: Point) -> list[str]:
        """The generator's options."""
        return [*point.options, *["--lines"] * (self.lines or contender.lines)]

    def takes(self, contender: Contender, point: Point) -> bool:
        """Whether it has room for so many."""
        return point.conns <= self.most.get(contender.name, point.conns)


#: One connection after the other: no place where connections last.
_ONE_BY_ONE = ("ss-sync", "sync")
_THREADS = ("ss-thread", "thread", "thread-pool")
_FORKS = ("ss-fork", "fork", "process-pool")
_LOOPS = ("asyncio", "asyncio-streams", "uvloop", "uvloop-streams", "gevent", "twisted", "trio", "anyio")
_PACKETS = (*_ONE_BY_ONE, "sync-batch", *_THREADS, *_FORKS, "selector", "asyncio", "gevent", "trio")
_SLEEPERS = ("asyncio-streams", "uvloop-streams", "uvloop", "gevent", "trio", "anyio", "twisted")

#: Room for 64 conversations at once, and where threads cost little, for all.
_WIDE = {
    "thread": "thread?limit=2048",
    "thread-pool": "thread-pool?workers=64",
    "fork": "fork?max_children=64",
    "process-pool": f"process-pool?workers=2&inner={quote('thread-pool?workers=32', safe='')}",
}
_AS_WIDE = {"thread-pool": 64, "fork": 64, "process-pool": 64, "ss-fork": 64}

_TCP: dict[str, Workload] = {
    "tcp-short": Workload(
        "short TCP connections, 64 B",
        "tcp",
        _points("short", (16, 64, 256)),
        (*_ONE_BY_ONE, *_THREADS, "ss-thread-5", *_FORKS, "selector", "uvloop-lines", *_LOOPS, "c-blocking", "c-epoll"),
        "ss-thread",
    ),
    "tcp-persistent": Workload(
        "lines of 64 B on persistent TCP connections",
        "tcp",
        _points("persistent", (16, 64, 512, 2000)),
        (
            *_THREADS, *_FORKS, "selector", "selector-pool", "pool-parked", "on-asyncio", "on-uvloop", "asyncio-lines",
            "asyncio-streams-lines", "uvloop-lines", "uvloop-streams-lines", "gevent-lines", "twisted-lines", "trio",
            "anyio", "c-epoll",
        ),
        "ss-thread",
        lines=True,
        instead=_WIDE,
        most=_AS_WIDE,
    ),
    "tcp-once": Workload(
        "short TCP connections that the server closes after one reply of 64 B",
        "tcp",
        _points("short", (16, 64), "", "--once"),
        (*_ONE_BY_ONE, *_THREADS, "c-once"),
        "ss-thread",
        options=("--once",),
    ),
    "tcp-short-2cpus": Workload(
        "short TCP connections, 64 B, server and generator on both processors",
        "tcp",
        _points("short", (16, 64)),
        (*_ONE_BY_ONE, *_THREADS, *_FORKS, "uvloop", "c-epoll"),
        "ss-thread",
        split=False,
    ),
    "cpu": Workload(
        "handlers that compute for a millisecond, short TCP connections, on both processors",
        "tcp",
        _points("short", (16,)),
        (*_ONE_BY_ONE, *_THREADS, *_FORKS, *_LOOPS),
        "ss-thread",
        split=False,
        options=("--work", "cpu"),
    ),
    "sleep": Workload(
        "handlers that wait for ten milliseconds, 500 connections, short ones and persistent ones",
        "tcp",
        _points("short", (500,), "short ") + _points("persistent", (500,), "persistent "),
        (*_THREADS, *_SLEEPERS),
        "ss-thread",
        options=("--work", "sleep"),
        instead={"thread": "thread?limit=512", "thread-pool": "thread-pool?workers=512"},
    ),
    "bulk": Workload(
        "one TCP connection, an echo read 64 KiB at a time",
        "tcp",
        (Point("1 connection", ("--mode", "bulk")),),
        (*_ONE_BY_ONE, *_THREADS, "selector-chunks", *_LOOPS, "c-blocking", "c-epoll"),
        "ss-thread",
        unit="MiB/s",
        options=("--bufsize", "65536"),
    ),
}  # fmt: skip

WORKLOADS: dict[str, Workload] = {
    **_TCP,
    "unix-short": Workload(
        "short Unix stream connections, 64 B",
        "unix",
        _points("short", (16, 64)),
        (*_ONE_BY_ONE, *_THREADS, *_FORKS, "selector", "uvloop-lines", *_LOOPS, "c-blocking", "c-epoll"),
        "ss-thread",
    ),
    "udp": Workload(
        "UDP echo, 64 B",
        "udp",
        _points("datagram", (16, 64)),
        (*_PACKETS, "uvloop", "twisted", "anyio", "c-blocking", "c-batch"),
        "ss-sync",
    ),
    "unixgram": Workload(
        "Unix datagram echo, 64 B",
        "unixgram",
        _points("datagram", (16, 64)),
        (*_PACKETS, "c-blocking", "c-batch"),
        "ss-sync",
    ),
    "http": Workload(
        "GET of 13 B, a connection for each, then on connections that are kept",
        "tcp",
        _points("http", (16,), "close ") + _points("http", (16,), "keep-alive ", "--keepalive"),
        (
            "http-thread", "http-thread-pool", "wsgi-thread", "wsgi-thread-pool", "wsgi-facade", "http.server",
            "wsgiref", "waitress", "cheroot", "gunicorn-gthread", "gunicorn-sync", "c-http",
        ),
        "http.server",
    ),
}  # fmt: skip
