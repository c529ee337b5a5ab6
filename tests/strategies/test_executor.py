"""Executor: message handlers on any `concurrent.futures.Executor`."""

from __future__ import annotations

import contextvars
import importlib.util
import multiprocessing
import os
import socket
import struct
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import ExitStack, contextmanager
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import Any

import pytest

from tricorn import Server
from tricorn.errors import ConfigurationError, IncompatibleParts, RemoteError, StateError, WorkerLost
from tricorn.events import JobFinished, JobStarted, Status
from tricorn.handlers import Chunks, Lines, message
from tricorn.names import dispatcher
from tricorn.strategies import Executor, Route, Thread
from tricorn.testing.items import Hub, Items
from tricorn.testing.recorder import Recorder
from tricorn.transports import TCP, UDP, Memory, UnixStream

loky = pytest.importorskip("loky") if importlib.util.find_spec("loky") else None
without_loky = pytest.mark.skipif(loky is None, reason="loky is not installed")
without_interpreters = pytest.mark.skipif(
    not hasattr(futures, "InterpreterPoolExecutor"), reason="InterpreterPoolExecutor needs Python 3.14"
)
slow = pytest.mark.slow

Dial = Callable[..., socket.socket]


@pytest.fixture(scope="module", autouse=True)
def servants_of_multiprocessing() -> Iterator[None]:
    """What `multiprocessing` and loky start once for a whole program is no leak of the first test."""
    trackers: list[Any] = [resource_tracker._resource_tracker]
    if loky is not None:
        from loky.backend import resource_tracker as lokys

        trackers.append(lokys._resource_tracker)
    for tracker in trackers:
        tracker.ensure_running()
    forkserver.ensure_running()
    yield
    forkserver._forkserver._stop()
    for tracker in trackers:
        tracker._stop()


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of handlers, which workers can import too."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("remote_handlers")


def processes(method: str) -> Callable[[], futures.Executor]:
    return lambda: futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method))


KINDS = [
    pytest.param(lambda: Executor(kind="thread", workers=2), id="thread"),
    pytest.param(lambda: Executor(kind="process", workers=2), id="process", marks=slow),
    pytest.param(lambda: Executor(kind="loky", workers=2), id="loky", marks=[without_loky, slow]),
    pytest.param(lambda: Executor(kind="interpreter", workers=2), id="interpreter", marks=[without_interpreters, slow]),
    pytest.param(lambda: Executor(processes("forkserver")), id="a factory of forkserver", marks=slow),
    pytest.param(
        lambda: Executor(lambda: loky.get_reusable_executor(max_workers=2)),
        id="loky's reusable one",
        marks=[without_loky, slow],
    ),
]


@contextmanager
def served(dispatcher: Executor, handler: Any, transport: Any = None, **options: Any) -> Iterator[Any]:
    with Server(transport or TCP("127.0.0.1", 0), dispatcher, handler, log=False, **options) as server:
        server.start()
        yield server


def ask(client: socket.socket, line: str) -> str:
    client.sendall(line.encode() + b"\n")
    return hear(client)


def hear(client: socket.socket) -> str:
    """One line, read byte by byte so that nothing is read ahead."""
    data = b""
    while not data.endswith(b"\n"):
        more = client.recv(1)
        if not more:
            return data.decode()
        data += more
    return data.decode().rstrip("\n")


def rest(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(65536), b""))


@pytest.mark.parametrize("make", KINDS)
def test_replies(make: Callable[[], Executor], handlers: Any, dial: Dial, recorder: Recorder) -> None:
    """Replies come in the order of the messages, over several connections at once; the function's errors come back."""
    with served(make(), handlers.obey, observers=[recorder]) as server:
        clients = [dial(server.addresses[0]) for _ in range(3)]
        for client in clients:
            client.sendall(b"".join(b"say %d\n" % n for n in range(20)))
        for client in clients:
            assert [hear(client) for _ in range(20)] == [str(n) for n in range(20)]
        assert ask(clients[0], "peer") == repr(clients[0].getsockname())
        assert ask(clients[0], "raise value") == ""
        error = recorder.outcome(1).error
        assert isinstance(error, ValueError)
        assert error.args == ("of kind value",)
        assert ask(clients[1], "say on") == "ON"
        report = server.drain(10)
    assert (report.completed, report.failed) == (2, 1)


