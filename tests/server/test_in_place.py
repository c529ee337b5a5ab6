"""Packets in runs: each is a request of its own, whatever stands for it in the books."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from tricorn import Deadlines, Server
from tricorn.connection import Connection
from tricorn.datagram import Datagram
from tricorn.events import JobFinished, JobStarted, Status
from tricorn.strategies import Sync, ThreadPool
from tricorn.tally import Tally
from tricorn.testing.recorder import Recorder
from tricorn.transports import TCP, UDP, UnixDatagram

BOUND = 10.0
MANY = 200

HERE: dict[str, Callable[[], Any]] = {"sync": Sync, "thread-pool": lambda: ThreadPool(2)}
HOW: dict[str, dict[str, Any]] = {
    "in runs": {},
    "watched": {"deadlines": Deadlines(request=60)},
    "verified": {"verify": lambda request: True},
}


@pytest.fixture(params=HERE.values(), ids=HERE)
def here(request: Any) -> Any:
    return request.param


@pytest.fixture(params=HOW.values(), ids=HOW)
def options(request: Any) -> Any:
    return request.param


def sender(address: Any) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(BOUND)
    sock.connect(address)
    return sock


def test_each_packet_has_its_number_and_its_outcome(here: Any, options: Any) -> None:
    """However many wait: numbers of their own, replies to their senders, all counted."""
    numbers: list[int] = []
    go = threading.Event()

    def answer(packet: Datagram) -> None:
        assert go.wait(BOUND)
        numbers.append(packet.id)
        packet.reply(packet.data[::-1])

    with Server(UDP("127.0.0.1", 0), here(), answer, **options) as server:
        server.start()
        with sender(server.address) as client:
            for n in range(MANY):
                client.send(b"%03d" % n)
            go.set()
            replies = {client.recv(10) for _ in range(MANY)}
        assert replies == {(b"%03d" % n)[::-1] for n in range(MANY)}
        report = server.drain()
        assert len(set(numbers)) == MANY
        assert min(numbers) == 1
        assert (report.accepted, report.completed) == (MANY, MANY)
        assert server.jobs() == ()


def test_a_packet_whose_handler_raises_costs_itself_alone(here: Any, options: Any) -> None:
    """It is told of as itself; those before and behind it are answered."""
    recorder = Recorder()
    recorder.quiet = True  # type: ignore[attr-defined]  # it is told what goes wrong, and the rest goes its quick way

    def answer(packet: Datagram) -> None:
        if packet.data == b"bad":
            raise ValueError(f"packet {packet.id}")
        packet.reply(packet.data)

    with Server(UDP("127.0.0.1", 0), here(), answer, observers=[recorder], log=False, **options) as server:
        server.start()
        with sender(server.address) as client:
            for data in (b"one", b"bad", b"two", b"bad", b"three"):
                client.send(data)
            assert {client.recv(10) for _ in range(3)} == {b"one", b"two", b"three"}
            failed = [each.outcome for each in recorder.wait(JobFinished, 2)]
        assert [each.status for each in failed] == [Status.FAILED] * 2
        assert {str(each.error) for each in failed} == {f"packet {each.id}" for each in failed}
        assert all(each.peer is not None for each in failed)
        report = server.drain()
        assert (report.accepted, report.completed, report.failed) == (5, 3, 2)


def test_observers_of_everything_are_told_of_each(here: Any) -> None:
    """Whoever wants to hear of starts and ends does."""
    recorder = Recorder()
    with Server(
        UDP("127.0.0.1", 0), here(), lambda packet: packet.reply(b"."), observers=[recorder], log=False
    ) as server:
        server.start()
        with sender(server.address) as client:
            for _ in range(10):
                client.send(b"a")
            for _ in range(10):
                client.recv(1)
        report = server.drain()
    assert len(recorder.of(JobStarted)) == 10
    recorder.check_books(report)


def test_a_packet_that_is_refused_is_counted_in_the_midst_of_others(here: Any) -> None:
    """A longer one than the limit."""
    with Server(UDP("127.0.0.1", 0, max_packet_size=4), here(), lambda packet: packet.reply(packet.data)) as server:
        server.start()
        with sender(server.address) as client:
            for data in (b"one", b"too long", b"two"):
                client.send(data)
            assert {client.recv(10), client.recv(10)} == {b"one", b"two"}
        report = server.drain()
        assert (report.accepted, report.completed, report.refused) == (3, 2, 1)


def test_one_that_is_stuck_at_the_end_is_named(here: Any) -> None:
    """The deadline of a drain: the packet that is being served is abandoned, or cancelled, once."""
    go, served = threading.Event(), threading.Semaphore(0)

    def answer(packet: Datagram) -> None:
        if packet.data == b"stuck":
            served.release()
            go.wait(BOUND)
        else:
            packet.reply(packet.data)

    with Server(UDP("127.0.0.1", 0), here(), answer, log=False) as server:
        server.start()
        with sender(server.address) as client:
            client.send(b"first")
            assert client.recv(10) == b"first"
            client.send(b"stuck")
            assert served.acquire(timeout=BOUND)
            while len(jobs := server.jobs()) > 1:
                pass  # the first has answered, and is about to end
            (job,) = jobs
            assert job.peer == client.getsockname()
            report = server.drain(0)
        go.set()
    assert (report.accepted, report.completed) == (2, 1)
    assert [info.peer for info in report.abandoned] == [job.peer]


def test_packets_over_unix(here: Any, tmp_path: Any) -> None:
    """The same; one without a name gets no reply, and is counted."""
    path = str(tmp_path / "s")
    with Server(UnixDatagram(path), here(), lambda packet: packet.reply(packet.data)) as server:
        server.start()
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as named,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nameless,
        ):
            named.settimeout(BOUND)
            named.bind(str(tmp_path / "c"))
            for n in range(5):
                nameless.sendto(b"x", path)
                named.sendto(b"%d" % n, path)
            assert {named.recv(9) for _ in range(5)} == {b"%d" % n for n in range(5)}
        report = server.drain()
        assert (report.accepted, report.completed) == (10, 10)


def test_connections_know_their_number() -> None:
    """The job's, from 1 on."""
    with Server(
        TCP("127.0.0.1", 0), ThreadPool(2), lambda connection: connection.send(b"%d" % connection.id)
    ) as server:
        server.start()
        for number in (b"1", b"2", b"3"):
            with socket.create_connection(server.address, BOUND) as client:
                assert client.recv(10) == number


