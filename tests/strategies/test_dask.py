"""Dask: message handlers on a cluster, whose scheduler and workers are started here as processes."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tricorn import Server
from tricorn.errors import ConfigurationError, ConnectionLost, IncompatibleParts, WorkerLost
from tricorn.events import JobFinished, JobStarted, Status
from tricorn.handlers import Lines, message
from tricorn.names import dispatcher
from tricorn.strategies import Dask
from tricorn.testing.recorder import Recorder
from tricorn.transports import TCP, UDP

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="distributed is not installed"),
    pytest.mark.slow,
]

HERE = Path(__file__).parent
Dial = Callable[..., socket.socket]


class Cluster:
    """A scheduler, and workers of one thread each, without nannies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[str]] = []
        self.readers: list[threading.Thread] = []
        self.scheduler = self._start("dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        self.address = self._hear(self.scheduler, r"Scheduler at:\s+(\S+)")

    def add_worker(self, port: int = 0) -> subprocess.Popen[str]:
        """One more; returns when it is registered."""
        options = ("--no-nanny", "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1")
        worker = self._start("dask_worker", self.address, *options, "--worker-port", str(port))
        self._hear(worker, r"(Registered to)")
        return worker

    def _start(self, name: str, *options: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(HERE), "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-P", "-m", f"distributed.cli.{name}", *options]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=self.folder, env=environment)
        self.processes.append(process)
        return process

    def _hear(self, process: subprocess.Popen[str], pattern: str) -> str:
        """What it says of itself; the rest of what it says is dropped."""
        said = ""
        assert process.stderr is not None
        while line := process.stderr.readline():
            if found := re.search(pattern, line):
                self.readers.append(threading.Thread(target=process.stderr.read, daemon=True))
                self.readers[-1].start()
                return found[1]
            said += line
        raise AssertionError(f"no {pattern} in: {said}")

    def close(self) -> None:
        for process in reversed(self.processes):
            process.kill()
            process.wait()
        for reader in self.readers:
            reader.join(10)
        for process in self.processes:
            assert process.stderr is not None
            process.stderr.close()


@pytest.fixture(scope="module", autouse=True)
def servants_of_distributed() -> Iterator[None]:
    """It has a thread for one's whole program, which is no leak of the first test; nor may it outlive these tests."""
    from distributed import utils

    old = utils._offload_executor
    old.submit(int).result()
    yield
    utils._offload_executor = ThreadPoolExecutor(1)
    old.shutdown()


@pytest.fixture
def cluster(nothing_left_behind: None, tmp_path: Path) -> Iterator[Cluster]:
    """Without workers at first."""
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.close()


@contextmanager
def served(dask: Dask, handler: Any, transport: Any = None, **options: Any) -> Iterator[Any]:
    with Server(transport or TCP("127.0.0.1", 0), dask, handler, log=False, **options) as server:
        server.start()
        yield server


def hear(client: socket.socket) -> str:
    """One line, read byte by byte so that nothing is read ahead; less at the end."""
    data = b""
    while not data.endswith(b"\n") and (more := client.recv(1)):
        data += more
    return data.decode()


def rest(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(65536), b""))


def test_replies(cluster: Cluster, handlers: Any, dial: Dial, recorder: Recorder) -> None:
    """Replies come in order from all workers; errors come back; a drain lets what is in flight finish."""
    for _ in range(2):
        cluster.add_worker()
    with served(Dask(cluster.address), handlers.obey, observers=[recorder]) as server:
        clients = [dial(server.addresses[0], b"".join(b"say %d\n" % n for n in range(10))) for _ in range(4)]
        for client in clients:
            assert [hear(client) for _ in range(10)] == [f"{n}\n" for n in range(10)]
            client.sendall(b"pid\n")
        assert {int(hear(client)) for client in clients} <= {each.pid for each in cluster.processes[1:]}
        assert rest(dial(server.addresses[0], b"say before\nraise value\nsay after\n")) == b"BEFORE\n"
        assert isinstance(recorder.outcome(1).error, ValueError)
        assert rest(dial(server.addresses[0], b"raise odd\n")) == b""
        assert "Odd: one" in str(recorder.outcome(2).error)
        path = cluster.folder / "gate"
        os.mkfifo(path)
        busy = dial(server.addresses[0], f"gate {path}\n".encode())
        with open(path, "w") as gate:
            server.request_stop()
            assert rest(clients[0]) == b""
            gate.write("let go")
        assert rest(busy) == b"let go\n"
        report = server.drain(10)
    assert (report.completed, report.failed) == (5, 2)


