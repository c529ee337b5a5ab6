"""Errors of accept(2): each is retried, waited out, taken for the end, or shown."""

from __future__ import annotations

import errno
import resource
import select
import socket
import subprocess
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tricorn import Server
from tricorn.accepting import RETRY_LIMIT
from tricorn.contracts import Dispatcher, Intake
from tricorn.errors import PeerRefused
from tricorn.events import AcceptPaused, JobRefused, ServerClosed
from tricorn.strategies import Sync, Thread, ThreadPool
from tricorn.testing.recorder import Recorder
from tricorn.transports import UDP, Memory

in_process = pytest.mark.parametrize("dispatcher", [Sync, Thread, ThreadPool, lambda: ThreadPool(1)])

RETRIED = [
    "ECONNABORTED",
    "ECONNRESET",
    "EINTR",
    "EPERM",
    "EPROTO",
    "EPROTONOSUPPORT",
    "ESOCKTNOSUPPORT",
    "ENETDOWN",
    "EHOSTUNREACH",
    "EOPNOTSUPP",
    "ETIMEDOUT",
]
WAITED_OUT = ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "ENOSR"]


def echo(connection: Any) -> None:
    while data := connection.recv(100):
        connection.send(data)


def check_serving(memory: Memory) -> None:
    with memory.connect() as client:
        client.settimeout(10)
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"


@in_process
@pytest.mark.parametrize("name", RETRIED)
def test_retried(name: str, dispatcher: Callable[[], Dispatcher], recorder: Recorder) -> None:
    """An error of one peer's making is nobody's business: the next one is accepted at once."""
    memory = Memory()
    with Server(memory, dispatcher(), echo, observers=[recorder]) as server:
        server.start()
        memory.inject(getattr(errno, name), times=3)
        check_serving(memory)
        assert server.drain().accepted == 1
    assert not recorder.of(AcceptPaused)


@in_process
@pytest.mark.parametrize("name", WAITED_OUT)
def test_waited_out(name: str, dispatcher: Callable[[], Dispatcher], recorder: Recorder) -> None:
    """When the machine is out of something, accepting pauses, says so, and goes on."""
    memory = Memory()
    with Server(memory, dispatcher(), echo, observers=[recorder]) as server:
        server.start()
        memory.inject(getattr(errno, name))
        (paused, *_) = recorder.wait(AcceptPaused)
        assert paused.error.errno == getattr(errno, name)
        assert paused.pause > 0
        check_serving(memory)


def test_told_once_a_second(recorder: Recorder) -> None:
    """Many pauses in a row are one event, until a second has passed."""
    memory = Memory()
    with Server(memory, ThreadPool(4), echo, observers=[recorder]) as server:
        server.start()
        memory.inject(errno.EMFILE, times=4)
        check_serving(memory)
    assert len(recorder.of(AcceptPaused)) == 1


def test_too_many_retries(recorder: Recorder) -> None:
    """An error that does not stop coming is waited out in the end, lest the loop spin."""
    memory = Memory()
    with Server(memory, Sync(), echo, observers=[recorder]) as server:
        server.start()
        memory.inject(errno.ECONNABORTED, times=RETRY_LIMIT + 1)
        assert recorder.wait(AcceptPaused)[0].error.errno == errno.ECONNABORTED
        check_serving(memory)


@in_process
@pytest.mark.parametrize("name", ["EBADF", "EINVAL", "ENOTSOCK"])
def test_the_end(name: str, dispatcher: Callable[[], Dispatcher], recorder: Recorder) -> None:
    """A listener that is closed under the server is the end of it, where there is no other."""
    memory = Memory()
    with Server(memory, dispatcher(), echo, observers=[recorder]) as server:
        server.start()
        memory.inject(getattr(errno, name))
        recorder.wait(ServerClosed)
        assert server.drain().accepted == 0


def test_the_end_of_one() -> None:
    """The other listeners are still served."""
    ending, staying = Memory(), Memory()
    with Server([ending, staying], ThreadPool(2), echo) as server:
        server.start()
        ending.inject(errno.EBADF)
        for _ in range(3):
            check_serving(staying)


