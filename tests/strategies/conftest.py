"""What the tests of the dispatchers share."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tricorn import Server
from tricorn.testing.recorder import Recorder


@pytest.fixture
def recorder() -> Recorder:
    """An observer that keeps what it is told."""
    return Recorder()


@pytest.fixture
def serve(recorder: Recorder, nothing_left_behind: None) -> Iterator[Callable[..., Server]]:
    """Start a server; it is closed at the end of the test."""
    servers: list[Server] = []

    def start(transport: Any, dispatcher: Any, handler: Any, **options: Any) -> Server:
        server = Server(transport, dispatcher, handler, observers=[recorder], log=False, **options)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def dial(nothing_left_behind: None) -> Iterator[Callable[..., socket.socket]]:
    """Connect to an address over TCP, and say something; the connection is closed at the end of the test."""
    with ExitStack() as opened:

        def connect(address: Any, words: bytes = b"") -> socket.socket:
            client = opened.enter_context(socket.create_connection(address, timeout=10))
            client.sendall(words)
            return client

        yield connect


@pytest.fixture(scope="module")
def servants_of_multiprocessing() -> Iterator[None]:
    """What `multiprocessing` and loky start once for a whole program is no leak of the first test."""
    from multiprocessing import forkserver, resource_tracker

    trackers: list[Any] = [resource_tracker._resource_tracker]  # type: ignore[attr-defined]
    if find_spec("loky") is not None:
        from loky.backend import resource_tracker as lokys

        trackers.append(lokys._resource_tracker)
    for tracker in trackers:
        tracker.ensure_running()
    forkserver.ensure_running()
    yield
    forkserver._forkserver._stop()
    for tracker in trackers:
        tracker._stop()


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`remote_handlers.py`, which workers of executors can import too."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return import_module("remote_handlers")
