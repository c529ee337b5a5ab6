"""Two programs want the same socket path at the same moment, again and again."""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import time
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(not hasattr(socket, "SO_PEERCRED"), reason="the winner is known by SO_PEERCRED")

PROGRAM = """
    import os, sys, time
    from tricorn.errors import ListenError
    from tricorn.transports import UnixDatagram, UnixStream

    make, path, held = eval(sys.argv[1]), sys.argv[2], None
    print("ready", flush=True)
    for line in sys.stdin:
        order, moment = line.split()
        while time.monotonic_ns() < int(moment):
            pass
        if order == "start":
            try:
                (held,) = make(path).listen()
                print("won", flush=True)
            except ListenError as error:
                print("lost", error.errno, path in str(error), flush=True)
        elif held is not None:
            if order == "die":
                held.disown()  # as the kernel does it for who is killed: the file stays
            else:
                held.close()
            held = None
            print("over", flush=True)
        else:
            print("over", flush=True)
"""
#: Nanoseconds in which an order reaches both.
LEAD_NS = 1_000_000
QUICK, MANY = 50, 1000
rounds = pytest.mark.parametrize("rounds", [QUICK, pytest.param(MANY, marks=pytest.mark.slow)])


class Starter:
    """A program that does as it is told, at the moment that it is told."""

    def __init__(self, program: Any) -> None:
        self._program = program
        self.pid: int = program.pid
        assert program.stdout.readline() == "ready\n"

    def order(self, what: str, moment: int) -> None:
        """Do it then."""
        print(what, moment, file=self._program.stdin, flush=True)

    def answer(self) -> str:
        """How it went."""
        line: str = self._program.stdout.readline()
        return line.strip()


def at_once(starters: list[Starter], *orders: str) -> list[str]:
    """Each its order, at the same moment; their answers."""
    moment = time.monotonic_ns() + LEAD_NS
    for starter, order in zip(starters, orders, strict=True):
        starter.order(order, moment)
    return [starter.answer() for starter in starters]


@pytest.fixture(params=["UnixStream", "UnixDatagram"])
def kind(request: pytest.FixtureRequest) -> str:
    """The transport."""
    name: str = request.param
    return name


@pytest.fixture
def path(tmp_path: Any) -> str:
    """That both want."""
    return str(tmp_path / "s")


@pytest.fixture
def starters(kind: str, path: str, script: Any) -> list[Starter]:
    """Two."""
    return [Starter(program) for program in [script(PROGRAM, kind, path) for _ in range(2)]]


LOST = f"lost {errno.EADDRINUSE} True"


def holder(path: str, kind: str) -> int | None:
    """The process that listens on ``path``; ``None`` where the kernel does not say, as for packets."""
    sort = socket.SOCK_STREAM if kind == "UnixStream" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_UNIX, sort) as client:
        client.connect(path)
        if kind != "UnixStream":
            return None
        pid: int = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        return pid


@rounds
@pytest.mark.timeout(300)
def test_exactly_one_wins(rounds: int, starters: list[Starter], path: str, kind: str) -> None:
    """The file is the winner's, for it alone, and goes with it; or is left behind, and is taken over by one of both."""
    for number in range(rounds):
        answers = at_once(starters, "start", "start")
        assert sorted(answers) == [LOST, "won"], f"in round {number}"
        winner = answers.index("won")
        assert holder(path, kind) in (starters[winner].pid, None)
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        assert at_once(starters, *2 * ["die" if number % 2 else "close"]) == ["over", "over"]
        assert os.path.exists(path) is bool(number % 2)
    assert os.listdir(os.path.dirname(path)) == [os.path.basename(path)]


@rounds
@pytest.mark.timeout(300)
def test_one_ends_while_the_other_starts(rounds: int, starters: list[Starter], path: str, kind: str) -> None:
    """Who ends removes no file but its own: the other has been refused, or can be reached."""
    for number in range(rounds):
        order = starters if number % 2 else starters[::-1]
        assert at_once(order[:1], "start") == ["won"]
        answers = at_once(order, "close", "start")
        assert answers[0] == "over"
        assert answers[1] in ("won", LOST), f"in round {number}"
        if answers[1] == "won":
            assert holder(path, kind) in (order[1].pid, None)
        assert at_once(order[1:], "close") == ["over"]
        assert not os.path.exists(path)


def test_nobody_takes_what_somebody_has(starters: list[Starter], path: str, kind: str) -> None:
    """A live socket of a third: both are refused, it goes on, and its file is the same."""
    sort = socket.SOCK_STREAM if kind == "UnixStream" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_UNIX, sort) as third:
        third.bind(path)
        if kind == "UnixStream":
            third.listen()
        before = os.stat(path)
        for _ in range(QUICK):
            assert at_once(starters, "start", "start") == [LOST, LOST]
        assert os.path.samestat(os.stat(path), before)
        assert holder(path, kind) in (os.getpid(), None)


def test_nobody_removes_what_is_no_socket(starters: list[Starter], path: str) -> None:
    """A file with something in it, a folder, a link to a socket that is stale."""
    with open(path, "w", encoding="ascii") as file:
        file.write("precious")
    for _ in range(QUICK):
        assert at_once(starters, "start", "start") == [LOST, LOST]
    with open(path, encoding="ascii") as file:
        assert file.read() == "precious"
    os.unlink(path)
    os.mkdir(path)
    assert at_once(starters, "start", "start") == [LOST, LOST]
    os.rmdir(path)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path + ".stale")
    os.symlink(path + ".stale", path)
    assert at_once(starters, "start", "start") == [LOST, LOST]
    assert os.path.islink(path)
    assert os.path.exists(path + ".stale")
