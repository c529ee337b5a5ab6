"""Selector: what fits together, whose turn it is, and what each message gets."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from contextvars import ContextVar
from typing import Any

import pytest

from tricorn import Server
from tricorn.contracts import Dispatcher
from tricorn.errors import ConfigurationError, IncompatibleParts, StateError
from tricorn.events import JobFinished, JobStarted
from tricorn.handlers import BaseRequestHandler, Lines, message
from tricorn.strategies import Selector, Sync, Thread, ThreadPool
from tricorn.testing.recorder import Recorder
from tricorn.transports import TCP, Memory, UnixStream

Dial = Callable[..., socket.socket]
Line = Callable[[socket.socket], bytes]

shout = message(Lines())(bytes.upper)


def test_what_then_may_be() -> None:
    """``then`` takes one message after the other: no loop, nothing that waits for connections, no class, no name."""
    for wrong, said in (
        (Selector(), "Selector waits for connections itself"),
        (ThreadPool(2, park_idle=True), "ThreadPool waits for connections itself"),
        (object(), "then must be a dispatcher, such as ThreadPool(16)"),
        (ThreadPool, "then must be a dispatcher, such as ThreadPool(16)"),
    ):
        with pytest.raises(ConfigurationError) as refused:
            Selector(then=wrong)  # type: ignore[arg-type]
        assert said in str(refused.value)


def test_high_water() -> None:
    """Bytes, 0 or more."""
    with pytest.raises(ConfigurationError, match="high_water must be a whole number, 0 or more"):
        Selector(high_water=-1)


def test_only_message_handlers() -> None:
    """A function or a class could block the loop, and is refused with what would work."""

    class Handler(BaseRequestHandler):
        """Never served."""

    for handler in (print, Handler):
        with pytest.raises(IncompatibleParts, match=r"calls only message.*ThreadPool\(park_idle=True\)"):
            Server(TCP(), Selector(), handler)


def test_no_memory() -> None:
    """It waits for descriptors, and the memory transport has none."""
    with pytest.raises(IncompatibleParts, match="Selector waits for descriptors"):
        Server(Memory(), Selector(), shout)


def test_no_state_in_other_processes(forking: Any) -> None:
    """State from one message to the next cannot be kept where each runs in a process of its own."""

    @message(Lines())
    def remember(request: bytes, state: dict[str, int]) -> bytes:
        return request

    with pytest.raises(IncompatibleParts, match=r"keeps state.*use Selector\(then=ThreadPool\(\)\)"):
        Server(TCP(), forking(), remember)


def test_one_server_at_a_time(dial: Dial, line: Line) -> None:
    """The table belongs to one server, which another cannot disturb; when that is closed, another may have it."""
    dispatcher = Selector()
    with (
        Server(TCP(), dispatcher, shout) as server,
        Server(TCP(), dispatcher, shout, log=False, drain_timeout=0.1) as other,
    ):
        server.start()
        client = dial(server.address, b"a\n")
        assert line(client) == b"A\n"
        with pytest.raises(StateError, match="serves already"):
            other.serve_forever()
        client.sendall(b"b\n")
        assert line(client) == b"B\n"
    with Server(TCP(), dispatcher, shout) as server:
        server.start()
        assert line(dial(server.address, b"a\n")) == b"A\n"


@pytest.mark.parametrize("then", [lambda: ThreadPool(4), Thread], ids=["thread-pool", "thread"])
def test_order(then: Callable[[], Dispatcher], dial: Dial) -> None:
    """One peer has one message in ``then`` at a time, so its replies are in order, whatever the threads do."""
    lock, at_once, most = threading.Lock(), Counter[Any](), Counter[Any]()

    @message(Lines())
    def note(request: bytes, peer: Any) -> bytes:
        with lock:
            at_once[peer] += 1
            most[peer] = max(most[peer], at_once[peer])
        if len(request) % 3:
            threading.Event().wait(0.0002)
        with lock:
            at_once[peer] -= 1
        return request

    sent = b"".join(b"%d\n" % n for n in range(200))
    with Server(TCP(), Selector(then=then()), note) as server:
        server.start()
        clients = [dial(server.address, sent) for _ in range(6)]
        for client in clients:
            with client.makefile("rb") as file:
                assert file.read(len(sent)) == sent
    assert set(most.values()) == {1}


def test_turns(dial: Dial, line: Line) -> None:
    """A peer that has sent hundreds of messages has one turn, and then the next peer has one."""
    other_is_here = threading.Event()
    order: list[bytes] = []

    @message(Lines())
    def note(request: bytes) -> bytes:
        if not order:
            other_is_here.wait(10)
        order.append(request)
        return request

    with Server(TCP(), Selector(then=ThreadPool(1)), note) as server:
        server.start()
        many = dial(server.address, b"many\n" * 500)
        one = dial(server.address, b"one\n")
        other_is_here.set()
        assert line(one) == b"one\n"
        with many.makefile("rb") as file:
            assert file.read(2500) == b"many\n" * 500
    assert order.index(b"one") < 20


def test_a_thousand_peers_at_once_with_one_worker(dial: Dial, line: Line) -> None:
    """However many wait for their turn, each gets it."""
    with Server(TCP(), Selector(then=Sync()), shout) as server:
        server.start()
        clients = [dial(server.address, b"a\nb\n") for _ in range(150)]
        for client in clients:
            assert (line(client), line(client)) == (b"A\n", b"B\n")


def test_waiting_peers_cost_no_stack(dial: Dial, line: Line) -> None:
    """Messages that end in place, one after the other, are no recursion."""
    first = threading.Event()

    @message(Lines())
    def hold_the_loop(request: bytes) -> bytes:
        if request == b"first":
            first.wait(10)
        return request

    with Server(TCP(), Selector(then=Sync()), hold_the_loop) as server, ExitStack() as limit:
        server.start()
        one = dial(server.address, b"first\n")
        clients = [dial(server.address, b"x\n") for _ in range(100)]
        limit.callback(sys.setrecursionlimit, sys.getrecursionlimit())
        sys.setrecursionlimit(110)
        first.set()
        assert line(one) == b"first\n"
        for client in clients:
            assert line(client) == b"x\n"


def test_idle_connections(dial: Dial, line: Line) -> None:
    """Hundreds of idle connections cost two worker threads nothing: another client is served as ever."""
    before = threading.active_count()
    with Server(TCP(), Selector(then=ThreadPool(2)), shout, max_connections=2000) as server:
        server.start()
        idle = [dial(server.address) for _ in range(200)]
        client = dial(server.address)
        for n in range(50):
            client.sendall(b"n%d\n" % n)
            assert line(client) == b"N%d\n" % n
        assert threading.active_count() <= before + 3
        assert len(server.jobs()) == 201
        idle[77].sendall(b"awake\n")
        assert line(idle[77]) == b"AWAKE\n"
        report = server.drain()
    assert (report.accepted, report.completed) == (201, 201)


@pytest.mark.slow
def test_a_thousand_idle_connections(script: Any) -> None:
    """The same with a thousand, in a program of its own, since they take two thousand descriptors."""
    program = script(
        """
        import resource, socket, threading
        from tricorn import Server, message_loop, message_parts
        from tricorn.handlers import Lines, message
        from tricorn.strategies import Selector, ThreadPool
        from tricorn.transports import TCP

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
        for dispatcher in (Selector(then=ThreadPool(2)), ThreadPool(2, park_idle=True)):
            with Server(TCP(), dispatcher, message(Lines())(bytes.upper), max_connections=2000) as server:
                server.start()
                idle = [socket.create_connection(server.address, timeout=10) for _ in range(1000)]
                with socket.create_connection(server.address, timeout=10) as client:
                    for n in range(100):
                        client.sendall(b"n%d\\n" % n)
                        assert client.recv(100) == b"N%d\\n" % n
                print(threading.active_count(), flush=True)
                for each in idle:
                    each.close()
                print(server.drain(), flush=True)
        """
    )
    out, errors = program.communicate(timeout=50)
    assert errors == ""
    threads, report, more_threads, another = out.splitlines()
    assert (threads, more_threads) == (
        "4",
        "5",
    )  # who parks has a timekeeper, too
    for each in (report, another):
        assert "1001 accepted, 1001 completed" in each


def test_one_job_for_each_connection(here: Any, dial: Dial, line: Line) -> None:
    """However many messages: one start, one outcome, one entry in the report, and one job while it lasts."""
    recorder = Recorder()
    with Server(TCP(), here(), shout, observers=[recorder]) as server:
        server.start()
        for _ in range(3):
            client = dial(server.address, b"a\n" * 100)
            for _ in range(100):
                assert line(client) == b"A\n"
        assert len(server.jobs()) == 3
        client.close()
        recorder.wait(JobFinished)
        assert len(server.jobs()) == 2
        report = server.drain()
    recorder.check_books(report)
    assert (report.accepted, report.completed) == (3, 3)
    assert len(recorder.of(JobStarted)) == 3


LETTER: ContextVar[str] = ContextVar("letter", default="none")


def test_context(everywhere: Any, dial: Dial, line: Line) -> None:
    """Functions run in copies of the context in which the server was built."""

    @message(Lines())
    def tell(request: bytes) -> bytes:
        told = LETTER.get()
        LETTER.set("scribbled over")
        return told.encode()

    token = LETTER.set("base")
    try:
        server = Server(TCP(), everywhere(), tell)
    finally:
        LETTER.reset(token)
    with server:
        server.start()
        for _ in range(2):
            assert line(dial(server.address, b"x\n")) == b"base\n"
    assert LETTER.get() == "none"


def test_identity(everywhere: Any, tmp_path: Any, line: Line) -> None:
    """What the authenticator found reaches the function, wherever that runs."""

    @message(Lines())
    def whoami(request: bytes, identity: Any, peer: Any) -> bytes:
        return repr((identity, peer)).encode()

    def by_credentials(connection: Any) -> Any:
        return {"uid": connection.credentials.uid}

    with (
        Server(UnixStream(tmp_path / "s"), everywhere(), whoami, authenticate=by_credentials) as server,
        socket.socket(socket.AF_UNIX) as client,
    ):
        server.start()
        client.settimeout(10)
        client.connect(server.address)
        client.sendall(b"x\n")
        assert line(client) == repr(({"uid": os.getuid()}, "")).encode() + b"\n"
