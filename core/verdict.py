"""What the ending of a job means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tricorn.admission import SHED
from tricorn.errors import FramingError, HandshakeError, WorkerLost
from tricorn.events import Status

if TYPE_CHECKING:
    from tricorn.job import ServedJob

__all__ = ["judge"]


def judge(job: ServedJob, error: BaseException | None) -> Status:
    """The status of ``job``, which ended with ``error``, or as it should."""
    if job.cancelled:
        return Status.CANCELLED
    if job.overdue is not None:
        return Status.TIMED_OUT
    if job.turned_away is SHED and (error is None or error is job.request.fault):
        return Status.TIMED_OUT
    if error is None:
        return Status.COMPLETED
    if job.turned_away and job.turned_away is not SHED:
        return Status.REFUSED
    if isinstance(error, WorkerLost):
        return Status.LOST
    if error is job.request.fault:
        if isinstance(error, TimeoutError):
            return Status.TIMED_OUT
        if isinstance(error, ConnectionError):
            return Status.DISCONNECTED
        if isinstance(error, (FramingError, HandshakeError)):
            return Status.REFUSED
    return Status.FAILED
