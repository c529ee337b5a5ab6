"""What every job of one serving process needs, worked out once."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any, Protocol

from attrs import define

from tricorn.admission import Permits
from tricorn.contracts import Crew
from tricorn.deadlines import NO_DEADLINES, Deadlines
from tricorn.ledger import Ledger

if TYPE_CHECKING:
    from tricorn.contracts import Request
    from tricorn.overload import Gate
    from tricorn.part_books import PartBooks

__all__ = ["Service", "WorkingCrew"]


class WorkingCrew(Crew, Protocol):
    """A `Crew` as jobs themselves need it."""

    def enter_child(self, request: Request) -> None:
        """In a child forked for this one request: close what belongs to the parent."""
        ...

    def watching_with(self, watch: Callable[[int, Callable[[], None]], None]) -> WorkingCrew:
        """The same with another `watch`: for jobs that are given to a dispatcher by an event loop."""
        ...


@define(eq=False)
class Service:
    """What every job of one serving process needs, worked out once."""

    call: Callable[[Any], Any]
    context: Context
    ledger: Ledger
    permits: Permits
    crew: WorkingCrew
    verify: Callable[[Any], bool] | None = None
    deadlines: Deadlines = NO_DEADLINES
    authenticate: Callable[[Any], object] | None = None
    authenticate_timeout: float = 5.0
    #: Where admission is more than a number.
    gate: Gate | None = None
    #: For jobs that are parts of others, made when the first is.
    parts: tuple[PartBooks, Service] | None = None
