"""Selector: one loop holds every connection; a complete message runs in place, or goes to another dispatcher."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from contextvars import ContextVar
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest

from tricorn import Server, message_loop, message_parts
from tricorn.contracts import Dispatcher
from tricorn.errors import ConfigurationError, IncompatibleParts, StateError, WorkerLost
from tricorn.events import JobFinished, JobStarted, ServerStopping, Status
from tricorn.handlers import BaseRequestHandler, LengthPrefixed, Lines, message
from tricorn.strategies import Fork, ProcessPool, Selector, Sync, Thread, ThreadPool
from tricorn.testing.bounds import in_thread
from tricorn.testing.recorder import Recorder
from tricorn.transports import TCP, UDP, Memory, UnixStream

#: Where messages run in threads, or in place.
HERE: dict[str, Callable[[], Any]] = {
    "in place": Selector,
    "sync": lambda: Selector(then=Sync()),
    "thread": lambda: Selector(then=Thread()),
    "thread-pool": lambda: Selector(then=ThreadPool(2)),
}
FORKS: dict[str, Callable[[], Any]] = {
    "fork": lambda: Selector(then=Fork()),
    "process-pool": lambda: Selector(then=ProcessPool(2)),
}
here = pytest.mark.parametrize("dispatcher", HERE.values(), ids=HERE)
forks = pytest.mark.parametrize("dispatcher", FORKS.values(), ids=FORKS)
everywhere = pytest.mark.parametrize("dispatcher", [*HERE.values(), *FORKS.values()], ids=[*HERE, *FORKS])

Dial = Callable[..., socket.socket]

shout = message(Lines())(bytes.upper)


def line(client: socket.socket) -> bytes:
    """One line of reply; ``b""`` at the end, however that came."""
    received = b""
    while not received.endswith(b"\n"):
        try:
            data = client.recv(1)
        except ConnectionError:
            return b""
        if not data:
            return b""
        received += data
    return received


class Gate:
    """A function that holds messages of ``hold``, and echoes all others."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.free = threading.Event()

    def __call__(self, request: bytes) -> bytes:
        if request == b"hold":
            self.entered.release()
            self.free.wait(30)
        return request


@pytest.fixture
def gate(nothing_left_behind: None) -> Iterator[Gate]:
    """Opened at the end, whatever happens."""
    held = Gate()
    yield held
    held.free.set()


# -- what fits


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


@pytest.mark.parametrize("name", ["idle_timeout", "read_timeout", "write_timeout", "open_timeout"])
@pytest.mark.parametrize("value", [0, -1, "1", float("nan")])
def test_timeouts(name: str, value: Any) -> None:
    """Durations are seconds above 0, or None."""
    with pytest.raises(ConfigurationError, match=f"{name} must be a number of seconds above 0"):
        Selector(**{name: value})
    assert getattr(Selector(**{name: None}), name) is None


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


@forks
def test_no_state_in_other_processes(dispatcher: Any) -> None:
    """State from one message to the next cannot be kept where each runs in a process of its own."""

    @message(Lines())
    def remember(request: bytes, state: dict[str, int]) -> bytes:
        return request

    with pytest.raises(IncompatibleParts, match=r"keeps state.*use Selector\(then=ThreadPool\(\)\)"):
        Server(TCP(), dispatcher(), remember)


def test_one_server_at_a_time(dial: Dial) -> None:
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


# -- order and fairness


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


def test_turns(dial: Dial) -> None:
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


def test_a_thousand_peers_at_once_with_one_worker(dial: Dial) -> None:
    """However many wait for their turn, each gets it."""
    with Server(TCP(), Selector(then=Sync()), shout) as server:
        server.start()
        clients = [dial(server.address, b"a\nb\n") for _ in range(150)]
        for client in clients:
            assert (line(client), line(client)) == (b"A\n", b"B\n")


def test_waiting_peers_cost_no_stack(dial: Dial) -> None:
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


# -- peers that do not read

REPLY = 50_000
#: More than the kernel keeps for both sides: tcp(7), tcp_rmem and tcp_wmem.
MUCH = 60_000_000


