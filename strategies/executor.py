"""Message handlers on any `concurrent.futures.Executor`."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent import futures
from contextvars import Context
from importlib.util import find_spec
from multiprocessing import get_context
from typing import Any, ClassVar, Literal

from attrs import define, field, validators

from tricorn.checks import refuse_option, whole_number
from tricorn.contracts import Crew, Dispatcher, Intake, Job, Shape
from tricorn.deadline import Deadline
from tricorn.errors import ConfigurationError, IncompatibleParts, StateError, WorkerLost
from tricorn.forking import refuse_if_threaded
from tricorn.peer_table import Limits
from tricorn.remote_loop import RemoteLoop
from tricorn.remote_messages import Answer, Origin, attend_parent, packed, refuse_state, work

__all__ = ["Executor"]

_KINDS = ("process", "thread", "loky", "interpreter")


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _room(dispatcher: Any) -> int:
    """Four times what can be worked on at once, so that no worker waits for us."""
    return 4 * int(getattr(dispatcher.pool, "_max_workers", 0) or dispatcher.workers)


@define(eq=False)
class Executor(Dispatcher):
    """Messages are answered by a `concurrent.futures.Executor`: the bytes travel, the socket stays.

    ::

        Executor()                                        # a ProcessPoolExecutor of our own
        Executor(kind="loky", workers=4)                  # another one; by name: executor?kind=loky&workers=4
        Executor(lambda: ProcessPoolExecutor(4))          # one that is made again when it breaks
        Executor(pool)                                    # one that is yours

    One loop holds every connection.  A message that is complete is submitted, and its reply sent when it comes.  The
    replies to one peer are in the order of its messages.  ``pipeline``: messages of one peer that are worked on at
    once; 1 by default, so that each sees what those before it did.

    ``pool``: an executor, which you shut down yourself, or a callable that makes one, which is then ours: it is made
    again when it breaks, and shut down at the end.  Without one, ``kind`` says what to make: "process" (started by
    spawn, ended with the server), "thread", "loky" (of the package of that name), or "interpreter" (Python 3.14).
    ``workers``: how many, by default one for each processor.  ``max_in_flight``: messages that are submitted at once,
    4 x workers by default; beyond that, connections are not read.

    Message handlers only, and without ``state``, which does not travel.  To other processes a handler goes by its
    name; one that cannot go is refused when the server is built, or when the pool is made.  Context variables reach
    threads only.  A worker that dies costs the messages in flight: those connections end as LOST.  If a pool that
    was given breaks or is shut down, serving ends with that error.  Messages that are still worked on when a drain's
    deadline passes are cut off; a pool of our own is killed then, as far as it has processes.

    ``high_water`` as with `~tricorn.strategies.Selector`.
    """

    shapes: ClassVar[frozenset[Shape]] = frozenset({Shape.MESSAGE})
    needs_descriptors: ClassVar[bool] = True
    minds_deadlines: ClassVar[bool] = True
    instead: ClassVar[str] = "a message handler (tricorn.handlers.message), or ProcessPool (process-pool)"

    pool: futures.Executor | Callable[[], futures.Executor] | None = field(
        default=None, metadata={"help": "an executor, or a function that makes one"}
    )
    kind: Literal["process", "thread", "loky", "interpreter"] = field(
        default="process", kw_only=True, validator=validators.in_(_KINDS), metadata={"help": "what pool to make"}
    )
    workers: int = field(
        factory=_processors,
        kw_only=True,
        validator=whole_number(1),
        metadata={"help": "workers of the pool; default: one for each processor"},
    )
    max_in_flight: int = field(
        kw_only=True, validator=whole_number(1), metadata={"help": "messages at once; default: 4 x workers"}
    )
    pipeline: int = field(
        default=1, kw_only=True, validator=whole_number(1), metadata={"help": "messages of one peer at once"}
    )
    high_water: int = field(
        default=262_144, kw_only=True, validator=whole_number(0), metadata={"help": "bytes of output kept for a peer"}
    )
    _handler: Any = field(default=None, init=False, repr=False)
    _desk: _Desk | None = field(default=None, init=False, repr=False)
    _loop: RemoteLoop | None = field(default=None, init=False, repr=False)

    @max_in_flight.default
    def _enough(self) -> int:
        return _room(self)

    @pool.validator
    def _is_a_pool(self, attribute: object, value: object) -> None:
        if value is not None and not isinstance(value, futures.Executor) and not callable(value):
            refuse_option(self, "pool", value, "a concurrent.futures.Executor, or a callable that makes one")

    def __attrs_post_init__(self) -> None:
        if self.pool is None:
            _check_kind(self.kind)

    def misfit(self, handler: object) -> str:
        """One that wants ``state``, or cannot be sent to where the pool's workers are."""
        try:
            refuse_state(handler, "Executor")
            if isinstance(self.pool, futures.Executor):
                _sendable(handler, self.pool)
            elif self.pool is None and self.kind in ("process", "interpreter"):
                packed(handler, f"Executor(kind={self.kind!r})")
        except IncompatibleParts as error:
            return str(error)
        self._handler = handler
        return ""

    def serve(self, intake: Intake) -> None:
        """Make the pool, then run the loop until the intake ends.  Raises `~tricorn.errors.StateError` or
        `~tricorn.errors.WorkerLost` where the pool was given, and cannot work any more."""
        if self._loop is not None:
            raise StateError("this Executor serves already; give each server one of its own")
        self._begin(intake.crew).run(intake)

    def dispatch(self, job: Job) -> None:
        """Serve ``job`` in a loop on a thread of its own, made with the first."""
        (self._loop or self._begin(job.crew)).give(job)

    def _begin(self, crew: Crew) -> RemoteLoop:
        self._desk = desk = _Desk(self)
        desk.start(self._handler)
        limits = Limits(crew.deadlines, self.high_water)
        self._loop = RemoteLoop(desk, limits, self.max_in_flight, self.pipeline)
        return self._loop

    def join(self, deadline: Deadline) -> bool:
        """Serve on until every message is answered and every connection has ended, or until ``deadline``."""
        return self._loop is None or self._loop.join(deadline)

    def cancel(self) -> None:
        """Cancel what was not begun, and end every connection."""
        if self._loop is not None:
            self._loop.cancel()

    def close(self) -> None:
        """Give the descriptors back, and end the pool if it is ours."""
        loop, self._loop = self._loop, None
        desk, self._desk = self._desk, None
        if loop is not None:
            loop.close()
        if desk is not None:
            desk.close(force=loop is not None and loop.outstanding)


