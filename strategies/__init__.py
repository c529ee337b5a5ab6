"""The dispatchers: who pulls requests from the intake, and where each runs.

=============== ============================================ =====================================
class           where a request runs                         bounded by
=============== ============================================ =====================================
`Sync`          the serving thread, one after the other      one at a time
`Thread`        a thread for each, idle threads reused       ``limit``
`ThreadPool`    a fixed set of threads that each accept      ``workers``
`Fork`          a forked child for each                      ``max_children``
`ProcessPool`   worker processes that share the listener     ``workers`` x what ``inner`` holds
`Selector`      one loop, or what ``then`` is                the server's ``max_connections``
`Executor`      the workers of a `concurrent.futures` pool   the server's ``max_connections``
`Dask`          the workers of a dask cluster                the server's ``max_connections``
`Route`         where one of several others runs it          what they hold together
`Asyncio`       a task on an asyncio loop                    the server's ``max_connections``
=============== ============================================ =====================================

They import the contracts' side of the core only, and never each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tricorn.strategies.asyncio_loop import Asyncio
    from tricorn.strategies.executor import Executor
    from tricorn.strategies.fork import Fork
    from tricorn.strategies.process_pool import ProcessPool
    from tricorn.strategies.route import Route
    from tricorn.strategies.selector import Selector
    from tricorn.strategies.sync import Sync
    from tricorn.strategies.thread import Thread
    from tricorn.strategies.thread_pool import ThreadPool

__all__ = ["Asyncio", "Executor", "Fork", "ProcessPool", "Route", "Selector", "Sync", "Thread", "ThreadPool"]

_HOME = {
    "Dask": "dask_cluster",
    "Asyncio": "asyncio_loop",
    "Executor": "executor",
    "Fork": "fork",
    "ProcessPool": "process_pool",
    "Route": "route",
    "Selector": "selector",
    "Sync": "sync",
    "Thread": "thread",
    "ThreadPool": "thread_pool",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
