"""ProcessPool under signals, in programs of its own: reloads under load, kills in a drain, starts that fail."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tricorn import Deadlines, Server
from tricorn.events import JobFinished, Status, WorkerEnded
from tricorn.strategies import ProcessPool, ThreadPool
from tricorn.testing.recorder import Recorder
from tricorn.transports import TCP

Dial = Callable[..., socket.socket]
Script = Callable[..., "subprocess.Popen[str]"]

SERVE = """
import os, sys, time
from tricorn import Server
from tricorn.events import WorkerEnded
from tricorn.strategies import Fork, ProcessPool, Sync, ThreadPool
from tricorn.transports import TCP, UnixStream

def who(connection):
    connection.recv()
    connection.send(b"%d" % os.getpid())

def slow(connection):
    connection.send(b"%d." % os.getpid())
    connection.recv()
    time.sleep(1)
    connection.send(b"done")

def watch(event):
    if isinstance(event, WorkerEnded):
        print(event.expected, len(event.lost), flush=True)

transport, dispatcher, handler = (eval(text) for text in sys.argv[1:4])
server = Server(transport, dispatcher, handler, observers=[watch], drain_timeout=20)
server.bind()
address = server.address
print(address if isinstance(address, str) else address[1], flush=True)
server.serve_forever(signals=not sys.argv[4:])
"""


def reach(address: str) -> socket.socket:
    """Connect to a port of this machine, or to a path."""
    if address.isdigit():
        return socket.create_connection(("127.0.0.1", int(address)), timeout=20)
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    sock.connect(address)
    return sock


class Caller(threading.Thread):
    """Asks again and again, each time on a connection of its own."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.address = address
        self.answers: list[bytes] = []
        self.failures: list[object] = []
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            try:
                with closing(reach(self.address)) as client:
                    client.sendall(b"x")
                    answer = client.recv(20)
                (self.answers if answer else self.failures).append(answer)
            except OSError as error:
                self.failures.append(error)


def ask(address: str) -> bytes:
    """Who answers; it has begun to serve, then."""
    with closing(reach(address)) as client:
        client.sendall(b"x")
        return client.recv(20)


def line(program: subprocess.Popen[str]) -> str:
    """What the program says next."""
    assert program.stdout is not None
    return program.stdout.readline().strip()


@pytest.mark.parametrize("transport", ["TCP()", "UnixStream('socket')"])
@pytest.mark.parametrize("pool", ["ProcessPool(2)", "ProcessPool(2, inner=ThreadPool(2))"])
def test_three_reloads_under_load(transport: str, pool: str, script: Script, tmp_path: Path) -> None:
    """Each SIGHUP replaces every worker, and not one client of many is refused or cut off."""
    program = script(SERVE, transport, pool, "who")
    address = line(program)
    address = address if address.isdigit() else str(tmp_path / address)
    assert ask(address)
    callers = [Caller(address) for _ in range(4)]
    for caller in callers:
        caller.start()
    try:
        for _ in range(3):
            program.send_signal(signal.SIGHUP)
            assert [line(program), line(program)] == ["True 0", "True 0"]
    finally:
        for caller in callers:
            caller.over.set()
        for caller in callers:
            caller.join()
    assert [failure for caller in callers for failure in caller.failures] == []
    assert all(caller.answers for caller in callers)
    program.send_signal(signal.SIGTERM)
    program.communicate(timeout=20)
    assert program.returncode == 0


def test_a_hang_up_where_there_are_no_processes(script: Script) -> None:
    """Ends nobody."""
    program = script(SERVE, "TCP()", "ThreadPool(2)", "who")
    address = line(program)
    assert ask(address)
    program.send_signal(signal.SIGHUP)
    assert ask(address) == b"%d" % program.pid
    program.send_signal(signal.SIGTERM)
    program.communicate(timeout=20)
    assert program.returncode == 0


def test_a_hang_up_that_nobody_asked_for(script: Script) -> None:
    """Without ``signals=True`` it means what it means to every program."""
    program = script(SERVE, "TCP()", "ThreadPool(2)", "who", "without")
    assert ask(line(program))
    program.send_signal(signal.SIGHUP)
    program.communicate(timeout=20)
    assert program.returncode == -signal.SIGHUP


