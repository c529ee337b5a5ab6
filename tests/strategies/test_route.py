"""Route: each request to the dispatcher that is named for it."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tricorn import Connection, Kind, NoRoute, Server, Status
from tricorn.events import JobFinished, JobStarted, WorkerStarted
from tricorn.peeking import peek
from tricorn.strategies import Fork, ProcessPool, Route, Sync, Thread, ThreadPool
from tricorn.testing import check_dispatcher
from tricorn.testing.recorder import Recorder
from tricorn.transports import TCP, UDP

Dial = Callable[..., socket.socket]
LOCAL = TCP("127.0.0.1", 0)


def by_line(request: Any) -> str | None:
    """The first word of the first line, as soon as that is complete."""
    data = peek(request, 64)
    return data.split()[0].decode() if b"\n" in data else None


def obey(connection: Connection) -> None:
    """Says which process and thread it runs in; holds if it is told to, until another byte comes."""
    line = b""
    while not line.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte:
            return
        line += byte
    connection.send(b"%d %s " % (os.getpid(), threading.current_thread().name.encode()) + line)
    if line.endswith(b"hold\n"):
        connection.recv(1)
        connection.send(b"let go\n")


def said(client: socket.socket) -> list[str]:
    """Process, thread and words of an answer; nothing at the end."""
    with client.makefile() as file:
        return file.readline().split()


def hangs_up(client: socket.socket) -> bool:
    """Whether the server closes it; what it had not read makes that a reset."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


@contextmanager
def serving(dispatcher: Route, handler: Any = obey, **options: Any) -> Iterator[tuple[Server, Recorder]]:
    recorder = Recorder()
    with Server(LOCAL, dispatcher, handler, observers=[recorder], log=False, **options) as server:
        server.start()
        yield server, recorder


def fed() -> ProcessPool:
    """Workers that route what is handed over to them."""
    return ProcessPool(2, inner=Route(lambda request: "one", peek=9, one=Thread(2)))


@pytest.mark.parametrize(
    "factory",
    [
        pytest.param(lambda: Route(lambda r: "one", one=Thread(4), two=ThreadPool(4)), id="threads"),
        pytest.param(lambda: Route(lambda r: "one", peek=9, one=Thread(4)), id="threads, by first bytes"),
        pytest.param(lambda: Route(lambda r: "one", peek=9, one=Fork(4), two=Sync()), id="Fork beside Sync"),
        pytest.param(
            lambda: Route(lambda r: "fork" if r.kind is Kind.ITEM else "pool", pool=ProcessPool(2), fork=Fork(2)),
            id="ProcessPool",
        ),
        pytest.param(lambda: ProcessPool(2, inner=Route(lambda r: "x", peek=9, x=Thread(2))), id="in a ProcessPool"),
        pytest.param(
            lambda: Route(lambda r: "fork" if r.kind is Kind.ITEM else "pool", fork=Fork(2), pool=fed()), id="fed"
        ),
        pytest.param(
            lambda: Route(lambda r: "way", way=Route(lambda r: "one", peek=9, one=ThreadPool(4)), no=Sync()),
            id="a Route in a Route",
        ),
    ],
)
def test_laws(factory: Callable[[], Any]) -> None:
    """It keeps the laws of all dispatchers, whatever it is made of."""
    check_dispatcher(factory)


def test_laws_in_place() -> None:
    """With one dispatcher that serves one after the other, too."""
    check_dispatcher(lambda: Route(lambda request: "one", peek=9, one=Sync()), capacity=1)


def test_light_in_place_and_heavy_in_a_child(dial: Dial) -> None:
    """By what the request says, of which nothing is lost."""
    with serving(Route(by_line, peek=64, light=Sync(), heavy=Fork())) as (server, _):
        light, heavy, again = (
            said(dial(server.address, f"{word} x\n".encode())) for word in ("light", "heavy", "light")
        )
    assert [light[2:], heavy[2:]] == [["light", "x"], ["heavy", "x"]]
    assert light[0] == again[0] != heavy[0]


def test_a_process_pool_takes_the_heavy(dial: Dial) -> None:
    """And its jobs' ends are heard of while nothing else is given to it."""
    with serving(Route(by_line, peek=64, light=Sync(), heavy=ProcessPool(2))) as (server, recorder):
        heavy = dial(server.address, b"heavy\n")
        assert said(heavy)[2:] == ["heavy"]
        assert heavy.recv(1) == b"", "a worker holds a copy of the connection"
        assert recorder.outcome(1).status is Status.COMPLETED
        assert len(recorder.of(WorkerStarted)) == 2
        light = said(dial(server.address, b"light\n"))
    assert light[0] not in [str(each.pid) for each in recorder.of(WorkerStarted)]


