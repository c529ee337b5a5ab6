"""Selector: peers that do not read, are silent, or take their time."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest

from tricorn import Deadlines, Server
from tricorn.events import JobFinished, Status
from tricorn.handlers import Lines, message
from tricorn.strategies import Selector, ThreadPool
from tricorn.testing.recorder import Recorder
from tricorn.transports import TCP

Dial = Callable[..., socket.socket]
Line = Callable[[socket.socket], bytes]

shout = message(Lines())(bytes.upper)


REPLY = 50_000


#: More than the kernel keeps for both sides: tcp(7), tcp_rmem and tcp_wmem.
MUCH = 60_000_000


@pytest.mark.parametrize("sent", [b"x\n" * 4000, (b"x" * 20_000 + b"\n") * 4], ids=["many at once", "long ones"])
def test_a_peer_that_does_not_read(either: Any, sent: bytes, dial: Dial, line: Line) -> None:
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

    with Server(TCP(), either(), long) as server:
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
    with Server(TCP(), Selector(), handler, deadlines=Deadlines(write=0.1), log=False, observers=[recorder]) as server:
        server.start()
        dial(server.address, b"x\n")
        outcome = recorder.outcome(1)
    assert outcome.status is Status.TIMED_OUT
    assert str(outcome.error).startswith("the peer took none of the output for 0.")


def test_a_peer_that_reads_slowly_is_not_ended(dial: Dial) -> None:
    """The clock of the output starts again whenever some of it is taken."""
    handler = message(Lines())(lambda request: bytes(20_000_000))
    with Server(TCP(), Selector(), handler, deadlines=Deadlines(write=2.0)) as server:
        server.start()
        client, received = dial(server.address, b"x\n"), 0
        while received < 20_000_001:
            received += len(client.recv(100_000))
        assert server.drain().completed == 1


def test_idle_timeout(everywhere: Any, dial: Dial, line: Line) -> None:
    """A peer that says nothing for so long, from the beginning or after a message, is ended as timed out."""
    recorder, chosen = Recorder(), everywhere()
    limits = Deadlines(idle=0.1, first_byte=0.1)
    with Server(TCP(), chosen, shout, log=False, observers=[recorder], deadlines=limits) as server:
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


def test_idle_peers_are_ended_one_by_one(dial: Dial, line: Line) -> None:
    """A peer that goes on speaking is not ended with those that came with it and fell silent."""
    recorder = Recorder()
    with Server(TCP(), Selector(), shout, deadlines=Deadlines(idle=0.3), log=False, observers=[recorder]) as server:
        server.start()
        silent, speaking = dial(server.address), dial(server.address)
        name = silent.getsockname()
        while not recorder.of(JobFinished):
            speaking.sendall(b"a\n")
            assert line(speaking) == b"A\n"
        assert [each.outcome.peer for each in recorder.of(JobFinished)] == [name]


def test_read_timeout(either: Any, dial: Dial) -> None:
    """From the first byte of a message to its last there are so many seconds, however regularly others come."""
    recorder = Recorder()
    limits = Deadlines(read=0.2, idle=30)
    with Server(TCP(), either(), shout, log=False, observers=[recorder], deadlines=limits) as server:
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


def test_messages_that_overlap_are_not_one(either: Any, dial: Dial) -> None:
    """A peer whose every packet ends one message and begins the next is in time, though it is never between two."""
    limits, recorder = Deadlines(read=1.0), Recorder()
    handler = message(Lines())(lambda request: None)
    with Server(TCP(), either(), handler, log=False, observers=[recorder], deadlines=limits) as server:
        server.start()
        client, until = dial(server.address, b"fir"), monotonic() + 1.5
        while monotonic() < until:
            client.sendall(b"st\nfir")
            threading.Event().wait(0.01)
        assert not recorder.of(JobFinished)
        client.sendall(b"st\n")
        client.close()
        assert recorder.outcome(1).status is Status.COMPLETED


def test_no_deadline_while_a_message_is_worked_on(gate: Any, dial: Dial, line: Line) -> None:
    """A peer that waits for its reply is not idle; its clock starts when it has it."""
    recorder = Recorder()
    limits, handler = Deadlines(idle=0.1, read=0.1, first_byte=0.1), message(Lines())(gate)
    chosen = Selector(ThreadPool(2))
    with Server(TCP(), chosen, handler, log=False, observers=[recorder], deadlines=limits) as server:
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