@pytest.mark.parametrize("dispatcher", ["ProcessPool(1)", "ProcessPool(1, inner=ThreadPool(2))", "Fork()"])
def test_the_address_after_the_death_of_the_parent(dispatcher: str, script: Script) -> None:
    """Is free at once, though a worker is at a request: that is answered, or ends with its child under `Fork`."""
    program = script(SERVE, "TCP()", dispatcher, "slow")
    port = line(program)
    with closing(reach(port)) as client:
        file = client.makefile("rb")
        number = b""
        while not number.endswith(b"."):
            number += file.read(1)
        worker = os.pidfd_open(int(number[:-1]))
        client.sendall(b"go on")
        program.kill()
        program.wait()
        until = monotonic() + 20
        while not _can_listen(int(port)):
            assert monotonic() < until
        at_work = not select.select([worker], [], [], 0)[0]
        try:
            rest = file.read()
        except ConnectionResetError:  # it was killed before it had read our words
            rest = b""
        assert rest == (b"" if dispatcher == "Fork()" else b"done")
        assert at_work or dispatcher == "Fork()"
    assert select.select([worker], [], [], 20)[0]
    os.close(worker)


def _can_listen(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def test_a_kill_during_a_drain(script: Script) -> None:
    """Costs the requests of that worker; the others are answered."""
    program = script(SERVE, "TCP()", "ProcessPool(2)", "slow")
    port = line(program)
    clients = [reach(port) for _ in range(2)]
    pids = [int(client.recv(20)[:-1]) for client in clients]
    program.send_signal(signal.SIGTERM)
    for client in clients:
        client.sendall(b"go on")
    os.kill(pids[0], signal.SIGKILL)
    assert line(program) == "False 1"
    assert clients[1].recv(20) == b"done"
    assert line(program) == "True 0"
    for client in clients:
        client.close()
    program.communicate(timeout=20)


def test_a_command_whose_workers_never_begin(tmp_path: Path) -> None:
    """Ends with a status that is not 0, and says why."""
    (tmp_path / "broken.py").write_text(
        "import os, signal\nfrom tricorn.strategies import sync\n\n"
        "def serve(self, intake):\n    os.kill(os.getpid(), signal.SIGSEGV)\n\n"
        "sync.Sync.serve = serve\n\ndef handle(connection):\n    pass\n"
    )
    ended = subprocess.run(
        [sys.executable, "-m", "tricorn", "serve", "tcp://127.0.0.1:0", "--dispatcher",
         "process-pool?workers=2&start_attempts=3", "broken:handle"],
        cwd=tmp_path, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert ended.returncode != 0
    assert "no worker process has ever begun to serve" in ended.stderr


def test_a_request_that_keeps_the_interpreter(dial: Dial) -> None:
    """Costs its process, too, though nothing else runs in that any more: a regular expression, say."""

    def search(connection: Any) -> None:
        if connection.recv() == b"search":
            re.match(r"(a+)+$", "a" * 60 + "b")
        connection.send(b"done")

    recorder = Recorder()
    with Server(
        TCP(), ProcessPool(1), search, deadlines=Deadlines(request=1.0), log=False, observers=[recorder]
    ) as server:
        server.start()
        assert dial(server.address, b"search").recv(1) == b""
        (ended,) = recorder.wait(WorkerEnded, 1)
        assert "a request took longer than 1.0 s" in ended.reason
        assert len(ended.lost) == 1
        assert dial(server.address, b"other").recv(20) == b"done"


def test_a_handler_that_tidies_up_after_a_silent_peer(dial: Dial) -> None:
    """Is let do so: it was its peer that took too long."""

    def wait(connection: Any) -> None:
        connection.send(b"began")
        try:
            connection.recv()
        except TimeoutError:
            threading.Event().wait(2)
            raise

    recorder = Recorder()
    pool = ProcessPool(1, inner=ThreadPool(2))
    deadlines = Deadlines(request=10, idle=0.2)
    with Server(TCP(), pool, wait, deadlines=deadlines, log=False, observers=[recorder]) as server:
        server.start()
        assert dial(server.address).recv(5) == b"began"
        (finished,) = recorder.wait(JobFinished, 1)
        assert finished.outcome.status is Status.TIMED_OUT
        assert recorder.of(WorkerEnded) == []