@pytest.mark.parametrize("dispatcher", [HERE["in place"], HERE["thread-pool"]], ids=["in place", "thread-pool"])
@pytest.mark.parametrize("sent", [b"x\n" * 4000, (b"x" * 20_000 + b"\n") * 4], ids=["many at once", "long ones"])
def test_a_peer_that_does_not_read(dispatcher: Any, sent: bytes, dial: Dial) -> None:
    """Its messages wait, in the kernel in the end, and what is held for it is bounded; nobody else notices.  When it
    reads, it gets everything."""
    calls = 0

    @message(Lines())
    def long(request: bytes) -> bytes:
        nonlocal calls
        if request.startswith(b"x"):
            calls += 1
            return b"y" * REPLY
        return request

    with Server(TCP(), dispatcher(), long) as server:
        server.start()
        deaf = dial(server.address)
        deaf.settimeout(0.2)
        count = 0
        try:
            while count < MUCH:
                count += deaf.send(sent)
        except TimeoutError:
            pass
        assert count < MUCH
        client = dial(server.address, b"alive\n")
        assert line(client) == b"alive\n"
        assert calls * REPLY < 20_000_000
        deaf.settimeout(10)
        wanted, received = min(1000, count // (sent.index(b"\n") + 1)) * (REPLY + 1), 0
        while received < wanted:
            received += len(deaf.recv(1_000_000))
        deaf.close()


def test_write_timeout(dial: Dial) -> None:
    """A peer that takes none of its output for so long is ended."""
    recorder = Recorder()
    handler = message(Lines())(lambda request: bytes(10_000_000))
    with Server(TCP(), Selector(write_timeout=0.1), handler, log=False, observers=[recorder]) as server:
        server.start()
        dial(server.address, b"x\n")
        outcome = recorder.outcome(1)
    assert outcome.status is Status.TIMED_OUT
    assert str(outcome.error).startswith("the peer took none of the output for 0.")


def test_a_peer_that_reads_slowly_is_not_ended(dial: Dial) -> None:
    """The clock of the output starts again whenever some of it is taken."""
    handler = message(Lines())(lambda request: bytes(20_000_000))
    with Server(TCP(), Selector(write_timeout=2.0), handler) as server:
        server.start()
        client, received = dial(server.address, b"x\n"), 0
        while received < 20_000_001:
            received += len(client.recv(100_000))
        assert server.drain().completed == 1


# -- deadlines


@everywhere
def test_idle_timeout(dispatcher: Any, dial: Dial) -> None:
    """A peer that says nothing for so long, from the beginning or after a message, is ended as timed out."""
    recorder, chosen = Recorder(), dispatcher()
    limited = Selector(chosen.then, idle_timeout=0.1)
    with Server(TCP(), limited, shout, log=False, observers=[recorder]) as server:
        server.start()
        client = dial(server.address, b"a\n")
        assert line(client) == b"A\n"
        assert client.recv(1) == b""
        assert dial(server.address).recv(1) == b""
        recorder.wait(JobFinished, 2)
    for number in (1, 2):
        outcome = recorder.outcome(number)
        assert outcome.status is Status.TIMED_OUT
        assert "the peer sent nothing for 0." in str(outcome.error)


def test_idle_peers_are_ended_one_by_one(dial: Dial) -> None:
    """A peer that goes on speaking is not ended with those that came with it and fell silent."""
    recorder = Recorder()
    with Server(TCP(), Selector(idle_timeout=0.3), shout, log=False, observers=[recorder]) as server:
        server.start()
        silent, speaking = dial(server.address), dial(server.address)
        name = silent.getsockname()
        while not recorder.of(JobFinished):
            speaking.sendall(b"a\n")
            assert line(speaking) == b"A\n"
        assert [each.outcome.peer for each in recorder.of(JobFinished)] == [name]


@pytest.mark.parametrize("dispatcher", [HERE["in place"], HERE["thread-pool"]], ids=["in place", "thread-pool"])
def test_read_timeout(dispatcher: Any, dial: Dial) -> None:
    """From the first byte of a message to its last there are so many seconds, however regularly others come."""
    recorder = Recorder()
    limited = Selector(dispatcher().then, read_timeout=0.2, idle_timeout=30)
    with Server(TCP(), limited, shout, log=False, observers=[recorder]) as server:
        server.start()
        client = dial(server.address, b"a\nb")
        try:
            while not recorder.of(JobFinished):
                client.sendall(b"c")
                threading.Event().wait(0.01)
        except ConnectionError:
            pass
        outcome = recorder.outcome(1)
    assert outcome.status is Status.TIMED_OUT
    assert str(outcome.error).startswith("the peer did not finish its message for 0.")


@pytest.mark.parametrize("dispatcher", [HERE["in place"], HERE["thread-pool"]], ids=["in place", "thread-pool"])
def test_messages_that_overlap_are_not_one(dispatcher: Any, dial: Dial) -> None:
    """A peer whose every packet ends one message and begins the next is in time, though it is never between two."""
    limited, recorder = Selector(dispatcher().then, read_timeout=1.0), Recorder()
    handler = message(Lines())(lambda request: None)
    with Server(TCP(), limited, handler, log=False, observers=[recorder]) as server:
        server.start()
        client, until = dial(server.address, b"fir"), monotonic() + 1.5
        while monotonic() < until:
            client.sendall(b"st\nfir")
            threading.Event().wait(0.01)
        assert not recorder.of(JobFinished)
        client.sendall(b"st\n")
        client.close()
        assert recorder.outcome(1).status is Status.COMPLETED


def test_no_deadline_while_a_message_is_worked_on(gate: Gate, dial: Dial) -> None:
    """A peer that waits for its reply is not idle; its clock starts when it has it."""
    recorder = Recorder()
    limited = Selector(ThreadPool(2), idle_timeout=0.1, read_timeout=0.1)
    with Server(TCP(), limited, message(Lines())(gate), log=False, observers=[recorder]) as server:
        server.start()
        waiting, silent = dial(server.address, b"hold\n"), dial(server.address)
        assert gate.entered.acquire(timeout=10)
        assert silent.recv(1) == b""
        another = dial(server.address)
        assert another.recv(1) == b""  # twice the time has passed
        assert recorder.most_at_once() >= 2
        gate.free.set()
        assert line(waiting) == b"hold\n"
        assert waiting.recv(1) == b""


# -- many


def test_idle_connections(dial: Dial) -> None:
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
    assert (threads, more_threads) == ("4", "4")
    for each in (report, another):
        assert "1001 accepted, 1001 completed" in each


@here
def test_one_job_for_each_connection(dispatcher: Any, dial: Dial) -> None:
    """However many messages: one start, one outcome, one entry in the report, and one job while it lasts."""
    recorder = Recorder()
    with Server(TCP(), dispatcher(), shout, observers=[recorder]) as server:
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


@everywhere
def test_context(dispatcher: Any, dial: Dial) -> None:
    """Functions run in copies of the context in which the server was built."""

    @message(Lines())
    def tell(request: bytes) -> bytes:
        told = LETTER.get()
        LETTER.set("scribbled over")
        return told.encode()

    token = LETTER.set("base")
    try:
        server = Server(TCP(), dispatcher(), tell)
    finally:
        LETTER.reset(token)
    with server:
        server.start()
        for _ in range(2):
            assert line(dial(server.address, b"x\n")) == b"base\n"
    assert LETTER.get() == "none"


@everywhere
def test_identity(dispatcher: Any, tmp_path: Any) -> None:
    """What the authenticator found reaches the function, wherever that runs."""

    @message(Lines())
    def whoami(request: bytes, identity: Any, peer: Any) -> bytes:
        return repr((identity, peer)).encode()

    def by_credentials(connection: Any) -> Any:
        return {"uid": connection.credentials.uid}

    with (
        Server(UnixStream(tmp_path / "s"), dispatcher(), whoami, authenticate=by_credentials) as server,
        socket.socket(socket.AF_UNIX) as client,
    ):
        server.start()
        client.settimeout(10)
        client.connect(server.address)
        client.sendall(b"x\n")
        assert line(client) == repr(({"uid": os.getuid()}, "")).encode() + b"\n"


# -- peers that leave


@everywhere
def test_half_close(dispatcher: Any, dial: Dial) -> None:
    """A peer that has said all it wants to say gets all its replies."""
    with Server(TCP(), dispatcher(), shout) as server:
        server.start()
        client = dial(server.address, b"a\nb\nc\n")
        client.shutdown(socket.SHUT_WR)
        with client.makefile("rb") as file:
            assert file.read() == b"A\nB\nC\n"
        assert server.drain().completed == 1


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
def test_leaving_while_a_message_is_worked_on(
    unix: bool, reset: bool, gate: Gate, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message is worked on to its end, nobody spins meanwhile, and there is one outcome; others are served."""
    polls = 0
    make_poller = message_loop.make_poller

    def counting() -> Any:
        poller = make_poller()

        def poll(timeout: float | None = None) -> Any:
            nonlocal polls
            polls += 1
            return poller.poll(timeout)

        return SimpleNamespace(
            register=poller.register, modify=poller.modify, unregister=poller.unregister, poll=poll, close=poller.close
        )

    monkeypatch.setattr(message_loop, "make_poller", counting)
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
        before = polls
        for n in range(50):
            staying.sendall(b"%d\n" % n)
            assert line(staying) == b"%d\n" % n
        assert polls - before < 500
        gate.free.set()
        staying.sendall(b"last\n")
        assert line(staying) == b"last\n"
        outcome = recorder.outcome(1)
        staying.close()
        report = server.drain()
    recorder.check_books(report)
    assert outcome.status in (Status.DISCONNECTED, Status.COMPLETED)
    assert report.accepted == 2


@here
def test_messages_without_replies_are_not_lost(dispatcher: Any, dial: Dial) -> None:
    """A peer that sends many messages and closes has sent them: each is worked on."""
    seen: list[bytes] = []
    recorder = Recorder()
    with Server(TCP(), dispatcher(), message(Lines())(seen.append), observers=[recorder]) as server:
        server.start()
        dial(server.address, b"".join(b"%d\n" % n for n in range(5000))).close()
        assert recorder.outcome(1).status is Status.COMPLETED
    assert seen == [b"%d" % n for n in range(5000)]


def test_replies_reach_their_own_peer(dial: Dial) -> None:
    """Connections come and go, their descriptors' numbers are used again, and no reply reaches a stranger."""
    with Server(TCP(), Selector(then=ThreadPool(4)), shout) as server:
        server.start()
        for n in range(150):
            with socket.create_connection(server.address, timeout=10) as leaving:
                leaving.sendall(b"stranger\n" * (n % 5))
            with socket.create_connection(server.address, timeout=10) as client:
                client.sendall(b"mine%d\n" % n)
                assert line(client) == b"MINE%d\n" % n


def test_reset(dial: Dial) -> None:
    """A peer that resets its connection has left; that is no failure of the handler's."""
    recorder = Recorder()
    with Server(TCP(), Selector(), shout, log=False, observers=[recorder]) as server:
        server.start()
        client = dial(server.address, b"a\nb")
        assert line(client) == b"A\n"
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        assert recorder.outcome(1).status is Status.DISCONNECTED


# -- failures


@everywhere
@pytest.mark.parametrize("error", [ValueError, OSError, SystemExit, KeyboardInterrupt])
def test_failing(dispatcher: Any, error: type[BaseException], dial: Dial) -> None:
    """A function that raises costs its own connection, after the replies that were made, and nobody else."""

    @message(Lines())
    def fail(request: bytes) -> Iterator[bytes]:
        yield request
        if request == b"x":
            raise error("as it was told")

    recorder = Recorder()
    with Server(TCP(), dispatcher(), fail, log=False, observers=[recorder]) as server:
        server.start()
        other = dial(server.address, b"a\n")
        assert line(other) == b"a\n"
        client = dial(server.address, b"a\nx\nb\n")
        assert (line(client), line(client), line(client)) == (b"a\n", b"x\n", b"")
        assert recorder.outcome(1).status is Status.FAILED
        other.sendall(b"b\n")
        assert line(other) == b"b\n"


@forks
def test_a_killed_worker(dispatcher: Any, dial: Dial) -> None:
    """A worker that is killed costs the connection whose message it had, which is LOST, and nobody else."""

    @message(Lines())
    def die(request: bytes) -> bytes:
        if request == b"die":
            os.kill(os.getpid(), signal.SIGKILL)
        return request

    recorder = Recorder()
    with Server(TCP(), dispatcher(), die, log=False, observers=[recorder]) as server:
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
def test_no_descriptor_for_a_reply(fails: set[int], dial: Dial, monkeypatch: pytest.MonkeyPatch) -> None:
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


@forks
def test_others_hold_all_descriptors(dispatcher: Any, script: Any) -> None:
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
        type(dispatcher().then).__name__,
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
@pytest.mark.parametrize("dispatcher", [HERE["in place"], HERE["thread-pool"]], ids=["in place", "thread-pool"])
def test_a_decoder_that_breaks(dispatcher: Any, method: str, dial: Dial, monkeypatch: pytest.MonkeyPatch) -> None:
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
    with Server(TCP(), dispatcher(), message(Broken(1))(bytes.upper), log=False, observers=[recorder]) as server:
        server.start()
        other = dial(server.address, b"\1a")
        assert other.recv(2) == b"\1A"
        client = dial(server.address, b"\5" + bytes(20 if method == "feed" else 2))
        client.shutdown(socket.SHUT_WR)
        outcome = recorder.outcome(1)
        assert (outcome.status, type(outcome.error)) == (Status.FAILED, ZeroDivisionError)
        other.sendall(b"\1b")
        assert other.recv(2) == b"\1B"


# -- endings


@everywhere
def test_drain_of_idle_ones(dispatcher: Any, dial: Dial) -> None:
    """Idle connections are ended at once, and have completed."""
    with Server(TCP(), dispatcher(), shout) as server:
        server.start()
        clients = [dial(server.address, b"a\n" * n) for n in range(3)]
        for n, client in enumerate(clients):
            assert [line(client) for _ in range(n)] == [b"A\n"] * n
        while len(server.jobs()) < 3:
            pass
        report = server.drain()
        assert (report.accepted, report.completed, report.clean) == (3, 3, True)
        assert all(client.recv(1) == b"" for client in clients)


@everywhere
def test_drain_in_the_middle_of_a_message(dispatcher: Any, dial: Dial) -> None:
    """A peer in the middle of a message may finish it, and gets its reply; new clients are turned away meanwhile."""
    recorder = Recorder()
    with Server(TCP(), dispatcher(), shout, observers=[recorder]) as server:
        server.start()
        client = dial(server.address, b"a\nhal")
        assert line(client) == b"A\n"
        with in_thread(lambda: server.drain(10), "a drain") as reports:
            recorder.wait(ServerStopping)
            for _ in range(15):  # longer than a peer may be silent
                client.sendall(b"l")
                threading.Event().wait(0.1)
            client.sendall(b"\n")
            assert line(client) == b"HAL" + b"L" * 15 + b"\n"
            assert line(client) == b""
        assert reports[0].completed == 1


def refuses(address: Any) -> bool:
    """Nobody listens there.  The kernel may keep a client waiting for a second whose knock met the closing."""
    with socket.socket() as client:
        client.settimeout(0.2)
        try:
            client.connect(address)
        except ConnectionRefusedError:
            return True
        except TimeoutError:
            pass
    return False


@here
def test_drain_hangs_up(dispatcher: Any, dial: Dial) -> None:
    """While connections end, nobody listens for new ones."""
    recorder = Recorder()
    with Server(TCP(), dispatcher(), shout, observers=[recorder]) as server:
        server.start()
        address = server.address
        client = dial(address, b"a\nhal")
        assert line(client) == b"A\n"
        with in_thread(lambda: server.drain(10), "a drain"):
            recorder.wait(ServerStopping)
            while not refuses(address):
                client.sendall(b"f")  # it is still in the middle of its message, and not silent
            client.sendall(b"\n")
            assert line(client).startswith(b"HAL")


@here
def test_drain_of_one_that_is_silent_in_a_message(dispatcher: Any, dial: Dial) -> None:
    """A peer that does not go on with its message is given up after a second; its message was cut off."""
    recorder = Recorder()
    with Server(TCP(), dispatcher(), shout, log=False, observers=[recorder]) as server:
        server.start()
        client = dial(server.address, b"a\nhal")
        assert line(client) == b"A\n"
        report = server.drain(10)
        assert (report.refused, report.clean) == (1, True)
        assert "the stream ended in the middle of a line" in str(recorder.outcome(1).error)


@here
def test_drain_of_one_that_broke_the_framing(dispatcher: Any, dial: Dial) -> None:
    """One that is to see our last words, and does not leave, is waited for a second, and not until the deadline."""
    handler = message(Lines(5, error_reply=b"too long\n"))(bytes.upper)
    with Server(TCP(), dispatcher(), handler, log=False) as server:
        server.start()
        client = dial(server.address, b"too long a line")
        assert line(client) == b"too long\n"
        report = server.drain(10)
        assert report.refused == 1
        assert report.duration < 8


def test_drain_waits_for_messages(gate: Gate, dial: Dial) -> None:
    """A message that is being worked on gets its reply, and so do those of the peer that had arrived before."""
    recorder = Recorder()
    with Server(TCP(), Selector(ThreadPool(2)), message(Lines())(gate), observers=[recorder]) as server:
        server.start()
        client, idle = dial(server.address, b"a\nhold\nb\n"), dial(server.address)
        assert line(client) == b"a\n"
        assert gate.entered.acquire(timeout=10)
        with in_thread(lambda: server.drain(10), "a drain") as reports:
            assert idle.recv(1) == b""
            gate.free.set()
            assert (line(client), line(client), line(client)) == (b"hold\n", b"b\n", b"")
        assert (reports[0].completed, reports[0].clean) == (2, True)


def test_a_message_that_outlives_the_drain(gate: Gate, dial: Dial) -> None:
    """At the deadline its connection is cut off; the thread comes home when the function returns."""
    recorder = Recorder()
    with Server(TCP(), Selector(ThreadPool(2)), message(Lines())(gate), log=False, observers=[recorder]) as server:
        server.start()
        client = dial(server.address, b"hold\n")
        assert gate.entered.acquire(timeout=10)
        report = server.drain(0.1)
        assert (report.cancelled, len(report.abandoned)) == (1, 0)
        assert line(client) == b""
    recorder.check_books(report)
    gate.free.set()


def test_a_message_in_place_that_outlives_the_drain(gate: Gate, dial: Dial) -> None:
    """In place nobody can end it: it is abandoned, and named with its stack; the others are ended."""
    recorder = Recorder()
    with Server(TCP(), Selector(), message(Lines())(gate), log=False, observers=[recorder]) as server:
        server.start()
        idle = dial(server.address, b"a\n")
        assert line(idle) == b"a\n"
        client = dial(server.address, b"hold\n")
        assert gate.entered.acquire(timeout=10)
        report = server.drain(0.1)
        names = [info.peer for info in report.abandoned]
        assert client.getsockname() in names
        assert "self.free.wait" in report.abandoned[names.index(client.getsockname())].stack
        gate.free.set()
        assert line(idle) == b""
    recorder.check_books(report)


@pytest.mark.parametrize("name", FORKS)
def test_cutting_children_off(name: str, dial: Dial) -> None:
    """Children and workers that are still at it at the deadline are killed."""

    @message(Lines())
    def forever(request: bytes) -> Iterator[bytes]:
        signal.pause()
        yield b"never"

    recorder = Recorder()
    with Server(TCP(), FORKS[name](), forever, log=False, observers=[recorder]) as server:
        server.start()
        client = dial(server.address, b"x\n")
        recorder.wait(JobStarted)
        report = server.drain(0.3)
        assert (report.cancelled, report.accepted) == (1, 1)
        assert line(client) == b""
    recorder.check_books(report)


def test_datagrams_and_messages_with_one_fork(dial: Dial) -> None:
    """Whole packets and messages of streams share the children, also while the server drains."""

    @message(Lines())
    def slow(request: bytes) -> bytes:
        if request == b"slow":
            threading.Event().wait(0.3)
        return request

    with (
        Server([UDP(), TCP()], Selector(then=Fork()), slow) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as packets,
    ):
        server.start()
        packets.settimeout(10)
        packets.connect(server.addresses[0])
        packets.send(b"packet")
        assert packets.recv(100) == b"packet\n"
        client = dial(server.addresses[1], b"quick\nslow\n")
        assert line(client) == b"quick\n"
        report = server.drain(10)
        assert line(client) == b"slow\n"
        assert (report.completed, report.clean) == (2, True)
        assert report.duration < 5


def test_workers_keep_no_connection(dial: Dial) -> None:
    """A connection that was there before the workers were is at its end when it ends, though they live on."""

    @message(Lines(5))
    def pid(request: bytes) -> bytes:
        return b"%d" % os.getpid()

    with Server(TCP(), Selector(then=ProcessPool(2)), pid, log=False) as server:
        server.start()
        early = dial(server.address)
        while not server.jobs():
            pass
        worker = int(line(dial(server.address, b"x\n")))
        ends = [f":{port:04X}" for port in (server.address[1], early.getsockname()[1])]  # proc(5), /proc/net/tcp
        rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()]
        (inode,) = (row[9] for row in rows if row[1].endswith(ends[0]) and row[2].endswith(ends[1]))
        held = [os.readlink(f"/proc/{worker}/fd/{fd}") for fd in os.listdir(f"/proc/{worker}/fd")]
        assert held
        assert f"socket:[{inode}]" not in held