class _Desk:
    """The pool in use: a `~tricorn.remote_loop.Carrier`."""

    def __init__(self, options: Executor) -> None:
        self.failure: BaseException | None = None
        self.shares_descriptors = False
        given = options.pool
        self._pool: futures.Executor | None = given if isinstance(given, futures.Executor) else None
        self._make: Callable[[], Any] | None = None
        if self._pool is None:
            self._make = given if given is not None else lambda: _MAKERS[options.kind](options.workers)  # type: ignore[assignment]
        #: How many workers a pool of our own kind has.
        self._own = options.workers if given is None else 0
        #: Those that we made and have to end.
        self._made: list[Any] = []

    def start(self, handler: Any) -> None:
        """Make the pool, and give it something to do: one that is broken or shut down says so now."""
        pool = self._pool or self._make_pool()
        self._check_fork(pool)
        if handler is not None:
            self.admit(handler)
        try:
            self._wake(pool)
        except RuntimeError as error:
            raise self._unusable(error) from error

    def _wake(self, pool: futures.Executor) -> None:
        """Have its processes started, where they are ours out of reach of Ctrl-C: that is the parent's business."""
        mask = getattr(signal, "pthread_sigmask", None) if self._own else None
        before = mask(signal.SIG_BLOCK, {signal.SIGINT}) if mask is not None else None
        try:
            for _ in range(self._own or 1):
                pool.submit(os.getpid)
        finally:
            if mask is not None:
                mask(signal.SIG_SETMASK, before)

    def _make_pool(self) -> Any:
        assert self._make is not None
        pool = self._make()
        if not isinstance(pool, futures.Executor):
            raise ConfigurationError(f"Executor: {self._make!r} made {pool!r}, which is no concurrent.futures.Executor")
        self._made.append(pool)
        self._pool = pool
        return pool

    def _check_fork(self, pool: Any) -> None:
        context = getattr(pool, "_mp_context", None)
        if context is not None and context.get_start_method() == "fork":
            self.shares_descriptors = True
            if not pool._processes:
                refuse_if_threaded("Executor with a pool whose processes are forked")

    def admit(self, handler: Any) -> Any:
        """The handler itself for threads, else bytes."""
        refuse_state(handler, "Executor")
        return _sendable(handler, self._pool)

    def carry(self, handler: Any, message: Any, origin: Origin, context: Context) -> futures.Future[Answer]:
        """Submit it; on a pool that broke meanwhile and can be made again, make it again."""
        try:
            return self._submit(handler, message, origin, context)
        except RuntimeError as error:
            if not _is_over(error):
                raise
            if self._make is None:
                self.failure = failure = self._unusable(error)
                raise failure from error
        self._renew()
        return self._submit(handler, message, origin, context)

    def _submit(self, handler: Any, message: Any, origin: Origin, context: Context) -> futures.Future[Answer]:
        pool: Any = self._pool
        if isinstance(handler, bytes):
            return pool.submit(work, handler, message, origin)  # type: ignore[no-any-return]
        return pool.submit(context.copy().run, work, handler, message, origin)  # type: ignore[no-any-return]

    def _renew(self) -> None:
        """Nothing that the old one had is begun again: its futures say that it is lost."""
        old = self._made.pop()
        _end_pool(old, force=True, wait=False)
        try:
            pool = self._make_pool()
            self._check_fork(pool)
            self._wake(pool)
        except Exception as error:
            self.failure = error
            raise

    def translate(self, error: BaseException) -> BaseException:
        """A worker that was lost, or a pool that was shut down with messages in it."""
        if isinstance(error, futures.BrokenExecutor):
            if self._make is None:
                self.failure = self._unusable(error)
            return WorkerLost(f"the worker that may have had this message was lost: {error}")
        if isinstance(error, futures.CancelledError):
            return WorkerLost("the pool was shut down before this message was worked on")
        return error

    def _unusable(self, error: BaseException) -> Exception:
        words = f"the pool of this Executor cannot be used any more ({error})"
        if isinstance(error, futures.BrokenExecutor):
            return WorkerLost(f"{words}; give a callable that makes one, to have it replaced: Executor(lambda: ...)")
        return StateError(f"{words}; shut it down after the server, or give a callable that makes one")

    def close(self, *, force: bool) -> None:
        """End the pools that we made; ``force``: some of their work is still going on."""
        for pool in self._made:
            _end_pool(pool, force=force, wait=True)
        self._made.clear()
        self._pool = None


