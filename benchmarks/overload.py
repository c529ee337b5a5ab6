"""Ten times as many clients as there is room for: what those inside see of it, for each policy.

    python benchmarks/overload.py                                    all, some minutes
    python benchmarks/overload.py selector 'thread-pool?workers=64' --policies reject --seconds 2

Each server has room for 64 connections, and 64 clients have them, each with one request of 64 bytes after the other.
First those are alone; then 640 more come, each of which connects, asks, and tries again a second after it was turned
away, or answered.  Latencies are those of the 64.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from harness import GENERATOR_CPU, HERE, RunningServer, build_generator, end_on_sigterm, load

PLACES = 64
OUTSIDE = 10 * PLACES
DISPATCHERS = (
    "thread-pool?workers=64",
    "thread?limit=64",
    "fork?max_children=64",
    "process-pool?workers=2&inner=thread-pool%3Fworkers%3D32",
    "selector",
    "asyncio",
)
POLICIES = ("wait", "reject", "drop", "shed-oldest")
#: Seconds before the generator begins to measure; after a quarter of them the others come.
WARM_S = 4.0
#: Seconds between two tries of one client.
AGAIN_S = 1.0
HEAD = (
    "| server | when full | p50 us alone | p99 us | p50 us at 10 x | p99 us | times | refused/s | let in/s |",
    "|---|---|--:|--:|--:|--:|--:|--:|--:|",
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
    """On the generator's processor, and after it: what the crowd does to itself is not what is measured."""
    os.nice(10)
    if GENERATOR_CPU in os.sched_getaffinity(0):
        os.sched_setaffinity(0, {GENERATOR_CPU})
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


def inside(address: str, seconds: float, besides: Callable[[], object] = lambda: None) -> Any:
    """What the generator found with a connection for each place; ``besides`` is called once it has taken them all."""
    options = ("--mode", "persistent", "--conns", str(PLACES), "--size", "64", "--lines")
    with ThreadPoolExecutor(1) as runner:
        found = runner.submit(load, address, *options, "--warm", str(WARM_S), "--seconds", str(seconds))
        time.sleep(WARM_S / 4)
        besides()
        return found.result()["latency_us"]


def row(name: str, policy: str, seconds: float) -> str:
    """Measure one."""
    command = [str(HERE / "server.py"), "--dispatcher", name, "--handler", "lines"]
    places = PLACES // 2 if name.startswith("process-pool") else PLACES
    with RunningServer([*command, "--places", str(places), "--when-full", policy], log="overload") as server:
        alone = inside(server.address, seconds)
    with (
        RunningServer([*command, "--places", str(places), "--when-full", policy], log="overload") as server,
        ExitStack() as later,
    ):
        began = time.monotonic()
        crowds: list[Any] = []
        loaded = inside(server.address, seconds, lambda: crowds.append(later.enter_context(crowd(server.address))))
        tries = crowds[0]()
        spent = time.monotonic() - began - WARM_S / 4
    cells = (
        name, policy, f"{alone['p50']:.0f}", f"{alone['p99']:.0f}", f"{loaded['p50']:.0f}", f"{loaded['p99']:.0f}",
        f"{loaded['p99'] / alone['p99']:.2f}",
        f"{tries['away'] / spent:.0f}", f"{tries['in'] / spent:.0f}",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Run what was asked for."""
    end_on_sigterm()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dispatchers", nargs="*", default=DISPATCHERS)
    parser.add_argument("--policies", nargs="*", choices=POLICIES, default=POLICIES)
    parser.add_argument("--seconds", type=float, default=2.0)
    given = parser.parse_args()
    build_generator()
    print(f"room for {PLACES}, {OUTSIDE} more come\n", *HEAD, sep="\n", flush=True)
    for name in given.dispatchers:
        for policy in given.policies:
            print(row(name, policy, given.seconds), flush=True)


if __name__ == "__main__":
    main()
