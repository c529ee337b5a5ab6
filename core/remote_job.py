"""A job that another process serves: handing it over, serving it there, and taking in how it went.

Apart from `tricorn.job`, whose users mostly serve in their own process, and need none of what this imports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tricorn.alarm_clock import set_alarm, stop_alarm
from tricorn.errors import WorkerLost
from tricorn.events import Event, JobFinished, JobRefused, Stage, Status
from tricorn.handover import send_request
from tricorn.report import Report, send_report
from tricorn.verdict import judge

if TYPE_CHECKING:
    from socket import socket

    from tricorn.job import ServedJob

__all__ = ["Reporter", "hand_over", "run_remotely", "settle"]


def run_remotely(job: ServedJob) -> bytes:
    """`tricorn.contracts.Job.run_remotely`."""
    job.service.crew.enter_child(job.request)
    watched = set_alarm(job, job.service.deadlines)
    error = job.serve()
    if watched:
        stop_alarm()
    error, reached = job.overdue or error, job.stage
    try:
        job.request.finish(error)
    except Exception as trouble:
        error, reached = error or trouble, Stage.CLOSE
    return Report(judge(job, error), reached, error, job.turned_away).encode()


def hand_over(job: ServedJob, channel: socket, where: str) -> None:
    """`tricorn.contracts.Job.hand_over`."""
    send_request(channel, job.id, job.request)
    job.disown(where)


def settle(job: ServedJob, report: bytes | None, ended: str) -> None:
    """`tricorn.contracts.Job.settle`."""
    try:
        told = None if report is None else Report.decode(report)
    except ValueError:
        told, ended = None, f"{ended}, and its report cannot be read"
    if told is None:
        status = Status.CANCELLED if job.cancelled else Status.LOST
        job.record(status, WorkerLost(f"the process of this job {ended}"), ended)
        return
    status = Status.CANCELLED if job.cancelled else told.status
    job.record(status, told.error, told.detail, told.stage)


class Reporter:
    """An observer in a worker that reports on each job that was handed over."""

    events = frozenset({JobFinished, JobRefused})

    def __init__(self, channel: socket) -> None:
        self._channel = channel

    def __call__(self, event: Event) -> None:
        """Tell the parent."""
        assert isinstance(event, (JobFinished, JobRefused))
        outcome = event.outcome
        report = Report(outcome.status, outcome.stage, outcome.error, outcome.detail)
        send_report(self._channel, outcome.id, report.encode())
