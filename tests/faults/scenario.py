"""What a scenario is, and under which dispatchers it makes sense."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

__all__ = ["DISPATCHERS", "ELSEWHERE", "SCENARIOS", "Scenario", "scenario"]

#: By the name that tables show.  Those of loops hold many; the others hold at least eight, but for `sync`.
DISPATCHERS: dict[str, str] = {
    "sync": "sync",
    "thread": "thread?limit=64",
    "pool": "thread-pool?workers=16",
    "parked": "thread-pool?workers=8&park_idle=true",
    "fork": "fork?max_children=40",
    "procs": "process-pool?workers=2",
    "procs+threads": "process-pool?workers=2&inner=thread-pool?workers=16",
    "selector": "selector",
    "selector+pool": "selector?then=thread-pool?workers=16",
    "asyncio": "asyncio",
}
#: One request holds up those behind it.
ONE_AT_A_TIME = frozenset({"sync", "procs"})
#: A handler that blocks holds up all.
IN_THE_LOOP = frozenset({"selector", "asyncio"})
THREADS = frozenset({"thread", "pool", "parked", "selector+pool"})
PROCESSES = frozenset({"fork", "procs", "procs+threads"})
POOLS = frozenset({"procs", "procs+threads"})


@dataclass(frozen=True)
class Scenario:
    """``run`` gets the dispatcher as text, starts the server itself, and raises where the criterion is not met."""

    number: int
    title: str
    run: Callable[[str], None]
    #: Short names of the dispatchers that it is for.
    on: frozenset[str]
    #: Why not, for the others.
    reason: str
    quick: bool
    slow_s: float = field(default=30.0)

    @property
    def name(self) -> str:
        """For tables and command lines."""
        return self.run.__name__


SCENARIOS: list[Scenario] = []


def scenario(
    number: int, title: str, *, on: frozenset[str] | None = None, but: frozenset[str] = frozenset(), why: str = "",
    quick: bool = False,
) -> Callable[[Callable[[str], None]], Callable[[str], None]]:  # fmt: skip
    """Enter a function into the catalogue: for all dispatchers, or ``on`` some, or all ``but`` some, and ``why``."""

    def enter(run: Callable[[str], None]) -> Callable[[str], None]:
        names = (frozenset(DISPATCHERS) if on is None else on) - but
        SCENARIOS.append(Scenario(number, title, run, names, why, quick))
        return run

    return enter


#: Entries of the catalogue that have tests of their own elsewhere: file and function.
ELSEWHERE: Mapping[int, str] = {
    2: "tests/server/test_descriptors.py::test_waiting",
    9: "tests/strategies/test_process_pool.py::test_death",
    16: "tests/strategies/test_process_pool_care.py::test_workers_that_never_begin",
    21: "tests/strategies/test_executor_handlers.py::",
    22: "tests/strategies/test_process_pool.py::test_death",
    23: "tests/strategies/test_fork.py::",
    25: "tests/strategies/test_supervision.py::",
    34: "tests/server/test_stopping.py::",
    36: "tests/server/test_lifecycle.py::",
    37: "tests/server/test_deadlines.py::test_when_it_is_due",
    39: "tests/transports/test_inherited_activation.py::",
    40: "tests/strategies/test_process_pool_care.py::test_a_reload",
    51: "tests/transports/test_tcp.py::",
    52: "tests/transports/test_proxy.py::",
    57: "tests/transports/test_datagram_truth.py::",
    60: "tests/transports/test_unix_datagram.py::",
    63: "tests/transports/test_tcp.py::",
    66: "tests/plugins/test_broken_plugins.py::",
}
