"""Leases in a PostgreSQL database: rows are locked by ``FOR UPDATE SKIP LOCKED``, changes told by ``NOTIFY``.

Needs psycopg 3 (extra ``postgres``).  Sources: postgresql.org/docs/current/sql-select.html, "The Locking Clause";
sql-notify.html; libpq-connect.html, section 34.1.1.2, for the URL.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from tricorn.errors import ConfigurationError, SourceUnavailable
from tricorn.leases.database import Database, Session, Watch
from tricorn.leases.statements import POSTGRESQL, Statements
from tricorn.places import without_secrets

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["PostgresDatabase"]

#: Seconds that connecting may take, unless the URL has ``connect_timeout``; libpq takes 2 at least.
CONNECT_TIMEOUT_S = 5
#: How long a session waits for a lock: whoever finishes a row, or makes a table; and whoever looks for one.
PATIENCE, FRONT_PATIENCE = "2s", "10ms"
_LOCKED = ("55P03", "40001", "40P01")  # lock_not_available, serialization_failure, deadlock_detected


def _psycopg() -> ModuleType:
    try:
        psycopg = import_module("psycopg")  # by name: type checkers need not have it
    except ImportError as error:
        raise ConfigurationError(
            f"a table of PostgreSQL needs psycopg 3, which cannot be imported ({error}); install tricorn[postgres]"
        ) from error
    return psycopg


@frozen(eq=False)
class PostgresDatabase(Database):
    """The table ``table`` in the database that ``url`` leads to."""

    url: str = field(repr=False)
    table: str
    #: A cast that makes text of JSON columns too; bytes are left as they are.
    payload: str = "payload::text"
    statements: Statements = field(init=False)

    def __attrs_post_init__(self) -> None:
        _psycopg()
        object.__setattr__(self, "statements", Statements.of(POSTGRESQL, self.table, self.payload))

    def connect(self) -> Session:
        """See `Database`."""
        return _PostgresSession(self.url)

    connect_lasting = connect

    def connect_front(self) -> Session:
        """See `Database`."""
        session = _PostgresSession(self.url)
        try:
            session.run(f"SET lock_timeout = '{FRONT_PATIENCE}'")
            session.run("SET synchronous_commit = off")  # a lease that is lost is a row that is free
            session.run(f'LISTEN "tricorn_{self.table.rpartition(".")[2]}"')
        except BaseException:
            session.close()
            raise
        return session

    def watch(self, front: Session) -> Watch:
        """See `Database`."""
        assert isinstance(front, _PostgresSession)
        return _Notifications(front)

    def create(self) -> None:
        """See `Database`."""
        session = _PostgresSession(self.url)
        try:
            one_at_a_time = "SELECT pg_advisory_xact_lock(hashtext('tricorn'));\n"
            session.run(f"BEGIN;\n{one_at_a_time}{self.statements.create}COMMIT;")
        finally:
            session.close()

    def check(self, *, deletes: bool) -> None:
        """See `Database`."""
        session = _PostgresSession(self.url)
        try:
            session.run(self.statements.look)
            session.run(self.statements.allowed)
            if deletes:
                session.run(self.statements.allowed_to_delete)
        except BlockingIOError as error:
            reason = f"it is locked: another session has held it for {PATIENCE}"
            raise SourceUnavailable(reason, errno=errno.EBUSY) from error
        except SourceUnavailable as error:
            raise _advised(error, self.table) from error
        finally:
            session.close()


def _advised(error: SourceUnavailable, table: str) -> SourceUnavailable:
    state = getattr(error.__cause__, "sqlstate", None)
    if state in ("42P01", "3F000"):  # undefined_table, invalid_schema_name
        return SourceUnavailable(f"it has no table '{table}'; Table.create() makes one", errno=errno.ENOENT)
    if state == "42703":  # undefined_column
        return SourceUnavailable(f"table '{table}': {error}; create_sql() shows what is needed", errno=errno.EINVAL)
    if state == "42501":  # insufficient_privilege
        return SourceUnavailable(f"{error}; SELECT, UPDATE and INSERT are needed", errno=errno.EACCES)
    return error


class _PostgresSession:
    """One connection."""

    def __init__(self, url: str) -> None:
        self._psycopg = _psycopg()
        self._url = url
        timeout = {} if "connect_timeout" in url else {"connect_timeout": CONNECT_TIMEOUT_S}
        try:
            self.connection: Any = self._psycopg.connect(
                url, autocommit=True, fallback_application_name="tricorn", client_encoding="utf8", **timeout
            )
        except self._psycopg.Error as error:
            raise self._translated(error) from None  # libpq quotes a URL that it cannot read
        self.run(f"SET lock_timeout = '{PATIENCE}'")

    def run(self, statement: str, parameters: Mapping[str, object] = {}) -> list[tuple[Any, ...]]:
        try:
            cursor = self.connection.execute(statement.encode(), parameters or None)
            rows: list[tuple[Any, ...]] = cursor.fetchall() if cursor.description else []
            return rows
        except self._psycopg.Error as error:
            if getattr(error, "sqlstate", None) in _LOCKED:
                raise BlockingIOError(errno.EAGAIN, "a lock is held by another session") from error
            raise self._translated(error) from error

    def _translated(self, error: Exception) -> SourceUnavailable:
        text = str(error).strip().partition("\n")[0]
        return SourceUnavailable(_scrubbed(text, self._url))

    def stale(self) -> bool:
        closed: bool = self.connection.closed
        return closed

    def close(self, *, quick: bool = False) -> None:
        with suppress(self._psycopg.Error):
            self.connection.close()

    def abandon(self) -> None:
        """The socket is the parent's too: a farewell through it would end the parent's session."""
        _abandoned.append(self.connection)
        with suppress(OSError, self._psycopg.Error):
            nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            os.dup2(nowhere, self.connection.fileno(), inheritable=False)
            os.close(nowhere)


_abandoned: list[object] = []


def _scrubbed(text: str, url: str) -> str:
    """``text`` of libpq's, which may quote the URL, or a piece of it."""
    shown = without_secrets(url)
    if url in text:
        return text.replace(url, shown)
    secret = url != shown and any(part and part in text for part in _secrets(url))
    return "libpq refused the URL" if secret else text


def _secrets(url: str) -> list[str]:
    found = re.findall(r"(?<=//)[^/:@?]*:(.*)@", url) + re.findall(r"(?i)password=([^&]*)", url)
    return [str(each) for each in found]


class _Notifications:
    """What `LISTEN` brings, on the session's own descriptor."""

    def __init__(self, session: _PostgresSession) -> None:
        self._session = session
        self._fd: int = session.connection.fileno()
        self._heard = False
        session.connection.add_notify_handler(self._hear)

    def _hear(self, notification: object) -> None:
        self._heard = True

    def fileno(self) -> int:
        return self._fd

    def clear(self) -> bool:
        """False: it is told after the commit.  Raises `SourceUnavailable` if the server has gone."""
        self._heard = False
        raw = self._session.connection.pgconn
        try:
            raw.consume_input()
            while raw.notifies() is not None:
                pass
            return False
        except self._session._psycopg.Error as error:
            raise self._session._translated(error) from error

    def heard(self) -> bool:
        """The server tells changes between a statement's result and its end, so they come with the result."""
        return self._heard

    def close(self) -> None:
        """It is closed with its session."""
