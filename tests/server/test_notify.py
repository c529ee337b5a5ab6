"""What the service manager is told."""

from __future__ import annotations

import os
import signal
import socket
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tricorn import Item, Listener, Server, Transport
from tricorn.contracts import Kind
from tricorn.events import ServerStarted
from tricorn.notify import ServiceManager, watchdog_seconds
from tricorn.strategies import Sync, ThreadPool
from tricorn.transports import TCP
from tricorn.wakeup import WakeUp

PROGRAM = """
    import sys, time
    from tricorn import Server
    from tricorn.handlers import Lines, message
    from tricorn.strategies import *
    from tricorn.transports import TCP

    def blocking(connection):
        while line := connection.recv(100):
            if line == b"hang":
                time.sleep(1000)
            connection.send(line)

    async def later(connection):
        while line := await connection.recv(100):
            if line == b"hang":
                time.sleep(1000)
            await connection.send(line)

    @message(Lines())
    def lines(line):
        return line

    with Server(TCP("127.0.0.1", 0), eval(sys.argv[1]), eval(sys.argv[2]), drain_timeout=float(sys.argv[3])) as server:
        print(server.address[1], flush=True)
        server.serve_forever(signals=True)
"""
WAYS = [
    ("Sync()", "blocking"),
    ("Thread()", "blocking"),
    ("ThreadPool(2)", "blocking"),
    ("ThreadPool(2, park_idle=True)", "blocking"),
    ("Fork()", "blocking"),
    ("ProcessPool(2)", "blocking"),
    ("Selector()", "lines"),
    ("Selector(then=ThreadPool(2))", "lines"),
    ("Asyncio()", "later"),
]

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="service managers talk over Unix sockets")


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Any) -> str:
    """Of both sorts."""
    return str(tmp_path / "notify") if request.param == "path" else f"@tricorn-notify-{os.getpid()}"


@pytest.mark.parametrize("way", WAYS, ids=[way[0] for way in WAYS])
def test_it_is_told_of_the_beginning_and_of_the_end(way: Any, service_manager: Any, tmp_path: Any) -> None:
    """READY when clients can connect, by the main process alone; STOPPING when the drain begins."""
    said = service_manager.hear(str(tmp_path / "notify"))
    program = service_manager.start(PROGRAM, *way, 8, **said)
    port = int(program.stdout.readline())
    assert service_manager.told() == {"READY": "1", "MAINPID": str(program.pid), "STATUS": "serving"}
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"hello\n")
        assert client.recv(10) == b"hello\n"
    program.send_signal(signal.SIGTERM)
    assert service_manager.told()["STOPPING"] == "1"
    assert program.wait(20) in (0, -signal.SIGTERM)
    with pytest.raises(AssertionError, match="nothing was said"):
        service_manager.told(timeout=0)


@pytest.mark.parametrize("way", WAYS, ids=[way[0] for way in WAYS])
def test_the_watchdog_is_fed(way: Any, service_manager: Any, tmp_path: Any) -> None:
    """While nothing happens, and while clients are there."""
    said = service_manager.hear(str(tmp_path / "notify"))
    program = service_manager.start(PROGRAM, *way, 8, WATCHDOG_USEC="100000", WATCHDOG_PID="", **said)
    port = int(program.stdout.readline())
    assert "READY" in service_manager.told()
    for _ in range(3):
        assert service_manager.told() == {"WATCHDOG": "1"}
    if way[0] != "Sync()":  # which turns no more while it has a client
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(b"hello\n")
            assert client.recv(10) == b"hello\n"
            for _ in range(3):
                assert service_manager.told() == {"WATCHDOG": "1"}


@pytest.mark.parametrize("way", [("Sync()", "blocking"), ("Asyncio()", "later")], ids=["Sync", "Asyncio"])
def test_a_loop_that_is_stuck_says_nothing(way: Any, service_manager: Any, tmp_path: Any) -> None:
    """Whoever serves in the loop itself holds it up, and the watchdog is to see that."""
    said = service_manager.hear(str(tmp_path / "notify"))
    program = service_manager.start(PROGRAM, *way, 8, WATCHDOG_USEC="100000", WATCHDOG_PID="", **said)
    with socket.create_connection(("127.0.0.1", int(program.stdout.readline())), timeout=10) as client:
        client.sendall(b"hello")
        assert client.recv(10) == b"hello"
        client.sendall(b"hang")
        with pytest.raises(AssertionError, match="nothing was said"):
            while True:
                service_manager.told(timeout=1.0)


class Chore(Item):
    """Something to do, of which there is always more."""

    value = "chore"

    def ack(self) -> None:
        """Done."""

    def nack(self, delay: float = 0.0) -> None:
        """Not done."""


class Endless(Listener):
    """Its `accept` never says that nothing is pending."""

    kind = Kind.ITEM
    address = "endless"

    def __init__(self) -> None:
        self._level = WakeUp()
        self._level.signal()

    def fileno(self) -> int:
        return self._level.fileno()

    def accept(self) -> Chore:
        return Chore()

    def close(self) -> None:
        self._level.close()


class Chores(Transport):
    """Without end."""

    kind = Kind.ITEM

    def listen(self) -> tuple[Endless]:
        return (Endless(),)


