"""`BaseServer`: the loop, and the documented steps of one request."""

from __future__ import annotations

import sys
import threading
from _thread import get_ident
from time import monotonic

from tricorn.accepting import PAUSE_S, Reaction, reaction_to
from tricorn.legacy.loop import Loop, default_selector, pause_after_shortage, wait_for_request
from tricorn.legacy.state import state_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["BaseServer"]


def _selector_class() -> Any:
    """What the facade's module says, for programs and tests that put another selector there."""
    return getattr(sys.modules.get("tricorn.socketserver"), "_ServerSelector", default_selector)


def _socket_timeout(server: Any) -> float | None:
    timeout: float | None = server.socket.gettimeout() if hasattr(server, "socket") else None
    return timeout


def _note(server: Any, error: OSError) -> None:
    """``get_request`` gave nothing: why, and what to do about it."""
    state = state_of(server)
    state.idle = True
    if reaction_to(error) is Reaction.PAUSE:
        state.resume_at = monotonic() + PAUSE_S


class BaseServer:
    """The root of the server classes: the loop and the order of the steps, for any source of requests.

    ``serve_forever`` or ``handle_request`` run the loop; ``get_request``, ``verify_request``, ``process_request``,
    ``finish_request``, ``shutdown_request``, ``close_request``, ``handle_error``, ``handle_timeout``,
    ``service_actions``, ``server_bind``, ``server_activate`` and ``server_close`` are for subclasses to override.
    Without a socket, overriding ``get_request`` is enough: raise `OSError` there when nothing is pending.
    """

    #: Seconds that ``handle_request`` waits; ``None`` for ever.  ``serve_forever`` does not look at it.
    timeout: Any = None

    def __init__(self, server_address: Any, RequestHandlerClass: Any) -> None:  # noqa: N803 - documented so
        self.server_address = server_address
        self.RequestHandlerClass = RequestHandlerClass
        self.__is_shut_down = threading.Event()
        self.__shutdown_request = False

    def server_activate(self) -> None:
        """Make ready to take requests; for subclasses."""

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Take requests until `shutdown`; ``service_actions`` is called after each, and each ``poll_interval`` s."""
        state = state_of(self)
        state.thread = get_ident()
        with state.lock:
            self.__is_shut_down.clear()
        try:
            with Loop(self, _selector_class()) as loop:
                while not self.__shutdown_request:
                    ready = loop.wait(poll_interval)
                    if self.__shutdown_request or (state.closed and loop.closed):
                        break  # not one request more, although one may be waiting
                    if ready:
                        self._handle_request_noblock()
                    self.service_actions()
        finally:
            with state.lock:
                self.__shutdown_request = False
                self.__is_shut_down.set()
            state.thread = 0

    def shutdown(self) -> None:
        """End ``serve_forever`` and wait until it has ended; in the serving thread itself, return at once.

        Before ``serve_forever`` it waits for one to begin, which then ends at once.
        """
        state = state_of(self)
        with state.lock:
            if self.__is_shut_down.is_set():
                return  # it has ended already; the next one is not to suffer from it
            self.__shutdown_request = True
        state.wake()
        if state.thread != get_ident():
            self.__is_shut_down.wait()

    def service_actions(self) -> None:
        """Called once in each turn of the loop; for subclasses."""

    def handle_request(self) -> Any:
        """Take one request; after the smaller of the socket's timeout and ``timeout``, call `handle_timeout`."""
        limits = [limit for limit in (_socket_timeout(self), self.timeout) if limit is not None]
        limit = max(0.0, min(limits)) if limits else None
        end = None if limit is None else monotonic() + limit
        pause_after_shortage(self, limit)
        while not wait_for_request(self, _selector_class(), None if end is None else max(0.0, end - monotonic())):
            if end is not None and monotonic() >= end:
                return self.handle_timeout()
        return self._handle_request_noblock()

    def _handle_request_noblock(self) -> None:
        """Take the request that is there, verify it, process it, and see to what goes wrong."""
        try:
            request, client_address = self.get_request()  # type: ignore[attr-defined]  # for subclasses to have
        except OSError as error:
            _note(self, error)
            return
        closed = False
        try:
            if not self.verify_request(request, client_address):
                return
            try:
                self.process_request(request, client_address)
                closed = True
            except Exception:
                self.handle_error(request, client_address)
        finally:
            if not closed:
                self.shutdown_request(request)

    def handle_timeout(self) -> Any:
        """Called by ``handle_request`` when no request came in time; for subclasses."""

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether to process the request; for subclasses."""
        return True

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve the request, here and now; the mix-ins do it elsewhere."""
        self.finish_request(request, client_address)
        self.shutdown_request(request)

    def server_close(self) -> None:
        """Give everything back; ends ``serve_forever`` too."""
        state = state_of(self)
        state.closed = True
        state.wake()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Serve the request by making an instance of the handler class."""
        self.RequestHandlerClass(request, client_address, self)

    def shutdown_request(self, request: Any) -> None:
        """Tell the peer that this is the end, and close."""
        self.close_request(request)

    def close_request(self, request: Any) -> None:
        """Give one request's resources back; for subclasses."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print what a request raised to standard error; for subclasses."""
        import traceback  # as late as the original: it is large, and a program that forks pays for it

        line = "-" * 40
        text = f"{line}\nException occurred during processing of request from {client_address}\n"
        print(f"{text}{traceback.format_exc()}{line}", file=sys.stderr)  # noqa: T201 - documented so

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *args: object) -> None:
        self.server_close()
