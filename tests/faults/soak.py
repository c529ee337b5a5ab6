"""A soak: a mixed load on real servers, with faults throughout, for as long as it is told.

    python tests/faults/soak.py --seconds 600
    python tests/faults/soak.py --seconds 60 --on pool,procs+threads --seed 7

Every request carries a number of its own, and is accounted for: answered rightly, refused at the door, or lost.  LOST
is a request that was sent whole on a connection that the kernel had completed, and got no answer, though no process of
ours was killed meanwhile; those are ``collateral``.  Workers are killed, descriptors taken away for a second, clients
come in bursts and reset their connections in the middle, SIGHUP and SIGTERM come under load, and after the latter the
server is started again on the same port.  The exit status is 1 where something was lost, wrong, or left behind.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import struct
import sys
import threading
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from time import monotonic

sys.path.insert(0, str(Path(__file__).parent))

from scenario import DISPATCHERS  # noqa: E402
from subject import Failure, Subject, read_line  # noqa: E402

CLIENTS = 4
#: Seconds after a kill in which what has no answer may have been with the killed.
KILL_WINDOW_S = 1.0
LIMITS = '{"first_byte": 10, "idle": 10, "read": 10, "write": 10}'


class Place:
    """One dispatcher's server, again and again on one port, with its clients and its faults."""

    def __init__(self, name: str, seed: int, over: threading.Event) -> None:
        self.name, self.over, self.rng = name, over, random.Random(f"{seed}{name}")
        self.counts: Counter[str] = Counter()
        self.killed_at = float("-inf")
        self.growth = 0
        self.recovery_s = 0.0
        self.problems: list[str] = []
        self.server = Subject(DISPATCHERS[name], "tcp://127.0.0.1:0", "--deadlines", LIMITS)
        self.address = self.server.address
        self._begun()
        self.threads = [threading.Thread(target=self._client, args=(n, seed)) for n in range(CLIENTS)]
        self.threads.append(threading.Thread(target=self._faults))

    def _begun(self) -> None:
        self.server.expect()
        self.baseline = self.server.memory()
        self.kills = 0

    # -- clients

    def _client(self, number: int, seed: int) -> None:
        rng = random.Random(f"{seed}{self.name}{number}")
        kinds = [self._short] * 6 + [self._talk, self._pipeline, self._slow, self._half, self._reset, self._raise]
        serial = 0
        while not self.over.is_set():
            serial += 1
            try:
                with socket.create_connection(self.address, timeout=20) as client:
                    rng.choice(kinds)(client, b"%d.%d" % (number, serial))
            except ConnectionRefusedError:
                self.counts["refused"] += 1
                self.over.wait(0.02)
            except OSError as error:
                self.counts[f"not connected: {type(error).__name__}"] += 1

    def _exchange(self, client: socket.socket, words: bytes, *, first: bool = True) -> bool:
        self.counts["sent"] += 1
        began = monotonic()
        try:
            client.sendall(words + b"\n")
            return self._judge(read_line(client), words, began, first=first)
        except OSError:
            return self._judge(b"", words, began, first=first)

    def _judge(self, answer: bytes, words: bytes, began: float, *, first: bool) -> bool:
        if answer == words:
            self.counts["answered"] += 1
            return True
        if answer:
            self.counts["WRONG"] += 1
            self.problems.append(f"{words!r} was answered by {answer!r}")
        elif self.killed_at > began - KILL_WINDOW_S:
            self.counts["collateral"] += 1
        elif not first:
            self.counts["closed between two"] += 1  # the server stopped while nothing was under way
        else:
            self.counts["LOST"] += 1
            self.problems.append(f"{words!r} got no answer within {monotonic() - began:.2f} s, at {monotonic():.2f}")
        return False

    def _short(self, client: socket.socket, words: bytes) -> None:
        self._exchange(client, words)

    def _talk(self, client: socket.socket, words: bytes) -> None:
        for turn in range(15):
            if not self._exchange(client, b"%s.%d" % (words, turn), first=not turn):
                return

    def _pipeline(self, client: socket.socket, words: bytes) -> None:
        if not self._exchange(client, words):
            return
        lines = [b"%s.%d" % (words, turn) for turn in range(10)]
        with suppress(OSError), client.makefile("rb") as file:
            client.sendall(b"".join(line + b"\n" for line in lines))
            for line in lines:
                self.counts["sent"] += 1
                self._judge(file.readline().rstrip(), line, monotonic(), first=False)

    def _slow(self, client: socket.socket, words: bytes) -> None:
        for byte in words[:-1]:
            client.sendall(bytes([byte]))
        self.counts["sent"] += 1
        began = monotonic()
        try:
            client.sendall(words[-1:] + b"\n")
            self._judge(read_line(client), words, began, first=False)
        except OSError:
            self._judge(b"", words, began, first=False)

    def _half(self, client: socket.socket, words: bytes) -> None:
        self.counts["sent"] += 1
        began = monotonic()
        client.sendall(words + b"\n")
        client.shutdown(socket.SHUT_WR)
        self._judge(read_line(client), words, began, first=True)

    def _reset(self, client: socket.socket, words: bytes) -> None:
        client.sendall(words)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.counts["resets"] += 1

    def _raise(self, client: socket.socket, words: bytes) -> None:
        with suppress(OSError):
            client.sendall(b"raise\n")
            if read_line(client):
                self.counts["WRONG"] += 1
        self.counts["raised"] += 1

    # -- faults

    def _faults(self) -> None:
        kinds = [self._kill, self._kill, self._starve, self._hang_up, self._burst]
        turn = 0
        while not self.over.wait(self.rng.uniform(1.0, 4.0)):
            turn += 1
            try:
                (self._restart if turn % 12 == 0 else self.rng.choice(kinds))()
            except (Failure, OSError) as error:
                self.problems.append(f"{type(error).__name__}: {error}")

    def _kill(self) -> None:
        children = self.server.children()
        if children:
            self.killed_at = monotonic()
            with suppress(ProcessLookupError):
                os.kill(self.rng.choice(children), signal.SIGKILL)
            self.counts["kills"] += 1
            self.kills += 1
            self.over.wait(KILL_WINDOW_S)
            self.killed_at = monotonic()

    def _starve(self) -> None:
        self.counts["starved"] += 1
        if "procs" in self.name or self.name == "fork":
            self.killed_at = float("inf")  # a child that has no descriptor fails, and with it what it had
        self.server.limit_descriptors(0)
        self.over.wait(1.0)
        self.server.limit_descriptors(None)
        began = monotonic()
        self.server.expect(timeout=10.0)
        self.recovery_s = max(self.recovery_s, monotonic() - began)
        self.killed_at = monotonic() if self.killed_at == float("inf") else self.killed_at

    def _hang_up(self) -> None:
        self.counts["reloads"] += 1
        self.server.signal(signal.SIGHUP)

    def _burst(self) -> None:
        self.counts["bursts"] += 1
        with ExitStack() as stack:
            for _ in range(60):
                stack.enter_context(self.server.call())

    def _restart(self) -> None:
        self.counts["restarts"] += 1
        self._end()
        host, port = self.address[:2]
        self.server = Subject(DISPATCHERS[self.name], f"tcp://{host}:{port}", "--deadlines", LIMITS)
        self._begun()

    def _end(self) -> None:
        """SIGTERM under load, and what is left."""
        self.growth = max(self.growth, self.server.memory() - self.baseline)
        zombies = set(self.server.zombies())  # a child may just have ended
        self.server.expect()
        self.over.wait(0.0 if self.over.is_set() else 1.0)
        if zombies & set(self.server.zombies()):
            self.problems.append("zombies")
        family = self.server.pids()
        self.server.signal(signal.SIGTERM)
        status = self.server.wait()
        if status and not self.kills:
            self.problems.append(f"exit status {status}: {self.server.hear('report')}")
        left = [pid for pid in family if os.path.exists(f"/proc/{pid}/fd/0")]
        if left:
            self.problems.append(f"left behind: {left}")
        self.server.end()

    def close(self) -> None:
        """Join the threads, and end the server."""
        for thread in self.threads:
            thread.join(60)
        self._end()

    def row(self) -> str:
        """For the table."""
        shown = ("sent", "answered", "refused", "collateral", "closed between two", "LOST", "WRONG")
        faults = ("kills", "starved", "reloads", "bursts", "restarts", "resets", "raised")
        cells = [str(self.counts[each]) for each in (*shown, *faults)]
        return " | ".join([self.name, *cells, f"{self.growth / 1e6:.1f}", f"{self.recovery_s:.2f}"])


HEAD = (
    "dispatcher | sent | answered | refused | collateral | closed between two | LOST | WRONG | kills | starved"
    " | reloads | bursts | restarts | resets | raised | grown, MB | recovery, s"
)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--on", default="thread,pool,parked,fork,procs,procs+threads,selector,selector+pool,asyncio")
    parser.add_argument("--seed", type=int, default=random.randrange(1000))
    given = parser.parse_args()
    over, began = threading.Event(), monotonic()
    print(f"seed {given.seed}", flush=True)
    places = [Place(name, given.seed, over) for name in given.on.split(",")]
    try:
        for place in places:
            for thread in place.threads:
                thread.start()
        while monotonic() - began < given.seconds:
            over.wait(min(30.0, given.seconds))
            totals = sum((place.counts for place in places), Counter())
            shown = {key: totals[key] for key in ("answered", "LOST", "WRONG")}
            print(f"{monotonic() - began:6.0f} s", shown, flush=True)
    finally:
        over.set()
        for place in places:
            place.close()
    print(f"| {HEAD} |\n|{' --- |' * (HEAD.count('|') + 1)}")
    for place in places:
        print(f"| {place.row()} |")
    problems = [f"{place.name}: {each}" for place in places for each in place.problems]
    print("\n".join(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
