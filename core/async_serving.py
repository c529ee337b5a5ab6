"""One asyncio loop that serves an intake, from its first turn to its last."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import Context
from functools import partial
from time import monotonic
from typing import Any

from tricorn.async_connection import AsyncConnection, AsyncDatagram, serve_item
from tricorn.async_link import Link, enter_loop, reach_tls
from tricorn.contracts import Intake, Job, Kind, Shape
from tricorn.deadline import Deadline
from tricorn.loop_watch import LoopWatch
from tricorn.message_link import MessageLink, answer_packet
from tricorn.peer_socket import FRESH_S
from tricorn.stream_link import StreamLink

__all__ = ["AsyncServing"]

#: Jobs taken in before the loop looks at the others again.
ACCEPT_BATCH = 64
#: Seconds between two looks at the connections of a server that is stopping.
LOOK_S = 0.05
#: Seconds that a TLS peer gets to take what is unsent when its handler is done.
TLS_SHUTDOWN_S = 30.0
#: Turns of the loop that what was cancelled gets at the very end.
LAST_TURNS = 20
#: Seconds that threads of the loop's executor are waited for at the end.
EXECUTOR_S = 1.0


class AsyncServing:
    """One loop, from its first turn to its last.  Everything but `call` belongs to the serving thread."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, intake: Intake, read_ahead: int, high_water: int,
        blocked_after: float | None,
    ) -> None:  # fmt: skip
        self.loop = loop
        self._intake = intake
        self._read_ahead, self._high_water = read_ahead, high_water
        #: Set when the loop has ended.
        self.done = threading.Event()
        #: What is in flight, by the job's number, and its task if it has one.
        self._jobs: dict[int, tuple[Job, asyncio.Task[None] | None]] = {}
        self._links: dict[int, Link] = {}
        self._shape: Shape | None = None
        self._watch = LoopWatch(blocked_after, self._ask, intake.crew.tell)
        self._failure: BaseException | None = None
        self._next_visit: asyncio.TimerHandle | None = None
        self._limits = intake.crew.deadlines
        self._look_at_clock: asyncio.TimerHandle | None = None
        #: The server is stopping; nothing more comes in; the deadline has passed.
        self._draining = self._stopping = self._cancelled = False

    def call(self, action: Callable[[], object]) -> None:
        """From any thread: do it in the loop, if there still is one."""
        with suppress(RuntimeError):  # closed meanwhile
            self.loop.call_soon_threadsafe(action)

    def run(self) -> None:
        """To the end."""
        loop = self.loop
        executor = ThreadPoolExecutor(thread_name_prefix="tricorn-asyncio")
        loop.set_default_executor(executor)
        try:
            loop.add_reader(self._intake.fileno(), self._take_in)
            self._watch.start()
            loop.run_forever()
        finally:
            try:
                self._tidy_up()
            finally:
                self._watch.stop()
                _shut_down(executor)
                loop.close()
                self.done.set()
        if self._failure is not None:
            raise self._failure

    def _ask(self) -> None:
        self.call(self._watch.answer)

    # -- taking in

    def _take_in(self) -> None:
        intake = self._intake
        try:
            for number in range(ACCEPT_BATCH):
                job = intake.poll(again=number > 0)
                if job is None:
                    self._come_again(intake.patience())
                    break
                self._begin(job)
        except BaseException as error:
            self._failure = error
            self.loop.stop()
            return
        if intake.stopping:
            self._wind_down()

    def _come_again(self, seconds: float | None) -> None:
        """Look at the intake after so many seconds, though it calls for nobody."""
        if self._next_visit is not None:
            self._next_visit.cancel()
            self._next_visit = None
        if seconds is not None and not self._intake.stopped:
            self._next_visit = self.loop.call_later(seconds, self._take_in)

    def _begin(self, job: Job) -> None:
        """Whatever is wrong with it costs this one job."""
        try:
            if self._shape is None:
                self._shape = job.shape
            if job.request.kind is Kind.STREAM:
                self._begin_stream(job)
            elif self._shape is Shape.COROUTINE:
                self._begin_task(job, self._serve_whole(job), job.engage())
            elif job.request.kind is Kind.DATAGRAM:
                self._answer(job)
            else:
                job.run()
        except Exception as error:
            self._end(job, error)

    def _begin_task(self, job: Job, work: Coroutine[Any, Any, None], context: Context) -> None:
        task = self.loop.create_task(work, context=context)
        self._jobs[job.id] = (job, task)
        if self._look_at_clock is None:
            self._mind_the_time()
        task.add_done_callback(partial(self._if_never_begun, job))

    def _if_never_begun(self, job: Job, task: asyncio.Task[None]) -> None:
        """What is cancelled before its first step is not even told."""
        if task.cancelled() and job.id in self._jobs:
            self._cut_short(job, asyncio.CancelledError())

    def _answer(self, job: Job) -> None:
        """A datagram for a message handler: here and now, but for a reply that has to wait for room."""
        context = job.engage()
        error, unsent = answer_packet(job, context)
        if unsent is None:
            self._end(job, error)
            return
        self._begin_task(job, self._send_later(job, unsent, error), context)

    async def _send_later(self, job: Job, reply: bytes, error: BaseException | None) -> None:
        packet: Any = job.request
        try:
            await AsyncDatagram(packet, job.id).reply(reply)
        except BaseException as trouble:
            error = error or trouble
        self._end(job, error)

    async def _serve_whole(self, job: Job) -> None:
        request: Any = job.request
        guard = self.loop.call_later(limit, self._late, job, "request") if (limit := self._limits.request) else None
        try:
            if request.kind is not Kind.ITEM:
                self._end(job, await self._outcome_of(job, AsyncDatagram(request, job.id)))
                return
            await serve_item(job)
        finally:
            if guard is not None:
                guard.cancel()
            self._forget(job)
            self._stop_if_over()

    # -- deadlines

    def _mind_the_time(self) -> None:
        """Cut those that are late; again in a second, or earlier, while there are any."""
        shortest, now = self._limits.shortest, monotonic()
        if shortest is None:
            return
        soonest = now + min(1.0, shortest)
        for number, link in list(self._links.items()):
            found = link.due(now, self._limits)
            if found is None:
                continue
            if found[0] > now:
                soonest = min(soonest, found[0])
            elif number in self._jobs:
                self._late(link.job, found[1])
        pause = max(LOOK_S, soonest - now)
        self._look_at_clock = self.loop.call_later(pause, self._mind_the_time) if self._jobs else None

    def _late(self, job: Job, which: str) -> None:
        job.late(which)
        _, task = self._jobs.get(job.id, (job, None))
        link = self._links.get(job.id)
        if link is not None:
            link.abort()
        if task is not None and which == "request":
            task.cancel()

    # -- streams

    def _begin_stream(self, job: Job) -> None:
        context = job.engage()
        self._begin_task(job, self._serve_stream(job, context), context)

    def _link(self, job: Job, context: Context) -> Link:
        connection: Any = job.request
        enter_loop(connection)
        if self._shape is Shape.MESSAGE:
            return MessageLink(job, self._ended, context, self._high_water)
        return StreamLink(job, self._ended, self._read_ahead, self._high_water)

    async def _serve_stream(self, job: Job, context: Context) -> None:
        link: Link | None = None
        connection: Any = job.request
        try:
            await reach_tls(connection)
            link = self._link(job, context)
            await self._open(link)
        except BaseException as error:
            if link is not None:
                link.forget()
            self.loop.call_soon(self._cut_short, job, error)
            return
        if link.over and link.gone:  # the whole conversation was over before we were told of its beginning
            return
        self._links[job.id] = link
        if not isinstance(link, StreamLink):
            self._jobs[job.id] = (job, None)
            return
        if not link.over:
            link.finish(await self._outcome_of(job, AsyncConnection(link)))

    async def _outcome_of(self, job: Job, request: object) -> BaseException | None:
        try:
            await job.handle(request)
        except BaseException as error:
            return error
        return None

    async def _open(self, link: Link) -> None:
        connection = link.connection
        try:
            if connection.tls is None:
                await self.loop.connect_accepted_socket(lambda: link, link.sock)
                return
            patience = connection.handshake_timeout
            async with asyncio.timeout(patience):
                await self.loop.connect_accepted_socket(
                    lambda: link, link.sock, ssl=connection.tls,
                    ssl_handshake_timeout=2 * patience, ssl_shutdown_timeout=TLS_SHUTDOWN_S,
                )  # fmt: skip
        except OSError as error:
            if connection.tls is not None:
                raise connection.opening_failed(error) from error
            link.sock.fault = error  # reset before we looked
            raise

    def _cut_short(self, job: Job, error: BaseException) -> None:
        """It did not get as far as the handler."""
        if isinstance(error, asyncio.CancelledError) and not self._cancelled:
            self._forget(job)
            job.refuse("the server stopped before it was open")
            self._stop_if_over()
        else:
            self._end(job, error)

    # -- ending

    def _ended(self, link: Link) -> None:
        self._end(link.job, link.error)

    def _end(self, job: Job, error: BaseException | None) -> None:
        self._forget(job)
        job.end(error)
        self._stop_if_over()

    def _forget(self, job: Job) -> None:
        self._jobs.pop(job.id, None)
        self._links.pop(job.id, None)

    def _stop_if_over(self) -> None:
        if self._stopping and not self._jobs:
            self.loop.stop()

    def _wind_down(self) -> None:
        """The server is stopping: end those that are idle, and take in what the kernel has queued; then no more."""
        if not self._draining:
            self._draining = True
            self._look()
        if self._intake.stopped and not self._stopping:
            self._stopping = True
            self._come_again(None)
            self.loop.remove_reader(self._intake.fileno())
            self._intake.crew.hang_up()
            self._stop_if_over()

    def _look(self) -> None:
        now = monotonic()
        for link in list(self._links.values()):
            if now - link.added >= FRESH_S:  # else it has just connected, and is about to send
                link.look(now)
        for number, (job, task) in list(self._jobs.items()):
            connection: Any = job.request
            if task is not None and number not in self._links and _opens_slowly(connection):
                task.cancel()  # in its handshake
        self.loop.call_later(LOOK_S, self._look)

    def cancel(self) -> None:
        """The deadline has passed."""
        self._cancelled = True
        for number, (_, task) in list(self._jobs.items()):
            if task is not None:
                task.cancel()
            if number in self._links:
                self._links[number].abort()

    def _tidy_up(self) -> None:
        """What is still there was abandoned, left behind by a handler, or the loop is broken: let go of it."""
        loop = self.loop
        self.cancel()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        for _ in range(LAST_TURNS):
            if not (self._jobs or asyncio.all_tasks(loop)):
                break
            self._turn()
        loop.run_until_complete(loop.shutdown_asyncgens())
        for task in asyncio.all_tasks(loop):
            _drop(task)
        for job, _ in list(self._jobs.values()):
            self._forget(job)
            with suppress(Exception):
                job.end(ConnectionAbortedError("the server's loop has ended"))

    def _turn(self) -> None:
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()


def _opens_slowly(request: Any) -> bool:
    return getattr(request, "tls", None) is not None or getattr(request, "open_until", None) is not None


def _drop(task: asyncio.Task[Any]) -> None:
    """It refuses to be cancelled: close its coroutine, and let nobody complain that it is not done."""
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    with suppress(BaseException):
        task.get_coro().close()


def _shut_down(executor: ThreadPoolExecutor) -> None:
    executor.shutdown(wait=False, cancel_futures=True)
    deadline = Deadline.after(EXECUTOR_S)
    for thread in list(executor._threads):
        thread.join(deadline.remaining())
