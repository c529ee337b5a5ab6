"""Who notices that an event loop is blocked: a thread that asks it for a sign, and tells where it is if none comes.

A handler that blocks in a loop holds every connection up, deadlines included, and leaves no trace by itself.  asyncio's
debug mode logs such a step when it is over, which is too late for one that hangs, and slows every step; this thread
costs nothing per request, and two wake-ups a second.
"""

from __future__ import annotations

import sys
import traceback
from _thread import get_ident
from collections.abc import Callable
from time import monotonic

from tricorn.events import Event, LoopBlocked
from tricorn.onlooker import Onlooker

__all__ = ["LoopWatch"]

#: Characters of a stack that are told, the innermost.
STACK_CHARS = 8_000
#: Seconds that an observer has at the end.
LAST_WORD_S = 0.5


class LoopWatch:
    """Watches one loop.  ``ask``, called in the watching thread, makes the loop call `answer` soon; ``tell`` gets one
    `~tricorn.events.LoopBlocked` for each block longer than ``limit`` seconds, before twice that.  `start` belongs to
    the loop's thread."""

    def __init__(self, limit: float | None, ask: Callable[[], object], tell: Callable[[Event], None]) -> None:
        self._limit = limit
        self._ask, self._tell = ask, tell
        self._loop_thread = 0
        self._asked_at = 0.0
        self._answered = True
        self._onlooker = Onlooker("tricorn-loop-watch", self._run)

    def start(self) -> None:
        """Begin.  Without a limit nobody watches."""
        if self._limit is not None:
            self._loop_thread = get_ident()
            self._onlooker.start()

    def stop(self) -> None:
        """End the thread; twice is once."""
        self._onlooker.stop(LAST_WORD_S)  # it may be telling an observer, which may be waiting for us

    def answer(self) -> None:
        """In the loop: here I am."""
        self._answered = True

    def _run(self) -> None:
        assert self._limit is not None
        told = False
        while not self._onlooker.over.wait(self._limit):
            if self._answered:
                told, self._answered, self._asked_at = False, False, monotonic()
                self._ask()
            elif not told:
                told = True
                self._tell(LoopBlocked(monotonic() - self._asked_at, self._stack()))

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._loop_thread)
        return "".join(traceback.format_stack(frame))[-STACK_CHARS:] if frame is not None else ""
