"""A worker process as its supervisor knows it: the post that it mans, and what was decided about it."""

from __future__ import annotations

from typing import Protocol

from attrs import define

from tricorn.care import Life
from tricorn.forking import Child
from tricorn.pulse import Pulse

__all__ = ["Post", "Worker"]


class Post(Protocol):
    """What one worker does, and how its parent hears of it."""

    #: Its signs of life.
    pulse: Pulse

    def main(self) -> int:
        """In the worker: serve, and return the exit status."""
        ...

    def fileno(self) -> int:
        """In the parent: readable when `hear` has something to take in."""
        ...

    def hear(self) -> None:
        """Take in what the worker has told; never blocks."""
        ...

    def manned(self, pid: int) -> None:
        """The worker runs, as process ``pid``."""
        ...

    def began(self) -> bool:
        """The worker has a job of its own making, or had, whatever its pulse says."""
        ...

    def served(self) -> int:
        """How many jobs the worker was given until now."""
        ...

    def busy(self) -> bool:
        """It has a job now."""
        ...

    def ended(self, words: str, *, cancelled: bool) -> tuple[int, ...]:
        """The worker is gone: give its jobs their outcomes and the resources back; returns the jobs it lost."""
        ...


@define(eq=False)
class Worker:
    """One process; belongs to the supervisor."""

    post: Post
    child: Child
    born: float
    life: Life
    #: Who goes when this one serves, and the other way round; both only until then.
    relieves: Worker | None = None
    successor: Worker | None = None
    #: It has begun to serve.
    ready: bool = False
    #: It was told to drain; and when it is to be killed if it does not end.
    leaving: bool = False
    kill_at: float | None = None
    #: When it was first seen to be silent for too long.
    suspected_at: float | None = None
    #: Why it is to be relieved, and why we ended it.
    reason_to_go: str = ""
    reason: str = ""
    #: It was sent SIGKILL; it has ended, and was buried.
    killed: bool = False
    gone: bool = False

    def notice(self) -> bool:
        """See whether it serves; True the first time that it does."""
        if self.ready or not (self.post.pulse.ready_at or self.post.began()):
            return False
        self.ready = True
        return True

    def stand_in(self) -> Worker | None:
        """It is nobody's successor any more, but one of many; returns whose it was."""
        old, self.relieves = self.relieves, None
        if old is not None:
            old.successor = None
        return old
