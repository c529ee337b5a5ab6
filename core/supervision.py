"""Keeping a number of worker processes at work: starting, hearing, burying, replacing, ending them.

Everything happens on the thread that calls; nothing waits but `look_after` and `join`.  Children are held by pidfds and
waited for one by one, so the program's other children are never touched.  Where workers are looked at from time to time
(`tricorn.care`), an alarm is among what `fileno` tells of.  A worker that is to go is relieved first: its successor
serves before it is told to drain.
"""

from __future__ import annotations

import select
import signal
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Protocol

from attrs import define

from tricorn.care import NO_CARE, Care, Life
from tricorn.contracts import Crew
from tricorn.deadline import Deadline
from tricorn.errors import StateError, WorkerLost
from tricorn.events import WorkerEnded, WorkerStarted
from tricorn.forking import Child, fork_child, refuse_if_threaded
from tricorn.leases.alarm import Alarm
from tricorn.pulse import Pulse

__all__ = ["BACK_OFF_S", "HEALTHY_S", "Post", "Supervisor", "pause_after"]

#: Seconds before a worker that died young is replaced: doubled each time, from the first to the second figure.
BACK_OFF_S = (0.1, 30.0)
#: A worker that served this long was no failed start, and is replaced at once.
HEALTHY_S = 1.0
#: Seconds between two looks at the workers: as a rule, and while one of them is about to relieve another, or where
#: requests have a deadline.
LOOK_S, SOON_S = 1.0, 0.2


def pause_after(failures: int) -> float:
    """Seconds to wait before the next start, after so many workers in a row died young."""
    first, most = BACK_OFF_S
    return min(most, first * 2.0 ** min(failures - 1, 16)) if failures else 0.0


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

    def ended(self, words: str, *, cancelled: bool) -> tuple[int, ...]:
        """The worker is gone: give its jobs their outcomes and the resources back; returns the jobs it lost."""
        ...


@define(eq=False)
class _Worker:
    post: Post
    child: Child
    born: float
    life: Life
    #: The descriptor of the one that goes when this one serves.
    relieves: int = -1
    ready: bool = False
    #: It was told to drain; and when it is to be killed if it does not end.
    leaving: bool = False
    kill_at: float | None = None
    #: Why we ended it.
    reason: str = ""


