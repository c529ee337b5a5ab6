"""Selector: peers that leave, functions that fail, workers that die, and descriptors that run out."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest

from tricorn import Server, message_loop, message_parts
from tricorn.errors import WorkerLost
from tricorn.events import Status
from tricorn.handlers import LengthPrefixed, Lines, message
from tricorn.strategies import Fork, Selector, ThreadPool
from tricorn.testing.recorder import Recorder
from tricorn.transports import TCP, UnixStream

Dial = Callable[..., socket.socket]
Line = Callable[[socket.socket], bytes]

shout = message(Lines())(bytes.upper)


def test_half_close(everywhere: Any, dial: Dial) -> None:
    """A peer that has said all it wants to say gets all its replies."""
    with Server(TCP(), everywhere(), shout) as server:
        server.start()
        client = dial(server.address, b"a\nb\nc\n")
        client.shutdown(socket.SHUT_WR)
        with client.makefile("rb") as file:
            assert file.read() == b"A\nB\nC\n"
        assert server.drain().completed == 1


@pytest.fixture
def polls(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Grows with every turn of a loop."""
    turns: list[None] = []
    make_poller = message_loop.make_poller

    def counting() -> Any:
        poller = make_poller()

        def poll(timeout: float | None = None) -> Any:
            turns.append(None)
            return poller.poll(timeout)

        return SimpleNamespace(
            register=poller.register, modify=poller.modify, unregister=poller.unregister, poll=poll, close=poller.close
        )

    monkeypatch.setattr(message_loop, "make_poller", counting)
    return turns


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
def test_leaving_while_a_message_is_worked_on(
    unix: bool, reset: bool, gate: Any, tmp_path: Any, polls: list[None], line: Line
) -> None:
    """The message is worked on to its end, nobody spins meanwhile, and there is one outcome; others are served."""
    recorder, transport = Recorder(), UnixStream(tmp_path / "s") if unix else TCP()
    dispatcher = Selector(then=ThreadPool(2))
    with (
        Server(transport, dispatcher, message(Lines())(gate), log=False, observers=[recorder]) as server,
        ExitStack() as stack,
    ):
        server.start()

        def dial() -> socket.socket:
            client = stack.enter_context(socket.socket(socket.AF_UNIX if unix else socket.AF_INET))
            client.settimeout(10)
            client.connect(server.address)
            return client

        leaving, staying = dial(), dial()
        leaving.sendall(b"before\nhold\nafter\n")
        if not reset:
            assert line(leaving) == b"before\n"
        assert gate.entered.acquire(timeout=10)
        if reset and not unix:
            leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        leaving.close()
        before = len(polls)
        for n in range(50):
            staying.sendall(b"%d\n" % n)
            assert line(staying) == b"%d\n" % n
        assert len(polls) - before < 500
        gate.free.set()
        staying.sendall(b"last\n")
        assert line(staying) == b"last\n"
        outcome = recorder.outcome(1)
        staying.close()
        report = server.drain()
    recorder.check_books(report)
    assert outcome.status in (Status.DISCONNECTED, Status.COMPLETED)
    assert report.accepted == 2


def test_messages_without_replies_are_not_lost(here: Any, dial: Dial) -> None:
    """A peer that sends many messages and closes has sent them: each is worked on."""
    seen: list[bytes] = []
    recorder = Recorder()
    with Server(TCP(), here(), message(Lines())(seen.append), observers=[recorder]) as server:
        server.start()
        dial(server.address, b"".join(b"%d\n" % n for n in range(5000))).close()
        assert recorder.outcome(1).status is Status.COMPLETED
    assert seen == [b"%d" % n for n in range(5000)]


