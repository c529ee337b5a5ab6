"""Message handlers on a cluster of `distributed` (dask)."""

from __future__ import annotations

import asyncio
import itertools
from concurrent.futures import Future
from contextvars import Context
from importlib.util import find_spec
from threading import Thread
from typing import Any, ClassVar

from attrs import define, field

from tricorn.checks import refuse_option, seconds, whole_number
from tricorn.contracts import Crew, Dispatcher, Intake, Job, Shape
from tricorn.deadline import Deadline
from tricorn.errors import ConfigurationError, ConnectionLost, IncompatibleParts, StateError, WorkerLost
from tricorn.peer_table import Limits
from tricorn.remote_loop import RemoteLoop
from tricorn.remote_messages import Answer, Origin, packed, refuse_state, work

__all__ = ["Dask", "work_once"]

#: Seconds after which the list of workers is read a second time: by then the scheduler tells us of every change.
SECOND_LOOK_S = 1.0
#: Tickets that a worker remembers, so as to work on none twice.
REMEMBERED = 65_536
#: Seconds that closing the client may take.
CLOSE_S = 5.0


@define(eq=False)
class Dask(Dispatcher):
    """Messages are answered by the workers of a dask cluster: the bytes travel, the socket stays.

    ``address``: the scheduler's, such as ``tcp://10.0.0.5:8786``; by name ``dask?address=tcp://10.0.0.5:8786``.  One
    loop holds every connection, as with `~tricorn.strategies.Executor`, which this is in all else.  The workers need
    Tricorn, and the handler under its name, or else by its code, which goes with it.

    A message is given to one worker, the one with the least of ours for its threads, and to no other: left to itself
    the scheduler begins a task again, up to three times, when the worker dies.  If the worker is lost after
    it may have begun, the message is given to another one at most ``retries`` times, 0 by default: then the connection
    ends as LOST.  A message that certainly never reached the worker is simply given to another one.  So a reply comes
    once, or the connection ends with an error; with ``retries`` the handler may run more than once for it.  While
    there are no workers, messages wait for one.

    ``connect_timeout``: seconds to reach the scheduler.  `~tricorn.errors.ConnectionLost` is raised by serving where it
    is not there then, and when it goes later.  ``max_in_flight``: messages at once, 128 by default; beyond that,
    connections are not read.  ``pipeline``: messages of one peer at once; 1 by default.

    Needs the extra ``dask``.  TLS and the like are read from dask's own configuration.
    """

    shapes: ClassVar[frozenset[Shape]] = frozenset({Shape.MESSAGE})
    needs_descriptors: ClassVar[bool] = True
    minds_deadlines: ClassVar[bool] = True
    instead: ClassVar[str] = "a message handler (tricorn.handlers.message), or ProcessPool (process-pool)"

    address: str = field(metadata={"help": "the scheduler's, such as tcp://10.0.0.5:8786"})
    retries: int = field(
        default=0, kw_only=True, validator=whole_number(0), metadata={"help": "times to work on it again after a loss"}
    )
    connect_timeout: float = field(
        default=10.0, kw_only=True, validator=seconds, metadata={"help": "seconds to reach the scheduler"}
    )
    max_in_flight: int = field(
        default=128, kw_only=True, validator=whole_number(1), metadata={"help": "messages at once"}
    )
    pipeline: int = field(
        default=1, kw_only=True, validator=whole_number(1), metadata={"help": "messages of one peer at once"}
    )
    high_water: int = field(
        default=262_144, kw_only=True, validator=whole_number(0), metadata={"help": "bytes of output kept for a peer"}
    )
    _cluster: _Cluster | None = field(default=None, init=False, repr=False)
    _loop: RemoteLoop | None = field(default=None, init=False, repr=False)

    @address.validator
    def _is_an_address(self, attribute: object, value: object) -> None:
        if not isinstance(value, str) or not value:
            refuse_option(self, "address", value, "a scheduler's address, such as 'tcp://127.0.0.1:8786'")

    def __attrs_post_init__(self) -> None:
        if find_spec("distributed") is None:
            raise ConfigurationError("Dask needs the package distributed: pip install 'tricorn[dask]'")

    def misfit(self, handler: object) -> str:
        """One that wants ``state``, or cannot be sent to another process."""
        try:
            _sendable(handler)
        except IncompatibleParts as error:
            return str(error)
        return ""

    def serve(self, intake: Intake) -> None:
        """Connect to the scheduler, then run the loop until the intake ends.

        Raises `~tricorn.errors.ConnectionLost` where the scheduler cannot be reached, or is lost.
        """
        if self._loop is not None:
            raise StateError("this Dask serves already; give each server one of its own")
        self._begin(intake.crew).run(intake)

    def dispatch(self, job: Job) -> None:
        """Serve ``job`` in a loop on a thread of its own, made with the first."""
        (self._loop or self._begin(job.crew)).give(job)

    def _begin(self, crew: Crew) -> RemoteLoop:
        self._cluster = cluster = _Cluster(self.address, self.connect_timeout, self.retries)
        limits = Limits(crew.deadlines, self.high_water)
        self._loop = RemoteLoop(cluster, limits, self.max_in_flight, self.pipeline)
        return self._loop

    def join(self, deadline: Deadline) -> bool:
        """Serve on until every message is answered and every connection has ended, or until ``deadline``."""
        return self._loop is None or self._loop.join(deadline)

    def cancel(self) -> None:
        """Give up what is worked on, and end every connection."""
        if self._loop is not None:
            self._loop.cancel()

    def close(self) -> None:
        """Leave the cluster, which forgets what we still had there, and give the descriptors back."""
        loop, self._loop = self._loop, None
        cluster, self._cluster = self._cluster, None
        if loop is not None:
            loop.close()
        if cluster is not None:
            cluster.close()


