"""Turning peers away without waiting for them: last words, a moment to read them in, and a descriptor kept in reserve.

A close(2) with input unread is a reset, and a reset may overtake what was sent before it (RFC 9112, section 9.6).  So a
connection that was told something is read from, and what comes is dropped, until the peer closes, or for `LINGER_S`
seconds, or until more than `MAX_LINGERING` wait here.
"""

from __future__ import annotations

import os
import selectors
import socket
import struct
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

__all__ = ["MAX_LINGERING", "Lobby", "Reserve", "part_at_once", "reset", "say"]

#: Seconds that a peer has to take its leave.
LINGER_S = 1.0
#: How many may do so at the same time; beyond, the first is closed.
MAX_LINGERING = 256
#: Bytes that are read of one before it is closed anyway.
LINGER_BYTES = 262_144
#: How many are accepted on the reserve descriptor before the pause goes on.
RESERVE_BATCH = 256

_RESET = struct.pack("ii", 1, 0)


def say(sock: Any, data: bytes) -> bool:
    """Send what the kernel takes of ``data`` at once, and end the sending; False if the peer is gone."""
    try:
        sock.settimeout(0)
        if data:
            sock.send(data)
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        return False
    return True


def reset(sock: Any) -> None:
    """Close with a reset: socket(7), SO_LINGER with a time of 0.  Never blocks."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    except (OSError, AttributeError):
        pass  # closing will do
    sock.close()


def part_at_once(sock: Any) -> None:
    """Drop what has arrived, so that closing is no reset, and close.  Never blocks."""
    _drained(sock, LINGER_BYTES)
    sock.close()


def _drained(sock: Any, limit: int) -> int:
    """Bytes read and dropped; -1 at the end of the input."""
    dropped = 0
    try:
        while dropped < limit:
            data = sock.recv(65536)
            if not data:
                return -1
            dropped += len(data)
    except BlockingIOError:
        return dropped
    except OSError:
        return -1
    return dropped


class Lobby:
    """Where those wait who were told to go.  Safe from any thread; never blocks."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        #: By descriptor, the first to come first: the socket, until when, and how much was read of it.
        self._leaving: dict[int, tuple[Any, float, int]] = {}
        self._closed = False

    def fileno(self) -> int:
        """Readable when `sweep` has something to do before `due`; -1 where the platform has no such thing."""
        number: int = getattr(self._selector, "fileno", lambda: -1)()
        return number

    def take(self, sock: Any) -> None:
        """Close ``sock`` when its peer has closed, or when its time is over."""
        with self._lock:
            if self._closed:
                sock.close()
                return
            self._leaving[sock.fileno()] = (sock, monotonic() + LINGER_S, 0)
            self._selector.register(sock, selectors.EVENT_READ)
            if len(self._leaving) > MAX_LINGERING:
                self._part(next(iter(self._leaving)))

    def sweep(self) -> None:
        """Close those that have left, and those whose time is over."""
        if not self._leaving:
            return
        with self._lock:  # and not only if it is free: who leaves without having looked is woken for it again at once
            for key, _ in self._selector.select(0):
                self._look_at(key.fd)
            now = monotonic()
            while self._leaving:
                fd, (_, until, _) = next(iter(self._leaving.items()))
                if until > now:
                    break
                self._part(fd)

    @property
    def due(self) -> float | None:
        """When the next one's time is over, by `time.monotonic`."""
        try:
            _, until, _ = next(iter(self._leaving.values()))
        except (StopIteration, RuntimeError):  # empty, or changing just now: whoever changes it looks again
            return None
        return until

    def clear(self) -> bool:
        """Close them all, now; True if there were any."""
        with self._lock:
            there_were = bool(self._leaving)
            for fd in list(self._leaving):
                self._part(fd)
        return there_were

    def _look_at(self, fd: int) -> None:
        if fd not in self._leaving:
            return
        sock, until, read = self._leaving[fd]
        more = _drained(sock, LINGER_BYTES)
        if more < 0 or read + more > LINGER_BYTES:
            self._part(fd)
        else:
            self._leaving[fd] = (sock, until, read + more)

    def _part(self, fd: int) -> None:
        sock, _, _ = self._leaving.pop(fd)
        self._selector.unregister(sock)
        part_at_once(sock)

    def close(self) -> None:
        """Close them all."""
        self.clear()
        with self._lock:
            self._closed = True
            self._selector.close()


class Reserve:
    """A descriptor that is kept for the day when there are no more: given up, it lets one peer after the other be
    accepted and sent away, who would otherwise wait for nothing.  Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self._fd = _spare()

    def spend(self, turn_one_away: Callable[[], bool]) -> None:
        """Call ``turn_one_away`` with a descriptor free, until it returns False.

        Does nothing if another thread is at it, or if somebody else got the descriptor the last time and there is still
        none to keep.
        """
        if not self._lock.acquire(blocking=False):
            return
        try:
            if self._closed:
                return
            self._give_up()
            for _ in range(RESERVE_BATCH):
                if not turn_one_away():
                    break
        finally:
            if not self._closed:
                self._fd = _spare()
            self._lock.release()

    def _give_up(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def close(self) -> None:
        """Give it back."""
        with self._lock:
            self._closed = True
            self._give_up()


def _spare() -> int:
    try:
        return os.open(os.devnull, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError:
        return -1
