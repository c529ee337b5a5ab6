"""ProcessPool: workers that hang, wear out, or fail at their start are replaced, and nobody is lost."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import attrs
import pytest

from tricorn import Deadlines, Dispatcher, Server
from tricorn.care import Care, Life
from tricorn.errors import ConfigurationError, WorkerLost
from tricorn.events import JobFinished, Status, WorkerEnded, WorkerStarted
from tricorn.handlers import Lines, message
from tricorn.strategies import Asyncio, ProcessPool, Route, Selector, Sync, Thread, ThreadPool
from tricorn.testing.recorder import Recorder
from tricorn.transports import TCP

Dial = Callable[..., socket.socket]
Run = Callable[..., tuple[Server, Recorder]]


def serve_one(connection: Any) -> None:
    """Says which process it is; hangs, stops, or hoards if told so."""
    order = connection.recv()
    if order == b"hang":
        threading.Event().wait(60)
    if order == b"stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if order == b"hoard":
        HOARD.append(bytearray(os.urandom(1) * 200_000_000))
    connection.send(b"%d" % os.getpid())


HOARD: list[bytearray] = []


@pytest.fixture
def run(nothing_left_behind: None) -> Iterator[Run]:
    """Start a server."""
    servers: list[Server] = []

    def start(dispatcher: Dispatcher, handler: Any = serve_one, **options: Any) -> tuple[Server, Recorder]:
        recorder = Recorder()
        server = Server(TCP(), dispatcher, handler, log=False, observers=[recorder], **options)
        server.start()
        servers.append(server)
        return server, recorder

    yield start
    for server in servers:
        server.drain(5)


def ask(dial: Dial, server: Server, words: bytes = b"who") -> int:
    """The process that answers."""
    with dial(server.address, words) as client:
        return int(client.recv(20) or b"0")


class Clients(threading.Thread):
    """Ask again and again, until the end; what is not answered is a failure."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.address = server.address
        self.answers: list[int] = []
        self.failures: list[BaseException | bytes] = []
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            try:
                with socket.create_connection(self.address, timeout=10) as client:
                    client.sendall(b"who")
                    answer = client.recv(20)
                    self.answers.append(int(answer))
            except (OSError, ValueError) as error:
                self.failures.append(error)

    def __enter__(self) -> Clients:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        self.join()


def test_a_worker_that_has_served_enough(run: Run, dial: Dial) -> None:
    """Is replaced, and its successor serves before it leaves."""
    server, recorder = run(ProcessPool(1, max_jobs=20))
    with Clients(server) as clients:
        started = recorder.wait(WorkerStarted, 3)
        ended = recorder.wait(WorkerEnded, 2)
    assert clients.failures == []
    assert [each.replaces for each in started[:3]] == [None, started[0].pid, started[1].pid]
    assert all(each.expected and not each.lost for each in ended)
    assert "was replaced: it served " in ended[0].reason


def test_a_worker_that_is_old_enough(run: Run, dial: Dial) -> None:
    """The same, by its age."""
    server, recorder = run(ProcessPool(2, max_age=0.5))
    first = {each.pid for each in recorder.wait(WorkerStarted, 2)}
    with Clients(server) as clients:
        ended = recorder.wait(WorkerEnded, 2)
    assert clients.failures == []
    assert {each.pid for each in ended[:2]} == first
    assert "was replaced: it served for" in ended[0].reason


def test_a_worker_that_has_grown(run: Run, dial: Dial) -> None:
    """The same, by its memory."""
    now = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")  # a fork begins with it
    server, recorder = run(ProcessPool(1, max_memory=now + 100_000_000))
    pid = ask(dial, server, b"hoard")
    (ended,) = recorder.wait(WorkerEnded, 1)
    assert (ended.pid, ended.expected, ended.lost) == (pid, True, ())
    assert "was replaced: it grew to " in ended.reason
    assert ask(dial, server) != pid


