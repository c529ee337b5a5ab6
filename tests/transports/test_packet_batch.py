"""Packets in batches: the same packets, the same replies, fewer system calls."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import threading
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tricorn import Admission, Drop, Server
from tricorn.datagram import Datagram
from tricorn.errors import ConfigurationError, IncompatibleParts, PeerRefused
from tricorn.handlers import BaseRequestHandler, Lines, message
from tricorn.packet_batch import batches_are_possible
from tricorn.strategies import Selector, Sync, Thread, ThreadPool
from tricorn.transports import UDP, UnixDatagram

pytestmark = pytest.mark.skipif(not batches_are_possible(), reason="recvmmsg as on 64-bit Linux only")

BOUND = 10.0
HOSTS = ["127.0.0.1", "::1"]


def sender(address: Any) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(BOUND)
    sock.connect(address)
    return sock


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("batch", [2, 32])
def test_to_each_its_own(host: str, batch: int) -> None:
    """Of many senders, in their order, with lengths from nothing to the most that fits; all counted."""
    sizes = [0, 1, 64, 1_000, 4_000]

    with Server(UDP(host, 0, batch=batch), Sync(), lambda packet: packet.reply(packet.data[::-1])) as server:
        server.start()
        with ExitStack() as stack:
            senders = [stack.enter_context(sender(server.address)) for _ in range(10)]
            for size in sizes:
                for number, each in enumerate(senders):
                    each.send((bytes([number]) + bytes(size))[:size])
                for number, each in enumerate(senders):
                    assert each.recv(65_536) == (bytes([number]) + bytes(size))[:size][::-1]
            senders[0].send(bytes(60_000))
            assert senders[0].recv(65_536) == bytes(60_000)
        report = server.drain()
        assert report.accepted == report.completed == 10 * len(sizes) + 1


@pytest.mark.parametrize("host", HOSTS)
def test_who_sent_it_is_told_as_ever(host: str) -> None:
    """The peer's address has the form that `socket` gives it, and the reply leaves from the server's."""
    seen: list[Any] = []

    def answer(packet: Datagram) -> None:
        seen.append((packet.peer, packet.local))
        packet.reply(b"yes")

    with Server(UDP(host, 0, batch=8), Sync(), answer) as server:
        server.start()
        with sender(server.address) as client:
            client.send(b"?")
            assert client.recvfrom(9) == (b"yes", server.address)
            assert seen == [(client.getsockname(), server.address)]


def test_replies_do_not_wait_for_a_handler_that_takes_long() -> None:
    """When the next packet is taken, those that have waited for a millisecond leave."""
    (listener,) = UDP("127.0.0.1", 0, batch=8).listen()
    try:
        with sender(listener.address) as client:
            for data in (b"a", b"b", b"c", b"d", b"e"):
                client.send(data)
            listener.accept().reply(b"1")
            threading.Event().wait(0.01)  # the handler goes on
            assert [listener.accept().data, listener.accept().data] == [b"b", b"c"]
            assert client.recv(9) == b"1"
    finally:
        listener.close()


def test_what_waits_leaves_when_there_is_nothing_more_and_at_the_end() -> None:
    """A reply is never kept while the server waits, nor when it closes."""
    (listener,) = UDP("127.0.0.1", 0, batch=8).listen()
    with sender(listener.address) as client:
        client.send(b"a")
        listener.accept().reply(b"1")
        with pytest.raises(BlockingIOError):
            listener.accept()
        assert client.recv(9) == b"1"
        client.send(b"b")
        listener.accept().reply(b"2")
        listener.close()
        assert client.recv(9) == b"2"


def test_a_reply_that_cannot_be_sent_is_counted() -> None:
    """It was taken, so its packet has completed; the loss is told of as a refusal."""
    (listener,) = UDP("127.0.0.1", 0, batch=8).listen()
    try:
        with sender(listener.address) as client:
            client.send(b"a")
            client.send(b"b")
            first = listener.accept()
            assert first.reply(bytes(65_520)) == 65_520  # more than IPv4 carries: EMSGSIZE
            second = listener.accept()
            second.reply(b"short")
            with pytest.raises(PeerRefused, match="Message too long"):
                listener.accept()
            with pytest.raises(BlockingIOError):
                listener.accept()
            assert client.recv(9) == b"short"
    finally:
        listener.close()


def test_a_peer_that_cannot_be_reached_costs_its_own_reply() -> None:
    """sendmmsg(2) says the same of an earlier reply, once, and of this one, again and again."""
    (listener,) = UDP("127.0.0.1", 0, batch=8).listen()
    batch = listener._batch
    really, tries = batch._sendmmsg, 0

    def unreachable(*arguments: Any) -> int:
        nonlocal tries
        tries += 1
        if tries <= 2:
            ctypes.set_errno(errno.ENETUNREACH)
            return -1
        sent: int = really(*arguments)
        return sent

    try:
        with sender(listener.address) as client:
            client.send(b"a")
            client.send(b"b")
            listener.accept().reply(b"1")
            listener.accept().reply(b"2")
            batch._sendmmsg = unreachable
            with pytest.raises(PeerRefused, match="unreachable"):
                listener.accept()
            assert client.recv(9) == b"2"
    finally:
        listener.close()


def test_truncated_ones_and_limits() -> None:
    """As one by one."""
    (listener,) = UDP("127.0.0.1", 0, batch=4, max_packet_size=4).listen()
    (delivering,) = UDP("127.0.0.1", 0, batch=4, max_packet_size=4, deliver_truncated=True).listen()
    try:
        with sender(listener.address) as client, sender(delivering.address) as other:
            client.send(b"12345")
            client.send(b"1234")
            with pytest.raises(PeerRefused, match="longer than max_packet_size"):
                listener.accept()
            assert listener.accept().data == b"1234"
            other.send(b"12345")
            packet = delivering.accept()
            assert (packet.data, packet.truncated, packet.full_length) == (b"1234", True, 5)
    finally:
        listener.close()
        delivering.close()


class Shout(BaseRequestHandler):
    def handle(self) -> None:
        data, sock = self.request
        sock.sendto(data.upper(), self.client_address)


@message(Lines())
def loud(line: bytes) -> bytes:
    return line.upper()


@pytest.mark.parametrize("handler", [Shout, loud])
def test_with_other_handlers(handler: Any) -> None:
    """Classes reply through the socket that they are given, message handlers by their result."""
    with Server(UDP("127.0.0.1", 0, batch=8), Sync(), handler) as server:
        server.start()
        with sender(server.address) as client:
            client.send(b"abc\n")
            assert client.recv(9) == b"ABC\n"


@pytest.mark.parametrize("dispatcher", [ThreadPool(2), Thread(), Selector()])
def test_dispatchers_that_cannot(dispatcher: Any) -> None:
    """Packets in a batch are one thread's; the refusal says what would work."""
    handler = loud if isinstance(dispatcher, Selector) else print
    with pytest.raises(IncompatibleParts, match="use Sync, or batch=1"):
        Server(UDP("127.0.0.1", 0, batch=8), dispatcher, handler)


