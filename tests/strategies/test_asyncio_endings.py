"""Asyncio: how it ends, with handlers that are idle, at work, stubborn, or stuck."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from tricorn import Server
from tricorn.errors import StateError
from tricorn.events import JobFinished, JobStarted, ServerStopping, Status
from tricorn.handlers import LengthPrefixed, Lines, message
from tricorn.strategies import Asyncio
from tricorn.testing.bounds import in_thread
from tricorn.testing.recorder import Recorder
from tricorn.transports import TCP

BOUND = 10.0


@pytest.fixture
def dispatcher(loop: Any) -> Asyncio:
    return Asyncio(loop=loop)


@pytest.fixture
def serve(recorder: Recorder, nothing_left_behind: None) -> Iterator[Callable[..., Server]]:
    """Start a server on a free port; it is closed at the end of the test."""
    servers: list[Server] = []

    def start(dispatcher: Any, handler: Any, **options: Any) -> Server:
        server = Server(TCP("127.0.0.1", 0), dispatcher, handler, observers=[recorder], log=False, **options)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.close()


def serving_thread() -> threading.Thread:
    (thread,) = (each for each in threading.enumerate() if each.name == "tricorn-serve")
    return thread


# -- in order


def test_a_request_under_way_is_finished(dispatcher: Asyncio, dial: Any, serve: Any, recorder: Recorder) -> None:
    """A coroutine at work is waited for, and new clients are told at once that nobody listens."""
    free = threading.Event()

    async def handler(connection: Any) -> None:
        line = await connection.readline()
        await asyncio.to_thread(free.wait, BOUND)
        assert connection.draining
        await connection.send(line)
        await connection.send(b"%d" % len(await connection.recv()))

    server = serve(dispatcher, handler)
    client = dial(server.address, b"line\n")
    recorder.wait(JobStarted)
    with in_thread(lambda: server.drain(BOUND), "a drain whose last request had ended") as reports:
        recorder.wait(ServerStopping)
        while True:  # until the loop has heard of it
            try:
                dial(server.address).close()
            except ConnectionRefusedError:
                break
            except ConnectionResetError:
                continue
        free.set()
        assert client.recv(5) == b"line\n"
        assert client.recv(1) == b"0"
    assert reports[0].completed + reports[0].disconnected == reports[0].accepted
    assert reports[0].clean


def test_half_a_message(
    dispatcher: Asyncio, dial: Any, serve: Any, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that had begun a message gets to finish it, and one that goes silent in the middle is given up."""
    monkeypatch.setattr("tricorn.message_link.SILENCE_S", 0.5)
    monkeypatch.setattr("tricorn.stream_link.SILENCE_S", 0.5)

    async def exact(connection: Any) -> None:
        while size := await connection.readexactly(1):
            await connection.send(size + await connection.readexactly(size[0]))

    handlers = (message(LengthPrefixed(1))(lambda data: data), exact)
    for number, handler in enumerate(handlers, start=1):
        server = serve(Asyncio(loop=dispatcher.loop), handler)
        talking, silent = dial(server.address, b"\x04ab"), dial(server.address, b"\x04ab")
        whole = dial(server.address, b"\x02ok")
        assert whole.recv(3) == b"\x02ok"
        with in_thread(lambda server=server: server.drain(BOUND), "a drain") as reports:
            recorder.wait(ServerStopping, number)
            talking.sendall(b"cd")
            assert talking.recv(5) == b"\x04abcd"
            assert [client.recv(1) for client in (talking, silent, whole)] == [b"", b"", b""]
        assert (reports[0].completed, reports[0].refused) == (2, 1), str(reports[0])


def test_no_second_request_after_the_stop(dispatcher: Asyncio, dial: Any, serve: Any, recorder: Recorder) -> None:
    """A peer that goes on and on after the stop gets one exchange, as under every dispatcher."""

    async def echo(connection: Any) -> None:
        async for line in connection:
            await connection.send(line)

    for number, handler in enumerate((echo, message(Lines())(lambda line: line)), start=1):
        server = serve(Asyncio(loop=dispatcher.loop), handler)
        client = dial(server.address, b"one\n")
        assert client.recv(4) == b"one\n"
        with in_thread(lambda server=server: server.drain(BOUND), "a drain with a busy peer") as reports:
            recorder.wait(ServerStopping, number)
            try:
                for _ in range(100_000):
                    client.sendall(b"more\n")
                    if not client.recv(5):
                        break
                else:
                    pytest.fail("it went on and on")
            except ConnectionError:
                pass
        assert reports[0].clean