@pytest.mark.parametrize(
    ("words", "kind", "text"),
    [
        pytest.param("raise refused", ConnectionRefusedError, "of kind refused", id="one of the system's"),
        pytest.param("raise exit", SystemExit, "of kind exit", id="SystemExit"),
        pytest.param("raise odd", RemoteError, "Odd: one", id="one that cannot be pickled"),
        pytest.param("say " + "x" * 300_000, ValueError, "max_length", id="none: the line is too long"),
    ],
)
@slow
def test_errors(words: str, kind: type, text: str, handlers: Any, dial: Dial, recorder: Recorder) -> None:
    """An error of the function ends its connection as FAILED, whatever its kind; one of the framing as REFUSED."""
    with served(Executor(workers=1), handlers.obey, observers=[recorder]) as server:
        client = dial(server.addresses[0], b"say before\n" + words.encode() + b"\nsay after\n")
        said = rest(client)
        outcome = recorder.outcome(1)
    assert text in str(outcome.error)
    assert isinstance(outcome.error, kind)
    if len(words) > 1000:
        assert (said, outcome.status) == (b"BEFORE\ntoo long\n", Status.REFUSED)
    else:
        assert (said, outcome.status) == (b"BEFORE\n", Status.FAILED)
        assert any("raised in process" in note for note in outcome.error.__notes__)


def test_replies_before_an_error_are_sent(handlers: Any, dial: Dial, recorder: Recorder) -> None:
    """Also those that the failing message itself had yielded; what comes after it is not begun."""
    with served(Executor(kind="thread"), handlers.obey, observers=[recorder]) as server:
        assert rest(dial(server.addresses[0], b"say first\ntwo\nsay never\n")) == b"FIRST\none\ntwo\n"
        assert recorder.outcome(1).status is Status.FAILED


@pytest.mark.parametrize("make", [each for each in KINDS if each.id not in ("thread", "interpreter")])
def test_a_lost_worker(make: Callable[[], Executor], handlers: Any, dial: Dial, recorder: Recorder) -> None:
    """A worker that dies costs its message's connection, as LOST; the pool is made again."""
    with served(make(), handlers.obey, observers=[recorder]) as server:
        first = ask(dial(server.addresses[0]), "pid")
        assert rest(dial(server.addresses[0], b"say before\ndie\nsay after\n")) == b"BEFORE\n"
        outcome = recorder.outcome(1)
        assert outcome.status is Status.LOST
        assert isinstance(outcome.error, WorkerLost)
        again = ask(dial(server.addresses[0]), "pid")
        assert again.isdigit()
        assert again != first
        report = server.drain(10)
    assert (report.lost, report.completed) == (1, 2)


@slow
def test_a_given_pool_that_breaks_ends_serving(handlers: Any, dial: Dial, recorder: Recorder) -> None:
    """It cannot be replaced: serving raises, and says what to do."""
    with processes("spawn")() as given:
        server = Server(TCP("127.0.0.1", 0), Executor(given), handlers.obey, observers=[recorder], log=False)
        server.bind()
        client = dial(server.addresses[0], b"die\n")
        with pytest.raises(WorkerLost, match="give a callable"):
            server.serve_forever()
        assert rest(client) == b""
        assert recorder.outcome(1).status is Status.LOST


