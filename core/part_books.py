"""The books of jobs that are parts of other jobs: messages that an event loop hands to another dispatcher."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tricorn.admission import Permits
from tricorn.events import Event, JobFinished, JobRefused, Outcome
from tricorn.ledger import Ledger
from tricorn.observers import Observers

if TYPE_CHECKING:
    from tricorn.job import ServedJob

__all__ = ["PartBooks"]


#: Above the numbers of all whole jobs, which the same dispatcher may have, too.
FIRST_ID = 2**62


class PartBooks:
    """Kept apart from the server's: a part is neither admitted, nor counted, nor told of.  Safe from any thread."""

    def __init__(self) -> None:
        self._ended: dict[int, Callable[[Outcome], None]] = {}
        self.ledger = Ledger(Observers([_Ear(self._ended)]), first_id=FIRST_ID)
        #: None to take, and none are ever given back.
        self.permits = Permits(0)

    def enter(self, job: ServedJob, ended: Callable[[Outcome], None]) -> ServedJob:
        """Give ``job`` a number; ``ended`` gets its outcome, once."""
        self.ledger.open(job)
        self._ended[job.id] = ended
        return job


class _Ear:
    events = frozenset({JobFinished, JobRefused})

    def __init__(self, ended: dict[int, Callable[[Outcome], None]]) -> None:
        self._ended = ended

    def __call__(self, event: Event) -> None:
        assert isinstance(event, (JobFinished, JobRefused))
        self._ended.pop(event.outcome.id)(event.outcome)
