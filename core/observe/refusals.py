"""How many were turned away, by reason."""

from __future__ import annotations

import threading
from typing import ClassVar

from tricorn.admission import SHED
from tricorn.errors import RemoteError
from tricorn.events import Event, JobFinished, JobRefused, Outcome, Status

__all__ = ["MAX_REASONS", "OTHER", "RefusalCounter", "reason_of"]

#: How many reasons are told apart: a dispatcher of somebody's may put what it likes into them.
MAX_REASONS = 64
OTHER = "other"


def reason_of(outcome: Outcome) -> str:
    """Why, in words that are the same for all who were refused for this."""
    if outcome.detail:
        return outcome.detail
    error = outcome.error
    if error is None:
        return OTHER
    return error.kind if isinstance(error, RemoteError) else type(error).__name__


class RefusalCounter:
    """An observer that counts refusals, and conversations that were made to give way.  Safe from any thread."""

    events: ClassVar[frozenset[type]] = frozenset({JobFinished, JobRefused})
    quiet = True

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}

    def __call__(self, event: Event) -> None:
        """Count it in, if it was a refusal."""
        if not isinstance(event, (JobFinished, JobRefused)):
            return
        outcome = event.outcome
        if outcome.status is not Status.REFUSED and outcome.detail != SHED:
            return
        reason = reason_of(outcome)
        with self._lock:
            if reason not in self._counts and len(self._counts) >= MAX_REASONS:
                reason = OTHER
            self._counts[reason] = self._counts.get(reason, 0) + 1

    def counts(self) -> dict[str, int]:
        """By reason, in the order in which they first came up."""
        with self._lock:
            return dict(self._counts)