def test_replies_reach_their_own_peer(dial: Dial, line: Line) -> None:
    """Connections come and go, their descriptors' numbers are used again, and no reply reaches a stranger."""
    with Server(TCP(), Selector(then=ThreadPool(4)), shout) as server:
        server.start()
        for n in range(150):
            with socket.create_connection(server.address, timeout=10) as leaving:
                leaving.sendall(b"stranger\n" * (n % 5))
            with socket.create_connection(server.address, timeout=10) as client:
                client.sendall(b"mine%d\n" % n)
                assert line(client) == b"MINE%d\n" % n


def test_reset(dial: Dial, line: Line) -> None:
    """A peer that resets its connection has left; that is no failure of the handler's."""
    recorder = Recorder()
    with Server(TCP(), Selector(), shout, log=False, observers=[recorder]) as server:
        server.start()
        client = dial(server.address, b"a\nb")
        assert line(client) == b"A\n"
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        assert recorder.outcome(1).status is Status.DISCONNECTED


@pytest.mark.parametrize("error", [ValueError, OSError, SystemExit, KeyboardInterrupt])
def test_failing(everywhere: Any, error: type[BaseException], dial: Dial, line: Line) -> None:
    """A function that raises costs its own connection, after the replies that were made, and nobody else."""

    @message(Lines())
    def fail(request: bytes) -> Iterator[bytes]:
        yield request
        if request == b"x":
            raise error("as it was told")

    recorder = Recorder()
    with Server(TCP(), everywhere(), fail, log=False, observers=[recorder]) as server:
        server.start()
        other = dial(server.address, b"a\n")
        assert line(other) == b"a\n"
        client = dial(server.address, b"a\nx\nb\n")
        assert (line(client), line(client), line(client)) == (b"a\n", b"x\n", b"")
        assert recorder.outcome(1).status is Status.FAILED
        other.sendall(b"b\n")
        assert line(other) == b"b\n"


def test_a_killed_worker(forking: Any, dial: Dial, line: Line) -> None:
    """A worker that is killed costs the connection whose message it had, which is LOST, and nobody else."""

    @message(Lines())
    def die(request: bytes) -> bytes:
        if request == b"die":
            os.kill(os.getpid(), signal.SIGKILL)
        return request

    recorder = Recorder()
    with Server(TCP(), forking(), die, log=False, observers=[recorder]) as server:
        server.start()
        other = dial(server.address, b"a\n")
        assert line(other) == b"a\n"
        for n in range(3):
            client = dial(server.address, b"a\ndie\nb\n")
            assert (line(client), line(client)) == (b"a\n", b"")
            outcome = recorder.outcome(n + 1)
            assert outcome.status is Status.LOST
            assert isinstance(outcome.error, WorkerLost) or "SIGKILL" in str(outcome.error)
        other.sendall(b"b\n")
        assert line(other) == b"b\n"
        report = server.drain()
    assert (report.lost, report.completed) == (3, 1)


@pytest.mark.parametrize("fails", [{2}, {2, 3}], ids=["none but the spare ones", "none at all"])
def test_no_descriptor_for_a_reply(fails: set[int], dial: Dial, monkeypatch: pytest.MonkeyPatch, line: Line) -> None:
    """Where there is none left, those are used that are held back for it; where those were taken, too, the connection
    fails whose message it was, and the server goes on."""
    calls = [0]

    def socketpair() -> Any:
        calls[0] += 1
        if calls[0] in fails:
            raise OSError(24, "Too many open files")
        return socket.socketpair()

    monkeypatch.setattr(message_parts, "socket", SimpleNamespace(socketpair=socketpair))
    recorder = Recorder()
    with Server(TCP(), Selector(then=Fork()), shout, log=False, observers=[recorder]) as server:
        server.start()
        assert line(dial(server.address, b"a\n")) == b"A\n"
        if 3 in fails:
            assert line(dial(server.address, b"b\n")) == b""
            assert recorder.outcome(1).status is Status.FAILED
        else:
            assert line(dial(server.address, b"b\n")) == b"B\n"
        assert line(dial(server.address, b"c\n")) == b"C\n"


