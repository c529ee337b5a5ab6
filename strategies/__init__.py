"""The dispatchers: who pulls requests from the intake, and where each runs.

=============== ============================================ =====================================
class           where a request runs                         bounded by
=============== ============================================ =====================================
`Sync`          the serving thread, one after the other      one at a time
`Thread`        a thread for each, idle threads reused       ``limit``
`ThreadPool`    a fixed set of threads that each accept      ``workers``
`Fork`          a forked child for each                      ``max_children``
`ProcessPool`   worker processes that share the listener     ``workers`` x what ``inner`` holds
=============== ============================================ =====================================

They import the contracts' side of the core only, and never each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tricorn.strategies.fork import Fork
    from tricorn.strategies.process_pool import ProcessPool
    from tricorn.strategies.sync import Sync
    from tricorn.strategies.thread import Thread
    from tricorn.strategies.thread_pool import ThreadPool

__all__ = ["Fork", "ProcessPool", "Sync", "Thread", "ThreadPool"]

_HOME = {
    "Fork": "fork",
    "ProcessPool": "process_pool",
    "Sync": "sync",
    "Thread": "thread",
    "ThreadPool": "thread_pool",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