@pytest.mark.parametrize(
    "pool",
    [
        lambda: ProcessPool(2),
        lambda: ProcessPool(2, inner=ThreadPool(4)),
        lambda: Route(lambda request: "pool", pool=ProcessPool(2)),
    ],
    ids=["sync", "threads", "fed"],
)
def test_a_reload(pool: Callable[[], Dispatcher], run: Run, dial: Dial) -> None:
    """Replaces all, one after the other, without one failure."""
    server, recorder = run(pool())
    assert ask(dial, server)
    before = {each.pid for each in recorder.wait(WorkerStarted, 2)}
    with Clients(server) as clients:
        server.reload()
        ended = recorder.wait(WorkerEnded, 2)
        answers = len(clients.answers)
        until = monotonic() + 20
        while len(clients.answers) < answers + 20 and monotonic() < until:
            threading.Event().wait(0.01)
    assert clients.failures == []
    assert {each.pid for each in ended} == before
    assert not before & set(clients.answers[-10:])
    assert all(each.expected for each in ended)
    assert "was replaced: reload" in ended[0].reason


@pytest.mark.parametrize(
    "inner",
    [Sync(), Thread(2), ThreadPool(2), ThreadPool(2, park_idle=True), Selector(), Asyncio()],
    ids=["sync", "thread", "threads", "parking", "selector", "asyncio"],
)
def test_a_reload_while_nobody_asks(inner: Dispatcher, run: Run, dial: Dial) -> None:
    """Whatever the workers run, they are known to serve before there is a request."""
    server, recorder = run(ProcessPool(1, inner=inner), message(Lines())(lambda line: b"%d" % os.getpid()))
    first = recorder.wait(WorkerStarted, 1)[0].pid
    server.reload()
    assert recorder.wait(WorkerEnded, 1)[0].pid == first
    assert dial(server.address, b"who\n").recv(20).strip() != b"%d" % first


def test_a_reload_behind_a_loop(run: Run, dial: Dial) -> None:
    """`Selector` passes it on."""
    server, recorder = run(Selector(then=ProcessPool(1)), message(Lines())(lambda line: b"%d" % os.getpid()))
    client = dial(server.address, b"who\n")
    first = client.recv(20)
    server.reload()
    assert recorder.wait(WorkerEnded, 1)[0].expected
    client.sendall(b"who\n")
    assert client.recv(20) != first


def test_a_worker_that_gives_no_sign_of_life(run: Run, dial: Dial) -> None:
    """Is killed and replaced; what it had is lost."""
    server, recorder = run(ProcessPool(1, hang_timeout=3.0))
    dial(server.address, b"stop")
    (ended,) = recorder.wait(WorkerEnded, 1)
    assert "gave no sign of life for" in ended.reason
    assert "SIGKILL" in ended.reason
    assert len(ended.lost) == 1
    assert ask(dial, server) != ended.pid


def test_a_request_that_takes_too_long(run: Run, dial: Dial) -> None:
    """Costs its process, which is replaced at once."""
    server, recorder = run(ProcessPool(1), deadlines=Deadlines(request=1.0))
    hanging = dial(server.address, b"hang")
    assert hanging.recv(1) == b""
    (ended,) = recorder.wait(WorkerEnded, 1)
    assert "a request took longer than 1.0 s" in ended.reason
    assert ask(dial, server) not in (0, ended.pid)
    assert recorder.wait(JobFinished, 1)[0].outcome.status is Status.LOST


def test_others_of_its_process_are_let_end(run: Run, dial: Dial) -> None:
    """A worker with one that hangs is killed when it has no other."""

    def handle(connection: Any) -> None:
        order = connection.recv()
        if order == b"hang":
            threading.Event().wait(60)
        connection.send(b"began")
        for _ in range(25):
            threading.Event().wait(0.1)
            connection.send(b".")

    server, recorder = run(ProcessPool(1, inner=ThreadPool(4)), handle, deadlines=Deadlines(request=1.5))
    working = dial(server.address, b"work")
    assert working.recv(5) == b"began"
    assert dial(server.address, b"hang").recv(1) == b""
    assert len(working.makefile("rb").read()) == 25
    assert len(recorder.wait(WorkerEnded, 1)[0].lost) == 1