def test_datagrams_and_local_handlers(cluster: Cluster, dial: Dial) -> None:
    """A packet is answered in one packet; a function that workers cannot import goes with its code."""
    cluster.add_worker()
    factor = 3

    @message(Lines())
    def times(line: bytes) -> bytes:
        return line * factor

    times.function.__module__ = "__main__"  # as in a program's own file: pickled by its code
    with (
        served(Dask(cluster.address), times, UDP("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(20)
        client.connect(server.addresses[0])
        client.send(b"a\nb\n")
        assert client.recv(100) == b"aaa\nbbb\n"


class Crowd:
    """Clients that each say their lines one after the other, and keep the books of what they hear."""

    def __init__(self, address: Any, count: int, lines: int, book: Path) -> None:
        self.address, self.lines, self.book = address, lines, book
        self.heard: dict[int, list[str]] = {number: [] for number in range(count)}
        self.ended: dict[int, bool] = {}
        self.some = threading.Semaphore(0)
        self.threads = [threading.Thread(target=self._talk, args=(number,)) for number in range(count)]
        for thread in self.threads:
            thread.start()

    def _talk(self, number: int) -> None:
        with socket.create_connection(self.address, timeout=30) as client:
            for line in range(self.lines):
                name = f"{number}.{line}"
                client.sendall(f"note {self.book} {name}\n".encode())
                answer = hear(client)
                if not answer.endswith("\n"):
                    self.ended[number] = True
                    self.some.release()
                    return
                self.heard[number].append(answer.split()[1])
                self.some.release()

    def join(self) -> None:
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive()

    def runs(self) -> list[str]:
        return self.book.read_text().split()


@pytest.mark.parametrize("retries", [0, 1])
def test_a_worker_is_killed(retries: int, cluster: Cluster, handlers: Any, recorder: Recorder) -> None:
    """Each client gets every reply once, in order, or its connection ends; only ``retries`` run anything twice."""
    victim = cluster.add_worker()
    cluster.add_worker()
    book = cluster.folder / "book"
    book.touch()
    with served(Dask(cluster.address, retries=retries), handlers.obey, observers=[recorder]) as server:
        crowd = Crowd(server.addresses[0], 8, 20, book)
        for _ in range(40):
            assert crowd.some.acquire(timeout=30)
        os.kill(victim.pid, signal.SIGKILL)
        crowd.join()
        report = server.drain(10)
    runs = crowd.runs()
    for number, heard in crowd.heard.items():
        assert heard == [f"{number}.{line}" for line in range(len(heard))]
        assert len(heard) == 20 or crowd.ended[number]
        assert set(heard) <= set(runs)
    assert report.lost == len(crowd.ended)
    assert report.lost + report.completed == 8
    if retries:
        assert not crowd.ended
    else:
        assert len(set(runs)) == len(runs)
        for each in recorder.wait(JobFinished, 8):
            assert each.outcome.status in (Status.COMPLETED, Status.LOST)


def test_a_message_that_kills_its_worker(cluster: Cluster, handlers: Any, dial: Dial, recorder: Recorder) -> None:
    """It kills one, and not the next one too: the connection ends as LOST, with the worker's name."""
    first, second = cluster.add_worker(), cluster.add_worker()
    with served(Dask(cluster.address), handlers.obey, observers=[recorder]) as server:
        assert rest(dial(server.addresses[0], b"say before\ndie\n")) == b"BEFORE\n"
        outcome = recorder.outcome(1)
        assert outcome.status is Status.LOST
        assert isinstance(outcome.error, WorkerLost)
        assert "127.0.0.1" in str(outcome.error)
        client = dial(server.addresses[0], b"say on\n")
        assert hear(client) == "ON\n"
    assert [first.poll(), second.poll()].count(None) == 1


def test_a_successor_at_the_same_address(cluster: Cluster, handlers: Any, dial: Dial, recorder: Recorder) -> None:
    """A worker that is started again on its old port does not get the message that the old one may have begun."""
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    victim = cluster.add_worker(port)
    path, book = cluster.folder / "gate", cluster.folder / "book"
    os.mkfifo(path)
    with served(Dask(cluster.address), handlers.obey, observers=[recorder]) as server:
        client = dial(server.addresses[0], f"note {book} before\ngate {path}\nnote {book} after\n".encode())
        with open(path, "w"):
            victim.kill()
            assert rest(client) == f"{book} before\n".encode()
        assert recorder.outcome(1).status is Status.LOST
        successor = cluster.add_worker(port)
        other = dial(server.addresses[0], b"pid\n")
        other.settimeout(30)
        assert int(hear(other)) == successor.pid
        other.sendall(f"note {book} again\n".encode())
        assert hear(other)
    assert book.read_text().split() == ["before", "again"]


def test_workers_that_come_later(cluster: Cluster, handlers: Any, dial: Dial) -> None:
    """Without workers messages wait for one."""
    with served(Dask(cluster.address), handlers.obey) as server:
        client = dial(server.addresses[0], b"say on\n")
        client.settimeout(60)
        cluster.add_worker()
        assert hear(client) == "ON\n"


def test_a_drain_that_passes_its_deadline(cluster: Cluster, handlers: Any, dial: Dial, recorder: Recorder) -> None:
    """Messages that wait, or are worked on, are given up."""
    with served(Dask(cluster.address), handlers.obey, observers=[recorder]) as server:
        client = dial(server.addresses[0], b"say on\n")
        recorder.wait(JobStarted)
        report = server.drain(0.2)
        assert rest(client) == b""
    assert report.cancelled == 1


def test_no_scheduler(handlers: Any) -> None:
    """Serving ends with the address in the error, in the time that was given."""
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        address = f"tcp://127.0.0.1:{nobody.getsockname()[1]}"
    server = Server(TCP("127.0.0.1", 0), Dask(address, connect_timeout=0.5), handlers.obey, log=False)
    with pytest.raises(ConnectionLost, match=re.escape(address)):
        server.serve_forever()


def test_an_address_that_is_none(handlers: Any) -> None:
    """So does one that cannot be read."""
    server = Server(TCP("127.0.0.1", 0), Dask("what://ever", connect_timeout=0.5), handlers.obey, log=False)
    with pytest.raises(ConnectionLost, match="what://ever"):
        server.serve_forever()


def test_a_scheduler_that_goes(cluster: Cluster, handlers: Any, dial: Dial, recorder: Recorder) -> None:
    """What is in flight is lost, and serving ends with the error."""
    cluster.add_worker()
    server = Server(
        TCP("127.0.0.1", 0), Dask(cluster.address, connect_timeout=1), handlers.obey, observers=[recorder], log=False
    )
    server.bind()
    client = dial(server.addresses[0], b"say on\n")

    def kill() -> None:
        assert hear(client) == "ON\n"
        path = cluster.folder / "gate"
        os.mkfifo(path)
        client.sendall(f"gate {path}\n".encode())
        with open(path, "w"):
            cluster.scheduler.kill()
            assert rest(client) == b""

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(ConnectionLost, match=re.escape(cluster.address)):
        server.serve_forever()
    killer.join(10)
    assert recorder.outcome(1).status is Status.LOST


def test_options(handlers: Any) -> None:
    """By name, and refused where they are wrong."""
    made = dispatcher("dask?address=tcp://127.0.0.1:8786&retries=2")
    assert isinstance(made, Dask)
    assert (made.address, made.retries) == ("tcp://127.0.0.1:8786", 2)
    with pytest.raises(ConfigurationError, match="needs option 'address'"):
        dispatcher("dask")
    with pytest.raises(ConfigurationError, match="address must be"):
        Dask("")
    with pytest.raises(ConfigurationError, match="retries must be"):
        Dask("tcp://127.0.0.1:1", retries=-1)
    with pytest.raises(IncompatibleParts, match="state does not travel"):
        Server(TCP("127.0.0.1", 0), Dask("tcp://127.0.0.1:1"), handlers.stateful)


def test_without_distributed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install."""
    monkeypatch.setattr("tricorn.strategies.dask_cluster.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'tricorn\[dask\]'"):
        Dask("tcp://127.0.0.1:1")


def test_not_imported_unless_used(script: Any) -> None:
    """Distributed is not imported with the strategies, nor when a `Dask` is built."""
    program = script(
        "import sys; from tricorn.strategies import Dask, Executor; Dask('tcp://127.0.0.1:1'); "
        "sys.exit('distributed' in sys.modules)"
    )
    assert program.wait(30) == 0