def test_stopping_from_the_handler(dispatcher: Asyncio, dial: Any, serve: Any, recorder: Recorder) -> None:
    """request_stop() works, drain() would wait for itself and says so: in a coroutine, and in a message's function."""

    async def stop(connection: Any) -> None:
        with pytest.raises(StateError, match="call request_stop"):
            server.drain()
        server.request_stop()
        await connection.send(b"stopped\n")

    @message(Lines())
    def stop_by_message(line: bytes) -> bytes:
        with pytest.raises(StateError, match="call request_stop"):
            server.drain()
        server.request_stop()
        return b"stopped"

    for handler in (stop, stop_by_message):
        server = serve(Asyncio(loop=dispatcher.loop), handler)
        assert dial(server.address, b"stop\n").recv(8) == b"stopped\n"
        assert server.drain().completed == 1


# -- at the deadline


def test_cancelled_at_the_deadline(dispatcher: Asyncio, dial: Any, serve: Any, recorder: Recorder) -> None:
    """The task gets a CancelledError, and the outcome is CANCELLED."""
    seen = []

    async def wait(connection: Any) -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    server = serve(dispatcher, wait)
    dial(server.address)
    recorder.wait(JobStarted)
    report = server.drain(0.1)
    assert (report.cancelled, report.abandoned, seen) == (1, (), ["cancelled"])


def test_cancelled_while_sending(dispatcher: Asyncio, dial: Any, serve: Any, recorder: Recorder) -> None:
    """A peer that does not read holds up the end until the deadline, while the handler sends and after it."""

    async def send(connection: Any) -> None:
        await connection.send(b"x" * 10_000_000)

    async def leave(connection: Any) -> None:
        connection.transport.write(b"x" * 10_000_000)

    for handler in (send, leave, message(Lines())(lambda line: b"x" * 10_000_000)):
        server = serve(Asyncio(loop=dispatcher.loop), handler)
        client = dial(server.address, b"go\n")
        assert client.recv(1) == b"x"
        assert server.drain(0.1).cancelled == 1


def test_a_task_that_swallows_its_cancellation(dispatcher: Asyncio, dial: Any, serve: Any, recorder: Recorder) -> None:
    """It is abandoned, and neither the end nor the loop's thread waits for it."""

    async def stubborn(connection: Any) -> None:
        while True:
            try:
                await asyncio.sleep(3600)
            except BaseException:
                asyncio.get_running_loop()

    server = serve(dispatcher, stubborn)
    thread = serving_thread()
    client = dial(server.address)
    recorder.wait(JobStarted)
    report = server.drain(0.1)
    assert len(report.abandoned) == 1
    assert client.recv(1) == b""
    thread.join(BOUND)
    assert not thread.is_alive()


def test_stuck(dispatcher: Asyncio, dial: Any, serve: Any, recorder: Recorder) -> None:
    """A handler that blocks the loop is abandoned with its stack, and every peer sees the end."""
    free = threading.Event()

    async def stuck_for_ever(connection: Any) -> None:
        if await connection.readline() == b"stuck\n":
            await connection.send(b"now\n")
            await asyncio.sleep(0)
            free.wait(60)

    server = serve(dispatcher, stuck_for_ever)
    thread = serving_thread()
    innocent, guilty = dial(server.address), dial(server.address, b"stuck\n")
    try:
        assert guilty.recv(4) == b"now\n"
        report = server.drain(0.1)
        assert report.abandoned
        assert "stuck_for_ever" in report.abandoned[0].stack
        assert innocent.recv(1) == b""
    finally:
        free.set()
    thread.join(BOUND)
    assert not thread.is_alive()


def test_a_message_function_that_is_stuck(dispatcher: Asyncio, dial: Any, serve: Any, recorder: Recorder) -> None:
    """The same for a message handler."""
    free, begun = threading.Event(), threading.Event()

    @message(Lines())
    def stuck_for_ever(line: bytes) -> None:
        begun.set()
        free.wait(60)

    server = serve(dispatcher, stuck_for_ever)
    thread = serving_thread()
    dial(server.address, b"stuck\n")
    try:
        assert begun.wait(BOUND)
        (abandoned,) = server.drain(0.1).abandoned
        assert "stuck_for_ever" in abandoned.stack
    finally:
        free.set()
    thread.join(BOUND)
    assert not thread.is_alive()


