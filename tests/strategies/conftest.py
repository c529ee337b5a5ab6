"""What the tests of the dispatchers share."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tricorn.testing.recorder import Recorder


@pytest.fixture
def recorder() -> Recorder:
    """An observer that keeps what it is told."""
    return Recorder()


@pytest.fixture
def dial(nothing_left_behind: None) -> Iterator[Callable[..., socket.socket]]:
    """Connect to an address over TCP, and say something; the connection is closed at the end of the test."""
    with ExitStack() as opened:

        def connect(address: Any, words: bytes = b"") -> socket.socket:
            client = opened.enter_context(socket.create_connection(address, timeout=10))
            client.sendall(words)
            return client

        yield connect
