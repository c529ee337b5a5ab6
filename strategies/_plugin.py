"""The dispatchers that come with Tricorn, offered the way everybody's are."""

from __future__ import annotations

from collections.abc import Iterator

from tricorn.hookspecs import hookimpl
from tricorn.parts import DispatcherPart

__all__ = ["tricorn_dispatchers"]


@hookimpl
def tricorn_dispatchers() -> Iterator[DispatcherPart]:
    """One after the other, a thread or a child for each job, and the two pools."""
    yield DispatcherPart("sync", "tricorn.strategies.sync:Sync")
    yield DispatcherPart("thread", "tricorn.strategies.thread:Thread")
    yield DispatcherPart("fork", "tricorn.strategies.fork:Fork")
    yield DispatcherPart("thread-pool", "tricorn.strategies.thread_pool:ThreadPool")
    yield DispatcherPart("process-pool", "tricorn.strategies.process_pool:ProcessPool")
    yield DispatcherPart("selector", "tricorn.strategies.selector:Selector")
    yield DispatcherPart("asyncio", "tricorn.strategies.asyncio_loop:Asyncio")
    yield DispatcherPart("executor", "tricorn.strategies.executor:Executor")
    yield DispatcherPart("route", "tricorn.strategies.route:Route")
    yield DispatcherPart("dask", "tricorn.strategies.dask_cluster:Dask")
