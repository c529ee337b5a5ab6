"""Who is let in: the values, peers told apart, and what becomes of those for whom there is no room."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tricorn import Admission, Drop, Reject, Server, ShedOldest, Status, Wait
from tricorn.admission import MAX_CONNECTIONS
from tricorn.errors import ConfigurationError
from tricorn.events import JobFinished, JobRefused
from tricorn.handlers import Lines, message
from tricorn.overload import IDLE_S
from tricorn.strategies import Asyncio, Fork, ProcessPool, Selector, Sync, Thread, ThreadPool
from tricorn.testing.recorder import Recorder
from tricorn.transports import TCP, UDP, Memory, UnixStream

LOCAL = TCP("127.0.0.1", 0)
PLACES = 2
BUSY = b"421 busy\r\n"
Dial = Callable[[Any], socket.socket]


def echo(connection: Any) -> None:
    while data := connection.recv(100):
        connection.send(data)


async def echo_later(connection: Any) -> None:
    async for data in connection:
        await connection.send(data)


@message(Lines())
def echo_line(line: bytes) -> bytes:
    return line


#: Each with a handler, and room for two by itself or by ``max_connections``.
EVERY = {
    "ThreadPool": (lambda: ThreadPool(PLACES), echo),
    "Thread": (lambda: Thread(), echo),
    "Fork": (lambda: Fork(), echo),
    "ProcessPool": (lambda: ProcessPool(PLACES), echo),
    "ProcessPool-ThreadPool": (lambda: ProcessPool(2, inner=ThreadPool(1)), echo),
    "Selector": (lambda: Selector(), echo_line),
    "Selector-then": (lambda: Selector(then=ThreadPool(1)), echo_line),
    "park_idle": (lambda: ThreadPool(1, park_idle=True), echo_line),
    "Asyncio": (lambda: Asyncio(), echo_later),
    "Asyncio-message": (lambda: Asyncio(), echo_line),
}
every = pytest.mark.parametrize(("dispatcher", "handler"), EVERY.values(), ids=EVERY)


def say_hello(client: socket.socket) -> bytes:
    client.sendall(b"hello\n")
    return client.recv(100)


def come_in(server: Server) -> bytes:
    """Knock until there is room: a place is given back a moment after its end is told."""
    for _ in range(10_000):
        with suppress(ConnectionError), socket.create_connection(server.address, timeout=10) as client:
            if (answer := say_hello(client)) == b"hello\n":
                return answer
    raise AssertionError("there never was room")


# -- values


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_connections": 0}, "max_connections must be a whole number, 1 or more"),
        ({"max_connections": True}, "max_connections must be"),
        ({"max_per_peer": 0}, "max_per_peer must be"),
        ({"max_per_peer": 1.5}, "max_per_peer must be"),
        ({"max_waiting": -1, "when_full": Drop()}, "max_waiting must be"),
        ({"max_wait": 0}, "max_wait must be a number of seconds above 0"),
        ({"max_wait": None}, "max_wait must be"),
        ({"when_full": "reject"}, r"when_full must be Wait\(\), Reject\(data\), Drop\(\) or ShedOldest\(\)"),
        ({"when_full": Reject}, "when_full must be"),
        ({"max_waiting": 1}, r"max_waiting must be 0 with when_full=Wait\(\): the kernel keeps those who wait"),
        ({"max_waiting": 1, "when_full": ShedOldest()}, "max_waiting must be 0 with when_full=ShedOldest"),
    ],
)
def test_bad_values(options: dict[str, Any], said: str) -> None:
    """What cannot work is refused where it is written, with what is allowed."""
    with pytest.raises(ConfigurationError, match=said):
        Admission(**options)


@pytest.mark.parametrize("data", ["text", None, bytes(65_537), bytearray(b"x")])
def test_bad_last_words(data: Any) -> None:
    """`Reject` takes bytes that fit into a send buffer."""
    with pytest.raises(ConfigurationError, match="data must be bytes, at most 65,536 of them"):
        Reject(data)


def test_values_compare() -> None:
    """An admission is a value: equal to another of the same, frozen, and fit for a set."""
    assert Admission(5, when_full=Reject(b"x")) == Admission(5, when_full=Reject(b"x")) != Admission(5)
    assert len({Wait(), Wait(), Drop(), ShedOldest()}) == 3
    assert Admission() == Admission(max_connections=MAX_CONNECTIONS, max_per_peer=None, when_full=Wait())
    with pytest.raises(AttributeError):
        Admission().max_connections = 3  # type: ignore[misc]


def test_said_twice() -> None:
    """A server is told the number in one place."""
    with pytest.raises(ConfigurationError, match="max_connections is 5 beside Admission"):
        Server(LOCAL, Sync(), echo, max_connections=5, admission=Admission(6))
    with pytest.raises(ConfigurationError, match="admission is 7; allowed: an Admission, or None"):
        Server(LOCAL, Sync(), echo, admission=7)  # type: ignore[arg-type]


@every
def test_one_peer_has_its_share(
    dispatcher: Any, handler: Any, dial: Dial, recorder: Recorder
) -> None:  # fmt: skip
    """A peer above its limit is refused at once, with the reason, and comes in again when one of its own has left."""
    places = 8
    made = dispatcher()
    if isinstance(made, (ProcessPool, ThreadPool)):
        made = ProcessPool(1, inner=ThreadPool(places)) if isinstance(made, ProcessPool) else ThreadPool(places)
    admission = Admission(places, max_per_peer=PLACES, when_full=Reject(BUSY))
    with Server(LOCAL, made, handler, admission=admission, observers=[recorder], log=False) as server:
        server.start()
        inside = [dial(server) for _ in range(PLACES)]
        assert [say_hello(client) for client in inside] == [b"hello\n"] * PLACES
        assert dial(server).recv(100) == BUSY
        (refused,) = recorder.wait(JobRefused)
        assert (refused.outcome.status, refused.outcome.detail) == (Status.REFUSED, "too many from this peer")
        assert server.refusals() == {"too many from this peer": 1}
        inside[0].close()
        assert come_in(server) == b"hello\n"


def test_above_the_share_with_the_default_policy(dial: Dial) -> None:
    """Where nothing else is said, who is above its share is closed: there is no queue of the kernel's for one peer."""
    with Server(LOCAL, Thread(), echo, admission=Admission(max_per_peer=1), log=False) as server:
        server.start()
        assert say_hello(dial(server)) == b"hello\n"
        assert dial(server).recv(100) == b""
        assert server.refusals() == {"too many from this peer": 1}


