"""One process's side of a table: who looks for rows, what was leased and not yet begun, and how rows are finished."""

from __future__ import annotations

import errno
import os
import secrets
import select
import socket
import threading
import weakref
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from time import monotonic
from typing import Any

from attrs import define, frozen

from tricorn.errors import LeaseLost, SourceUnavailable
from tricorn.leases.alarm import Alarm
from tricorn.leases.database import Database, Session, Sessions, Watch
from tricorn.leases.renewing import Renewals

__all__ = ["Desk", "Leased", "Terms"]

#: Seconds until the next try while others hold what is due, and while the database is away: doubled up to the second.
BUSY_S, AWAY_S = (0.01, 0.5), (0.1, 5.0)
#: Seconds between two tries to finish a row while the database is away or locked: doubled up to the second.
SETTLE_S = (0.02, 1.0)
_NEVER = threading.Event()
#: Seconds until the next look after a change was told before it can be seen: doubled up to the second, then no more.
EARLY_S = (0.001, 0.5)
#: Seconds between two looks where nothing tells of changes.
UNTOLD_S = 0.1


@frozen
class Terms:
    """How rows are leased: ``lease`` and ``look_every`` are seconds, ``batch`` how many rows at once."""

    lease: float
    batch: int
    look_every: float


@define(eq=False)
class Leased:
    """One row in our hands.  ``since`` is when its lease began, by the monotonic clock."""

    id: Any
    payload: Any
    attempts: int
    holder: str
    since: float


