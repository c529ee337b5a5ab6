"""The contracts: what a part must promise to be a corner of a server.

Who implements what::

    a transport author    Transport and Listener (and, for a source that is no socket, Item)
    a dispatcher author   Dispatcher: one of `serve` and `dispatch`, plus `join`; often nothing more
    a handler author      nothing here: any callable will do

`Connection`, `Datagram` (`tricorn.connection`, `tricorn.datagram`) and `Item` are the three kinds of request; each
keeps the `Request` contract, which is what a job needs of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol

from tricorn.kinds import Kind, Shape
from tricorn.request import Item, Request

if TYPE_CHECKING:
    from contextvars import Context
    from socket import socket
    from types import TracebackType

    from tricorn.board import Board
    from tricorn.deadline import Deadline
    from tricorn.deadlines import Deadlines
    from tricorn.events import Event, Outcome
    from tricorn.messages import Conversation
    from tricorn.pulse import Pulse

__all__ = ["Crew", "Dispatcher", "Intake", "Item", "Job", "Kind", "Listener", "Request", "Shape", "Transport"]


class Listener(ABC):
    """A live source of requests: bound, and listening where that means anything.

    Promises: `accept` never blocks, and returns one request at a time; `fileno` is a descriptor that is readable
    whenever `accept` would return something; both may be called from several threads, and in a process forked after
    the listener was made.  `close` is called once, by the thread that served.

    ::

        class Doorbell(Listener):
            kind = Kind.STREAM
            def __init__(self, sock): self.sock, self.address = sock, sock.getsockname()
            def fileno(self): return self.sock.fileno()
            def accept(self): return accept_stream(self.sock)
            def close(self): self.sock.close()
    """

    kind: ClassVar[Kind]
    in_batches: ClassVar[bool] = False  # True: it takes several requests at once, and `accept` is for one thread
    address: object

    @abstractmethod
    def fileno(self) -> int:
        """The descriptor to wait on."""

    @abstractmethod
    def accept(self) -> Request:
        """Take one request in, and do nothing else with it.

        Raises `BlockingIOError` where nothing is pending, `~tricorn.errors.PeerRefused` for something taken in that
        must not reach a handler, and any other `OSError` as the kernel gave it; the intake sorts those.
        """

    @abstractmethod
    def close(self) -> None:
        """Stop listening and leave nothing behind (a socket file, if it is still ours)."""

    def hold_off(self) -> None:
        """Let no new peer in, and keep those that are queued: the server stops, and accepts what is there before it
        closes.  Never blocks; called in the process that owns the listener.  The default does nothing, and a peer that
        comes between the last `accept` and `close` is reset."""

    def disown(self) -> None:
        """Close this process's copy of the descriptor and leave everything else to the process that goes on
        listening.  The default is `close`, right where closing leaves no trace outside the process."""
        self.close()

    def adopt(self) -> None:
        """This process took over after a fork: `close` is now its duty.  The default does nothing."""

    def reload(self) -> None:
        """Read its certificates and the like again, for requests accepted from now on, in this process and those forked
        from it.  Safe from any thread.  Raises, and changes nothing, if that fails.  The default does nothing."""


class Transport(ABC):
    """Where requests come from, as a frozen value.  Building one opens nothing and looks no name up.

    ::

        @attrs.frozen
        class Doorbells(Transport):
            kind = Kind.STREAM
            path: str
            def listen(self): return (Doorbell(bound_socket(self.path)),)
    """

    #: What `Listener.accept` returns.
    kind: ClassVar[Kind]
    in_process: ClassVar[bool] = False  # True: its requests cannot leave this process; no descriptor stands behind them
    #: What its connections can tell for certain of their peers: "credentials" (the kernel's), "certificate" (verified).
    attests: ClassVar[frozenset[str]] = frozenset()
    in_batches: ClassVar[bool] = False  # True: its listeners take several requests at once, for one thread

    @abstractmethod
    def listen(self) -> Sequence[Listener]:
        """Bind, and return at least one listener (several where one name has several addresses).

        May block for a name look-up.  Raises `~tricorn.errors.ListenError` with errno and address, having closed
        everything it opened; what it opened is non-blocking and close-on-exec.
        """


class Job(Protocol):
    """One request's whole service, ready to run exactly once."""

    id: int
    request: Request

    @property
    def crew(self) -> Crew:
        """What a dispatcher with processes needs of this job's server."""
        ...

    def run(self) -> None:
        """Open, call the handler, close, record the outcome.  Blocks as long as the handler does.

        Never raises an `Exception`: what the handler raised is in the outcome.
        """
        ...

    def __enter__(self) -> Job:
        """For a loop that calls the handler in its own way: open.  Raises what opening raised, recorded."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        """Close and record; swallows an `Exception`, since it is in the outcome."""
        ...

    def turn(self) -> bool:
        """Like `run`, but True, with everything left open, where the handler parked the connection: call it again when
        there is something to read."""
        ...

    def engage(self) -> Context:
        """For an event loop: begin, without opening.  Returns the context to call user code in.  Then comes `end`."""
        ...

    def authenticate(self) -> None:
        """For an event loop, once the request is open: let the server's authenticator look at it.  Raises what turns
        the peer away.  Does not block, unless the authenticator converses."""
        ...

    def converse(self) -> Conversation:
        """The sans-IO side of a message handler for this request, once it is open."""
        ...

    @property
    def shape(self) -> Shape:
        """How the server's handler is to be called.  For dispatchers that call it themselves; ask once, and keep it."""
        ...

    async def handle(self, request: object) -> None:
        """For an event loop: await the coroutine handler, called with ``request``, which stands for the job's own."""
        ...

    def part(
        self, request: Request, ended: Callable[[Outcome], None], watch: Callable[[int, Callable[[], None]], None]
    ) -> Job:
        """A job for ``request``, one message of this one's, for another dispatcher.  ``ended`` is called with its
        outcome, on whichever thread ends it; nothing else is told of it.  ``watch`` is what that dispatcher gets as
        `Crew.watch`, the same for all parts of a server's jobs."""
        ...

    def late(self, which: str) -> None:
        """For an event loop: a deadline has passed, that of `Crew.deadlines` with this name.  Cuts the request off."""
        ...

    def end(self, error: BaseException | None = None) -> None:
        """Close and record, for a loop that called `engage`."""
        ...

    def refuse(self, reason: str, error: BaseException | None = None) -> None:
        """End it unserved, and say why: the peer is closed, the outcome is REFUSED."""
        ...

    def disown(self, where: str = "") -> None:
        """Another process has it (``where``, for people): close our copy.  `settle` records the outcome later."""
        ...

    def run_remotely(self) -> bytes:
        """Like `run`, in a forked child, which first closes the listeners: they stay the parent's.

        Returns the report that the parent gives to `settle`.
        """
        ...

    def hand_over(self, channel: socket, where: str = "") -> None:
        """Send the request to a worker that attends ``channel``, descriptor and all, and disown it."""
        ...

    def settle(self, report: bytes | None, ended: str = "") -> None:
        """In the parent: record what the child reported; without a report the job is lost, by ``ended``."""
        ...


