"""Ten thousand idle connections: what each costs in memory, and what a busy client sees meanwhile.

    python benchmarks/idle.py                                all servers, about a minute
    python benchmarks/idle.py selector uvloop --idle 1000

Each server gets a busy client alone, then the idle connections, then the busy client again.  Every idle connection has
sent one line and read the answer, so that it has met the handler.  Peers that are not installed are left out.
"""

from __future__ import annotations

import argparse
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contenders import CONTENDERS, missing
from harness import RunningServer, build_generator, end_on_sigterm, load

IDLE = 10_000
#: Tricorn's, by dispatcher; blocking threads can take part with ``park_idle`` alone.
OURS = (
    "selector",
    "selector?then=thread-pool%3Fworkers%3D16",
    "thread-pool?workers=16&park_idle=true",
    "asyncio",
    "asyncio?loop=uvloop",
)
PEERS = ("asyncio", "asyncio-streams", "uvloop", "uvloop-streams", "gevent")
BUSY = ("--mode", "persistent", "--conns", "1", "--size", "64", "--lines", "--seconds", "2", "--warm", "0.2")
HEAD = (
    "| server | KiB for each idle connection | requests/s alone | with the idle ones | p50 us | p99 us | threads |",
    "|---|--:|--:|--:|--:|--:|--:|",
)


def command_of(name: str) -> list[str]:
    """How to start it."""
    if name in PEERS:
        return CONTENDERS[f"{name}-lines"].command("tcp")
    return CONTENDERS["selector"].command("tcp", name)


def installed(name: str) -> bool:
    """Whether this environment has what it needs."""
    contender = (
        CONTENDERS[f"{name}-lines"] if name in PEERS else CONTENDERS["on-uvloop" if "uvloop" in name else "sync"]
    )
    return not missing(contender)


@contextmanager
def idle_connections(address: str, number: int) -> Iterator[None]:
    """Hold so many connections, each of which has had one answer."""
    host, _, port = address.removeprefix("tcp:").rpartition(":")
    held: list[socket.socket] = []
    try:
        for _ in range(number):
            sock = socket.create_connection((host, int(port)), timeout=30)
            held.append(sock)
            sock.sendall(b"hello\n")
            if sock.recv(100) != b"hello\n":
                raise RuntimeError(f"{address} gave a wrong answer")
        yield
    finally:
        for sock in held:
            sock.close()


def status_of(pid: int, key: str) -> int:
    """A number of /proc/PID/status."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    raise KeyError(key)


def row(name: str, idle: int) -> str:
    """Measure one."""
    with RunningServer(command_of(name), log="idle") as server:
        alone = load(server.address, *BUSY)
        before = status_of(server.pid, "VmRSS")
        with idle_connections(server.address, idle):
            time.sleep(0.5)  # let it settle: nothing hangs on this but the figure
            each = (status_of(server.pid, "VmRSS") - before) / idle
            threads = status_of(server.pid, "Threads")
            crowded = load(server.address, *BUSY)
    latency = crowded["latency_us"]
    assert isinstance(latency, dict)
    cells = (
        name, f"{each:.2f}", f"{alone['rps']:,.0f}", f"{crowded['rps']:,.0f}", f"{latency['p50']:.0f}",
        f"{latency['p99']:.0f}", str(threads),
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Run what was asked for."""
    end_on_sigterm()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("servers", nargs="*", default=[*OURS, *PEERS])
    parser.add_argument("--idle", type=int, default=IDLE)
    given = parser.parse_args()
    build_generator()
    print(f"{given.idle} idle connections\n", *HEAD, sep="\n", flush=True)
    for name in given.servers:
        if installed(name):
            print(row(name, given.idle), flush=True)


if __name__ == "__main__":
    main()
