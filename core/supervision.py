"""Keeping a number of worker processes at work: starting, hearing, burying, replacing, ending them.

Everything happens on the thread that calls; nothing waits but `look_after` and `join`.  Children are held by pidfds and
waited for one by one, so the program's other children are never touched.
"""

from __future__ import annotations

import select
import signal
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Protocol

from attrs import define

from tricorn.contracts import Crew
from tricorn.deadline import Deadline
from tricorn.errors import StateError
from tricorn.events import WorkerEnded, WorkerStarted
from tricorn.forking import Child, fork_child, refuse_if_threaded

__all__ = ["BACK_OFF_S", "HEALTHY_S", "Post", "Supervisor", "pause_after"]

#: Seconds before a worker that died young is replaced: doubled each time, from the first to the second figure.
BACK_OFF_S = (0.1, 30.0)
#: A worker that served this long was no failed start, and is replaced at once.
HEALTHY_S = 1.0


def pause_after(failures: int) -> float:
    """Seconds to wait before the next start, after so many workers in a row died young."""
    first, most = BACK_OFF_S
    return min(most, first * 2.0 ** min(failures - 1, 16)) if failures else 0.0


class Post(Protocol):
    """What one worker does, and how its parent hears of it."""

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

    def ended(self, words: str, *, cancelled: bool) -> tuple[int, ...]:
        """The worker is gone: give its jobs their outcomes and the resources back; returns the jobs it lost."""
        ...


@define(eq=False)
class _Worker:
    post: Post
    child: Child
    born: float


class Supervisor:
    """``size`` workers, each at a post made by ``make_post``; belongs to one thread of a single-threaded process."""

    def __init__(self, size: int, make_post: Callable[[], Post], crew: Crew) -> None:
        self._size = size
        self._make_post = make_post
        self._crew = crew
        self._workers: dict[int, _Worker] = {}
        self._epoll = select.epoll()
        self._due: list[tuple[float, int | None]] = []
        self._failures = 0
        self._ending = False
        self._killed = False

    def fileno(self) -> int:
        """Readable when `look_after` has something to do."""
        return self._epoll.fileno()

    def posts(self) -> Iterator[Post]:
        """Those that are manned now."""
        return (worker.post for worker in self._workers.values())

    # -- starting

    def start(self) -> None:
        """Man every post."""
        for _ in range(self._size):
            self._spawn(None)

    def _spawn(self, replaces: int | None) -> None:
        post = None
        try:
            refuse_if_threaded("ProcessPool")
            post = self._make_post()
            child = fork_child(post.main, death_signal=signal.SIGTERM)
        except (OSError, StateError) as error:  # out of processes or descriptors, or threads have come: later, perhaps
            if post is not None:
                post.ended("could not be started", cancelled=False)
            self._failures += 1
            self._due.append((monotonic() + pause_after(self._failures), replaces))
            self._crew.tell(WorkerEnded(0, f"could not be started: {error}", expected=False))
            return
        post.manned(child.pid)
        self._workers[child.pidfd] = _Worker(post, child, monotonic())
        self._epoll.register(child.pidfd, select.EPOLLIN)
        self._epoll.register(post.fileno(), select.EPOLLIN)
        self._crew.tell(WorkerStarted(child.pid, replaces))

    def until_due(self) -> float | None:
        """Seconds until `replace_due` has something to do; ``None`` if nothing is planned."""
        return max(0.0, min(at for at, _ in self._due) - monotonic()) if self._due else None

    def replace_due(self) -> None:
        """Start the replacements whose time has come."""
        now = monotonic()
        due = [each for each in self._due if each[0] <= now]
        self._due = [each for each in self._due if each[0] > now]
        for _, replaces in due:
            self._spawn(replaces)

    # -- watching

    def look_after(self, timeout: float | None = 0.0) -> None:
        """Hear the workers, and bury those that have ended; waits up to ``timeout`` seconds for something to do."""
        ready = {fd for fd, _ in self._epoll.poll(timeout)}
        for pidfd, worker in list(self._workers.items()):
            if pidfd in ready or worker.post.fileno() in ready:
                worker.post.hear()
            if pidfd in ready:
                self._bury(pidfd, worker)

    def _bury(self, pidfd: int, worker: _Worker) -> None:
        del self._workers[pidfd]
        self._epoll.unregister(pidfd)
        self._epoll.unregister(worker.post.fileno())
        code, words = worker.child.reap()
        lost = worker.post.ended(words, cancelled=self._killed)
        self._crew.tell(WorkerEnded(worker.child.pid, words, self._ending and code == 0, lost))
        if not self._ending:
            self._failures = 0 if monotonic() - worker.born >= HEALTHY_S else self._failures + 1
            self._due.append((monotonic() + pause_after(self._failures), worker.child.pid))

    # -- ending

    def join(self, deadline: Deadline) -> bool:
        """Tell the workers to drain (SIGTERM, once), and wait for their ends; True if none is left."""
        if not self._ending:
            self._ending = True
            self._due.clear()
            self._signal(signal.SIGTERM)
        while self._workers:
            self.look_after(deadline.remaining())
            if deadline.expired:
                break
        return not self._workers

    def cancel(self) -> None:
        """Kill the workers that are left."""
        self._killed = True
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        for worker in self._workers.values():
            worker.child.send_signal(number)

    def close(self) -> None:
        """Give the descriptor back."""
        self._epoll.close()
