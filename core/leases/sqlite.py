"""Leases in an sqlite database: a file that the processes of one machine share.

Sources: sqlite.org/wal.html; sqlite.org/howtocorrupt.html, section 2.6: no connection is carried across a fork, nor may
one be open in the process that forks, since its locks would seem to be the child's.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrs import field, frozen

from tricorn.errors import SourceUnavailable
from tricorn.leases.database import Database, Session, Watch
from tricorn.leases.file_watch import FileWatch
from tricorn.leases.statements import SQLITE, Statements

__all__ = ["SqliteDatabase"]

#: Seconds that a session waits for another writer: whoever finishes a row, or makes a table; and whoever looks for one.
PATIENCE_S, FRONT_PATIENCE_S = 2.0, 0.01
#: RETURNING came with 3.35 (March 2021).
OLDEST = (3, 35, 0)
_LOCKED = {5, 6}  # SQLITE_BUSY, SQLITE_LOCKED
_ERRNOS = {8: errno.EROFS, 14: errno.ENOENT, 23: errno.EACCES, 3: errno.EACCES}  # READONLY, CANTOPEN, AUTH, PERM


def _absolute(path: str) -> str:
    return os.path.abspath(path)


@frozen(eq=False)
class SqliteDatabase(Database):
    """The table ``table`` in the file ``path``."""

    closes_before_fork = True

    path: str = field(converter=_absolute)
    table: str
    statements: Statements = field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "statements", Statements.of(SQLITE, self.table))

    def connect(self) -> Session:
        """See `Database`."""
        return self._open(PATIENCE_S)

    def connect_front(self) -> Session:
        """See `Database`."""
        return self._open(FRONT_PATIENCE_S)

    def watch(self, front: Session) -> Watch | None:
        """See `Database`."""
        try:
            return FileWatch(os.path.dirname(self.path))
        except OSError:
            return None  # no inotify, or none left: then it is the clock that tells when to look

    def connect_lasting(self) -> Session:
        """See `Database`."""
        session = self._open(PATIENCE_S)
        session.run("PRAGMA synchronous = FULL")
        return session

    def _open(self, patience: float, mode: str = "rw") -> _SqliteSession:
        return _SqliteSession(self.path, patience, mode)

    def create(self) -> None:
        """See `Database`."""
        session = self._open(PATIENCE_S, "rwc")
        try:
            session.run("PRAGMA journal_mode = WAL")
            for statement in self.statements.create.split(";\n"):
                session.run(statement)
        finally:
            session.close()

    def check(self, *, deletes: bool) -> None:
        """See `Database`."""
        if sqlite3.sqlite_version_info < OLDEST:
            raise SourceUnavailable(f"sqlite {sqlite3.sqlite_version} is too old; 3.35 or later is needed")
        if not os.path.exists(self.path):
            raise SourceUnavailable("there is no such file; Table.create() makes it, and the table", errno=errno.ENOENT)
        session = self._open(PATIENCE_S)
        try:
            session.run(self.statements.look)
            with suppress(BlockingIOError):  # somebody else has it open in another mode, which works too
                session.run("PRAGMA journal_mode = WAL")
            session.run("BEGIN IMMEDIATE")
            session.run(self.statements.allowed)  # beginning alone is no test of the right to write
            session.run("ROLLBACK")
        except BlockingIOError as error:
            reason = f"it is locked: another program has been writing for {PATIENCE_S:g} s"
            raise SourceUnavailable(reason, errno=errno.EBUSY) from error
        except SourceUnavailable as error:
            raise _advised(error, self.table) from error
        finally:
            session.close()


def _advised(error: SourceUnavailable, table: str) -> SourceUnavailable:
    text = str(error)
    if "no such table" in text:
        return SourceUnavailable(f"it has no table '{table}'; Table.create() makes one", errno=errno.ENOENT)
    if "no such column" in text:
        return SourceUnavailable(f"table '{table}' has {text}; create_sql() shows what is needed", errno=errno.EINVAL)
    return error


class _SqliteSession:
    """One connection."""

    def __init__(self, path: str, patience: float, mode: str) -> None:
        self._path = path
        uri = f"{Path(path).as_uri()}?mode={mode}"
        try:
            self._connection = sqlite3.connect(
                uri, uri=True, timeout=patience, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise _translated(error, path) from error
        self._connection.text_factory = bytes  # what is no UTF-8 is for the decoder to refuse
        self._file = self._identity()
        try:
            self.run("PRAGMA synchronous = NORMAL")
        except BaseException:
            self.close()
            raise

    def _identity(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self._path)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def run(self, statement: str, parameters: Mapping[str, object] = {}) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(statement, parameters).fetchall()
        except sqlite3.Error as error:
            raise _translated(error, self._path) from error

    def stale(self) -> bool:
        return self._file is None or self._identity() != self._file

    def close(self, *, quick: bool = False) -> None:
        setconfig = getattr(self._connection, "setconfig", None)  # since 3.12
        with suppress(sqlite3.Error):
            if quick and setconfig is not None:
                setconfig(getattr(sqlite3, "SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE"), True)  # noqa: B009
            self._connection.close()

    def abandon(self) -> None:
        _abandoned.append(self._connection)


#: Connections of a parent: closing one in the child would take locks away.
_abandoned: list[sqlite3.Connection] = []


def _translated(error: sqlite3.Error, path: str) -> OSError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _LOCKED:
        return BlockingIOError(errno.EAGAIN, f"{path}: {error}")
    number = _ERRNOS.get(code, errno.EIO)
    if code == 14 and os.path.exists(path):
        number = errno.EACCES
    return SourceUnavailable(str(error), errno=number)
