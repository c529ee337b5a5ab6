"""What the two databases have in common: sessions, how they are shared, and what can go wrong with them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from tricorn.leases.statements import Statements

__all__ = ["Database", "Session", "Sessions", "Watch"]

Rows = list[tuple[Any, ...]]


class Session(Protocol):
    """One connection to a database, for one thread at a time.  Every statement is a transaction of its own."""

    def run(self, statement: str, parameters: Mapping[str, object] = ...) -> Rows:
        """Execute one statement.  Raises `BlockingIOError` if the database is locked by somebody else for longer than
        the session waits, `~tricorn.errors.SourceUnavailable` for any other error of the database's."""
        ...

    def stale(self) -> bool:
        """True if it leads to what is no longer the database (its file was replaced)."""
        ...

    def close(self, *, quick: bool = False) -> None:
        """Give it back; never raises.  ``quick``: another will be opened at once, so leave tidying up to that."""
        ...

    def abandon(self) -> None:
        """In a forked child: let go of it without a word to the database, which still talks to our parent."""
        ...


class Watch(Protocol):
    """What tells that somebody changed the table."""

    def fileno(self) -> int:
        """Readable after a change."""
        ...

    def clear(self) -> bool:
        """Forget the changes so far; True if there were some that may not be seen yet."""
        ...

    def heard(self) -> bool:
        """True if a change was told since `clear` in another way than by the descriptor."""
        ...

    def close(self) -> None:
        """Give the descriptor back."""
        ...


class Database(ABC):
    """How to reach one table.  A value: it has nothing open."""

    statements: Statements
    #: True if no session may be open in a process that forks.
    closes_before_fork: bool = False

    @abstractmethod
    def connect(self) -> Session:
        """A session for whoever has work to finish: it waits a while for locks.  Raises as `Session.run`."""

    @abstractmethod
    def connect_front(self) -> Session:
        """A session for taking rows in, which waits for next to nothing."""

    @abstractmethod
    def watch(self, front: Session) -> Watch | None:
        """What tells of changes, if there is anything that does."""

    @abstractmethod
    def check(self, *, deletes: bool) -> None:
        """Raise `~tricorn.errors.SourceUnavailable` if the table cannot be served from, with a way out."""

    @abstractmethod
    def create(self) -> None:
        """Make what is missing: file, table, index, trigger."""

    @abstractmethod
    def connect_lasting(self) -> Session:
        """A session whose changes outlast a power failure, for producers."""


class Sessions:
    """Sessions that nobody uses just now.  Safe from any thread; there are as many as threads used one at once."""

    def __init__(self, connect: Callable[[], Session]) -> None:
        self._connect = connect
        self._idle: deque[Session] = deque()
        self._closed = False

    @contextmanager
    def one(self) -> Iterator[Session]:
        """A session for the block; after an error, other than a lock, it is not used again."""
        session = self._pick()
        try:
            yield session
        except BlockingIOError:
            self._put_away(session)
            raise
        except BaseException:
            session.close()
            raise
        self._put_away(session)

    def _pick(self) -> Session:
        while True:
            try:
                session = self._idle.pop()
            except IndexError:
                return self._connect()
            if not session.stale():
                return session
            session.close()

    def _put_away(self, session: Session) -> None:
        self._idle.append(session)
        if self._closed:
            self.close_idle()

    def close_idle(self, *, quick: bool = False) -> None:
        """Close those that nobody uses just now."""
        while self._idle:
            try:
                self._idle.pop().close(quick=quick)
            except IndexError:
                return  # another thread took it

    def close(self) -> None:
        """Close them all; those in use when they come back."""
        self._closed = True
        self.close_idle()

    def abandon(self) -> None:
        """In a forked child."""
        for session in self._idle:
            session.abandon()
