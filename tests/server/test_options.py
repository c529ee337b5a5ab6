"""What a server refuses to be built from; each error says what was given and what is allowed."""

from __future__ import annotations

from typing import Any

import pytest

from tricorn import ConfigurationError, IncompatibleParts, Server
from tricorn.strategies import Fork, ProcessPool, Sync, Thread, ThreadPool
from tricorn.transports import TCP, UDP, Memory

LOCAL = TCP("127.0.0.1", 0)


def handler(request: Any) -> None: ...


async def coroutine(request: Any) -> None: ...


@pytest.mark.parametrize("value", [0, -1, 1.5, "many", None, True], ids=repr)
def test_max_connections(value: Any) -> None:
    """``max_connections`` is a whole number from 1."""
    with pytest.raises(ConfigurationError, match=f"max_connections is {value!r}; allowed: a whole number from 1"):
        Server(LOCAL, Sync(), handler, max_connections=value)


@pytest.mark.parametrize("value", [-1, -0.5, "soon", None, True, float("nan"), float("inf")], ids=repr)
def test_drain_timeout(value: Any) -> None:
    """``drain_timeout`` is a number of seconds, and never unlimited."""
    with pytest.raises(ConfigurationError, match=f"drain_timeout is {value!r}; allowed: .*seconds"):
        Server(LOCAL, Sync(), handler, drain_timeout=value)


@pytest.mark.parametrize("value", [0, "yes", ["127.0.0.1"]], ids=repr)
def test_verify(value: Any) -> None:
    """``verify`` is a callable."""
    with pytest.raises(ConfigurationError, match="allowed: a callable that takes one request, or None"):
        Server(LOCAL, Sync(), handler, verify=value)


def test_dispatcher_class() -> None:
    """A class in place of a dispatcher is refused, and the error guesses what was meant."""
    with pytest.raises(ConfigurationError, match=r"did you mean ThreadPool\(\)\?"):
        Server(LOCAL, ThreadPool, handler)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [None, 5, object, handler], ids=repr)
def test_dispatcher(value: Any) -> None:
    """What is no dispatcher is refused, with an example of one."""
    with pytest.raises(ConfigurationError, match=r"allowed: a Dispatcher such as ThreadPool\(workers=16\)"):
        Server(LOCAL, value, handler)


@pytest.mark.parametrize("value", [None, 5, TCP, ("127.0.0.1", 0), [LOCAL, None]], ids=repr)
def test_transport(value: Any) -> None:
    """What is no transport is refused, also in a sequence, with an example of one."""
    with pytest.raises(ConfigurationError):
        Server(value, Sync(), handler)


def test_no_transport() -> None:
    """An empty sequence of transports is refused."""
    with pytest.raises(ConfigurationError, match="no transport was given"):
        Server([], Sync(), handler)


@pytest.mark.parametrize("value", [None, 5, [handler]], ids=repr)
def test_handler(value: Any) -> None:
    """What cannot be called is refused."""
    with pytest.raises(ConfigurationError, match="is no handler"):
        Server(LOCAL, Sync(), value)


@pytest.mark.parametrize("value", [lambda: None, lambda a, b: None, type("Handler", (), {})])
def test_arguments(value: Any) -> None:
    """A handler with the wrong number of arguments is refused, with the right ones named."""
    with pytest.raises(ConfigurationError, match="is called with"):
        Server(LOCAL, Sync(), value)


def test_observer() -> None:
    """What cannot be called is no observer."""
    with pytest.raises(ConfigurationError, match="observer"):
        Server(LOCAL, Sync(), handler, observers=[None])  # type: ignore[list-item]


@pytest.mark.parametrize("dispatcher", [Sync(), Thread(), ThreadPool(), Fork(), ProcessPool(1)], ids=repr)
def test_coroutine(dispatcher: Any) -> None:
    """A coroutine function is refused by dispatchers that cannot run it; the error says what would work."""
    with pytest.raises(IncompatibleParts, match="use a dispatcher that runs an event loop, or a plain function"):
        Server(LOCAL, dispatcher, coroutine)


@pytest.mark.parametrize("dispatcher", [Fork(), ProcessPool(1)], ids=repr)
def test_memory_elsewhere(dispatcher: Any) -> None:
    """Connections of this process are refused by dispatchers that run in others; the error says what would work."""
    with pytest.raises(IncompatibleParts, match=r"use ThreadPool \(thread-pool\), or another transport"):
        Server(Memory(), dispatcher, handler)


def test_kinds() -> None:
    """A handler of datagrams on a stream is refused, and the other way round; the error says what would work."""
    from socketserver import DatagramRequestHandler, StreamRequestHandler

    with pytest.raises(IncompatibleParts, match="use UDP or UnixDatagram"):
        Server(LOCAL, Sync(), DatagramRequestHandler)
    with pytest.raises(IncompatibleParts, match="use TCP or UnixStream"):
        Server([LOCAL, UDP("127.0.0.1", 0)], Sync(), StreamRequestHandler)


@pytest.mark.parametrize("strategy", [Thread, ThreadPool, Fork, ProcessPool])
@pytest.mark.parametrize("value", [0, -1, "many", 1.5, None, True], ids=repr)
def test_sizes(strategy: Any, value: Any) -> None:
    """A dispatcher's size is a whole number from 1; the error names the option and the value."""
    with pytest.raises((ConfigurationError, ValueError, TypeError)) as caught:
        strategy(value)
    option = {Thread: "limit", ThreadPool: "workers", Fork: "max_children", ProcessPool: "workers"}[strategy]
    assert option in str(caught.value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("inner", [Fork(), ProcessPool(1)], ids=repr)
def test_forks_in_forks(inner: Any) -> None:
    """A pool of processes does not run a dispatcher that forks again."""
    with pytest.raises(IncompatibleParts, match=r"use inner=Sync\(\), Thread\(\) or ThreadPool\(\)"):
        ProcessPool(1, inner=inner)
