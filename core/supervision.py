"""Keeping a number of worker processes at work: starting, hearing, burying, replacing, ending them.

Everything happens on the thread that calls; nothing waits but `look_after` and `join`.  Children are held by pidfds and
waited for one by one, so the program's other children are never touched.  Where workers are cared for (`tricorn.care`),
an alarm is among what `fileno` tells of, set to when the next of them may be due, and a nudge, by which they tell that
there is something new in their pulse.  A worker that is to go is relieved first: its successor serves before it is told
to drain.
"""

from __future__ import annotations

import select
import signal
from collections import deque
from collections.abc import Callable, Iterator
from time import monotonic

from tricorn.care import NO_CARE, Care
from tricorn.contracts import Crew
from tricorn.deadline import Deadline
from tricorn.errors import StateError, WorkerLost
from tricorn.events import WorkerEnded, WorkerStarted
from tricorn.forking import fork_child, refuse_if_threaded
from tricorn.leases.alarm import Alarm
from tricorn.post import Post, Worker
from tricorn.wakeup import WakeUp

__all__ = ["BACK_OFF_S", "HEALTHY_S", "MOST_STARTS", "WINDOW_S", "Post", "Supervisor", "pause_after"]

#: Seconds before a worker that died young is replaced: doubled each time, from the first to the second figure.
BACK_OFF_S = (0.1, 30.0)
#: A worker that served this long was no failed start, and is replaced at once.
HEALTHY_S = 1.0
#: In so many seconds no more workers that died are replaced than this, or than there are.
WINDOW_S, MOST_STARTS = 10.0, 10
#: Seconds between two looks at workers that may be worn out.
LOOK_S = 1.0
#: Who comes to look so many seconds late was stopped, and the workers perhaps, too.
LATE_S = 2.0
#: Who is silent is looked at again after so many seconds: all may have been stopped, and we are the first to wake.
CONFIRM_S = 0.25
#: Where requests have a deadline, a worker with one must not be silent for longer than that and this; the least of it.
GRACE_S, SHORTEST_SILENCE_S = 0.5, 1.5


def pause_after(failures: int) -> float:
    """Seconds to wait before the next start, after so many workers in a row died young."""
    first, most = BACK_OFF_S
    return min(most, first * 2.0 ** min(failures - 1, 16)) if failures else 0.0