class Intake(ABC):
    """What a dispatcher pulls jobs from; the one place that waits.

    Iterating is safe from many threads at once: each ``iter()`` waits by itself.  It takes a permit, accepts,
    verifies, and yields the job; it ends after `stop`::

        for job in intake:      # blocks until there is a job, ends when the server stops
            job.run()
    """

    @abstractmethod
    def __iter__(self) -> Iterator[Job]:
        """Jobs as they come, until `stop`."""

    def run_each(self) -> None:
        """Run every job on this thread until `stop`: as the loop above, and perhaps quicker."""
        for job in self:
            job.run()

    @abstractmethod
    def next(self, timeout: float | None = None) -> Job | None:
        """The next job, or ``None`` after ``timeout`` seconds or `stop`."""

    @abstractmethod
    def poll(self, *, again: bool = False) -> Job | None:
        """The next job or ``None``; never blocks.  For loops: when `fileno` is readable, and ``again`` after that."""

    @abstractmethod
    def fileno(self) -> int:
        """Readable when `poll` may return a job, and for good after `stop`.  For event loops."""

    def patience(self) -> float | None:
        """Seconds after which `poll` is to be called though `fileno` is not readable; ``None``: not before it is.

        For event loops in programs that fork: for one that never asks, a thread makes `fileno` readable in time.
        """
        return None

    @property
    def stopping(self) -> bool:
        """True once `stop` was called: let nothing be idle any more.  Jobs may still come."""
        return self.stopped

    @property
    @abstractmethod
    def stopped(self) -> bool:
        """True when nothing more comes."""

    @abstractmethod
    def stop(self) -> None:
        """Let no new peer in, yield what the kernel has queued, and end every iteration.  Never blocks; safe from any
        thread and from a signal handler."""

    @abstractmethod
    def wait(self, timeout: float | None = None, *, to_the_end: bool = True) -> bool:
        """For a dispatcher whose workers iterate: block until nothing more comes, until something watched was ready,
        or for ``timeout`` seconds; True in the first case.  Not ``to_the_end``: until `stop`, and True after it."""

    @property
    @abstractmethod
    def crew(self) -> Crew:
        """What a dispatcher with worker processes needs of the server."""

    @abstractmethod
    def watch(self, fd: int, ready: Callable[[], None]) -> None:
        """Call ``ready`` from whichever thread is waiting here whenever ``fd`` is readable.  Before iterating."""


