"""The thread that keeps leases alive while handlers work."""

from __future__ import annotations

import signal
import threading
from time import monotonic
from typing import Protocol

from tricorn.forking import retire_before_forks

__all__ = ["Renewable", "Renewals"]

#: Seconds until the next try where a renewal failed.
AGAIN_S = 0.5
#: Seconds that an idle thread gets to end.
LEAVING_S = 0.5


class Renewable(Protocol):
    """Something that is held for a time."""

    def extend(self) -> bool:
        """Hold it for longer; False if it is no longer held.  Raises `OSError` where that could not be tried."""
        ...


class Renewals:
    """Calls `Renewable.extend` of each of its members every ``interval`` seconds, on one thread.

    The thread starts with the first member, and ends after an interval without any, or when a fork is near
    (`tricorn.forking`).  `add` and `remove` are safe from any thread.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._due: dict[Renewable, float] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._retired = False
        retire_before_forks(self)

    def add(self, member: Renewable) -> None:
        """Renew it from now on; the first time an interval from now."""
        with self._changed:
            if self._closed:
                return
            self._due[member] = monotonic() + self._interval
            if self._thread is None:
                self._retired = False
                self._thread = threading.Thread(target=self._work, name="tricorn-lease", daemon=True)
                self._thread.start()

    def remove(self, member: Renewable) -> None:
        """Not any more; a renewal that is under way may still happen."""
        with self._changed:
            self._due.pop(member, None)

    def _work(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are for who serves
        while (due := self._next()) is not None:
            for member in due:
                self._extend(member)

    def _next(self) -> list[Renewable] | None:
        """Those that are due, once there are some; ``None`` if there is nobody left to wait for."""
        with self._changed:
            while not self._closed and not (self._retired and not self._due):
                now = monotonic()
                due = [member for member, at in self._due.items() if at <= now]
                if due:
                    return due
                soonest = min(self._due.values(), default=now + self._interval)
                if not self._changed.wait(soonest - now) and not self._due:
                    break
            self._thread = None
            return None

    def _extend(self, member: Renewable) -> None:
        try:
            pause = self._interval if member.extend() else None
        except OSError:
            pause = min(AGAIN_S, self._interval)
        with self._changed:
            if member in self._due:
                if pause is None:
                    del self._due[member]
                else:
                    self._due[member] = monotonic() + pause

    def retire(self) -> None:
        """End the thread if nothing is held just now; the next member starts another."""
        thread = self._thread
        if thread is None or not thread.is_alive():
            return
        with self._changed:
            if self._due:
                return
            self._retired = True
            self._changed.notify_all()
        thread.join(LEAVING_S)

    def close(self) -> None:
        """End the thread, and wait for it; nothing is renewed any more."""
        with self._changed:
            self._closed = True
            thread = self._thread
            self._changed.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join()