def test_a_refusal_by_verify_gives_the_share_back(dial: Dial) -> None:
    """Whoever verify turns away does not count any more."""
    answers = iter([False, False, True])
    admission = Admission(max_per_peer=1)
    with Server(LOCAL, Thread(), echo, admission=admission, verify=lambda _: next(answers), log=False) as server:
        server.start()
        assert [dial(server).recv(100) for _ in range(2)] == [b"", b""]
        assert say_hello(dial(server)) == b"hello\n"
        assert server.refusals() == {"verify returned false": 2}


def test_users_of_unix_sockets_have_a_share(tmp_path: Path) -> None:
    """One user's connections over a Unix socket are one peer's."""
    path = str(tmp_path / "s")
    with Server(UnixStream(path), Thread(), echo, admission=Admission(max_per_peer=1), log=False) as server:
        server.start()
        with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as two:
            for client in (one, two):
                client.settimeout(10)
                client.connect(path)
            assert say_hello(one) == b"hello\n"
            assert two.recv(100) == b""


def test_packets_of_one_sender(held: Any, recorder: Recorder) -> None:
    """Of one sender's packets no more are in work than its share; the next one is dropped, counted and told."""

    def slow(packet: Any) -> None:
        held.wait_to_be_let_go()
        packet.reply(packet.data)

    transport = UDP("127.0.0.1", 0)
    options: Any = {"admission": Admission(max_per_peer=1), "observers": [recorder], "log": False}
    with Server(transport, Thread(), slow, **options) as server, socket.socket(type=socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        server.start()
        client.sendto(b"one", server.address)
        client.sendto(b"two", server.address)
        assert recorder.wait(JobRefused)[0].outcome.detail == "too many from this peer"
        held.free.set()
        assert client.recv(100) == b"one"


# -- full


@every
def test_reject(dispatcher: Any, handler: Any, dial: Dial, recorder: Recorder) -> None:
    """When full, those who come get the protocol's own words, also if they have spoken first; those inside go on."""
    admission = Admission(_places(dispatcher), when_full=Reject(BUSY))
    with Server(LOCAL, dispatcher(), handler, admission=admission, observers=[recorder], log=False) as server:
        server.start()
        inside = [dial(server) for _ in range(PLACES)]
        assert [say_hello(client) for client in inside] == [b"hello\n"] * PLACES
        for _ in range(3):
            client = dial(server)
            client.sendall(b"x" * 50_000)  # unread input must not turn the close into a reset
            assert (client.recv(100), client.recv(100)) == (BUSY, b"")
        assert {each.outcome.detail for each in recorder.wait(JobRefused, 3)} == {"full"}
        assert [say_hello(client) for client in inside] == [b"hello\n"] * PLACES
        assert server.refusals() == {"full": 3}
        inside[0].close()
        assert come_in(server) == b"hello\n"
        report = server.drain()
    assert report.refused == server.refusals()["full"]


def _places(dispatcher: Any) -> int:
    """In one process: the workers of a pool have one each by themselves."""
    return 10 if isinstance(dispatcher(), ProcessPool) else PLACES


@every
def test_drop(dispatcher: Any, handler: Any, dial: Dial, recorder: Recorder) -> None:
    """When full, those who come are reset."""
    admission = Admission(_places(dispatcher), when_full=Drop())
    with Server(LOCAL, dispatcher(), handler, admission=admission, observers=[recorder], log=False) as server:
        server.start()
        inside = [dial(server) for _ in range(PLACES)]
        assert [say_hello(client) for client in inside] == [b"hello\n"] * PLACES
        for _ in range(3):
            with pytest.raises(ConnectionResetError), socket.create_connection(server.address, timeout=10) as client:
                client.recv(100)
        recorder.wait(JobRefused, 3)
        assert server.refusals() == {"full": 3}
        inside[0].close()
        assert come_in(server) == b"hello\n"


@every
def test_wait(dispatcher: Any, handler: Any, dial: Dial) -> None:
    """By default those who come when it is full wait, are not even accepted, and are served when there is room."""
    with Server(LOCAL, dispatcher(), handler, admission=Admission(_places(dispatcher)), log=False) as server:
        server.start()
        inside = [dial(server) for _ in range(PLACES)]
        assert [say_hello(client) for client in inside] == [b"hello\n"] * PLACES
        late = dial(server)
        late.sendall(b"late\n")
        assert say_hello(inside[1]) == b"hello\n"
        assert len(server.jobs()) == PLACES
        inside[0].close()
        assert late.recv(100) == b"late\n"
        assert server.refusals() == {}
        for client in (*inside, late):
            client.close()


SHEDDING = {name: each for name, each in EVERY.items() if name != "Fork"}


@pytest.mark.parametrize(("dispatcher", "handler"), SHEDDING.values(), ids=SHEDDING)
def test_shed_the_oldest(dispatcher: Any, handler: Any, dial: Dial, recorder: Recorder) -> None:
    """When full, the idle conversation that came first ends, and its place goes to who waits."""
    admission = Admission(_places(dispatcher), when_full=ShedOldest())
    with Server(LOCAL, dispatcher(), handler, admission=admission, observers=[recorder], log=False) as server:
        server.start()
        inside = [dial(server) for _ in range(PLACES)]
        assert [say_hello(client) for client in inside] == [b"hello\n"] * PLACES
        late = dial(server)
        assert say_hello(late) == b"hello\n"
        ended = recorder.wait(JobFinished)[0].outcome
        assert (ended.status, ended.detail) == (Status.TIMED_OUT, "shed: idle when there was no place for others")
        shed = [client for client in inside if client.getsockname() == ended.peer]
        assert [client.recv(100) for client in shed] == [b""]
        if not isinstance(dispatcher(), ProcessPool):  # each process sheds its own, and both may have
            assert shed == inside[:1]
            assert server.refusals() == {ended.detail: 1}
        for client in (*inside, late):
            client.close()
        assert server.drain().clean


def test_who_is_at_work_is_not_shed(held: Any, dial: Dial, recorder: Recorder) -> None:
    """Of those inside, one in the middle of a request stays; the idle one goes, though it came later."""

    def serve(connection: Any) -> None:
        while connection.recv(100) == b"work\n":
            held(connection)
        connection.send(b"bye")

    admission = Admission(2, when_full=ShedOldest())
    with Server(LOCAL, Thread(), serve, admission=admission, observers=[recorder], log=False) as server:
        server.start()
        working, idle = dial(server), dial(server)
        working.sendall(b"work\n")
        assert working.recv(100) == b"held"
        late = dial(server)
        assert idle.recv(100) == b"bye"
        late.sendall(b"hello\n")
        assert late.recv(100) == b"bye"
        held.free.set()
        assert working.recv(100) == b"done"


def test_nobody_idle_in_children(dial: Dial) -> None:
    """Under Fork nobody is known to be idle: those who come wait."""
    with Server(LOCAL, Fork(1), echo, admission=Admission(when_full=ShedOldest()), log=False) as server:
        server.start()
        inside, late = dial(server), dial(server)
        assert say_hello(inside) == b"hello\n"
        late.sendall(b"late\n")
        assert say_hello(inside) == b"hello\n"
        inside.close()
        assert late.recv(100) == b"late\n"
        late.close()


@pytest.mark.parametrize("policy", [Reject(BUSY), Drop(), ShedOldest()], ids=["Reject", "Drop", "ShedOldest"])
def test_in_the_serving_thread(policy: Any, dial: Dial) -> None:
    """Also where the one thread is in the handler, those who come are dealt with."""
    with Server(LOCAL, Sync(), echo, admission=Admission(when_full=policy), log=False) as server:
        server.start()
        inside = dial(server)
        assert say_hello(inside) == b"hello\n"
        if isinstance(policy, ShedOldest):
            assert say_hello(dial(server)) == b"hello\n"
        elif isinstance(policy, Reject):
            assert dial(server).recv(100) == BUSY
        else:
            with pytest.raises(ConnectionResetError), socket.create_connection(server.address, timeout=10) as late:
                late.recv(100)
        assert sum(server.refusals().values()) == 1


def test_in_memory(held: Any) -> None:
    """Connections without a descriptor are rejected with the same words."""
    memory = Memory()
    with Server(memory, Thread(), held, admission=Admission(1, when_full=Reject(BUSY)), log=False) as server:
        server.start()
        with memory.connect() as inside, memory.connect() as late:
            for client in (inside, late):
                client.settimeout(10)
            assert sorted([inside.recv(100), late.recv(100)]) == [BUSY, b"held"]
            held.free.set()


def test_packets_when_full(held: Any, recorder: Recorder) -> None:
    """Packets for which there is no room are dropped without an answer, as their sender may be forged."""

    def slow(packet: Any) -> None:
        held.wait_to_be_let_go()
        packet.reply(packet.data)

    admission = Admission(1, when_full=Reject(BUSY))
    options: Any = {"admission": admission, "observers": [recorder], "log": False}
    with (
        Server(UDP("127.0.0.1", 0), Thread(), slow, **options) as server,
        socket.socket(type=socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(10)
        server.start()
        for data in (b"one", b"two", b"three"):
            client.sendto(data, server.address)
        recorder.wait(JobRefused, 2)
        held.free.set()
        assert client.recv(100) == b"one"
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(100)
        assert server.refusals() == {"full": 2}


@pytest.mark.parametrize(("dispatcher", "handler"), SHEDDING.values(), ids=SHEDDING)
def test_who_talks_all_the_time_is_not_shed(dispatcher: Any, handler: Any, dial: Dial) -> None:
    """Between two requests that follow each other nobody is idle, though the conversation is long."""
    admission = Admission(_places(dispatcher), when_full=ShedOldest())
    with Server(LOCAL, dispatcher(), handler, admission=admission, log=False) as server:
        server.start()
        inside = [dial(server) for _ in range(PLACES)]
        assert [say_hello(client) for client in inside] == [b"hello\n"] * PLACES
        late = dial(server)
        late.sendall(b"late\n")
        until = monotonic() + 4 * IDLE_S
        while monotonic() < until:
            assert [say_hello(client) for client in inside] == [b"hello\n"] * PLACES
        assert server.refusals() == {}
        for client in (*inside, late):
            client.close()
