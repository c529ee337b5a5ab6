"""Composed dispatchers for old classes: a mix-in for each that is installed."""

from __future__ import annotations

import contextvars
from typing import Any

import attrs

from tricorn.contracts import Dispatcher, Kind
from tricorn.deadline import Deadline
from tricorn.engine import Engine, Plan
from tricorn.job import ServedJob
from tricorn.ledger import Ledger
from tricorn.legacy.state import state_of
from tricorn.observers import Observers

__all__ = ["make_mix_in"]

#: Seconds that ``server_close`` gives to requests that are still served.
DRAIN_TIMEOUT_S = 8.0
MAX_REQUESTS = 10_000


def make_mix_in(column: str) -> type | None:
    """The mix-in of the dispatcher whose name, in capitals, is ``column`` (``ThreadPool`` for ``thread-pool``).

    Its options are class attributes.  ``None`` if no such dispatcher is installed, or it takes no single requests.
    """
    from tricorn.parts import Corner
    from tricorn.plugins import catalogue

    names = {_capitals(name): name for name in catalogue().names(Corner.DISPATCHER)}
    if column not in names:
        return None
    dispatcher: type[Dispatcher] = catalogue().find(Corner.DISPATCHER, names[column]).load()
    if dispatcher.dispatch is Dispatcher.dispatch or not attrs.has(dispatcher):
        return None
    fields = [each for each in attrs.fields(dispatcher) if each.init]
    namespace: dict[str, Any] = {each.name: _default(each) for each in fields}
    namespace["__doc__"] = f"Serves requests by a `{dispatcher.__name__}`: {', '.join(namespace) or 'no options'}."

    def process_request(self: Any, request: Any, client_address: Any) -> None:
        """Hand the request to the dispatcher."""
        state = state_of(self)
        if state.dispatching is None:
            state.dispatching = _Dispatching(self, dispatcher(**{each.name: getattr(self, each.name) for each in fields}))
        state.dispatching.take(request, client_address)

    def server_close(self: Any) -> None:
        """Close the server, then wait for its requests, but not for ever."""
        super(made, self).server_close()
        state = state_of(self)
        dispatching, state.dispatching = state.dispatching, None
        if dispatching is not None:
            dispatching.end()

    made = type(f"{column}MixIn", (), {**namespace, "process_request": process_request, "server_close": server_close})
    return made


def _capitals(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("-"))


def _default(each: Any) -> Any:
    default = each.default
    return default.factory() if isinstance(default, attrs.Factory) else default  # type: ignore[arg-type]


@attrs.define(eq=False)
class _LegacyRequest:
    """A request as ``get_request`` returned it, in the shape that a job needs."""

    kind: Kind
    socket: Any
    peer: Any
    data: bytes = b""
    local: object = None
    truncated: bool = False
    control: tuple[tuple[int, int, bytes], ...] = ()
    fault: BaseException | None = None

    def open(self, deadline: Deadline) -> None:
        """Nothing."""

    def finish(self, error: BaseException | None) -> None:
        """Nothing: the server's own ``shutdown_request`` was called."""

    def drain(self) -> None:
        """Nothing: old handlers have no notion of it."""

    abort = drain

    def disown(self) -> None:
        """Another process has it."""
        if self.kind is Kind.STREAM:
            self.socket.close()


class _Dispatching:
    """One old server's requests, on their way to a dispatcher."""

    def __init__(self, server: Any, dispatcher: Dispatcher) -> None:
        def serve(request: Any) -> None:
            held = (request.data, request.socket) if request.kind is Kind.DATAGRAM else request.socket
            try:
                server.finish_request(held, request.peer)
            except Exception:
                server.handle_error(held, request.peer)
            finally:
                server.shutdown_request(held)

        plan = Plan(serve, contextvars.copy_context(), None, MAX_REQUESTS, DRAIN_TIMEOUT_S)
        self._engine = Engine(dispatcher, plan, Ledger(Observers()), ())

    def take(self, request: Any, client_address: Any) -> None:
        """Give one request to the dispatcher; blocks while that is full."""
        if isinstance(request, tuple):
            data, sock = request
            made = _LegacyRequest(Kind.DATAGRAM, sock, client_address, data)
        else:
            made = _LegacyRequest(Kind.STREAM, request, client_address)
        job = ServedJob(made, self._engine.service)
        self._engine.service.ledger.open(job)
        self._engine.dispatcher.dispatch(job)

    def end(self) -> None:
        """Wait for what is still served, up to `DRAIN_TIMEOUT_S`."""
        self._engine.end()
