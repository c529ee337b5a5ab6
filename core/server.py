"""The server: three corners, put together, with one life."""

from __future__ import annotations

import contextvars
import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tricorn.admission import MAX_CONNECTIONS, Admission
from tricorn.arguments import admission_of, by_name, check_seconds, deadlines_of, transports_of
from tricorn.composition import check_authenticator, check_composition
from tricorn.contracts import Dispatcher, Listener, Transport
from tricorn.deadlines import Deadlines
from tricorn.engine import Engine, Plan
from tricorn.errors import ConfigurationError, StateError
from tricorn.events import DrainReport, JobInfo, ReloadFailed, ServerClosed, ServerStarted
from tricorn.handling import ServerView, adapt
from tricorn.ledger import Ledger
from tricorn.lifecycle import Lifecycle, State
from tricorn.observe.log import LogObserver
from tricorn.observe.refusals import RefusalCounter
from tricorn.observers import Observer, Observers
from tricorn.signals import draining_signals, in_handler, keyboard_interrupt, require_main_thread

if TYPE_CHECKING:
    from tricorn.notify import ServiceManager
    from tricorn.privileges import Successor
    from tricorn.server_process import ServerProcess

__all__ = ["DRAIN_TIMEOUT_S", "MAX_CONNECTIONS", "Server"]

#: Default seconds a drain may take: less than the ten after which container runtimes kill.
DRAIN_TIMEOUT_S = 8.0
#: Default seconds for finding out who a peer is.
AUTHENTICATE_TIMEOUT_S = 5.0


