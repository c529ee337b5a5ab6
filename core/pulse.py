"""A worker process's signs of life, where its parent reads them: shared memory that one process writes.

::

    ready       when it began to serve, 0.0 until then; by `time.monotonic`, one clock for all processes
    beat        when its heart last beat
    resident    bytes of memory that are its own at that time: statm of proc(5)
    in_flight   how many jobs it had, and how many of them were cut for taking too long and did not end
    stuck
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
from collections.abc import Callable
from time import monotonic

from tricorn.wakeup import WakeUp

__all__ = ["Heart", "Pulse"]

_FIELDS = struct.Struct("ddqqq")
_READY = struct.Struct("d")
_BEAT = struct.Struct("dqqq")


class Pulse:
    """Made by the parent before the fork; `begin` and `beat` are the worker's, the rest the parent's."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _FIELDS.size)
        #: What wakes the parent; set before the fork.
        self.nudge: WakeUp | None = None

    def begin(self) -> None:
        """It serves now; twice is once."""
        if not self.ready_at:
            _READY.pack_into(self._memory, 0, monotonic())
            self._tell()

    def beat(self, in_flight: int, stuck: int) -> None:
        """It is alive, and has these jobs.  The parent is woken where something is new of those that are stuck."""
        _, _, jobs_before, stuck_before = self.read()
        _BEAT.pack_into(self._memory, _READY.size, monotonic(), _resident(), in_flight, stuck)
        if stuck and (in_flight, stuck) != (jobs_before, stuck_before):
            self._tell()

    def _tell(self) -> None:
        if self.nudge is not None:
            self.nudge.signal()

    @property
    def ready_at(self) -> float:
        """When it began to serve, or 0.0."""
        at: float = _READY.unpack_from(self._memory, 0)[0]
        return at

    def read(self) -> tuple[float, int, int, int]:
        """The last beat's time, bytes in memory, jobs, and jobs that are stuck; all 0 before the first."""
        at, resident, in_flight, stuck = _BEAT.unpack_from(self._memory, _READY.size)
        return at, resident, in_flight, stuck

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()


class Heart:
    """A thread in the worker that lets the pulse beat every ``interval`` seconds.

    ``count`` returns how many jobs there are, and the numbers of those that are late; what is late in two beats in a
    row is stuck.  A worker that hangs in C code which keeps the interpreter to itself, or is stopped, has no heartbeat.
    """

    def __init__(self, pulse: Pulse, count: Callable[[], tuple[int, set[int]]], interval: float) -> None:
        self._pulse, self._count, self._interval = pulse, count, interval
        self._over = threading.Event()
        self._late: set[int] = set()
        self._thread = threading.Thread(target=self._run, name="tricorn-heart", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._beat()
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(self._interval):
            self._beat()

    def _beat(self) -> None:
        in_flight, late = self._count()
        stuck, self._late = len(late & self._late), late
        if in_flight:  # though nobody had to wait yet
            self._pulse.begin()
        self._pulse.beat(in_flight, stuck)


def _resident() -> int:
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
