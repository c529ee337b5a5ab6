"""One leased row: what a handler works on, and how it ends."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol

from attrs import define, field, frozen

from tricorn.contracts import Item
from tricorn.deadline import Deadline
from tricorn.errors import LeaseLost, SourceUnavailable, StateError
from tricorn.leases.desk import Desk, Leased
from tricorn.leases.statements import Statements

__all__ = ["ELSEWHERE", "MAX_ERROR", "MAX_SECONDS", "Leasing", "Source", "TableRow", "decoder", "described"]

#: How much of an error's text is kept in its row, in characters.
MAX_ERROR = 4000
#: The payload of a row that another process accepted, until it is opened here.
ELSEWHERE = object()
#: A day: no lease and no delay is longer.
MAX_SECONDS = 86400.0


@frozen
class Leasing:
    """What a row needs to know of its table; `tricorn.transports.Table` explains each."""

    table: str
    lease: float
    renew: bool
    max_attempts: int
    retry_delay: float
    max_retry_delay: float
    delete_done: bool


class Source(Protocol):
    """Where rows come from: a listener."""

    address: str
    leasing: Leasing
    statements: Statements
    restorers: tuple[int, ...]
    decode: Callable[[Any], object]

    def desk(self) -> Desk:
        """The one of the process that calls."""
        ...

    def drain(self) -> None:
        """Put back what was leased and not accepted."""
        ...


def described(error: BaseException, what: str = "") -> str:
    """An error as it is written into a row: no character that a database refuses, and not too long."""
    try:
        text = str(error)
    except Exception as trouble:
        text = f"its message raised {type(trouble).__name__}"
    text = f"{what}{type(error).__name__}: {text}"[:MAX_ERROR].replace("\0", "\\x00")
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _from_json(payload: Any) -> object:
    if not isinstance(payload, (str, bytes)):
        raise TypeError(f"JSON is text, and not {type(payload).__name__}")
    return json.loads(payload)


def _from_text(payload: Any) -> str:
    return payload if isinstance(payload, str) else _from_bytes(payload).decode("utf-8")


def _from_bytes(payload: Any) -> bytes:
    return payload.encode("utf-8") if isinstance(payload, str) else bytes(memoryview(payload))


_DECODERS: dict[str, Callable[[Any], object]] = {"json": _from_json, "text": _from_text, "bytes": _from_bytes}


def decoder(decode: str | Callable[[Any], object]) -> Callable[[Any], object]:
    """The function that ``"json"``, ``"text"`` or ``"bytes"`` stands for; a function is itself."""
    return _DECODERS[decode] if isinstance(decode, str) else decode


@define(eq=False)
class TableRow(Item):
    """One leased row, as its handler sees it.

    ``value`` is the decoded payload.  Set ``result`` to leave something for whoever put the row in: it is written as
    JSON when the row is done.  A handler that returns has done the row, one that raises puts it back; it may also say
    so itself by `ack` or `nack`, once.  For one thread, but `drain` and `abort`.
    """

    value: Any
    _leased: Leased
    _source: Source
    result: Any = None
    #: The table's name and the row's id: ``jobs#17``.  Nobody waits there; it is for logs and `Server.jobs`.
    peer: str = field(init=False)
    fault: BaseException | None = field(default=None, init=False)
    #: True once a renewal came too late: somebody else may have the row.
    lost: bool = field(default=False, init=False)
    draining: bool = field(default=False, init=False)
    _until: float = field(init=False)
    _begun: bool = field(default=False, init=False)
    _over: bool = field(default=False, init=False)
    _cut: threading.Event = field(factory=threading.Event, init=False)

    def __attrs_post_init__(self) -> None:
        self._until = self._leased.since + self._source.leasing.lease
        self.peer = f"{self._source.leasing.table}#{self._leased.id}"

    @property
    def id(self) -> Any:
        """Its key."""
        return self._leased.id

    @property
    def attempts(self) -> int:
        """How often it was begun, this time included."""
        return self._leased.attempts

    @property
    def local(self) -> str:  # type: ignore[override]
        """Where the table is."""
        return self._source.address

    # -- for handlers

    def ack(self) -> None:
        """It is done.  Waits while the database is away, until the lease has run out.

        Raises `~tricorn.errors.LeaseLost` if it is no longer ours, `~tricorn.errors.SourceUnavailable` if the database
        does not come back, `TypeError` for a ``result`` that is no JSON.
        """
        if self._source.leasing.delete_done:
            self._settle("forget")
        else:
            self._settle("done", result=None if self.result is None else json.dumps(self.result, allow_nan=False))

    def nack(self, delay: float = 0.0) -> None:
        """It is not done: offer it again ``delay`` seconds from now, or it is dead if this was the last attempt.

        Waits and raises as `ack`.
        """
        self._give_up(delay, "put back by its handler")

    def renew(self) -> None:
        """Let the lease begin anew.  Raises `~tricorn.errors.LeaseLost` if it is no longer ours,
        `~tricorn.errors.SourceUnavailable` if that cannot be told now."""
        now, seconds = monotonic(), self._source.leasing.lease
        try:
            self._source.desk().settle(self._leased, self._source.statements.renew, until=0.0, seconds=seconds)
        except LeaseLost:
            self.lost = not self._over
            raise
        self._until = now + seconds

    def _give_up(self, delay: float, error: str) -> None:
        leasing = self._source.leasing
        if self.attempts >= leasing.max_attempts:
            self._settle("dead", attempts=self.attempts, error=error)
        else:
            self._settle("back", delay=float(min(max(delay, 0.0), MAX_SECONDS)), error=error)

    def _settle(self, statement: str, **parameters: Any) -> None:
        if self._over:
            raise StateError(f"{self.peer} was acknowledged or put back before")
        source = self._source
        source.desk().settle(
            self._leased, getattr(source.statements, statement), until=self._until, cut=self._cut, **parameters
        )
        self._over = True

    # -- for jobs

    @property
    def restorers(self) -> tuple[int, ...]:
        """For `tricorn.handover`: who redeems the ticket."""
        return self._source.restorers

    def ticket(self) -> list[Any]:
        """What another process needs to take it over.  Its payload is in the table."""
        leased = self._leased
        return [leased.id, leased.attempts, leased.holder, leased.since]

    def open(self, deadline: Deadline) -> None:
        """In the process that runs the handler.  Raises `~tricorn.errors.LeaseLost` if it waited for too long."""
        leasing = self._source.leasing
        if self._leased.payload is ELSEWHERE:
            self._leased.payload = self._source.desk().fetch(self._leased)
            self.value = self._source.decode(self._leased.payload)
        if monotonic() > self._until - leasing.lease / 2:
            self.renew()
        self._begun = True
        if leasing.renew:
            self._source.desk().renewals.add(self)

    def finish(self, error: BaseException | None) -> None:
        """Done, or put back: at once if it was never begun and we are leaving, else after a while."""
        try:
            if self._over:
                return
            if error is None:
                self._ack_or_fail()
            elif not self._begun:
                self._return()
            else:
                self._fail(error)
        finally:
            self._source.desk().renewals.remove(self)

    def _return(self) -> None:
        """It never reached a handler, which costs no attempt."""
        source = self._source
        delay = 0.0 if self.draining else source.leasing.retry_delay
        try:
            source.desk().settle(self._leased, source.statements.unbegun, until=0.0, delay=delay)
        except (LeaseLost, SourceUnavailable):
            pass  # whoever has it now will begin it, or whoever has it next
        self._over = True

    def _ack_or_fail(self) -> None:
        try:
            self.ack()
        except (TypeError, ValueError, RecursionError) as error:  # the result is no JSON
            self._fail(error)
            raise

    def _fail(self, error: BaseException) -> None:
        leasing = self._source.leasing
        delay = min(leasing.max_retry_delay, leasing.retry_delay * 2.0 ** min(self.attempts - 1, 64))
        self._give_up(delay, described(error))

    def extend(self) -> bool:
        """`renew`, as `tricorn.leases.renewing` calls it."""
        try:
            self.renew()
        except LeaseLost:
            return False
        return True

    def drain(self) -> None:
        """The server is stopping: what was leased beyond this row goes back at once."""
        self.draining = True
        self._source.drain()

    def abort(self) -> None:
        """Do not wait for a database that is away."""
        self._cut.set()

    def disown(self) -> None:
        """Nothing: the process that has it now finishes it by a session of its own."""