def _is_over(error: RuntimeError) -> bool:
    """What `submit` raised says that the pool is broken, or shut down, and not that the machine is out of threads."""
    return isinstance(error, futures.BrokenExecutor) or "shutdown" in str(error)


def _check_kind(kind: str) -> None:
    if kind == "loky" and find_spec("loky") is None:
        raise ConfigurationError("Executor(kind='loky') needs the package loky: pip install 'tricorn[loky]'")
    if kind == "interpreter" and not hasattr(futures, "InterpreterPoolExecutor"):
        raise ConfigurationError("Executor(kind='interpreter') needs Python 3.14; use kind='process' or kind='thread'")


def _make_processes(workers: int) -> futures.Executor:
    return futures.ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=attend_parent)


def _make_loky(workers: int) -> Any:
    from loky import ProcessPoolExecutor

    return ProcessPoolExecutor(workers, initializer=attend_parent)


def _make_interpreters(workers: int) -> Any:
    return futures.InterpreterPoolExecutor(workers)  # type: ignore[attr-defined]


_MAKERS: dict[str, Callable[[int], Any]] = {
    "process": _make_processes,
    "thread": lambda workers: futures.ThreadPoolExecutor(workers, thread_name_prefix="tricorn-executor"),
    "loky": _make_loky,
    "interpreter": _make_interpreters,
}


def _sendable(handler: Any, pool: Any) -> Any:
    """``handler`` as the workers of ``pool`` can take it."""
    interpreters = getattr(futures, "InterpreterPoolExecutor", ())
    if isinstance(pool, futures.ThreadPoolExecutor) and not isinstance(pool, interpreters):
        return handler
    plain = isinstance(pool, futures.ProcessPoolExecutor) and not _is_loky(pool)
    if plain or isinstance(pool, interpreters) or find_spec("cloudpickle") is None:
        return packed(handler, type(pool).__name__)
    from cloudpickle import dumps

    return packed(handler, type(pool).__name__, dumps=dumps)


def _is_loky(pool: object) -> bool:
    return any(each.__module__.startswith("loky.") for each in type(pool).__mro__)


def _end_pool(pool: Any, *, force: bool, wait: bool) -> None:
    """Shut ``pool`` down.  ``force``: without its work, as far as it runs in processes, or has not begun."""
    if _is_loky(pool):
        pool.shutdown(wait=wait, kill_workers=force)
        return
    processes = getattr(pool, "_processes", None)
    if force and processes:
        for process in list(processes.values()):
            process.kill()
    pool.shutdown(wait=wait and (processes is not None or not force), cancel_futures=True)
