"""The facts a server tells: frozen records in the past tense, and the words they use.

Durations are seconds on the monotonic clock, addresses are what the kernel said.  An observer is any callable that
takes one event; see `tricorn.observers` for when it is called and from where.
"""

from __future__ import annotations

from enum import Enum

from attrs import field, frozen

__all__ = [
    "AcceptPaused",
    "DrainReport",
    "Event",
    "JobFinished",
    "JobInfo",
    "JobOverdue",
    "JobRefused",
    "JobStarted",
    "LoopBlocked",
    "Outcome",
    "ReloadFailed",
    "ServerClosed",
    "ServerStarted",
    "ServerStopping",
    "Stage",
    "Status",
    "WorkerEnded",
    "WorkerStarted",
]


class Stage(Enum):
    """How far a job has come."""

    __hash__ = object.__hash__  # members are single objects: 70 ns less for each look-up than by their names

    ACCEPTED = "accepted"
    OPEN = "open"
    HANDLER = "handler"
    CLOSE = "close"


class Status(Enum):
    """How a job ended.  Each job ends in exactly one of these."""

    __hash__ = object.__hash__  # as `Stage`

    COMPLETED = "completed"
    FAILED = "failed"  # the handler raised
    REFUSED = "refused"  # never reached the handler: verify, a limit, a worker that could not start
    DISCONNECTED = "disconnected"  # the peer went away; nothing is wrong with the handler
    TIMED_OUT = "timed out"  # the peer was silent, or did not read, for too long
    CANCELLED = "cancelled"  # ended by us, at the drain deadline
    ABANDONED = "abandoned"  # did not end even then; a thread cannot be killed
    LOST = "lost"  # its worker process died under it


@frozen
class Outcome:
    """The record of one finished job.

    ``age`` is the time from accept to the end in seconds, ``stage`` where it ended, ``error`` what was raised
    (a `RemoteError` if that happened in another process), ``detail`` a reason in words, or ``""``.
    """

    id: int
    status: Status
    stage: Stage
    peer: object
    local: object
    age: float
    error: BaseException | None = None
    detail: str = ""


@frozen
class JobInfo:
    """One job in flight: ``age`` in seconds, ``where`` the thread or process that runs it, ``stack`` its
    formatted stack where one was asked for and can be had, else ``""``."""

    id: int
    peer: object
    age: float
    stage: Stage
    where: str
    stack: str = ""


@frozen
class DrainReport:
    """How a server ended.  ``duration`` is seconds from the request to stop to the end; the counts are of the
    server's whole life; ``abandoned`` names each job that outlived its deadline, with its stack."""

    duration: float
    accepted: int = 0
    completed: int = 0
    failed: int = 0
    refused: int = 0
    disconnected: int = 0
    timed_out: int = 0
    cancelled: int = 0
    lost: int = 0
    abandoned: tuple[JobInfo, ...] = ()

    @property
    def clean(self) -> bool:
        """True if nothing had to be cut off or was lost."""
        return not (self.cancelled or self.lost or self.abandoned)

    def __str__(self) -> str:
        names = ("accepted", "completed", "failed", "refused", "disconnected", "timed_out", "cancelled", "lost")
        counts = [(getattr(self, name), name.replace("_", " ")) for name in names]
        counts.append((len(self.abandoned), "abandoned"))
        shown = [f"{count} {name}" for count, name in counts if count or name == "accepted"]
        return f"drained in {self.duration:.3f} s: " + ", ".join(shown)


@frozen
class ServerStarted:
    """Clients can reach the server at ``addresses`` from now on."""

    addresses: tuple[object, ...]
    pid: int


@frozen
class ServerStopping:
    """The server stopped accepting; ``in_flight`` jobs are still running."""

    in_flight: int


@frozen
class ServerClosed:
    """The end, and how it went."""

    report: DrainReport


@frozen
class JobStarted:
    """A request was accepted and verified and is on its way to a worker."""

    id: int
    peer: object
    local: object


@frozen
class JobFinished:
    """A job that had started is over.  Every `JobStarted` is followed by exactly one of these."""

    outcome: Outcome


@frozen
class JobOverdue:
    """A handler works on a request for longer than the ``limit`` of `~tricorn.deadlines.Deadlines.request` seconds; its
    connection was cut.  A `JobFinished` follows if it ever ends."""

    job: JobInfo
    limit: float


@frozen
class LoopBlocked:
    """An event loop has not come round for ``seconds``, and still does not: some handler blocks it, and ``stack``
    says where.  Told once for each block, in its second second; nobody else is served meanwhile."""

    seconds: float
    stack: str


@frozen
class JobRefused:
    """A request was turned away before it became a started job."""

    outcome: Outcome


@frozen
class AcceptPaused:
    """Accepting was paused for ``pause`` seconds because the machine is out of something.

    Told once a second at most; ``suppressed`` counts the pauses since that were not told.
    """

    error: OSError
    pause: float
    suppressed: int = 0


@frozen
class ReloadFailed:
    """SIGHUP asked for a reload, and ``error`` came of it; the server goes on with what it had."""

    error: Exception


@frozen
class WorkerStarted:
    """A worker process began to serve; ``replaces`` is the process it replaces, or ``None``."""

    pid: int
    replaces: int | None = None


@frozen
class WorkerEnded:
    """A worker process ended, or could not be started (``pid`` 0); ``reason`` names its signal or exit status, ``lost``
    the jobs it had."""

    pid: int
    reason: str
    expected: bool
    lost: tuple[int, ...] = field(default=())


Event = (
    ServerStarted
    | ServerStopping
    | ServerClosed
    | JobStarted
    | JobFinished
    | JobOverdue
    | LoopBlocked
    | JobRefused
    | AcceptPaused
    | ReloadFailed
    | WorkerStarted
    | WorkerEnded
)
