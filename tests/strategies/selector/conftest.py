"""What the tests of `Selector` share: dispatchers to hand messages to, a client's eyes, and a held function."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tricorn.strategies import Fork, ProcessPool, Selector, Sync, Thread, ThreadPool

#: Where messages run in threads, or in place.
HERE: dict[str, Callable[[], Any]] = {
    "in place": Selector,
    "sync": lambda: Selector(then=Sync()),
    "thread": lambda: Selector(then=Thread()),
    "thread-pool": lambda: Selector(then=ThreadPool(2)),
}
FORKS: dict[str, Callable[[], Any]] = {
    "fork": lambda: Selector(then=Fork()),
    "process-pool": lambda: Selector(then=ProcessPool(2)),
}
EITHER = {name: HERE[name] for name in ("in place", "thread-pool")}
EVERYWHERE = {**HERE, **FORKS}


@pytest.fixture(params=HERE.values(), ids=HERE)
def here(request: Any) -> Any:
    """Makes one that stays in this process."""
    return request.param


@pytest.fixture(params=FORKS.values(), ids=FORKS)
def forking(request: Any) -> Any:
    """Makes one that does not."""
    return request.param


@pytest.fixture(params=EITHER.values(), ids=EITHER)
def either(request: Any) -> Any:
    """Makes one in place, or one with threads."""
    return request.param


@pytest.fixture(params=EVERYWHERE.values(), ids=EVERYWHERE)
def everywhere(request: Any) -> Any:
    """Makes one of each."""
    return request.param


def _line(client: socket.socket) -> bytes:
    """One line of reply; ``b""`` at the end, however that came."""
    received = b""
    while not received.endswith(b"\n"):
        try:
            data = client.recv(1)
        except ConnectionError:
            return b""
        if not data:
            return b""
        received += data
    return received


@pytest.fixture
def line() -> Callable[[socket.socket], bytes]:
    """Receives one line, for a client."""
    return _line


class Gate:
    """A function that holds messages of ``hold``, and echoes all others."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.free = threading.Event()

    def __call__(self, request: bytes) -> bytes:
        if request == b"hold":
            self.entered.release()
            self.free.wait(30)
        return request


@pytest.fixture
def gate(nothing_left_behind: None) -> Iterator[Gate]:
    """Opened at the end, whatever happens."""
    held = Gate()
    yield held
    held.free.set()
