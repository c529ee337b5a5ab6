"""What a benchmark's handler does with each request besides echoing it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

Work = Callable[[bytes], bytes]

#: Turns of the loop in `compute`: 13,000 take about a millisecond.
TURNS = int(os.environ.get("TRICORN_BENCH_TURNS", "13000"))


def compute(data: bytes) -> bytes:
    """About a millisecond of arithmetic that never leaves the interpreter, and so holds its lock."""
    x = data[0] if data else 0
    for i in range(TURNS):
        x = (x * 1103515245 + 12345 + i) & 0x7FFFFFFF
    return data


def sleep(data: bytes) -> bytes:
    """Ten milliseconds of waiting for something else."""
    time.sleep(0.01)
    return data


#: By name; ``None`` is nothing at all, without the cost of a call.
WORKS: dict[str, Work | None] = {"echo": None, "cpu": compute, "sleep": sleep}