def test_a_broken_intake(dispatcher: Asyncio, dial: Any, recorder: Recorder) -> None:
    """Where accepting raises, serving ends and raises it, and every job has its outcome."""

    async def wait(connection: Any) -> None:
        await connection.recv()

    server = Server(TCP("127.0.0.1", 0), dispatcher, wait, observers=[recorder], log=False)
    server.bind()

    def break_it() -> None:
        recorder.wait(JobStarted)
        intake = server._engine.intake  # type: ignore[union-attr]
        intake._accept = lambda: 1 / 0  # type: ignore[assignment, return-value]
        with suppress(ConnectionError):  # it may be gone by then
            dial(server.address)

    dial(server.address)
    with in_thread(break_it, "the one who breaks it"), pytest.raises(ZeroDivisionError):
        server.serve_forever()
    assert recorder.outcome(1).status in {Status.FAILED, Status.CANCELLED}
    assert len(recorder.of(JobFinished)) == len(recorder.of(JobStarted))  # the second may have got in before it broke


# -- in the main thread, with signals

SERVE = """
    import asyncio, socket, sys, time, threading
    from tricorn import Server
    from tricorn.handlers import Lines, message
    from tricorn.strategies import Asyncio
    from tricorn.transports import TCP

    def get_stuck():
        print("stuck", flush=True)
        time.sleep(600)

    async def coroutine(connection):
        async for line in connection:
            await connection.send(line)
            if line == b"stuck\\n":
                get_stuck()

    @message(Lines())
    def messages(line, state):
        if line == b"stuck":
            get_stuck()
        return line

    loop, handler, options = sys.argv[1], globals()[sys.argv[2]], {"signals": sys.argv[3] == "signals"}
    server = Server(TCP("127.0.0.1", 0), Asyncio(loop=loop), handler, log=False, drain_timeout=float(sys.argv[4]))
    server.bind()
    print(server.address[1], flush=True)
    try:
        report = server.serve_forever(**options)
    except KeyboardInterrupt:
        report = server.report
        print("interrupted")
    print(report)
"""


@pytest.mark.parametrize("shape", ["coroutine", "messages"])
def test_sigterm(dispatcher: Asyncio, dial: Any, script: Any, shape: str) -> None:
    """With signals=True it drains, and nothing is said on standard error."""
    program = script(SERVE, dispatcher.loop, shape, "signals", 8)
    client = dial(("127.0.0.1", int(program.stdout.readline())), b"hello\n")
    assert client.recv(6) == b"hello\n"
    program.send_signal(signal.SIGTERM)
    out, err = program.communicate(timeout=BOUND)
    assert "1 accepted, 1 completed" in out, out
    assert (program.returncode, err) == (0, "")


@pytest.mark.parametrize("shape", ["coroutine", "messages"])
def test_a_stuck_handler_in_the_main_thread(dispatcher: Asyncio, dial: Any, script: Any, shape: str) -> None:
    """A handler that sleeps in the main thread past the deadline is interrupted, and the program ends."""
    program = script(SERVE, dispatcher.loop, shape, "signals", 0.1)
    dial(("127.0.0.1", int(program.stdout.readline())), b"stuck\n")
    assert program.stdout.readline() == "stuck\n"
    program.send_signal(signal.SIGTERM)
    out, err = program.communicate(timeout=BOUND)
    assert "1 abandoned" in out, out
    assert (program.returncode, err) == (0, "")


def test_ctrl_c(dispatcher: Asyncio, dial: Any, script: Any) -> None:
    """Without signals=True, Ctrl-C ends it in order and is raised."""
    program = script(SERVE, dispatcher.loop, "coroutine", "plain", 8)
    client = dial(("127.0.0.1", int(program.stdout.readline())), b"hello\n")
    assert client.recv(6) == b"hello\n"
    program.send_signal(signal.SIGINT)
    out, err = program.communicate(timeout=BOUND)
    assert "interrupted\n" in out and "1 accepted" in out, out  # completed, unless it was just in the handler
    assert (program.returncode, err) == (0, "")


def test_nobody_stays_connected(dispatcher: Asyncio, dial: Any, serve: Any) -> None:
    """close() cuts everybody off at once."""

    async def wait(connection: Any) -> None:
        await connection.send(b"hi")
        await asyncio.sleep(3600)

    server = serve(dispatcher, wait)
    clients = [dial(server.address) for _ in range(10)]
    assert [client.recv(2) for client in clients] == [b"hi"] * 10
    server.close()
    for client in clients:
        try:
            assert client.recv(1) == b""
        except ConnectionError:
            pass
    assert server.report.cancelled == 10
    with pytest.raises(OSError), socket.create_connection(server.address, timeout=1):
        pass