@in_process
@pytest.mark.filterwarnings("ignore:Exception in thread")
def test_unknown(dispatcher: Callable[[], Dispatcher]) -> None:
    """An error that nobody has heard of ends serving, and is raised."""
    memory = Memory()
    server = Server(memory, dispatcher(), echo, log=False)
    server.bind()
    memory.inject(errno.EDOM)
    with pytest.raises(OSError, match="Numerical argument") as caught:
        server.serve_forever()
    assert caught.value.errno == errno.EDOM
    assert server.report is not None


@in_process
def test_refused_by_the_listener(dispatcher: Callable[[], Dispatcher], recorder: Recorder) -> None:
    """What a listener itself turns away is counted, told with the reason, and costs nothing."""
    memory = Memory()
    with Server(memory, dispatcher(), echo, observers=[recorder]) as server:
        server.start()
        memory.inject(PeerRefused("we do not like it", "a peer"), times=2)
        check_serving(memory)
        report = server.drain()
    assert (report.accepted, report.refused, report.completed) == (3, 2, 1)
    told = {(each.outcome.peer, each.outcome.detail) for each in recorder.of(JobRefused)}
    assert told == {("a peer", "we do not like it")}


SMALL = """
    import resource, sys
    from tricorn import Server
    from tricorn.events import AcceptPaused
    from tricorn.strategies import Fork, ProcessPool, Sync, Thread, ThreadPool
    from tricorn.transports import TCP

    def echo(connection):
        while data := connection.recv(100):
            connection.send(data)

    class Watch:
        events = frozenset({AcceptPaused})

        def __call__(self, event):
            print(event.error.errno, event.pause, flush=True)

    server = Server(TCP("127.0.0.1", 0), eval(sys.argv[1]), echo, observers=[Watch()], log=False)
    server.bind()
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]), int(sys.argv[2])))
    print(server.address[1], flush=True)
    report = server.serve_forever(signals=True)
    print(report.accepted, report.completed)
"""


@pytest.mark.parametrize(
    "dispatcher", ["Thread()", "Fork(100)", "ProcessPool(1, inner=Thread())"], ids=["Thread", "Fork", "ProcessPool"]
)
def test_out_of_descriptors(dispatcher: str, script: Callable[..., subprocess.Popen[str]]) -> None:
    """A program that runs out of descriptors pauses, and goes on when it has some again; nobody is lost."""
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 100
    program = script(SMALL, dispatcher, 32)
    assert program.stdout is not None
    address = ("127.0.0.1", int(program.stdout.readline()))
    clients = [socket.create_connection(address, timeout=10) for _ in range(40)]
    number, pause = program.stdout.readline().split()
    assert (int(number), float(pause)) == (errno.EMFILE, 0.1)
    for client in clients:  # who is in leaves, and makes room for the next
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
        client.close()
    program.terminate()
    out, err = program.communicate(timeout=20)
    assert out.splitlines()[-1] == "40 40"
    assert (err, program.returncode) == ("", 0)


class InBatches(Dispatcher):
    """An event loop that asks for two at a time, and goes by the descriptor otherwise."""

    def __init__(self) -> None:
        self.readable: list[bool] = []
        self.over = threading.Event()

    def serve(self, intake: Intake) -> None:
        held = [intake.poll(), intake.poll()]
        assert intake.poll() is None, "there was a third permit"
        for job in held:
            job.run()
        intake.poll().run()
        poll = select.poll()
        poll.register(intake.fileno(), select.POLLIN)
        self.readable.append(bool(poll.poll(5000)))
        intake.poll().run()
        self.over.set()
        while not intake.stopped:
            poll.poll(100)
            intake.poll()


def test_a_loop_that_does_not_ask_until_there_is_nothing() -> None:
    """Is still told of what waits, when there had been no permit before."""
    dispatcher = InBatches()
    with Server(UDP("127.0.0.1", 0), dispatcher, lambda packet: None, max_connections=2) as server:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for _ in range(4):
                client.sendto(b"x", server.address)
        server.start()
        assert dispatcher.over.wait(20)
    assert dispatcher.readable == [True]
