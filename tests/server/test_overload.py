"""More than there is room for: what is counted and logged, and what cannot be started or found room for."""

from __future__ import annotations

import errno
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tricorn import Admission, Reject, Server, Status
from tricorn.admission import SHED
from tricorn.connection import Connection, accept_stream
from tricorn.contracts import Dispatcher
from tricorn.errors import HandshakeError, RemoteError
from tricorn.events import AcceptPaused, JobFinished, JobRefused, Outcome, Stage
from tricorn.fullness import Fullness, ToldPermits
from tricorn.observe import LogObserver
from tricorn.observe.refusals import MAX_REASONS, OTHER, RefusalCounter
from tricorn.observe.spacing import MAX_KEYS, Spacing
from tricorn.peer_socket import PeerSocket
from tricorn.strategies import Fork, Sync, Thread, ThreadPool
from tricorn.testing.recorder import Recorder
from tricorn.transports import TCP, Memory

LOCAL = TCP("127.0.0.1", 0)
BUSY = b"busy"
Dial = Callable[[Any], socket.socket]


def echo(connection: Any) -> None:
    while data := connection.recv(100):
        connection.send(data)


def hello(client: socket.socket) -> bytes:
    client.sendall(b"hello")
    return client.recv(100)


def outcome(detail: str = "", error: BaseException | None = None, status: Status = Status.REFUSED) -> Outcome:
    return Outcome(1, status, Stage.ACCEPTED, ("192.0.2.1", 5), None, 0.0, error, detail)


# -- the log


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What is logged at INFO and above."""

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            kept.append(record.getMessage())

    kept: list[str] = []
    logger = logging.getLogger("tricorn.test-overload")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.addHandler(handler := Keep())
    yield kept
    logger.removeHandler(handler)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time by which records are spaced, to be set."""
    now = [100.0]
    monkeypatch.setattr("tricorn.observe.spacing.monotonic", lambda: now[0])
    return now


def test_one_record_a_second_for_each_reason(lines: list[str], clock: list[float]) -> None:
    """A flood of refusals is one record a second for each reason, which says how many there were besides."""
    observer = LogObserver(logging.getLogger("tricorn.test-overload"))
    for _ in range(1000):
        observer(JobRefused(outcome("full")))
        observer(JobRefused(outcome("too many from this peer")))
    assert len(lines) == 2
    clock[0] += 1.0
    for _ in range(1000):
        observer(JobRefused(outcome("full")))
    assert len(lines) == 3
    assert lines[2].endswith(": full (999 more of these since the last one told)")
    assert "192.0.2.1:5 refused" in lines[2]


def test_what_a_request_did_wrong_is_always_told(lines: list[str], clock: list[float]) -> None:
    """A refusal with an error of its own has a record of its own."""
    observer = LogObserver(logging.getLogger("tricorn.test-overload"))
    for number in range(5):
        observer(JobRefused(outcome(error=HandshakeError(f"number {number}"))))
    assert len(lines) == 5


def test_spacing_is_bounded(clock: list[float]) -> None:
    """However many reasons somebody makes up, there are not many more records than one for each of the first."""
    spacing = Spacing()
    told = [spacing.pass_or_count(str(number)) for number in range(100 * MAX_KEYS)]
    assert sum(each is not None for each in told) == MAX_KEYS + 1


# -- the count


def test_counting_by_reason() -> None:
    """Refusals are counted by their words, else by their error's name, also one of another process."""
    counter = RefusalCounter()
    counter(JobRefused(outcome("full")))
    counter(JobRefused(outcome("full", OSError())))
    counter(JobFinished(outcome(error=HandshakeError("no"))))
    counter(JobFinished(outcome(error=RemoteError("HandshakeError", "no"))))
    counter(JobRefused(outcome()))
    counter(JobFinished(outcome(SHED, status=Status.TIMED_OUT)))
    counter(JobFinished(outcome("slow", status=Status.TIMED_OUT)))
    counter(JobFinished(outcome(status=Status.FAILED, error=ValueError())))
    assert counter.counts() == {"full": 2, "HandshakeError": 2, OTHER: 1, SHED: 1}


