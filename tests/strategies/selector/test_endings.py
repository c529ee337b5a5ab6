"""Selector: what a drain waits for, and what it cuts off."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tricorn import Server
from tricorn.events import JobStarted, ServerStopping
from tricorn.handlers import Lines, message
from tricorn.strategies import Fork, ProcessPool, Selector, ThreadPool
from tricorn.testing.bounds import in_thread
from tricorn.testing.recorder import Recorder
from tricorn.transports import TCP, UDP

Dial = Callable[..., socket.socket]
Line = Callable[[socket.socket], bytes]

shout = message(Lines())(bytes.upper)


def test_drain_of_idle_ones(everywhere: Any, dial: Dial, line: Line) -> None:
    """Idle connections are ended at once, and have completed."""
    with Server(TCP(), everywhere(), shout) as server:
        server.start()
        clients = [dial(server.address, b"a\n" * n) for n in range(3)]
        for n, client in enumerate(clients):
            assert [line(client) for _ in range(n)] == [b"A\n"] * n
        while len(server.jobs()) < 3:
            pass
        report = server.drain()
        assert (report.accepted, report.completed, report.clean) == (3, 3, True)
        assert all(client.recv(1) == b"" for client in clients)


def test_drain_in_the_middle_of_a_message(everywhere: Any, dial: Dial, line: Line) -> None:
    """A peer in the middle of a message may finish it, and gets its reply; new clients are turned away meanwhile."""
    recorder = Recorder()
    with Server(TCP(), everywhere(), shout, observers=[recorder]) as server:
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


def test_drain_hangs_up(here: Any, dial: Dial, line: Line) -> None:
    """While connections end, nobody listens for new ones."""
    recorder = Recorder()
    with Server(TCP(), here(), shout, observers=[recorder]) as server:
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


def test_drain_of_one_that_is_silent_in_a_message(here: Any, dial: Dial, line: Line) -> None:
    """A peer that does not go on with its message is given up after a second; its message was cut off."""
    recorder = Recorder()
    with Server(TCP(), here(), shout, log=False, observers=[recorder]) as server:
        server.start()
        client = dial(server.address, b"a\nhal")
        assert line(client) == b"A\n"
        report = server.drain(10)
        assert (report.refused, report.clean) == (1, True)
        assert "the stream ended in the middle of a line" in str(recorder.outcome(1).error)


def test_drain_of_one_that_broke_the_framing(here: Any, dial: Dial, line: Line) -> None:
    """One that is to see our last words, and does not leave, is waited for a second, and not until the deadline."""
    handler = message(Lines(5, error_reply=b"too long\n"))(bytes.upper)
    with Server(TCP(), here(), handler, log=False) as server:
        server.start()
        client = dial(server.address, b"too long a line")
        assert line(client) == b"too long\n"
        report = server.drain(10)
        assert report.refused == 1
        assert report.duration < 8


def test_drain_waits_for_messages(gate: Any, dial: Dial, line: Line) -> None:
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


def test_a_message_that_outlives_the_drain(gate: Any, dial: Dial, line: Line) -> None:
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


def test_a_message_in_place_that_outlives_the_drain(gate: Any, dial: Dial, line: Line) -> None:
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


def test_cutting_children_off(forking: Any, dial: Dial, line: Line) -> None:
    """Children and workers that are still at it at the deadline are killed."""

    @message(Lines())
    def forever(request: bytes) -> Iterator[bytes]:
        signal.pause()
        yield b"never"

    recorder = Recorder()
    with Server(TCP(), forking(), forever, log=False, observers=[recorder]) as server:
        server.start()
        client = dial(server.address, b"x\n")
        recorder.wait(JobStarted)
        report = server.drain(0.3)
        assert (report.cancelled, report.accepted) == (1, 1)
        assert line(client) == b""
    recorder.check_books(report)


def test_datagrams_and_messages_with_one_fork(dial: Dial, line: Line) -> None:
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


def test_workers_keep_no_connection(dial: Dial, line: Line) -> None:
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