class Supervisor:
    """``size`` workers, each at a post made by ``make_post``; belongs to one thread of a single-threaded process."""

    def __init__(self, size: int, make_post: Callable[[], Post], crew: Crew, care: Care = NO_CARE) -> None:
        self._care = care
        self._alarm: Alarm | None = None
        #: Workers that are to be replaced one after the other, and whether one is being relieved now.
        self._to_renew: list[tuple[int, str]] = []
        self._looked_at = self._stopped_until = monotonic()
        self._ever_ready = False
        #: Why it no longer tries: no worker has ever begun to serve.
        self.gave_up: WorkerLost | None = None
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
        if self._watched:
            self._alarm = Alarm()
            self._epoll.register(self._alarm.fileno(), select.EPOLLIN)
        for _ in range(self._size):
            self._spawn(None)
        self._ring(LOOK_S)

    def _ring(self, seconds: float) -> None:
        if self._alarm is not None:
            self._alarm.ring_in(SOON_S if self._crew.deadlines.request is not None else seconds)

    def renew(self) -> None:
        """Replace every worker that there is now, one after the other.  Never blocks; may be called in a signal handler
        of the supervising thread."""
        self._to_renew = [(pidfd, "was replaced: reload") for pidfd in tuple(self._workers)]
        if self._alarm is not None:
            self._alarm.ring_in(0)

    def _spawn(self, replaces: int | None, relieves: int = -1) -> bool:
        post = None
        try:
            refuse_if_threaded("ProcessPool")
            post = self._make_post()
            child = fork_child(post.main, death_signal=signal.SIGTERM)
        except (OSError, StateError) as error:  # out of processes or descriptors, or threads have come: later, perhaps
            if post is not None:
                post.ended("could not be started", cancelled=False)
            self._failures += 1
            if relieves < 0:
                self._due.append((monotonic() + pause_after(self._failures), replaces))
            self._crew.tell(WorkerEnded(0, f"could not be started: {error}", expected=False))
            return False
        post.manned(child.pid)
        self._workers[child.pidfd] = _Worker(post, child, monotonic(), self._care.draw(), relieves)
        self._epoll.register(child.pidfd, select.EPOLLIN)
        self._epoll.register(post.fileno(), select.EPOLLIN)
        self._crew.tell(WorkerStarted(child.pid, replaces))
        return True

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
        if self._alarm is not None and self._alarm.fileno() in ready:
            self._inspect()

    # -- looking at them from time to time

    def _inspect(self) -> None:
        """See who has begun, who hangs, who is worn out, and who was to be gone by now."""
        now = monotonic()
        if now - self._looked_at > 3 * LOOK_S:  # we were stopped ourselves, and the workers perhaps, too
            self._stopped_until = now
        self._looked_at = now
        for pidfd, worker in list(self._workers.items()):
            self._note_readiness(worker)
            self._look_at(pidfd, worker, now)
        relieving = any(worker.relieves >= 0 and not worker.ready for worker in self._workers.values())
        if not relieving and not self._ending:
            relieving = self._renew_one()
        self._ring(SOON_S if relieving else LOOK_S)

    def _note_readiness(self, worker: _Worker) -> None:
        if worker.ready or not (worker.post.pulse.ready_at or worker.post.began()):
            return
        worker.ready = self._ever_ready = True
        old = self._workers.get(worker.relieves)
        if old is not None:
            self._dismiss(old)

    def _dismiss(self, worker: _Worker) -> None:
        if not worker.leaving:
            worker.leaving = True
            worker.kill_at = monotonic() + self._crew.drain_timeout
            worker.child.send_signal(signal.SIGTERM)

    def _look_at(self, pidfd: int, worker: _Worker, now: float) -> None:
        beat, resident, in_flight, stuck = worker.post.pulse.read()
        limit, quiet = self._care.hang_timeout, now - max(beat, worker.born, self._stopped_until)
        if limit is not None and quiet > limit:
            self._kill(worker, f"gave no sign of life for {quiet:.1f} s")
        elif worker.kill_at is not None and now >= worker.kill_at:
            self._kill(worker, "did not end in time")
        elif stuck:
            self._end_stuck(pidfd, worker, alone=stuck >= in_flight)
        elif not worker.leaving and not self._is_relieved(pidfd):
            why = worker.life.why_over(worker.post.served(), now - worker.born, resident)
            if why and all(fd != pidfd for fd, _ in self._to_renew):
                self._to_renew.append((pidfd, f"was replaced: it {why}"))

    def _end_stuck(self, pidfd: int, worker: _Worker, *, alone: bool) -> None:
        """A request takes too long and cannot be ended but with its process; others that the worker has may end."""
        if not worker.leaving:
            if not self._ending:
                self._spawn(worker.child.pid, relieves=-1)
            worker.reason = f"a request took longer than {self._crew.deadlines.request} s"
            self._dismiss(worker)
        if alone:
            self._kill(worker, worker.reason)

    def _kill(self, worker: _Worker, why: str) -> None:
        worker.reason = why
        worker.child.send_signal(signal.SIGKILL)

    def _is_relieved(self, pidfd: int) -> bool:
        return any(worker.relieves == pidfd for worker in self._workers.values())

    def _renew_one(self) -> bool:
        """Start the next replacement; True if one is under way now."""
        while self._to_renew:
            pidfd, why = self._to_renew[0]
            worker = self._workers.get(pidfd)
            if worker is not None and not worker.leaving:
                if not self._spawn(worker.child.pid, pidfd):
                    return True  # once more, a little later
                worker.reason = why
                del self._to_renew[0]
                return True
            del self._to_renew[0]
        return False

    # -- and after their end

    def _bury(self, pidfd: int, worker: _Worker) -> None:
        del self._workers[pidfd]
        self._epoll.unregister(pidfd)
        self._epoll.unregister(worker.post.fileno())
        code, words = worker.child.reap()
        self._note_readiness(worker)
        words = self._words(worker, words)
        lost = worker.post.ended(words, cancelled=self._killed)
        expected = code == 0 and (self._ending or worker.leaving)
        self._crew.tell(WorkerEnded(worker.child.pid, words, expected, lost))
        if self._ending or worker.leaving:
            return
        self._failures = 0 if monotonic() - worker.born >= HEALTHY_S else self._failures + 1
        if self._watched and not self._ever_ready and self._failures >= self._care.start_attempts:
            self._give_up(words)
        elif worker.relieves not in self._workers:  # else the one that it was to relieve is still there
            self._due.append((monotonic() + pause_after(self._failures), worker.child.pid))

    def _words(self, worker: _Worker, words: str) -> str:
        if worker.leaving or worker.reason.startswith("gave no"):
            return f"{worker.reason}; {words}" if worker.reason else words
        return words if worker.ready or self._ending or not self._watched else f"failed at its start: {words}"

    @property
    def _watched(self) -> bool:
        """Somebody tells when workers are ready."""
        return self._care is not NO_CARE

    def _give_up(self, words: str) -> None:
        self._due.clear()
        how = words.rsplit(": ", maxsplit=1)[-1]
        self.gave_up = WorkerLost(
            f"no worker process has ever begun to serve: {self._failures} in a row {how}; the log has the reason"
        )

    # -- ending

    def join(self, deadline: Deadline) -> bool:
        """Tell the workers to drain (SIGTERM, once), and wait for their ends; True if none is left."""
        if not self._ending:
            self._ending = True
            self._due.clear()
            self._to_renew.clear()
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
        if self._alarm is not None:
            self._alarm.close()