def test_reasons_are_bounded() -> None:
    """A dispatcher that makes up reasons cannot fill the memory."""
    counter = RefusalCounter()
    for number in range(10 * MAX_REASONS):
        counter(JobRefused(outcome(f"reason {number}")))
    counts = counter.counts()
    assert len(counts) == MAX_REASONS + 1
    assert counts[OTHER] == 9 * MAX_REASONS


def test_counted_while_nobody_logs(dial: Dial) -> None:
    """The count is there without a log and without observers, and after the end."""
    server = Server(LOCAL, Sync(), echo, verify=lambda _: False, log=False)
    assert server.refusals() == {}
    with server:
        server.start()
        assert [dial(server).recv(1) for _ in range(3)] == [b"", b"", b""]
    assert server.refusals() == {"verify returned false": 3}


# -- what cannot be started


def test_no_thread_for_a_request(monkeypatch: pytest.MonkeyPatch, dial: Dial, recorder: Recorder) -> None:
    """A thread that cannot be started costs that request a refusal, at once; the next one is served."""
    start = threading.Thread.start
    left = [2]

    def fail(self: threading.Thread) -> None:
        if self.name == "tricorn-thread" and left[0]:
            left[0] -= 1
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", fail)
    with Server(LOCAL, Thread(), echo, observers=[recorder], log=False) as server:
        server.start()
        assert [dial(server).recv(1) for _ in range(2)] == [b"", b""]
        assert hello(dial(server)) == b"hello"
        assert server.refusals() == {"it could not be dispatched": 2}
    assert recorder.of(JobFinished)[0].outcome.status is Status.REFUSED


def test_no_process_for_a_request(monkeypatch: pytest.MonkeyPatch, dial: Dial) -> None:
    """A child that cannot be forked costs that request a refusal, at once; the next one is served."""
    fork = os.fork
    errors = [OSError(errno.EAGAIN, "Resource temporarily unavailable"), OSError(errno.ENOMEM, "Out of memory")]

    def fail() -> int:
        if errors:
            raise errors.pop()
        return fork()

    with Server(LOCAL, Fork(), echo, log=False) as server:
        monkeypatch.setattr(os, "fork", fail)
        for _ in range(2):
            client = dial(server)
            assert server.handle_request(10)
            assert client.recv(1) == b""
        client = dial(server)
        assert server.handle_request(10)
        assert hello(client) == b"hello"
        client.close()
        assert server.refusals() == {"it could not be dispatched": 2}


def test_no_thread_for_the_doorman(monkeypatch: pytest.MonkeyPatch, held: Any, dial: Dial) -> None:
    """Where nobody can mind the door, those who come wait, as they do without a policy."""
    start = threading.Thread.start

    def fail(self: threading.Thread) -> None:
        if self.name == "tricorn-doorman":
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", fail)
    with Server(LOCAL, ThreadPool(1), held, admission=Admission(when_full=Reject(BUSY)), log=False) as server:
        server.start()
        inside, late = dial(server), dial(server)
        assert inside.recv(100) == b"held"
        held.free.set()
        assert late.recv(100).startswith(b"held")  # "done" may come with it: nobody is held any more
        assert server.refusals() == {}


# -- out of memory


in_process = pytest.mark.parametrize("dispatcher", [Sync, Thread, lambda: ThreadPool(1)])


@in_process
def test_a_handler_out_of_memory(dispatcher: Callable[[], Dispatcher], dial: Dial, recorder: Recorder) -> None:
    """It costs that request only."""

    def greedy(connection: Any) -> None:
        if connection.recv(100) == b"much":
            raise MemoryError
        connection.send(b"little")

    with Server(LOCAL, dispatcher(), greedy, observers=[recorder], log=False) as server:
        server.start()
        client = dial(server)
        client.sendall(b"much")
        assert client.recv(1) == b""
        client = dial(server)
        client.sendall(b"some")
        assert client.recv(100) == b"little"
    told = sorted(recorder.of(JobFinished), key=lambda event: event.outcome.id)  # two threads may tell in either order
    assert [each.outcome.status for each in told] == [Status.FAILED, Status.COMPLETED]