class Crew(Protocol):
    """What a dispatcher with worker processes needs of the server: the inside of a worker, and the books of them all.

    `attend` and `attend_channel` run in a forked worker and return its exit status; both serve until SIGTERM, and
    then drain.  The rest is called in the parent, by the serving thread.
    """

    def attend(self, dispatcher: Dispatcher, board: Board, pulse: Pulse) -> int:
        """Serve the server's own listeners with ``dispatcher``; ``board`` gets the jobs' starts and ends, ``pulse`` the
        signs of life."""

    def attend_channel(self, dispatcher: Dispatcher, channel: socket, pulse: Pulse) -> int:
        """Serve with ``dispatcher`` the jobs that `Job.hand_over` sends through ``channel``, and report on each."""

    def enlist(self, board: Board) -> None:
        """Count what ``board`` says among the server's jobs from now on."""

    def dismiss(self, board: Board, ended: str, *, cancelled: bool) -> tuple[int, ...]:
        """The worker of ``board`` has ended.  Its unfinished jobs are LOST, by ``ended`` (CANCELLED if we ended it);
        returns their numbers."""

    def tell(self, event: Event) -> None:
        """Tell the server's observers a fact about the dispatcher (a worker that started, or died)."""

    @property
    def drain_timeout(self) -> float:
        """Seconds that a worker gets which is to end while the server goes on."""

    @property
    def deadlines(self) -> Deadlines:
        """How long peers and handlers may take, for dispatchers that look to it themselves (``minds_deadlines``)."""

    def watch(self, fd: int, ready: Callable[[], None]) -> None:
        """`Intake.watch`, for dispatchers that are given single jobs."""

    def hang_up(self) -> None:
        """Listen for no more connections, so that new clients are told at once while jobs still run.

        For ``in_place`` dispatchers whose ``serve`` goes on after the stop; the server does it when ``serve`` returns.
        """


class Dispatcher(ABC):
    """Decides who pulls jobs from the intake, and where each runs.

    Write `dispatch` for a per-request strategy (`serve` is then inherited), or `serve` for one that replicates
    itself or is an event loop.  ``serve`` is called by the serving thread, once; ``dispatch`` by that thread, or by
    another dispatcher that routes to this one; ``join``, ``cancel`` and ``close`` by the serving thread after ``serve``
    returned (``in_place`` ones: by another, while it may still run; after `Server.handle_request`: by whoever drains).

    ::

        class Spawn(Dispatcher):
            def dispatch(self, job):
                threading.Thread(target=job.run, daemon=True).start()
            def join(self, deadline):
                return True         # the server itself waits for the jobs
    """

    #: What it can serve.
    kinds: ClassVar[frozenset[Kind]] = frozenset(Kind)
    #: How it can call handlers.  A message handler can be called like a function, and then blocks like one.
    shapes: ClassVar[frozenset[Shape]] = frozenset({Shape.CLASS, Shape.FUNCTION, Shape.MESSAGE})
    #: True if it waits for its requests' descriptors, as event loops do.
    needs_descriptors: ClassVar[bool] = False
    #: True if jobs run in other processes, made by fork.
    forks: ClassVar[bool] = False
    #: True if jobs run in the very thread that serves, which can then not watch a deadline.
    in_place: ClassVar[bool] = False
    #: True if it keeps to `Crew.deadlines` itself.  The server does it for all others, unless they fork.
    minds_deadlines: ClassVar[bool] = False
    #: What to try instead, said when a composition is refused.
    instead: ClassVar[str] = "ThreadPool (thread-pool)"

    def misfit(self, handler: object) -> str:
        """Why it cannot serve ``handler`` although its shape is right, as a sentence that names what would work; ``""``
        if it can.  Asked when a server is built."""
        return ""

    def reload(self) -> None:
        """The server was told to reload: begin anew what can be, without refusing anybody.  Never blocks; called in the
        serving process, perhaps in a signal handler.  The default does nothing."""

    @property
    def concurrency(self) -> int | None:
        """The most jobs that can be in flight at once; ``None`` leaves it to the server's ``max_connections``.

        The intake takes no more than this, so that the excess waits in the kernel and not here.
        """
        return None

    def serve(self, intake: Intake) -> None:
        """Run every job of the intake; return when it ends, without waiting for jobs that run elsewhere."""
        for job in intake:
            try:
                self.dispatch(job)
            except Exception as error:
                job.refuse("it could not be dispatched", error)

    def dispatch(self, job: Job) -> None:
        """Arrange for ``job.run()`` to happen once.  May block: that is the back-pressure.

        What it raises as an `Exception` costs that job a refusal.
        """
        raise NotImplementedError(f"{type(self).__name__} serves an intake; it does not take single jobs")

    def join(self, deadline: Deadline) -> bool:
        """Wait for the jobs it has until ``deadline``; True if none is left."""
        return True

    def cancel(self) -> None:
        """The deadline passed: end what can be ended (kill processes, cancel tasks).  Never blocks.

        A job that never began must still be run, or refused: without an outcome its permit is lost.
        """

    def close(self) -> None:
        """Give back threads, processes and descriptors.  Called once, last."""
