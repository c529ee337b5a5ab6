"""Requests that are rows of a database table, in sqlite or PostgreSQL."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from attrs import field, frozen

from tricorn.checks import flag, refuse_option, whole_number
from tricorn.contracts import Kind, Listener, Transport
from tricorn.errors import ListenError, PeerRefused, SourceUnavailable
from tricorn.handover import restorable
from tricorn.leases.database import Database
from tricorn.leases.desk import Desk, Leased, Terms
from tricorn.leases.row import ELSEWHERE, MAX_SECONDS, Leasing, TableRow, decoder, described
from tricorn.leases.statements import quoted_table
from tricorn.places import Place, read_place, without_secrets

if TYPE_CHECKING:
    from attrs import Attribute

__all__ = ["RowState", "Table", "TableListener", "TableRow"]


def _check_url(owner: object, option: Attribute[str], value: object) -> None:
    try:
        read_place(value)
    except ValueError as error:
        shown = without_secrets(value) if isinstance(value, str) else value
        refuse_option(owner, option.name, shown, str(error))


def _check_table(owner: object, option: Attribute[str], value: str) -> None:
    try:
        quoted_table(value)
    except ValueError as error:
        refuse_option(owner, option.name, value, str(error))


def _seconds(low: float) -> Callable[[Any, Attribute[float], object], None]:
    def check(owner: object, option: Attribute[float], value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= MAX_SECONDS:
            refuse_option(owner, option.name, value, f"seconds, from {low:g} to {MAX_SECONDS:g}")

    return check


def _check_decode(owner: object, option: Attribute[Any], value: object) -> None:
    if value not in ("json", "text", "bytes") and not callable(value):
        refuse_option(owner, option.name, value, '"json", "text", "bytes", or a function of the payload')


@frozen
class RowState:
    """What a row says of itself: ``state`` is ready, leased, done or dead, ``result`` what the handler left (as the
    text that is in the table), ``error`` why the last attempt failed."""

    id: Any
    state: str
    attempts: int
    result: str | None
    error: str | None


@frozen
class Table(Transport):
    """Rows of a database table: each is leased, and in the end done, put back, or dead.

    ``url``: ``sqlite:/path/jobs.db`` (also ``sqlite:///path/jobs.db``: one slash or three before an absolute path), or
    a URL of libpq, ``postgresql://user:password@host/database`` (extra ``postgres``).  A password is never shown.
    ``table``: its name, perhaps with a schema's; `create` makes it.
    ``lease``: seconds for which a row is ours.  A row whose lease ran out, since its worker died, is offered again.
    ``renew``: renew leases while handlers work, on a thread of the process that runs them.  Without it, ``lease`` must
    be longer than any handler takes.
    ``batch``: rows leased at once.  More than 1 pays for handlers of a few milliseconds: those in waiting are
    nobody else's meanwhile, and cost an attempt if the process is killed.
    ``max_attempts``: how often a row is tried before it is dead.
    ``retry_delay``: seconds until the second attempt; doubled for each further one, up to ``max_retry_delay``.
    ``decode``: ``"json"``, ``"text"`` (UTF-8), ``"bytes"``, or a function of the payload as the database has it
    (sqlite: bytes).  What it cannot decode is dead at once, and told to observers as refused.
    ``delete_done``: delete rows that are done, instead of keeping them with their result.
    ``look_every``: the most seconds between two looks; what changes is told earlier, by inotify(7) or ``NOTIFY``.

    The handler gets a `TableRow`.  Raises `~tricorn.errors.ConfigurationError` for a value that cannot work, and where
    psycopg is missing.  A value: opens nothing, and is safe to share between threads.  Linux only.
    """

    kind: ClassVar[Kind] = Kind.ITEM

    url: str = field(
        validator=_check_url, repr=lambda url: repr(without_secrets(url)), metadata={"help": "the database"}
    )
    table: str = field(default="jobs", validator=_check_table, metadata={"help": "its name"})
    lease: float = field(
        default=30.0, kw_only=True, validator=_seconds(0.1), metadata={"help": "seconds for which a row is ours"}
    )
    renew: bool = field(
        default=True, kw_only=True, validator=flag, metadata={"help": "renew leases while handlers work"}
    )
    batch: int = field(default=1, kw_only=True, validator=whole_number(1, 10_000), metadata={"help": "rows at once"})
    max_attempts: int = field(
        default=5, kw_only=True, validator=whole_number(1), metadata={"help": "attempts before a row is dead"}
    )
    retry_delay: float = field(
        default=1.0, kw_only=True, validator=_seconds(0.0), metadata={"help": "seconds until the second attempt"}
    )
    max_retry_delay: float = field(
        default=300.0, kw_only=True, validator=_seconds(0.0), metadata={"help": "seconds until the next at most"}
    )
    decode: Literal["json", "text", "bytes"] | Callable[[Any], object] = field(
        default="json", kw_only=True, validator=_check_decode, metadata={"help": "what a payload is"}
    )
    delete_done: bool = field(
        default=False, kw_only=True, validator=flag, metadata={"help": "delete rows that are done"}
    )
    look_every: float = field(
        default=5.0, kw_only=True, validator=_seconds(0.01), metadata={"help": "most seconds between two looks"}
    )
    _place: Place = field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_place", read_place(self.url))
        _ = self._database() if self._place.scheme == "postgresql" else None  # is psycopg there?

    def _database(self) -> Database:
        if self._place.scheme == "sqlite":
            from tricorn.leases.sqlite import SqliteDatabase

            return SqliteDatabase(self._place.target, self.table)
        from tricorn.leases.postgres import PostgresDatabase

        payload = "payload::text" if self.decode in ("json", "text") else "payload"
        return PostgresDatabase(self._place.target, self.table, payload)

    @property
    def address(self) -> str:
        """As one would write it by name, without the password."""
        return self._place.address(self.table)

    def listen(self) -> tuple[TableListener]:
        """See that the table can be served from.

        Connects for that, which may block for seconds; then disconnects: every process that serves has sessions of its
        own.  Raises `~tricorn.errors.ListenError` if there is no such file, database, table or column, no right to
        change it, or a lock on it.
        """
        database = self._database()
        try:
            database.check(deletes=self.delete_done)
            return (TableListener(self, database),)
        except OSError as error:
            message = f"cannot listen on {self.address}: {error}"
            raise ListenError(message, errno=error.errno, address=self.address) from error

    # -- for producers and people

    def create_sql(self) -> str:
        """The statements by which `create` makes the table, to be run by hand or by a migration."""
        return self._database().statements.create

    def create(self) -> None:
        """Make the table, its index, and what tells of new rows, each unless it is there; for sqlite the file, too.

        Blocks.  Raises `~tricorn.errors.SourceUnavailable`.
        """
        try:
            self._database().create()
        except BlockingIOError as error:
            raise SourceUnavailable(f"{self.address} is locked by another program") from error

    def put(self, value: object, *, delay: float = 0.0) -> Any:
        """Insert a row, due ``delay`` seconds from now, and return its id.  Once this returns it outlasts a power
        failure.

        Connects each time: a program that puts many rows in had better INSERT them itself, many in one transaction.
        Blocks.  Raises `~tricorn.errors.SourceUnavailable`, or `TypeError` for what is no JSON.
        """
        payload = json.dumps(value, allow_nan=False) if self.decode == "json" else value
        ((number,),) = self._ask("put", {"payload": payload, "delay": float(delay)})
        return number

    def read(self, row: Any) -> RowState | None:
        """What has become of the row of that id; ``None`` if there is none (any more).  Connects each time; blocks."""
        found = self._ask("read", {"id": row})
        return RowState(*map(_plain, found[0])) if found else None

    def count(self) -> dict[str, int]:
        """How many rows are in each state.  Connects each time; blocks."""
        return {_plain(state): count for state, count in self._ask("count", {})}

    def _ask(self, statement: str, parameters: dict[str, object]) -> list[tuple[Any, ...]]:
        database = self._database()
        session = database.connect_lasting()
        try:
            return session.run(getattr(database.statements, statement), parameters)
        except BlockingIOError as error:
            raise SourceUnavailable(f"{self.address} is locked by another program") from error
        finally:
            session.close()


def _plain(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


class TableListener(Listener):
    """Leases rows.  Each process that accepts, or finishes rows, has a `Desk` of its own, made when it is needed."""

    kind: ClassVar[Kind] = Kind.ITEM

    def __init__(self, table: Table, database: Database) -> None:
        self.address: str = table.address
        self.restorers: tuple[int, ...] = (restorable(self),)
        self.statements = database.statements
        self.leasing = Leasing(
            table.table, table.lease, table.renew, table.max_attempts, table.retry_delay, table.max_retry_delay,
            table.delete_done,
        )  # fmt: skip
        self._database = database
        self._terms = Terms(table.lease, table.batch, table.look_every)
        self.decode = decoder(table.decode)
        self._lock = threading.Lock()
        self._desk = Desk(database, self._terms)

    def desk(self) -> Desk:
        """This process's."""
        desk = self._desk
        return desk if desk.pid == os.getpid() else self._enter_process()

    def _enter_process(self) -> Desk:
        with self._lock:
            inherited = self._desk
            if inherited.pid != os.getpid():
                self._desk = Desk(self._database, self._terms)
                inherited.abandon()
            return self._desk

    def fileno(self) -> int:
        """An epoll descriptor, this process's own; -1 after `close`."""
        return self.desk().fileno()

    def accept(self) -> TableRow:
        """Lease a row, if one is due.  It asks the database, and waits 10 ms at most for a lock on it.

        Raises `~tricorn.errors.PeerRefused` for a row that is dead now: one that cannot be decoded, or whose last lease
        ran out.
        """
        leased = self.desk().take()
        if leased.attempts > self.leasing.max_attempts:
            leased.attempts -= 1
            raise self._bury(leased, f"its lease ran out at attempt {leased.attempts}: its worker died")
        try:
            value = self.decode(leased.payload)
        except Exception as error:
            raise self._bury(leased, described(error, "cannot be decoded: ")) from error
        return TableRow(value, leased, self)

    def _bury(self, leased: Leased, reason: str) -> PeerRefused:
        """Never again; returns what to raise."""
        try:
            self.desk().settle(leased, self.statements.dead, until=0.0, attempts=leased.attempts, error=reason)
        except OSError:
            pass  # it comes once more, when its lease has run out
        return PeerRefused(f"row {leased.id}: {reason}", f"{self.leasing.table}#{leased.id}")

    def redeem(self, ticket: Any) -> TableRow:
        """A row that another process of this server accepted; its payload is read when it is opened."""
        key, attempts, holder, since = ticket
        return TableRow(None, Leased(key, ELSEWHERE, attempts, holder, since), self)

    def drain(self) -> None:
        """Put back what was leased and not accepted.  Safe in a signal handler of a child."""
        if self._desk.pid == os.getpid():
            self._desk.give_back()

    def close(self) -> None:
        """Put back what was leased and not accepted, and disconnect this process."""
        self.desk().close()

    disown = close