@in_process
def test_out_of_memory_while_accepting(
    dispatcher: Callable[[], Dispatcher], dial: Dial, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection for which there is no memory is closed, accepting pauses, and the next one is served."""
    init, errors = PeerSocket.__init__, [MemoryError()]

    def fail(self: PeerSocket, *args: Any) -> None:
        if errors:
            raise errors.pop()
        init(self, *args)

    with Server(LOCAL, dispatcher(), echo, observers=[recorder], log=False) as server:
        server.start()
        monkeypatch.setattr(PeerSocket, "__init__", fail)
        assert dial(server).recv(1) == b""
        assert recorder.wait(AcceptPaused)[0].error.errno == errno.ENOMEM
        assert hello(dial(server)) == b"hello"


def test_an_accepted_descriptor_without_memory_for_its_socket() -> None:
    """It is closed: nobody else knows of it."""

    class Broken(PeerSocket):
        def __init__(self, *args: Any) -> None:
            raise MemoryError

    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname(), timeout=10) as client,
    ):
        with pytest.raises(MemoryError):
            accept_stream(listening, socket.AF_INET, 0, Broken)
        assert client.recv(1) == b""


def test_out_of_memory_while_verifying(dial: Dial, recorder: Recorder) -> None:
    """It costs that request only."""
    errors: list[BaseException] = [MemoryError()]

    def verify(request: object) -> bool:
        if errors:
            raise errors.pop()
        return True

    with Server(LOCAL, Thread(), echo, verify=verify, observers=[recorder], log=False) as server:
        server.start()
        assert dial(server).recv(1) == b""
        assert hello(dial(server)) == b"hello"
    assert server.refusals() == {"verify raised": 1}


def test_out_of_memory_in_the_books(dial: Dial, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request for which there is no room in the books is closed, and the next one is served."""
    from tricorn.ledger import Ledger

    enter, errors = Ledger.open, [MemoryError()]

    def fail(self: Ledger, *args: Any) -> None:
        if errors:
            raise errors.pop()
        enter(self, *args)

    monkeypatch.setattr(Ledger, "open", fail)
    with Server(LOCAL, Thread(), echo, log=False) as server:
        server.start()
        assert dial(server).recv(1) == b""
        assert hello(dial(server)) == b"hello"


# -- neighbours


def test_full_everywhere() -> None:
    """A worker has room until its last permit is used, and again as soon as one comes back; the dead have none."""
    fullness = Fullness()
    assert not fullness.anywhere
    one, two = ToldPermits(1, fullness, 1), ToldPermits(2, fullness, 2)
    assert one.take()
    one.filled()
    assert fullness.anywhere
    assert two.take()
    two.filled()  # too early: there is one left
    assert fullness.anywhere
    assert two.take()
    two.filled()
    assert not fullness.anywhere
    one.give()
    assert fullness.anywhere
    fullness.tell(1, room=False)
    assert not fullness.anywhere


def pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.settimeout(10)
    return ours, theirs


# -- before a handshake


def test_before_the_handshake() -> None:
    """Over TLS a peer that is turned away is closed without a word, before anything is negotiated."""
    from tricorn.ledger import Ledger
    from tricorn.observers import Observers
    from tricorn.overload import make_gate

    class Encrypted(Connection):
        @property
        def tls(self) -> Any:
            return object()

    _, gate = make_gate(Admission(when_full=Reject(BUSY)), 1, Ledger(Observers()))
    ours, theirs = pair()
    gate.refuse(Encrypted(ours, ""), "full")
    assert theirs.recv(100) == b""
    assert ours.fileno() < 0
    gate.close()
    theirs.close()


def test_in_memory_everything_still_fits() -> None:
    """A gate does not disturb a server that has room."""
    memory = Memory()
    with Server(memory, Thread(), echo, admission=Admission(max_per_peer=1, when_full=Reject(BUSY))) as server:
        server.start()
        for _ in range(3):
            with memory.connect() as client:
                client.settimeout(10)
                assert hello(client) == b"hello"