class Desk:
    """Belongs to the process that made it; safe from its threads.  Nothing of the database is open before `take`."""

    def __init__(self, database: Database, terms: Terms) -> None:
        self.pid = os.getpid()
        self.renewals = Renewals(terms.lease / 3)
        self._database = database
        self._terms = terms
        self._lock = threading.Lock()
        self._waiting: deque[Leased] = deque()
        self._sessions = Sessions(database.connect)
        self._front: Session | None = None
        self._watch: Watch | None = None
        self._missed = 0
        self._away = 0
        self._again = 0.0
        self._fresh = False
        self._alarm = Alarm()
        self._epoll = select.epoll()
        os.set_blocking(self._epoll.fileno(), False)
        self._epoll.register(self._alarm.fileno(), select.EPOLLIN)
        self._alarm.ring_in(0)  # there has been no look yet
        if database.closes_before_fork:
            _before_fork.add(self)

    # -- taking rows in

    def fileno(self) -> int:
        """Readable when `take` has something to do; -1 after `close`."""
        return -1 if self._epoll.closed else self._epoll.fileno()

    def take(self) -> Leased:
        """The next row, leased.  Raises `BlockingIOError` if there is none now, `~tricorn.errors.SourceUnavailable`
        once for each time that the database was tried in vain."""
        with self._lock:
            if self._epoll.closed:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            if not self._waiting and self._epoll.poll(0):
                self._look()
            if not self._waiting:
                raise BlockingIOError(errno.EAGAIN, "no row is due")
            return self._waiting.popleft()

    def _look(self) -> None:
        """Lease what is due, or set the alarm for when something will be."""
        try:
            rows = self._lease()
        except BlockingIOError:
            rows = None
        except SourceUnavailable:
            self._close_front()
            self._alarm.ring_in(_growing(AWAY_S, self._away))
            self._away += 1
            raise
        self._away = 0
        if rows is None:  # due, and in the hands of others, or the database is locked by them
            self._alarm.ring_in(_growing(BUSY_S, self._missed))
            self._missed += 1

    def _lease(self) -> bool | None:
        """True if that came to something, False if there is nothing to lease, ``None`` if others were quicker."""
        front = self._open_front()
        # before looking: what changes from here on is told again
        told_early = self._watch is not None and (self._watch.clear() or self._fresh)
        self._fresh = False
        ((due_in,),) = front.run(self._database.statements.next_due)
        if due_in is None or due_in > 0:
            self._sleep(due_in, told_early=told_early)
            return False
        holder = f"{_HOST}/{self.pid}/{secrets.token_hex(6)}"
        wanted = {"holder": holder, "seconds": self._terms.lease, "most": self._terms.batch}
        since = monotonic()
        rows = front.run(self._database.statements.lease, wanted)
        if not rows:
            return None
        self._missed = 0
        rows.sort(key=lambda row: row[0])
        self._waiting.extend(Leased(_text(key), payload, n, holder, since) for key, payload, n in rows)
        self._alarm.ring_in(0)  # there may be more
        return True

    def _sleep(self, due_in: float | None, *, told_early: bool) -> None:
        """Set the alarm for the next look."""
        self._missed = 0
        first, most = EARLY_S
        self._again = first if told_early else 2 * self._again if self._again < most else 0.0
        wait = self._terms.look_every if self._watch is not None else min(UNTOLD_S, self._terms.look_every)
        if self._watch is not None and self._watch.heard():
            wait = 0.0
        if due_in is not None:
            wait = min(wait, due_in + 0.001)
        self._alarm.ring_in(min(wait, self._again) if self._again else wait)

    def _open_front(self) -> Session:
        if self._front is not None and self._front.stale():
            self._close_front()
        if self._front is None:
            self._front = self._database.connect_front()
        if self._watch is None:
            self._watch = self._database.watch(self._front)
            self._fresh = True  # what was written just before is as good as told
            if self._watch is not None:
                self._epoll.register(self._watch.fileno(), select.EPOLLIN)
        return self._front

    def _close_front(self) -> None:
        watch, self._watch = self._watch, None
        front, self._front = self._front, None
        if watch is not None:
            with suppress(OSError):  # libpq has closed it already
                self._epoll.unregister(watch.fileno())
            watch.close()
        if front is not None:
            front.close()

    # -- finishing rows

    def settle(
        self, row: Leased, statement: str, *, until: float, cut: threading.Event = _NEVER, **parameters: Any
    ) -> None:
        """Change a row that we hold.  While the database is away it is tried again, up to the moment ``until`` or until
        ``cut`` is set; then that error is raised.  Raises `~tricorn.errors.LeaseLost` if the row is no longer ours.
        """
        given = {"id": row.id, "holder": row.holder, **parameters}
        tries = 0
        while True:
            try:
                if self._changed(statement, given, again=tries > 0):
                    return
                break
            except (BlockingIOError, SourceUnavailable) as error:
                pause = _growing(SETTLE_S, tries)
                tries += 1
                if monotonic() + pause >= until or cut.wait(pause):
                    raise SourceUnavailable(f"row {row.id} could not be finished: {error}") from error
        raise self._lost(row)

    def _changed(self, statement: str, given: Mapping[str, object], *, again: bool) -> bool:
        with self._sessions.one() as session:
            if session.run(statement, given):
                return True
            if not again:
                return False
            # the first try may have done it, and only the answer was lost
            statements = self._database.statements
            found = session.run(statements.state, {"id": given["id"]})
            if not found:
                return statement == statements.forget
            state, holder = map(_text, found[0])
            return state != "leased" and holder in (given["holder"], None)

    def fetch(self, row: Leased) -> Any:
        """The payload of a row that another process leased.  Raises `~tricorn.errors.LeaseLost`,
        `~tricorn.errors.SourceUnavailable`."""
        with self._sessions.one() as session:
            found = session.run(self._database.statements.fetch, {"id": row.id, "holder": row.holder})
        if not found:
            raise self._lost(row)
        return found[0][0]

    def _lost(self, row: Leased) -> LeaseLost:
        return LeaseLost(
            f"the lease of {self._terms.lease:g} s on row {row.id} ran out, and another worker may have it: "
            "what was done may be done again"
        )

    def give_back(self) -> None:
        """Put back what was leased and has not been begun; it is due at once.  Never raises."""
        while self._waiting:
            try:
                row = self._waiting.popleft()
            except IndexError:
                return
            try:
                self.settle(row, self._database.statements.unbegun, until=0.0, delay=0.0)
            except OSError:
                pass  # then it is due when its lease runs out

    # -- ending

    def close(self) -> None:
        """Give back rows, sessions, descriptors, and the thread that renews.  Rows that a handler still has keep their
        lease, and can be finished."""
        self.renewals.close()
        with self._lock:
            if self._epoll.closed:
                return
            self.give_back()
            self._close_front()
            self._sessions.close()
            self._epoll.close()
            self._alarm.close()

    def abandon(self) -> None:
        """In a forked child: close our copies of the descriptors, and leave the rest to the parent."""
        if self._epoll.closed:
            return
        if self._front is not None:
            self._front.abandon()
        self._sessions.abandon()
        if self._watch is not None:
            self._watch.close()
        self._epoll.close()
        self._alarm.close()
        _abandoned.append(self)

    def prepare_fork(self) -> None:
        """Close every session that nobody uses just now, so that the child inherits none."""
        if self.pid == os.getpid() and self._lock.acquire(blocking=False):
            try:
                front, self._front = self._front, None
                if front is not None:
                    front.close(quick=True)
                self._sessions.close_idle(quick=True)
            finally:
                self._lock.release()


def _growing(bounds: tuple[float, float], times: int) -> float:
    first, most = bounds
    return float(min(most, first * 2.0 ** min(times, 16)))


def _text(value: Any) -> Any:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


_HOST = socket.gethostname()
_abandoned: list[Desk] = []
_before_fork: weakref.WeakSet[Desk] = weakref.WeakSet()


def _prepare_fork() -> None:
    for desk in list(_before_fork):
        desk.prepare_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_prepare_fork)