def test_a_busy_server_is_not_stuck(service_manager: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that never stop coming leave it time to say so."""
    monkeypatch.setenv("NOTIFY_SOCKET", service_manager.hear(str(tmp_path / "notify"))["NOTIFY_SOCKET"])
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    server = Server(Chores(), Sync(), lambda value: None, log=False)
    heard: list[dict[str, str]] = []

    def listen() -> None:
        try:
            heard.extend(service_manager.told() for _ in range(4))
        finally:
            server.request_stop()

    listener = threading.Thread(target=listen)
    listener.start()
    server.serve_forever(signals=True)
    listener.join()
    assert [next(iter(each)) for each in heard] == ["READY", "WATCHDOG", "WATCHDOG", "WATCHDOG"]


def test_the_watchdog_is_fed_while_it_drains(service_manager: Any, tmp_path: Any) -> None:
    """By whoever watches over the drain, for as long as that may take."""
    said = service_manager.hear(str(tmp_path / "notify"))
    program = service_manager.start(
        PROGRAM, "ThreadPool(2)", "blocking", 60, WATCHDOG_USEC="100000", WATCHDOG_PID="", **said
    )
    with socket.create_connection(("127.0.0.1", int(program.stdout.readline())), timeout=10) as client:
        client.sendall(b"hello")
        assert client.recv(10) == b"hello"
        client.sendall(b"hang")
        assert "READY" in service_manager.told()
        program.send_signal(signal.SIGTERM)
        while "STOPPING" not in service_manager.told():
            pass
        for _ in range(3):
            assert service_manager.told() == {"WATCHDOG": "1"}


def test_the_watchdog_of_somebody_else(service_manager: Any, tmp_path: Any) -> None:
    """WATCHDOG_PID says whom it watches."""
    said = service_manager.hear(str(tmp_path / "notify"))
    program = service_manager.start(
        PROGRAM, "ThreadPool(2)", "blocking", 8, WATCHDOG_USEC="1000", WATCHDOG_PID="1", **said
    )
    program.stdout.readline()
    assert "READY" in service_manager.told()
    with pytest.raises(AssertionError, match="nothing was said"):
        service_manager.told(timeout=0.2)


@pytest.mark.parametrize("name", ["", "relative", "@", "/", "vsock:2:1", "/nowhere/at/all", "/a\0b", "/" + "x" * 200])
def test_nobody_to_tell(name: str) -> None:
    """Costs nothing: the server serves."""
    manager = ServiceManager.from_environment({"NOTIFY_SOCKET": name})
    assert manager is None or not manager.tell("READY=1")


def test_nothing_is_told_unasked(service_manager: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a server that has the process to itself (``serve_forever(signals=True)``) speaks for it."""
    monkeypatch.setenv("NOTIFY_SOCKET", service_manager.hear(str(tmp_path / "notify"))["NOTIFY_SOCKET"])
    with Server(TCP("127.0.0.1", 0), ThreadPool(1), print, log=False) as server:
        server.start()
    with pytest.raises(AssertionError, match="nothing was said"):
        service_manager.told(timeout=0)


def test_both_sorts_of_address(address: str, service_manager: Any) -> None:
    """A path, and an abstract name."""
    manager = ServiceManager.from_environment(service_manager.hear(address))
    assert manager is not None
    assert manager.tell("A=1", "B=zwölf")
    assert service_manager.told() == {"A": "1", "B": "zwölf"}


def test_a_reload(service_manager: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begins with RELOADING and the time, and ends with READY, whatever comes of it."""
    said = service_manager.hear(str(tmp_path / "notify"))
    manager = ServiceManager.from_environment(said)
    with pytest.raises(ValueError, match="bad file"), manager.while_reloading():
        began = service_manager.told()
        assert began["RELOADING"] == "1"
        assert int(began["MONOTONIC_USEC"]) > 0
        raise ValueError("bad file")
    assert service_manager.told()["READY"] == "1"
    monkeypatch.setenv("NOTIFY_SOCKET", said["NOTIFY_SOCKET"])
    server = Server(TCP("127.0.0.1", 0), Sync(), print, log=False)

    def reload_and_stop(event: object) -> None:
        if isinstance(event, ServerStarted):
            server.reload()
            server.request_stop()

    server._observers.add(reload_and_stop)
    server.serve_forever(signals=True)
    told = [service_manager.told() for _ in range(4)]
    assert [next(iter(each)) for each in told] == ["RELOADING", "READY", "READY", "STOPPING"]


def test_a_forked_child_is_not_the_service(service_manager: Any, tmp_path: Any) -> None:
    """It has the object, and says nothing with it."""
    manager = ServiceManager.from_environment(service_manager.hear(str(tmp_path / "notify")))
    assert manager is not None
    child = os.fork()
    if child == 0:
        os._exit(int(manager.tell("READY=1")))
    assert os.waitpid(child, 0)[1] == 0
    with pytest.raises(AssertionError, match="nothing was said"):
        service_manager.told(timeout=0)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "1500000"}, 1.5),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": str(os.getpid())}, 1.5),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": ""}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "x"}, None),
        ({"WATCHDOG_USEC": 5000 * "9"}, None),
        ({"WATCHDOG_USEC": "²"}, None),
    ],
)
def test_the_time_of_the_watchdog(said: Any, expected: Any) -> None:
    """In seconds, where there is one for this process."""
    assert watchdog_seconds(said) == expected


@given(st.text(max_size=20), st.text(max_size=20))
def test_whatever_the_environment_says(limit: str, name: str) -> None:
    """It is understood, or there is nobody to tell."""
    seconds = watchdog_seconds({"WATCHDOG_USEC": limit})
    assert seconds is None or seconds > 0
    ServiceManager.from_environment({"NOTIFY_SOCKET": name})


def test_a_service_manager_that_does_not_read(tmp_path: Any) -> None:
    """Holds nobody up for long, the watchdog's messages not at all."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as full:
        full.bind(str(tmp_path / "notify"))
        manager = ServiceManager.from_environment({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert manager is not None
        while manager.tell("WATCHDOG=1", patience=0):
            pass
        manager.turning()
        assert not manager.tell("READY=1", patience=0.01)
        full.recv(100)
        assert manager.tell("READY=1", patience=10)
