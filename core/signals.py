"""SIGTERM and SIGINT as a polite request, and as an order when they come twice."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from tricorn.errors import StateError
from tricorn.job import ServedJob
from tricorn.wakeup import WakeUp

if TYPE_CHECKING:
    from tricorn.engine import Engine

__all__ = ["DrainExpired", "draining_signals", "in_handler"]


class DrainExpired(BaseException):
    """Raised inside a handler that still runs in the main thread when the drain deadline has passed."""


def in_handler(frame: FrameType | None) -> bool:
    """True if ``frame`` was called, however deeply, by a request's handler."""
    while frame is not None:
        if frame.f_code is ServedJob._serve.__code__:
            return True
        frame = frame.f_back
    return False


@contextmanager
def draining_signals(
    engine: Engine, numbers: tuple[signal.Signals, ...] = (signal.SIGTERM, signal.SIGINT)
) -> Iterator[None]:
    """The first signal drains, a second one closes now; the previous handlers come back at the end.

    Only in the main thread, which is where Python runs signal handlers: `~tricorn.errors.StateError` elsewhere.
    """
    if threading.current_thread() is not threading.main_thread():
        raise StateError(
            f"signals=True works only in the main thread, and this is {threading.current_thread().name!r}: "
            "serve there, or call request_stop() from your own handler"
        )
    seen = 0
    expired = False

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        if expired:
            if in_handler(frame):
                raise DrainExpired
            return
        seen += 1
        engine.limit(None if seen == 1 else 0)
        engine.request_stop()

    def interrupt() -> None:
        nonlocal expired
        expired = True
        if threading.current_thread() is not threading.main_thread():
            signal.pthread_kill(threading.main_thread().ident or 0, numbers[0])

    engine.interrupt = interrupt
    with _waking(engine):
        previous = {number: signal.signal(number, on_signal) for number in numbers}
        try:
            yield
        finally:
            expired = False
            engine.interrupt = None
            for number, handler in previous.items():
                signal.signal(number, handler)


@contextmanager
def _waking(engine: Engine) -> Iterator[None]:
    """Python runs a handler between two instructions; a signal that arrives just before the thread blocks would wait
    for whatever ends the blocking, were it not for a descriptor that the C-level handler writes to."""
    wakeup = WakeUp()
    engine.intake.watch(wakeup.fileno(), wakeup.clear)
    previous = signal.set_wakeup_fd(wakeup.raising_fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
        wakeup.close()
