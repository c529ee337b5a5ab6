"""Fork: a child process for each request, with manners."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from tricorn import Server, StateError, Status
from tricorn.events import JobFinished, JobStarted
from tricorn.strategies import Fork
from tricorn.testing.recorder import Recorder
from tricorn.transports import TCP, UDP

Dial = Callable[..., socket.socket]
Script = Callable[..., subprocess.Popen[str]]
LOCAL = TCP("127.0.0.1", 0)


def obey(connection: Any) -> None:
    match connection.recv(100).split():
        case [b"pid"]:
            connection.send(b"%d" % os.getpid())
        case [b"hold"]:
            connection.send(b"%d" % os.getpid())
            connection.recv(1)
        case [b"listeners"]:
            connection.send(b"%d" % len(listening_sockets()))
        case [b"signal", number]:
            os.kill(os.getpid(), int(number))


def listening_sockets() -> list[int]:
    """Descriptors of this process that listen: SO_ACCEPTCONN of socket(7)."""
    found = []
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            with socket.socket(fileno=os.dup(fd)) as sock:
                if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    found.append(fd)
        except OSError:
            pass
    return found


def test_concurrency() -> None:
    """It tells the server how many it can serve at once: 40 by default."""
    assert Fork().concurrency == 40
    assert Fork(max_children=3).concurrency == 3


def test_own_process(dial: Dial) -> None:
    """Each request has a process of its own, which is not the program's."""
    with Server(LOCAL, Fork(), obey) as server:
        server.start()
        pids = {int(dial(server.address, b"pid").recv(100)) for _ in range(4)}
    assert len(pids) == 4
    assert os.getpid() not in pids


def test_max_children(dial: Dial, recorder: Recorder) -> None:
    """No more children than allowed; further requests wait, and are served when one has ended."""
    with Server(LOCAL, Fork(max_children=2), obey, observers=[recorder]) as server:
        server.start()
        holding = [dial(server.address, b"hold") for _ in range(2)]
        pids = [int(client.recv(100)) for client in holding]
        waiting = dial(server.address, b"pid")
        assert sorted(job.where for job in server.jobs()) == sorted(f"process {pid}" for pid in pids)
        holding[0].close()
        assert int(waiting.recv(100)) not in pids
        holding[1].close()
    kinds = [type(each) for each in recorder.told if isinstance(each, (JobStarted, JobFinished))]
    assert kinds.index(JobFinished) < len(kinds) - 1 - kinds[::-1].index(JobStarted)
    assert recorder.most_at_once() == 2


def test_listener(dial: Dial) -> None:
    """A child holds no listening socket, whatever the request is."""
    with Server([LOCAL, TCP("127.0.0.1", 0), UDP("127.0.0.1", 0)], Fork(), count_listeners) as server:
        server.start()
        tcp, _, udp = server.addresses
        assert dial(tcp, b"listeners").recv(100) == b"0"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(10)
            client.sendto(b"listeners", udp)
            assert client.recv(100) == b"0"


def count_listeners(request: Any) -> None:
    reply = getattr(request, "reply", None) or request.send
    reply(b"%d" % len(listening_sockets()))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGUSR2])
def test_killed(number: signal.Signals, dial: Dial, recorder: Recorder) -> None:
    """A child that a signal ends costs its own request, which is lost, by the signal's name."""
    with Server(LOCAL, Fork(), obey, observers=[recorder], log=False) as server:
        server.start()
        assert dial(server.address, b"signal %d" % number).recv(1) == b""
        outcome = recorder.outcome(1)
        assert dial(server.address, b"pid").recv(100) != b""
        report = server.drain()
    assert (outcome.status, outcome.detail) == (Status.LOST, f"was killed by {number.name}")
    assert number.name in str(outcome.error)
    assert (report.lost, report.completed) == (1, 1)


def test_many(dial: Dial) -> None:
    """Children are reaped as they end: many requests leave none behind."""
    with Server(LOCAL, Fork(max_children=3), obey) as server:
        server.start()
        for _ in range(50):
            assert dial(server.address, b"pid").recv(100)
        assert server.drain().completed == 50


def test_threads(dial: Dial) -> None:
    """In a program with a thread it is refused, with the thread's name and what would work; nothing is left bound."""
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="somebody-else")
    thread.start()
    try:
        for begin in ("start", "serve_forever"):
            server = Server(LOCAL, Fork(), obey)
            with pytest.raises(StateError, match=r"cannot fork in a program with 2 th.* .*somebody-else.* ThreadPool"):
                getattr(server, begin)()
            assert server.state.value == "closed"
            with pytest.raises(ConnectionRefusedError):
                dial(server.address)
    finally:
        end.set()
        thread.join()


def test_thread_that_comes_later(dial: Dial) -> None:
    """A handler's own thread is no matter: it is in the child."""

    def start_a_thread(connection: Any) -> None:
        thread = threading.Thread(target=connection.send, args=(b"from a thread",))
        thread.start()
        thread.join()

    with Server(LOCAL, Fork(), start_a_thread) as server:
        server.start()
        assert [dial(server.address).recv(100) for _ in range(2)] == [b"from a thread"] * 2