@pytest.mark.parametrize(
    "options",
    [{"batch": 0}, {"batch": 5_000}, {"batch": True}, {"batch": 8, "host": ""}, {"batch": 8, "timestamps": True}],
)
def test_values_that_cannot_work(options: dict[str, Any]) -> None:
    """Refused where they are given."""
    with pytest.raises(ConfigurationError, match="batch"):
        UDP(**{"host": "127.0.0.1", "port": 0, **options})


@pytest.fixture(params=["file", "abstract"])
def unix_server(request: Any, tmp_path: Path) -> str:
    return str(tmp_path / "server.sock") if request.param == "file" else f"@tricorn-test-{os.getpid()}-{id(request)}"


_numbers = count()


def unix_client(server: str, name: str | bytes | None) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.settimeout(BOUND)
    if name is not None:
        sock.bind(name)
    sock.connect("\0" + server[1:] if server.startswith("@") else server)
    return sock


def unix_names(tmp_path: Path) -> list[str | bytes]:
    """Long and short, with a file and without."""
    names: list[str | bytes] = [str(tmp_path / f"client-{i}-{'x' * i}") for i in range(5)]
    return names + [f"\0tricorn-test-{os.getpid()}-{next(_numbers)}-{'y' * i}".encode() for i in range(5)]


@pytest.mark.parametrize("batch", [2, 32])
def test_over_a_unix_socket(batch: int, unix_server: str, tmp_path: Path) -> None:
    """The same; clients have names of every length, and are told apart."""
    seen = set()

    def answer(packet: Datagram) -> None:
        seen.add(packet.peer)
        packet.reply(packet.data[::-1])

    names = unix_names(tmp_path)
    with Server(UnixDatagram(unix_server, batch=batch), Sync(), answer) as server:
        server.start()
        with ExitStack() as stack:
            clients = [stack.enter_context(unix_client(unix_server, name)) for name in names]
            for size in (0, 1, 64, 4_000):
                for number, each in enumerate(clients):
                    each.send((bytes([number]) + bytes(size))[:size])
                for number, each in enumerate(clients):
                    assert each.recv(65_536) == (bytes([number]) + bytes(size))[:size][::-1]
        report = server.drain()
    assert report.accepted == report.completed == 40
    assert seen == set(names)


