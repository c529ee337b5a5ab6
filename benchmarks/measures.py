"""What is measured without the generator: how a server starts and stops, and what an idle connection costs.

Of all of these, less is better.  Each is a function of a server's name that gives a number, or ``None`` where the
server cannot be measured; `run.py` calls it in rounds.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import startup
from contenders import CONTENDERS
from harness import HERE, OUT, RunningServer, environment, pinned
from idle import idle_connections, status_of

__all__ = ["MEASURES", "Measure"]

#: Idle connections of `memory`.
IDLE = 5_000
#: What the operating system may need to settle after the last connection.
SETTLE_S = 0.3


@dataclass(frozen=True)
class Measure:
    """One kind of measurement."""

    what: str
    unit: str
    names: tuple[str, ...]
    reference: str
    #: By point: a server's name to a value.
    points: dict[str, Callable[[str], float | None]]
    #: More rounds than this say no more.
    most_rounds: int = 1_000


def _kib_for_each(name: str) -> float:
    """Resident memory for each idle connection, that has had one answer."""
    with RunningServer(CONTENDERS[name].command("tcp", _ROOMY.get(name, "")), log=f"{name}-memory") as server:
        with idle_connections(server.address, 100):
            time.sleep(SETTLE_S)  # the first ones pay for what all share
        before = status_of(server.pid, "VmRSS")
        with idle_connections(server.address, IDLE):
            time.sleep(SETTLE_S)
            return max(status_of(server.pid, "VmRSS") - before, 1) / IDLE


def _drain_ms(idle: float, repetitions: int) -> Callable[[str], float | None]:
    """From the call of ``drain()`` to its return, so long after the last client; the next repetition each time."""

    @cache
    def drains(name: str) -> list[float]:
        dispatcher = name if name.startswith("ss-") else CONTENDERS[name].options[1]
        options = ("--repetitions", str(repetitions), "--idle", str(idle))
        with open(OUT / "drain.err", "ab") as log:
            done = subprocess.run(
                [sys.executable, str(HERE / "drain.py"), dispatcher, *options],
                stdout=subprocess.PIPE,
                stderr=log,
                check=True,
                timeout=120,
                start_new_session=True,
                preexec_fn=pinned(None),
                env=environment(),
            )
        found: list[float] = json.loads(done.stdout)
        return found

    def drain_ms(name: str) -> float | None:
        left = drains(name)
        return left.pop() * 1e3 if left else None

    return drain_ms


#: Repetitions of a drain, one in each round: of servers that have been idle, and of those that have just had a client.
IDLE_DRAINS, DRAINS = 5, 20
#: Dispatchers with a thread for each connection, in the size that takes part in `memory`.
_ROOMY = {"thread": f"thread?limit={IDLE + 200}"}
_STARTED = tuple(startup.PROGRAMS)

MEASURES: dict[str, Measure] = {
    "start": Measure(
        "what the imports of a TCP server take, and from the start of its process to the first byte back",
        "ms",
        _STARTED,
        "asyncio",
        {"import": startup.import_ms, "first byte": startup.first_byte_ms},
    ),
    "memory": Measure(
        f"resident memory for each of {IDLE:,} idle TCP connections",
        "KiB",
        (
            "selector", "pool-parked", "on-asyncio", "on-uvloop", "thread", "ss-thread", "asyncio-lines",
            "asyncio-streams-lines", "uvloop-lines", "uvloop-streams-lines", "gevent-lines", "twisted-lines", "trio",
            "anyio", "c-epoll",
        ),
        "asyncio-lines",
        {"idle": _kib_for_each},
        most_rounds=3,
    ),
    "drain": Measure(
        "from the call of drain() (ss-...: shutdown()) to its return, a second after the last client or right after",
        "ms",
        ("ss-sync", "ss-thread", "ss-fork", "sync", "thread", "thread-pool", "fork", "process-pool"),
        "ss-sync",
        {"idle": _drain_ms(1.1, IDLE_DRAINS), "after a client": _drain_ms(0.05, DRAINS)},
        most_rounds=DRAINS,
    ),
}  # fmt: skip