def test_a_given_pool_is_left_running(handlers: Any, dial: Dial) -> None:
    """It is the giver's to shut down."""
    with futures.ThreadPoolExecutor(2) as pool:
        for _ in range(2):
            with served(Executor(pool), handlers.obey) as server:
                assert ask(dial(server.addresses[0]), "say on") == "ON"
        assert pool.submit(str, 5).result(10) == "5"


def test_a_pool_that_is_shut_down(handlers: Any) -> None:
    """Serving with it fails at once."""
    pool = futures.ThreadPoolExecutor(1)
    pool.shutdown()
    server = Server(TCP("127.0.0.1", 0), Executor(pool), handlers.obey, log=False)
    with pytest.raises(StateError, match="cannot be used any more"):
        server.serve_forever()


def test_a_pool_that_is_shut_down_while_it_serves(handlers: Any, dial: Dial, recorder: Recorder) -> None:
    """The next message's connection ends with the error, and so does serving."""
    pool = futures.ThreadPoolExecutor(1)
    server = Server(TCP("127.0.0.1", 0), Executor(pool), handlers.obey, observers=[recorder], log=False)
    server.bind()
    client = dial(server.addresses[0])

    def talk() -> None:
        ask(client, "say on")
        pool.shutdown()
        client.sendall(b"say off\n")

    talking = threading.Thread(target=talk)
    talking.start()
    with pytest.raises(StateError, match="cannot be used any more"):
        server.serve_forever()
    talking.join()
    assert rest(client) == b""
    assert recorder.outcome(1).status is Status.FAILED


def test_what_makes_no_pool(handlers: Any) -> None:
    """A callable that returns something else is refused when it is called."""
    with pytest.raises(ConfigurationError, match="no concurrent.futures.Executor"):
        Server(TCP("127.0.0.1", 0), Executor(dict), handlers.obey, log=False).serve_forever()


# -- what can be served


def test_state_does_not_travel(handlers: Any) -> None:
    """A handler that wants it is refused when the server is built, in a sentence that names what works."""
    with pytest.raises(IncompatibleParts, match=r"state does not travel; use Selector\(\)"):
        Server(TCP("127.0.0.1", 0), Executor(kind="thread"), handlers.stateful)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda stack: Executor(), id="our own"),
        pytest.param(lambda stack: Executor(stack.enter_context(processes("spawn")())), id="a given one"),
    ],
)
def test_a_handler_that_cannot_be_sent(make: Any) -> None:
    """It is refused when the server is built, where the pool has processes."""

    @message(Lines())
    def local(line: bytes) -> bytes:
        return line

    with ExitStack() as stack, pytest.raises(IncompatibleParts, match="cannot be sent to another process"):
        Server(TCP("127.0.0.1", 0), make(stack), local)


def test_a_handler_that_cannot_be_sent_to_a_pool_made_later() -> None:
    """Where only the pool that a callable makes tells, it is refused when serving begins."""

    @message(Lines())
    def local(line: bytes) -> bytes:
        return line

    server = Server(TCP("127.0.0.1", 0), Executor(processes("spawn")), local, log=False)
    with pytest.raises(IncompatibleParts, match="cannot be sent to another process"):
        server.serve_forever()


@without_loky
@slow
def test_a_local_handler_on_loky(dial: Dial) -> None:
    """loky takes a function along by its code."""
    factor = 3

    @message(Lines())
    def times(line: bytes) -> bytes:
        return line * factor

    with served(Executor(kind="loky", workers=1), times) as server:
        assert ask(dial(server.addresses[0]), "ab") == "ababab"