PROGRAM = """
    import os, subprocess, sys, threading
    from tricorn import Server
    from tricorn.strategies import Fork, ProcessPool
    from tricorn.transports import TCP

    def handler(connection):
        words = connection.recv(100)
        if words == b"stop":
            server.request_stop()
        print("child", end=" ")
        connection.send(b"%d" % os.getpid())
        if words == b"hold":
            connection.recv(1)

    server = Server(TCP("127.0.0.1", 0), eval(sys.argv[1]), handler, drain_timeout=float(sys.argv[2]))
    server.bind()
"""

FOREIGN = (
    PROGRAM
    + """
    foreign = [subprocess.Popen([sys.executable, "-c", f"exit({n})"]) for n in (7, 8)]
    waiting = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read(); exit(9)"], stdin=subprocess.PIPE)
    print(server.address[1], flush=True)
    server.serve_forever()
    waiting.communicate()
    print([each.wait() for each in [*foreign, waiting]])
"""
)

dispatchers = pytest.mark.parametrize("dispatcher", ["Fork()", "ProcessPool(2)"])


def begin(program: subprocess.Popen[str]) -> tuple[str, int]:
    assert program.stdout is not None
    return "127.0.0.1", int(program.stdout.readline())


@dispatchers
def test_foreign_children(dispatcher: str, script: Script, dial: Dial) -> None:
    """Other children of the program keep their exit status for whoever started them."""
    program = script(FOREIGN, dispatcher, 8)
    address = begin(program)
    for _ in range(5):
        assert dial(address, b"pid").recv(100)
    assert dial(address, b"stop").recv(100)
    out, err = program.communicate(timeout=20)
    assert out.splitlines()[-1].endswith("[7, 8, 9]")
    assert (err, program.returncode) == ("", 0)


def test_greedy_program(script: Script, dial: Dial) -> None:
    """A program that waits for every child there is takes no more than the exit status from us."""
    program = script(
        PROGRAM
        + """
    import signal
    def reap(number, frame):
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            pass
    signal.signal(signal.SIGCHLD, reap)
    print(server.address[1], flush=True)
    report = server.serve_forever()
    print(report.completed, report.lost)
""",
        "Fork()",
        8,
    )
    address = begin(program)
    for _ in range(20):
        assert dial(address, b"pid").recv(100)
    assert dial(address, b"stop").recv(100)
    out, err = program.communicate(timeout=20)
    assert (out.split()[-2:], err) == (["21", "0"], "")


def test_output(script: Script, dial: Dial) -> None:
    """What the program had printed comes out once; what a child prints comes out, though nobody flushed it."""
    serve = '    print(server.address[1], flush=True); print("parent", end=" "); server.serve_forever(); print("end")'
    program = script(PROGRAM + serve, "Fork()", 8)
    address = begin(program)
    assert dial(address, b"pid").recv(100)
    assert dial(address, b"stop").recv(100)
    assert program.stdout is not None  # of which the first line was read already, and perhaps more than that
    assert program.stderr is not None
    assert sorted(program.stdout.read().split()) == ["child", "child", "end", "parent"]
    assert (program.stderr.read(), program.wait(20)) == ("", 0)


@dispatchers
@pytest.mark.parametrize("way", ["server.serve_forever()", "server.start(); threading.Event().wait()"])
def test_death_of_the_program(way: str, dispatcher: str, script: Script, dial: Dial) -> None:
    """When the program is killed, its processes end as well."""
    program = script(PROGRAM + f"    print(server.address[1], flush=True); {way}", dispatcher, 0.2)
    client = dial(begin(program), b"hold")
    child = os.pidfd_open(int(client.recv(100)))
    try:
        program.kill()
        assert select.select([child], [], [], 10)[0], "the child lives on"
        with pytest.raises(ConnectionError):  # refused, or reset by a server that is just going
            while True:
                dial(client.getpeername()).close()
    finally:
        os.close(child)


RUSH = """
    import os, resource, sys
    from tricorn import Server
    from tricorn.strategies import Fork
    from tricorn.transports import UDP

    def handler(packet):
        if packet.data == b"slow":
            os.read(0, 1)
        packet.reply(b"ok")

    server = Server(UDP("127.0.0.1", 0), Fork(), handler, log=False)
    server.bind()
    print(server.address[1], flush=True)
    room = len(os.listdir("/proc/self/fd")) + 12
    resource.setrlimit(resource.RLIMIT_NOFILE, (room, room))
    report = server.serve_forever(signals=True)
    print(report.accepted == report.completed + report.refused + report.lost, flush=True)
"""


def test_a_rush_beyond_the_descriptors_is_got_over(script: Script) -> None:
    """Packets free no descriptor when a child has them: some are refused, and then all goes on as before."""
    program = script(RUSH)
    address = begin(program)
    assert program.stdin is not None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        for _ in range(25):
            client.sendto(b"slow", address)
        client.settimeout(0.5)
        with suppress(TimeoutError):
            client.recv(10)  # those that were served at all wait to be let go
        client.settimeout(10)
        program.stdin.write("x" * 40)
        program.stdin.flush()
        answered = 0
        while answered < 5:
            client.sendto(b"quick", address)
            answered += client.recv(10) == b"ok"
    program.send_signal(signal.SIGTERM)
    assert program.wait(10) == 0
