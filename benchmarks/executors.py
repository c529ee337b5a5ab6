"""What one hop to an executor costs: a line echoed, and one that computes, in the loop itself and elsewhere.

    python benchmarks/executors.py                       the table
    python benchmarks/executors.py selector dask

For each dispatcher: the median time of one exchange by a single client, the exchanges a second of 32 clients, and the
same for a function that computes for about 5 ms.  Clients, server and workers share the machine, so the figures are
for comparing with each other.  Loopback, one line each way.  ``dask`` starts a scheduler and two workers of its own.
"""

from __future__ import annotations

import argparse
import atexit
import importlib.util
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from time import monotonic, perf_counter

from tricorn import Server
from tricorn.handlers import Lines, message
from tricorn.transports import TCP

CLIENTS = 32
SECONDS = 2.0
DISPATCHERS = (
    "selector",
    "thread-pool?workers=40",
    "process-pool?workers=2&inner=thread-pool",
    "executor?kind=thread",
    "executor?kind=process",
    "executor?kind=loky",
    "dask",
)


@message(Lines())
def answer(line: bytes) -> bytes:
    """Echo; with a number, count so far first."""
    if line.isdigit():
        total = 0
        for each in range(int(line)):
            total += each
    return line


def exchange(client: socket.socket, line: bytes) -> float:
    began = perf_counter()
    client.sendall(line)
    while not client.recv(4096).endswith(b"\n"):
        pass
    return perf_counter() - began


def latency(address: object, line: bytes) -> float:
    with socket.create_connection(address) as client:  # type: ignore[arg-type]
        for _ in range(20):
            exchange(client, line)
        limit, taken = monotonic() + SECONDS, []
        while monotonic() < limit:
            taken.append(exchange(client, line))
    return median(taken)


def rate(address: object, line: bytes) -> float:
    counts = [0] * CLIENTS
    limit = monotonic() + SECONDS

    def talk(number: int) -> None:
        with socket.create_connection(address) as client:  # type: ignore[arg-type]
            while monotonic() < limit:
                exchange(client, line)
                counts[number] += 1

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / SECONDS


@contextmanager
def cluster() -> Iterator[str]:
    """The address of a scheduler with two workers of one thread each."""
    options = ("--host", "127.0.0.1", "--no-dashboard")
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", *options]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True)]
    try:
        assert processes[0].stderr is not None
        found = next(filter(None, (re.search(r"Scheduler at:\s+(\S+)", line) for line in processes[0].stderr)))
        worker = [
            sys.executable,
            "-m",
            "distributed.cli.dask_worker",
            found[1],
            "--no-nanny",
            "--nthreads",
            "1",
            *options,
        ]
        processes += [subprocess.Popen(worker, stderr=subprocess.DEVNULL) for _ in range(2)]
        yield found[1]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure(name: str, line: bytes) -> None:
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if not child:  # the server in a process of its own, so that the clients' threads are not in its way
        with Server(TCP("127.0.0.1", 0), name, answer) as server:
            server.start()
            os.write(ready[1], str(server.addresses[0][1]).encode())  # type: ignore[index]
            os.read(done[0], 1)
        atexit._run_exitfuncs()
        os._exit(0)
    address = ("127.0.0.1", int(os.read(ready[0], 20)))
    one, all_ = latency(address, line), rate(address, line)
    os.write(done[1], b".")
    os.waitpid(child, 0)
    for end in (*ready, *done):
        os.close(end)
    shown = re.sub("address=.*", "", name).rstrip("?")
    print(f"{shown:40} {line.decode().strip():>8}  {1e6 * one:9.0f} us  {all_:9.0f}/s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dispatchers", nargs="*", default=DISPATCHERS)
    print(f"{'dispatcher':40} {'line':>8}  {'one exchange':>12}  {f'{CLIENTS} clients':>11}")
    for name in parser.parse_args().dispatchers:
        if (name == "dask" and not importlib.util.find_spec("distributed")) or (
            "loky" in name and not importlib.util.find_spec("loky")
        ):
            print(f"{name:40} not installed")
            continue
        for line in (b"echo\n", b"150000\n"):
            if name == "dask":
                with cluster() as address:
                    measure(f"dask?address={address}", line)
            else:
                measure(name, line)


if __name__ == "__main__":
    main()
