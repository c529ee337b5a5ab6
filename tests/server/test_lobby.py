"""Turning peers away: the time they have to leave, and the descriptor that is kept for who could not be let in."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tricorn import Admission, Reject, Server
from tricorn.lobby import MAX_LINGERING, Lobby, Reserve
from tricorn.strategies import Thread
from tricorn.transports import TCP

LOCAL = TCP("127.0.0.1", 0)
BUSY = b"busy"
Dial = Callable[[Any], socket.socket]


# -- those who were told to go


def pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.settimeout(10)
    return ours, theirs


def test_the_lobby_waits_for_the_peer() -> None:
    """Who was told to go is closed when it has gone; what it still says is dropped."""
    lobby = Lobby()
    ours, theirs = pair()
    lobby.take(ours)
    theirs.sendall(b"but")
    lobby.sweep()
    assert ours.fileno() >= 0
    assert lobby.due is not None
    theirs.close()
    lobby.sweep()
    assert ours.fileno() < 0
    assert lobby.due is None
    lobby.close()


def test_the_lobby_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who does not go is closed when its time is over, or when it has said too much."""
    monkeypatch.setattr("tricorn.lobby.LINGER_BYTES", 3)
    lobby = Lobby()
    (talkative, theirs), (silent, silent_peer) = pair(), pair()
    lobby.take(talkative)
    lobby.take(silent)
    theirs.sendall(b"and on and on")
    lobby.sweep()
    assert (talkative.fileno() < 0, silent.fileno() < 0) == (True, False)
    monkeypatch.setattr("tricorn.lobby.monotonic", lambda: float("inf"))
    lobby.sweep()
    assert silent.fileno() < 0
    lobby.close()
    theirs.close()
    silent_peer.close()


def test_the_lobby_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """When it is full, the first goes."""
    assert MAX_LINGERING == 256
    monkeypatch.setattr("tricorn.lobby.MAX_LINGERING", 2)
    lobby = Lobby()
    pairs = [pair() for _ in range(3)]
    for ours, _ in pairs:
        lobby.take(ours)
    assert [ours.fileno() < 0 for ours, _ in pairs] == [True, False, False]
    assert lobby.clear()
    assert not lobby.clear()
    lobby.close()
    late, late_peer = pair()
    lobby.take(late)
    assert late.fileno() < 0
    for theirs in (late_peer, *(theirs for _, theirs in pairs)):
        theirs.close()


def test_a_crowd_that_stays(held: Any, dial: Dial, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rejected peers that neither read nor close hold no more descriptors than the lobby has room for."""
    monkeypatch.setattr("tricorn.lobby.MAX_LINGERING", 5)
    with Server(LOCAL, Thread(1), held, admission=Admission(when_full=Reject(BUSY)), log=False) as server:
        server.start()
        assert dial(server).recv(100) == b"held"
        before = len(os.listdir("/proc/self/fd"))
        crowd = [dial(server) for _ in range(50)]
        assert [client.recv(100) for client in crowd] == [BUSY] * 50
        assert len(os.listdir("/proc/self/fd")) - before <= 50 + 5 + 1  # theirs, the lobby's, and one just accepted
        held.free.set()


# -- the reserve


def test_the_reserve_is_kept() -> None:
    """It is free while peers are turned away, and there again afterwards; not more than a batch at a time."""
    reserve = Reserve()
    kept = reserve._fd
    seen: list[bool] = []

    def turn_one_away() -> bool:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(kept)
        seen.append(True)
        return len(seen) < 3

    reserve.spend(turn_one_away)
    assert len(seen) == 3
    os.fstat(reserve._fd)
    endless: list[bool] = []
    reserve.spend(lambda: not endless.append(True))  # type: ignore[func-returns-value]
    assert len(endless) == 256
    reserve.close()
    reserve.spend(lambda: pytest.fail("it was closed"))


def test_the_reserve_belongs_to_one_at_a_time() -> None:
    """A second thread that runs out of descriptors meanwhile just pauses."""
    reserve = Reserve()
    inside, leave = threading.Event(), threading.Event()

    def first() -> bool:
        inside.set()
        leave.wait(10)
        return False

    thread = threading.Thread(target=reserve.spend, args=(first,))
    thread.start()
    assert inside.wait(10)
    reserve.spend(lambda: pytest.fail("two at a time"))
    leave.set()
    thread.join()
    reserve.close()


def test_a_reserve_that_somebody_else_got(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the descriptor was taken by somebody else, the next one that is free is kept."""
    spare = os.open
    reserve = Reserve()
    monkeypatch.setattr("tricorn.lobby._spare", lambda: -1)
    reserve.spend(lambda: False)
    assert reserve._fd == -1
    monkeypatch.setattr("tricorn.lobby._spare", lambda: spare(os.devnull, os.O_RDONLY))
    reserve.spend(lambda: False)
    os.fstat(reserve._fd)
    reserve.close()