def test_others_hold_all_descriptors(forking: Any, script: Any, line: Line) -> None:
    """In a server without descriptors left, because clients hold them, those who are connected are served."""
    program = script(
        """
        import resource, socket, sys
        from tricorn import Server, message_loop, message_parts
        from tricorn.events import AcceptPaused
        from tricorn.handlers import Lines, message
        from tricorn.strategies import Fork, ProcessPool, Selector
        from tricorn.transports import TCP

        def told(event):
            if isinstance(event, AcceptPaused):
                print("full", flush=True)

        handler = message(Lines())(bytes.upper)
        dispatcher = Selector(then={"Fork": Fork, "ProcessPool": lambda: ProcessPool(2)}[sys.argv[1]]())
        server = Server(TCP(), dispatcher, handler, log=False, observers=[told])
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        server.bind()
        print(server.address[1], flush=True)
        print(server.serve_forever(signals=True), flush=True)
        """,
        type(forking().then).__name__,
    )
    with ExitStack() as stack:
        address = ("127.0.0.1", int(program.stdout.readline()))
        clients = [stack.enter_context(socket.create_connection(address, timeout=10))]
        clients[0].sendall(b"first\n")
        assert line(clients[0]) == b"FIRST\n"
        clients += [stack.enter_context(socket.create_connection(address, timeout=10)) for _ in range(80)]
        assert program.stdout.readline() == "full\n"
        for n in range(5):
            for client in clients[:5]:
                client.sendall(b"a%d\n" % n)
            for client in clients[:5]:
                assert line(client) == b"A%d\n" % n
    program.send_signal(signal.SIGTERM)
    out, errors = program.communicate(timeout=20)
    assert errors == ""
    assert " failed" not in out


@pytest.mark.parametrize("method", ["feed", "end"])
def test_a_decoder_that_breaks(either: Any, method: str, dial: Dial, monkeypatch: pytest.MonkeyPatch) -> None:
    """A framing with a mistake in it costs the connections that meet it."""

    class Broken(LengthPrefixed):
        """Its decoder raises for everything but a short message."""

        def decoder(self) -> Any:
            inner = super().decoder()

            def feed(data: bytes) -> list[bytes]:
                if method == "feed" and len(data) > 10:
                    raise ZeroDivisionError
                return inner.feed(data)

            def end(**options: Any) -> list[bytes]:
                if method == "end" and inner.pending:
                    raise ZeroDivisionError
                return inner.end(**options)

            class Decoder:
                fault = None
                pending = property(lambda self: inner.pending)

            broken: Any = Decoder()
            broken.feed, broken.end, broken.one = feed, end, lambda data: None
            return broken

    recorder = Recorder()
    with Server(TCP(), either(), message(Broken(1))(bytes.upper), log=False, observers=[recorder]) as server:
        server.start()
        other = dial(server.address, b"\1a")
        assert other.recv(2) == b"\1A"
        client = dial(server.address, b"\5" + bytes(20 if method == "feed" else 2))
        client.shutdown(socket.SHUT_WR)
        outcome = recorder.outcome(1)
        assert (outcome.status, type(outcome.error)) == (Status.FAILED, ZeroDivisionError)
        other.sendall(b"\1b")
        assert other.recv(2) == b"\1B"


def test_a_copy_of_a_connection_does_not_keep_the_loop_busy(polls: list[None], dial: Dial, line: Line) -> None:
    """epoll(7) goes on telling of a descriptor that is closed here and open elsewhere, in a child of a handler's say,
    unless it was taken out before."""
    selector = Selector(blocked_after=None)
    with Server(TCP(), selector, shout) as server:
        server.start()
        client = dial(server.address, b"a\n")
        assert line(client) == b"A\n"
        assert selector._loop is not None
        (number,) = selector._loop.table.peers
        copy = os.dup(number)
        try:
            client.close()
            while server.jobs():
                pass
            before = len(polls)
            threading.Event().wait(0.2)
            assert len(polls) - before < 20
        finally:
            os.close(copy)
