"""The gate: what is done with those who come while there is no room for them, or for more of their kind.

It acts where a server's `tricorn.admission.Admission` says more than a number; a server that has just a number has no
gate, and takes permits only.
"""

from __future__ import annotations

import select
import threading
from collections import deque
from collections.abc import Callable, Iterable
from time import monotonic
from typing import TYPE_CHECKING, Any

from tricorn.accepting import PAUSE_S
from tricorn.admission import Admission, Drop, Permits, Reject, ShedOldest
from tricorn.contracts import Kind, Listener, Request
from tricorn.errors import PeerRefused
from tricorn.fullness import Fullness, ToldPermits
from tricorn.ledger import Ledger
from tricorn.lobby import Lobby, Reserve, part_at_once, reset, say
from tricorn.peer_counts import PeerCounts
from tricorn.wakeup import WakeUp

if TYPE_CHECKING:
    from tricorn.job import ServedJob

__all__ = ["FULL", "NO_DESCRIPTORS", "PER_PEER", "STOPPING", "WAITED", "Gate", "make_gate"]

#: Why something was turned away, as told to the observers.
FULL = "full"
PER_PEER = "too many from this peer"
WAITED = "waited too long for a place"
NO_DESCRIPTORS = "out of descriptors"
STOPPING = "the server stopped before there was a place"

#: How many are turned away before the others who wait for this thread get their turn.
BATCH = 64
#: Seconds after which who was idle for too short a time, or has not left yet, is looked at again.
LOOK_S = 0.05
#: Seconds that a neighbour gets to take in what this process has no room for.
NEIGHBOUR_S = 0.02
#: Seconds that they get to be there: processes of a pool are started one after the other.
START_S = 0.25
#: Seconds that a conversation must have been idle to be shed, or was asked to end before another one is.
IDLE_S = 0.25

_STREAM, _ITEM = Kind.STREAM, Kind.ITEM


def make_gate(
    admission: Admission, capacity: int, ledger: Ledger, neighbours: tuple[Fullness, int] | None = None
) -> tuple[Permits, Gate]:
    """The gate, and the permits that it looks at; in a worker process with the number that it has among its
    ``neighbours``."""
    permits = Permits(capacity) if neighbours is None else ToldPermits(capacity, *neighbours)
    return permits, Gate(admission, permits, ledger, None if neighbours is None else neighbours[0])


