"""Deadlines: peers that are silent or slow are cut off in time, under every dispatcher, and nobody else is."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import attrs
import pytest

from tricorn import Deadlines, Dispatcher, Server
from tricorn.deadline import Deadline
from tricorn.deadlines import NO_DEADLINES, due
from tricorn.errors import ConfigurationError
from tricorn.events import JobFinished, JobOverdue, Status
from tricorn.handlers import Lines, message
from tricorn.strategies import Asyncio, Fork, ProcessPool, Selector, Sync, Thread, ThreadPool
from tricorn.testing.recorder import Recorder
from tricorn.transports import TCP, UnixStream

Dial = Callable[..., socket.socket]

BLOCKING = {
    "sync": Sync,
    "thread": lambda: Thread(limit=8),
    "thread-pool": lambda: ThreadPool(4),
    "fork": Fork,
    "process-pool": lambda: ProcessPool(1, inner=ThreadPool(4)),
}
LOOPS = {
    "selector": Selector,
    "selector+pool": lambda: Selector(then=ThreadPool(2)),
    "asyncio": Asyncio,
    "parked": lambda: ThreadPool(2, park_idle=True),
}
EVERY = {**BLOCKING, **LOOPS, "coroutine": Asyncio}

lines = message(Lines(max_length=100_000))(bytes.upper)


def upper(connection: Any) -> None:
    """A line, a reply, until the end."""
    with connection.makefile() as file:
        for line in file:
            connection.send(line.upper())


async def upper_async(connection: Any) -> None:
    """The same for a loop."""
    async for line in connection:
        await connection.send(line.upper())


def pour(connection: Any) -> None:
    """More than the kernel keeps."""
    connection.recv()
    connection.send(bytes(60_000_000))


async def pour_async(connection: Any) -> None:
    """The same for a loop."""
    await connection.recv()
    await connection.send(bytes(60_000_000))


def handler_for(name: str, blocking: Any, coroutine: Any, framed: Any) -> Any:
    """The shape that the dispatcher of this name calls."""
    return coroutine if name == "coroutine" else framed if name in LOOPS else blocking


Run = Callable[..., tuple[Server, Recorder]]


@pytest.fixture
def run(nothing_left_behind: None) -> Iterator[Run]:
    """Start a server with these deadlines."""
    servers: list[Server] = []

    def start(dispatcher: Dispatcher, handler: Any, limits: Deadlines, *transport: Any) -> tuple[Server, Recorder]:
        recorder = Recorder()
        server = Server(transport or TCP(), dispatcher, handler, log=False, observers=[recorder], deadlines=limits)
        server.start()
        servers.append(server)
        return server, recorder

    yield start
    for server in servers:
        server.drain(1)


def timed_out(recorder: Recorder, number: int = 1) -> str:
    """That the only job ended so; returns why."""
    (outcome,) = [event.outcome for event in recorder.wait(JobFinished, number)][-1:]
    assert outcome.status is Status.TIMED_OUT
    return str(outcome.error)


@pytest.mark.parametrize("name", EVERY)
def test_a_peer_that_never_speaks(name: str, run: Run, dial: Dial) -> None:
    """Is cut off, and leaves its place to the next."""
    handler = handler_for(name, upper, upper_async, lines)
    server, recorder = run(EVERY[name](), handler, Deadlines(first_byte=0.3))
    assert dial(server.address).recv(1) == b""
    assert "the peer sent nothing" in timed_out(recorder)
    client = dial(server.address, b"a\n")
    assert client.recv(10) == b"A\n"


@pytest.mark.parametrize("name", EVERY)
def test_a_peer_that_falls_silent(name: str, run: Run, dial: Dial) -> None:
    """Between two requests it has `idle` seconds, and not those for the first byte."""
    handler = handler_for(name, upper, upper_async, lines)
    server, recorder = run(EVERY[name](), handler, Deadlines(first_byte=30, idle=0.3))
    client = dial(server.address, b"a\n")
    assert client.recv(10) == b"A\n"
    assert client.recv(1) == b""
    assert timed_out(recorder)


@pytest.mark.parametrize("name", EVERY)
def test_a_peer_that_trickles(name: str, run: Run, dial: Dial) -> None:
    """A byte now and then does not help: the request as a whole has its time."""
    handler = handler_for(name, upper, upper_async, lines)
    server, recorder = run(EVERY[name](), handler, Deadlines(read=0.4))
    client = dial(server.address, b"a")
    client.settimeout(0.02)
    until = monotonic() + 20
    with pytest.raises((ConnectionError, StopIteration)):
        while monotonic() < until:
            client.sendall(b"a")
            try:
                if not client.recv(1):
                    raise StopIteration
            except TimeoutError:
                pass
    assert "did not finish its" in timed_out(recorder)


@pytest.mark.parametrize("name", [*BLOCKING, "coroutine", "selector"])
def test_a_peer_that_does_not_read(name: str, run: Run, dial: Dial) -> None:
    """Its output has its time, and then the conversation is over."""
    framed = message(Lines(max_length=10))(lambda line: bytes(60_000_000))
    server, recorder = run(EVERY[name](), handler_for(name, pour, pour_async, framed), Deadlines(write=0.4))
    dial(server.address, b"go\n")
    assert "take" in timed_out(recorder) or "took" in timed_out(recorder)


def test_a_peer_that_reads_slowly_is_served(run: Run, dial: Dial) -> None:
    """The deadline is one for each piece, not for the whole."""
    server, recorder = run(Thread(), pour, Deadlines(write=2.0))
    client, left = dial(server.address, b"go"), 60_000_000
    until = monotonic() + 3
    while left:
        left -= len(client.recv(min(left, 200_000)))
        if monotonic() < until:
            threading.Event().wait(0.01)
    assert recorder.outcome(1).status is Status.COMPLETED


@pytest.mark.parametrize("name", ["sync", "thread", "thread-pool", "fork", "process-pool"])
def test_a_large_request_has_more_time(name: str, run: Run, dial: Dial) -> None:
    """A second for each `min_rate` bytes that have come."""

    def count(connection: Any) -> None:
        total = 0
        while total < 300_000:
            total += len(connection.recv())
        connection.send(b"%d" % total)

    server, _ = run(BLOCKING[name](), count, Deadlines(read=0.5, min_rate=30_000))
    client = dial(server.address)
    for _ in range(10):
        client.sendall(bytes(30_000))
        threading.Event().wait(0.1)
    assert client.recv(10) == b"300000"


@pytest.mark.parametrize("name", ["thread", "thread-pool"])
def test_a_handler_that_takes_too_long(name: str, run: Run, dial: Dial) -> None:
    """Its connection is cut, and it is told of with its stack; the others are served."""
    free = threading.Event()

    def work(connection: Any) -> None:
        if connection.recv() == b"hang":
            free.wait(30)
        connection.send(b"done")

    server, recorder = run(BLOCKING[name](), work, Deadlines(request=1.0))
    try:
        assert dial(server.address, b"hang").recv(1) == b""
        (event,) = recorder.wait(JobOverdue, 1)
        assert event.limit == 1.0
        assert "free.wait(30)" in event.job.stack
        assert dial(server.address, b"work").recv(10) == b"done"
    finally:
        free.set()
    (outcome,) = [each.outcome for each in recorder.wait(JobFinished, 2) if each.outcome.id == event.job.id]
    assert outcome.status is Status.TIMED_OUT
    assert "the handler was not done within 1 s" in str(outcome.error)


def test_a_child_that_takes_too_long(run: Run, dial: Dial) -> None:
    """Is interrupted, and ends."""

    def work(connection: Any) -> None:
        connection.recv()
        threading.Event().wait(30)

    server, recorder = run(Fork(), work, Deadlines(request=0.3))
    assert dial(server.address, b"hang").recv(1) == b""
    assert "the handler was not done within 0.3 s" in timed_out(recorder)
    assert not server.jobs()


def test_a_coroutine_that_takes_too_long(run: Run, dial: Dial) -> None:
    """Is cancelled."""
    import asyncio

    async def work(connection: Any) -> None:
        await connection.recv()
        await asyncio.sleep(30)

    server, recorder = run(Asyncio(), work, Deadlines(request=0.3))
    assert dial(server.address, b"hang").recv(1) == b""
    assert "the handler was not done within 0.3 s" in timed_out(recorder)


def test_a_message_that_takes_too_long_elsewhere(run: Run, dial: Dial) -> None:
    """The connection is ended, and the loop goes on."""
    free = threading.Event()

    def work(line: bytes) -> bytes:
        if line == b"hang":
            free.wait(30)
        return line

    server, recorder = run(Selector(then=ThreadPool(2)), message(Lines())(work), Deadlines(request=1.0))
    try:
        assert dial(server.address, b"hang\n").recv(1) == b""
        assert recorder.wait(JobOverdue, 1)
        assert dial(server.address, b"work\n").recv(10) == b"work\n"
    finally:
        free.set()
    assert recorder.outcome(1).status is Status.TIMED_OUT


def test_the_handler_s_own_deadline(run: Run, dial: Dial) -> None:
    """`connection.deadline` is for the whole conversation."""

    def chat(connection: Any) -> None:
        connection.deadline = Deadline.after(0.4)
        while data := connection.recv():
            connection.send(data)

    server, recorder = run(Thread(), chat, Deadlines(first_byte=0.2))
    client = dial(server.address, b"a")
    client.settimeout(20)
    with pytest.raises((ConnectionError, EOFError)):
        while True:
            if not client.recv(1):
                raise EOFError
            client.sendall(b"a")
    assert "connection.deadline" in timed_out(recorder)


def test_a_handler_that_catches_it(run: Run, dial: Dial) -> None:
    """The job has timed out all the same, and every further call says why."""
    seen: list[BaseException] = []

    def stubborn(connection: Any) -> None:
        for call in (connection.recv, lambda: connection.send(bytes(10_000_000))):
            try:
                call()
            except TimeoutError as error:
                seen.append(error)

    server, recorder = run(Thread(), stubborn, Deadlines(first_byte=0.2))
    assert dial(server.address).recv(1) == b""
    assert timed_out(recorder)
    assert len(seen) == 2


def test_over_a_unix_socket(run: Run, tmp_path: Path) -> None:
    """As anywhere."""
    server, recorder = run(ThreadPool(2), upper, Deadlines(first_byte=0.2), UnixStream(str(tmp_path / "s")))
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(server.address)
        assert client.recv(1) == b""
    assert timed_out(recorder)


def test_none_is_no_limit(run: Run, dial: Dial) -> None:
    """And costs no thread."""
    server, _ = run(Thread(), upper, NO_DEADLINES)
    client = dial(server.address, b"a\n")
    assert client.recv(10) == b"A\n"
    assert not [thread for thread in threading.enumerate() if thread.name == "tricorn-deadlines"]


def test_single_requests_have_them_too(nothing_left_behind: None, dial: Dial) -> None:
    """`handle_request` with a silent peer comes back."""
    with Server(TCP(), Sync(), upper, log=False, deadlines=Deadlines(first_byte=0.2)) as server:
        client = dial(server.address)
        assert server.handle_request(timeout=10)
        assert client.recv(1) == b""


@pytest.mark.parametrize("name", [each.name for each in attrs.fields(Deadlines) if each.name != "min_rate"])
@pytest.mark.parametrize("value", [0, -1, "1", float("nan")])
def test_values(name: str, value: Any) -> None:
    """Durations are seconds above 0, or None."""
    with pytest.raises(ConfigurationError, match=f"{name} must be a number of seconds above 0"):
        Deadlines(**{name: value})
    assert getattr(Deadlines(**{name: None}), name) is None


def test_what_is_no_value() -> None:
    """Says what would be one."""
    with pytest.raises(ConfigurationError, match="deadlines is 5; allowed: Deadlines"):
        Server(TCP(), Sync(), upper, deadlines=5)  # type: ignore[arg-type]


def test_all_that_wait_for_a_peer_are_finite_by_default() -> None:
    """A silent peer holds no worker for ever."""
    limits = Deadlines()
    assert None not in (limits.open, limits.first_byte, limits.idle, limits.read, limits.write)
    assert limits.request is None
    assert str(limits) == "open 10 s, first_byte 30 s, idle 75 s, read 30 s, write 30 s, request none"


class Notes:
    """Of a conversation, as sockets keep them."""

    waiting = engaged = sending = False
    received = received_before = 0
    engaged_at = sent_at = idle_from = float("-inf")


@pytest.mark.parametrize(
    ("notes", "expected"),
    [
        ({}, (107.0, "request")),
        ({"waiting": True}, (101.0, "first_byte")),
        ({"waiting": True, "sent_at": 104.0}, (106.0, "idle")),
        ({"waiting": True, "engaged": True, "engaged_at": 105.0, "received": 500}, (108.5, "read")),
        ({"waiting": True, "engaged": True, "engaged_at": 105.0, "received": 90_000}, (112.0, "request")),
        ({"sending": True, "sent_at": 110.0}, (114.0, "write")),
        ({"engaged": True, "engaged_at": 105.0}, (112.0, "request")),
    ],
)
def test_when_it_is_due(notes: dict[str, Any], expected: tuple[float, str]) -> None:
    """By what is under way, and since when."""
    limits = Deadlines(first_byte=1, idle=2, read=3, write=4, request=7, min_rate=1000)
    state = Notes()
    vars(state).update(notes)
    assert due(state, 100.0, limits) == expected
    assert due(state, 100.0, NO_DEADLINES) is None
