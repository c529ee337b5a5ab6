"""A thread that minds the door while all who could do it are in handlers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from tricorn.admission import Permits
from tricorn.contracts import Listener
from tricorn.overload import Gate
from tricorn.waiting import make_waiter
from tricorn.wakeup import WakeUp

if TYPE_CHECKING:
    from tricorn.waiting import Waiter

__all__ = ["Doorman"]

#: Seconds that it gets to end.
LEAVE_S = 1.0


class Doorman:
    """For dispatchers whose workers pull, and then run what they pulled: once each is busy, nobody is left to say so to
    those who come.  Starts when it is first needed; sleeps while there is room.

    Its waiter is not exclusive: where a neighbour process has room, that one must be woken as well.
    """

    def __init__(self, gate: Gate, permits: Permits, listeners: list[Listener], over: Callable[[], bool]) -> None:
        self._gate = gate
        self._permits = permits
        self._listeners = listeners
        self._over = over
        self._call = WakeUp()
        # Made now, when there are descriptors: it is for a time when there may be none.
        self._waiter = make_waiter(listeners, {self._call.fileno(): self._call.clear}, shared=False)
        self._waiter.listen(False)
        self._awake = False
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._dismissed = False

    def call(self) -> None:
        """There is no permit left.  Costs a look at a flag while it is awake."""
        if self._awake:
            return
        if self._thread is None:
            self._hire()
        self._call.signal()

    def _hire(self) -> None:
        with self._lock:
            if self._thread is not None or self._dismissed:
                return
            thread = threading.Thread(target=self._work, name="tricorn-doorman", daemon=True)
            with suppress(RuntimeError):  # no thread to be had: then those who come wait, until there is one
                thread.start()
                self._thread = thread

    def _work(self) -> None:
        try:
            while not self._dismissed:
                self._watch(self._waiter)
        finally:
            self._awake = False

    def _watch(self, waiter: Waiter) -> None:
        gate, permits = self._gate, self._permits
        if not gate.is_full or self._over():
            self._awake = False
            if not gate.is_full or self._over():  # looked at after the flag: a `call` in between has seen it
                waiter.listen(False)
                gate.rested()
                waiter.wait(gate.due)
            return
        self._awake = True
        if permits.notify(waiter.poke):
            waiter.listen(gate.turn(self._listeners) and not self._over())
            waiter.wait(gate.due)
            permits.forget(waiter.poke)

    def dismiss(self) -> None:
        """No more; waits for it."""
        with self._lock:
            self._dismissed = True
        self._call.signal()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(LEAVE_S)
        self._waiter.close()
        self._call.close()
