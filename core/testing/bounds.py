"""How long the kit waits for anything, and how it says that it waited in vain."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType
from typing import Any

__all__ = ["BOUND_S", "alarm", "expect", "in_thread", "on_main_thread"]

#: Seconds within which everything that is waited for must have come.  Read when it is needed, so it can be set.
BOUND_S = 10.0


def expect(holds: object, otherwise: str) -> None:
    """Raise `AssertionError` with ``otherwise`` unless ``holds``.  Unlike ``assert`` also under ``python -O``."""
    if not holds:
        raise AssertionError(otherwise)


def on_main_thread() -> bool:
    """Whether signal handlers can be set here."""
    return threading.current_thread() is threading.main_thread()


@contextmanager
def in_thread(call: Callable[[], Any], what: str, extra: float = 0.0) -> Iterator[list[Any]]:
    """Run ``call`` beside the block and wait for it at its end, ``extra`` seconds longer than for other things; the
    list then has its result.

    What it raises is raised here.
    """
    results: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="tricorn-testing", daemon=True)
    thread.start()
    yield results
    bound = BOUND_S + extra
    thread.join(bound)
    expect(not thread.is_alive(), f"{what} did not return within {bound:g} s")
    if errors:
        raise errors[0]


@contextmanager
def alarm(what: str) -> Iterator[None]:
    """Raise `AssertionError` in the main thread if the block takes too long; for calls that serve in that thread.

    Borrows SIGALRM, and gives it back with the time that was left, since others (pytest-timeout) use it too.
    """

    def ring(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"{what} did not return within {BOUND_S:g} s")

    handler = signal.getsignal(signal.SIGALRM)
    began = monotonic()
    left, interval = signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, BOUND_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(0.001, left - (monotonic() - began)), interval)