@slow
def test_a_handler_that_the_workers_cannot_import(
    handlers: Any, dial: Dial, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs the connection, and says what is missing; the workers live on."""
    monkeypatch.setattr(handlers.obey, "__module__", "nowhere_at_all")
    monkeypatch.setitem(sys.modules, "nowhere_at_all", handlers)
    with served(Executor(workers=1), handlers.obey, observers=[recorder]) as server:
        for _ in range(2):
            assert rest(dial(server.addresses[0], b"say on\n")) == b""
    for number in (1, 2):
        assert recorder.outcome(number).status is Status.FAILED
        assert isinstance(recorder.outcome(number).error, ModuleNotFoundError)


@pytest.mark.parametrize("method", [pytest.param("spawn", marks=slow), pytest.param("fork", marks=slow)])
def test_a_handler_of_the_main_module(method: str, tmp_path: Path) -> None:
    """A program's own file may have the handler; a forking pool is fine while the program has one thread."""
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(MAIN))
    program = subprocess.Popen(
        [sys.executable, "-W", "error", str(path), method], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert program.stdout is not None
        port = int(program.stdout.readline())
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            assert ask(client, "hello") == "HELLO"
        program.terminate()
        _, said = program.communicate(timeout=20)
    finally:
        program.kill()
        program.communicate()
    assert (program.returncode, "Traceback" in said) == (0, False)


MAIN = """
    import multiprocessing, signal, sys
    from concurrent.futures import ProcessPoolExecutor
    from tricorn import Server
    from tricorn.handlers import Lines, message
    from tricorn.strategies import Executor
    from tricorn.transports import TCP

    @message(Lines())
    def shout(line):
        return line.upper()

    if __name__ == "__main__":
        context = multiprocessing.get_context(sys.argv[1])
        pool = Executor(lambda: ProcessPoolExecutor(1, mp_context=context))
        with Server(TCP("127.0.0.1", 0), pool, shout) as server:
            print(server.addresses[0][1], flush=True)
            server.serve_forever(signals=True)
"""


def test_a_forking_pool_beside_threads(handlers: Any) -> None:
    """It is refused, as all forking is in a program with threads."""
    stop = threading.Event()
    other = threading.Thread(target=stop.wait, name="another")
    other.start()
    try:
        with processes("fork")() as pool:
            server = Server(TCP("127.0.0.1", 0), Executor(pool), handlers.obey, log=False)
            with pytest.raises(StateError, match="another"):
                server.serve_forever()
    finally:
        stop.set()
        other.join()


def test_needs_descriptors(handlers: Any) -> None:
    """Connections that exist in memory alone are refused."""
    with pytest.raises(IncompatibleParts, match="waits for descriptors"):
        Server(Memory(), Executor(kind="thread"), handlers.obey)


def test_functions_are_refused() -> None:
    """Only messages travel."""
    with pytest.raises(IncompatibleParts, match="message handler"):
        Server(TCP("127.0.0.1", 0), Executor(kind="thread"), print)


def test_by_name() -> None:
    """``executor`` with its options; the room follows the workers."""
    made = dispatcher("executor?kind=thread&workers=3&pipeline=2")
    assert isinstance(made, Executor)
    assert (made.kind, made.workers, made.max_in_flight, made.pipeline) == ("thread", 3, 12, 2)
    assert made.concurrency is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pool": 5}, "concurrent.futures.Executor, or a callable"),
        ({"kind": "steam"}, "steam"),
        ({"workers": 0}, "workers must be a whole number, 1 or more"),
        ({"max_in_flight": 0}, "max_in_flight must be"),
        ({"pipeline": 0}, "pipeline must be"),
        ({"idle_timeout": -1}, "idle_timeout must be"),
    ],
)
def test_bad_options(options: dict[str, Any], words: str) -> None:
    """Each is refused at once, and named."""
    with pytest.raises(ValueError, match=words):
        Executor(**options)


def test_kinds_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to install."""
    monkeypatch.setattr("tricorn.strategies.executor.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'tricorn\[loky\]'"):
        Executor(kind="loky")
    monkeypatch.delattr(futures, "InterpreterPoolExecutor", raising=False)
    with pytest.raises(ConfigurationError, match=r"needs Python 3\.14"):
        Executor(kind="interpreter")


# -- order and room


class Counting(futures.ThreadPoolExecutor):
    """Notes how many calls were in it at most."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self.now = self.most = 0
        self.lock = threading.Lock()

    def submit(self, *args: Any, **options: Any) -> Any:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        future = super().submit(*args, **options)
        future.add_done_callback(self._done)
        return future

    def _done(self, future: Any) -> None:
        with self.lock:
            self.now -= 1