def test_a_unix_client_without_a_name(unix_server: str) -> None:
    """It is served, and gets no reply."""
    (listener,) = UnixDatagram(unix_server, batch=4).listen()
    try:
        with unix_client(unix_server, None) as client:
            client.send(b"a")
            packet = listener.accept()
            assert (packet.data, packet.peer, packet.local) == (b"a", None, unix_server)
            assert packet.reply(b"b") == 0
    finally:
        listener.close()


def test_a_unix_client_that_is_gone_or_does_not_read(tmp_path: Path) -> None:
    """The first costs its own reply, the second a moment and what it has no room for; the others are answered."""
    path = str(tmp_path / "server.sock")
    (listener,) = UnixDatagram(path, batch=8).listen()
    full = Path("/proc/sys/net/unix/max_dgram_qlen").read_text()
    try:
        with (
            unix_client(path, str(tmp_path / "reads")) as reads,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as lazy,
        ):
            lazy.bind(str(tmp_path / "full"))  # and not connected: what comes from there is let in without a bound
            with unix_client(path, str(tmp_path / "gone")) as gone:
                gone.send(b"g")
                packet = listener.accept()
            packet.reply(b"1")
            reads.send(b"r")
            with pytest.raises(PeerRefused, match="refused"):
                listener.accept()
            listener.accept().reply(b"2")
            lazy.sendto(b"f", path)
            packet = listener.accept()
            for _ in range(int(full) + 2):
                packet.reply(b"3")
            reads.send(b"r")
            with pytest.raises(PeerRefused, match="temporarily unavailable"):
                listener.accept()
            assert reads.recv(9) == b"2"
    finally:
        listener.close()


@pytest.mark.parametrize(
    "options",
    [{"batch": 0}, {"batch": 8, "timestamps": True}, {"batch": 8, "credentials": True},
     {"batch": 65, "max_packet_size": 2**20}],
)  # fmt: skip
def test_values_that_cannot_work_with_a_unix_socket(options: dict[str, Any], tmp_path: Path) -> None:
    """Refused where they are given, with what would work."""
    with pytest.raises(ConfigurationError, match="batch"):
        UnixDatagram(tmp_path / "server.sock", **options)
    assert UnixDatagram(tmp_path / "server.sock", batch=64, max_packet_size=2**20).in_batches


def test_a_reply_from_another_thread_leaves_at_once() -> None:
    """What is kept is the serving thread's; nobody need take another packet for the reply of a thread."""
    (listener,) = UDP("127.0.0.1", 0, batch=8).listen()
    try:
        with sender(listener.address) as client:
            client.send(b"a")
            packet = listener.accept()
            packet.reply(b"1")
            other = threading.Thread(target=packet.reply, args=(b"2",))
            other.start()
            other.join()
            assert client.recv(9) == b"2"
            with pytest.raises(BlockingIOError):
                listener.accept()
            assert client.recv(9) == b"1"
    finally:
        listener.close()


def test_a_reply_after_the_end() -> None:
    """A handler that is left behind meets a closed socket, and not whoever has its descriptor by then."""
    (listener,) = UDP("127.0.0.1", 0, batch=8).listen()
    with sender(listener.address) as client:
        client.send(b"a")
        packet = listener.accept()
        listener.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            packet.reply(b"1")


def test_nobody_else_minds_the_door() -> None:
    """A policy that turns packets away does so on the serving thread: a batch is for no other."""
    admission = Admission(1, when_full=Drop())
    for batch in (1, 8):
        with Server(UDP("127.0.0.1", 0, batch=batch), Sync(), print, admission=admission) as server:
            server.start()
            assert (server._engine.intake._doorman is None) == (batch == 8)  # type: ignore[union-attr]


def test_a_unix_name_without_a_nul_behind_it(tmp_path: Path) -> None:
    """The longest there is, as C programs can have it; `socket` itself cannot reply to it."""
    path = str(tmp_path / "server.sock")
    (listener,) = UnixDatagram(path, batch=4).listen()
    here = os.open(tmp_path, os.O_RDONLY)
    name = f"/proc/self/fd/{here}/".ljust(108, "x")
    raw = socket.AF_UNIX.to_bytes(2, "little") + name.encode()
    try:
        with unix_client(path, None) as client, unix_client(path, str(tmp_path / "other")) as other:
            bind = ctypes.CDLL(None, use_errno=True).bind
            assert bind(client.fileno(), raw, len(raw)) == 0, os.strerror(ctypes.get_errno())
            client.send(b"a")
            other.send(b"b")
            packet = listener.accept()
            assert packet.peer == name
            packet.reply(b"A")
            listener.accept().reply(b"B")
            with pytest.raises(BlockingIOError):
                listener.accept()
            assert (client.recv(9), other.recv(9)) == (b"A", b"B")
    finally:
        os.close(here)
        listener.close()
