"""A loop that a handler blocks is told of once for each block, with the stack that names the handler."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tricorn import Server
from tricorn.errors import ConfigurationError
from tricorn.events import LoopBlocked
from tricorn.handlers import Lines, message
from tricorn.strategies import Asyncio, Selector, ThreadPool
from tricorn.testing.recorder import Recorder
from tricorn.transports import TCP, UDP

BOUND = 10.0
SOON = 0.05

go = threading.Event()


@pytest.fixture(autouse=True)
def _closed() -> None:
    go.clear()


@message(Lines())
def dawdle(line: bytes) -> bytes:
    assert line == b"quick" or go.wait(BOUND)
    return line.upper()


async def dawdle_in_a_task(connection: Any) -> None:
    async for line in connection:
        assert line == b"quick\n" or go.wait(BOUND)
        await connection.send(line.upper())


WAYS: dict[str, tuple[Callable[[], Any], Any]] = {
    "selector": (lambda: Selector(blocked_after=SOON), dawdle),
    "asyncio": (lambda: Asyncio(blocked_after=SOON), dawdle),
    "a coroutine": (lambda: Asyncio(blocked_after=SOON), dawdle_in_a_task),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_each_block_is_told_once_with_its_stack(way: tuple[Callable[[], Any], Any]) -> None:
    """It names the function; the loop goes on afterwards, and is watched as before."""
    dispatcher, handler = way
    recorder = Recorder()
    with Server(TCP("127.0.0.1", 0), dispatcher(), handler, observers=[recorder]) as server:
        server.start()
        with socket.create_connection(server.address, BOUND) as client:
            for times in (1, 2):
                go.clear()
                client.sendall(b"a\n")
                told = recorder.wait(LoopBlocked, times)[-1]
                assert told.seconds >= SOON
                assert handler is dawdle_in_a_task or "in dawdle" in told.stack
                assert "dawdle" in told.stack
                go.set()
                assert client.recv(2) == b"A\n"
                for _ in range(2):  # turns of the loop in which it answers the watch
                    client.sendall(b"quick\n")
                    assert client.recv(6) == b"QUICK\n"
            assert len(recorder.of(LoopBlocked)) == 2


def test_a_packet_that_blocks() -> None:
    """Also where no connection is open."""
    recorder = Recorder()
    with Server(UDP("127.0.0.1", 0), Selector(blocked_after=SOON), dawdle, observers=[recorder]) as server:
        server.start()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(BOUND)
            client.sendto(b"a\n", server.address)
            assert "in dawdle" in recorder.wait(LoopBlocked)[0].stack
            go.set()
            assert client.recv(2) == b"A\n"


@pytest.mark.parametrize(
    "dispatcher", [Selector(blocked_after=None), Asyncio(blocked_after=None), Selector(ThreadPool(1))]
)
def test_nobody_watches_where_nobody_should(dispatcher: Any) -> None:
    """Without a limit, or where the loop calls no handler."""
    with Server(TCP("127.0.0.1", 0), dispatcher, dawdle) as server:
        server.start()
        assert "tricorn-loop-watch" not in {each.name for each in threading.enumerate()}


@pytest.mark.parametrize("kind", [Selector, Asyncio])
def test_a_limit_is_a_time(kind: Any) -> None:
    """Anything else is refused where it is given."""
    with pytest.raises(ConfigurationError, match="blocked_after"):
        kind(blocked_after=-1)