def test_bounded_in_flight(handlers: Any, dial: Dial) -> None:
    """No more messages than ``max_in_flight`` are submitted at once, and all are answered."""
    with Counting(2) as pool, served(Executor(pool, max_in_flight=3, pipeline=4), handlers.obey) as server:
        clients = [dial(server.addresses[0], b"".join(b"say %d\n" % n for n in range(50))) for _ in range(5)]
        for client in clients:
            assert [hear(client) for _ in range(50)] == [str(n) for n in range(50)]
        assert 1 < pool.most <= 3


def test_a_full_pool_holds_nobody_but_those_who_wait_for_it(dial: Dial) -> None:
    """While all room is taken, connections are accepted, and answered when there is room again."""
    gate = threading.Event()
    begun = threading.Semaphore(0)

    @message(Lines())
    def wait(line: bytes) -> bytes:
        begun.release()
        gate.wait(10)
        return line

    with served(Executor(kind="thread", workers=1, max_in_flight=2), wait) as server:
        clients = [dial(server.addresses[0], b"%d\n" % n) for n in range(6)]
        assert begun.acquire(timeout=10)
        gate.set()
        assert [hear(client) for client in clients] == [str(n) for n in range(6)]


def test_one_message_of_a_peer_at_a_time(dial: Dial) -> None:
    """By default a message is begun when the one before it is answered, though there are workers free."""
    at_work: list[int] = []
    together = []

    @message(Lines())
    def work(line: bytes) -> bytes:
        at_work.append(1)
        together.append(len(at_work))
        at_work.pop()
        return line

    with served(Executor(kind="thread", workers=4), work) as server:
        client = dial(server.addresses[0], b"x\n" * 200)
        for _ in range(200):
            hear(client)
    assert set(together) == {1}


def test_a_pipeline(dial: Dial) -> None:
    """With ``pipeline=2`` two are worked on at once, and a reply waits for those before it."""
    second = threading.Event()

    @message(Lines())
    def work(line: bytes) -> bytes:
        if line == b"1":
            assert second.wait(10)
        else:
            second.set()
        return line

    with served(Executor(kind="thread", workers=2, pipeline=2), work) as server:
        client = dial(server.addresses[0], b"1\n2\n")
        assert [hear(client), hear(client)] == ["1", "2"]


def test_an_error_in_a_pipeline(dial: Dial, recorder: Recorder) -> None:
    """The reply of a later message, ready before the error of an earlier one, is not sent."""
    second = threading.Event()

    @message(Lines())
    def work(line: bytes) -> bytes:
        if line == b"1":
            second.wait(10)
            raise ValueError("the first")
        second.set()
        return line

    with served(Executor(kind="thread", workers=2, pipeline=2), work, observers=[recorder]) as server:
        assert rest(dial(server.addresses[0], b"1\n2\n")) == b""
        assert str(recorder.outcome(1).error) == "the first"


def test_a_peer_that_does_not_read(handlers: Any, dial: Dial) -> None:
    """It is not read any more itself, and others are served; when it reads, it gets everything."""
    size, count = 100_000, 60
    with Counting(2) as pool, served(Executor(pool, high_water=1000), handlers.obey) as server:
        greedy = dial(server.addresses[0])
        sending = threading.Thread(target=greedy.sendall, args=(b"blow %d\n" % size * count,))
        sending.start()
        other = dial(server.addresses[0])
        for n in range(50):
            assert ask(other, f"say {n}") == str(n)
        sending.join(10)
        greedy.shutdown(socket.SHUT_WR)
        assert len(rest(greedy)) == (size + 1) * count