class Supervisor:
    """``size`` workers, each at a post made by ``make_post``; belongs to one thread of a single-threaded process."""

    def __init__(self, size: int, make_post: Callable[[], Post], crew: Crew, care: Care = NO_CARE) -> None:
        self._size = size
        self._make_post = make_post
        self._crew = crew
        self._care = care
        self._workers: dict[int, Worker] = {}
        self._epoll = select.epoll()
        self._alarm: Alarm | None = None
        self._nudge: WakeUp | None = None
        #: Who is to be replaced, one after the other, and why; not before that time.  `renew` asks for all.
        self._to_renew: list[tuple[Worker, str]] = []
        self._renew_at = 0.0
        self._asked_to_renew = False
        #: When it will look at the workers again, and since when their silence counts.
        self._look_at_time = self._silent_from = monotonic()
        self._due: list[tuple[float, int | None]] = []
        self._starts: deque[float] = deque(maxlen=max(MOST_STARTS, size))
        self._failures = 0
        self._never_began = 0
        self._ever_ready = False
        #: Why it no longer tries: no worker has ever begun to serve.
        self.gave_up: WorkerLost | None = None
        self._ending = False
        self._killed = False

    def fileno(self) -> int:
        """Readable when `look_after` has something to do."""
        return self._epoll.fileno()

    def posts(self) -> Iterator[Post]:
        """Those that are manned now, and not told to leave."""
        return (worker.post for worker in self._workers.values() if not worker.leaving)

    @property
    def _watched(self) -> bool:
        """Somebody tells when workers are ready."""
        return self._care is not NO_CARE

    # -- starting

    def start(self) -> None:
        """Man every post."""
        if self._watched:
            self._alarm, self._nudge = Alarm(), WakeUp()
            self._epoll.register(self._alarm.fileno(), select.EPOLLIN)
            self._epoll.register(self._nudge.fileno(), select.EPOLLIN)
        for _ in range(self._size):
            self._start(None)
        self._plan(monotonic())

    def renew(self) -> None:
        """Replace every worker that there is now, one after the other.  Never blocks; may be called in a signal handler
        of the supervising thread."""
        self._asked_to_renew = True
        if self._nudge is not None:
            self._nudge.signal()

    def _spawn(self, replaces: int | None) -> Worker | None:
        post = None
        try:
            refuse_if_threaded("ProcessPool")
            post = self._make_post()
            post.pulse.nudge = self._nudge
            child = fork_child(post.main, death_signal=signal.SIGTERM)
        except (OSError, StateError) as error:  # out of processes or descriptors, or threads have come: later, perhaps
            if post is not None:
                post.ended("could not be started", cancelled=False)
            self._failures += 1
            self._crew.tell(WorkerEnded(0, f"could not be started: {error}", expected=False))
            return None
        post.manned(child.pid)
        worker = Worker(post, child, monotonic(), self._care.draw())
        self._workers[child.pidfd] = worker
        self._epoll.register(child.pidfd, select.EPOLLIN)
        self._epoll.register(post.fileno(), select.EPOLLIN)
        self._crew.tell(WorkerStarted(child.pid, replaces))
        return worker

    def _start(self, replaces: int | None) -> None:
        """Start one, now or, where that fails, later."""
        if self._spawn(replaces) is None:
            self._due.append((monotonic() + pause_after(self._failures), replaces))

    def _start_later(self, replaces: int) -> None:
        """One for a worker that died: when it may be, by how they died, and how many lately."""
        at = monotonic() + pause_after(self._failures)
        if len(self._starts) == self._starts.maxlen:
            at = max(at, self._starts[0] + WINDOW_S)
        self._starts.append(at)
        self._due.append((at, replaces))

    def until_due(self) -> float | None:
        """Seconds until `replace_due` has something to do; ``None`` if nothing is planned."""
        return max(0.0, min(at for at, _ in self._due) - monotonic()) if self._due else None

    def replace_due(self) -> None:
        """Start the replacements whose time has come."""
        now = monotonic()
        due = [each for each in self._due if each[0] <= now]
        self._due = [each for each in self._due if each[0] > now]
        for _, replaces in due:
            self._start(replaces)
        if due:
            self._plan(monotonic())

    # -- watching

    def look_after(self, timeout: float | None = 0.0) -> None:
        """Hear the workers, and bury those that have ended; waits up to ``timeout`` seconds for something to do."""
        ready = {fd for fd, _ in self._epoll.poll(timeout)}
        told = set()
        for pidfd, worker in list(self._workers.items()):
            fd = worker.post.fileno()
            if pidfd in ready or fd in ready:
                told.add(fd)
                worker.post.hear()
            if pidfd in ready:
                self._bury(pidfd, worker)
        if self._nudge is not None and self._alarm is not None and ready - told:
            self._nudge.clear()
            self._inspect()

    def _inspect(self) -> None:
        """See who has begun, who hangs, who is worn out, and who was to be gone by now."""
        now = monotonic()
        if now - self._look_at_time > LATE_S:
            self._forgive(now)
        if self._asked_to_renew:
            self._asked_to_renew = False
            self._to_renew = [(worker, "was replaced: reload") for worker in self._workers.values()]
        for worker in list(self._workers.values()):
            self._notice(worker)
            self._judge(worker, now)
        if not self._ending and now >= self._renew_at:
            self._renew_one()
        self._plan(now)

    def _forgive(self, now: float) -> None:
        """We were stopped ourselves: give everybody a fresh period."""
        self._silent_from = now
        for worker in self._workers.values():
            if worker.kill_at is not None:
                worker.kill_at += now - self._look_at_time

    def _notice(self, worker: Worker) -> None:
        if worker.notice():
            self._ever_ready = True
            old = worker.stand_in()
            if old is not None:
                self._dismiss(old)

    def _dismiss(self, worker: Worker) -> None:
        if not worker.leaving:
            worker.leaving = True
            worker.reason = worker.reason or worker.reason_to_go
            worker.kill_at = monotonic() + self._crew.drain_timeout
            worker.child.send_signal(signal.SIGTERM)

    def _judge(self, worker: Worker, now: float) -> None:
        _, resident, in_flight, stuck = worker.post.pulse.read()
        if worker.killed or self._is_silent(worker, now):
            return
        if worker.kill_at is not None and now >= worker.kill_at:
            self._kill(worker, f"{worker.reason}, and it did not end in time")
        elif stuck:
            self._end_stuck(worker, alone=stuck >= in_flight)
        elif not worker.leaving and worker.successor is None:
            why = worker.life.why_over(worker.post.served(), now - worker.born, resident)
            if why and all(each is not worker for each, _ in self._to_renew):
                self._to_renew.append((worker, f"was replaced: it {why}"))

    # -- those that hang

    def _silence_limit(self, *, busy: bool) -> tuple[float, str] | None:
        """How long a worker may be silent, and what is to be said of one that was."""
        limit, request = self._care.hang_timeout, self._crew.deadlines.request
        if request is not None and busy:  # it keeps the interpreter to itself, and cannot tell that it is stuck
            short = max(request + GRACE_S, SHORTEST_SILENCE_S)
            if limit is None or short < limit:
                return short, f"a request took longer than {request} s, and stopped all else: it "
        return None if limit is None else (limit, "")

    def _heard_at(self, worker: Worker) -> float:
        """Its last sign of life, or since when one is waited for."""
        return max(worker.post.pulse.read()[0], worker.born, self._silent_from)

    def _is_silent(self, worker: Worker, now: float) -> bool:
        """True, and it is killed, if it was silent for too long when we looked before, and still is."""
        limit, quiet = self._silence_limit(busy=worker.post.busy()), now - self._heard_at(worker)
        patience = self._care.hang_timeout
        if patience is not None and not worker.ready and now - max(worker.born, self._silent_from) > patience:
            self._kill(worker, f"did not begin to serve within {patience} s")
            return True
        if limit is None or quiet <= limit[0]:
            worker.suspected_at = None
        elif worker.suspected_at is None:
            worker.suspected_at = now
        elif now - worker.suspected_at >= CONFIRM_S:
            self._kill(worker, f"{limit[1]}gave no sign of life for {quiet:.1f} s")
            return True
        return False

    def _end_stuck(self, worker: Worker, *, alone: bool) -> None:
        """A request takes too long and cannot be ended but with its process; others that the worker has may end."""
        why = f"a request took longer than {self._crew.deadlines.request} s"
        if not worker.leaving:
            self._fill_in_for(worker)
            worker.reason = why
            self._dismiss(worker)
        if alone:
            self._kill(worker, why)

    def _fill_in_for(self, worker: Worker) -> None:
        """Somebody takes its place before it has left."""
        if worker.successor is not None:
            worker.successor.stand_in()
        elif not self._ending:
            self._start(worker.child.pid)

    def _kill(self, worker: Worker, why: str) -> None:
        worker.reason, worker.killed = why, True
        worker.child.send_signal(signal.SIGKILL)

    # -- those that are to be relieved

    def _renew_one(self) -> None:
        """Start the next replacement, unless one is under way."""
        if any(worker.relieves is not None for worker in self._workers.values()):
            return
        while self._to_renew:
            worker, why = self._to_renew[0]
            if not (worker.leaving or worker.killed or worker.gone):
                break
            del self._to_renew[0]
        else:
            return
        successor = self._spawn(worker.child.pid)
        if successor is None:
            self._renew_at = monotonic() + pause_after(self._failures)
        else:  # it stays on the list until it has been told to leave: the successor may fail
            successor.relieves, worker.successor, worker.reason_to_go = worker, successor, why

    # -- when to look again

    def _plan(self, now: float) -> None:
        """Set the alarm to when somebody may be due."""
        if self._alarm is None:
            return
        times = [at for worker in self._workers.values() if not worker.killed for at in self._times(worker, now)]
        if self._to_renew and all(worker.relieves is None for worker in self._workers.values()):
            times.append(self._renew_at)
        at = min(times, default=None)
        self._look_at_time = float("inf") if at is None else max(at, now)
        self._alarm.ring_in(None if at is None else max(at - now, 0.0))

    def _times(self, worker: Worker, now: float) -> Iterator[float]:
        if worker.kill_at is not None:
            yield worker.kill_at
        elif worker.successor is None and all(each is not worker for each, _ in self._to_renew):
            if worker.life.age is not None:
                yield worker.born + worker.life.age
            if worker.life.jobs is not None or worker.life.memory is not None or not worker.ready:
                yield now + LOOK_S
        limit = self._silence_limit(busy=True)
        if worker.suspected_at is not None:
            yield worker.suspected_at + CONFIRM_S
        elif limit is not None:
            at = self._heard_at(worker) + limit[0]
            yield at if at > now else now + LOOK_S  # silent for longer, and it has no request

    # -- and after their end

    def _bury(self, pidfd: int, worker: Worker) -> None:
        del self._workers[pidfd]
        self._epoll.unregister(pidfd)
        self._epoll.unregister(worker.post.fileno())
        code, words = worker.child.reap()
        worker.gone = True
        self._notice(worker)
        words = self._words(worker, words)
        lost = worker.post.ended(words, cancelled=self._killed)
        expected = code == 0 and (self._ending or worker.leaving)
        self._crew.tell(WorkerEnded(worker.child.pid, words, expected, lost))
        successor, waits = worker.successor, worker.stand_in()
        if successor is not None:
            successor.stand_in()
        if not (self._ending or worker.leaving):
            self._replace(worker, words, filled=successor is not None or waits is not None)

    def _replace(self, worker: Worker, words: str, *, filled: bool) -> None:
        """One that was not told to leave has ended; where its place is ``filled``, the next start is only put off."""
        now = monotonic()
        healthy = now - worker.born >= HEALTHY_S and (worker.ready or not self._watched)
        self._failures = 0 if healthy else self._failures + 1
        self._never_began += not worker.ready
        if self._watched and not self._ever_ready and self._never_began >= self._care.start_attempts:
            self._give_up(words)
        elif filled:
            self._renew_at = now + pause_after(self._failures)
        else:
            self._start_later(worker.child.pid)

    def _words(self, worker: Worker, words: str) -> str:
        if worker.reason:
            return f"{worker.reason}; {words}"
        return words if worker.ready or self._ending or not self._watched else f"failed at its start: {words}"

    def _give_up(self, words: str) -> None:
        self._due.clear()
        how = words.rsplit(": ", maxsplit=1)[-1]
        self.gave_up = WorkerLost(
            f"no worker process has ever begun to serve: {self._never_began} in a row {how}; the log has the reason"
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
        """Give the descriptors back."""
        self._epoll.close()
        if self._alarm is not None and self._nudge is not None:
            self._alarm.close()
            self._nudge.close()
