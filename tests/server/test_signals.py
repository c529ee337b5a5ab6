"""``signals=True``: SIGTERM and SIGINT as a polite request, and as an order when they come twice."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tricorn import Server, StateError
from tricorn.strategies import Sync, ThreadPool
from tricorn.transports import TCP

Script = Callable[..., subprocess.Popen[str]]

PROGRAM = """
    import signal, sys
    from tricorn import Server
    from tricorn.strategies import Fork, ProcessPool, Sync, Thread, ThreadPool
    from tricorn.transports import TCP

    def handler(connection):
        connection.send(b"held")
        connection.recv(100)
        if "twice" in sys.argv:
            print("engaged", flush=True)
            connection.recv(100)
        connection.send(b"done")

    def watch(event):
        print(type(event).__name__, flush=True)

    before = [signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)]
    options = {"drain_timeout": float(sys.argv[2]), "observers": [watch], "log": False}
    server = Server(TCP("127.0.0.1", 0), eval(sys.argv[1]), handler, **options)
    server.bind()
    print(server.address[1], flush=True)
    report = server.serve_forever(signals=True)
    after = [signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)]
    print(report.completed, report.cancelled, len(report.abandoned), before == after)
"""

every_dispatcher = pytest.mark.parametrize(
    "dispatcher", ["Sync()", "Thread()", "ThreadPool(2)", "Fork()", "ProcessPool(1)"]
)


def begin(program: subprocess.Popen[str]) -> socket.socket:
    """A client whose request is running."""
    assert program.stdout is not None
    port = int(program.stdout.readline())
    client = socket.create_connection(("127.0.0.1", port), timeout=10)
    assert client.recv(4) == b"held"
    return client


def wait_for(program: subprocess.Popen[str], event: str) -> None:
    assert program.stdout is not None
    for line in program.stdout:
        if line.strip() == event:
            return
    raise AssertionError(f"the program ended before {event}: {program.communicate()[1]}")


@every_dispatcher
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_drains(number: signal.Signals, dispatcher: str, script: Script) -> None:
    """One signal lets the running request finish; then the program goes on, with its own signal handlers back."""
    program = script(PROGRAM, dispatcher, 30)
    with begin(program) as client:
        program.send_signal(number)
        wait_for(program, "ServerStopping")
        client.sendall(b"go on")
        assert client.recv(100) == b"done"
        out, err = program.communicate(timeout=20)
    assert (out.splitlines()[-1], err, program.returncode) == ("1 0 0 True", "", 0)


@every_dispatcher
def test_two_close(dispatcher: str, script: Script) -> None:
    """A second signal ends it now, however long the drain might take."""
    program = script(PROGRAM, dispatcher, 1000, "twice")
    with begin(program) as client:
        client.sendall(b"half a request")
        wait_for(program, "engaged")
        program.send_signal(signal.SIGTERM)
        wait_for(program, "ServerStopping")
        program.send_signal(signal.SIGTERM)
        out, err = program.communicate(timeout=20)
    assert out.splitlines()[-1].endswith("True")
    assert (err, program.returncode) == ("", 0)


def test_stubborn_handler_in_the_main_thread(script: Script) -> None:
    """A handler in the serving thread that goes on at the deadline gets an exception, so that the program ends."""
    program = script(
        """
        import threading, sys
        from tricorn import Server
        from tricorn.strategies import Sync
        from tricorn.transports import TCP

        def handler(connection):
            connection.send(b"held")
            try:
                while True:
                    threading.Event().wait(1)
            finally:
                print("unwound", flush=True)

        server = Server(TCP("127.0.0.1", 0), Sync(), handler, drain_timeout=0.1)
        server.bind()
        print(server.address[1], flush=True)
        report = server.serve_forever(signals=True)
        print(len(report.abandoned), report.abandoned[0].stack.count("in handler"))
        """
    )
    with begin(program):
        program.send_signal(signal.SIGTERM)
        out, err = program.communicate(timeout=20)
    assert out == "unwound\n1 1\n"
    assert program.returncode == 0
    assert "abandoned" in err


def test_other_thread() -> None:
    """Another thread than the main one cannot serve with signals; the error names it, and the server is still bound."""
    errors: list[BaseException] = []

    def serve() -> None:
        try:
            server.serve_forever(signals=True)
        except StateError as error:
            errors.append(error)

    with Server(TCP("127.0.0.1", 0), ThreadPool(1), print) as server:
        thread = threading.Thread(target=serve, name="a-worker")
        thread.start()
        thread.join()
    assert "only in the main thread, and this is 'a-worker'" in str(errors[0])


def test_without(script: Script) -> None:
    """Without ``signals`` Ctrl-C raises KeyboardInterrupt out of `serve_forever`, with the server closed."""
    program = script(
        """
        from tricorn import Server
        from tricorn.strategies import ThreadPool
        from tricorn.transports import TCP

        server = Server(TCP("127.0.0.1", 0), ThreadPool(1), lambda connection: connection.send(b"held"))
        server.bind()
        print(server.address[1], flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("interrupted", server.state.value, server.report.completed)
        """
    )
    begin(program).close()
    program.send_signal(signal.SIGINT)
    assert program.communicate(timeout=20)[0] == "interrupted closed 1\n"


def test_handlers_stay(script: Script) -> None:
    """Serving without ``signals`` leaves the program's signal handlers alone."""
    handler = signal.getsignal(signal.SIGTERM)
    server = Server(TCP("127.0.0.1", 0), Sync(), print)
    server.request_stop()
    server.serve_forever()
    assert signal.getsignal(signal.SIGTERM) is handler


@every_dispatcher
def test_the_programs_own_handler_gets_it_too(dispatcher: str, script: Script) -> None:
    """Once, in its own process, after the end; so that what it does about the exit status still happens."""
    program = script(
        """
        import os, signal, sys
        from tricorn import Server
        from tricorn.strategies import Fork, ProcessPool, Sync, Thread, ThreadPool
        from tricorn.transports import TCP

        def mine(number, frame):
            print("mine", server.report.clean, os.getpid() == program, flush=True)
            sys.exit(70)

        def handler(connection):
            connection.send(b"held")

        program = os.getpid()
        signal.signal(signal.SIGTERM, mine)
        server = Server(TCP("127.0.0.1", 0), eval(sys.argv[1]), handler)
        server.bind()
        print(server.address[1], flush=True)
        server.serve_forever(signals=True)
        """,
        dispatcher,
    )
    with begin(program):
        program.send_signal(signal.SIGTERM)
        out, err = program.communicate(timeout=30)
    assert (out, err, program.returncode) == ("mine True True\n", "", 70)


def test_handlers_return_after_an_error() -> None:
    """The previous handlers come back when serving ends by an exception, too."""

    def previous(number: int, frame: Any) -> None: ...

    before = signal.signal(signal.SIGTERM, previous)
    try:
        with Server(TCP("127.0.0.1", 0), Broken(), print) as server, pytest.raises(ZeroDivisionError):
            server.serve_forever(signals=True)
        assert signal.getsignal(signal.SIGTERM) is previous
    finally:
        signal.signal(signal.SIGTERM, before)


class Broken(Sync):
    def serve(self, intake: Any) -> None:
        raise ZeroDivisionError
