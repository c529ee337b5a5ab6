"""Deadlines in a forked child, which has no thread but the one that serves: by ITIMER_REAL, setitimer(2)."""

from __future__ import annotations

# Without the enums of `signal`, which cost a forked child 30 calls.
import _signal
from time import monotonic
from types import FrameType
from typing import Protocol

from tricorn.deadlines import Deadlines
from tricorn.events import Stage

__all__ = ["Overrun", "set_alarm", "stop_alarm"]

#: Seconds between two looks at least.
LOOK_S = 0.1
#: Seconds that a handler has, after its connection was cut, to come to an end; and again, where it ignores that.
LAST_MOMENT_S = 0.5

setitimer = _signal.setitimer


class Overrun(BaseException):
    """Raised inside a handler of a forked child that works on after its request's deadline."""


class Watched(Protocol):
    """The job."""

    stage: Stage
    overdue: TimeoutError | None

    def due(self) -> tuple[float, str] | None:
        """When it is late, and by what."""
        ...

    def late(self, which: str) -> None:
        """Cut it."""
        ...


def set_alarm(job: Watched, limits: Deadlines) -> bool:
    """Cut ``job`` when it is late; raise `Overrun` in a handler that takes no notice.  Until `stop_alarm`, if True.

    A handler that uses SIGALRM itself has it, and no deadlines.  One that does not come back to the interpreter is
    not interrupted.
    """
    shortest = limits.shortest
    if shortest is None:
        return False

    def on_alarm(number: int, frame: FrameType | None) -> None:
        if job.overdue is not None:
            setitimer(_signal.ITIMER_REAL, LAST_MOMENT_S)
            if job.stage is Stage.HANDLER:
                raise Overrun
            return
        now, found = monotonic(), job.due()
        if found is not None and found[0] <= now:
            job.late(found[1])
            setitimer(_signal.ITIMER_REAL, LAST_MOMENT_S)
        else:
            pause = shortest if found is None else min(shortest, max(LOOK_S, found[0] - now))
            setitimer(_signal.ITIMER_REAL, pause)

    _signal.signal(_signal.SIGALRM, on_alarm)
    setitimer(_signal.ITIMER_REAL, shortest)
    return True


def stop_alarm() -> None:
    """The job is over."""
    setitimer(_signal.ITIMER_REAL, 0.0)