def test_a_tally_counts_every_step() -> None:
    """From several threads at once."""
    tally, seen = Tally(), []
    assert tally.value == 0

    def count() -> None:
        seen.extend([tally.step() for _ in range(10_000)])

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tally.value == 40_000
    assert sorted(seen) == list(range(1, 40_001))


def test_a_run_ends_with_the_server(here: Any) -> None:
    """What is queued at a stop is served for a moment, and not to the end."""
    served: list[bytes] = []
    go, first = threading.Event(), threading.Event()

    def answer(packet: Datagram) -> None:
        served.append(packet.data)
        first.set()
        go.wait(BOUND)

    with Server(UDP("127.0.0.1", 0), here(), answer, log=False) as server:
        server.start()
        with sender(server.address) as client:
            for n in range(MANY):
                client.send(b"%03d" % n)
            assert first.wait(BOUND)
            server.request_stop()
            threading.Event().wait(0.2)  # longer than packets are waited for
            go.set()
            report = server.drain(BOUND)
    assert report.clean
    assert report.accepted == len(served) < MANY // 2


class Opening:
    """A mix-in that opens."""

    opened: ClassVar[list[str]] = []

    def open(self, deadline: object) -> None:
        self.opened.append(type(self).__name__)


class OpenedConnection(Opening, Connection):
    pass


class OpenedDatagram(Opening, Datagram):
    pass


def test_whoever_opens_is_opened() -> None:
    """By a method of its own, or of a base."""
    assert OpenedConnection.needs_opening
    assert OpenedDatagram.needs_opening
    assert not type("Plain", (Connection,), {}).needs_opening


class Counting(Sync):
    """Overrides what every dispatcher may override."""

    def dispatch(self, job: Any) -> None:
        counted.append(job.id)
        super().dispatch(job)


counted: list[int] = []


def test_a_sync_with_a_dispatch_of_its_own() -> None:
    """Is asked for each job."""
    with Server(UDP("127.0.0.1", 0), Counting(), lambda packet: packet.reply(b".")) as server:
        server.start()
        with sender(server.address) as client:
            for number in (1, 2, 3):
                client.send(b"a")
                client.recv(1)
                assert counted == list(range(1, number + 1))
