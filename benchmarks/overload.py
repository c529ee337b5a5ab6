"""Ten times as many clients as there is room for: what those inside see of it, for each policy.

    python benchmarks/overload.py                                    all, some minutes
    python benchmarks/overload.py selector 'thread-pool?workers=64' --policies reject --seconds 2

Each server has room for 64 connections, and it is full: a busy client has two of them, the rest were opened and keep
silent.  First the busy client is alone with those; then 640 others come, each of which connects, asks, and tries again a
second after it was turned away, or answered.  Figures are the busy client's: 64-byte lines, one after the other.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import random
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from harness import HERE, RunningServer, build_generator, end_on_sigterm, load
from procfs import cpu_of_session

PLACES = 64
OUTSIDE = 10 * PLACES
BUSY = 2
DISPATCHERS = (
    "thread-pool?workers=64",
    "thread?limit=64",
    "fork?max_children=64",
    "process-pool?workers=2&inner=thread-pool%3Fworkers%3D32",
    "selector",
    "asyncio",
)
POLICIES = ("wait", "reject", "drop", "shed-oldest")
#: Seconds between two tries of one client.
AGAIN_S = 1.0
HEAD = (
    "| server | when full | p50 us alone | p99 us alone | p50 us at 10 x | p99 us at 10 x | times | server CPU % "
    "| turned away/s | let in/s |",
    "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
)


async def _try_for_ever(host: str, port: int, tally: Counter[str]) -> None:
    await asyncio.sleep(random.random() * AGAIN_S)
    while True:
        writer = None
        try:
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"hello\n")
            tally["in" if await reader.readline() == b"hello\n" else "away"] += 1
        except OSError:
            tally["away"] += 1
        finally:
            if writer is not None:
                writer.close()
        await asyncio.sleep(AGAIN_S)


async def _crowd(host: str, port: int, number: int, pipe: Any) -> None:
    tally: Counter[str] = Counter()
    tasks = [asyncio.create_task(_try_for_ever(host, port, tally)) for _ in range(number)]
    while True:
        await asyncio.to_thread(pipe.recv)
        pipe.send(dict(tally))
        assert tasks


def _crowd_process(host: str, port: int, number: int, pipe: Any) -> None:
    with suppress(EOFError, KeyboardInterrupt, RuntimeError):
        asyncio.run(_crowd(host, port, number, pipe))


def split(address: str) -> tuple[str, int]:
    """Host and port of ``tcp:host:port``."""
    host, _, port = address.removeprefix("tcp:").rpartition(":")
    return host, int(port)


@contextmanager
def crowd(address: str) -> Iterator[Any]:
    """So many clients in a process of their own; gives a function that tells what became of their tries so far."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=_crowd_process, args=(*split(address), OUTSIDE, theirs), daemon=True)
    process.start()

    def told() -> Counter[str]:
        ours.send(None)
        return Counter(ours.recv())

    try:
        yield told
    finally:
        process.kill()
        process.join()


@contextmanager
def filled(address: str) -> Iterator[None]:
    """All places but the busy client's taken, by connections that have had one answer."""
    held: list[socket.socket] = []
    try:
        for _ in range(PLACES - BUSY):
            sock = socket.create_connection(split(address), timeout=30)
            held.append(sock)
            sock.sendall(b"hello\n")
            if sock.recv(100) != b"hello\n":
                raise RuntimeError(f"{address} was full too early")
        yield
    finally:
        for sock in held:
            sock.close()


def row(name: str, policy: str, seconds: float) -> str:
    """Measure one."""
    busy = ("--mode", "persistent", "--conns", str(BUSY), "--size", "64", "--lines", "--warm", "1")
    command = [str(HERE / "server.py"), "--dispatcher", name, "--handler", "lines"]
    places = PLACES // 2 if name.startswith("process-pool") else PLACES
    with RunningServer([*command, "--places", str(places), "--when-full", policy], log="overload") as server:
        with filled(server.address):
            alone: Any = load(server.address, *busy, "--seconds", str(seconds))
        with filled(server.address), crowd(server.address) as told:
            before, cpu, began = told(), cpu_of_session(server.pid), time.monotonic()
            loaded: Any = load(server.address, *busy, "--seconds", str(seconds))
            spent = time.monotonic() - began
            share = 100 * (cpu_of_session(server.pid) - cpu) / spent
            tries = told() - before
    one, ten = alone["latency_us"], loaded["latency_us"]
    cells = (
        name, policy, f"{one['p50']:.0f}", f"{one['p99']:.0f}", f"{ten['p50']:.0f}", f"{ten['p99']:.0f}",
        f"{ten['p99'] / one['p99']:.2f}", f"{share:.0f}", f"{tries['away'] / spent:.0f}", f"{tries['in'] / spent:.0f}",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Run what was asked for."""
    end_on_sigterm()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dispatchers", nargs="*", default=DISPATCHERS)
    parser.add_argument("--policies", nargs="*", choices=POLICIES, default=POLICIES)
    parser.add_argument("--seconds", type=float, default=4.0)
    given = parser.parse_args()
    build_generator()
    print(f"room for {PLACES}, {OUTSIDE} more come\n", *HEAD, sep="\n", flush=True)
    for name in given.dispatchers:
        for policy in given.policies:
            print(row(name, policy, given.seconds), flush=True)


if __name__ == "__main__":
    main()