def test_the_peer_may_decide(dial: Dial) -> None:
    """Without waiting for anything it says."""
    ports: dict[int, str] = {}
    asked = threading.Event()

    def by_port(connection: Connection) -> str:
        asked.wait(10)
        host, port = connection.peer
        assert host == "127.0.0.1"
        return ports[port]

    with serving(Route(by_port, one=Thread(4), two=ThreadPool(4))) as (server, _):
        clients = [dial(server.address) for _ in range(2)]
        ports.update((client.getsockname()[1], name) for client, name in zip(clients, ("one", "two"), strict=True))
        asked.set()
        for client in clients:
            client.sendall(b"x\n")
        assert [said(client)[1].rstrip("0123456789") for client in clients] == ["tricorn-thread", "tricorn-worker-"]


def test_datagrams_are_routed_by_their_data() -> None:
    """There is nothing to wait for, an empty packet included."""

    def by_packet(datagram: Any) -> str:
        return "full" if peek(datagram, 1) else "empty"

    def name_thread(datagram: Any) -> None:
        datagram.reply(threading.current_thread().name.encode())

    with Server(
        UDP("127.0.0.1", 0), Route(by_packet, peek=10, full=Thread(), empty=ThreadPool()), name_thread
    ) as server:
        server.start()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(10)
            client.connect(server.address)
            for packet, name in ((b"", b"tricorn-worker-"), (b"x", b"tricorn-thread")):
                client.send(packet)
                assert client.recv(100).startswith(name)


def test_a_route_may_lead_to_a_route(dial: Dial) -> None:
    """The second is asked when the bytes that it wants have come, and one dispatcher may be in both."""
    pool = ThreadPool(2)
    inner = Route(by_line, peek=64, pool=pool, thread=Thread())

    def outer(connection: Connection) -> str:
        return {b"p": "pool", b"i": "inner"}.get(peek(connection, 1), "inner")

    with serving(Route(outer, peek=1, pool=pool, inner=inner)) as (server, _):
        assert said(dial(server.address, b"p\n"))[1].startswith("tricorn-worker-")
        assert said(dial(server.address, b"pool\n"))[1].startswith("tricorn-worker-")
        assert said(dial(server.address, b"thread\n"))[1] == "tricorn-thread"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("heavvy", "choose returned 'heavvy'; known: 'light', 'heavy'; did you mean 'heavy'?"),
        (7, "choose returned 7; known: 'light', 'heavy'"),
        ([], "choose returned []; known: 'light', 'heavy'"),
        (None, "choose returned None; known: 'light', 'heavy'"),
        (ValueError("no idea"), "choose raised"),
        (SystemExit(3), "choose raised"),
    ],
)
def test_a_request_without_a_dispatcher_is_refused(dial: Dial, answer: Any, reason: str) -> None:
    """With the reason, counted, and the server lives on."""
    answers = [answer, "light"]

    def choose(connection: Connection) -> Any:
        each = answers.pop(0)
        if isinstance(each, BaseException):
            raise each
        return each

    with serving(Route(choose, light=Thread(), heavy=Thread())) as (server, recorder):
        assert dial(server.address).recv(1) == b""
        outcome = recorder.outcome(1)
        assert outcome.status is Status.REFUSED
        if isinstance(answer, BaseException):
            assert (outcome.detail, outcome.error) == (reason, answer)
        else:
            assert (outcome.detail, type(outcome.error)) == ("choose named no dispatcher", NoRoute)
            assert str(outcome.error) == reason
        assert said(dial(server.address, b"x\n"))[2] == "x"
        report = server.drain()
    assert (report.refused, report.completed) == (1, 1)


def test_a_full_dispatcher_holds_up_nobody_else(dial: Dial, recorder: Recorder) -> None:
    """What was sent to it waits for room, in its order, and no permit is lost."""
    with serving(Route(by_line, peek=64, light=Thread(), heavy=ThreadPool(1))) as (server, recorder):
        held = dial(server.address, b"heavy hold\n")
        assert said(held)[-1] == "hold"
        waiting = [dial(server.address, b"heavy %d\n" % number) for number in range(3)]
        recorder.wait(JobStarted, 4)
        for _ in range(5):
            assert said(dial(server.address, b"light\n"))[-1] == "light"
        held.sendall(b"x")
        assert [said(each)[-1] for each in waiting] == ["0", "1", "2"]
        assert server.drain().completed == 9


def test_a_full_fork_makes_room_by_itself(dial: Dial) -> None:
    """When a child ends, though nothing new comes in."""
    with serving(Route(by_line, peek=64, light=Sync(), heavy=Fork(max_children=1))) as (server, recorder):
        held = dial(server.address, b"heavy hold\n")
        assert said(held)[-1] == "hold"
        waiting = dial(server.address, b"heavy x\n")
        recorder.wait(JobStarted, 2)
        assert said(dial(server.address, b"light\n"))[-1] == "light"
        held.sendall(b"x")
        assert said(waiting)[-1] == "x"


