"""Items: a source that is no socket gives a lease on each entry, and hears how it ended."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from tricorn import Server
from tricorn.contracts import Dispatcher
from tricorn.events import JobFinished
from tricorn.strategies import Fork, ProcessPool, Sync, Thread, ThreadPool
from tricorn.testing.items import Hub, Items
from tricorn.testing.recorder import Recorder

every_dispatcher = pytest.mark.parametrize(
    "dispatcher",
    [Sync, lambda: Thread(2), lambda: ThreadPool(2), lambda: Fork(2), lambda: ProcessPool(2)],
    ids=["Sync", "Thread", "ThreadPool", "Fork", "ProcessPool"],
)


@pytest.fixture
def hub(nothing_left_behind: None) -> Any:
    """Where items are put in."""
    hub = Hub()
    yield hub
    hub.close()


def work(item: Any) -> None:
    if item.value == b"impossible":
        raise ValueError
    item.reply(b"done: " + item.value)


class Work:
    """The same as a request-handler class."""

    def __init__(self, request: Any, client_address: Any, server: Any) -> None:
        if request == b"impossible":
            raise ValueError


@every_dispatcher
def test_ends(dispatcher: Callable[[], Dispatcher], hub: Hub) -> None:
    """An item is acknowledged when the handler has returned, and put back when it raised."""
    with Server(Items(hub.inbox), dispatcher(), work, log=False) as server:
        server.start()
        hub.put(1, b"washing up")
        hub.put(2, b"impossible")
        assert hub.hear(2) == b"nack\n"
        assert (hub.hear(1), hub.hear(1)) == (b"done: washing up", b"ack\n")
        report = server.drain()
    assert (report.accepted, report.completed, report.failed) == (2, 1, 1)


@every_dispatcher
def test_class(dispatcher: Callable[[], Dispatcher], hub: Hub) -> None:
    """A request-handler class gets the item's value as its request."""
    with Server(Items(hub.inbox), dispatcher(), Work, log=False) as server:
        server.start()
        hub.put(1, b"washing up")
        assert hub.hear(1) == b"ack\n"
        hub.put(2, b"impossible")
        assert hub.hear(2) == b"nack\n"


@every_dispatcher
def test_drain(dispatcher: Callable[[], Dispatcher], hub: Hub, recorder: Recorder) -> None:
    """What was taken before a drain is acknowledged; the rest stays with the source."""
    with Server(Items(hub.inbox), dispatcher(), work, observers=[recorder]) as server:
        server.start()
        for number in range(5):
            hub.put(number, b"washing up")
        recorder.wait(JobFinished)
        report = server.drain()
    assert report.clean
    left = 0
    with suppress(BlockingIOError):
        while hub.inbox.recv(100, socket.MSG_DONTWAIT):
            left += 1
    assert report.completed + left == 5