class Gate:
    """One serving process's.  Safe from any thread; nothing in it blocks."""

    def __init__(self, admission: Admission, permits: Permits, ledger: Ledger, fullness: Fullness | None) -> None:
        self._admission = admission
        self._policy = admission.when_full
        self._permits = permits
        self._ledger = ledger
        self._fullness = fullness
        self._made_at = monotonic()
        #: Those who come are turned away when full; else they are left in the kernel.
        self.turns_away = isinstance(self._policy, (Reject, Drop))
        #: Something is to be done while full.
        self.acts = self.turns_away or isinstance(self._policy, ShedOldest)
        self._counts = None if admission.max_per_peer is None else PeerCounts(admission.max_per_peer)
        #: One for each permit that is a job's: appending and popping need no lock.
        self._inside: list[None] = []
        self.lobby = Lobby()
        self._reserve = Reserve() if self.turns_away else None
        #: Raised when a place came free just as somebody began to wait: whoever pulls is to look again.
        self.bell = WakeUp()
        #: Accepted and without a place, the first to come first, with the time.
        self._waiting: deque[tuple[Request, float]] = deque()
        #: Held from accepting somebody who may have to wait until that is decided: else two threads let in one too
        #: many, or swap two.  Nothing blocks under it.
        self._door = threading.Lock()
        self._look_at = 0.0
        self._reminder: threading.Timer | None = None
        self._shed: tuple[Any, float] | None = None
        #: What the intake does about an error of accept(2); True: accept again at once.
        self.react: Callable[[OSError, Listener], bool] = lambda error, listener: False

    def watches(self) -> dict[int, Callable[[], None]]:
        """What whoever waits for requests should wait for, too, and what to do then."""
        found: dict[int, Callable[[], None]] = {self.bell.fileno(): self.bell.clear}
        if self.lobby.fileno() >= 0:
            found[self.lobby.fileno()] = self.lobby.sweep
        return found

    # -- for every request

    def lets_in(self, request: Request) -> bool:
        """On the accepting thread, for one that there is a permit for; if not, it was refused."""
        if self._counts is None or self._counts.enter(request):
            return True
        self.refuse(request, PER_PEER)
        return False

    def left(self, request: Request) -> None:
        """Its job is over, and its permit given back."""
        if self._counts is not None:
            self._counts.leave(request)
        if self._waiting and self._permits.free:  # nobody needs to have asked to be woken for it
            self.bell.signal()

    def filled(self) -> None:
        """Somebody was let in, and there is no permit left."""
        if isinstance(self._permits, ToldPermits):
            self._permits.filled()

    @property
    def is_full(self) -> bool:
        """Every permit is a job's.  A thread that looks for a request holds one as well, for a moment, and is idle."""
        return not self._permits.free and len(self._inside) >= self._permits.capacity

    def occupy(self) -> None:
        """A permit is a job's from now on, also while the job is verified."""
        self._inside.append(None)

    def vacate(self) -> None:
        """It is about to be given back."""
        self._inside.pop()

    def accept(self, listener: Listener) -> tuple[Request, float]:
        """The one that waits longest, and since when; if nobody does, the next of ``listener``, and 0.  The caller has
        a permit for it.  Raises as `Listener.accept` does."""
        if not self._admission.max_waiting:
            return listener.accept(), 0.0
        self._see_off_waiting()
        with self._door:
            return self._waiting.popleft() if self._waiting else (listener.accept(), 0.0)

    # -- when full

    def turn(self, listeners: Iterable[Listener]) -> bool:
        """No permit is left: deal with those who are at the door.  True if we want to be told of the next one; else,
        and in any case by then, look again at `due`."""
        self.sweep()
        if not self.acts:
            return False
        if not self.is_full:  # only seemingly: who has the permit gives it back, or calls the doorman, and we are woken
            self._look_at = 0.0
            return False
        now = monotonic()
        if self._fullness is not None and (self._fullness.anywhere or now - self._made_at < START_S):
            self._look_at = now + NEIGHBOUR_S
            return False
        if self.turns_away:
            self._look_at = 0.0
            return self._turn_away(listeners)
        if not _anybody_at(listeners):
            self._look_at = 0.0
            return True
        self._make_room(now)
        self._look_at = now + LOOK_S
        return False

    @property
    def due(self) -> float | None:
        """Seconds until there is something to do though nothing happens."""
        times = [time for time in (self._look_at or None, self.lobby.due, self._waiting_until()) if time is not None]
        return max(0.0, min(times) - monotonic()) if times else None

    def patience(self, timeout: float | None) -> float | None:
        """The sooner of ``timeout`` and `due`."""
        due = self.due
        if due is None or timeout is None:
            return timeout if due is None else due
        return min(due, timeout)

    def rested(self, wakeup: WakeUp | None = None) -> None:
        """There is room: nothing is to be looked at again for want of it.  ``wakeup`` as for `remind`."""
        self._look_at = 0.0
        self.sweep()
        if wakeup is not None:
            self.remind(wakeup)

    def remind(self, wakeup: WakeUp) -> None:
        """Raise ``wakeup`` at `due`: for a loop that goes by a descriptor and does not ask."""
        due = self.due
        if due is None or (self._reminder is not None and self._reminder.is_alive()):
            return
        self._reminder = reminder = threading.Timer(due, wakeup.signal)
        reminder.daemon = True
        try:
            reminder.start()
        except RuntimeError:  # no thread to be had: then when the next one comes
            self._reminder = None

    def sweep(self) -> None:
        """See off those whose time is over."""
        self.lobby.sweep()
        self._see_off_waiting()

    def _see_off_waiting(self) -> None:
        while self._waiting:
            with self._door:
                until = self._waiting_until()
                if until is None or until >= monotonic():
                    return
                request, _ = self._waiting.popleft()
            self._send_away(request, WAITED)

    def _waiting_until(self) -> float | None:
        try:
            return self._waiting[0][1] + self._admission.max_wait
        except IndexError:
            return None

    def _turn_away(self, listeners: Iterable[Listener]) -> bool:
        for listener in tuple(listeners):
            if listener.kind is _ITEM:
                continue  # nobody waits for it: it stays where it is
            for _ in range(BATCH):
                try:
                    if not self._deal_with_next(listener):
                        return True
                except BlockingIOError:
                    break
                except PeerRefused as refusal:
                    self._ledger.refuse(refusal.reason, refusal.peer)
                except OSError as error:
                    if not self.react(error, listener):
                        self._look_at = monotonic() + PAUSE_S
                        return False
        return True

    def _deal_with_next(self, listener: Listener) -> bool:
        """Keep or refuse one; False if there is room meanwhile."""
        with self._door:
            if not self.is_full:
                return False
            request = listener.accept()
            reason = self._reason_against(request)
            if not reason:
                self._waiting.append((request, monotonic()))
        if reason:
            self.refuse(request, reason)
        elif self._permits.free:  # who gave it back looked before it was there, and may wait at the door by now
            self.bell.signal()
        return True

    def _reason_against(self, request: Request) -> str:
        if len(self._waiting) >= self._admission.max_waiting or request.kind is not _STREAM:
            return FULL
        return "" if self._counts is None or self._counts.enter(request) else PER_PEER

    def _make_room(self, now: float) -> None:
        if self._shed is not None:
            job, since = self._shed
            if job.id in self._ledger.jobs and now - since < IDLE_S:
                return  # it is about to end
            self._shed = None
        for job in list(self._ledger.jobs.values()):
            if not job.is_shed and _idle_for(job, now) >= IDLE_S:
                self._shed = (job, now)
                job.shed()
                return

    # -- turning away

    def refuse(self, request: Request, reason: str) -> None:
        """Count and tell it, and close as the policy says."""
        self._ledger.refuse(reason, request.peer)
        if request.kind is not _STREAM:
            request.finish(PermissionError(reason))
            return
        self._close(request, at_once=reason in (NO_DESCRIPTORS, STOPPING))

    def _send_away(self, request: Request, reason: str) -> None:
        self.left(request)
        self.refuse(request, reason)

    def _close(self, request: Any, *, at_once: bool) -> None:
        """By the bare socket: nothing was opened yet, so there is nothing to say goodbye to."""
        sock = request.socket
        if isinstance(self._policy, Drop):
            reset(sock)
            return
        data = self._policy.data if isinstance(self._policy, Reject) and request.tls is None else b""
        if not say(sock, data) or sock.fileno() < 0:
            sock.close()
        elif at_once or not data:
            part_at_once(sock)
        else:
            self.lobby.take(sock)

    def find_descriptors(self, listener: Listener) -> bool:
        """There are none left.  True if those that were lingering have given some back; else, where the policy is to
        turn away, those who wait at the door are told on the reserve."""
        if self.lobby.clear():
            return True
        if self._reserve is not None and listener.kind is _STREAM:
            self._reserve.spend(lambda: self._refuse_one(listener))
        return False

    def _refuse_one(self, listener: Listener) -> bool:
        try:
            request = listener.accept()
        except (OSError, PeerRefused):
            return False
        self.refuse(request, NO_DESCRIPTORS)
        return True

    def close(self) -> None:
        """Send away whoever still waits, and give the descriptors back."""
        while self._waiting:
            request, _ = self._waiting.popleft()
            self._send_away(request, STOPPING)
        if self._reminder is not None:
            self._reminder.cancel()
            self._reminder.join(1.0)
        self.lobby.close()
        if self._reserve is not None:
            self._reserve.close()
        self.bell.close()


def _idle_for(job: ServedJob, now: float) -> float:
    """Seconds for which its peer has had nothing under way; negative if that is not so, or not known."""
    since = getattr(job.request, "idle_since", None)
    return -1.0 if since is None else now - max(since, job.accepted_at)


def _anybody_at(listeners: Iterable[Listener]) -> bool:
    poll = select.poll()
    for listener in tuple(listeners):
        if listener.kind is _STREAM and listener.fileno() >= 0:
            poll.register(listener.fileno(), select.POLLIN)
    return any(events & select.POLLIN for _, events in poll.poll(0))