def _sendable(handler: Any) -> bytes:
    from cloudpickle import dumps

    refuse_state(handler, "Dask")
    return packed(handler, "Dask", dumps=dumps)


# -- on a worker

_begun: dict[str, None] = {}


def work_once(ticket: str, place: str, handler: bytes, message: Any, origin: Origin) -> Answer | None:
    """Answer one message, if this is the worker that it was given to (``None`` if not), and if it was not begun before.

    A scheduler that has lost a result has its task done again; that would be the second time.
    """
    from distributed import get_worker

    if get_worker().local_directory != place:
        return None
    if ticket in _begun:
        return Answer(b"", WorkerLost("the reply was lost between the worker and us"))
    _begun[ticket] = None
    if len(_begun) > REMEMBERED:
        del _begun[next(iter(_begun))]
    return work(handler, message, origin)


# -- here


@define(eq=False)
class _Worker:
    """One process of the cluster.  ``place`` is its folder, which no other process has, not even its successor."""

    address: str
    place: str
    threads: int
    #: Done when it is gone, with the keys of tasks that it may have begun; ``None`` if nobody knows.
    gone: asyncio.Future[frozenset[str] | None]
    load: int = 0


class _Cluster:
    """The client's side of a cluster: a `~tricorn.remote_loop.Carrier`.

    Everything asynchronous runs in the client's own loop, on its thread.
    """

    shares_descriptors = False

    def __init__(self, address: str, timeout: float, retries: int) -> None:
        self.failure: BaseException | None = None
        self._address = address
        self._retries = retries
        self._workers: dict[str, _Worker] = {}
        self._client: Any = None
        self._second_look: asyncio.TimerHandle | None = None
        self._asyncio = asyncio.new_event_loop()
        self._thread = Thread(target=self._asyncio.run_forever, name="tricorn-dask", daemon=True)
        self._thread.start()
        try:
            self._call(self._begin(timeout)).result()
        except BaseException:
            self.close()
            raise

    def _call(self, coroutine: Any) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._asyncio)

    def _lost(self, error: object) -> ConnectionLost:
        return ConnectionLost(f"the dask scheduler at {self._address} was lost: {error}")

    # -- the workers

    async def _begin(self, patience: float) -> None:
        self._arrival = asyncio.Event()
        self._client = await _connected(self._address, patience)
        self._connection = self._client.scheduler_comm
        self._numbers = itertools.count()
        self._client.subscribe_topic("all", self._hear)
        try:
            await asyncio.wait_for(self._look(), patience)
        except (OSError, TimeoutError) as error:
            raise self._lost(str(error) or "it does not answer") from error
        self._second_look = self._asyncio.call_later(SECOND_LOOK_S, self._look_soon)

    def _look_soon(self) -> None:
        self._looking = self._asyncio.create_task(self._look_again())

    async def _look_again(self) -> None:
        try:
            await self._look()
        except Exception:
            pass  # the scheduler has gone; who submits next will see

    async def _hear(self, event: Any) -> None:
        """The scheduler tells of a worker that came or went, among other things."""
        _, words = event
        action = words.get("action") if isinstance(words, dict) else None
        if action == "remove-worker":
            begun = frozenset(words.get("processing-tasks", ())) | frozenset(words.get("lost-computed-tasks", ()))
            self._forget(words["worker"], begun)
        elif action == "add-worker":
            self._look_soon()

    async def _look(self) -> None:
        """Compare our list with the scheduler's."""
        present = (await self._client.scheduler.identity(n_workers=-1))["workers"]
        for address, worker in list(self._workers.items()):
            if address not in present or present[address]["local_directory"] != worker.place:
                self._forget(address, None)
        for address, facts in present.items():
            if address not in self._workers:
                gone = self._asyncio.create_future()
                place = facts["local_directory"]
                self._workers[address] = _Worker(address, place, max(1, facts["nthreads"]), gone)
        if self._workers:
            self._arrival.set()

    def _forget(self, address: str, begun: frozenset[str] | None) -> None:
        worker = self._workers.pop(address, None)
        if worker is not None:
            worker.gone.set_result(begun)
        if not self._workers:
            self._arrival.clear()

    # -- messages

    def admit(self, handler: Any) -> bytes:
        """Its name or its code."""
        return _sendable(handler)

    def carry(self, handler: Any, message: Any, origin: Origin, context: Context) -> Future[Answer]:
        """Give it to a worker."""
        if self._client.scheduler_comm is not self._connection or self._client.status != "running":
            self.failure = failure = self._lost("the connection to it has ended")
            raise failure
        return self._call(self._work(handler, message, origin))

    async def _work(self, handler: bytes, message: Any, origin: Origin) -> Answer:
        again = self._retries
        while True:
            while not self._workers:
                await self._arrival.wait()
            worker = min(self._workers.values(), key=lambda each: each.load / each.threads)
            key = f"tricorn-{self._client.id}-{next(self._numbers)}"
            answer = await self._ask(worker, key, handler, message, origin)
            if answer is not None:
                return answer
            begun = worker.gone.result()
            if begun is None or key in begun:
                if not again:
                    raise WorkerLost(f"the dask worker at {worker.address} was lost, and may have begun this message")
                again -= 1

    async def _ask(self, worker: _Worker, key: str, *what: Any) -> Answer | None:
        """Its answer; ``None`` after it is gone."""
        client = self._client
        task = client.submit(
            work_once, key, worker.place, *what,
            key=key, workers=[worker.address], allow_other_workers=False, pure=False,
        )  # fmt: skip
        worker.load += 1
        result = asyncio.ensure_future(client.gather(task))
        result.add_done_callback(_heed)
        try:
            await asyncio.wait({result, worker.gone}, return_when=asyncio.FIRST_COMPLETED)
            answer: Answer | None = result.result() if result.done() else None
            if answer is None:
                await worker.gone  # another process at its address has said that it is not the one
            return answer
        finally:
            worker.load -= 1
            task.release()  # ends `result` too

    def translate(self, error: BaseException) -> BaseException:
        """What the scheduler's errors mean for one message."""
        if isinstance(error, WorkerLost):
            return error
        if self._client.scheduler_comm is not self._connection:
            self.failure = self._lost(error)
        if type(error).__name__ in ("KilledWorker", "FutureCancelledError", "CancelledError", "CommClosedError"):
            return WorkerLost(f"dask gave this message up: {error}")
        return error

    def close(self) -> None:
        """Leave, and end the thread."""
        try:
            self._call(self._leave()).result()
        finally:
            self._asyncio.call_soon_threadsafe(self._asyncio.stop)
            self._thread.join()
            self._asyncio.close()

    async def _leave(self) -> None:
        if self._second_look is not None:
            self._second_look.cancel()
        if self._client is not None:
            await self._client.close(timeout=CLOSE_S)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.wait(others, timeout=CLOSE_S) if others else None


def _heed(done: asyncio.Future[Any]) -> None:
    """Take the result of what nobody waits for any more."""
    if not done.cancelled():
        done.exception()


async def _connected(address: str, patience: float) -> Any:
    import distributed

    client: Any = None
    make: Any = distributed.Client
    try:
        client = make(address, timeout=patience, set_as_default=False, name="tricorn", asynchronous=True)
        return await client
    except (OSError, ValueError, TypeError) as error:  # what it raises for an address that is none
        if client is not None:
            await client.close(timeout=CLOSE_S)
        raise ConnectionLost(
            f"no dask scheduler could be reached at {address} within {patience:g} s: {error}; "
            "start one with 'dask scheduler', or give its address"
        ) from error