def test_a_child_holds_nobody_elses_connection(dial: Dial) -> None:
    """One that was waiting when the child was forked is closed for its peer when it is done."""
    with serving(Route(by_line, peek=64, light=Sync(), heavy=Fork())) as (server, recorder):
        light = dial(server.address, b"li")
        recorder.wait(JobStarted, 1)
        heavy = dial(server.address, b"heavy hold\n")
        assert said(heavy)[-1] == "hold"
        light.sendall(b"ght\n")
        assert said(light)[-1] == "light"
        assert light.recv(1) == b""
        heavy.sendall(b"x")
        assert said(heavy) == ["let", "go"]


def test_one_request_at_a_time(dial: Dial) -> None:
    """``handle_request`` waits for the first bytes, too."""
    recorder = Recorder()
    with Server(LOCAL, Route(by_line, peek=64, one=Thread(2)), obey, observers=[recorder]) as server:
        clients = [dial(server.address, b"one %d\n" % number) for number in range(3)]
        for client in clients:
            assert server.handle_request(timeout=10)
            assert said(client)[2] == "one"
        assert server.drain().completed == 3


def test_a_dispatcher_may_serve_again(dial: Dial) -> None:
    """In another server, once the first is closed."""
    route = Route(by_line, peek=64, light=Sync(), one=ThreadPool(2))
    for _ in range(2):
        with serving(route) as (server, _):
            assert said(dial(server.address, b"one x\n"))[-1] == "x"
            assert said(dial(server.address, b"light x\n"))[-1] == "x"


@pytest.mark.parametrize("light", [Sync, Thread])
def test_a_drain_serves_what_waits_for_room(dial: Dial, light: Any) -> None:
    """Nothing that was taken in is thrown away."""
    with serving(Route(by_line, peek=64, light=light(), heavy=ThreadPool(1))) as (server, recorder):
        held = dial(server.address, b"heavy hold\n")
        assert said(held)[-1] == "hold"
        waiting = [dial(server.address, b"heavy %d\n" % number) for number in range(3)]
        recorder.wait(JobStarted, 4)
        thread = threading.Thread(target=server.drain)
        thread.start()
        held.sendall(b"x")
        assert [said(each)[-1] for each in waiting] == ["0", "1", "2"]
        thread.join()
    assert server.report is not None
    assert (server.report.completed, server.report.clean) == (4, True)


def test_beside_sync_a_drain_forks_no_more(dial: Dial) -> None:
    """A thread conducts it, and forking beside one is not safe: what waits for a child's room is refused at once."""
    with serving(Route(by_line, peek=64, light=Sync(), heavy=Fork(1))) as (server, recorder):
        held = dial(server.address, b"heavy hold\n")
        assert said(held)[-1] == "hold"
        waiting = dial(server.address, b"heavy x\n")
        recorder.wait(JobStarted, 2)
        thread = threading.Thread(target=server.drain)
        thread.start()
        assert hangs_up(waiting)
        outcome = recorder.outcome(1)
        assert (outcome.status, "cannot fork any more" in outcome.detail) == (Status.REFUSED, True)
        held.sendall(b"x")
        assert said(held) == ["let", "go"]
        thread.join()


def test_what_still_waits_at_the_deadline_is_refused(dial: Dial) -> None:
    """Each job has one outcome, and its peer sees the end."""
    gate = threading.Event()

    def hold(connection: Connection) -> None:
        connection.send(b"held\n")
        gate.wait(30)

    with serving(Route(by_line, peek=64, heavy=ThreadPool(1)), hold) as (server, recorder):
        held = dial(server.address, b"heavy\n")
        assert said(held) == ["held"]
        waiting = [dial(server.address, b"heavy\n") for _ in range(2)]
        recorder.wait(JobStarted, 3)
        report = server.drain(0.05)
        assert (report.refused, len(report.abandoned)) == (2, 1)
        assert all(hangs_up(each) for each in waiting)
        reasons = [
            each.outcome.detail for each in recorder.wait(JobFinished, 3) if each.outcome.status is Status.REFUSED
        ]
        assert reasons == ["the server stopped before it was dispatched"] * 2
        gate.set()
        assert hangs_up(held)


def test_a_handler_in_place_that_never_returns_is_left_behind(dial: Dial) -> None:
    """What waits beside it gets its outcome all the same, and nothing is left when it does return."""
    gate = threading.Event()

    def hold(connection: Connection) -> None:
        if connection.recv(100) == b"light\n":
            connection.send(b"held\n")
            gate.wait(30)

    with serving(Route(by_line, peek=64, light=Sync(), heavy=ThreadPool(1)), hold) as (server, recorder):
        waiting = dial(server.address, b"h")
        recorder.wait(JobStarted, 1)
        held = dial(server.address, b"light\n")
        assert said(held) == ["held"]
        report = server.drain(0.05)
        assert (report.refused, len(report.abandoned)) == (1, 1)
        assert hangs_up(waiting)
        gate.set()
        assert hangs_up(held)