# -- kinds of requests


def test_half_close(handlers: Any, dial: Dial) -> None:
    """A peer that sends nothing more still gets every reply."""
    with served(Executor(kind="thread"), handlers.obey) as server:
        client = dial(server.addresses[0], b"say one\nsay two\n")
        client.shutdown(socket.SHUT_WR)
        assert rest(client) == b"ONE\nTWO\n"


@pytest.mark.parametrize("abruptly", [False, True])
def test_a_peer_that_leaves(abruptly: bool, handlers: Any, dial: Dial, recorder: Recorder) -> None:
    """Its message is worked on for nothing; others are served."""
    with served(Executor(kind="thread"), handlers.obey, observers=[recorder]) as server:
        with socket.create_connection(server.addresses[0]) as leaver:
            leaver.sendall(b"blow 100000\n" * 50)
            hear(leaver) if abruptly else None
            if abruptly:
                leaver.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert recorder.outcome(1).status is Status.DISCONNECTED
        assert ask(dial(server.addresses[0]), "say on") == "ON"


def test_unix_sockets(handlers: Any, tmp_path: Path) -> None:
    """They are connections like all others."""
    path = str(tmp_path / "s")
    with served(Executor(kind="thread"), handlers.obey, UnixStream(path)), socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        assert ask(client, "say on") == "ON"