class Server:
    """A transport, a dispatcher and a handler, composed; one life from building to closing.

    ::

        with Server(TCP("127.0.0.1", 0), ThreadPool(workers=16), handler) as server:   # bound
            server.start()                                                             # serving
            print(server.address)
        # drained and closed

    ``transport``
        A `~tricorn.contracts.Transport`, a name (``"tcp://127.0.0.1:9999?backlog=1024"``), or a sequence of these:
        one server may listen on several.
    ``dispatcher``
        A `~tricorn.contracts.Dispatcher`, or a name (``"thread-pool?workers=32"``).
    ``handler``
        A request-handler class, a function that takes one request, or a name (``"package.module:name"``).
    ``verify``
        Called with each request on the accepting thread before it is dispatched; false or an exception refuses it.
        Must not block.  Replaces ``verify_request``.
    ``authenticate``
        Called on the worker with each open connection, before the handler; returns who the peer is, for
        ``connection.identity``, or turns it away: see `tricorn.authentication`.
    ``authenticate_timeout``
        Seconds that this may take for one connection; 5 by default, never unlimited.
    ``observers``
        Callables that get the server's events (`tricorn.events`), beside the one that logs.
    ``log``
        False for no log records at all; the default logs failures through ``logging.getLogger("tricorn")``.
    ``max_connections``
        The most requests in flight in one serving process; 10,000 by default, or what the dispatcher can hold.
    ``admission``
        The same and more, in its place: `~tricorn.admission.Admission`, with what a single peer may have, and what
        becomes of those for whom there is no room.
    ``deadlines``
        How long peers may be silent and handlers may work: `~tricorn.deadlines.Deadlines`, with its defaults.
    ``drain_timeout``
        Seconds that running requests get when the server stops; 8 by default, never unlimited.

    ``user``, ``group``
        Who the process becomes at the end of `bind`, by name or number, for good: see `tricorn.privileges`.

    Building one opens, binds and starts nothing.  Raises `~tricorn.errors.ConfigurationError` for parts that are
    wrong or do not fit.  Every method may be called from any thread unless it says otherwise.
    """

    def __init__(
        self,
        transport: Transport | str | Sequence[Transport | str],
        dispatcher: Dispatcher | str,
        handler: Any,
        *,
        verify: Callable[[Any], bool] | None = None,
        authenticate: Callable[[Any], object] | None = None,
        authenticate_timeout: float = AUTHENTICATE_TIMEOUT_S,
        observers: Iterable[Observer] = (),
        log: bool = True,
        max_connections: int = MAX_CONNECTIONS,
        admission: Admission | None = None,
        deadlines: Deadlines | None = None,
        drain_timeout: float = DRAIN_TIMEOUT_S,
        user: str | int | None = None,
        group: str | int | None = None,
    ) -> None:
        self.transports = transports_of(transport)
        self.dispatcher = by_name("dispatcher", dispatcher)
        self.handler = by_name("handler", handler)
        check_composition(self.transports, self.dispatcher, self.handler)
        check_seconds("drain_timeout", drain_timeout)
        if verify is not None and not callable(verify):
            raise ConfigurationError(f"verify is {verify!r}; allowed: a callable that takes one request, or None")
        check_seconds("authenticate_timeout", authenticate_timeout)
        if authenticate is not None:
            check_authenticator(self.transports, self.dispatcher, authenticate)
        self._plan = Plan(
            adapt(self.handler, ServerView(self, self.handler)), contextvars.copy_context(), verify,
            admission_of(admission, max_connections), drain_timeout, authenticate, authenticate_timeout,
            deadlines_of(deadlines),
        )  # fmt: skip
        self._successor = _successor(user, group, self.transports)
        self._refusals = RefusalCounter()
        self._observers = Observers([self._refusals, *([LogObserver()] if log else []), *observers])
        self._life = Lifecycle()
        self._engine: Engine | None = None
        self._addresses: tuple[object, ...] = ()
        self._manager: ServiceManager | None = None
        self._thread: threading.Thread | None = None
        self._process: ServerProcess | None = None
        self._stop_early = False
        self._report: DrainReport | None = None

    # -- what it is

    @property
    def state(self) -> State:
        """Where it is in its life: new, bound, serving, draining, closed."""
        state = self._life.state
        stopping = self._engine is not None and self._engine.stopping
        return State.DRAINING if state is State.SERVING and stopping else state

    @property
    def address(self) -> Any:
        """The first listener's address: ``(host, port)`` and more for IPv6, or a path.

        Raises `~tricorn.errors.StateError` before it is bound; stays known after it is closed.
        """
        return self.addresses[0]

    @property
    def addresses(self) -> tuple[Any, ...]:
        """The addresses of all listeners, in the order of the transports."""
        if not self._addresses:
            raise StateError("the server has no address yet: bind() it first, or use it as a context manager")
        return self._addresses

    @property
    def report(self) -> DrainReport | None:
        """How it ended; ``None`` until then."""
        return self._report

    def jobs(self, *, stacks: bool = False) -> tuple[JobInfo, ...]:
        """What is in flight: peer, age, stage and where, oldest first; ``stacks=True`` adds threads' stacks."""
        if self._process is not None:
            return self._process.jobs(stacks=stacks)
        return self._engine.service.ledger.in_flight(stacks=stacks) if self._engine is not None else ()

    def refusals(self) -> dict[str, int]:
        """How many requests were turned away until now, or made to give way, by the reason in words.

        Those of worker processes are counted in as they are told.  A handshake or a message that failed goes by the
        name of its error.  Of more than 64 reasons the rest are "other".
        """
        return self._refusals.counts()

    def __repr__(self) -> str:
        parts = ", ".join(map(repr, self.transports))
        return f"<Server {parts} | {self.dispatcher!r} | {self.handler!r}: {self.state.value}>"

    # -- beginning

    def bind(self) -> None:
        """Listen on every transport, and become ``user``; clients can connect and wait in the backlog.

        Raises `ListenError` or `PrivilegeError` (`tricorn.errors`), everything closed again.  May block for look-ups.
        """
        self._life.advance(State.BOUND, doing="bind", only_from=State.NEW)
        with ExitStack() as undo:
            undo.callback(self._life.try_advance, State.CLOSED)
            identity = None if self._successor is None else self._successor.find()
            listeners: list[Listener] = []
            for transport in self.transports:
                for listener in transport.listen():
                    undo.callback(listener.close)
                    listeners.append(listener)
            if identity is not None:
                identity.assume()
            undo.pop_all()
        self._addresses = tuple(listener.address for listener in listeners)
        self._engine = Engine(self.dispatcher, self._plan, Ledger(self._observers), listeners)
        if self._stop_early:
            self._engine.request_stop()

    def serve_forever(self, *, signals: bool = False) -> DrainReport:
        """Serve in this thread until asked to stop, drain, close, and return how it went.

        ``signals=True`` (main thread only): SIGTERM and SIGINT drain, a second one closes now, SIGHUP reloads, and the
        previous handlers come back at the end; the service manager of NOTIFY_SOCKET is told: `tricorn.notify`.  Raises
        `~tricorn.errors.StateError` if it serves already or has served.
        """
        if signals:
            require_main_thread()
        if self.state is State.NEW:
            self.bind()
        engine = self._engine_now("serve")
        self._life.advance(State.SERVING, doing="serve")
        guard = draining_signals(engine, reload=self._reload_by_signal) if signals else keyboard_interrupt(engine)
        if not signals or "NOTIFY_SOCKET" not in os.environ:
            with guard:
                return self._serve(engine)
        from tricorn.notify import notified

        with guard, notified(engine, self._observers) as self._manager:
            return self._serve(engine)

    def _serve(self, engine: Engine) -> DrainReport:
        self._observers.refresh()
        self._observers.tell(ServerStarted(self._addresses, os.getpid()))
        try:
            return engine.run()
        finally:
            self._closed(engine)

    def _closed(self, engine: Engine) -> None:
        self._report = engine.report
        if self._life.try_advance(State.CLOSED) and self._report is not None:
            self._observers.tell(ServerClosed(self._report))

    def start(self) -> None:
        """Serve in a background thread; returns once clients can reach the server.

        The thread is a daemon: a program that forgets to stop it still ends.  A dispatcher that forks serves in a
        single-threaded process of its own instead, made here, which is why there must be no other thread yet.
        """
        if self.state is State.NEW:
            self.bind()
        engine = self._engine_now("start")
        self._life.advance(State.SERVING, doing="start")
        if self.dispatcher.forks:
            self._start_process(engine)
            return
        self._thread = threading.Thread(target=self._serve, args=(engine,), name="tricorn-serve", daemon=True)
        self._thread.start()

    def _start_process(self, engine: Engine) -> None:
        from tricorn.server_process import launch

        def serve(observers: Observers) -> None:
            self._process = None
            self._observers = engine.service.ledger.observers = observers
            self._serve(engine)

        try:
            what = f"{type(self.dispatcher).__name__}: start()"
            self._process = launch(what, engine, serve, self._observers, self._process_ended)
        except BaseException:
            engine.end()
            self._life.try_advance(State.CLOSED)
            raise

    def _process_ended(self, report: DrainReport) -> None:
        self._report = report
        self._life.try_advance(State.CLOSED)

    def handle_request(self, timeout: float | None = None) -> bool:
        """Take one request, give it to the dispatcher, and return True; False if none came in ``timeout`` seconds.

        Under `Sync` it is served when this returns; under the others it may still be running.
        """
        if timeout is not None:
            check_seconds("timeout", timeout)
        if self.state is State.NEW:
            self.bind()
        engine = self._engine_now("handle a request")
        if type(self.dispatcher).dispatch is Dispatcher.dispatch:
            raise StateError(
                f"{type(self.dispatcher).__name__} takes no single requests; use serve_forever() or start()"
            )
        self._life.advance(State.SERVING, doing="handle a request")
        try:
            return engine.handle_one(timeout)
        finally:
            self._life.try_advance(State.BOUND)
            if engine.stopping and self._life.try_advance(State.DRAINING, only_from=State.BOUND):
                engine.end()  # somebody drains, and waits for who serves to end it
                self._closed(engine)

    def _engine_now(self, doing: str) -> Engine:
        if self._engine is None:
            raise StateError(f"cannot {doing}: the server is {self.state.value}; build a new one from the same parts")
        return self._engine

    def reload(self) -> None:
        """Read certificates again, for connections accepted from now on; open ones go on with what they have.
        A dispatcher with worker processes replaces them, one after the other, and refuses nobody meanwhile.

        Reaches the processes that serve for this one too; each of those reads the files before its next connection.
        Raises `~tricorn.errors.ConfigurationError` if one of the transports cannot use what it finds: it goes on with
        what it had, the others have theirs new.  Does nothing for transports that read nothing, and before `bind`
        nothing needs it.  Safe from any thread, and in a signal handler.
        """
        failures = []
        with nullcontext() if self._manager is None else self._manager.while_reloading():
            for listener in self._engine_now("reload").listeners:
                try:
                    listener.reload()
                except ConfigurationError as error:
                    failures.append(error)
        if self._process is not None:
            self._process.reload()
        else:
            self.dispatcher.reload()
        if failures:
            raise failures[0]

    def _reload_by_signal(self) -> None:
        """SIGHUP.  What fails is told, and the server goes on."""
        try:
            self.reload()
        except Exception as error:
            self._observers.tell(ReloadFailed(error))

    # -- ending

    def request_stop(self) -> None:
        """Ask it to stop, and return at once.

        Safe anywhere: a handler (in a child process, too), a signal handler, any thread, before the start, twice.
        """
        self._stop_early = True
        if self._engine is not None:
            self._engine.request_stop()

    def drain(self, timeout: float | None = None) -> DrainReport:
        """Stop accepting, end idle connections, wait for running requests until ``timeout``, then cancel them.

        ``timeout`` in seconds, ``drain_timeout`` by default.  Returns when the server is closed, with the report; a
        second call returns the same.  Raises `~tricorn.errors.StateError` from inside a handler, which would wait for
        itself: use `request_stop` there.
        """
        if timeout is not None:
            check_seconds("timeout", timeout)
        if self._report is not None:
            return self._report
        if self._engine is None:
            self._life.try_advance(State.CLOSED)
            self._report = DrainReport(0.0)
            return self._report
        return self._drain(self._engine, timeout)

    def _drain(self, engine: Engine, timeout: float | None) -> DrainReport:
        if in_handler(sys._getframe()):
            raise StateError("drain() waits for running requests, and this is one: call request_stop() instead")
        if self._process is not None:
            return self._process.drain(self._plan.drain_timeout if timeout is None else timeout)
        engine.limit(timeout)
        engine.request_stop()
        if self._life.try_advance(State.DRAINING, only_from=State.BOUND):
            engine.end()
            self._closed(engine)
        report = engine.wait_done(timeout)
        if self._thread is not None and not engine.serving:
            self._thread.join()
        self._closed(engine)
        return report

    def close(self) -> None:
        """End now: a drain with no time.  What runs is cut off.  Does nothing on a closed server."""
        self.drain(0)

    def __enter__(self) -> Server:
        if self.state is State.NEW:
            self.bind()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.drain()


def _successor(user: str | int | None, group: str | int | None, transports: Sequence[Transport]) -> Successor | None:
    if user is None and group is None:
        return None
    from tricorn.privileges import Successor

    return Successor(user, group, transports)
