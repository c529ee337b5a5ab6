"""A legacy server's requests, on their way to a composed dispatcher."""

from __future__ import annotations

import contextvars
import socket as _sockets
import threading
from _thread import get_ident
from collections import deque
from typing import Any

from attrs import define

from tricorn.admission import Admission
from tricorn.connection import Connection
from tricorn.contracts import Dispatcher, Kind, Listener
from tricorn.datagram import Datagram
from tricorn.deadline import Deadline
from tricorn.engine import Engine, Plan
from tricorn.events import Status
from tricorn.job import ServedJob
from tricorn.ledger import Ledger
from tricorn.observers import Observers
from tricorn.peer_socket import kernel_shutdown
from tricorn.wakeup import WakeUp

__all__ = ["Carrier"]

#: Seconds that ``server_close`` gives to requests that are still served.
DRAIN_TIMEOUT_S = 8.0
MAX_REQUESTS = 10_000


@define(eq=False)
class _Held:
    """A request as ``get_request`` returned it, in the shape that a job needs."""

    #: What the server's own methods are called with.
    held: Any
    peer: Any
    kind: Kind
    socket: Any = None
    local: object = None
    fault: BaseException | None = None

    def open(self, deadline: Deadline) -> None:
        """Nothing: old handlers do it themselves."""

    def finish(self, error: BaseException | None) -> None:
        """Nothing: the server's own ``shutdown_request`` was called."""

    def drain(self) -> None:
        """Nothing: old handlers have no notion of it."""

    def abort(self) -> None:
        """Cut a conversation off."""
        fd = self.socket.fileno() if self.kind is Kind.STREAM else -1
        if fd >= 0:
            kernel_shutdown(fd, _sockets.SHUT_RDWR)

    def disown(self) -> None:
        """Another process has it."""
        if self.kind is Kind.STREAM:
            self.socket.close()


class _HeldConnection(Connection):
    """A plain connection, for loops that put its descriptor into a socket class of their own."""

    def finish(self, error: BaseException | None) -> None:
        """Nothing: the server's own ``shutdown_request`` was called, and may have kept it open on purpose."""


def _hold(request: Any, client_address: Any) -> Any:
    if type(request) is _sockets.socket:
        return _HeldConnection(request, client_address)
    if isinstance(request, _sockets.socket):
        return _Held(request, client_address, Kind.STREAM, request)
    if isinstance(request, tuple) and len(request) == 2 and isinstance(request[1], _sockets.socket):
        data, sock = request
        return Datagram(data, client_address, sock)
    return _Held(request, client_address, Kind.ITEM)


def _held_in(request: Any) -> Any:
    """What the server's own methods are called with; in a worker process it is made anew."""
    if isinstance(request, _Held):
        return request.held
    return (request.data, request.socket) if request.kind is Kind.DATAGRAM else request.socket


def _serving(server: Any) -> Any:
    def serve(request: Any) -> None:
        held = _held_in(request)
        try:
            server.finish_request(held, request.peer)
        except Exception:
            server.handle_error(held, request.peer)
        finally:
            server.shutdown_request(held)

    return serve


class _Feed(Listener):
    """Requests that another thread accepted, as a listener for a dispatcher that serves an intake."""

    kind = Kind.STREAM
    address = None

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._requests: deque[Any] = deque()
        self._changed = threading.Condition()
        self._wakeup = WakeUp()

    def put(self, request: Any) -> None:
        """Hand one over; blocks while ``limit`` wait.  Raises `OSError` once it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._requests) < self._limit or self.fileno() < 0)
            if self.fileno() < 0:
                raise OSError("the dispatcher serves no more")
            self._requests.append(request)
            self._wakeup.signal()

    def accept(self) -> Any:
        with self._changed:
            if not self._requests:
                self._wakeup.clear()
                raise BlockingIOError
            self._changed.notify_all()
            return self._requests.popleft()

    def wait_empty(self, deadline: Deadline) -> None:
        """Block until everything was taken, or it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: not self._requests or self.fileno() < 0, deadline.remaining())

    def take_rest(self) -> list[Any]:
        """What nobody took."""
        rest = list(self._requests)
        self._requests.clear()
        return rest

    def fileno(self) -> int:
        number: int = self._wakeup.fileno()
        return number

    def close(self) -> None:
        with self._changed:
            self._wakeup.close()
            self._changed.notify_all()


class Carrier:
    """One old server's dispatcher at work.

    One that takes single jobs is ``fed`` them by the serving thread.  One that only serves an intake (an event loop)
    gets a thread of its own, and finds them there.
    """

    def __init__(self, server: Any, dispatcher: Dispatcher, *, fed: bool) -> None:
        self._server = server
        plan = Plan(_serving(server), contextvars.copy_context(), None, Admission(MAX_REQUESTS), DRAIN_TIMEOUT_S)
        self._feed = None if fed else _Feed(dispatcher.concurrency or MAX_REQUESTS)
        self._engine = Engine(dispatcher, plan, Ledger(Observers()), (self._feed,) if self._feed else ())
        self._thread: threading.Thread | None = None
        if self._feed is not None:
            self._thread = threading.Thread(target=self._engine.run, name="tricorn-dispatcher", daemon=True)
            self._thread.start()
        self._changed = threading.Condition()
        #: The threads that are handing a request over now.
        self._givers: list[int] = []
        self.ended = False
        #: `end` was called by a handler that runs inside `take`: it cannot wait for itself.
        self._postponed = False

    def take(self, request: Any, client_address: Any) -> None:
        """Give one request to the dispatcher; blocks while that is full.  After `end` it is only closed."""
        with self._changed:
            ended = self.ended
            if not ended:
                self._givers.append(get_ident())
        if ended:
            self._server.shutdown_request(request)
            return
        try:
            self._give(_hold(request, client_address))
        finally:
            with self._changed:
                self._givers.remove(get_ident())
                self._changed.notify_all()
                last = self._postponed and not self._givers
            if last:
                self._wind_down(Deadline.after(DRAIN_TIMEOUT_S))

    def _give(self, request: Any) -> None:
        if self._feed is not None:
            self._feed.put(request)
            return
        job = ServedJob(request, self._engine.service)
        job.service.ledger.open(job)
        try:
            self._engine.dispatcher.dispatch(job)
        except BaseException as error:
            job.record(Status.REFUSED, error)
            raise

    def end(self) -> None:
        """Wait for what is still served, up to `DRAIN_TIMEOUT_S`, then cut it off."""
        deadline = Deadline.after(DRAIN_TIMEOUT_S)
        with self._changed:
            self.ended = True
            if get_ident() in self._givers:
                self._postponed = True
                return
            self._changed.wait_for(lambda: not self._givers, deadline.remaining())
        self._wind_down(deadline)

    def _wind_down(self, deadline: Deadline) -> None:
        if self._feed is None:
            self._engine.limit(deadline.remaining())
            self._engine.end()
            return
        assert self._thread is not None
        self._feed.wait_empty(deadline)
        self._engine.limit(deadline.remaining())
        self._engine.request_stop()
        self._engine.wait_done(deadline.remaining())
        self._thread.join(1.0)
        for request in self._feed.take_rest():
            self._server.shutdown_request(_held_in(request))
