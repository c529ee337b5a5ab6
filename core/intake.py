"""Where jobs come from: permit, accept, verify, job.  The one place that waits."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from errno import EMFILE, ENFILE, ENOMEM
from time import monotonic, sleep
from typing import TYPE_CHECKING

from tricorn.accepting import PAUSE_S, RETRY_LIMIT, Reaction, reaction_to
from tricorn.contracts import Crew, Intake, Kind, Listener
from tricorn.deadline import Deadline
from tricorn.errors import PeerRefused
from tricorn.events import AcceptPaused
from tricorn.in_place import LOOK_EVERY, run_each
from tricorn.job import ServedJob
from tricorn.leaving import Leaving
from tricorn.service import Service
from tricorn.waiting import Waiter, make_waiter, poke_later
from tricorn.wakeup import WakeUp

if TYPE_CHECKING:
    from tricorn.doorman import Doorman

__all__ = ["ListenerIntake"]

_ITEM = Kind.ITEM


class ListenerIntake(Intake):
    """The intake over a server's listeners."""

    def __init__(self, listeners: list[Listener], service: Service) -> None:
        self.listeners = listeners
        self.service = service
        self._stop, self._stopped = WakeUp(), False
        self._watches: dict[int, Callable[[], None]] = {}
        self._loop_waiter: Waiter | None = None
        self._turn = self._retries = self._suppressed = 0
        self._resume_at, self._told_pause_at = 0.0, -1.0
        #: A loop minds our pauses itself.
        self._asked = False
        self._leaving = Leaving(self.listeners)
        #: True where another process serves, which has a copy of this.
        self.served_elsewhere = False
        #: Accepting has failed for good; the process that has asked for jobs, or 0.
        self._broken, self._pid = False, 0
        self._gate = gate = service.gate
        self._doorman: Doorman | None = None
        if gate is not None:
            gate.react = self._react
            self._watches.update(gate.watches())

    # -- pulling

    def run_each(self) -> None:
        run_each(self)

    def __iter__(self) -> Iterator[ServedJob]:
        waiter = self.begin_to_wait()
        if waiter is None:
            return
        try:
            served = 0
            while (job := self.take(waiter, None)) is not None:
                yield job
                served += 1
                if not served % LOOK_EVERY:
                    waiter.wait(0)  # for what is watched: the queue may never be empty
        finally:
            waiter.close()

    def begin_to_wait(self, *, listening: bool = True) -> Waiter | None:
        """For a thread that is going to `take` many: its way of waiting, when there are descriptors for it; ``None`` at
        the end."""
        while True:
            try:
                return self._waiter_on(self.listeners if listening else (), shared=listening)
            except (OSError, ValueError) as error:
                if self._stopped:  # a thread that comes so late finds everything closed
                    return None
                if isinstance(error, ValueError) or reaction_to(error) is not Reaction.PAUSE:
                    raise
                for listener in tuple(self.listeners):
                    self._react(error, listener)
            sleep(PAUSE_S)  # there is no descriptor to wait with

    def next(self, timeout: float | None = None) -> ServedJob | None:
        waiter = self._waiter_on(self.listeners, shared=True)
        try:
            return self.take(waiter, Deadline.after(timeout))
        finally:
            waiter.close()

    def _waiter_on(self, listeners: Sequence[Listener], *, shared: bool) -> Waiter:
        """One for ``listeners``, the stop, the end, and whatever else is watched."""
        self._pid = os.getpid()
        watches = {self._stop.fileno(): self._on_stop, self._leaving.fileno(): self._on_over, **self._watches}
        return make_waiter(listeners, watches, shared=shared)

    def take(self, waiter: Waiter, deadline: Deadline | None, *, empty: bool = False) -> ServedJob | None:
        """The next job; ``None`` at the end, or when ``deadline`` has passed.  ``empty``: it has just
        been found that nobody waits.

        It accepts before it waits: under load that saves a system call for each connection (a bare loop: 1.25 x the
        rate of one that polls first), and idle it costs one failing accept.
        """
        permits, leaving = self.service.permits, self._leaving
        while not self._stopped:
            if leaving.begun and leaving.is_overdue:  # the queue may never be empty
                self._finish()
                break
            last_chance = leaving.begun and leaving.is_time
            permitted = permits.take()
            if permitted:
                job = None if empty and not last_chance else self._accept()
                if job is not None:
                    return job
                permits.give()
                empty = False
            if leaving.begun:
                self._wait_to_leave(waiter, permitted, last_chance)
                continue
            timeout = None if deadline is None else deadline.remaining()
            if timeout == 0:
                return None
            pause = self._resume_at and self._resume_at - monotonic()
            if pause > 0:
                waiter.listen(False)
                waiter.wait(pause if timeout is None else min(pause, timeout))
            elif permitted:
                if self._gate is not None:
                    self._gate.rested()
                waiter.listen(True)
                waiter.wait(timeout if self._gate is None else self._gate.patience(timeout))
            elif permits.notify(waiter.poke):
                waiter.listen(self._mind_the_door())
                waiter.wait(timeout if self._gate is None else self._gate.patience(timeout))
                permits.forget(waiter.poke)
        return None

    def _wait_to_leave(self, waiter: Waiter, permitted: bool, last_chance: bool) -> None:
        """Stopping, with nothing accepted just now; ``last_chance``: no new peer was let in before that, either."""
        leaving = self._leaving
        if leaving.is_overdue or (last_chance and not self._resume_at if permitted else leaving.is_over):
            self._finish()
            return
        waiter.unwatch(self._stop.fileno())  # it stays up, so that all see it
        waiter.listen(permitted and not self._resume_at)
        if permitted or self.service.permits.notify(waiter.poke):
            waiter.wait(leaving.slice())
            self.service.permits.forget(waiter.poke)
        leaving.hurry()

    # -- accepting

    def _accept(self) -> ServedJob | None:
        """One verified job from whichever listener has one; the caller holds a permit for it."""
        if self._resume_at:
            if monotonic() < self._resume_at:
                return None
            self._resume_at = 0.0
        listeners = self.listeners
        if len(listeners) == 1:
            return self._accept_from(listeners[0])
        listeners = list(listeners)
        for _ in listeners:
            self._turn += 1
            job = self._accept_from(listeners[self._turn % len(listeners)])
            if job is not None:
                return job
        return None

    def _accept_from(self, listener: Listener) -> ServedJob | None:
        if self._leaving.begun and listener.kind is _ITEM:
            return None  # nobody waits for it: it stays where it is
        gate = self._gate
        while not self._stopped:
            waits_since = 0.0
            try:
                if gate is None:
                    request = listener.accept()
                else:
                    request, waits_since = gate.accept(listener)
            except BlockingIOError:
                return None
            except PeerRefused as refusal:
                self.service.ledger.refuse(refusal.reason, refusal.peer)
            except OSError as error:
                if not self._react(error, listener):
                    return None
            except MemoryError:
                self._pause(OSError(ENOMEM, "out of memory"))
                return None
            else:
                self._retries = 0
                if waits_since:
                    job = ServedJob(request, self.service, waits_since)
                elif gate is not None and not gate.lets_in(request):
                    continue
                else:
                    job = ServedJob(request, self.service)
                    self._leaving.accepted_at = job.accepted_at
                if self._starts(job):  # else it was refused, and the permit is still ours for the next one
                    return job
        return None

    def _starts(self, job: ServedJob) -> bool:
        gate, started = self._gate, False
        if gate is not None:
            gate.occupy()
        try:
            started = job.start()
        except MemoryError as error:
            job.refuse("out of memory", error)
        finally:
            if gate is not None and not started:
                gate.vacate()
        if gate is not None and started and not self.service.permits.free:
            gate.filled()
            if self._doorman is not None:
                self._doorman.call()
        return started

    def appoint_doorman(self) -> None:
        """Those who pull are going to be busy with what they pulled."""
        if self._gate is not None and self._gate.acts:
            from tricorn.doorman import Doorman

            self._doorman = Doorman(self._gate, self.service.permits, self.listeners, lambda: self._leaving.begun)

    def _mind_the_door(self) -> bool:
        """There is no permit.  True if the next to come is to be told of."""
        return self._gate is not None and not self._leaving.begun and self._gate.turn(self.listeners)

    def _react(self, error: OSError, listener: Listener) -> bool:
        """True: accept again at once."""
        reaction = reaction_to(error)
        if reaction is Reaction.RETRY:
            self._retries += 1
            if self._retries <= RETRY_LIMIT:
                return True
            reaction = Reaction.PAUSE
        if reaction is Reaction.PAUSE:
            if self._gate is not None and error.errno in (EMFILE, ENFILE) and self._gate.find_descriptors(listener):
                return True
            self._pause(error)
        elif reaction is Reaction.END:
            with suppress(ValueError):  # another thread has seen it too
                self.listeners.remove(listener)
            if not self.listeners:
                self._finish()
        else:
            self._broken = True
            raise error
        return False

    def _pause(self, error: OSError) -> None:
        now = monotonic()
        self._resume_at = now + PAUSE_S
        self._retries = 0
        if now - self._told_pause_at >= 1.0:
            self._told_pause_at = now
            suppressed, self._suppressed = self._suppressed, 0
            self.service.ledger.observers.tell(AcceptPaused(error, PAUSE_S, suppressed))
        else:
            self._suppressed += 1

    def fileno(self) -> int:
        return self._loop().fileno()

    def poll(self, *, again: bool = False) -> ServedJob | None:
        waiter = self._loop_waiter if again and self._loop_waiter is not None else self._loop()
        if not again:
            waiter.wait(0)  # runs the callbacks, and notices a stop
        permits = self.service.permits
        while not self._stopped and not permits.take():
            if self._leaving.is_over:
                self._finish()
            elif permits.notify(waiter.poke):  # else one was given back meanwhile, of which nobody would tell us
                waiter.listen(self._mind_the_door())
                if self._gate is not None and not self._asked:
                    self._gate.remind(waiter.poke)
                if self._leaving.begun and not self._asked:
                    poke_later(waiter, self._leaving.slice())
                return None
        if self._stopped:
            return None
        last_chance = self._leaving.begun and self._leaving.is_time
        job = self._accept()
        if job is None:
            permits.give()
            if last_chance:
                self._finish()
            else:
                self._rest(waiter)
        else:
            waiter.listen(True)  # it was off if there was no permit, and the caller may not ask until there is nothing
        return job

    def patience(self) -> float | None:
        self._asked = True
        if self._leaving.begun and not self._stopped:
            return self._leaving.slice()
        if not self._resume_at or self._stopped:
            return None if self._gate is None or self._stopped else self._gate.due
        left = self._resume_at - monotonic()
        return left if left > 0 else 0.0 if self.service.permits.free else None

    def _loop(self) -> Waiter:
        if self._loop_waiter is None:
            self._loop_waiter = self._waiter_on(self.listeners, shared=False)
        return self._loop_waiter

    def _rest(self, waiter: Waiter) -> None:
        """Nothing to accept: wait for more, or, out of descriptors, for the pause to pass."""
        pause = self._resume_at - monotonic() if self._resume_at else 0.0
        waiter.listen(pause <= 0)
        if self._gate is not None:
            self._gate.rested(None if self._asked else waiter.poke)
        if self._leaving.begun:
            pause = self._leaving.slice()
        if pause > 0 and not self._asked:  # rare; a loop that goes by our descriptor needs somebody to raise it
            poke_later(waiter, pause)

    @property
    def leaving(self) -> Leaving:
        """How it ends; for the engine."""
        return self._leaving

    @property
    def stopping(self) -> bool:
        return self._leaving.begun

    @property
    def stopped(self) -> bool:
        return self._stopped

    def stop(self) -> None:
        if self._pid == os.getpid() or not (self._pid or self.served_elsewhere):
            if self._broken or not self._pid:
                self._finish()  # at once: nobody was to be let in yet, or nobody can be any more
            self._leaving.begin()
        self._stop.signal()  # also from a forked child: the socket is the serving process's too, and stops it

    def _on_stop(self) -> None:
        self._leaving.begin()
        if self._loop_waiter is not None:
            self._loop_waiter.unwatch(self._stop.fileno())

    def _on_over(self) -> None:
        self._stopped = True

    def _finish(self) -> None:
        """Nothing more comes: end every iteration."""
        self._stopped = True
        self._leaving.end()

    def wait(self, timeout: float | None = None, *, to_the_end: bool = True) -> bool:
        waiter = self.begin_to_wait(listening=False)
        if waiter is None:
            return True
        try:
            if not self._stopped and not self._leaving.begun:
                waiter.wait(timeout)
            if not to_the_end:
                return self._leaving.begun or self._stopped
            if self._leaving.begun:
                waiter.unwatch(self._stop.fileno())
            while self._leaving.begun and not self._stopped:  # others accept, and we see when nothing is left
                if self._leaving.is_over:
                    self._finish()
                    break
                waiter.wait(self._leaving.slice())
                self._leaving.hurry()
        finally:
            waiter.close()
        return self._stopped

    def watch(self, fd: int, ready: Callable[[], None]) -> None:
        self._watches[fd] = ready
        if self._loop_waiter is not None:
            self._loop_waiter.watch(fd, ready)

    @property
    def crew(self) -> Crew:
        return self.service.crew

    def close(self) -> None:
        """Give the wake-up's descriptors back; the listeners are closed by whoever serves."""
        if self._doorman is not None:
            self._doorman.dismiss()
        if self._gate is not None:
            self._gate.close()
        if self._loop_waiter is not None:
            self._loop_waiter.close()
        self._stop.close()
        self._leaving.close()