def test_workers_that_never_begin(nothing_left_behind: None) -> None:
    """After some attempts the server gives up, and says so."""

    @attrs.define(eq=False)
    class Broken(Sync):
        def serve(self, intake: Any) -> None:
            raise RuntimeError("no licence")

    recorder = Recorder()
    pool = ProcessPool(2, inner=Broken(), start_attempts=3)
    server = Server(TCP(), pool, serve_one, log=False, observers=[recorder])
    with pytest.raises(WorkerLost, match=r"has ever begun to serve: 3 in a row exited with status 70"):
        server.serve_forever()
    ended = recorder.of(WorkerEnded)
    assert 3 <= len(ended) <= 4
    assert "failed at its start" in ended[0].reason


def test_a_signal(script: Any) -> None:
    """SIGHUP reloads, and ends nothing; workers do not take it for theirs."""
    program = script(
        """
        import os, signal, socket, sys, threading
        from tricorn import Server
        from tricorn.events import WorkerEnded
        from tricorn.strategies import ProcessPool
        from tricorn.transports import TCP

        def watch(event):
            if isinstance(event, WorkerEnded):
                print(event.expected, flush=True)

        server = Server(TCP(), ProcessPool(1), lambda c: c.send(b"%d" % os.getpid()), observers=[watch])
        server.bind()
        print(server.address[1], flush=True)
        server.serve_forever(signals=True)
        """
    )
    port = int(program.stdout.readline())

    def who() -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            return client.recv(20)

    first = who()
    os.kill(int(first), signal.SIGHUP)
    assert who() == first
    program.send_signal(signal.SIGHUP)
    assert program.stdout.readline() == "True\n"
    assert who() != first
    program.send_signal(signal.SIGTERM)
    program.communicate(timeout=20)
    assert program.returncode == 0


def test_the_death_of_the_parent(script: Any) -> None:
    """The workers answer what they have, leave by themselves, and the port is free."""
    program = script(
        """
        import os, threading
        from tricorn import Server
        from tricorn.strategies import ProcessPool, ThreadPool
        from tricorn.transports import TCP

        def handle(connection):
            connection.send(b"%d." % os.getpid())
            connection.recv()
            connection.send(b"done")

        server = Server(TCP(), ProcessPool(1, inner=ThreadPool(2)), handle)
        server.bind()
        print(server.address[1], flush=True)
        server.serve_forever(signals=True)
        """
    )
    port = int(program.stdout.readline())
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        file = client.makefile("rb")
        number = b""
        while not number.endswith(b"."):
            number += file.read(1)
        worker = os.pidfd_open(int(number[:-1]))
        program.kill()
        program.communicate(timeout=20)
        client.sendall(b"go on")
        assert file.read() == b"done"
    import select

    assert select.select([worker], [], [], 20)[0]
    os.close(worker)
    socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.parametrize("name", ["max_jobs", "max_age", "max_memory", "hang_timeout", "start_attempts"])
def test_options(name: str) -> None:
    """Each is checked, and named."""
    with pytest.raises(ConfigurationError, match=f"{name} must be"):
        ProcessPool(1, **{name: 0})


def test_lives_differ() -> None:
    """By jitter, so that not all workers leave at once."""
    care = Care(max_jobs=100, jitter=1000, max_age=10.0)
    lives = [care.draw() for _ in range(20)]
    assert len({life.jobs for life in lives}) > 1
    assert all(100 <= (life.jobs or 0) <= 1100 and 10 <= (life.age or 0) <= 11 for life in lives)
    assert Life(None, None, None).why_over(10**9, 10**9, 10**12) == ""


def test_by_name() -> None:
    """As text."""
    from tricorn import names

    pool = names.dispatcher("process-pool?workers=2&max_jobs=1000&jitter=100&max_age=3600&hang_timeout=10")
    assert (pool.max_jobs, pool.jitter, pool.max_age, pool.hang_timeout) == (1000, 100, 3600, 10)