@pytest.mark.parametrize("make", KINDS[:2])
def test_datagrams(make: Callable[[], Executor], handlers: Any, recorder: Recorder) -> None:
    """Each is decoded by itself, and its replies leave in one packet."""
    with (
        served(make(), handlers.obey, UDP("127.0.0.1", 0), observers=[recorder]) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(10)
        client.connect(server.addresses[0])
        client.send(b"say one\nsay two")
        assert client.recv(100) == b"ONE\nTWO\n"
        client.send(b"say one\nraise value\nsay two")
        assert client.recv(100) == b"ONE\n"
        assert recorder.wait(JobFinished, 2)[1].outcome.status is Status.FAILED
        client.send(b"say three")
        assert client.recv(100) == b"THREE\n"


def test_empty_packets(recorder: Recorder) -> None:
    """An empty packet is no end of anything: the next one is served as ever."""

    @message(Chunks())
    def count(data: bytes) -> bytes:
        return b"%d" % len(data)

    with (
        served(Executor(kind="thread"), count, UDP("127.0.0.1", 0), observers=[recorder]) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(10)
        client.connect(server.addresses[0])
        client.send(b"")
        client.send(b"abc")
        assert [each.outcome.status for each in recorder.wait(JobFinished, 2)] == [Status.COMPLETED] * 2
        assert {client.recv(10), client.recv(10)} == {b"0", b"3"}


def test_items(handlers: Any, recorder: Recorder) -> None:
    """An item's value is a message as it is; a failure puts it back."""
    hub = Hub()
    try:
        with served(Executor(kind="thread"), handlers.obey, Items(hub.inbox), observers=[recorder]):
            hub.put(1, b"say on")
            assert (hub.hear(1), hub.hear(1)) == (b"ON\n", b"ack\n")
            hub.put(2, b"raise value")
            assert hub.hear(2) == b"nack\n"
    finally:
        hub.close()


def test_single_jobs(handlers: Any, dial: Dial) -> None:
    """`Server.handle_request` and `Route` give it one job at a time."""
    with Server(TCP("127.0.0.1", 0), Executor(kind="thread"), handlers.obey, log=False) as server:
        for _ in range(2):
            client = dial(server.addresses[0], b"say on\n")
            assert server.handle_request(10)
            assert hear(client) == "ON"


def test_behind_a_route(handlers: Any, dial: Dial) -> None:
    """As one of several."""
    ours, there = Executor(kind="thread"), Thread()
    with served(Route(lambda request: "ours", ours=ours, there=there), handlers.obey) as server:  # type: ignore[arg-type]
        client = dial(server.addresses[0], b"say on\nsay off\n")
        assert [hear(client), hear(client)] == ["ON", "OFF"]


def test_datagrams_given_one_by_one(handlers: Any) -> None:
    """As many as may be in flight are taken; then giving another waits for room."""
    with (
        Server(UDP("127.0.0.1", 0), Executor(kind="thread", max_in_flight=1), handlers.packet, log=False) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(10)
        client.connect(server.addresses[0])
        for n in range(5):
            client.send(b"ab%d" % n)
        for _ in range(5):
            assert server.handle_request(10)
        assert {client.recv(10) for _ in range(5)} == {b"%dba" % n for n in range(5)}


def test_contexts(dial: Dial) -> None:
    """On threads of this program, each message sees a copy of the context that the server was built in."""
    letter: contextvars.ContextVar[str] = contextvars.ContextVar("letter", default="none")
    letter.set("base")

    @message(Lines())
    def tell(line: bytes) -> bytes:
        seen = letter.get()
        letter.set("changed")
        return seen.encode()

    with served(Executor(kind="thread", workers=1), tell) as server:
        client = dial(server.addresses[0])
        assert [ask(client, "x"), ask(client, "x")] == ["base", "base"]


# -- endings


@pytest.mark.parametrize("make", KINDS[:3])
def test_drain(make: Callable[[], Executor], handlers: Any, dial: Dial, tmp_path: Path) -> None:
    """What is in flight is answered; idle connections end at once."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    with served(make(), handlers.obey) as server:
        idle = dial(server.addresses[0], b"say on\n")
        assert hear(idle) == "ON"
        busy = dial(server.addresses[0], f"gate {path}\n".encode())
        with open(path, "w") as gate:
            server.request_stop()
            assert rest(idle) == b""
            gate.write("let go")
        assert rest(busy) == b"let go\n"
        report = server.drain(10)
    assert (report.completed, report.abandoned) == (2, ())


@pytest.mark.parametrize("make", KINDS[1:3])
def test_a_drain_that_passes_its_deadline(
    make: Callable[[], Executor], handlers: Any, dial: Dial, tmp_path: Path, recorder: Recorder
) -> None:
    """Messages that are still worked on are cut off, and the processes are gone with them."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    with served(make(), handlers.obey, observers=[recorder]) as server:
        stuck = dial(server.addresses[0], f"gate {path}\nsay never\n".encode())
        with open(path, "w"):
            report = server.drain(0.1)
        assert rest(stuck) == b""
    assert report.cancelled == 1
    assert recorder.outcome(1).status is Status.CANCELLED


def test_a_drain_that_passes_its_deadline_on_threads(dial: Dial, recorder: Recorder) -> None:
    """A thread cannot be ended; its connection is, and what was not begun never is."""
    gate = threading.Event()
    begun: list[bytes] = []
    first = threading.Event()

    @message(Lines())
    def wait(line: bytes) -> bytes:
        begun.append(line)
        first.set()
        gate.wait(20)
        return line

    with served(Executor(kind="thread", workers=1), wait, observers=[recorder]) as server:
        clients = [dial(server.addresses[0], b"%d\n" % n) for n in range(3)]
        assert first.wait(10)
        recorder.wait(JobStarted, 3)
        report = server.drain(0.1)
        assert [rest(client) for client in clients] == [b"", b"", b""]
        gate.set()
    assert report.cancelled == 3
    assert len(begun) == 1


def test_again(handlers: Any, dial: Dial) -> None:
    """One server after the other may use it; while one does, it refuses another."""
    executor = Executor(kind="thread")
    for _ in range(2):
        with served(executor, handlers.obey) as server:
            assert ask(dial(server.addresses[0]), "say on") == "ON"
            with pytest.raises(StateError, match="serves already"):
                executor.serve(server)  # type: ignore[arg-type]
