"""Tricorn's own dispatchers keep the laws that it asks of everybody's."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tricorn.contracts import Dispatcher
from tricorn.strategies import Fork, ProcessPool, Sync, Thread, ThreadPool
from tricorn.testing import check_dispatcher


@pytest.mark.parametrize(
    "factory",
    [
        pytest.param(Sync, id="Sync"),
        pytest.param(lambda: Thread(limit=4), id="Thread"),
        pytest.param(lambda: ThreadPool(workers=4), id="ThreadPool"),
        pytest.param(lambda: Fork(max_children=4), id="Fork"),
        pytest.param(lambda: ProcessPool(workers=2), id="ProcessPool of Sync"),
        pytest.param(lambda: ProcessPool(workers=2, inner=Thread(limit=2)), id="ProcessPool of Thread"),
        pytest.param(lambda: ProcessPool(workers=2, inner=ThreadPool(workers=2)), id="ProcessPool of ThreadPool"),
    ],
)
def test_laws(factory: Callable[[], Dispatcher]) -> None:
    """It keeps every law, for connections, datagrams and items."""
    check_dispatcher(factory)


def test_laws_with_one_at_a_time() -> None:
    """A pool of one process that serves one after the other keeps them with room for one."""
    check_dispatcher(lambda: ProcessPool(workers=1), capacity=1)
