"""SIGTERM and SIGINT as a polite request, and as an order when they come twice."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

from tricorn.errors import StateError
from tricorn.handling import CALLERS
from tricorn.job import ServedJob
from tricorn.wakeup import WakeUp

if TYPE_CHECKING:
    from tricorn.engine import Engine

__all__ = ["DrainExpired", "draining_signals", "in_handler", "keyboard_interrupt", "require_main_thread"]


#: What a signal's handler is where the program has none of its own.
_NOBODY = (signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler, None)


class DrainExpired(BaseException):
    """Raised inside a handler that still runs in the main thread when the drain deadline has passed."""


def in_handler(frame: FrameType | None) -> bool:
    """True if ``frame`` was called, however deeply, by a request's handler."""
    callers = _callers()
    while frame is not None:
        if frame.f_code in callers:
            return True
        frame = frame.f_back
    return False


def _callers() -> set[CodeType]:
    """What calls handlers: in a thread, again after `park`, as a coroutine; one packet after the other; and a message
    handler's function in a loop, where there are such."""
    calls: list[Any] = [ServedJob.serve, ServedJob._call, ServedJob.handle]
    if "tricorn.messages" in sys.modules:
        from tricorn.messages import Conversation

        calls += [Conversation.respond, Conversation._work]
    return {*CALLERS, *(call.__code__ for call in calls)}


def require_main_thread() -> None:
    """Raise `~tricorn.errors.StateError` where Python would not run a signal handler."""
    if threading.current_thread() is not threading.main_thread():
        raise StateError(
            f"signals=True works only in the main thread, and this is {threading.current_thread().name!r}: "
            "serve there, or call request_stop() from your own handler"
        )


def _politely(seen: int) -> float | None:
    """Seconds for the drain after that many signals: what the server was told, then none."""
    return None if seen == 1 else 0


@contextmanager
def draining_signals(
    engine: Engine,
    numbers: tuple[signal.Signals, ...] = (signal.SIGTERM, signal.SIGINT),
    patience: Callable[[int], float | None] = _politely,
    *,
    again: bool = True,
    reload: Callable[[], object] | None = None,
) -> Iterator[None]:
    """A signal drains; ``patience`` says how long, by how many have come.  The previous handlers come back at the end.

    A handler of the program's own then gets the signal, too: it is raised ``again``, once.  Where there was none, the
    program goes on, and decides by the report what its exit status is.

    SIGHUP calls ``reload``, if there is one, in the signal handler.

    Only in the main thread, which is where Python runs signal handlers: `~tricorn.errors.StateError` elsewhere.
    """
    require_main_thread()
    seen = last = 0
    expired = False

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal seen, last
        if expired:
            if in_handler(frame):
                raise DrainExpired
            return
        seen, last = seen + 1, number
        engine.limit(patience(seen))
        engine.request_stop()

    def interrupt() -> None:
        nonlocal expired
        expired = True
        if threading.current_thread() is not threading.main_thread():
            signal.pthread_kill(threading.main_thread().ident or 0, numbers[0])

    engine.interrupt = interrupt
    hang_up = getattr(signal, "SIGHUP", None) if reload is not None else None

    def on_hang_up(number: int, frame: FrameType | None) -> None:
        if reload is not None:
            reload()

    handlers = {**dict.fromkeys(numbers, on_signal), **({hang_up: on_hang_up} if hang_up is not None else {})}
    with _handling(engine, handlers):
        try:
            yield
        finally:
            expired = False
            engine.interrupt = None
    if again and last and signal.getsignal(last) not in _NOBODY:
        signal.raise_signal(last)


@contextmanager
def keyboard_interrupt(engine: Engine) -> Iterator[None]:
    """Ctrl-C ends serving in order, and is raised when it has ended; inside a handler it is raised at once.

    Where nobody asked for signals, and SIGINT would raise `KeyboardInterrupt` in the middle of whatever the main
    thread does: between taking a connection and handing it over, in the hooks around a fork.  A second Ctrl-C cuts
    the drain short.
    """
    on_main_thread = threading.current_thread() is threading.main_thread()
    if not on_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    seen = 0

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        seen += 1
        engine.limit(_politely(seen))
        engine.request_stop()
        if in_handler(frame):
            raise KeyboardInterrupt

    with _handling(engine, {signal.SIGINT: on_signal}):
        yield
    if seen:
        raise KeyboardInterrupt


@contextmanager
def _handling(engine: Engine, handlers: Mapping[signal.Signals, Callable[..., None]]) -> Iterator[None]:
    with _waking(engine):
        previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
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
